"""`Dataset`: examples by split, in memory or read where they lie, with the kind of their values and their protocol."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hvae_jax.data.augment import Augment


@dataclasses.dataclass(frozen=True)
class Kind:
    """The values that elements of x take.

    Attributes:
      name: "binary" (0 and 1), "integer" (0..num_values-1) or "real".
      num_values: number of values of an element; 2 for binary, 0 for real.

    Example:
        >>> hv.data.BINARY, hv.data.integer(17)
        (Kind(name='binary', num_values=2), Kind(name='integer', num_values=17))
    """

    name: str
    num_values: int = 0

    def __str__(self) -> str:
        return f"integers 0..{self.num_values - 1}" if self.name == "integer" else self.name


MISSING = -1
"""The label of an example whose label is not known."""

BINARY = Kind("binary", 2)
"""The kind of zeros and ones."""
REAL = Kind("real")
"""The kind of real numbers."""


def integer(num_values: int) -> Kind:
    """The kind of whole numbers 0..num_values-1.

    Example:
        >>> hv.data.integer(256).num_values
        256
    """
    return Kind("integer", num_values)


@runtime_checkable
class Rows(Protocol):
    """Examples that are read on access, indexed as a NumPy array `[N, *event]` is along its first axis.

    An implementation can be pickled (workers of a streamed feed get a copy), reads from many threads at once, and has
    a `fingerprint`: a hash of what it reads.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, *event)`."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the arrays that are read."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The examples at a slice or an array of row numbers, `[n, *event]`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples of one split.

    Attributes:
      x: `[N, *event]`, an array or `Rows`.
      y: labels, int `[N]`, `MISSING` for an example without one; None where there are none.

    Example:
        >>> split = hv.data.Split(np.zeros((3, 4)), np.array([2, hv.data.MISSING, 0]))
        >>> split.labelled.tolist()
        [0, 2]
    """

    x: Any
    y: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def nbytes(self) -> int:
        """Bytes of x as an array."""
        return int(np.prod(self.x.shape)) * self.x.dtype.itemsize

    def take(self, rows: Any) -> "Split":
        """The examples at a slice or an array of row numbers, in memory."""
        return Split(np.asarray(self.x[rows]), None if self.y is None else self.y[rows])

    def for_classes(self, classes: int) -> "Split":
        """The split as a model with that many classes takes it: without labels if it has none."""
        return self if classes else Split(self.x)

    @property
    def labelled(self) -> np.ndarray:
        """Numbers of the rows that have a label, `[n]`."""
        return np.zeros(0, np.int64) if self.y is None else np.flatnonzero(self.y != MISSING)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set.

    Attributes:
      name: the name it was loaded by.
      splits: "train", "validation" and, if there is one, "test", in that order: what a model is measured on. A data
        set that nothing is trained on, such as pictures given to a command, may have others.
      kind: the values of x, as a model sees them.
      protocol: one sentence on splits and preparation, for tables and results.
      augment: random change of every training batch.
      training: examples that training draws from; None is `splits["train"]`. With dynamic binarisation these are the
        grey values, while the splits hold one draw, the same for every evaluation.
      missing: whether elements of x may be missing: x is then floating, with NaN in their place, whatever `kind` is.

    Example:
        >>> dataset = hv.data.digits()
        >>> dataset.event, dataset.dimensions, dataset.classes
        ((8, 8, 1), 64, 10)
    """

    name: str
    splits: Mapping[str, Split]
    kind: Kind
    protocol: str
    augment: Augment = Augment()
    training: Split | None = None
    missing: bool = False

    @property
    def train(self) -> Split:
        """The examples that training draws from, before `augment`."""
        return self.splits["train"] if self.training is None else self.training

    @property
    def event(self) -> tuple[int, ...]:
        """The shape of one x."""
        return tuple(next(iter(self.splits.values())).x.shape[1:])

    @property
    def dimensions(self) -> int:
        """Number of elements of one x, the divisor of bits per dimension."""
        return int(np.prod(self.event))

    def seen_dimensions(self, split: str) -> float:
        """Mean number of elements of an example of a split that are not missing; `dimensions` if none may be."""
        x = self.splits[split].x
        if not self.missing:
            return float(self.dimensions)
        some = x if isinstance(x, np.ndarray) else x[: min(len(x), 4096)]  # of rows that are read, the first
        return float((~np.isnan(some)).sum() / len(some))

    @property
    def classes(self) -> int:
        """Number of classes, by the labels of the train split (the first one); 0 without labels."""
        y = next(iter(self.splits.values())).y
        return 0 if y is None else int(y.max()) + 1

    @property
    def content_hash(self) -> str:
        """SHA-256 over names, dtypes, shapes and contents of every split, 16 hexadecimal digits.

        The contents are the bytes of an array, or the `fingerprint` of `Rows`.
        """
        digest = hashlib.sha256()
        named = [*self.splits.items(), *([] if self.training is None else [("training", self.training)])]
        for name, split in named:
            for part, array in (("x", split.x), ("y", split.y)):
                if array is not None:
                    digest.update(f"{name}/{part}/{array.dtype}/{array.shape}".encode())
                    lazy = not isinstance(array, np.ndarray)
                    digest.update(array.fingerprint.encode() if lazy else np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def describe(self) -> str:
        """A description with its protocol on one line, for logs."""
        counts = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        each_step = f"; {self.augment}" if str(self.augment) else ""
        return f"{self.name}: {counts}; {'x'.join(map(str, self.event))}, {self.kind}{each_step} ({self.protocol})"
