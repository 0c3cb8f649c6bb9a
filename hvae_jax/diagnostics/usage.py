"""How much of what a model has it uses: rates, distortion, and the units of each level. Nats, per level, top first."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jax.typing import ArrayLike

from hvae_jax.distributions import FromNoise
from hvae_jax.trace import Level, Model


@struct.dataclass
class Usage:
    """What each level says about each example of a set, means over the draws; tuples have one entry a level.

    Attributes:
      rates: `[L, B]`, KL per level and example, nats.
      log_px: `[B]`, log p(x | z); minus it is the distortion.
      posterior_means: `[B, units]` each: the mean of q.
      unit_rates: `[B, units]` each: KL of each unit, nats; they add up to the rate. Of a level whose KL is of a joint
        density, one unit, the level.
      offsets: `[B, units]` each: (mean of q - mean of p) / standard deviation of p; `[B, 0]` where p has no standard
        deviation, so that no unit of such a level counts as moving.
    """

    rates: Array
    log_px: Array
    posterior_means: tuple[Array, ...]
    unit_rates: tuple[Array, ...]
    offsets: tuple[Array, ...]


def usage(model: Model, variables: Any, x: ArrayLike, key: Array, draws: int = 16, y: ArrayLike | None = None) -> Usage:
    """Averages `draws` traces of x; memory does not grow with the draws.

    Raises ValueError for fewer than one draw, or no example.
    """
    if draws < 1:
        raise ValueError(f"usage(draws={draws}): 1 or more are needed.")
    if not np.shape(x)[0]:
        raise ValueError("usage needs 1 example or more, but x has none.")

    def one(index: Array) -> Usage:
        trace = model.apply(variables, x, jax.random.fold_in(key, index), y=y)
        levels = trace.unstack()
        return Usage(
            trace.rates,
            trace.log_px,
            tuple(_flat(level.q.mean) for level in levels),
            tuple(_flat(level.kl) for level in levels),
            tuple(_offset(level) for level in levels),
        )

    def add(total: Usage, index: Array) -> tuple[Usage, None]:
        return jax.tree.map(jnp.add, total, one(index)), None

    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(lambda: one(jnp.int32(0))))
    total, _ = jax.lax.scan(add, zero, jnp.arange(draws))
    return jax.tree.map(lambda leaf: leaf / draws, total)


def _flat(values: Array) -> Array:
    return values.reshape(values.shape[0], -1)


def _offset(level: Level) -> Array:
    if not isinstance(level.p, FromNoise):
        return jnp.zeros((level.z.shape[0], 0), level.kl.dtype)
    return _flat((level.q.mean - level.p.mean) / level.p.std)


def active_units(posterior_means: Sequence[ArrayLike], threshold: float = 0.01) -> list[int]:
    """Units of each level, top first, whose posterior mean varies over the examples by more than `threshold`.

    A_u = Var_x(E_q[u | x]) > 0.01. In a top-down model a lower level's posterior mean also moves with the levels
    above it, so there the count says that something above is used, not that the unit itself is: `used_units` and
    `moving_units` stand beside it.
    Source: Burda et al. (2015), section 4.3.
    Raises ValueError for fewer than two examples, which cannot vary.
    """
    _check_examples("active_units", posterior_means, 2)
    return [int((np.asarray(means).var(axis=0) > threshold).sum()) for means in posterior_means]


def used_units(unit_rates: Sequence[ArrayLike], threshold: float = 0.01) -> list[int]:
    """Units of each level whose own KL, a mean over the examples, is above `threshold` nats.

    Raises ValueError without an example.
    """
    _check_examples("used_units", unit_rates, 1)
    return [int((np.asarray(rates).mean(axis=0) > threshold).sum()) for rates in unit_rates]


def moving_units(offsets: Sequence[ArrayLike], threshold: float = 0.01) -> list[int]:
    """Units of each level whose posterior moves against its prior: Var_x of the offset, in prior scales, > threshold.

    The active units of Burda et al. for a model whose priors move by themselves.
    Raises ValueError for fewer than two examples, which cannot vary.
    """
    _check_examples("moving_units", offsets, 2)
    return [int((np.asarray(offset).var(axis=0) > threshold).sum()) for offset in offsets]


def _check_examples(owner: str, parts: Sequence[ArrayLike], least: int) -> None:
    """Raises ValueError for fewer than `least` examples, of which there are as many in every part."""
    few = min((np.shape(part)[0] for part in parts), default=least)
    if few < least:
        raise ValueError(f"{owner} needs {least} examples or more, but there are {few}.")


class UnitCounts:
    """Active, used and moving units of a set that comes in parts: it keeps means and variances, not the examples.

    A very deep model has hundreds of thousands of units, so that a split's posteriors would not fit in memory.
    """

    def __init__(self, threshold: float = 0.01) -> None:
        self._threshold = threshold
        self._means: list[_Moments] = []
        self._rates: list[_Moments] = []
        self._offsets: list[_Moments] = []

    def add(self, part: Usage, count: int | None = None) -> None:
        """Takes the first `count` examples of a part; None takes all."""
        taken = ((self._means, part.posterior_means), (self._rates, part.unit_rates), (self._offsets, part.offsets))
        for moments, values in taken:
            while len(moments) < len(values):
                moments.append(_Moments())
            for moment, value in zip(moments, values, strict=True):
                moment.add(np.asarray(value)[:count])

    def active(self) -> list[int]:
        """What `active_units` says of all examples so far."""
        return [int((moment.variance > self._threshold).sum()) for moment in self._means]

    def used(self) -> list[int]:
        """What `used_units` says."""
        return [int((moment.mean > self._threshold).sum()) for moment in self._rates]

    def moving(self) -> list[int]:
        """What `moving_units` says."""
        return [int((moment.variance > self._threshold).sum()) for moment in self._offsets]


class _Moments:
    """Mean and variance over rows `[B, units]` that come in parts (Chan et al., 1983), in float64."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, np.zeros(()), np.zeros(())

    def add(self, rows: np.ndarray) -> None:
        n, rows = len(rows), rows.astype(np.float64)
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
    """Rates of each level and all above it, `[L, B]` of `[L, B]`: what the top l levels say together."""
    return np.cumsum(np.asarray(rates), axis=0)


def standard_error(values: ArrayLike) -> np.ndarray:
    """Of a mean over the last axis, `[...]` of `[..., n]`: sd / sqrt(n); NaN for one value."""
    values = np.asarray(values)
    n = values.shape[-1]
    if n < 2:
        return np.full(values.shape[:-1], np.nan)
    return np.asarray(values.std(axis=-1, ddof=1) / np.sqrt(n))


def bootstrap(count: Any, parts: Sequence[ArrayLike], resamples: int = 200, seed: int = 0) -> np.ndarray:
    """Standard errors of what `count(parts)` says, over examples drawn anew with replacement.

    Args:
      count: such as `active_units`: one number a level.
      parts: one `[B, units]` a level.
    Raises ValueError for fewer than two examples.
    """
    _check_examples("bootstrap", parts, 2)
    arrays = [np.asarray(part) for part in parts]
    rng, n = np.random.default_rng(seed), len(arrays[0])
    counts = []
    for _ in range(resamples):
        rows = rng.integers(0, n, n)
        counts.append(count([array[rows] for array in arrays]))
    return np.std(counts, axis=0, ddof=1)
