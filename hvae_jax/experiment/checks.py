"""Checks that a model fits its data."""

from collections.abc import Sequence

import numpy as np

from hvae_jax.data.dataset import Dataset
from hvae_jax.likelihoods import for_data
from hvae_jax.trace import Model


def check_fits(model: Model, dataset: Dataset) -> None:
    """Raises ValueError, naming what would fit, if the model's image, likelihood or labels do not fit the data."""
    image, event = model.image, dataset.event
    if image is not None and tuple(image) != event:
        raise ValueError(
            f"The model is for images of {_by(image)}, but those of {dataset.name} are {_by(event)}. Take another "
            "preset, or set model.image and what reaches it; --data.size scales some data sets."
        )
    likelihood = model.likelihood
    if likelihood is not None:
        for name, split in dataset.splits.items():
            # Of a split that is read where it lies, the first examples: reading all of it may take hours.
            some = split if isinstance(split.x, np.ndarray) else split.take(slice(256))
            try:
                likelihood.check(some.x, f"{dataset.name}, {name} split,")
            except ValueError as error:
                raise ValueError(f"{error} For this data set ({dataset.kind}), {for_data(dataset)} fits.") from None
    classes = model.classes
    if not classes:
        return
    for name, split in dataset.splits.items():
        if split.y is None:
            raise ValueError(
                f"The model has classes={classes}, but {dataset.name} has no labels in its {name} split: set "
                "model.classes to 0, or add them."
            )
        if split.y.max() >= classes:
            raise ValueError(
                f"The model has classes={classes}, but {dataset.name} has the label {split.y.max()} in its {name} "
                f"split ({dataset.classes} labels in train): set model.classes to {int(split.y.max()) + 1} or more."
            )


def _by(shape: Sequence[int]) -> str:
    """A shape in words, "28x28x1"."""
    return "x".join(map(str, shape))
