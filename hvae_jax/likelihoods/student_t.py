"""Real data with outliers: Student's t distribution for each element."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.distributions import finite_exp, soft_clamp, sum_event
from hvae_jax.likelihoods.location_scale import LocatedRecord, LocationScale
from hvae_jax.likelihoods.saddle_point import log_gamma_half_step
from hvae_jax.records import checked
from hvae_jax.runtime.prng import fused, split

_HALF_LOG_PI = 0.5 * math.log(math.pi)
_SQUARED = 1e15  # largest number whose square is taken


@struct.dataclass
class StudentTRecord(LocatedRecord):
    """Independent Student's t variables.

    Attributes:
      location: mean, median and mode, `[B, *event]`.
      log_scale: logarithm of the scale s, `[B, *event]`; the variance is s^2 nu/(nu - 2), infinite for nu <= 2.
      degrees: degrees of freedom nu, above 1, `[B, *event]`.
    """

    location: Array
    log_scale: Array
    degrees: Array

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """log p(x | z), nats, with t = (x - location)/s.

        sum (log Gamma((nu + 1)/2) - log Gamma(nu/2) - log(pi nu)/2 - log s - (nu + 1)/2 log(1 + t^2/nu))
        """
        nu = self.degrees
        t = jnp.abs(x - self.location) * finite_exp(-self.log_scale)
        # where t^2 would overflow the 1 does not count; each branch gets an argument it can take
        large = t > _SQUARED
        square = jnp.log1p(jnp.where(large, 1.0, t) ** 2 / nu)
        tail = jnp.where(large, 2.0 * jnp.log(jnp.where(large, t, 1.0)) - jnp.log(nu), square)
        constant = log_gamma_half_step(0.5 * nu) - _HALF_LOG_PI - 0.5 * jnp.log(nu)
        return sum_event(constant - self.log_scale - 0.5 * (nu + 1.0) * tail)

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Float[Array, "batch ..."]:
        """Draws real numbers: normal noise over the root of a gamma variable of shape nu/2 and mean 1.

        The temperature scales their distance from the location.
        """
        key_normal, key_gamma = split(key)
        nu, shape, dtype = self.degrees, self.location.shape, self.location.dtype
        normal = jax.random.normal(fused(key_normal), shape, dtype)
        log_gamma = jax.random.loggamma(fused(key_gamma), 0.5 * nu, shape, dtype) - jnp.log(0.5 * nu)
        noise = normal * jnp.exp(-0.5 * log_gamma)
        return self.location + jnp.asarray(temperature, dtype) * finite_exp(self.log_scale) * noise


@dataclasses.dataclass(frozen=True)
@checked
class StudentT(LocationScale):
    """Real data: a location and a log scale for each element, and its degrees of freedom.

    Far from the location the score grows as a logarithm, so that an outlier pulls on the model no more than a value
    nearby.

    Attributes:
      degrees: degrees of freedom nu of all elements, above 1, where the mean exists; None makes 1 + e^a of one more
        network output a, soft-clamped as log_scale is.
      bound: bound of log_scale, soft-clamped to (-bound, bound), so that the density of a constant element cannot grow
        without limit; None does not clamp it, and bounds a by 20.

    Raises ValueError for degrees of 1 or less or infinitely many, and for a bound that is not positive and finite.

    Example:
        >>> record = hv.likelihoods.StudentT(degrees=3.0)(jnp.zeros((1, 1, 2)))
        >>> print(jnp.exp(record.log_prob(jnp.zeros((1, 1)))).round(3))  # 2/(pi sqrt(3)) at the location
        [0.368]
    """

    degrees: float | None = 5.0
    bound: float | None = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.degrees is not None and not 1.0 < self.degrees < math.inf:
            raise ValueError(
                f"StudentT(degrees={self.degrees}): it has to be finite and above 1, or None for a network output each."
            )

    @property
    def parameters(self) -> int:
        """Location and log_scale, and without fixed degrees their logarithm above 1."""
        return 2 if self.degrees is not None else 3

    def __call__(self, h: Array) -> StudentTRecord:
        """`[B, *event, parameters]` to a record."""
        location, log_scale = self.location_and_log_scale(h)
        if self.degrees is not None:
            return StudentTRecord(location, log_scale, jnp.full_like(location, self.degrees))
        return StudentTRecord(location, log_scale, 1.0 + jnp.exp(soft_clamp(h[..., 2], self.bound or 20.0)))
