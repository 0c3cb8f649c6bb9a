"""Mutual information of x and the latents under the posterior, I_q(x; z), from the aggregated posterior. Nats."""

import dataclasses
import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.diagnostics.usage import standard_error
from hvae_jax.distributions import Known, beside
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.runtime.compilation import jit
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
    """Estimate I_q(x; z) on N examples, cumulatively from the top.

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

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> found = hv.diagnostics.information(model, variables, x, jax.random.key(2), draws=3)
        >>> found.names, bool((abs(found.lower) < 1e-3).all())  # three equal x: z does not tell them apart
        (('z2', 'z1'), True)
    """
    n = len(np.asarray(x))
    if n < 2:
        raise ValueError(f"information needs 2 examples or more to compare, but there are {n}.")
    if not 2 <= draws <= n:
        raise ValueError(
            f"information draws latents for the first draws={draws} examples (256 unless set), but x has {n}: set "
            f"draws to a number from 2 to {n}."
        )
    x = np.asarray(x)
    labels = None if y is None else np.asarray(y)
    run = _program()
    trace = jit(partial(_draw, model))(variables, x[:draws], key, None if labels is None else labels[:draws])
    names, latents = trace.names, trace.latents

    def log_q(block: slice, one: ArrayLike, other: Any, kept: ArrayLike, key: Array) -> np.ndarray:
        """log q of each level for the examples of a block, `[L, B]`, by the one program there is."""
        y = None if labels is None else labels[block]
        return np.asarray(run(model, variables, x[block], y, latents, other, np.asarray(one), np.asarray(kept), key))

    blocks = []
    for block in (slice(at, min(at + size, n)) for at in range(0, n, size)):
        rows = np.zeros(block.stop - block.start, np.int32)
        each = [log_q(block, rows + i, latents, rows + len(names), key) for i in range(draws)]
        blocks.append(np.stack(each, axis=1).astype(np.float64))  # [L, draws, B]
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
    hidden = known | ~_tractable(partial(log_q, slice(0, min(size, n))), min(size, n), latents, key)
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


def _draw(model: Model, variables: Any, x: Array, key: Array, y: Array | None) -> Trace:
    """One trace of x, without p(x | z), which is not needed."""
    return model.apply(variables, x, key, y=y).replace(x_dist=None)


def _tractable(log_q: Callable[..., np.ndarray], n: int, latents: tuple[Array, ...], key: Array) -> np.ndarray:
    """Tests whether log q of each level and all above it depends only on these levels and x, bool `[L]`.

    The latents below and the key are replaced. With all latents given, log q depends on the key only if a network draws
    random numbers. Each example tests one level: all of them take as many descents as there are examples, or levels.

    Args:
      log_q: log q of each level, `[L, n]`, given for each example the row of its latents, other latents, the number of
        levels whose latents are kept, and the key.
    """
    levels, other_key = len(latents), jax.random.fold_in(key, 1)
    other = tuple(jnp.roll(z, 1, axis=0) + jnp.ones_like(z) for z in latents)
    rows, free = np.arange(n, dtype=np.int32), np.ones(levels, bool)
    for start in range(0, levels, n):
        tested = (start + rows) % levels
        one = rows % len(latents[0])
        real, moved = log_q(one, latents, rows * 0 + levels, key), log_q(one, other, tested + 1, other_key)
        same = np.equal(real, moved) | (np.arange(levels)[:, None] > tested)  # [L, n]
        np.logical_and.at(free, tested, same.all(0))
    return free


@cache
def _program() -> Callable[..., Array]:
    """`_log_q`, compiled; not at import, since asking for the backend would start it."""
    return jit(_log_q, static_argnums=0)


def _log_q(
    model: Model,
    variables: Any,
    x: Array,
    y: Array | None,
    latents: tuple[Array, ...],
    other: tuple[Array, ...],
    one: Array,
    kept: Array,
    key: Array,
) -> Array:
    """log q of each level, `[L, B]`, at the latents of row `one` of each example's choice, below `kept` at the others.

    Args:
      latents, other: `[draws, ...]` each, top first.
      one: numbers of rows, `[B]`.
      kept: number of levels, from the top, that have `latents` and not `other`, `[B]`.
    """
    given = tuple(
        jnp.where(beside(kept > level, z[one]), z[one], o[one])
        for level, (z, o) in enumerate(zip(latents, other, strict=True))
    )
    levels = model.apply(variables, x, key, y=y, latents=given).unstack()
    return jnp.stack([level.log_q for level in levels])


def _logsumexp(values: np.ndarray) -> np.ndarray:
    """log sum exp over the last axis."""
    peak = values.max(-1, keepdims=True)
    return (peak + np.log(np.exp(values - peak).sum(-1, keepdims=True)))[..., 0]
