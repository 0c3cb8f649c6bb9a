"""Real data: a Gaussian for each element."""

import dataclasses

from flax import struct
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.distributions import Normal, sum_event
from hvae_jax.likelihoods.location_scale import LocationScale
from hvae_jax.records import checked


@struct.dataclass
class GaussianRecord:
    """Independent Gaussians.

    Attributes:
      normal: mean and log_std, `[B, *event]` each.
    """

    normal: Normal

    reparameterised = True

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """sum log N(x; mean, std^2), nats."""
        return sum_event(self.normal.log_prob(x))

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Float[Array, "batch ..."]:
        """Draws real numbers; the temperature scales the standard deviation."""
        return self.normal.sample(key, temperature)

    @property
    def mean(self) -> Array:
        """The mean."""
        return self.normal.mean

    @property
    def mode(self) -> Array:
        """The mean."""
        return self.normal.mean


@dataclasses.dataclass(frozen=True)
@checked
class Gaussian(LocationScale):
    """Real data: a mean and a log standard deviation for each element.

    Attributes:
      bound: bound of log_std, soft-clamped to (-bound, bound), so that the density of a constant element cannot grow
        without limit; None does not clamp it.

    Raises ValueError for a bound that is not positive and finite.

    Example:
        >>> record = hv.Gaussian()(jnp.zeros((1, 2, 2)))  # mean 0 and log_std 0, for two elements
        >>> print(record.log_prob(jnp.zeros((1, 2))).round(3))  # -log(2 pi)
        [-1.838]
    """

    bound: float | None = 5.0

    def __call__(self, h: Array) -> GaussianRecord:
        """`[B, *event, 2]` to a record."""
        return GaussianRecord(Normal(*self.location_and_log_scale(h)))
