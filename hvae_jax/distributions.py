"""Diagonal Gaussians: the record, its KL, the clamps, and the merges that make posteriors out of priors.

Everything is elementwise and in nats; `sum_event` turns elementwise nats into nats per example. Scales are kept as
log standard deviations; a name that says `log_var` takes or gives a log variance, `log_var = 2 log_std`.
"""

import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Key, Num

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


def sum_event(values: Num[Array, "batch ..."]) -> Num[Array, " batch"]:
    """Sums over every axis but the first: elementwise nats to nats per example."""
    return values.reshape(values.shape[0], -1).sum(axis=1)


@struct.dataclass
class Normal:
    """A diagonal Gaussian N(mean, exp(log_std)^2), as a record.

    Attributes:
      mean: `[...]`.
      log_std: `[...]`, natural logarithm of the standard deviation, same shape as `mean`.
    """

    mean: Array
    log_std: Array

    @classmethod
    def from_log_var(cls, mean: Array, log_var: Array) -> "Normal":
        """N(mean, exp(log_var)), from a log variance."""
        return cls(mean, 0.5 * log_var)

    @classmethod
    def standard(cls, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> "Normal":
        """N(0, I) of the given shape. Its zeros are exact, so that float32 is right beside float64 too."""
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    @property
    def std(self) -> Array:
        """Standard deviation, exp(log_std)."""
        return jnp.exp(self.log_std)

    @property
    def log_var(self) -> Array:
        """Log variance, 2 log_std."""
        return 2.0 * self.log_std

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Array:
        """Draws z = mean + temperature * std * eps with eps ~ N(0, I), differentiable in mean and log_std.

        Args:
          key: consumed.
          temperature: broadcasts against `mean`; scales the standard deviation. 0 gives the mode exactly.
        Source: the reparameterisation of Kingma & Welling (2014), equation 10.
        """
        eps = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        scale = jnp.asarray(temperature, self.mean.dtype)
        return self.mean + scale * self.std * eps

    def log_prob(self, z: Array) -> Array:
        """log N(z; mean, std^2) = -log(2 pi)/2 - log_std - ((z - mean)/std)^2/2, elementwise nats."""
        standardised = (z - self.mean) * jnp.exp(-self.log_std)
        # In this order the constant is rounded to the dtype of z: the top prior stays float32 beside a float64 z.
        return -0.5 * standardised**2 - self.log_std - _HALF_LOG_2PI


def kl(q: Normal, p: Normal) -> Array:
    """KL(q || p) = (e^{2d} - 1)/2 - d + ((m_q - m_p)/s_p)^2/2 with d = log s_q - log s_p, elementwise nats.

    `expm1` keeps it accurate, and not negative beyond rounding, where q is close to p.
    Source: Kingma & Welling (2014), appendix B, for two general Gaussians.
    """
    d = q.log_std - p.log_std
    offset = (q.mean - p.mean) * jnp.exp(-p.log_std)
    return 0.5 * jnp.expm1(2.0 * d) - d + 0.5 * offset**2


def residual(prior: Normal, delta: Normal) -> Normal:
    """Residual merge: N(m_p + dm, (s_p ds)^2), the posterior as an offset from its prior.

    Args:
      prior: p(z | above).
      delta: what the bottom-up path says: `mean` is dm, `log_std` is log ds.
    Source: Vahdat & Kautz (2020), section 3.2; the article's top-down VAE, steps 4 and 6.
    """
    return Normal(prior.mean + delta.mean, prior.log_std + delta.log_std)


def kl_residual(prior: Normal, delta: Normal) -> Array:
    """KL(residual(prior, delta) || prior) = (dm^2/s_p^2 + ds^2 - log ds^2 - 1)/2, elementwise nats.

    Equal to `kl(residual(prior, delta), prior)`, without the cancellation of m_p in float32.
    Source: Vahdat & Kautz (2020), equation 2, as printed in the article.
    """
    scaled = delta.mean * jnp.exp(-prior.log_std)
    return 0.5 * (scaled**2 + jnp.expm1(2.0 * delta.log_std)) - delta.log_std


def precision_weighted(prior: Normal, evidence: Normal) -> Normal:
    """Precision-weighted merge: the normalised product prior * evidence of two Gaussians in z.

    With precisions 1/s^2: s_q^-2 = s_p^-2 + s_e^-2 and m_q = s_q^2 (m_p/s_p^2 + m_e/s_e^2), computed in log space,
    log s_q^2 = -logaddexp(-log s_p^2, -log s_e^2), so that no scale overflows. The weight of the evidence is the
    logistic sigmoid of the difference of log precisions.
    Source: Soenderby et al. (2016), equations 17 to 19.
    """
    log_var = -jnp.logaddexp(-prior.log_var, -evidence.log_var)
    weight = jax.nn.sigmoid(prior.log_var - evidence.log_var)
    return Normal(prior.mean + weight * (evidence.mean - prior.mean), 0.5 * log_var)


def hard_clamp(values: Float[Array, "..."], low: float, high: float) -> Float[Array, "..."]:
    """min(max(values, low), high): exact inside, no gradient outside (the article's hardtanh)."""
    return jnp.clip(values, low, high)


def soft_clamp(values: Float[Array, "..."], bound: float) -> Float[Array, "..."]:
    """bound * tanh(values / bound): inside (-bound, bound), slope 1 at 0 and never 0.

    Source: NVAE's soft clamp with bound 5 (Vahdat & Kautz, 2020, appendix).
    """
    return bound * jnp.tanh(values / bound)


def log_softplus(a: Float[Array, "..."]) -> Float[Array, "..."]:
    """log log(1 + e^a), which is a itself far below 0: the logarithm of a scale that grows no faster than linearly."""
    far = a < -15.0
    return jnp.where(far, a - 0.5 * jnp.exp(a), jnp.log(jax.nn.softplus(jnp.where(far, 0.0, a))))


# What makes a log variance of a network's output a: a itself, log(1 + e^a), tanh(a), or a within bounds.
LogVarHead = Literal["none", "softplus", "tanh", "clip"]


def log_variance(a: Float[Array, "..."], head: LogVarHead, clamp: tuple[float, float]) -> Float[Array, "..."]:
    """A log variance from a network's output. `clamp`: the bounds of "clip"."""
    match head:
        case "none":
            return a
        case "softplus":
            return jax.nn.softplus(a)
        case "tanh":
            return jnp.tanh(a)
    return hard_clamp(a, *clamp)


def check_log_var_head(owner: str, head: Any) -> None:
    """Raises ValueError for a head that is not known. `owner` is named in the error."""
    if head not in get_args(LogVarHead):
        raise ValueError(f"{owner}(log_var_head={head!r}): one of {', '.join(map(repr, get_args(LogVarHead)))}.")
