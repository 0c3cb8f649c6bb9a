"""Missing values: NaN in a floating x, from a user's arrays, from masks beside them, or hidden at random."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from hvae_jax.data.dataset import BINARY, REAL, Dataset, Kind, Split, integer
from hvae_jax.data.prepare import uniform_words
from hvae_jax.data.rows import changed
from hvae_jax.records import checked

_STREAMS = {"train": 8, "validation": 9}  # other words than those of binarisation, which begin at 0


@dataclasses.dataclass(frozen=True)
@checked
class Hide:
    """A change of rows that hides each element with the same probability, by row number and seed alone.

    Attributes:
      share: probability.
      split: name of the split, which selects the stream of random words.
      seed: key of the generator.
    """

    share: float
    split: str
    seed: int

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    def __call__(self, x: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """`[n, *event]`, NaN where it is hidden."""
        words = uniform_words(numbers, int(np.prod(x.shape[1:])), self.seed + (_STREAMS[self.split] << 64))
        return np.where(
            words.reshape(x.shape) < np.uint64(self.share * 2**32), np.float32(np.nan), x.astype(np.float32)
        )


def hide(dataset: Dataset, share: float, seed: int = 0) -> Dataset:
    """The data set with a share of the elements of train and validation missing, completely at random.

    Each element is hidden by itself, once and for all. The test split stays whole: it measures what was learned.

    Raises ValueError for a share that is not between 0 and 1, and for data whose training changes its pixels.

    Example:
        >>> dataset = hv.data.hide(hv.data.digits(), share=0.5)
        >>> round(float(np.isnan(dataset.splits["train"].x).mean()), 1)
        0.5
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"hide(share={share}): it has to be between 0 and 1.")
    if dataset.training is not None:
        raise ValueError(f"hide: training draws from other examples than the train split of {dataset.name}.")
    splits = {
        part: Split(changed(split.x, Hide(float(share), part, seed)), split.y) if part in _STREAMS else split
        for part, split in dataset.splits.items()
    }
    protocol = f"{dataset.protocol}; {share:.0%} of the elements of train and validation hidden, seed {seed}"
    return dataclasses.replace(dataset, splits=splits, protocol=protocol, missing=True)


def as_truth(where: str, mask: np.ndarray) -> np.ndarray:
    """A mask of truth values, or of 0 and 1, as bool. Raises ValueError for other values."""
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise ValueError(f"{where} holds other values than 0 and 1: 1 where x is seen, 0 where it is missing.")
    return mask.astype(bool)


def masked(where: str, split: Split, seen: np.ndarray | None) -> Split:
    """A split as float32, NaN where it is not seen.

    Args:
      where: what x is, for the error.
      seen: bool, in the shape of x or without its channels; None takes what is not NaN.
    Raises ValueError if nothing of the split is seen.
    """
    x = split.x.astype(np.float32)
    if seen is not None:
        x = np.where(seen if seen.shape == x.shape else seen[..., None], x, np.float32(np.nan))
    if np.isnan(x).all():
        raise ValueError(f"{where}: nothing is seen, all values are missing.")
    return Split(x, split.y)


def lacking(splits: Mapping[str, Split]) -> str:
    """How much is missing, in words."""
    shares = ", ".join(f"{np.isnan(split.x).mean():.1%} of {part}" for part, split in splits.items())
    nothing = sum(int(np.isnan(split.x).reshape(len(split.x), -1).all(1).sum()) for split in splits.values())
    return f"missing: {shares}" + (f"; of {nothing:,} examples nothing is seen" if nothing else "")


def seen_kind(splits: Mapping[str, Split], whole: bool, is_byte: bool, num_values: int | None, where: str) -> Kind:
    """The kind of the seen values.

    Args:
      whole: whether the file holds whole numbers, and not floats.
      is_byte: whether it holds uint8, which has 256 values above 127.
      num_values: number of values that the file states; None for none.
    Raises ValueError for floats that are no whole numbers where `num_values` is stated, or that exceed it.
    """
    values = np.concatenate([np.unique(split.x[~np.isnan(split.x)]) for split in splits.values()])
    counts = bool((values == np.floor(values)).all() and values.min() >= 0)
    if num_values is not None:
        if not counts or values.max() >= num_values:
            bad = next(v for v in values if v != np.floor(v) or not 0 <= v < num_values)
            raise ValueError(f"{where} says num_values={num_values}, but holds the value {bad:g}.")
    elif whole:
        num_values = 256 if is_byte and values.max() > 127 else int(values.max()) + 1
    elif counts and values.max() <= 1:
        num_values = 2
    else:
        return REAL
    return BINARY if num_values <= 2 else integer(num_values)
