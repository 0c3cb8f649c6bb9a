"""What a likelihood is: a frozen family that a model holds as a setting, and the record it makes of network output.

A family knows how many numbers it wants for each element of x (`parameters`), turns `[B, *event, parameters]` into a
record, and checks data (`check`). A record answers `log_prob(x) -> [B]` in nats, `sample(key)`, `mean` and `mode`.
Where neighbouring channels share their numbers, the colours of a pixel in a mixture, `channels` says how many do.
"""

import abc
import math
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import Array


@runtime_checkable
class LikelihoodRecord(Protocol):
    """What everything downstream of a model may ask of p(x | z)."""

    def log_prob(self, x: Array) -> Array:
        """log p(x | z), summed over the event: `[B]`, nats."""
        ...

    def sample(self, key: Array, temperature: Array | float = 1.0) -> Array:
        """One x ~ p(x | z) for each example, `[B, *event]`. Temperature 1 is the distribution itself, 0 its mode."""
        ...

    if TYPE_CHECKING:  # isinstance would compute properties, and an expectation may be a loop

        @property
        def mean(self) -> Array:
            """E[x | z], `[B, *event]`, float."""
            ...

        @property
        def mode(self) -> Array:
            """The most probable value of each element, `[B, *event]`."""
            ...


class Likelihood(abc.ABC):
    """A family of likelihoods: a frozen, hashable setting of a model.

    A base class and not a Protocol because a command line asks of a setting's default which family it is.
    """

    @property
    def channels(self) -> int:
        """How many neighbours on the last axis of x share one set of parameters. 1: each element has its own."""
        return 1

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Smallest and largest value of an element of x; None where there are no bounds."""
        return None

    @property
    @abc.abstractmethod
    def parameters(self) -> int:
        """Numbers from the network for each element of x, or for each `channels` of them."""

    @abc.abstractmethod
    def __call__(self, h: Array) -> LikelihoodRecord:
        """Network output `[B, *event, parameters]` to the record of p(x | z).

        The last axis of `event` is divided by `channels`: `[B, H, W, 1, parameters]` for three of three colours.
        """

    @abc.abstractmethod
    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError if the family gives some value in `x` no probability at all."""

    def marginals(self, x: Array) -> Array | None:
        """Network output `[*event, parameters]` that gives each element the marginal it has in these examples.

        None where the family does not say.
        """
        return None

    def as_input(self, x: Array) -> Array:
        """x as a network may want to see it: whole numbers as reals from -1 to 1, others as they are."""
        return x

    def outputs(self, channels: int) -> int:
        """Numbers for each pixel of an image of so many channels: those of a network's last map.

        Raises ValueError where `channels` is no multiple of how many share a set of parameters.
        """
        if channels < 1 or channels % self.channels:
            raise ValueError(
                f"{self} takes {self.channels} channels together, but x has {channels}: set channels={channels}, or "
                "give images of other channels."
            )
        return channels // self.channels * self.parameters

    def from_map(self, h: Array) -> LikelihoodRecord:
        """A network's last map `[B, H, W, outputs(C)]` to the record of p(x | z), x `[B, H, W, C]`."""
        return self(h.reshape(*h.shape[:-1], -1, self.parameters))


def clip_log(log_prob: Array, min_probability: float) -> Array:
    """Clips log probabilities as if the probabilities had been clipped to [eps, 1 - eps]; eps = 0 leaves them."""
    if min_probability == 0.0:
        return log_prob
    return jnp.clip(log_prob, math.log(min_probability), math.log1p(-min_probability))


def check_whole(x: np.ndarray, num_values: int, family: str, name: str) -> None:
    """Raises ValueError for a value that is not one of 0..num_values-1.

    Args:
      family: how it is written with a number of values in place of "{}", as in "Categorical({})".
    """
    bad = ~((x >= 0) & (x < num_values) & (x == np.floor(x)))
    if bad.any():
        whole = bool(np.isfinite(x).all() and (x == np.floor(x)).all() and x.min() >= 0)
        hint = f"Use {family.format(int(x.max()) + 1)}" if whole else "Quantise the data, or use Gaussian()"
        raise ValueError(
            f"{name} holds {describe(x, bad)}, but {family.format(num_values)} allows the whole numbers "
            f"0..{num_values - 1} only. {hint}."
        )


def describe(x: np.ndarray, bad: np.ndarray) -> str:
    """The first offending value and where it is."""
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{x[where].item()!r} at index {where} ({int(bad.sum())} such value{'s' if bad.sum() > 1 else ''})"
