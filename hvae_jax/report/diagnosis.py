"""The report on a trained model: every diagnostic with its standard error, and conclusions in words."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.data.dataset import Dataset
from hvae_jax.diagnostics import (
    Alphabet,
    Information,
    Measured,
    Usage,
    active_units,
    alphabets,
    auroc,
    bootstrap,
    bound_above,
    carrying_units,
    class_accuracy,
    class_levels,
    class_use,
    clustering_accuracy,
    information,
    loss_without,
    measured,
    moving_units,
    perplexities,
    standard_error,
    two_samples,
    used_units,
)
from hvae_jax.records import checked
from hvae_jax.report.labels import probes
from hvae_jax.report.remedies import facts
from hvae_jax.report.verdicts import verdict
from hvae_jax.report.words import words
from hvae_jax.runtime.compilation import jit, jit_once
from hvae_jax.trace import Model

Number = dict[str, float]  # {"value": ..., "error": its standard error}


@dataclasses.dataclass(frozen=True)
@checked
class Effort:
    """The amount of computation for a report.

    Attributes:
      examples: number of examples of the split, its first ones; N in the ceiling log N of the information.
      draws: draws of the latents behind bounds above a level and losses without one.
      k: draws of all latents behind ELBO, importance-weighted bound, rates, distortion and units.
      latents: number of examples whose latents are compared with all N examples, at the cost of that many times N
        descents.
      probed: training examples that a probe is fitted to.
      depths: largest number of k's for which the bound L^{>k} is measured; of a deeper model's some are left out.
    """

    examples: int = 1000
    draws: int = 8
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
    keys, x = jax.random.split(key, 6), np.asarray(some.x)

    tell("rates, bounds and units")
    # One set of draws for all that has to add up: ELBO = -distortion - rate. x is data of the programs: of a constant
    # XLA would compute y = d(x) while it compiles.
    found: Measured = jax.device_get(
        jit(lambda v, x, k: measured(model, v, x, k, draws=effort.k, y=y))(variables, x, keys[0])
    )
    used, elbo = found.usage, np.asarray(found.elbo)
    tell("losses without a level")
    lost = np.asarray(jit(lambda v, x: loss_without(model, v, x, keys[1], effort.draws, y))(variables, x))
    tell("information")
    seen = information(model, variables, x, keys[2], min(effort.latents, n), y)
    cumulative = np.cumsum(used.rates, axis=0)
    report: dict[str, Any] = {
        "data": dataset.name,
        "split": name,
        "examples": n,
        "levels": list(seen.names),
        "effort": dataclasses.asdict(effort),
        "elbo": _number(elbo),
        "iw_bound": _number(found.bound) | {"k": effort.k},
        "gap": _number(found.bound - elbo),
        "bits_per_dim": float(-found.bound.mean() / (math.log(2) * dataset.dimensions)),
        "effective_sample_size": _number(found.effective_sample_size),
        "distortion": _number(-used.log_px),
        "rate": _number(cumulative[-1]),
        "rates": [_number(rate) for rate in used.rates],
        "cumulative_rates": [_number(rate) for rate in cumulative],
        "distances": [_number(distance) for distance in found.distance],
        "losses": [_number(values) if np.isfinite(values).all() else None for values in lost],
        "observed": list(model.observed),
        "units": _units(used, [name in model.observed for name in seen.names]),
        "classes": [
            {"level": seen.names[i], **_classes(np.asarray(used.posterior_means[i]), some.y)}
            for i in class_levels(model, variables, x, y)
        ],
    }
    report["model"] = facts(model)
    report["discrete"] = _discrete(alphabets(model, variables, x, y), used)
    report["information"] = _information(seen, report["cumulative_rates"])
    per_level = zip(report["rates"], report["losses"], report["distances"], strict=True)
    report["verdicts"] = [verdict(rate, loss, distance) for rate, loss, distance in per_level]
    tell("bounds of the upper levels alone")
    report["bounds_above"] = _bounds_above(model, variables, x, keys[3], effort, y, elbo, lost[-1], other)
    tell("nearest neighbours")
    report["told_apart"] = _told_apart(model, variables, x, keys[4], y)
    tell("probes of labels")
    train = dataset.splits["train"]
    train = train.take(slice(effort.probed) if train.y is None else train.labelled[: effort.probed])
    report["probes"] = probes(model, variables, train, some, report["units"], keys[5])
    report["words"] = words(report)
    return report


def _number(values: Any) -> Number:
    """The mean over the examples and its standard error."""
    return {"value": float(np.mean(values)), "error": float(standard_error(values))}


def _units(used: Usage, observed: Sequence[bool]) -> list[dict[str, Any]]:
    """The units of each level: how many there are, are active, used, carry 95% of the rate and move, and their KLs.

    Their KLs come highest first, `order` with the index of each. The elements of an observed level, which are no
    latents, are not counted.
    """
    parts = {
        "active": (active_units, used.posterior_means),
        "used": (used_units, used.unit_rates),
        "carrying": (carrying_units, used.unit_rates),
        "moving": (moving_units, used.offsets),
    }
    levels: list[dict[str, Any]] = [{"units": means.shape[1]} for means in used.posterior_means]
    for name, (count, arrays) in parts.items():
        errors = bootstrap(count, arrays)
        for level, array, value, error, known in zip(levels, arrays, count(arrays), errors, observed, strict=True):
            counted = array.shape[1] == level["units"] and not known
            level[name] = {"value": value, "error": float(error)} if counted else None
    for level, rates in zip(levels, used.unit_rates, strict=True):
        mean = rates.mean(0)
        order = np.argsort(-mean)
        level["order"] = order.tolist()
        level["rates"] = mean[order].tolist()
        level["rates_error"] = standard_error(rates.T)[order].tolist()
    return levels


def _discrete(found: Sequence[Alphabet | None], used: Usage) -> list[dict[str, Any] | None]:
    """What each discrete level can hold, and how much of it is in use; None for other levels."""
    levels: list[dict[str, Any] | None] = []
    for alphabet, means, rates in zip(found, used.posterior_means, used.unit_rates, strict=True):
        if alphabet is None:
            levels.append(None)
            continue
        numbers = {"capacity": alphabet.capacity, "perplexity": float(perplexities(alphabet, means).mean())}
        levels.append(dataclasses.asdict(alphabet) | numbers | {"used": used_units([rates])[0]})
    return levels


def _classes(probabilities: np.ndarray, y: np.ndarray | None) -> dict[str, Any]:
    """How a level of one class an example is used, and its agreement with the labels; None where there are none."""
    use = class_use(probabilities)
    numbers: dict[str, Any] = {
        "classes": probabilities.shape[1],
        "information": {"value": use.information, "error": use.error},
        "entropy": use.entropy,
        "used": use.used,
        "accuracy": None,
        "clustering": None,
    }
    if y is not None and (y >= 0).all():
        numbers["accuracy"] = dataclasses.asdict(class_accuracy(probabilities, y))
        numbers["clustering"] = dataclasses.asdict(clustering_accuracy(probabilities, y))
    return numbers


def _information(seen: Information, rates: list[Number]) -> dict[str, Any]:
    """The information by level, top first, with its ceiling; None for a level without a density of its own.

    Args:
      rates: the report's rate of each level and all above it, which bounds the information too: R = I + KL.
    """
    report: dict[str, Any] = {"ceiling": seen.ceiling}
    for name in ("lower", "upper", "to_prior_lower", "to_prior_upper"):
        report[name] = []
    values = (seen.lower, seen.lower_error, seen.upper, seen.upper_error)
    for rate, low, low_error, high, high_error in zip(rates, *(each.tolist() for each in values), strict=True):
        known = not math.isnan(low)
        lower, upper = {"value": low, "error": low_error}, {"value": high, "error": high_error}
        # Where an estimate is above the rate, the rate is the better bound, and no lower bound is above an upper one.
        lower, upper = (bound if bound["value"] < rate["value"] else dict(rate) for bound in (lower, upper))
        report["lower"].append(lower if known else None)
        report["upper"].append(upper if known else None)
        report["to_prior_lower"].append(_difference(rate, upper) if known else None)
        report["to_prior_upper"].append(_difference(rate, lower) if known else None)
    return report


def _difference(a: Number, b: Number) -> Number:
    """a - b of two independent estimates."""
    return {"value": a["value"] - b["value"], "error": math.hypot(a["error"], b["error"])}


def _bounds_above(
    model: Model,
    variables: Any,
    x: np.ndarray,
    key: Array,
    effort: Effort,
    y: Any,
    elbo: np.ndarray,
    lost: np.ndarray,
    other: Dataset | None,
) -> list[dict[str, Any]]:
    """L^{>k} for k = 0 to L - 1 (of stages, if a model has them), and how well LLR^{>k} detects the other data.

    Of more than `effort.depths` k's those are taken that are evenly spread.

    Args:
      elbo, lost: the report's ELBO, L^{>0}, and its loss without the lowest level, L - L^{>1}, of each example.
    """
    strange = None
    if other is not None and y is None:
        strange = np.asarray(other.splits[list(other.splits)[-1]].take(slice(len(x))).x)
    known = {0: elbo}
    if model.levels_per_stage[-1] == 1 and np.isfinite(lost).all():
        known[1] = elbo - lost
    bound = jit(lambda v, x, y, k: bound_above(model, v, x, key, k, effort.draws, y))
    found: list[dict[str, Any]] = []
    first: tuple[Any, ...] = ()
    # k is data of one compiled program, not a setting of many.
    deepest = len(model.levels_per_stage) - 1
    for k in np.unique(np.linspace(0, deepest, effort.depths).round().astype(int)).tolist():
        # Scores that are compared need the same draws at every k, and as many of them for both data sets.
        here = np.asarray(bound(variables, x, y, jnp.int32(k))) if strange is not None or k not in known else known[k]
        shown = known.get(k, here)
        entry: dict[str, Any] = {"k": k, "bound": _number(shown), "ratio": _number(elbo - shown)}
        if strange is not None and other is not None:
            there = np.asarray(bound(variables, strange, None, jnp.int32(k)))
            first = first or (here, there)
            scores = (first[0] - here, first[1] - there) if k else (-here, -there)
            area, error = auroc(*scores)
            entry["auroc"] = {"value": area, "error": error, "data": other.name}
        found.append(entry)
    return found


def _told_apart(model: Model, variables: Any, x: np.ndarray, key: Array, y: Any) -> dict[str, Any]:
    """Accuracies of nearest neighbours at telling latents of data from those of the prior, and data from samples."""
    key_q, key_p, key_x = jax.random.split(key, 3)
    n = len(x)

    @jit_once
    def both(variables: Any, x: Any) -> tuple[Any, Any, Any]:
        prior = model.apply(variables, key_p, n, y=y, method="decode")
        return model.apply(variables, x, key_q, y=y).latents, prior.latents, prior.x_dist.sample(key_x)

    posterior, prior, samples = jax.device_get(both(variables, x))
    report: dict[str, Any] = {"samples": dataclasses.asdict(two_samples(x, samples))}
    report["latents"] = [dataclasses.asdict(two_samples(q, p)) for q, p in zip(posterior, prior, strict=True)]
    return report
