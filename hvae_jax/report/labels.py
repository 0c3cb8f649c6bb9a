"""What linear probes read about the labels: from samples of each level, and from its posterior means."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from hvae_jax.data.dataset import Split
from hvae_jax.diagnostics import Features, accuracy_of, clearly_best, fano, features, probe_right
from hvae_jax.runtime.compilation import jit_once
from hvae_jax.trace import Model

DRAWS = 4
"""Draws of the latents of each example, train and test. One classifier reads each draw by itself."""

UNITS = 256
"""Largest number of units that a probe of one level reads, those with the highest KL. Very deep models have levels of
tens of thousands, which would take minutes each."""


def probes(
    model: Model, variables: Any, train: Split, test: Split, units: Sequence[Mapping[str, Any]], key: Array
) -> dict[str, Any] | None:
    """Accuracies of linear probes of every level, top first; None for data without labels.

    `levels` has for each level `sampled`, of sampled latents, with `needs`, the least nats that this takes by Fano's
    inequality; `means`, of the posterior means; and `units`, the number of units that are read. `best` is the index of
    the level whose samples are read best beyond the errors, or None.

    Args:
      train, test: splits that probes are fitted to, all labelled, and tested on, where they are.
      units: the report's units of each level: their number, and their order, highest KL first.
    """
    if len(test.labelled) < len(test):
        test = test.take(test.labelled)
    if train.y is None or test.y is None or not len(test) or len(np.unique(train.y)) < 2:
        return None
    taken = [_highest(level) for level in units]
    keys = jax.random.split(key)
    learned, read = (
        _features(model, variables, split, taken, one) for split, one in zip((train, test), keys, strict=True)
    )
    levels, rights = [], []
    for i in range(len(units)):
        right = probe_right(learned.sampled[i], train.y, read.sampled[i], test.y)
        means = probe_right(learned.means[i][None], train.y, read.means[i][None], test.y)
        sampled = accuracy_of(right, test.y)
        rights.append(right)
        levels.append(
            {
                "sampled": dataclasses.asdict(sampled),
                "needs": fano(sampled.value, test.y),
                "means": dataclasses.asdict(accuracy_of(means, test.y)),
                "units": read.means[i].shape[1],
            }
        )
    best = clearly_best(rights, levels[0]["sampled"]["chance"])
    return {"levels": levels, "best": best, "draws": DRAWS, "examples": len(train)}


def _highest(level: Mapping[str, Any]) -> np.ndarray:
    """Indices of at most `UNITS` units of a level; the first ones where their KL is that of a joint density."""
    order = level["order"] if len(level["order"]) == level["units"] else range(level["units"])
    return np.asarray(order[:UNITS])


def _features(model: Model, variables: Any, split: Split, units: Sequence[np.ndarray], key: Array) -> Features:
    """The features of one split."""
    x, y = np.asarray(split.x), split.y if model.classes else None
    return jax.device_get(jit_once(lambda v, x: features(model, v, x, key, DRAWS, y, units))(variables, x))
