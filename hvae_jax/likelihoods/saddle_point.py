"""Log probabilities of counts in Loader's form, whose terms are small where the probability is large.

log Gamma(x + 1) and x log rate are 1.3e7 at a count of a million, where float32 has steps of 1: their difference, -8 at
the mode, would be lost. Here the parts that cancel are left out by algebra.

Source: Loader (2000), "Fast and accurate computation of binomial probabilities", which R uses.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_SERIES_FROM = 8.0  # the first term left out of the series is 6e-12 there


def stirling_error(x: Array) -> Array:
    """log Gamma(x + 1) - (x + 1/2) log x + x - log(2 pi)/2, the error of Stirling's formula, for x > 0.

    It falls from infinity at 0, as -log(x)/2, to 1/(12 x).
    """
    small = x < _SERIES_FROM
    # each branch gets an argument it can take: the gradient of a branch that is not chosen would be NaN
    a, b = jnp.where(small, x, 1.0), jnp.where(small, _SERIES_FROM, x)
    direct = jax.lax.lgamma(a + 1.0) - (a + 0.5) * jnp.log(a) + a - _HALF_LOG_2PI
    w = 1.0 / (b * b)
    series = (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - w / 1680.0) * w) * w) / b
    return jnp.where(small, direct, series)


def log_gamma_half_step(a: Array) -> Array:
    """log Gamma(a + 1/2) - log Gamma(a), for a > 0: log(a)/2 - 1/(8 a) + 1/(192 a^3) - ..."""
    small = a < _SERIES_FROM
    low, high = jnp.where(small, a, 1.0), jnp.where(small, _SERIES_FROM, a)
    direct = jax.lax.lgamma(low + 0.5) - jax.lax.lgamma(low)
    w = 1.0 / (high * high)
    # the next term is 31/(18432 a^9): 1e-11 at 8
    series = 0.5 * jnp.log(high) - (1.0 / 8.0 - (1.0 / 192.0 - (1.0 / 640.0 - 17.0 / 14336.0 * w) * w) * w) / high
    return jnp.where(small, direct, series)


def half_deviance(x: Array, log_ratio: Array) -> Array:
    """x log(x/m) + m - x = x (e^t - 1 - t), with t = log(m/x): 0 where m = x, positive elsewhere."""
    return x * (jnp.expm1(log_ratio) - log_ratio)


def log_poisson(x: Array, log_rate: Array) -> Array:
    """log e^-rate rate^x / x!, nats, for whole x from 0 on; the rate is finite.

    For x > 0 it is -log(2 pi x)/2 - stirling_error(x) - half_deviance(x, rate). In float32 the error is about
    sqrt(x) log(x) 6e-8 nats at one standard deviation: 1e-3 at a million.
    """
    positive = x > 0
    a = jnp.where(positive, x, 1.0)
    log_a = jnp.log(a)
    saddle = -_HALF_LOG_2PI - 0.5 * log_a - stirling_error(a) - half_deviance(a, log_rate - log_a)
    return jnp.where(positive, saddle, -jnp.exp(log_rate))


def log_negative_binomial(x: Array, log_mean: Array, log_size: Array) -> Array:
    """log of Gamma(x + r)/(Gamma(r) x!) (r/(r + m))^r (m/(r + m))^x, nats, for whole x from 0 on.

    Args:
      x: counts.
      log_mean: log m.
      log_size: log r; the variance is m + m^2/r, and r to infinity gives the Poisson distribution.

    For x > 0, with n = x + r, this is r/n times a binomial probability of r among n, whose form is that of
    `log_poisson` with a deviance for r and one for x.
    """
    positive = x > 0
    a = jnp.where(positive, x, 1.0)
    mean, r = jnp.exp(log_mean), jnp.exp(log_size)
    n, log_a = a + r, jnp.log(a)
    # s = log (x + r)/(m + r). Near 0 from the difference x - m, since r may be larger than either by many digits;
    # elsewhere as a difference of logarithms, since 1 + y has lost its digits near y = -1
    y = (a - mean) / (mean + r)
    near = (y > -0.5) & (y < 1.0)
    s = jnp.where(near, jnp.log1p(jnp.where(near, y, 0.0)), jnp.log(n) - jnp.log(mean + r))
    scale = 0.5 * (log_size - jnp.log(n) - log_a) - _HALF_LOG_2PI
    stirling = stirling_error(n) - stirling_error(r) - stirling_error(a)
    saddle = scale + stirling - half_deviance(r, s) - half_deviance(a, s + log_mean - log_a)
    return jnp.where(positive, saddle, -r * jnp.logaddexp(0.0, log_mean - log_size))
