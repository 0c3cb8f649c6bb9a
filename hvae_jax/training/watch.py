"""Warnings in words when a run's numbers go wrong: collapsed levels, skipped steps, divergence, over-fitting."""

import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from math import inf, isfinite, nan

COLLAPSED = 0.01
"""Validation rate, nats, below which a level carries next to no information on x; a level in use has tenths or more."""

COLLAPSED_VALIDATIONS = 5
"""Validations below COLLAPSED, none above it in between, before a level is reported."""

COLLAPSED_STEPS = 1000
"""First step whose validation counts towards them. Levels start that low and come alive one after another: the
article's z2 has 0.013 nats after 16 steps, and of a very deep model's levels many take hundreds of steps."""

WARM_UPS = ("beta", "rate_target")
"""Metrics of the weight of the rate, of all levels or, as "beta/z2", of one. While one of them changes the objective
is in its warm-up, or in the rising part of a cycle, and the rates of its end are not there yet."""

SKIPPED_SHARE = 0.1
"""Fraction of the recent steps that may be skipped. A healthy run skips none, or single ones; a tenth is lost work, or
the start of losing it all."""

SKIPPED_STEPS = 100
"""Smallest number of steps called recent, so that a few bad steps in a short dispatch are no large fraction."""

FAR_SHARE = 0.5
"""Fraction of the scale (see `Watch`) that validation may lie below training. The article's run over-fits by a fifth;
an untrained model, which wrong batch statistics in evaluation amount to, would lie a whole scale below."""

FAR_VALIDATIONS = 3
"""Validations in a row that far below. Running batch statistics and averaged parameters lag in the first ones."""

WORSE_SHARE = 0.25
"""Fraction of the scale (see `Watch`) that the ELBO may fall. The article's run falls by 0.005, a diverging one by far
more."""

WORSE_ROWS = 5
"""Rows whose median is the current value, so that neither one bad dispatch nor one lucky one decides."""

CLEARED = 0.5
"""Fraction of a limit below which a warning may be repeated; without the gap, warnings would flicker."""


class Watch:
    """Looks at each row of metrics as it is written: `watch(row)` returns the warnings it calls for.

    A warning is given once, and again only if its condition was cleared and came back. Falls of the ELBO, which may be
    near 0 or positive, are measured on a scale in nats: the largest of |ELBO|, |log p(x | z)|, the rate and what
    training has gained so far, the gain counted up to twice the others so that a wild start does not hide what
    follows. A number that is missing, None (JSON's nan) or not finite is left out.

    The state comes from the rows alone. A resumed run passes the rows of metrics.jsonl, and is warned again, once, of
    what still holds.

    Args:
      rows: rows written earlier, in order of steps.
    """

    def __init__(self, rows: Iterable[Mapping[str, float | int | None]] = ()) -> None:
        self._step = 0
        self._skips: deque[tuple[float, float, float]] = deque()  # recent (steps, skipped, skipped for their norm)
        self._elbo, self._loss = _Course(), _Course()
        self._since: list[float] = []  # training ELBO of the rows since the last validation
        self._low: dict[str, int] = {}  # validations below COLLAPSED since the last above it, by level
        self._weights: dict[str, float] = {}  # weights of the rate in the row before
        self._warming: set[str] = set()  # the weights that have changed since the last validation
        self._far, self._nearest = 0, inf
        self._said: set[str] = set()
        for row in rows:
            self(row)
        self._said.clear()

    def __call__(self, row: Mapping[str, float | int | None]) -> list[str]:
        """The new warnings that the next row calls for, most urgent first."""
        found = [self._skipped(row), self._large(row), self._worse(row)]
        self._weigh(row)
        if "validation/elbo" in row:
            found += [self._not_finite(row), self._far_off(row), self._collapsed(row)]
            self._warming.clear()
        return [sentence for sentence in found if sentence]

    def _skipped(self, row: Mapping[str, float | int | None]) -> str | None:
        step = int(_number(row, "step"))
        taken, self._step = step - self._step, step
        self._skips.append((taken, _number(row, "skipped", 0.0), _number(row, "large", 0.0)))
        # The fewest latest rows that have SKIPPED_STEPS steps.
        while sum(steps for steps, _, _ in self._skips) - self._skips[0][0] >= SKIPPED_STEPS:
            self._skips.popleft()
        # Those skipped for their norm are `_large`'s.
        steps, skipped, large = (sum(column) for column in zip(*self._skips, strict=True))
        share = (skipped - large) / steps if steps >= SKIPPED_STEPS else 0.0
        if not self._new("skipped", share >= SKIPPED_SHARE, share < CLEARED * SKIPPED_SHARE):
            return None
        return (
            f"{skipped - large:.0f} of the last {steps:.0f} steps were skipped, because their loss or gradients were "
            "not finite: they changed nothing. A smaller learning rate, a longer warm-up of it or a tighter clamp of "
            "the log variances helps; data with values out of range does not heal by itself."
        )

    def _large(self, row: Mapping[str, float | int | None]) -> str | None:
        steps, _, large = (sum(column) for column in zip(*self._skips, strict=True))
        share = large / steps if steps >= SKIPPED_STEPS else 0.0
        if not self._new("large", share >= SKIPPED_SHARE, share < CLEARED * SKIPPED_SHARE):
            return None
        norm, threshold = _number(row, "grad_norm"), _number(row, "skip_threshold")
        passing = f", those that were taken about {norm:.3g}" if isfinite(norm) else ""
        return (
            f"{large:.0f} of the last {steps:.0f} steps were skipped, because the norm of their gradient was at the "
            f"threshold, {threshold:.3g}, or above it{passing}. Early on that passes; later a higher "
            "--gradients.skip-above or --gradients.skip-factor, or a smaller learning rate, loses fewer."
        )

    def _worse(self, row: Mapping[str, float | int | None]) -> str | None:
        elbo, norm = _number(row, "elbo"), _number(row, "grad_norm")
        self._elbo.add(elbo, _scale(row))
        self._loss.add(-_number(row, "loss"), 0.0)
        if isfinite(elbo):
            self._since.append(elbo)
        # Both have to fall, and still be falling, which a run that recovers is not.
        # A warm-up of beta lets the ELBO fall while the loss falls, then the loss rise while the ELBO rises.
        holds = self._elbo.fell() and self._loss.fell() and self._elbo.falling()
        if not self._new("worse", holds, not self._elbo.fell(CLEARED)):
            return None
        return (
            f"The training ELBO has fallen to {self._elbo.now:.1f} from {self._elbo.best:.1f} nats and the loss has "
            f"risen with it: training diverges (gradient norm {norm:.3g}). A smaller learning rate or clipped "
            "gradients help; the variables of the best validation are kept."
        )

    def _not_finite(self, row: Mapping[str, float | int | None]) -> str | None:
        elbo = _number(row, "validation/elbo")
        if not self._new("not finite", not isfinite(elbo), isfinite(elbo)):
            return None
        # Without a level to blame it is the reconstruction.
        broken = [level for level, rate in _rates(row).items() if not isfinite(rate)]
        cause = f"the rate of {broken[0]} is the first that is not" if broken else "every rate is: log p(x | z) is not"
        return (
            f"The validation ELBO is not finite ({cause}), while training's is {_mean(self._since):.1f} nats: an "
            "example far from the training data, or statistics that evaluation uses and training does not."
        )

    def _far_off(self, row: Mapping[str, float | int | None]) -> str | None:
        train, validation = _mean(self._since), _number(row, "validation/elbo")
        self._since = []
        scale = max(self._elbo.scale, _scale(row))
        gap = (train - validation) / scale if scale else nan
        if not isfinite(gap):
            return None
        # Over-fitting starts close; a wrong preparation of the split is far off from the beginning.
        self._nearest = min(self._nearest, gap)
        self._far = self._far + 1 if gap >= FAR_SHARE else 0
        if not self._new("far", self._far >= FAR_VALIDATIONS, gap < CLEARED * FAR_SHARE):
            return None
        first = f"The validation ELBO is {validation:.1f} nats, training's {train:.1f}. "
        if self._nearest < CLEARED * FAR_SHARE:
            return first + (
                "They were close before: the model over-fits, or what only evaluation uses (batch statistics, "
                "averaged parameters) has gone astray. Fewer parameters or more data help against the first, a smaller "
                "learning rate against the second."
            )
        return first + (
            "They were never close, so that over-fitting is not the likely cause: look whether the validation split "
            "is scaled and binarised as the train split is, and at what only evaluation uses (batch statistics, "
            "averaged parameters)."
        )

    def _weigh(self, row: Mapping[str, float | int | None]) -> None:
        """Notes which weights of the rate have changed since the row before."""
        for name in row:
            if name.partition("/")[0] in WARM_UPS:
                weight = _number(row, name)
                if self._weights.setdefault(name, weight) != weight:
                    self._warming.add(name)
                self._weights[name] = weight

    def _collapsed(self, row: Mapping[str, float | int | None]) -> str | None:
        rates, step = _rates(row), _number(row, "step")
        for level, rate in rates.items():
            waits = step < COLLAPSED_STEPS or any(
                name in self._warming for weight in WARM_UPS for name in (weight, f"{weight}/{level}")
            )
            self._low[level] = self._low.get(level, 0) + (not waits) if rate < COLLAPSED else 0
        dead = [level for level in rates if self._low[level] >= COLLAPSED_VALIDATIONS]
        new = [level for level in rates if self._new(f"collapsed {level}", level in dead, self._low[level] == 0)]
        if not new:
            return None
        # A deep model may lose dozens at once.
        names = ", ".join(f"{level} ({rates[level]:.2g} nats)" for level in new[:5])
        names += f" and {len(new) - 5} more" if len(new) > 5 else ""
        return (
            f"{len(dead)} of {len(rates)} levels had a validation rate below {COLLAPSED} nats for "
            f"{COLLAPSED_VALIDATIONS} validations or more; new among them: {names}. Such a level carries next to "
            "nothing of x. A warm-up of beta, free bits or a weaker decoder helps, early in training rather than late; "
            "a deep model may do without some of its levels."
        )

    def _new(self, key: str, holds: bool, cleared: bool) -> bool:
        """Whether a condition holds that was not reported yet, or was cleared since it was."""
        if holds and key not in self._said:
            self._said.add(key)
            return True
        if cleared:
            self._said.discard(key)
        return False


class _Course:
    """The course of a number that should rise, nats: its median over the last rows, and the best of these medians."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=WORSE_ROWS)
        self._before: deque[float] = deque([inf], maxlen=WORSE_ROWS)  # the medians of the rows before
        self.first, self.now, self.best, self._own = nan, nan, -inf, 0.0

    def add(self, value: float, scale: float) -> None:
        """Adds the next value, if it is finite, with the scale of its row."""
        if not isfinite(value):
            return
        if not self._recent:
            self.first = value
        # Medians count from the first full window: before it, one bad row would be the median.
        self._recent.append(value)
        if len(self._recent) == WORSE_ROWS:
            if isfinite(self.now):
                self._before.append(self.now)
            self.now = statistics.median(self._recent)
            if self.now > self.best:
                self.best, self._own = self.now, max(abs(value), scale)

    @property
    def scale(self) -> float:
        """The scale of a fall, see `Watch`; 0 before there are enough rows."""
        return max(self._own, min(self.best - self.first, 2.0 * self._own))

    def fell(self, part: float = 1.0) -> bool:
        """Whether more than `part` of WORSE_SHARE of the scale is lost."""
        return self.best - self.now > part * WORSE_SHARE * self.scale

    def falling(self) -> bool:
        """Whether the last rows lie below those before them."""
        return self.now < self._before[0]


def _number(row: Mapping[str, float | int | None], name: str, default: float = nan) -> float:
    value = row.get(name, default)
    return nan if value is None else float(value)


def _mean(values: list[float]) -> float:
    return statistics.fmean(values) if values else nan


def _rates(row: Mapping[str, float | int | None]) -> dict[str, float]:
    """Validation rate by level, top first."""
    prefix = "validation/rate/"
    return {name.removeprefix(prefix): _number(row, name) for name in row if name.startswith(prefix)}


def _scale(row: Mapping[str, float | int | None]) -> float:
    """The largest of |ELBO|, |log p(x | z)| and their difference, the rate, nats; 0 where none is finite."""
    elbo, log_px = _number(row, "elbo"), _number(row, "log_px")
    return max((abs(value) for value in (elbo, log_px, log_px - elbo) if isfinite(value)), default=0.0)
