"""The effort of a report, fitted to a budget of seconds."""

import dataclasses
from typing import Any

import jax
import numpy as np

from hvae_jax.data.dataset import Dataset
from hvae_jax.report.diagnosis import Effort
from hvae_jax.report.labels import DRAWS
from hvae_jax.runtime.work import core_seconds
from hvae_jax.trace import Model

CORES = 2
"""Cores of the machine that seconds are counted for."""

ACCELERATOR = 100.0
"""Times that an accelerator is faster than that machine, at least."""

LEAST = Effort(examples=40, draws=1, k=8, latents=8, probed=60, depths=3)
"""What a budget never goes below, so that every number still has an error that says something."""

_COUNTED = 64  # examples that work is counted for: with one, the operations on parameters would be a large part


def fit_effort(
    effort: Effort, seconds: float | None, model: Model, variables: Any, dataset: Dataset, split: str | None = None
) -> tuple[Effort, float]:
    """The effort, halved until its passes fit into `seconds`, and the seconds that they take on two cores.

    Every number is halved alike, but not below `LEAST` (or what was asked for, if that is less). Passes are counted
    from shapes and not measured: the same model gets the same effort, whatever else the machine is doing. Compilation
    comes on top.

    Args:
      seconds: the budget; None takes the effort as it is.
    """
    one = _seconds_of_a_pass(model, variables, dataset)
    found = effort
    while seconds is not None and one * passes(found, model, dataset, split) > seconds:
        smaller = _halved(found)
        if smaller == found:
            break
        found = smaller
    return found, one * passes(found, model, dataset, split)


def passes(effort: Effort, model: Model, dataset: Dataset, split: str | None = None) -> int:
    """Number of descents of single examples behind a report of this effort."""
    chosen, train = dataset.splits.get(split or list(dataset.splits)[-1]), dataset.splits["train"]
    n = 0 if chosen is None else min(effort.examples, len(chosen))  # `diagnose` refuses a split that is not there
    probed = min(effort.probed, len(train.labelled))
    depths = min(effort.depths, len(model.levels_per_stage))
    trained = 0 if chosen is train else min(n, len(train))
    # In order: rates and bounds, information, losses without a level, bounds above one, nearest neighbours, probes.
    each = effort.k + min(effort.latents, n) + (1 + model.num_levels + depths) * effort.draws + 2 + DRAWS
    return n * each + trained * effort.draws + probed * DRAWS


def _seconds_of_a_pass(model: Model, variables: Any, dataset: Dataset) -> float:
    some = dataset.splits["train"].take(slice(_COUNTED)).for_classes(model.classes)
    x, y, key = np.asarray(some.x), some.y, jax.random.key(0)
    whole = core_seconds(lambda v, x, y: model.apply(v, x, key, y=y), variables, x, y)
    faster = 1.0 if jax.default_backend() == "cpu" else ACCELERATOR
    return whole / len(x) / CORES / faster


def _halved(effort: Effort) -> Effort:
    """Half of everything, each number down to its least."""
    numbers = {}
    for field in dataclasses.fields(effort):
        value = getattr(effort, field.name)
        numbers[field.name] = min(value, max(value // 2, getattr(LEAST, field.name)))
    return Effort(**numbers)
