"""Examples read where they lie: what all `Rows` share, a choice of them, a change of each, and the way into memory."""

import abc
import dataclasses
import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

_BLOCK = 1024  # rows that are read or changed at once


class LazyRows(abc.ABC):
    """`Rows` over one method, `read`; they are indexed as a NumPy array's first axis is."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """`(N, *event)`."""

    @property
    @abc.abstractmethod
    def dtype(self) -> np.dtype:
        """Of the arrays it gives."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A hash of what it reads."""

    @abc.abstractmethod
    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The examples with these row numbers, each of 0..N-1: `[n, *event]`."""

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
        numbers = np.atleast_1d(rows).astype(np.int64)
        if numbers.size and not (-len(self) <= numbers.min() and numbers.max() < len(self)):
            raise IndexError(f"Row {numbers.min()} or {numbers.max()} is not among {len(self)} examples.")
        found = self.read(np.where(numbers < 0, numbers + len(self), numbers))
        return found if rows.ndim else found[0]


@runtime_checkable
@runtime_checkable
class Change(Protocol):
    """What is done to each example on its own: a frozen record whose repr says all of it, since it is hashed."""

    @property
    def dtype(self) -> np.dtype:
        """Of what it gives."""
        ...

    def __call__(self, x: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """`[n, *event]`, from examples `[n, *event]` and their row numbers `[n]`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen(LazyRows):
    """Some of the rows, in the order of `numbers`."""

    rows: LazyRows
    numbers: range | np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, *event)`."""
        return (len(self.numbers), *self.rows.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """Of the arrays it gives."""
        return self.rows.dtype

    @property
    def fingerprint(self) -> str:
        """A hash of what it reads."""
        numbers = repr(self.numbers) if isinstance(self.numbers, range) else self.numbers.tobytes().hex()
        return hashed([self.rows.fingerprint, numbers])

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The examples with these row numbers, `[n, *event]`."""
        if isinstance(self.numbers, range):
            return self.rows.read(self.numbers.start + self.numbers.step * numbers)
        return self.rows.read(self.numbers[numbers])


@dataclasses.dataclass(frozen=True, eq=False)
class Changed(LazyRows):
    """Each row after a change."""

    rows: LazyRows
    change: Change

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, *event)`."""
        return self.rows.shape

    @property
    def dtype(self) -> np.dtype:
        """Of the arrays it gives."""
        return self.change.dtype

    @property
    def fingerprint(self) -> str:
        """A hash of what it reads."""
        return hashed([self.rows.fingerprint, repr(self.change)])

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The examples with these row numbers, `[n, *event]`."""
        return self.change(self.rows.read(numbers), numbers)


def changed(x: Any, change: Change) -> Any:
    """x after a change: an array at once, `Rows` when they are read; the values are the same."""
    if not isinstance(x, np.ndarray):
        return Changed(x, change)
    out = np.empty(x.shape, change.dtype)
    for block in blocks(len(x)):
        out[block.start : block.stop] = change(x[block.start : block.stop], np.arange(block.start, block.stop))
    return out


def chosen(x: Any, numbers: range | np.ndarray) -> Any:
    """Some rows of x: an array (for a range a view), or `Rows`."""
    if not isinstance(x, np.ndarray):
        return Chosen(x, numbers)
    return x[numbers.start : numbers.stop : numbers.step] if isinstance(numbers, range) else x[numbers]


def in_memory(x: Any, limit: int) -> Any:
    """x as an array where its bytes are within `limit`, and as it is otherwise; read by several threads."""
    if isinstance(x, np.ndarray) or int(np.prod(x.shape)) * x.dtype.itemsize > limit:
        return x
    out = np.empty(x.shape, x.dtype)

    def read(block: range) -> None:
        """The examples with these row numbers, `[n, *event]`."""
        out[block.start : block.stop] = x.read(np.arange(block.start, block.stop))

    for_each(read, blocks(len(x), _BLOCK // 4))
    return out


def blocks(count: int, size: int = _BLOCK) -> list[range]:
    """0..count-1 in consecutive pieces."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def for_each(function: Any, items: Iterable[Any]) -> list[Any]:
    """`[function(item) for item in items]` by several threads; the first error is raised."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def hashed(words: Iterable[str]) -> str:
    """A hash of some words, 16 hexadecimal digits."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def sampled_hash(files: Iterable[Path], pieces: int = 64, piece: int = 65_536) -> str:
    """A hash of the files' names and sizes and of `pieces` pieces of each, evenly spaced: seconds for a terabyte.

    Another preparation or a file cut short changes it; a changed byte between the pieces does not.
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
