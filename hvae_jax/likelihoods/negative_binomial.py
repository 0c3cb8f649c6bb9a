"""Counts that vary more than a Poisson variable, with or without additional zeros."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float, Int, Key, Num

from hvae_jax.distributions import finite_exp, sum_event
from hvae_jax.likelihoods import counts
from hvae_jax.likelihoods.base import Likelihood, check_bound, softplus
from hvae_jax.likelihoods.saddle_point import log_negative_binomial
from hvae_jax.records import checked
from hvae_jax.runtime.prng import fused, split

_FIRST_ZERO_LOGIT = -3.0  # at initialisation one zero in twenty is additional


@struct.dataclass
class NegativeBinomialRecord:
    """Independent negative binomial variables: Poisson variables whose rate is Gamma(size r, mean m).

    Attributes:
      log_mean: log m, `[B, *event]`.
      log_size: log r, `[B, *event]`; the variance is m + m^2/r.
      zero_logit: log(w/(1 - w)), w the probability that the value is 0 whatever m is, `[B, *event]`; None for w = 0.
    """

    log_mean: Array
    log_size: Array
    zero_logit: Array | None = None

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """sum log NB(x; m, r), nats; -inf where a value is no count.

        With additional zeros log(w + (1 - w) NB(0)) at 0, and log(1 - w) + log NB(x) elsewhere.
        """
        return sum_event(jnp.where(counts.is_count(x), self._log_p(x), -jnp.inf))

    def _log_p(self, x: Array) -> Array:
        """log p(x), elementwise."""
        log_p = log_negative_binomial(x.astype(self.log_mean.dtype), self.log_mean, self.log_size)
        if self.zero_logit is None:
            return log_p
        log_not_zero = -softplus(self.zero_logit)  # log(1 - w)
        log_p = log_p + log_not_zero
        return jnp.where(x == 0, jnp.logaddexp(self.zero_logit + log_not_zero, log_p), log_p)

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Int[Array, "batch ..."]:
        """Draws counts, int32: a gamma rate, then its Poisson variable.

        The temperature scales their distance from the mode.
        """
        key_rate, key_count, key_zero = split(key, 3)
        # of the logarithm: where r is small, most rates are smaller than float32 has numbers
        log_gamma = jax.random.loggamma(fused(key_rate), finite_exp(self.log_size))
        x = counts.sample_poisson(key_count, log_gamma + self.log_mean - self.log_size)
        if self.zero_logit is not None:
            zero = jax.random.bernoulli(fused(key_zero), jax.nn.sigmoid(self.zero_logit))
            x = jnp.where(zero, 0, x)
        return counts.cooled(x, self.mode, temperature)

    @property
    def mean(self) -> Array:
        """(1 - w) m."""
        mean = finite_exp(self.log_mean)
        return mean if self.zero_logit is None else jax.nn.sigmoid(-self.zero_logit) * mean

    @property
    def mode(self) -> Array:
        """floor(m (r - 1)/r) if r > 1, otherwise 0, int32; 0 where the additional zeros make it more probable."""
        inner = jnp.floor(finite_exp(self.log_mean) * jnp.maximum(1.0 - finite_exp(-self.log_size), 0.0))
        mode = jnp.minimum(inner, float(counts.LARGEST)).astype(jnp.int32)
        if self.zero_logit is None:
            return mode
        return jnp.where(self._log_p(mode) > self._log_p(jnp.zeros_like(mode)), mode, 0)


@dataclasses.dataclass(frozen=True)
@checked
class NegativeBinomial(Likelihood):
    """Counts 0, 1, 2, ...: the logarithms of mean m and size r for each element; the variance is m + m^2/r.

    Attributes:
      zeros: whether the network also gives the probability of a value that is 0 whatever the mean is: the
        zero-inflated distribution w [x = 0] + (1 - w) NB(x).
      bound: bound of log m and log r, soft-clamped to (-bound, bound); None allows those of float32.

    Source: the likelihoods of scVI (Lopez et al., 2018), "nb" and "zinb", without its library size.
    Raises ValueError for a bound that is not positive and finite.

    Example:
        >>> record = hv.likelihoods.NegativeBinomial()(jnp.zeros((1, 1, 2)))  # m = r = 1
        >>> print(record.log_prob(jnp.array([[0]])).round(3))  # r log(r/(r + m))
        [-0.693]
    """

    zeros: bool = False
    bound: float | None = 20.0

    def __post_init__(self) -> None:
        check_bound(self)

    @property
    def discrete(self) -> bool:
        """True: counts have no largest value."""
        return True

    @property
    def parameters(self) -> int:
        """log m and log r, and with `zeros` the logit of w."""
        return 3 if self.zeros else 2

    def __call__(self, h: Array) -> NegativeBinomialRecord:
        """`[B, *event, parameters]` to a record."""
        log_mean, log_size = (counts.clamped(h[..., i], self.bound) for i in range(2))
        return NegativeBinomialRecord(log_mean, log_size, h[..., 2] if self.zeros else None)

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a value that is no count."""
        counts.check_counts(x, "NegativeBinomial()", name)

    def marginals(self, x: Array) -> Array:
        """log m of the means over the examples, and the log r at which the variance is theirs, from 0.1 to 1,000.

        With `zeros`, w starts at 0.05.
        """
        log_mean, variance = counts.log_mean_of(x), x.astype(jnp.float32).var(0)
        mean = jnp.exp(log_mean)
        excess = jnp.maximum((variance - mean) / mean**2, 0.0)  # 1/r
        parts = [log_mean, -jnp.log(jnp.clip(excess, 1e-3, 10.0))]
        h = [counts.unclamped(part, self.bound) for part in parts]
        return jnp.stack([*h, *([jnp.full_like(mean, _FIRST_ZERO_LOGIT)] if self.zeros else [])], axis=-1)

    def as_input(self, x: Array) -> Array:
        """log(1 + x)."""
        return counts.log_counts(x)
