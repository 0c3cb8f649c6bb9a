"""What a likelihood is: a frozen family that a model holds as a setting, and the record it makes of network output.

A family knows how many numbers it wants for each element of x (`parameters`), turns `[B, *event, parameters]` into a
record, and checks data (`check`). A record answers `log_prob(x) -> [B]` in nats, `sample(key)`, `mean` and `mode`.
"""

import abc
import math
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import Array


@runtime_checkable
class LikelihoodRecord(Protocol):
    """What everything downstream of a model may ask of p(x | z)."""

    def log_prob(self, x: Array) -> Array:
        """log p(x | z), summed over the event: `[B]`, nats."""
        ...

    def sample(self, key: Array) -> Array:
        """One x ~ p(x | z) for each example, `[B, *event]`."""
        ...

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
    @abc.abstractmethod
    def parameters(self) -> int:
        """Numbers from the network for each element of x."""

    @abc.abstractmethod
    def __call__(self, h: Array) -> LikelihoodRecord:
        """Network output `[B, *event, parameters]` to the record of p(x | z)."""

    @abc.abstractmethod
    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError if the family gives some value in `x` no probability at all."""

    def marginals(self, x: Array) -> Array | None:
        """Network output `[*event, parameters]` that gives each element the marginal it has in these examples.

        None where the family does not say.
        """
        return None


def clip_log(log_prob: Array, min_probability: float) -> Array:
    """Clips log probabilities as if the probabilities had been clipped to [eps, 1 - eps]; eps = 0 leaves them."""
    if min_probability == 0.0:
        return log_prob
    return jnp.clip(log_prob, math.log(min_probability), math.log1p(-min_probability))


def describe(x: np.ndarray, bad: np.ndarray) -> str:
    """The first offending value and where it is."""
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{x[where].item()!r} at index {where} ({int(bad.sum())} such value{'s' if bad.sum() > 1 else ''})"
