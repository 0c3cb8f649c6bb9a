"""The arrays of an .npz: their sizes from headers alone, held against limits before anything is decompressed."""

import dataclasses
import io
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from hvae_jax.runtime.errors import first_line
from hvae_jax.runtime.memory import free_host_memory

MOST_OF_MEMORY = 0.5
"""Largest fraction of the free memory that arrays may take: they are copied where they are cast or split."""
MOST_EXPANDED = 200
"""How many times their size in the file arrays may take in memory, if that is more than `ALWAYS_FINE` bytes."""
ALWAYS_FINE = 2**27
_DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)  # RuntimeError: encrypted
_LONGEST_HEADER = 2**16
_LONGEST_AXIS = np.iinfo(np.intp).max


@dataclasses.dataclass(frozen=True)
class ArrayHeader:
    """What the header of an array says, after it was compared with the bytes that follow it.

    Attributes:
      dtype: as stored; big-endian and structured dtypes included, those with Python objects excluded.
      shape: of the array.
      nbytes: bytes in memory.
      stored: bytes in the file, compressed or not.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    nbytes: int
    stored: int


def entry_names(path: Path) -> list[str]:
    """Names of the entries of an .npz as `np.load` gives them: without .npy; other files keep their whole name.

    Raises ValueError for a file that is no zip, and for one that has a name twice.
    """
    with _opened(path) as archive:
        return list(_members(path, archive))


def array_headers(path: Path, names: Iterable[str] | None = None) -> dict[str, ArrayHeader]:
    """The headers of the named arrays, or of all, by name. No array is decompressed further than its header.

    Raises ValueError, naming entry and file, for an entry that is no array; for one of Python objects, which would have
    to be unpickled; for a shape with a negative or impossible length; and for one whose bytes are more or fewer than
    its header says.
    """
    with _opened(path) as archive:
        members = _members(path, archive)
        return {name: _header(path, archive, name, members[name]) for name in (members if names is None else names)}


def check_sizes(path: Path, headers: Mapping[str, ArrayHeader]) -> None:
    """Raises ValueError if arrays take too much of the memory, or expand as only a decompression bomb does.

    The limits are `MOST_OF_MEMORY`, `MOST_EXPANDED` and `ALWAYS_FINE`.
    """
    total = sum(header.nbytes for header in headers.values())
    # Entries may share their bytes in a file made for that.
    stored = min(sum(header.stored for header in headers.values()), path.stat().st_size)
    largest = max(headers, key=lambda name: headers[name].nbytes, default="")
    memory = free_host_memory()
    if total > MOST_OF_MEMORY * memory:
        raise ValueError(
            f"The arrays of {path} take {_mebibytes(total)} ({largest} alone {_mebibytes(headers[largest].nbytes)}), "
            f"which is more than half of the memory that is free here, {_mebibytes(memory)}; they are copied once. "
            "Save fewer examples, or a smaller dtype."
        )
    if total > ALWAYS_FINE and total > MOST_EXPANDED * stored:
        raise ValueError(
            f"The arrays of {path} take {_mebibytes(total)} in memory and {stored:,} bytes in the file ({largest} "
            f"most): compression of more than {MOST_EXPANDED} to 1 above {_mebibytes(ALWAYS_FINE)} is refused as a "
            "decompression bomb. If the file is yours, save it uncompressed, by numpy.savez."
        )


def read_arrays(path: Path, headers: Mapping[str, ArrayHeader]) -> Iterator[tuple[str, np.ndarray]]:
    """Each array with its name, one after the other: C-contiguous, in the machine's byte order. Nothing is unpickled.

    Args:
      path: the file.
      headers: what `array_headers` returned, after `check_sizes` let them pass.
    Raises ValueError, naming the entry, for one that is damaged.
    """
    with _opened(path) as archive:
        members = _members(path, archive)
        for name in headers:
            try:
                with archive.open(members[name]) as stream:
                    array = np.lib.format.read_array(stream, allow_pickle=False)
                    stream.read()  # the end of the entry, where zipfile compares its checksum
            except (*_DAMAGES, ValueError, MemoryError) as error:
                raise ValueError(f"{name} in {path} is damaged ({first_line(error)}). Write the file anew.") from error
            yield name, np.asarray(array, array.dtype.newbyteorder("="), order="C")


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise
    except (*_DAMAGES, ValueError) as error:
        if _begins_as_npy(path):
            raise ValueError(f"{path} is a single .npy array. Write it with numpy.savez(path, name=...).") from None
        raise ValueError(
            f"{path} cannot be read as an .npz ({first_line(error)}). Write it with numpy.savez."
        ) from error


def _begins_as_npy(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if not name.isprintable():
            raise ValueError(f"{path} has an entry of the name {name!a}, whose characters cannot all be printed.")
        if name in members:
            raise ValueError(f"{path} holds {name!r} twice. Write the file anew, each array under a name of its own.")
        members[name] = info
    return members


def _header(path: Path, archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> ArrayHeader:
    where = f"{name} in {path}"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{where} is compressed by another method than NumPy's. Write it with numpy.savez.")
    try:
        with archive.open(info) as stream:
            head = stream.read(_LONGEST_HEADER)  # no more, since a header may say that it has 4 GB
    except _DAMAGES as error:
        raise ValueError(f"{where} is damaged ({first_line(error)}). Write the file anew.") from error
    shape, dtype, start = _parsed(where, head)
    if dtype.hasobject:
        raise ValueError(
            f"{where} has object dtype, which would have to be unpickled, and unpickling runs code. Save it as a plain "
            "array of numbers, with every example of the same shape."
        )
    if any(length < 0 or length > _LONGEST_AXIS for length in shape):
        raise ValueError(f"{where} says in its header that it has shape {shape}, which no array has. It is damaged.")
    nbytes, there = math.prod(shape) * dtype.itemsize, info.file_size - start
    if nbytes != there:
        raise ValueError(
            f"{where} says in its header that it has shape {shape} and dtype {dtype}, {nbytes:,} bytes, but {there:,} "
            "follow. It is damaged: write the file anew."
        )
    return ArrayHeader(dtype, shape, nbytes, info.compress_size)


def _parsed(where: str, head: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    """(shape, dtype, length of the header), of the first bytes of an entry."""
    if not head.startswith(np.lib.format.MAGIC_PREFIX):
        raise ValueError(f"{where} is no array: it does not begin as an .npy. Write the file with numpy.savez.")
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        else:  # 3.0 is 2.0 but for names of fields, which plain numbers have none of
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    except Exception as error:  # NumPy's parser of headers raises whatever it trips over
        raise ValueError(f"{where} has no header of an array ({first_line(error)}). Write the file anew.") from error
    return tuple(int(length) for length in shape), dtype, stream.tell()


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
