"""Mutual information of x and the latents under the posterior, I_q(x; z), by the aggregated posterior. Nats."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from hvae_jax.diagnostics.usage import standard_error
from hvae_jax.trace import Model, Trace


@dataclasses.dataclass(frozen=True)
class Information:
    """I_q(x; z_l and all above it), one entry a level, top first: bounds from both sides, with standard errors.

    The last entry is of all latents together. An entry is NaN where it cannot be had: the posterior of a level that
    reads those below it (bottom-up inference) has no density of its own that can be computed.

    Attributes:
      names: of the levels.
      lower: E[log q(z | x) - log 1/N sum_j q(z | x_j)], N examples of which x is one; never above log N.
      upper: the same with the sum over the N - 1 others.
      rates: of each level and all above it, on the same draws: I <= R.
      lower_error, upper_error, rates_error: standard errors over the examples whose latents were drawn.
      ceiling: log N.
    """

    names: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    rates: np.ndarray
    lower_error: np.ndarray
    upper_error: np.ndarray
    rates_error: np.ndarray
    ceiling: float

    @property
    def to_prior(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of KL(q(z) || p(z)), the aggregated posterior against the prior, since R = I + KL: nats, top first."""
        return self.rates - self.upper, self.rates - self.lower


def information(
    model: Model,
    variables: Any,
    x: ArrayLike,
    key: Array,
    draws: int = 256,
    y: ArrayLike | None = None,
    size: int = 4096,
) -> Information:
    """Estimates I_q(x; z) on N examples, cumulatively from the top.

    log q(z | x_j) is the sum of the levels' log densities at one z, over all N examples for each of `draws` latents:
    draws * N descents. With examples of a larger population both bounds hold in expectation, lower <= I <= upper; where
    the N examples are all there is, `lower` is I itself.

    Args:
      x: `[N, *event]`; y: labels for a model with classes, that belong to x.
      draws: how many of the examples have a latent drawn, the first ones; no more than N.
      size: examples held in memory at once.
    Source: Hoffman & Johnson (2016), "ELBO surgery", for R = I + KL; Poole et al. (2019), equations 12 and 13, for the
      bounds with a known conditional density.
    Raises ValueError for fewer than two examples, one draw, which has no standard error, or more draws than examples.
    """
    n = len(np.asarray(x))
    if n < 2:
        raise ValueError(f"information needs 2 examples or more to compare, but there are {n}.")
    if not 2 <= draws <= n:
        raise ValueError(f"information(draws={draws}): 2 to {n}, as many as there are examples.")
    first = np.asarray(x)[:draws]
    labels = None if y is None else np.asarray(y)
    few = None if labels is None else labels[:draws]
    trace = _draw(model, variables, first, key, few)
    names = trace.names

    blocks = [
        _densities(
            model,
            variables,
            np.asarray(x)[at : at + size],
            trace.latents,
            key,
            None if labels is None else labels[at : at + size],
        )
        for at in range(0, n, size)
    ]
    chain = np.cumsum(np.concatenate(blocks, axis=2), axis=0)  # [L, draws, N]
    rows = np.arange(draws)
    own = chain[:, rows, rows]
    lower = own - (_logsumexp(chain) - math.log(n))
    others = chain.copy()
    others[:, rows, rows] = -np.inf
    upper = own - (_logsumexp(others) - math.log(n - 1))
    rates = np.cumsum(np.asarray(trace.rates, np.float64), axis=0)

    hidden = ~_tractable(model, variables, first, trace.latents, key, few)
    for values in (lower, upper):
        values[hidden] = np.nan
    return Information(
        names,
        lower.mean(1),
        upper.mean(1),
        rates.mean(1),
        standard_error(lower),
        standard_error(upper),
        standard_error(rates),
        math.log(n),
    )


@partial(jax.jit, static_argnames="model")
def _draw(model: Model, variables: Any, x: Array, key: Array, y: Array | None) -> Trace:
    """One draw of all latents of each x."""
    return model.apply(variables, x, key, y=y).replace(x_dist=None)


def _densities(model: Model, variables: Any, x: Any, latents: Any, key: Array, y: Any) -> np.ndarray:
    """log q of each level at each latent given each x: `[L, draws, N]`."""
    return np.asarray(_densities_jitted(model, variables, x, latents, key, y), np.float64)


@partial(jax.jit, static_argnames="model")
def _densities_jitted(model: Model, variables: Any, x: Array, latents: Any, key: Array, y: Array | None) -> Array:
    def of_one(z: tuple[Array, ...]) -> Array:
        given = tuple(jnp.broadcast_to(one[None], (x.shape[0], *one.shape)) for one in z)
        levels = model.apply(variables, x, key, y=y, latents=given).unstack()
        return jnp.stack([level.log_q for level in levels])

    return jnp.moveaxis(jax.lax.map(of_one, latents), 1, 0)


def _tractable(model: Model, variables: Any, x: Any, latents: Any, key: Array, y: Any) -> np.ndarray:
    """Whether log q of each level and of all above it depends on nothing below: `[L]`, by looking."""
    real = np.asarray(_log_q(model, variables, x, latents, key, y))
    free = []
    for level in range(len(latents)):
        other = tuple(z if i <= level else jnp.roll(z, 1, axis=0) + 1.0 for i, z in enumerate(latents))
        moved = np.asarray(_log_q(model, variables, x, other, key, y))
        free.append(np.array_equal(moved[: level + 1], real[: level + 1]))
    return np.array(free)


@partial(jax.jit, static_argnames="model")
def _log_q(model: Model, variables: Any, x: Array, latents: Any, key: Array, y: Array | None) -> Array:
    """log q of each level at these latents: `[L, B]`."""
    levels = model.apply(variables, x, key, y=y, latents=latents).unstack()
    return jnp.stack([level.log_q for level in levels])


def _logsumexp(values: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    peak = values.max(-1, keepdims=True)
    return (peak + np.log(np.exp(values - peak).sum(-1, keepdims=True)))[..., 0]
