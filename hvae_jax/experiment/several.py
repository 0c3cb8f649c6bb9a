"""Several runs beside each other: the numbers of each, means and deviations over seeds, and curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hvae_jax.experiment.tables import MANY_LEVELS
from hvae_jax.training.sinks import read_metrics

Numbers = dict[str, float]


def numbers_of(result: Mapping[str, Any], split: str | None = None) -> Numbers:
    """The numbers of a result.json that runs are compared by, by name; nats per example unless named otherwise.

    Bounds, distortion and rates are those of one split; rates of more than `MANY_LEVELS` levels are summed by
    resolution. An imported model has no numbers of a training.

    Args:
      split: the last one (test, if there is one) by default.
    Raises ValueError, naming those there are, for a split that was not measured.
    """
    split = split or list(result["elbo"])[-1]
    if split not in result["elbo"]:
        raise ValueError(f"There is no split {split!r} among the numbers: {', '.join(result['elbo'])}.")
    rates = result["rates"][split]
    if len(rates) > MANY_LEVELS and "rates_by_side" in result:
        rates = {f"{side}x{side}": rate for side, rate in result["rates_by_side"][split].items()}
    found = {
        f"{split} -ELBO": -result["elbo"][split],
        f"-log p <= (K={result['k'][split]})": -result["iw_bound"][split],
        "bits/dim": result["bits_per_dim"][split]["iw_bound"],
        "distortion": result["distortion"][split],
        **{f"KL {level}": rate for level, rate in rates.items()},
    }
    if "best_validation_elbo" in result:
        found["best validation -ELBO"] = -result["best_validation_elbo"]
        found |= {name.replace("_", " "): result[name] for name in ("best_epoch", "epochs", "steps", "seconds")}
    return {name: float(value) for name, value in found.items()}


def mean_and_deviation(several: Sequence[Numbers]) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation (n - 1) of each number over runs that have it; the deviation of one run is nan."""
    names = list(dict.fromkeys(name for numbers in several for name in numbers))
    values = {name: np.array([numbers[name] for numbers in several if name in numbers]) for name in names}
    means = {name: float(value.mean()) for name, value in values.items()}
    return means, {name: float(value.std(ddof=1)) if len(value) > 1 else np.nan for name, value in values.items()}


def validation_curve(folder: Path) -> list[tuple[float, float]]:
    """(step, -ELBO of the validation split, nats) of every validation of a run; [] if it has none yet."""
    path = folder / "metrics.jsonl"
    rows = read_metrics(path) if path.exists() else []
    return [(float(row["step"]), -row["validation/elbo"]) for row in rows if row.get("validation/elbo") is not None]
