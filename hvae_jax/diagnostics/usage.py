"""How much of its latents a model uses: rates, distortion, and the units of each level. Nats per level, top first."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from hvae_jax.distributions import FromNoise
from hvae_jax.objectives import log_likelihood
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.trace import Level, Model, Trace


@struct.dataclass
class Usage:
    """Rates and posterior statistics of each example, averaged over draws; tuples have one entry per level.

    Attributes:
      rates: KL of each level, `[L, B]`; nats.
      log_px: log p(x | z), `[B]`; nats; the distortion is its negative.
      posterior_means: mean of q, `[B, units]` each.
      unit_rates: KL of each unit, `[B, units]` each; nats; they sum to the level's rate. A level whose KL is that of a
        joint density has one unit, `[B, 1]`.
      offsets: (mean of q - mean of p)/standard deviation of p, `[B, units]` each. `[B, 0]` for a p that is no
        `FromNoise` and has no such scale: no unit of that level counts as moving.
    """

    rates: Array
    log_px: Array
    posterior_means: tuple[Array, ...]
    unit_rates: tuple[Array, ...]
    offsets: tuple[Array, ...]


def usage(model: Model, variables: Any, x: ArrayLike, key: Array, draws: int = 16, y: ArrayLike | None = None) -> Usage:
    """Average `Usage` over `draws` traces of x; memory does not grow with the number of draws.

    Raises ValueError for fewer than one draw, or no example.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> found = hv.diagnostics.usage(model, variables, x, jax.random.key(2), draws=4)
        >>> found.rates.shape, [unit_rates.shape for unit_rates in found.unit_rates]
        ((2, 3), [(3, 2), (3, 1)])
    """
    if draws < 1:
        raise ValueError(f"usage(draws={draws}): 1 or more are needed.")
    if not np.shape(x)[0]:
        raise ValueError("usage needs 1 example or more, but x has none.")

    @functools.partial(jax.jit, inline=True)  # traced once, for its shapes and for the scan
    def one(index: Array) -> Usage:
        return usage_of(model.apply(variables, x, jax.random.fold_in(key, index), y=y))

    def add(total: Usage, index: Array) -> tuple[Usage, None]:
        return jax.tree.map(jnp.add, total, one(index)), None

    # A scan and not a vmap over the draws, so that one trace is in memory at a time.
    indices = jnp.arange(draws)
    shapes = jax.eval_shape(one, jax.ShapeDtypeStruct((), indices.dtype))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add, zero, indices)
    return jax.tree.map(lambda leaf: leaf / draws, total)


def usage_of(trace: Trace) -> Usage:
    """The `Usage` of one trace of x."""
    levels = trace.unstack()
    return Usage(
        trace.rates,
        log_likelihood(trace),
        tuple(_as_float(_flat(level.q.mean)) for level in levels),
        tuple(_flat(level.kl) for level in levels),
        tuple(_offset(level) for level in levels),
    )


def _flat(values: Array) -> Array:
    """`[B, ...]` as `[B, units]`."""
    return values.reshape(values.shape[0], -1)


def _as_float(values: Array) -> Array:
    """Casts to float32 at least: the mean of a `Known` level has the dtype of x, in which a sum may overflow."""
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def _offset(level: Level) -> Array:
    """(mean of q - mean of p)/standard deviation of p, `[B, units]` or `[B, 0]`."""
    if not isinstance(level.p, FromNoise):
        return jnp.zeros((level.z.shape[0], 0), level.kl.dtype)
    return _flat((level.q.mean - level.p.mean) / level.p.std)


def active_units(posterior_means: Sequence[ArrayLike], threshold: float = 0.01) -> list[int]:
    """Number of active units of each level: the variance of the posterior mean over examples exceeds `threshold`.

    A_u = Var_x(E_q[u | x]) > 0.01. In a top-down model the posterior mean of a lower level also moves with the levels
    above it: there the count shows that a level above is used, not that the unit itself is. `used_units` and
    `moving_units` show the latter.
    Source: Burda et al. (2015), section 4.3.
    Raises ValueError for fewer than two examples, which cannot vary.

    Example:
        >>> hv.diagnostics.active_units([np.array([[0.0, 3.0], [2.0, 3.0]])])  # the second mean does not vary
        [1]
    """
    _check_examples("active_units", posterior_means, 2)
    return [int((np.asarray(means).var(axis=0) > threshold).sum()) for means in posterior_means]


def used_units(unit_rates: Sequence[ArrayLike], threshold: float = 0.01) -> list[int]:
    """Number of units of each level whose own KL, averaged over the examples, exceeds `threshold` nats.

    Raises ValueError for no example.

    Example:
        >>> hv.diagnostics.used_units([np.array([[0.5, 0.0], [0.7, 0.001]])])
        [1]
    """
    _check_examples("used_units", unit_rates, 1)
    return [int((np.asarray(rates).mean(axis=0) > threshold).sum()) for rates in unit_rates]


def moving_units(offsets: Sequence[ArrayLike], threshold: float = 0.01) -> list[int]:
    """Number of units of each level whose posterior moves relative to its prior: Var_x(offset) > threshold.

    These are the active units of Burda et al. for a model whose priors move too; offsets are in standard deviations of
    p.
    Raises ValueError for fewer than two examples, which cannot vary.

    Example:
        >>> hv.diagnostics.moving_units([np.array([[0.0, 3.0], [2.0, 3.0]])])
        [1]
    """
    _check_examples("moving_units", offsets, 2)
    return [int((np.asarray(offset).var(axis=0) > threshold).sum()) for offset in offsets]


def carrying_units(unit_rates: Sequence[ArrayLike], share: float = 0.95) -> list[int]:
    """Smallest number of units of each level that together have `share` of its KL, averaged over the examples.

    Unlike `used_units` it has no threshold in nats, above which a unit may still carry next to nothing. 0 for a level
    whose KL is 0.
    Raises ValueError for no example.

    Example:
        >>> hv.diagnostics.carrying_units([np.array([[3.0, 0.9, 0.1]])], share=0.9)  # 3.9 of 4 nats
        [2]
    """
    _check_examples("carrying_units", unit_rates, 1)
    counts = []
    for rates in unit_rates:
        highest = np.sort(np.asarray(rates, np.float64).mean(axis=0))[::-1]
        total = highest.sum()
        # Summed from the highest, rounding may leave the last sum below the total: at most all units.
        counts.append(min(int((np.cumsum(highest) < share * total).sum()) + 1, len(highest)) if total > 0 else 0)
    return counts


def _check_examples(owner: str, parts: Sequence[ArrayLike], least: int) -> None:
    """Raises ValueError for fewer than `least` examples in some part."""
    few = min((np.shape(part)[0] for part in parts), default=least)
    if few < least:
        raise ValueError(f"{owner} needs {least} examples or more, but there are {few}.")


class UnitCounts:
    """Counts of active, used and moving units of a data set that comes in parts, from running means and variances.

    A very deep model has hundreds of thousands of units: the posteriors of a whole split would not fit in memory.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> counts = hv.diagnostics.UnitCounts()
        >>> counts.add(hv.diagnostics.usage(model, variables, x, jax.random.key(2), draws=4))
        >>> counts.used()  # units of z2 and z1: none before training, when q = p
        [0, 0]
    """

    def __init__(self, threshold: float = 0.01) -> None:
        self._threshold = threshold
        self._means: list[_Moments] = []
        self._rates: list[_Moments] = []
        self._offsets: list[_Moments] = []

    def add(self, part: Usage, count: int | None = None) -> None:
        """Adds the first `count` examples of a part, the others being padding; None adds all."""
        taken = ((self._means, part.posterior_means), (self._rates, part.unit_rates), (self._offsets, part.offsets))
        for moments, values in taken:
            while len(moments) < len(values):
                moments.append(_Moments())
            for moment, value in zip(moments, values, strict=True):
                moment.add(np.asarray(value)[:count])

    def active(self) -> list[int]:
        """`active_units` of all examples so far."""
        return [int((moment.variance > self._threshold).sum()) for moment in self._means]

    def used(self) -> list[int]:
        """`used_units` of all examples so far."""
        return [int((moment.mean > self._threshold).sum()) for moment in self._rates]

    def moving(self) -> list[int]:
        """`moving_units` of all examples so far."""
        return [int((moment.variance > self._threshold).sum()) for moment in self._offsets]


class _Moments:
    """Running mean and variance over rows `[B, units]`, in float64, by the update of Chan et al. (1983)."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, np.zeros(()), np.zeros(())

    def add(self, rows: np.ndarray) -> None:
        n, rows = len(rows), rows.astype(np.float64)
        # A part may be padding alone.
        if n:
            total, mean = self.count + n, rows.mean(axis=0)
            apart = mean - self.mean
            self._squares = self._squares + ((rows - mean) ** 2).sum(axis=0) + apart**2 * self.count * n / total
            self.mean, self.count = self.mean + apart * n / total, total

    @property
    def variance(self) -> np.ndarray:
        """`[units]`."""
        return self._squares / self.count


def cumulative(rates: ArrayLike) -> np.ndarray:
    """Cumulative rates from the top, `[L, B]`: entry l is the rate of level l and all levels above it.

    Example:
        >>> print(hv.diagnostics.cumulative(np.array([[1.0, 1.0], [2.0, 3.0]])))
        [[1. 1.]
         [3. 4.]]
    """
    return np.cumsum(np.asarray(rates), axis=0)


def standard_error(values: ArrayLike) -> np.ndarray:
    """Standard error of the mean over the last axis, `[..., n]` to `[...]`: sd/sqrt(n); NaN for n = 1.

    Example:
        >>> print(hv.diagnostics.standard_error(np.array([1.0, 3.0])).round(3))  # sqrt(2)/sqrt(2)
        1.0
    """
    values = np.asarray(values)
    n = values.shape[-1]
    if n < 2:
        return np.full(values.shape[:-1], np.nan)
    return np.asarray(values.std(axis=-1, ddof=1) / np.sqrt(n))


def bootstrap(count: Any, parts: Sequence[ArrayLike], resamples: int = 200, seed: int = 0) -> np.ndarray:
    """Standard errors of `count(parts)`, by resampling the examples with replacement.

    Args:
      count: function that returns one number per level, such as `active_units`.
      parts: arrays `[B, units]`, one per level.
      resamples: number of resamples.
      seed: seed of the resampling.
    Raises ValueError for fewer than two examples.

    Example:
        >>> print(hv.diagnostics.bootstrap(hv.diagnostics.active_units, [np.zeros((4, 3))]))  # never an active unit
        [0.]
    """
    _check_examples("bootstrap", parts, 2)
    arrays = [np.asarray(part) for part in parts]
    rng, n = np.random.default_rng(seed), len(arrays[0])
    counts = []
    for _ in range(resamples):
        rows = rng.integers(0, n, n)
        counts.append(count([array[rows] for array in arrays]))
    return np.std(counts, axis=0, ddof=1)
