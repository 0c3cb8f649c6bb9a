"""The report on a trained model: every diagnostic with its standard error, and conclusions in words."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
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
    bootstrap,
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
from hvae_jax.report.bounds import Bounds, by_side, sides_of
from hvae_jax.report.estimates import Number, difference, number
from hvae_jax.report.labels import probes
from hvae_jax.report.remedies import facts, remedies
from hvae_jax.report.verdicts import verdict
from hvae_jax.report.words import words
from hvae_jax.runtime.compilation import jit, jit_once
from hvae_jax.trace import Model


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
    used = found.usage
    tell("losses without a level")
    lost = np.asarray(jit(lambda v, x: loss_without(model, v, x, keys[1], effort.draws, y))(variables, x))
    tell("information")
    seen = information(model, variables, x, keys[2], min(effort.latents, n), y)
    report: dict[str, Any] = {
        "data": dataset.name,
        "split": name,
        "examples": n,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "levels": list(seen.names),
        "sides": sides_of(model, variables, x, y),
        "effort": dataclasses.asdict(effort),
        **_nats(found, effort.k, dataset.dimensions),
        "losses": [number(values) if np.isfinite(values).all() else None for values in lost],
        "observed": list(model.observed),
        "units": _units(used, [name in model.observed for name in seen.names]),
        "classes": [
            {"level": seen.names[i], **_classes(np.asarray(used.posterior_means[i]), some.y)}
            for i in class_levels(model, variables, x, y)
        ],
    }
    report["rates_by_side"] = by_side(report["sides"], np.asarray(used.rates))
    report["model"] = facts(model)
    report["discrete"] = _discrete(alphabets(model, variables, x, y), used)
    report["information"] = _information(seen, report["cumulative_rates"])
    per_level = zip(report["rates"], report["losses"], report["distances"], strict=True)
    report["verdicts"] = [verdict(rate, loss, distance) for rate, loss, distance in per_level]
    tell("bounds of the upper levels alone, and of the training examples")
    bounds = Bounds(model, variables, keys[3], effort.draws)
    report["bounds_above"] = bounds.above(x, y, effort.depths, np.asarray(found.elbo), lost[-1], other)
    train = dataset.splits["train"]
    seen_in_training = train.take(train.labelled[:n] if model.classes else slice(n))
    further = jax.random.fold_in(keys[3], 1)
    report["training"] = None
    if name != "train":
        report["training"] = bounds.of_training(seen_in_training, y is not None, report["elbo"], further)
    tell("nearest neighbours")
    report["told_apart"] = _told_apart(model, variables, x, keys[4], y)
    tell("probes of labels")
    learned = train.take(slice(effort.probed) if train.y is None else train.labelled[: effort.probed])
    report["probes"] = probes(model, variables, learned, some, report["units"], keys[5])
    report["remedies"] = remedies(report)
    report["words"] = words(report)
    return report


def _nats(found: Measured, k: int, dimensions: int) -> dict[str, Any]:
    """The estimates that come from the same k draws of all latents."""
    used, bound, cumulative = found.usage, found.bound, np.cumsum(found.usage.rates, axis=0)
    return {
        "elbo": number(found.elbo),
        "iw_bound": number(bound) | {"k": k},
        "gap": number(bound - found.elbo),
        "bits_per_dim": float(-bound.mean() / (math.log(2) * dimensions)),
        "effective_sample_size": number(found.effective_sample_size),
        "distortion": number(-used.log_px),
        "rate": number(cumulative[-1]),
        "rates": [number(rate) for rate in used.rates],
        "cumulative_rates": [number(rate) for rate in cumulative],
        "distances": [number(distance) for distance in found.distance],
    }


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
        report["to_prior_lower"].append(difference(rate, upper) if known else None)
        report["to_prior_upper"].append(difference(rate, lower) if known else None)
    return report


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
