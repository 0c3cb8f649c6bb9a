"""Warm-ups, learning rates and other schedules: frozen records that map a step to `[]`, or to `[L]`, one value a level.

Every setting is one number for all levels, or a tuple with one for each, top first. Steps are training steps; where a
paper counts epochs, an epoch is ceil(examples/batch_size) steps. The first step is 0, so that a `Linear` warm-up from 0
begins without the term, as the first epoch of the ladder VAE (Soenderby et al., 2016) does; with start=-1 and end=n - 1
the value at the first of n steps is 1/n, as in hvae-oodd (Havtorn et al., 2021).
"""

import dataclasses
import functools
import math
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.objectives.per_level import PerLevel, check_numbers
from hvae_jax.records import checked


@runtime_checkable
class Schedule(Protocol):
    """A value that depends on the training step: a frozen record."""

    def __call__(self, step: Array) -> Array:
        """The value at a step `[]` (an integer): `[]`, or `[L]`, top first."""
        ...


@dataclasses.dataclass(frozen=True)
@checked
class Constant:
    """v(t) = value.

    Attributes:
      value: the value at every step.

    Raises ValueError for a negative value.

    Example:
        >>> print(hv.objectives.Constant(0.5)(jnp.array(1000)))
        0.5
    """

    value: PerLevel = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, "value", low=0.0)

    def __call__(self, step: Array) -> Array:
        """`[]` or `[L]`."""
        return jnp.asarray(self.value, float)


@dataclasses.dataclass(frozen=True)
@checked
class Linear:
    """v(t) = max(floor, initial + (final - initial) f(t)), f(t) = (t - start)/(end - start) clipped to [0, 1].

    Attributes:
      start, end: first and last step of the change; fractions and negative numbers are allowed. If they are equal, the
        value jumps there.
      initial, final: values up to the start and from the end on, in either order.
      floor: lower bound of the value.

    Source: Soenderby et al. (2016), warm-up. NVAE's warm-up over T steps is Linear(1e-4 * T, 0.3001 * T,
    floor=1e-4), Efficient-VDVAE's is Linear(20, 5041, floor=1e-4), (s - 21)/5021 at its step s, whose first is 1 in its
    PyTorch code.
    Raises ValueError for an end before its start, a negative value, or settings with different numbers of levels.

    Example:
        >>> print(hv.objectives.Linear(0, 100)(jnp.array([0, 50, 200])))
        [0.  0.5 1. ]
    """

    start: PerLevel = 0.0
    end: PerLevel = 1000.0
    initial: PerLevel = 0.0
    final: PerLevel = 1.0
    floor: PerLevel = 0.0

    def __post_init__(self) -> None:
        _check(self, "initial", "final", "floor")

    def __call__(self, step: Array) -> Array:
        """`[]` or `[L]`."""
        return jnp.maximum(_between(self, _fraction(self, step)), jnp.asarray(self.floor, float))


@dataclasses.dataclass(frozen=True)
@checked
class Cosine:
    """v(t) = initial + (final - initial) (1 - cos(pi f(t)))/2, f(t) = (t - start)/(end - start) clipped to [0, 1].

    Attributes:
      start, end, initial, final: as in `Linear`.

    Source: half a period of Loshchilov & Hutter (2017), equation 5, from `initial` to `final`.
    Raises ValueError as `Linear` does.

    Example:
        >>> print(hv.objectives.Cosine(0, 100)(jnp.array([0, 50, 100])).round(3))
        [0.  0.5 1. ]
    """

    start: PerLevel = 0.0
    end: PerLevel = 1000.0
    initial: PerLevel = 0.0
    final: PerLevel = 1.0

    def __post_init__(self) -> None:
        _check(self, "initial", "final")

    def __call__(self, step: Array) -> Array:
        """`[]` or `[L]`."""
        return _between(self, 0.5 - 0.5 * jnp.cos(jnp.pi * _fraction(self, step)))


@dataclasses.dataclass(frozen=True)
@checked
class Cyclical:
    """`cycles` equal periods from start to end, each a linear rise followed by a constant.

    v(t) = initial + (final - initial) min(tau/rise, 1), where tau is the elapsed fraction of the period; `initial`
    before the start and `final` from the end on.

    Attributes:
      start, end: first and last step of the periods.
      cycles: number of periods.
      rise: fraction of each period in which the value rises, above 0 and at most 1.
      initial, final: values at the beginning of a period and after its rise.

    Source: Fu et al. (2019), section 4; the defaults are theirs (4 cycles, a rise of one half).
    Raises ValueError as `Linear` does, and for start = end, less than one cycle or a rise outside (0, 1].

    Example:
        >>> print(hv.objectives.Cyclical(0, 400)(jnp.array([0, 25, 50, 100])).round(3))  # periods of 100, a rise of 50
        [0.  0.5 1.  0. ]
    """

    start: PerLevel = 0.0
    end: PerLevel = 10_000.0
    cycles: int = 4
    rise: float = 0.5
    initial: PerLevel = 0.0
    final: PerLevel = 1.0

    def __post_init__(self) -> None:
        _check(self, "initial", "final", jump=False)
        if self.cycles < 1 or not 0 < self.rise <= 1:
            raise ValueError(
                f"Cyclical(cycles={self.cycles}, rise={self.rise}): at least one cycle, and a rise above 0 and at "
                "most 1, such as 0.5."
            )

    def __call__(self, step: Array) -> Array:
        """`[]` or `[L]`."""
        fraction = _fraction(self, step)
        tau = jnp.mod(self.cycles * fraction, 1.0)
        return _between(self, jnp.where(fraction < 1.0, jnp.minimum(tau / self.rise, 1.0), 1.0))


@dataclasses.dataclass(frozen=True)
@checked
class Product:
    """v(t) = the product of several schedules, such as a warm-up and a decay.

    Attributes:
      factors: one schedule or more.

    Efficient-VDVAE's learning rate rises over 100 steps and falls to a fifth, as a cosine, from step 50,000 to 800,000:
    Product((Linear(-1, 99), Cosine(50_000, 800_000, initial=1.0, final=0.2))).
    Raises ValueError for no factors.

    Example:
        >>> rise, fall = hv.objectives.Linear(0, 100), hv.objectives.Exponential(0.99)
        >>> print(hv.objectives.Product((rise, fall))(jnp.array(50)).round(3))  # 0.5 * 0.99^50
        0.303
    """

    factors: tuple[Schedule, ...] = (Constant(),)

    def __post_init__(self) -> None:
        if not self.factors:
            raise ValueError("Product(factors=()): one factor or more is needed.")

    def __call__(self, step: Array) -> Array:
        """`[]`, or `[L]` if a factor has one number per level."""
        return functools.reduce(jnp.multiply, [factor(step) for factor in self.factors])


@dataclasses.dataclass(frozen=True)
@checked
class Tripling:
    """v(t) = 10^(-i/(stages - 1)) in stage i = 0, 1, ..., whose length is proportional to 3^i; 1/10 after the last.

    Attributes:
      steps: number of steps of all stages together.
      stages: number of stages, over which the value falls from 1 to 1/10.

    Source: Burda et al. (2015), section 5: eight stages of 3^i epochs, 3,280 in all.
    Raises ValueError for less than one step, or fewer than two stages.

    Example:
        >>> print(hv.objectives.Tripling(steps=3280)(jnp.array(3279)).round(3))  # the last of eight stages
        0.1
    """

    steps: int = 3280
    stages: int = 8

    def __post_init__(self) -> None:
        if self.steps < 1 or self.stages < 2:
            raise ValueError(f"Tripling(steps={self.steps}, stages={self.stages}): 1 step or more, 2 stages or more.")

    def __call__(self, step: Array) -> Array:
        """`[]`."""
        # First step of every stage but the first, `[stages - 1]`.
        parts = np.cumsum(3.0 ** np.arange(self.stages))
        ends = jnp.asarray(self.steps * parts[:-1] / parts[-1], float)
        stage = (jnp.asarray(step, float) >= ends).sum()
        return 10.0 ** (-stage.astype(ends.dtype) / (self.stages - 1))


@dataclasses.dataclass(frozen=True)
@checked
class Exponential:
    """v(t) = max(floor, rate^t).

    Attributes:
      rate: factor per step, above 0 and at most 1.
      floor: lower bound of the value.

    Raises ValueError for a rate outside (0, 1] or a negative floor.

    Example:
        >>> print(hv.objectives.Exponential(0.5, floor=0.1)(jnp.array([0, 1, 10])).round(3))
        [1.  0.5 0.1]
    """

    rate: float = 0.999999
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, "floor", low=0.0)
        if not 0 < self.rate <= 1:
            raise ValueError(f"Exponential(rate={self.rate}): it has to be above 0 and at most 1, such as 0.999999.")

    def __call__(self, step: Array) -> Array:
        """`[]`."""
        # exp(t log rate), with the logarithm in float64: float32 would round a rate this close to 1.
        decayed = jnp.exp(jnp.asarray(step, float) * math.log(self.rate))
        return jnp.maximum(decayed, jnp.asarray(self.floor, float))


@dataclasses.dataclass(frozen=True)
@checked
class Geometric:
    """v(t) = initial^(1 - w(t)) final^w(t): a straight line on a logarithmic axis where w(t) is linear.

    Attributes:
      progress: schedule w(t), from 0 to 1.
      initial, final: values at w = 0 and at w = 1, above 0.

    NVAE anneals its spectral regularisation along with the KL: over T steps from 1 to 0.01 it is
    Geometric(Linear(1e-4 * T, 0.3001 * T, floor=1e-4), 1.0, 0.01).
    Source: Vahdat & Kautz (2020), their code.
    Raises ValueError for a value that is not above 0.

    Example:
        >>> schedule = hv.objectives.Geometric(hv.objectives.Linear(0, 100), 1.0, 0.01)
        >>> print(schedule(jnp.array(50)).round(3))  # sqrt(0.01)
        0.1
    """

    progress: Schedule = Constant()
    initial: float = 1.0
    final: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.initial < math.inf or not 0 < self.final < math.inf:
            raise ValueError(f"Geometric(initial={self.initial}, final={self.final}): both have to be above 0, finite.")

    def __call__(self, step: Array) -> Array:
        """`[]`, or `[L]` if the progress has one number per level."""
        w = self.progress(step)
        return jnp.exp((1.0 - w) * math.log(self.initial) + w * math.log(self.final))


def _fraction(schedule: Linear | Cosine | Cyclical, step: Array) -> Array:
    """(t - start)/(end - start) clipped to [0, 1]; where start = end, 0 before that step and 1 from it on."""
    t, first, last = (jnp.asarray(v, float) for v in (step, schedule.start, schedule.end))
    length = last - first
    jump = length == 0.0
    return jnp.where(jump, (t >= last).astype(t.dtype), jnp.clip((t - first) / jnp.where(jump, 1.0, length), 0.0, 1.0))


def _between(schedule: Linear | Cosine | Cyclical, f: Array) -> Array:
    """initial + (final - initial) f."""
    initial, final = jnp.asarray(schedule.initial, float), jnp.asarray(schedule.final, float)
    return initial + (final - initial) * f


def _check(schedule: Any, *values: str, jump: bool = True) -> None:
    """Raises ValueError for negative values, an end before its start, and different numbers of levels.

    Args:
      values: names of the settings that may not be negative.
      jump: whether start and end may be equal.
    """
    kind = type(schedule).__name__
    check_numbers(schedule, "start", "end")
    check_numbers(schedule, *values, low=0.0)
    several = {name: getattr(schedule, name) for name in ("start", "end", *values)}
    several = {name: len(given) for name, given in several.items() if isinstance(given, tuple)}
    if len(set(several.values())) > 1:
        counts = ", ".join(f"{name} has {count}" for name, count in several.items())
        raise ValueError(f"{kind}: {counts} values; each needs one number, or one a level, top first.")
    length = np.subtract(schedule.end, schedule.start)
    if (length < 0).any() or not (jump or length.all()):
        least = "not end before its start" if jump else "end after its start"
        raise ValueError(f"{kind}(start={schedule.start}, end={schedule.end}): it has to {least}.")
