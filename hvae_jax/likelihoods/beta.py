"""Real data between 0 and 1, such as shares and rates: a Beta distribution for each element."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.distributions import finite_exp, soft_clamp, sum_event
from hvae_jax.likelihoods.base import Likelihood, check_bound, check_unit, describe, softplus
from hvae_jax.likelihoods.saddle_point import stirling_error
from hvae_jax.records import checked
from hvae_jax.runtime.prng import fused, split

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@struct.dataclass
class BetaRecord:
    """Independent Beta variables of mean m and concentration c: Beta(alpha = c m, beta = c (1 - m)).

    Attributes:
      logit: log(m/(1 - m)), `[B, *event]`.
      log_concentration: log c, `[B, *event]`; the variance is m (1 - m)/(1 + c).
      margin: as in `Beta`; the default is exact.
    """

    logit: Array
    log_concentration: Array
    margin: float = struct.field(pytree_node=False, default=0.0)

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """sum ((alpha - 1) log u + (beta - 1) log(1 - u) - log B(alpha, beta) + log(1 - 2 margin)), nats.

        u = margin + (1 - 2 margin) x. -inf where a value is outside (0, 1), or [0, 1] with a margin.
        """
        x = x.astype(self.logit.dtype)
        inside = (x > 0) & (x < 1) if self.margin == 0.0 else (x >= 0) & (x <= 1)
        x = jnp.where(inside, x, 0.5)
        width = 1.0 - 2.0 * self.margin
        # 1 - u from 1 - x, which is exact for x above 1/2, where u rounds to a number near 1
        log_u, log_v = jnp.log(self.margin + width * x), jnp.log(self.margin + width * (1.0 - x))
        log_m, log_n = -softplus(-self.logit), -softplus(self.logit)  # log m, log(1 - m)
        alpha, beta, c = self._shapes()
        # log B by Stirling's formula, whose large terms cancel those of the powers: -c KL((m, 1 - m) || (u, 1 - u))
        powers = alpha * (log_u - log_m) + beta * (log_v - log_n)
        stirling = stirling_error(c) - stirling_error(alpha) - stirling_error(beta)
        scale = 0.5 * (self.log_concentration + log_m + log_n) - _HALF_LOG_2PI
        log_p = powers + scale + stirling - log_u - log_v + math.log(width)
        return sum_event(jnp.where(inside, log_p, -jnp.inf))

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Float[Array, "batch ..."]:
        """Draws numbers of (0, 1), or [0, 1] with a margin; the temperature scales their distance from the mode."""
        alpha, beta, _ = self._shapes()
        key_a, key_b = split(key)
        # of the logarithms: where alpha and beta are small, most gamma variables are smaller than float32 has numbers
        log_a = jax.random.loggamma(fused(key_a), alpha)
        log_b = jax.random.loggamma(fused(key_b), beta)
        x = self._moved(jax.nn.sigmoid(log_a - log_b))
        if isinstance(temperature, float) and temperature == 1.0:
            return x
        return self._inside(self.mode + jnp.asarray(temperature, x.dtype) * (x - self.mode))

    @property
    def mean(self) -> Array:
        """m, or (m - margin)/(1 - 2 margin) in [0, 1]."""
        return self._moved(jax.nn.sigmoid(self.logit))

    @property
    def mode(self) -> Array:
        """(alpha - 1)/(c - 2) if alpha and beta are above 1; otherwise the end of higher density, 1 if alpha > beta."""
        alpha, beta, c = self._shapes()
        both = (alpha > 1) & (beta > 1)
        inner = (alpha - 1) / jnp.where(both, c - 2, 1.0)
        return self._moved(jnp.where(both, inner, (alpha > beta).astype(inner.dtype)))

    def _shapes(self) -> tuple[Array, Array, Array]:
        """alpha, beta and c: none is 0, however far the logit is."""
        log_m, log_n = -softplus(-self.logit), -softplus(self.logit)
        log_c = self.log_concentration
        return finite_exp(log_c + log_m), finite_exp(log_c + log_n), finite_exp(log_c)

    def _moved(self, u: Array) -> Array:
        """x of a variable u of the Beta distribution."""
        return self._inside((u - self.margin) / (1.0 - 2.0 * self.margin))

    def _inside(self, x: Array) -> Array:
        """x clipped to the values that have a density."""
        eps = float(jnp.finfo(x.dtype).epsneg) if self.margin == 0.0 else 0.0
        return jnp.clip(x, float(jnp.finfo(x.dtype).tiny) if eps else 0.0, 1.0 - eps)


@dataclasses.dataclass(frozen=True)
@checked
class Beta(Likelihood):
    """Real data between 0 and 1: the logit of the mean and the log concentration for each element.

    The density is 0 or infinite at the ends, so that 0 and 1 are refused unless there is a margin. Then u = margin +
    (1 - 2 margin) x is Beta, and its mass beyond the margins is not counted, so that the density of x integrates to
    less than 1, and -log p(x) is an upper bound. Draws beyond the margins become 0 and 1.

    Attributes:
      margin: distance from 0 and 1 that x = 0 and x = 1 are moved to; 0 is exact. Smithson & Verkuilen (2006) take
        1/(2 N) for N examples.
      bound: bound of the log concentration, soft-clamped to (-bound, bound), so that the density of a constant element
        cannot grow without limit; None allows what float32 has.

    Raises ValueError for a margin outside [0, 1/2), or a bound that is not positive and finite.

    Example:
        >>> record = hv.likelihoods.Beta(bound=None)(jnp.zeros((1, 1, 2)))  # the logit of the mean is 0
        >>> print(record.mean.round(3))
        [[0.5]]
    """

    margin: float = 0.0
    bound: float | None = 8.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.margin < 0.5:
            raise ValueError(f"Beta(margin={self.margin}): it has to be 0 or more and below 1/2.")
        check_bound(self)

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
        """Logit of the mean, and log concentration."""
        return 2

    def __call__(self, h: Array) -> BetaRecord:
        """`[B, *event, 2]` to a record."""
        log_c = h[..., 1] if self.bound is None else soft_clamp(h[..., 1], self.bound)
        return BetaRecord(h[..., 0], log_c, self.margin)

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a value outside (0, 1), or outside [0, 1] with a margin."""
        check_unit(x, "Beta()", name)
        bad = (x <= 0) | (x >= 1)
        if self.margin == 0.0 and bad.any():
            raise ValueError(
                f"{name} holds {describe(x, bad)}, but Beta() has no density at 0 and 1. Set its margin, such as "
                f"{0.5 / max(len(x), 1):.1g}, or use ContinuousBernoulli()."
            )
