"""Real data with heavier tails than a Gaussian: a Laplace distribution for each element."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.distributions import finite_exp, sum_event
from hvae_jax.likelihoods.location_scale import LocatedRecord, LocationScale
from hvae_jax.records import checked
from hvae_jax.runtime.prng import fused

_LOG_2 = math.log(2.0)


@struct.dataclass
class LaplaceRecord(LocatedRecord):
    """Independent Laplace variables.

    Attributes:
      location: mean, median and mode, `[B, *event]`.
      log_scale: logarithm of the scale s, the mean of |x - location|, `[B, *event]`; the variance is 2 s^2.
    """

    location: Array
    log_scale: Array

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """-sum (|x - location|/s + log s + log 2), nats."""
        distance = jnp.abs(x - self.location) * finite_exp(-self.log_scale)
        return -sum_event(distance + self.log_scale + _LOG_2)

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Float[Array, "batch ..."]:
        """Draws real numbers; the temperature scales their distance from the location."""
        noise = jax.random.laplace(fused(key), self.location.shape, self.location.dtype)
        return self.location + jnp.asarray(temperature, noise.dtype) * finite_exp(self.log_scale) * noise


@dataclasses.dataclass(frozen=True)
@checked
class Laplace(LocationScale):
    """Real data: a location and a log scale for each element. Its maximum-likelihood location is a median.

    Attributes:
      bound: bound of log_scale, soft-clamped to (-bound, bound), so that the density of a constant element cannot grow
        without limit; None does not clamp it.

    Raises ValueError for a bound that is not positive and finite.

    Example:
        >>> record = hv.likelihoods.Laplace()(jnp.zeros((1, 1, 2)))
        >>> print(record.log_prob(jnp.ones((1, 1))).round(3))  # -|x|/s - log 2
        [-1.693]
    """

    bound: float | None = 5.0

    def __call__(self, h: Array) -> LaplaceRecord:
        """`[B, *event, 2]` to a record."""
        return LaplaceRecord(*self.location_and_log_scale(h))
