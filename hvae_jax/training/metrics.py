"""The record of each dispatch: a row of metrics, the progress line, warnings, reasons for skipped steps."""

from collections.abc import Iterable, Mapping

import numpy as np

from hvae_jax.training.checkpoint import Progress
from hvae_jax.training.plan import Plan
from hvae_jax.training.sinks import Reporter
from hvae_jax.training.watch import Watch


class Commentary:
    """Passes each dispatch's row to the reporter, and adds what the numbers say in words.

    Args:
      reporter: the progress line and all sinks.
      names: names of the levels, top first.
      patience: validations without a better ELBO after which training ends.
      rows: rows written earlier, in order of steps: a resumed run is warned as one that was never interrupted.

    Attributes:
      cause: why the latest streak of skipped steps began.
    """

    def __init__(
        self, reporter: Reporter, names: tuple[str, ...], patience: int, rows: Iterable[Mapping[str, float | int]]
    ) -> None:
        self._reporter, self._names, self._patience = reporter, names, patience
        self._watch = Watch(rows)
        self._latest: dict[str, float | int] = {}
        self.cause = "It began before this sitting."

    def tell(
        self, row: dict[str, float | int], metrics: Mapping[str, np.ndarray], progress: Progress, streak: int
    ) -> None:
        """Writes the row of one dispatch, and warns of what is wrong with it.

        Args:
          metrics: of each step of the dispatch, `[steps, ...]`.
          streak: steps in a row, up to the dispatch's last, that were skipped.
        """
        step, length = int(row["step"]), len(metrics["skipped"])
        self._reporter.write(row | {"seconds": progress.seconds, "steps_per_second": progress.steps_per_second})
        self._latest |= row
        self._reporter.advance(step, **shown(self._latest, self._names, progress, self._patience))
        for sentence in self._watch(row):
            self._reporter.warn(sentence, step)
        # Steps skipped for the size of a finite gradient are the watch's business: here, those that were not finite.
        not_finite = metrics["skipped"] > metrics.get("large", 0)
        if not_finite.any():
            first = step - length
            self._reporter.say(why_skipped(metrics, self._names, first, int(np.flatnonzero(not_finite)[0])))
            if 0 < streak <= length:
                self.cause = why_skipped(metrics, self._names, first, length - streak)


def per_level(prefix: str, names: tuple[str, ...], rates: np.ndarray) -> dict[str, float | int]:
    """Rates `[L]` as one entry for each level, "PREFIX/NAME"."""
    return {f"{prefix}/{name}": float(rate) for name, rate in zip(names, rates, strict=True)}


def summarise(
    metrics: Mapping[str, np.ndarray], names: tuple[str, ...], step: int, plan: Plan
) -> dict[str, float | int]:
    """The metrics of one dispatch as one row: nats, means over the steps that were not skipped.

    Args:
      metrics: `[steps]`, with "rates" `[steps, L]`.
      names: names of the levels, top first.
      step: steps taken once the dispatch is over.
    """
    # Where no step was taken there is no mean: nan, without NumPy's warning.
    taken = metrics["skipped"] == 0
    means = {
        name: float(v[taken].mean()) if taken.any() else float("nan") for name, v in metrics.items() if v.ndim == 1
    }
    rates = metrics["rates"][taken].mean(0) if taken.any() else np.full(len(names), np.nan)
    # Skipped steps are counted, and their mean over steps that were not skipped would be 0.
    means |= {name: float(metrics[name].sum()) for name in ("skipped", "large") if name in metrics}
    return {"step": step, "epoch": step / plan.epoch_steps, **means, **per_level("rate", names, rates)}


def shown(
    latest: Mapping[str, float | int], names: tuple[str, ...], progress: Progress, patience: int
) -> dict[str, str]:
    """The entries of the progress line: the latest value of each, and rates by level while there is room for them."""
    rates = [latest[f"rate/{name}"] for name in names]
    few = {f"KL {name}": f"{rate:.2f}" for name, rate in zip(names, rates, strict=True)}
    validated = {"validation ELBO": f"{latest['validation/elbo']:.2f}"} if "validation/elbo" in latest else {}
    return {
        "loss": f"{latest['loss']:.2f}",
        "ELBO": f"{latest['elbo']:.2f}",
        **(few if len(names) <= 4 else {"KL": f"{sum(rates):.2f}"}),
        **validated,
        "best": f"{progress.best_elbo:.2f}",
        "patience": f"{progress.stale}/{patience}",
    }


def why_skipped(metrics: Mapping[str, np.ndarray], names: tuple[str, ...], first: int, at: int) -> str:
    """The reason why step `at` of a dispatch was skipped: the first level without a finite rate, else loss or gradient.

    Args:
      metrics: `[steps]`, with "rates" `[steps, L]`.
      first: number of the dispatch's first step.
    """
    # From the top, since a level's nan spreads to all levels below it.
    broken = [name for name, rate in zip(names, metrics["rates"][at], strict=True) if not np.isfinite(rate)]
    if broken:
        cause = f"the rate of {broken[0]} went first"
    elif not np.isfinite(metrics["log_px"][at]):
        cause = "log p(x | z) went first, every rate was finite"
    elif not np.isfinite(metrics["loss"][at]):
        cause = "the loss itself, every rate was finite"
    else:
        cause = "the gradients, the loss and every rate were finite"
    count, total = int((metrics["skipped"] - metrics.get("large", 0)).sum()), len(metrics["skipped"])
    return f"Step {first + at} was not finite ({cause}); {count} of the {total} updates of its dispatch were skipped."
