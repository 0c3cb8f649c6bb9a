"""Checks that a model fits its data and a machine, before anything is computed."""

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from hvae_jax.data.dataset import MISSING, Dataset
from hvae_jax.experiment.records import Experiment
from hvae_jax.likelihoods import Categorical, for_data
from hvae_jax.objectives import Enumerated, Objective
from hvae_jax.objectives.enumerated import check_count
from hvae_jax.trace import Model

MOST_PARTS = 1_000
"""Largest number of anything that is built one by one: layers, blocks, levels, threads."""
LARGEST_SIZE = 10_000_000
"""Largest size of anything else in a model, such as a width."""
LARGEST_NUMBER = 2**31 - 1
"""Largest number of examples, draws or devices: JAX counts in int32."""

SLOW_DEPTH = 100
"""Depth from which on a network takes minutes to trace and compile, layer by layer."""

_SPARE = 4  # times as many values as needed, from which on a likelihood is warned of
_EXAMPLES = 64  # that an objective looks at
_PARTS = ("depth", "layers", "blocks", "cells", "flow_steps", "unroll", "threads", "workers", "ahead")
_ENDLESS = ("steps", "epochs", "patience")  # limits and intervals that need never be reached


def check_fits(model: Model, dataset: Dataset) -> None:
    """Raises ValueError, naming what would fit, if the model's image, likelihood or labels do not fit the data.

    Warns of a `Categorical` with several times as many values as the data has.
    """
    image, event = model.image, dataset.event
    if image is not None and tuple(image) != event:
        remedy = "Take another preset, or set model.image and what reaches it; --data.size scales some data sets."
        if tuple(image) == (*event, 1):
            remedy = f"Grey images have an axis of one channel, {_by((*event, 1))}: save x[..., None]."
        raise ValueError(
            f"The model is for images of {_by(image)}, but those of {dataset.name} are {_by(event)}. {remedy}"
        )
    likelihood = model.likelihood
    if dataset.missing:
        check_missing(model, dataset)
    if likelihood is not None:
        for name, split in dataset.splits.items():
            # Of a split that is read where it lies, the first examples: reading all of it may take hours.
            some = split if isinstance(split.x, np.ndarray) else split.take(slice(256))
            try:
                likelihood.check(some.x, f"{dataset.name}, {name} split,")
            except ValueError as error:
                raise ValueError(f"{error} For this data set ({dataset.kind}), {for_data(dataset)} fits.") from None
        _check_values(likelihood, dataset)
    classes = model.classes
    if not classes:
        return
    for name, split in dataset.splits.items():
        if split.y is None:
            raise ValueError(
                f"The model has classes={classes}, but {dataset.name} has no labels in its {name} split: set "
                "model.classes to 0, or add them."
            )
        if (missing := int((split.y == MISSING).sum())) > 0:
            raise ValueError(
                f"The model has classes={classes} and is conditioned on the class, but {missing:,} of the "
                f"{len(split):,} examples of {dataset.name}'s {name} split have no label: label them all, leave "
                "data.labels out, or take a model that infers classes, such as CaGeM."
            )
        if split.y.max() >= classes:
            raise ValueError(
                f"The model has classes={classes}, but {dataset.name} has the label {split.y.max()} in its {name} "
                f"split ({dataset.classes} labels in {next(iter(dataset.splits))}): set model.classes to "
                f"{int(split.y.max()) + 1} or more."
            )


def _check_values(likelihood: Any, dataset: Dataset) -> None:
    """Warns if most outputs of a `Categorical` are for values that the data does not have."""
    values = dataset.kind.num_values
    if isinstance(likelihood, Categorical) and 0 < _SPARE * values <= likelihood.num_values:
        warnings.warn(
            f"The likelihood has {likelihood.num_values} values, but those of {dataset.name} are {values} "
            f"({dataset.kind}): {for_data(dataset)} takes less memory and time (--likelihood categorical:{values}).",
            stacklevel=3,
        )


def check_missing(model: Model, dataset: Dataset) -> None:
    """Raises ValueError for a model whose bound of what is seen is not known, if the data has missing values."""
    name, family = type(model).__name__, model.likelihood
    if model.observed:
        raise ValueError(
            f"{dataset.name} has missing values, but {name} has levels that are functions of x "
            f"({', '.join(model.observed)}), which need all of x: take another model."
        )
    if family is None or not family.takes_missing:
        raise ValueError(
            f"{dataset.name} has missing values, but {name} has "
            f"{'a likelihood of its own' if family is None else str(family)}, which scores whole x alone. Take a model "
            "with the setting likelihood, such as TopDownVAE, and likelihoods.Missing around it."
        )
    for part, split in dataset.splits.items():
        x = split.x if isinstance(split.x, np.ndarray) else split.take(slice(256)).x
        family.check_seen(~np.isnan(x), f"{dataset.name}, {part} split")


def check_labels(model: Model, objective: Objective, dataset: Dataset) -> None:
    """Raises ValueError if labels that are to reveal a latent class are missing, or are no classes of the model.

    Likewise for a sum over classes that the model does not have, or that are too many.
    """
    clusters, y = model.clusters, dataset.splits["train"].y
    if isinstance(objective, Enumerated):
        if not clusters:
            raise ValueError(
                f"Enumerated sums over the classes of a latent, but {type(model).__name__} has none: take CaGeM, or "
                "another objective."
            )
        check_count(clusters)
        if objective.alpha > 0 and not len(dataset.train.labelled):
            raise ValueError(
                f"Enumerated(alpha={objective.alpha:g}) weighs log q(y | x) of labelled examples, but {dataset.name} "
                "has no label in its train split: keep some by data.labels, or set objective.alpha to 0 to train "
                "without."
            )
    if clusters and y is not None and y.max() >= clusters:
        raise ValueError(
            f"The model has clusters={clusters}, but {dataset.name} has the label {y.max()} in its train split: set "
            f"model.clusters to {int(y.max()) + 1} or more, or data.labels to 0, which hides all labels."
        )


def check_objective(model: Model, objective: Objective, dataset: Dataset) -> None:
    """Raises ValueError for a model or examples that the objective does not serve (`Objective.check`)."""
    objective.check(model, dataset.splits["train"].take(slice(_EXAMPLES)).x)


def check_numbers(experiment: Experiment) -> None:
    """Raises ValueError for a whole number that no machine could build: models would be traced for hours.

    `MOST_PARTS` bounds what is built one by one, `LARGEST_SIZE` the other numbers of a model, `LARGEST_NUMBER` those of
    examples, draws and devices. A seed has 32 bits: of a longer one JAX would take the last 32. Warns of a depth of
    `SLOW_DEPTH` or more.
    """
    for path, number in _whole_numbers(experiment, ""):
        name = path.rpartition(".")[2].partition("[")[0]
        if name in _PARTS:
            most = MOST_PARTS
            if name == "depth" and SLOW_DEPTH <= number <= most:
                warnings.warn(
                    f"{path} is {number}: the layers of each network are traced and compiled one by one, which takes "
                    "minutes before the first step.",
                    stacklevel=2,
                )
        elif path.startswith("model."):
            most = LARGEST_SIZE
        elif path == "seed":
            most = 2**32 - 1
        else:
            most = None if name in _ENDLESS or name.endswith(("_every", "streak")) else LARGEST_NUMBER
        if most is not None and not -(2**31) <= number <= most:
            bound = f"at most {most:,}" if number > 0 else f"at least {-(2**31):,}"
            raise ValueError(f"{path} is {number}, but it can be {bound}.")


def _whole_numbers(value: Any, path: str) -> Iterator[tuple[str, int]]:
    """The whole numbers among a record's settings, with their paths, such as "model.latents[0]".

    Raises ValueError for a tuple of more than `MOST_PARTS` items.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        yield path, value
    elif isinstance(value, tuple):
        if len(value) > MOST_PARTS:
            raise ValueError(f"{path} has {len(value)} items, but it can have at most {MOST_PARTS:,}.")
        for number, item in enumerate(value):
            yield from _whole_numbers(item, f"{path}[{number}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        left_out = ("parent", "name") if isinstance(value, nn.Module) else ()
        for field in dataclasses.fields(value):
            if field.init and field.name not in left_out:
                inner = f"{path}.{field.name}" if path else field.name
                yield from _whole_numbers(getattr(value, field.name), inner)


def check_state_fits(state: Any, memory: int, split_over: int) -> None:
    """Raises ValueError if a device cannot hold its part of the training state.

    Args:
      state: the state, shapes alone.
      memory: bytes of a device.
      split_over: number of devices that the state is split over.
    """
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    if needed > memory * split_over:
        raise ValueError(
            f"The model has {count:,} parameters, whose training state takes {needed / 2**30:,.1f} GiB, but "
            f"{f'{split_over} devices have' if split_over > 1 else 'a device has'} "
            f"{memory * split_over / 2**30:,.1f} GiB. Lower the model's sizes"
            f"{'.' if split_over > 1 else ', or split the state over several devices with --devices.fsdp.'}"
        )


def _by(shape: Sequence[int]) -> str:
    """A shape in words, "28x28x1"."""
    return "x".join(map(str, shape))
