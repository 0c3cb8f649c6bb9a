"""`Dataset`: arrays by split, the kind of their values, and where they come from."""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Kind:
    """What values the elements of x take.

    Attributes:
      name: "binary" (0 and 1), "integer" (0..num_values-1) or "real".
      num_values: how many values an integer element takes; 2 for binary, 0 for real.
    """

    name: str
    num_values: int = 0

    def __str__(self) -> str:
        return f"integers 0..{self.num_values - 1}" if self.name == "integer" else self.name


BINARY = Kind("binary", 2)
REAL = Kind("real")


def integer(num_values: int) -> Kind:
    """Whole numbers 0..num_values-1."""
    return Kind("integer", num_values)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples of one split. `x`: `[N, *event]`; `y`: int `[N]` labels, or None."""

    x: np.ndarray
    y: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory.

    Attributes:
      name: as it was asked for.
      splits: "train", "validation", and "test" where there is one, in that order.
      kind: what values x takes.
      protocol: one sentence on splits and preparation, for tables and results.
    """

    name: str
    splits: Mapping[str, Split]
    kind: Kind
    protocol: str

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one x."""
        return self.splits["train"].x.shape[1:]

    @property
    def dimensions(self) -> int:
        """Elements of one x: what bits per dimension divide by."""
        return int(np.prod(self.event))

    @property
    def classes(self) -> int:
        """Number of labels, 0 where there are none."""
        y = self.splits["train"].y
        return 0 if y is None else int(y.max()) + 1

    @property
    def content_hash(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes of every array, 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, split in self.splits.items():
            for part, array in (("x", split.x), ("y", split.y)):
                if array is not None:
                    digest.update(f"{name}/{part}/{array.dtype}/{array.shape}".encode())
                    digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def describe(self) -> str:
        """One line for logs."""
        counts = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        return f"{self.name}: {counts}; {'x'.join(map(str, self.event))}, {self.kind}"
