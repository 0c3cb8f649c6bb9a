"""`Rows` that are read where they lie: their indexing, a selection of rows, a change of each, reading into memory."""

import abc
import dataclasses
import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

_BLOCK = 1024
"""Rows that are read or changed at once."""


class LazyRows(abc.ABC):
    """`Rows` by one method, `read`, indexed as the first axis of a NumPy array is."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """`(N, *event)`."""

    @property
    @abc.abstractmethod
    def dtype(self) -> np.dtype:
        """The dtype of the arrays that are read."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A hash of what is read."""

    @abc.abstractmethod
    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The examples with these row numbers, all in 0..N-1: `[n, *event]`."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The examples at a slice, an array of row numbers or a mask; one example at one number."""
        if isinstance(rows, slice):
            return self.read(np.arange(*rows.indices(len(self))))
        rows = np.asarray(rows)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(f"A mask of shape {rows.shape} for {len(self)} examples.")
            return self.read(np.flatnonzero(rows))
        if rows.ndim > 1 or not (np.issubdtype(rows.dtype, np.integer) or rows.size == 0):
            raise IndexError(f"Rows are chosen by a slice or by whole numbers, not by {rows.dtype} {rows.shape}.")
        numbers = np.atleast_1d(rows)
        if numbers.size and not (-len(self) <= int(numbers.min()) and int(numbers.max()) < len(self)):
            raise IndexError(f"Row {numbers.min()} or {numbers.max()} is not among {len(self)} examples.")
        numbers = numbers.astype(np.int64)
        found = self.read(np.where(numbers < 0, numbers + len(self), numbers))
        return found if rows.ndim else found[0]


@runtime_checkable
class Change(Protocol):
    """A change of each example on its own: a frozen record, whose repr is hashed and so has to say all of it."""

    @property
    def dtype(self) -> np.dtype:
        """The dtype of changed examples."""
        ...

    def __call__(self, x: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The changed examples, `[n, *event]`, of examples `[n, *event]` with row numbers `[n]`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen(LazyRows):
    """A selection of rows.

    Attributes:
      rows: the rows that are selected from.
      numbers: their numbers, in the order of the selection.
    """

    rows: LazyRows
    numbers: range | np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, *event)`."""
        return (len(self.numbers), *self.rows.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the arrays that are read."""
        return self.rows.dtype

    @property
    def fingerprint(self) -> str:
        """A hash of what is read."""
        numbers = repr(self.numbers) if isinstance(self.numbers, range) else self.numbers.tobytes().hex()
        return hashed([self.rows.fingerprint, numbers])

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The examples with these row numbers, `[n, *event]`."""
        if isinstance(self.numbers, range):
            return self.rows.read(self.numbers.start + self.numbers.step * numbers)
        return self.rows.read(self.numbers[numbers])


@dataclasses.dataclass(frozen=True, eq=False)
class Changed(LazyRows):
    """Rows that are changed when they are read."""

    rows: LazyRows
    change: Change

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, *event)`."""
        return self.rows.shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the arrays that are read."""
        return self.change.dtype

    @property
    def fingerprint(self) -> str:
        """A hash of what is read."""
        return hashed([self.rows.fingerprint, repr(self.change)])

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The examples with these row numbers, `[n, *event]`."""
        return self.change(self.rows.read(numbers), numbers)


def changed(x: Any, change: Change) -> Any:
    """x after a change: arrays are changed at once, `Rows` when they are read; the values are the same."""
    if not isinstance(x, np.ndarray):
        return Changed(x, change)
    out = np.empty(x.shape, change.dtype)
    for block in blocks(len(x)):
        out[block.start : block.stop] = change(x[block.start : block.stop], np.arange(block.start, block.stop))
    return out


def chosen(x: Any, numbers: range | np.ndarray) -> Any:
    """A selection of the rows of x: an array (a view for a range), or `Rows`."""
    if not isinstance(x, np.ndarray):
        return Chosen(x, numbers)
    return x[numbers.start : numbers.stop : numbers.step] if isinstance(numbers, range) else x[numbers]


def in_memory(x: Any, limit: int) -> Any:
    """x as an array, read by several threads, if it takes at most `limit` bytes; otherwise x itself."""
    if isinstance(x, np.ndarray) or int(np.prod(x.shape)) * x.dtype.itemsize > limit:
        return x
    out = np.empty(x.shape, x.dtype)

    def read(block: range) -> None:
        out[block.start : block.stop] = x.read(np.arange(block.start, block.stop))

    for_each(read, blocks(len(x), _BLOCK // 4))
    return out


def blocks(count: int, size: int = _BLOCK) -> list[range]:
    """0..count-1 in consecutive ranges of `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def for_each(function: Any, items: Iterable[Any]) -> list[Any]:
    """`[function(item) for item in items]`, by several threads; the first error is raised."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def hashed(words: Iterable[str]) -> str:
    """A hash of strings, 16 hexadecimal digits."""
    # "surrogateescape", since names of files may be no UTF-8
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def sampled_hash(files: Iterable[Path], pieces: int = 64, piece: int = 65_536) -> str:
    """A hash of files by their names, sizes and `pieces` pieces of each, evenly spaced: seconds for a terabyte.

    Another preparation or a file cut short changes the hash; a changed byte between the pieces does not.
    """
    words = []
    for file in files:
        size = file.stat().st_size
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            for start in sorted({max(0, size - piece) * i // max(1, pieces - 1) for i in range(pieces)}):
                stream.seek(start)
                digest.update(stream.read(piece))
        words += [file.name, str(size), digest.hexdigest()]
    return hashed(words)
