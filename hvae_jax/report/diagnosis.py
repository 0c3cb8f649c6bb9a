"""The report on a trained model: every diagnostic with its standard error, and conclusions in words."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.data.dataset import Dataset, Split
from hvae_jax.diagnostics import (
    Usage,
    active_units,
    auroc,
    bootstrap,
    bound_above,
    information,
    linear_probe,
    moving_units,
    standard_error,
    two_samples,
    usage,
    used_units,
)
from hvae_jax.objectives import importance
from hvae_jax.report.words import words
from hvae_jax.runtime.compilation import jit_once
from hvae_jax.trace import Model

Number = dict[str, float]  # {"value": ..., "error": its standard error}


@dataclasses.dataclass(frozen=True)
class Effort:
    """The amount of computation for a report.

    Attributes:
      examples: number of examples of the split, its first ones; N in the ceiling log N of the information.
      draws: draws of the latents behind rates, units and bounds above a level.
      k: draws of the importance-weighted bound.
      latents: number of examples whose latents are compared with all N examples, at the cost of that many times N
        descents.
      probed: training examples that a probe is fitted to.
      depths: largest number of k's for which the bound L^{>k} is measured; of a deeper model's some are left out.
    """

    examples: int = 1000
    draws: int = 16
    k: int = 200
    latents: int = 200
    probed: int = 2000
    depths: int = 16

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 2 if field.name == "latents" else 1
            if value < least:
                raise ValueError(f"{field.name} is {value}, but it has to be {least} or more.")


def diagnose(
    model: Model,
    variables: Any,
    dataset: Dataset,
    key: Array,
    split: str | None = None,
    effort: Effort = Effort(),
    other: Dataset | None = None,
    tell: Callable[[str], None] = lambda part: None,
) -> dict[str, Any]:
    """The contents of the report, as plain numbers: nats, levels top first.

    Args:
      split: split that is measured; None takes the last one (test, if there is one).
      other: data that the model was not made for, whose last split the likelihood ratio tells apart; None for none.
      tell: called with the name of each part before it is computed.
    Raises ValueError for a split that does not exist or has fewer than two examples.
    """
    name = split or list(dataset.splits)[-1]
    if name not in dataset.splits:
        raise ValueError(f"{dataset.name} has no split {name!r}; it has {list(dataset.splits)}.")
    whole = dataset.splits[name]
    some = whole.take(slice(effort.examples))
    n = len(some)
    if n < 2:
        raise ValueError(f"The {name} split of {dataset.name} has {n} example, but a report needs 2 or more.")
    y = some.y if model.classes else None
    keys = jax.random.split(key, 6)
    x = np.asarray(some.x)

    tell("rates and units")
    used: Usage = jax.device_get(
        jit_once(lambda v, k: usage(model, v, x, k, draws=effort.draws, y=y))(variables, keys[0])
    )
    tell("importance-weighted bound")
    bounds = jax.device_get(importance(model, variables, x, keys[1], effort.k, min(10, effort.k), y))
    tell("information")
    seen = information(model, variables, x, keys[2], min(effort.latents, n), y)
    cumulative = np.cumsum(used.rates, axis=0)
    report: dict[str, Any] = {
        "data": dataset.name,
        "split": name,
        "examples": n,
        "levels": list(seen.names),
        "effort": dataclasses.asdict(effort),
        "elbo": _number(bounds.elbo),
        "iw_bound": _number(bounds.bound) | {"k": effort.k},
        "gap": _number(bounds.bound - bounds.elbo),
        "bits_per_dim": float(-bounds.bound.mean() / (math.log(2) * dataset.dimensions)),
        "effective_sample_size": _number(bounds.effective_sample_size),
        "distortion": _number(-used.log_px),
        "rate": _number(cumulative[-1]),
        "rates": [_number(rate) for rate in used.rates],
        "cumulative_rates": [_number(rate) for rate in cumulative],
        "units": _units(used),
        "information": _information(seen),
    }
    tell("bounds of the upper levels alone")
    report["bounds_above"] = _bounds_above(model, variables, x, keys[3], effort, y, other)
    tell("nearest neighbours")
    report["told_apart"] = _told_apart(model, variables, x, keys[4], y)
    tell("probes of labels")
    report["probes"] = _probes(model, variables, dataset, some, used, keys[5], effort)
    report["words"] = words(report)
    return report


def _number(values: Any) -> Number:
    """The mean over the examples and its standard error."""
    return {"value": float(np.mean(values)), "error": float(standard_error(values))}


def _units(used: Usage) -> list[dict[str, Any]]:
    """The units of each level: how many there are, are active, used and moving, and the KL of each, highest first."""
    parts = {
        "active": (active_units, used.posterior_means),
        "used": (used_units, used.unit_rates),
        "moving": (moving_units, used.offsets),
    }
    levels: list[dict[str, Any]] = [{"units": means.shape[1]} for means in used.posterior_means]
    for name, (count, arrays) in parts.items():
        errors = bootstrap(count, arrays)
        for level, array, value, error in zip(levels, arrays, count(arrays), errors, strict=True):
            counted = array.shape[1] == level["units"]
            level[name] = {"value": value, "error": float(error)} if counted else None
    for level, rates in zip(levels, used.unit_rates, strict=True):
        mean = rates.mean(0)
        order = np.argsort(-mean)
        level["order"] = order.tolist()
        level["rates"] = mean[order].tolist()
        level["rates_error"] = standard_error(rates.T)[order].tolist()
    return levels


def _information(seen: Any) -> dict[str, Any]:
    """The information by level, top first, with its ceiling; None for a level without a density of its own."""

    def numbers(values: np.ndarray, errors: np.ndarray) -> list[Number | None]:
        pairs = zip(values.tolist(), errors.tolist(), strict=True)
        return [None if math.isnan(value) else {"value": value, "error": error} for value, error in pairs]

    least, most = seen.to_prior
    return {
        "ceiling": seen.ceiling,
        "lower": numbers(seen.lower, seen.lower_error),
        "upper": numbers(seen.upper, seen.upper_error),
        "to_prior_lower": numbers(least, np.hypot(seen.rates_error, seen.upper_error)),
        "to_prior_upper": numbers(most, np.hypot(seen.rates_error, seen.lower_error)),
    }


def _bounds_above(
    model: Model, variables: Any, x: np.ndarray, key: Array, effort: Effort, y: Any, other: Dataset | None
) -> list[dict[str, Any]]:
    """L^{>k} for k = 0 to L - 1 (of stages, if a model has them), and how well LLR^{>k} detects the other data.

    Of more than `effort.depths` k's those are taken that are evenly spread.
    """
    strange = None if other is None else np.asarray(other.splits[list(other.splits)[-1]].take(slice(len(x))).x)
    bound = jax.jit(lambda v, x, y, k: bound_above(model, v, x, key, k, effort.draws, y))
    found, first, first_strange = [], None, None
    # k is data of one compiled program, not a setting of many.
    deepest = len(model.levels_per_stage) - 1
    for k in np.unique(np.linspace(0, deepest, effort.depths).round().astype(int)).tolist():
        here = np.asarray(bound(variables, x, y, jnp.int32(k)))
        first = here if first is None else first
        entry: dict[str, Any] = {"k": k, "bound": _number(here), "ratio": _number(first - here)}
        if strange is not None and other is not None and y is None:
            there = np.asarray(bound(variables, strange, None, jnp.int32(k)))
            first_strange = there if first_strange is None else first_strange
            scores = (-here, -there) if k == 0 else (first - here, first_strange - there)
            area, error = auroc(*scores)
            entry["auroc"] = {"value": area, "error": error, "data": other.name}
        found.append(entry)
    return found


def _told_apart(model: Model, variables: Any, x: np.ndarray, key: Array, y: Any) -> dict[str, Any]:
    """Accuracies of nearest neighbours at telling latents of data from those of the prior, and data from samples."""
    key_q, key_p, key_x = jax.random.split(key, 3)
    n = len(x)

    @jit_once
    def both(variables: Any) -> tuple[Any, Any, Any]:
        prior = model.apply(variables, key_p, n, y=y, method="decode")
        return model.apply(variables, x, key_q, y=y).latents, prior.latents, prior.x_dist.sample(key_x)

    posterior, prior, samples = jax.device_get(both(variables))
    report: dict[str, Any] = {"samples": dataclasses.asdict(two_samples(x, samples))}
    report["latents"] = [dataclasses.asdict(two_samples(q, p)) for q, p in zip(posterior, prior, strict=True)]
    return report


def _probes(
    model: Model, variables: Any, dataset: Dataset, some: Split, used: Usage, key: Array, effort: Effort
) -> list[dict[str, float]] | None:
    """The accuracy of a linear probe of each level's posterior means; None for data without labels."""
    train = dataset.splits["train"].take(slice(effort.probed))
    if train.y is None or some.y is None or len(np.unique(train.y)) < 2:
        return None
    y = train.y if model.classes else None
    learned: Usage = jax.device_get(
        jit_once(lambda v, k: usage(model, v, np.asarray(train.x), k, draws=effort.draws, y=y))(variables, key)
    )
    pairs = zip(learned.posterior_means, used.posterior_means, strict=True)
    return [dataclasses.asdict(linear_probe(a, train.y, b, some.y)) for a, b in pairs]
