"""What likelihoods of counts share: the check, the input of networks, the bound of logarithms, and Poisson samples."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int, Key

from hvae_jax.distributions import finite_exp, soft_clamp
from hvae_jax.likelihoods.base import describe
from hvae_jax.likelihoods.saddle_point import log_poisson
from hvae_jax.runtime.prng import fold_in, fused, split

LARGEST = 2**31 - 128
"""Largest count that is drawn: the largest int32 that float32 has."""
_INVERTED_BELOW = 10.0  # rate from which on the rejection is valid
_TERMS = 64  # P(x >= 64) is 1e-27 at a rate of 10


def check_counts(x: np.ndarray, family: str, name: str) -> None:
    """Raises ValueError for a value that is not one of 0, 1, 2, ...

    Args:
      family: how the family is written in an experiment, "Poisson()".
      name: name of x in the error.
    """
    bad = ~(np.isfinite(x) & (x >= 0) & (x == np.floor(x)))
    if bad.any():
        raise ValueError(
            f"{name} holds {describe(x, bad)}, but {family} allows counts only, the whole numbers from 0 on. Give raw "
            "counts, neither normalised nor as logarithms, or use Gaussian()."
        )


def is_count(x: Array) -> Array:
    """Whether each value is one of 0, 1, 2, ..."""
    return (x >= 0) & (x == jnp.floor(x)) if jnp.issubdtype(x.dtype, jnp.floating) else x >= 0


def log_counts(x: Array) -> Array:
    """log(1 + x), what networks see of counts; -log(1 - x) below 0, where the pseudo-inputs of a VampPrior may go."""
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def clamped(a: Array, bound: float | None) -> Array:
    """A logarithm, soft-clamped to (-bound, bound), or to those of float32's numbers for None."""
    if bound is not None:
        return soft_clamp(a, bound)
    return jnp.log(finite_exp(a))


def unclamped(value: Array, bound: float | None) -> Array:
    """The network output whose `clamped` is the value, taken no nearer than 1% to the bounds."""
    if bound is None:
        return value
    return bound * jnp.arctanh(jnp.clip(value / bound, -0.99, 0.99))


def log_mean_of(x: Array) -> Array:
    """Logarithms of the means over the examples, `[*event]`, of half an event at least: a mean of 0 has none."""
    n = x.shape[0]
    return jnp.log(jnp.maximum(x.astype(jnp.float32).mean(0), 0.5 / n))


def cooled(draw: Array, mode: Array, temperature: Array | float) -> Int[Array, "..."]:
    """mode + temperature (draw - mode), rounded to a count; temperature 1 is the draw, 0 the mode."""
    if isinstance(temperature, float) and temperature == 1.0:
        return draw
    # in the parts by which they differ: a float32 sum of counts above 2^24 is no whole number
    offset = jnp.rint(jnp.asarray(temperature, jnp.float32) * (draw - mode).astype(jnp.float32))
    room = (LARGEST - mode).astype(jnp.float32)
    return mode + jnp.clip(offset, -mode.astype(jnp.float32), room).astype(jnp.int32)


def sample_poisson(key: Key[Array, ""], log_rate: Float[Array, "..."]) -> Int[Array, "..."]:
    """Draws counts, int32, one for each rate, of keys of any kind.

    Rates below 10 by inversion, others by Hoermann's rejection with `log_poisson`, which holds in float32 where a
    difference of large logarithms does not. Draws above 2^24 are whole numbers of float32, whose steps are 2 and more
    there; `LARGEST` is the largest.

    Source: Hoermann (1993), "The transformed rejection method for generating Poisson random variables", algorithm PTRS.
    """
    rate = finite_exp(log_rate)
    small = rate < _INVERTED_BELOW
    low, high = split(key)
    inverted = _inverted(low, jnp.where(small, rate, 1.0))
    rejected = _rejected(high, jnp.where(small, 2.0 * _INVERTED_BELOW, rate), small)
    return jnp.minimum(jnp.where(small, inverted, rejected), float(LARGEST)).astype(jnp.int32)


def _inverted(key: Array, rate: Array) -> Array:
    """The number of k with P(x <= k) <= u, u uniform, among those whose P(x <= k) differs from that of k - 1.

    The sum of rounded terms may end below the largest u, and all further k would be counted.
    """
    u = jax.random.uniform(fused(key), rate.shape, rate.dtype)

    def add(k: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        term, before, x = carry
        below = before + term  # P(x <= k)
        return term * rate / (k + 1).astype(rate.dtype), below, x + ((u >= below) & (below > before))

    zero = jnp.zeros_like(rate)
    return lax.fori_loop(0, _TERMS, add, (jnp.exp(-rate), zero, zero))[2]


def _rejected(key: Array, rate: Array, done: Array) -> Array:
    """Draws where not `done`, until each is accepted: nine of ten at a time."""
    log_rate = jnp.log(rate)
    b = 0.931 + 2.53 * jnp.sqrt(rate)
    a = -0.059 + 0.02483 * b
    quick = 0.9277 - 3.6224 / (b - 2.0)
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)

    def propose(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        i, x, done = carry
        key_u, key_v = split(fold_in(key, i))
        u = jax.random.uniform(fused(key_u), rate.shape, rate.dtype) - 0.5
        v = jax.random.uniform(fused(key_v), rate.shape, rate.dtype, jnp.finfo(rate.dtype).tiny)
        us = 0.5 - jnp.abs(u)
        k = jnp.floor((2.0 * a / us + b) * u + rate + 0.43)
        outside = (k < 0.0) | ~(us > 0.0) | ((us < 0.013) & (v > us))
        log_u = jnp.log(v * inverse_alpha / (a / (us * us) + b))
        accepted = ((us >= 0.07) & (v <= quick)) | (log_u <= log_poisson(jnp.maximum(k, 0.0), log_rate))
        taken = ~done & ~outside & accepted
        return i + 1, jnp.where(taken, k, x), done | taken

    start = (jnp.uint32(0), jnp.zeros_like(rate), done)
    return lax.while_loop(lambda carry: ~carry[2].all(), propose, start)[1]
