"""Mutual information of x and the latents under the posterior, I_q(x; z), from the aggregated posterior. Nats."""

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
from hvae_jax.distributions import Known
from hvae_jax.trace import Model, Trace


@dataclasses.dataclass(frozen=True)
class Information:
    """I_q(x; z_l and all above it), one entry a level, top first: bounds from both sides, with standard errors.

    The last entry is that of all latents together. Entries are NaN where q(z_l and all above | x) has no density that
    can be computed: where one of these levels is `Known`, with all its mass on one value, or where the posterior of one
    depends on levels below l (bottom-up inference) or on random numbers that a network draws.

    Attributes:
      names: names of the levels.
      lower: lower bound, E[log q(z | x) - log 1/N sum_j q(z | x_j)] with x among the N examples, at most log N; nats.
      upper: upper bound, the same with the mean over the N - 1 other examples; nats.
      rates: summed rate of each level and all above it, on the same draws: I <= R; nats.
      lower_error, upper_error, rates_error: standard errors over the examples whose latents were drawn; nats.
      ceiling: log N, the largest value that `lower` can have; nats.
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
        """Lower and upper bound of KL(q(z) || p(z)) of the aggregated posterior, as R = I + KL: nats, top first."""
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

    log q(z | x_j) is a sum over levels, at each of `draws` latents for each of the N examples: draws * N descents. For
    examples of a larger population both bounds hold in expectation, lower <= I <= upper; if the N examples are the
    whole population, `lower` is I itself.

    Args:
      x: `[N, *event]`.
      draws: number of examples, the first ones, for which latents are drawn; at most N.
      y: labels `[N]`, for a model with classes.
      size: number of examples held in memory at once.
    Source: Hoffman & Johnson (2016), "ELBO surgery", for R = I + KL; Poole et al. (2019), equations 12 and 13, for the
      bounds.
    Raises ValueError for fewer than two examples, for one draw, which has no standard error, and for more draws than
    examples.
    """
    n = len(np.asarray(x))
    if n < 2:
        raise ValueError(f"information needs 2 examples or more to compare, but there are {n}.")
    if not 2 <= draws <= n:
        raise ValueError(
            f"information draws latents for the first draws={draws} examples (256 unless set), but x has {n}: set "
            f"draws to a number from 2 to {n}."
        )
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
    others[:, rows, rows] = -np.inf  # leaves x itself out of the sum
    upper = own - (_logsumexp(others) - math.log(n - 1))
    rates = np.cumsum(np.asarray(trace.rates, np.float64), axis=0)

    # A Known level has log q = 0 at every given value, although its mass is all on one value.
    known = np.cumsum([isinstance(level.q, Known) for level in trace.unstack()]) > 0
    hidden = known | ~_tractable(model, variables, first, trace.latents, key, few)
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
    """One trace of x, without p(x | z), which is not needed."""
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

    # [draws, L, N] to [L, draws, N]
    return jnp.moveaxis(jax.lax.map(of_one, latents), 1, 0)


def _tractable(model: Model, variables: Any, x: Any, latents: Any, key: Array, y: Any) -> np.ndarray:
    """Tests whether log q of each level and all above it depends only on these levels and x, bool `[L]`.

    The latents below and the key are replaced. With all latents given, log q depends on the key only if a network draws
    random numbers.
    """
    other_key = jax.random.fold_in(key, 1)
    real = np.asarray(_log_q(model, variables, x, latents, key, y))
    free = []
    for level in range(len(latents)):
        other = tuple(z if i <= level else jnp.roll(z, 1, axis=0) + jnp.ones_like(z) for i, z in enumerate(latents))
        moved = np.asarray(_log_q(model, variables, x, other, other_key, y))
        free.append(np.array_equal(moved[: level + 1], real[: level + 1]))
    return np.array(free)


@partial(jax.jit, static_argnames="model")
def _log_q(model: Model, variables: Any, x: Array, latents: Any, key: Array, y: Array | None) -> Array:
    """log q of each level at the given latents, `[L, B]`."""
    levels = model.apply(variables, x, key, y=y, latents=latents).unstack()
    return jnp.stack([level.log_q for level in levels])


def _logsumexp(values: np.ndarray) -> np.ndarray:
    """log sum exp over the last axis."""
    peak = values.max(-1, keepdims=True)
    return (peak + np.log(np.exp(values - peak).sum(-1, keepdims=True)))[..., 0]
