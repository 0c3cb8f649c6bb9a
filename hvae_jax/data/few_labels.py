"""Semi-supervised data: the labels of most training examples hidden."""

import dataclasses

import numpy as np

from hvae_jax.data.dataset import MISSING, Dataset, Split
from hvae_jax.data.rows import chosen


def few_labels(dataset: Dataset, per_class: int, share: float | None = None, seed: int = 0) -> Dataset:
    """The data set whose train split keeps `per_class` labels of each class; `MISSING` takes the place of the others.

    Examples and the other splits stay as they are: their labels are there to measure with.

    Args:
      per_class: number of labels of each class that are kept, drawn without replacement; 0 hides all.
      share: fraction of the examples of an epoch that have a label: labelled ones are repeated, all equally often, the
        nearest whole number of times (once at least). None repeats none. Repeated examples weigh more in the bound that
        is trained on, too.
      seed: seed of the draw, on which nothing else depends.
    Raises ValueError for data without labels, a class with fewer examples, a negative number of labels, and a share
    that is not between 0 and 1 or has no labels to repeat.

    Example:
        >>> dataset = hv.data.few_labels(hv.data.digits(), per_class=10)
        >>> len(dataset.train.labelled)
        100
    """
    train = dataset.splits["train"]
    _check(dataset, train, per_class, share)
    assert train.y is not None
    generator = np.random.Generator(np.random.Philox(seed))
    kept = []
    for label in np.unique(train.y[train.y != MISSING]):
        rows = np.flatnonzero(train.y == label)
        if len(rows) < per_class:
            raise ValueError(
                f"labels={per_class} of each class are to be kept, but {dataset.name} has {len(rows)} train examples "
                f"of class {label}. Keep at most so many."
            )
        kept.append(generator.permutation(rows)[:per_class])
    labelled = np.sort(np.concatenate(kept))
    y = np.full_like(train.y, MISSING)
    y[labelled] = train.y[labelled]
    splits = {**dataset.splits, "train": Split(train.x, y)}
    said = f"{dataset.protocol}; {per_class} labels of each class, drawn with seed {seed}"
    source = Split(dataset.train.x, y)
    training = None if dataset.training is None else source
    if share is not None:
        times = _times(len(y), len(labelled), share)
        numbers = np.concatenate([np.arange(len(y)), *[labelled] * (times - 1)])
        training = Split(chosen(source.x, numbers), y[numbers])
        said += f", each example with one {times} times an epoch"
    return dataclasses.replace(dataset, splits=splits, protocol=said, training=training)


def _times(examples: int, labelled: int, share: float) -> int:
    """How often each labelled example occurs in an epoch: r with r m/(N - m + r m) nearest to the share."""
    return max(1, round(share * (examples - labelled) / ((1.0 - share) * labelled)))


def _check(dataset: Dataset, train: Split, per_class: int, share: float | None) -> None:
    if not len(train.labelled):
        raise ValueError(
            f"labels={per_class} keeps so many labels of each class, but {dataset.name} has none. Leave labels out, or "
            "take data with labels."
        )
    if per_class < 0:
        raise ValueError(f"labels={per_class}: 0 hides all labels, a positive number keeps so many of each class.")
    if share is not None and not per_class:
        raise ValueError(
            f"label_share={share} repeats labelled examples, but labels=0 keeps none. Set label_share to None, or keep "
            "labels."
        )
    if share is not None and not 0 < share < 1:
        raise ValueError(f"label_share={share}: it has to be between 0 and 1.")
