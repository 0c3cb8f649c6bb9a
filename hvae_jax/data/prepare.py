"""Preparation of a loaded data set: fewer bits, binary pixels, mirrored images, a validation split."""

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from hvae_jax.data.dataset import BINARY, Dataset, Split, integer
from hvae_jax.data.rows import blocks, changed, chosen
from hvae_jax.records import checked

BINARISATIONS = ("dynamic", "static", "threshold")
SEED = 0
"""Seed of the one draw that static binarisation and every evaluation see."""
_STREAMS = {"train": 0, "validation": 1, "test": 2}


def prepare(dataset: Dataset, *, binarise: str | None = None, flip: bool = False, bits: int = 8) -> Dataset:
    """The data set after `quantised`, `binarised` and `flipped`, in that order, each if it is asked for.

    Example:
        >>> hv.data.prepare(hv.data.digits(), binarise="threshold").kind
        Kind(name='binary', num_values=2)
    """
    if bits != 8:
        dataset = quantised(dataset, bits)
    if binarise is not None:
        dataset = binarised(dataset, binarise)
    return flipped(dataset) if flip else dataset


def quantised(dataset: Dataset, bits: int) -> Dataset:
    """The top `bits` bits of 8-bit data, x >> (8 - bits): whole numbers 0..2^bits - 1, binary for one bit.

    Glow and VDVAE use five bits of faces; bits per dimension of 5-bit and 8-bit data do not compare.

    Raises ValueError for a number of bits outside 1..8, and for data without 256 values.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"bits={bits}: 1 to 8 of the 8 bits of a pixel can be kept.")
    if dataset.kind != integer(256):
        raise ValueError(
            f"bits={bits} keeps the top bits of 8-bit data, but {dataset.name} holds {dataset.kind}. Leave bits at 8."
        )
    splits = {part: Split(changed(split.x, Shift(8 - bits)), split.y) for part, split in dataset.splits.items()}
    kind = BINARY if bits == 1 else integer(2**bits)
    return dataclasses.replace(dataset, splits=splits, kind=kind, protocol=f"{dataset.protocol}; top {bits} bits")


def binarised(dataset: Dataset, how: str) -> Dataset:
    """The data set with grey pixels made binary, x being divided by the largest value to lie in [0, 1].

    - "dynamic": training draws each pixel ~ Bernoulli(x) anew at every step (Salakhutdinov & Murray 2008; Burda et
      al. 2016), and every split, train included, is measured on one draw. That draw depends on `SEED`, the split and
      the row alone, so that all runs are measured on the same pixels.
    - "static": training sees that one draw too. It is not Larochelle's file of binarised MNIST, the data set
      binarized_mnist, on which numbers differ by tenths of a nat.
    - "threshold": x > 1/2.

    Raises ValueError for another word, and for data that is binary already, in colour, or real outside [0, 1].
    """
    if how not in BINARISATIONS:
        raise ValueError(f"binarise={how!r}: it has to be one of {', '.join(BINARISATIONS)}, or be left out.")
    _check_grey(dataset, how)
    levels = dataset.kind.num_values
    splits = {
        part: Split(changed(split.x, Threshold(levels) if how == "threshold" else Draw(levels, part)), split.y)
        for part, split in dataset.splits.items()
    }
    said = {
        "dynamic": f"binarised anew at each training step; measured on one draw, seed {SEED}",
        "static": f"binarised once, seed {SEED}",
        "threshold": "binarised at one half",
    }
    result = dataclasses.replace(dataset, splits=splits, kind=BINARY, protocol=f"{dataset.protocol}; {said[how]}")
    if how != "dynamic":
        return result
    # Reals in [0, 1] are probabilities as they are, as if of two values, 0 and 1.
    augment = dataclasses.replace(dataset.augment, binarise=levels or 2)
    return dataclasses.replace(result, augment=augment, training=dataset.train)


def flipped(dataset: Dataset) -> Dataset:
    """The data set whose training mirrors each image from left to right with probability 1/2; evaluation does not.

    Raises ValueError for data other than images [H, W, C].
    """
    if len(dataset.event) != 3:
        raise ValueError(
            f"flip mirrors images [H, W, C], but one example of {dataset.name} has shape {list(dataset.event)}."
        )
    return dataclasses.replace(dataset, augment=dataclasses.replace(dataset.augment, flip=True))


def split_off(splits: Mapping[str, Split], numbers: np.ndarray | int) -> dict[str, Split]:
    """The splits with some train examples as the validation split; both parts keep their order.

    Args:
      splits: "train" and perhaps "test".
      numbers: row numbers of the validation examples, or how many of the last ones.
    Raises ValueError if no example would be left to train on.
    """
    train = splits["train"]
    count = len(train)
    held = np.arange(count - numbers, count) if isinstance(numbers, int) else np.sort(numbers)
    if not 0 < len(held) < count:
        raise ValueError(f"{len(held):,} of {count:,} train examples cannot be the validation split: some stay.")
    parts = {"train": np.setdiff1d(np.arange(count), held, assume_unique=True), "validation": held}
    made = {}
    for part, where in parts.items():
        # As a range, which of an array is a view rather than a copy.
        consecutive = where[-1] - where[0] + 1 == len(where)
        rows = range(int(where[0]), int(where[-1]) + 1) if consecutive else where
        made[part] = Split(chosen(train.x, rows), None if train.y is None else train.y[where])
    return {**made, **{part: split for part, split in splits.items() if part == "test"}}


@dataclasses.dataclass(frozen=True)
@checked
class Shift:
    """x >> by."""

    by: int

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        return np.dtype(np.uint8)

    def __call__(self, x: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """`[n, *event]`, whatever the row numbers."""
        return x >> np.uint8(self.by)


@dataclasses.dataclass(frozen=True)
@checked
class Threshold:
    """x > half the largest value, as 0 or 1.

    Attributes:
      levels: number of grey values; 0 for reals in [0, 1].
    """

    levels: int

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        return np.dtype(np.uint8)

    def __call__(self, x: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """`[n, *event]`, whatever the row numbers."""
        return (x > ((self.levels or 2) - 1) / 2).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
@checked
class Draw:
    """One draw of x ~ Bernoulli(x / (levels - 1)), or of Bernoulli(x) for reals, fixed for each row of a split.

    The uniform numbers of row r are the r-th piece of one stream of Philox, a generator that can start anywhere in its
    stream, so that an example comes out the same whether it is read alone or with others.

    Attributes:
      levels: number of grey values; 0 for reals in [0, 1].
      split: name of the split, which selects the stream.
      seed: key of the generator.
    """

    levels: int
    split: str
    seed: int = SEED

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        return np.dtype(np.uint8)

    def __call__(self, x: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """`[n, *event]` of 0 and 1."""
        uniform = uniform_words(numbers, int(np.prod(x.shape[1:])), self.seed + (_STREAMS[self.split] << 64))
        return (uniform.reshape(x.shape) < self._bounds(x)).astype(np.uint8)

    def _bounds(self, x: np.ndarray) -> np.ndarray:
        """2^32 times the probability of a one, uint64."""
        if not self.levels:
            return np.rint(x * np.float64(2**32)).astype(np.uint64)
        return np.rint(np.arange(self.levels) * (2**32 / (self.levels - 1))).astype(np.uint64)[x]


def uniform_words(numbers: np.ndarray, size: int, key: int) -> np.ndarray:
    """Uniform 32-bit words, uint32 `[n, size]` for n row numbers: a function of key, row and size alone."""
    counters = -(-size // 8)  # at each count Philox makes four 64-bit words, which are eight of these
    words = np.empty((len(numbers), counters * 8), np.uint32)
    runs = np.flatnonzero(np.diff(numbers) != 1) + 1  # where the next number is not the next row
    for start, stop in itertools.pairwise([0, *runs, len(numbers)] if len(numbers) else []):
        generator = np.random.Philox(key=key, counter=int(numbers[start]) * counters)
        raw = generator.random_raw((stop - start) * counters * 4).astype("<u8", copy=False)
        words[start:stop] = raw.view("<u4").reshape(stop - start, -1)
    return words[:, :size]


def _check_grey(dataset: Dataset, how: str) -> None:
    asked = f"binarise={how!r}"
    if dataset.kind == BINARY:
        raise ValueError(f"{asked}: {dataset.name} is binary as it is ({dataset.protocol}). Leave binarise out.")
    if len(dataset.event) == 3 and dataset.event[-1] != 1:
        raise ValueError(
            f"{asked} is for grey images, but one example of {dataset.name} has shape {list(dataset.event)}: its "
            f"{dataset.event[-1]} channels would each be drawn on their own, which no protocol does."
        )
    if dataset.kind.name == "real":
        for part, split in dataset.splits.items():
            for block in blocks(len(split)):
                x = split.x[block.start : block.stop]
                if not (x.min() >= 0 and x.max() <= 1):  # NaN is neither
                    raise ValueError(
                        f"{asked} takes reals as probabilities, but the {part} split of {dataset.name} reaches from "
                        f"{x.min():.4g} to {x.max():.4g}. Scale x to [0, 1]."
                    )
