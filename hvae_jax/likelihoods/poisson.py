"""Counts, one rate for each element."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float, Int, Key, Num

from hvae_jax.distributions import finite_exp, sum_event
from hvae_jax.likelihoods import counts
from hvae_jax.likelihoods.base import Likelihood, check_bound
from hvae_jax.likelihoods.saddle_point import log_poisson
from hvae_jax.records import checked


@struct.dataclass
class PoissonRecord:
    """Independent Poisson variables.

    Attributes:
      log_rate: logarithm of the mean, `[B, *event]`.
    """

    log_rate: Array

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """sum (x log rate - rate - log x!), nats; -inf where a value is no count."""
        log_p = log_poisson(x.astype(self.log_rate.dtype), self.log_rate)
        return sum_event(jnp.where(counts.is_count(x), log_p, -jnp.inf))

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Int[Array, "batch ..."]:
        """Draws counts, int32; the temperature scales their distance from the mode."""
        return counts.cooled(counts.sample_poisson(key, self.log_rate), self.mode, temperature)

    @property
    def mean(self) -> Array:
        """The rate."""
        return finite_exp(self.log_rate)

    @property
    def mode(self) -> Array:
        """floor(rate), int32; a whole rate and the count below it are equally probable."""
        return jnp.minimum(jnp.floor(self.mean), float(counts.LARGEST)).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
@checked
class Poisson(Likelihood):
    """Counts 0, 1, 2, ...: a rate for each element, whose logarithm is the network's output.

    The variance is the mean. Counts of repeated measurements vary more as a rule: see `NegativeBinomial`.

    Attributes:
      bound: bound of the log rate, soft-clamped to (-bound, bound); 20 allows rates from 2e-9 to 5e8. None allows those
        of float32.

    Raises ValueError for a bound that is not positive and finite.

    Example:
        >>> record = hv.likelihoods.Poisson()(jnp.zeros((1, 1, 1)))  # a rate of 1
        >>> print(record.log_prob(jnp.array([[3]])).round(3))  # -1 - log 3!
        [-2.792]
    """

    bound: float | None = 20.0

    def __post_init__(self) -> None:
        check_bound(self)

    @property
    def discrete(self) -> bool:
        """True: counts have no largest value."""
        return True

    @property
    def parameters(self) -> int:
        """The log rate."""
        return 1

    def __call__(self, h: Array) -> PoissonRecord:
        """`[B, *event, 1]` to a record."""
        return PoissonRecord(counts.clamped(h[..., 0], self.bound))

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a value that is no count."""
        counts.check_counts(x, "Poisson()", name)

    def marginals(self, x: Array) -> Array:
        """Log rates of the means over the examples, of half an event in all of them at least."""
        return counts.unclamped(counts.log_mean_of(x), self.bound)[..., None]

    def as_input(self, x: Array) -> Array:
        """log(1 + x)."""
        return counts.log_counts(x)
