"""Real data from 0 to 1, both included: a continuous Bernoulli distribution for each element."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.distributions import sum_event
from hvae_jax.likelihoods.base import Likelihood, check_unit
from hvae_jax.records import checked
from hvae_jax.runtime.prng import fused


@struct.dataclass
class ContinuousBernoulliRecord:
    """Independent continuous Bernoulli variables, with density e^(x l)/Z on [0, 1], Z = (e^l - 1)/l.

    Attributes:
      logits: l, the logarithm of the density at 1 over that at 0, `[B, *event]`; 0 is the uniform distribution.
    """

    logits: Array

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """sum (x l - log Z), nats; -inf where a value is outside [0, 1]."""
        x = x.astype(self.logits.dtype)
        # about the middle of the interval, where Z is even in l: x l - log Z = (x - 1/2) l - log(sinh(l/2)/(l/2))
        log_p = (x - 0.5) * self.logits - log_sinhc(0.5 * self.logits)
        return sum_event(jnp.where((x >= 0) & (x <= 1), log_p, -jnp.inf))

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Float[Array, "batch ..."]:
        """Draws numbers of [0, 1] by inversion; the temperature scales their distance from the mode."""
        u = jax.random.uniform(fused(key), self.logits.shape, self.logits.dtype)
        rate = jnp.abs(self.logits)
        steep = rate > 1e-4  # else the density is uniform, to the precision of u
        safe = jnp.where(steep, rate, 1.0)
        fallen = -jnp.log1p(u * jnp.expm1(-safe)) / safe  # of a density that falls from 0 to 1
        x = jnp.clip(jnp.where(steep, fallen, u), 0.0, 1.0)
        x = jnp.where(self.logits > 0, 1.0 - x, x)
        if isinstance(temperature, float) and temperature == 1.0:
            return x
        return jnp.clip(self.mode + jnp.asarray(temperature, x.dtype) * (x - self.mode), 0.0, 1.0)

    @property
    def mean(self) -> Array:
        """d log Z/d l = 1/2 + coth(l/2)/2 - 1/l."""
        return 0.5 + 0.5 * jax.grad(lambda u: log_sinhc(u).sum())(0.5 * self.logits)

    @property
    def mode(self) -> Array:
        """1 where l > 0, otherwise 0: the density falls towards the other end."""
        return (self.logits > 0).astype(self.logits.dtype)


def log_sinhc(u: Array) -> Array:
    """log(sinh(u)/u), 0 at 0; its derivative is coth(u) - 1/u. Within float32's rounding everywhere."""
    small = jnp.abs(u) < 0.7
    v = jnp.where(small, u, 0.0) ** 2
    # the next term is u^10/467775: 6e-8 at 0.7
    series = v * (1.0 / 6.0 - v * (1.0 / 180.0 - v * (1.0 / 2835.0 - v / 37800.0)))
    a = jnp.where(small, 1.0, jnp.abs(u))
    return jnp.where(small, series, a + jnp.log(-jnp.expm1(-2.0 * a)) - jnp.log(2.0 * a))


@dataclasses.dataclass(frozen=True)
@checked
class ContinuousBernoulli(Likelihood):
    """Real data from 0 to 1, both included, such as grey values over their maximum; one logit for each element.

    What `Bernoulli` scores of such values is a cross-entropy; this is its density, with the normaliser that it lacks.

    Source: Loaiza-Ganem & Cunningham (2019), "The continuous Bernoulli: fixing a pervasive error in variational
    autoencoders", whose lambda is sigmoid(l).

    Example:
        >>> record = hv.likelihoods.ContinuousBernoulli()(jnp.array([[[2.0], [-2.0]]]))  # two logits
        >>> print(record.mode)
        [[1. 0.]]
    """

    @property
    def value_range(self) -> tuple[float, float]:
        """0 to 1."""
        return 0.0, 1.0

    @property
    def discrete(self) -> bool:
        """False."""
        return False

    @property
    def parameters(self) -> int:
        """One logit."""
        return 1

    def __call__(self, h: Array) -> ContinuousBernoulliRecord:
        """`[B, *event, 1]` to a record."""
        return ContinuousBernoulliRecord(h[..., 0])

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a value outside [0, 1]."""
        check_unit(x, "ContinuousBernoulli()", name)
