"""What the loop writes and says: one row a dispatch, the progress line, and why a step was skipped."""

from typing import Any

import jax
import numpy as np
from jax import Array

from hvae_jax.trace import Model
from hvae_jax.training.checkpoint import Progress
from hvae_jax.training.plan import Plan


def level_names(model: Model, data: Any) -> tuple[str, ...]:
    """Names of the model's levels, top first, from shapes alone; `data` has x and y."""
    one = [None if a is None else jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype) for a in (data.x, data.y)]

    def trace_of(x: Array, y: Array | None) -> Any:
        key = jax.random.key(0)
        return model.apply(model.init(key, x, key, y=y), x, key, y=y)

    return jax.eval_shape(trace_of, *one).names


def per_level(prefix: str, names: tuple[str, ...], rates: np.ndarray) -> dict[str, float | int]:
    """One entry a level."""
    return {f"{prefix}/{name}": float(rate) for name, rate in zip(names, rates, strict=True)}


def summarise(metrics: dict[str, np.ndarray], names: tuple[str, ...], step: int, plan: Plan) -> dict[str, float | int]:
    """The metrics of one dispatch as one row: means over its steps that were not skipped, nats."""
    taken = metrics["skipped"] == 0
    means = {
        name: float(v[taken].mean()) if taken.any() else float("nan") for name, v in metrics.items() if v.ndim == 1
    }
    rates = metrics["rates"][taken].mean(0) if taken.any() else np.full(len(names), np.nan)
    means |= {name: float(metrics[name].sum()) for name in ("skipped", "large") if name in metrics}
    return {"step": step, "epoch": step / plan.epoch_steps, **means, **per_level("rate", names, rates)}


def shown(latest: dict[str, float | int], names: tuple[str, ...], progress: Progress, patience: int) -> dict[str, str]:
    """What stands on the progress line: the latest of everything; rates by level while there is room for them."""
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


def why_skipped(metrics: dict[str, np.ndarray], names: tuple[str, ...], first: int, at: int) -> str:
    """Why step `at` of a dispatch was skipped: which level's rate went first, from the top."""
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
