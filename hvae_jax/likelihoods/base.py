"""Likelihoods: a frozen family, which is a setting of a model, and the record it makes of network output.

A family has the number of parameters of each element of x (`parameters`), turns network output
`[B, *event, parameters]` into a record, and checks data (`check`). A record has `log_prob(x) -> [B]` in nats,
`sample(key)`, `mean` and `mode`. `channels` is the number of neighbouring channels that share one set of parameters, as
the colours of a pixel do in a mixture.
"""

import abc
import math
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import Array


@runtime_checkable
class LikelihoodRecord(Protocol):
    """The distribution p(x | z) of a batch: a pytree of `[B, ...]` arrays with these methods."""

    def log_prob(self, x: Array) -> Array:
        """log p(x | z), summed over the event: `[B]`, nats."""
        ...

    def sample(self, key: Array, temperature: Array | float = 1.0) -> Array:
        """x ~ p(x | z), one for each example, `[B, *event]`. Temperature 1 is the distribution itself, 0 its mode."""
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

    A base class and not a Protocol, because the command line checks the default of a setting against its annotation.
    """

    @property
    def channels(self) -> int:
        """Number of neighbours on the last axis of x that share one set of parameters; 1 gives each element its own."""
        return 1

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Smallest and largest value of an element of x; None for no bounds."""
        return None

    @property
    def discrete(self) -> bool:
        """Whether p(x | z) is a probability of whole numbers, as by default where there is a range; else a density."""
        return self.value_range is not None

    @property
    @abc.abstractmethod
    def parameters(self) -> int:
        """Number of network outputs for each element of x, or for each `channels` elements."""

    @abc.abstractmethod
    def __call__(self, h: Array) -> LikelihoodRecord:
        """Turns network output `[B, *event, parameters]` into the record of p(x | z).

        The last axis of `event` is divided by `channels`: `[B, H, W, 1, parameters]` where three colours share a set.
        """

    @abc.abstractmethod
    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError if the family gives some value in `x` probability 0."""

    def check_seen(self, seen: np.ndarray, name: str = "seen") -> None:
        """Raises ValueError if p(x_seen | z) or p(x_missing | x_seen, z) has no closed form for these elements.

        By default all masks are allowed, as independent elements do: those that are not seen are left out.

        Args:
          seen: which elements of x are seen, bool `[B, *event]`.
        """
        return

    @property
    def takes_missing(self) -> bool:
        """Whether x may hold NaN, which stands for a missing value."""
        return False

    def marginals(self, x: Array) -> Array | None:
        """Network output `[*event, parameters]` whose distribution has the marginals of these examples.

        None if the family does not know one.
        """
        return None

    def as_input(self, x: Array) -> Array:
        """x as the input of a network: whole numbers scaled to -1 to 1, other values unchanged."""
        return x

    def outputs(self, channels: int) -> int:
        """Number of network outputs for each pixel of an image with this many channels.

        Raises ValueError if `channels` is no multiple of the number of channels that share a set of parameters.
        """
        if channels < 1 or channels % self.channels:
            raise ValueError(
                f"{self} takes {self.channels} channels together, but x has {channels}: set channels={channels}, or "
                "give images with other channels."
            )
        return channels // self.channels * self.parameters

    def from_map(self, h: Array) -> LikelihoodRecord:
        """Turns a network's output feature map, `[B, H, W, outputs(C)]`, into p(x | z) of x `[B, H, W, C]`."""
        return self(h.reshape(*h.shape[:-1], -1, self.parameters))  # [B, H, W, C / channels, parameters]


def softplus(a: Array) -> Array:
    """log(1 + e^a), on a CPU twice as fast as `jax.nn.softplus`, which handles cases that do not arise here."""
    # min(a, -a) and not -|a|, whose derivative at 0 is -1 in JAX: that of the sum would be 0 there, and not 1/2
    return jnp.maximum(a, 0.0) + jnp.log1p(jnp.exp(jnp.minimum(a, -a)))


def check_whole(x: np.ndarray, num_values: int, family: str, name: str) -> None:
    """Raises ValueError for a value that is not one of 0..num_values-1.

    Args:
      num_values: number of values that the family allows.
      family: how the family is written in an experiment, with "{}" for the number of values: "Categorical({})".
      name: name of x in the error.
    """
    bad = ~((x >= 0) & (x < num_values) & (x == np.floor(x)))
    if bad.any():
        whole = bool(np.isfinite(x).all() and (x == np.floor(x)).all() and x.min() >= 0)
        hint = f"Use {family.format(int(x.max()) + 1)}" if whole else "Quantise the data, or use Gaussian()"
        raise ValueError(
            f"{name} holds {describe(x, bad)}, but {family.format(num_values)} allows the whole numbers "
            f"0..{num_values - 1} only. {hint}."
        )


def check_bound(family: Any) -> None:
    """Raises ValueError, naming the family, for a `bound` that is neither None nor positive and finite."""
    if family.bound is not None and not 0.0 < family.bound < math.inf:
        name = type(family).__name__
        raise ValueError(f"{name}(bound={family.bound}): it has to be positive and finite, or None for no bound.")


def check_least(family: Any) -> None:
    """Raises ValueError, naming the family, for a `min_probability` outside [0, 1/2)."""
    if not 0.0 <= family.min_probability < 0.5:
        name = type(family).__name__
        raise ValueError(f"{name}(min_probability={family.min_probability}): it has to be 0 or more and below 1/2.")


def check_unit(x: np.ndarray, family: str, name: str) -> None:
    """Raises ValueError for a value outside [0, 1].

    Args:
      family: how the family is written in an experiment, "Beta()".
      name: name of x in the error.
    """
    bad = ~((x >= 0) & (x <= 1))
    if bad.any():
        raise ValueError(
            f"{name} holds {describe(x, bad)}, but {family} allows values in [0, 1] only. Scale the data, or use "
            "Gaussian()."
        )


def describe(x: np.ndarray, bad: np.ndarray) -> str:
    """Describes the first bad value, its index and the number of bad values, for an error message."""
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{x[where].item()!r} at index {where} ({int(bad.sum())} such value{'s' if bad.sum() > 1 else ''})"
