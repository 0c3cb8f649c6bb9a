"""Names of splits, one table for arrays, folders and TFDS; splits that are missing; splits that do not go together."""

import re
import warnings
from collections.abc import Iterable, Mapping

import numpy as np

from hvae_jax.data.dataset import MISSING, Split
from hvae_jax.runtime.errors import shown

NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""The names of each split, in any case; the first is ours."""
SEED = 0
"""Seed of the one draw of a validation split."""
_ROLES = {name: split for split, names in NAMES.items() for name in names}
_WORDS = "|".join(sorted(_ROLES, key=len, reverse=True))
_THINGS = r"(?:data)?sets?|data|images?|imgs?|pics|pictures|photos|splits?"
# train_images, test2017, train_32x32, trainA, images-test; but not test_tube, dev board or bullet train
_LIKE = re.compile(
    rf"(?i:(?:{_THINGS})?[-_ .]*(?:{_WORDS})[-_ .]*(?:{_THINGS})?)(?:[-_ .]*\d[\dx]*|[A-Z]|[-_ .][A-Za-z])?", re.ASCII
)
_CLASSES = 2**16
"""Number of classes that any data set may have; more only if they are fewer than its examples."""
_ENOUGH = 10
"""Number of examples from which on the labels of a split say something about it."""


def split_of(name: str) -> str | None:
    """The split that a name is one of, whatever its case; None for any other name."""
    return _ROLES.get(name.casefold())


def looks_like_split(name: str) -> bool:
    """Whether a name is one of `NAMES`, or one with a number, a letter or a word such as "images" beside it."""
    return _LIKE.fullmatch(name) is not None


def by_split(names: Iterable[str], where: str, prefix: str = "") -> dict[str, str]:
    """Those names that are splits' behind the prefix, by split, in the order train, validation, test.

    Raises ValueError for two names of one split.
    """
    found: dict[str, str] = {}
    for name in names:
        split = split_of(name[len(prefix) :]) if name.casefold().startswith(prefix) else None
        if split is None:
            continue
        if split in found:
            raise ValueError(
                f"{where}: {shown(found[split])} and {shown(name)} both name the {split} split. Rename one of them: "
                f"{accepted()}."
            )
        found[split] = name
    return {split: found[split] for split in NAMES if split in found}


def accepted() -> str:
    """The names that splits have, in words."""
    return "; ".join(f"{split} may be {', '.join(names[1:])}" for split, names in NAMES.items())


def drawn(count: int, held: int) -> np.ndarray:
    """Row numbers of `held` of `count` examples, in order, drawn with seed `SEED`.

    Drawn, since examples are often sorted by class: the last ones would be of one class.
    """
    return np.sort(np.random.RandomState(SEED).permutation(count)[:held])


def check_labels(where: str, y: np.ndarray, count: int) -> np.ndarray:
    """Labels `[N]` as int32; `MISSING`, -1, is the label of an example whose label is not known.

    Raises ValueError, with value and index, for labels that are not one whole number an example, counted from 0.
    """
    if y.shape != (count,) or y.dtype.kind not in "ui":
        raise ValueError(
            f"{where} has shape {y.shape} and dtype {y.dtype}, and there are {count} examples: labels are one whole "
            "number an example."
        )
    low, high = int(y.argmin()), int(y.argmax())
    if y.dtype.kind == "i" and y[low] < MISSING:
        raise ValueError(
            f"{where} holds the label {y[low]} at index {low}: labels count from 0, and {MISSING} stands for one that "
            "is not known."
        )
    if y[high] >= max(_CLASSES, count):
        raise ValueError(
            f"{where} holds the label {y[high]} at index {high}: labels count classes from 0, and there are {count} "
            "examples. Number them anew, by numpy.unique(y, return_inverse=True)[1]."
        )
    return y.astype(np.int32)


def warn_of_labels(name: str, splits: Mapping[str, Split]) -> None:
    """Warns of a split most of whose labels are not in train, or that has one label where train has several."""
    train = splits["train"].y
    for part, split in splits.items():
        if part == "train" or train is None or split.y is None or len(split) < _ENOUGH:
            continue
        here = split.y[split.labelled]
        if not len(here):
            continue
        known, classes = np.isin(here, train).mean(), np.unique(here)
        if known < 0.5:
            said = f"{1 - known:.0%} of its labels are not among those of train"
        elif len(here) == len(split) and len(classes) == 1 and np.mean(train == classes[0]) < 0.5:
            said = f"all its {len(split):,} examples have the label {classes[0]}, unlike those of train"
        else:
            continue
        warnings.warn(
            f"The {part} split of {name} does not go with the train split: {said}. Were the examples sorted by class "
            "before they were split? Shuffle them first.",
            stacklevel=3,
        )
