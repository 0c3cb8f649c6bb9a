"""The file of a codec, .hvae: everything that is needed to refuse what does not fit, before anything is decoded.

    8 bytes    89 "hvae" 0D 0A 1A, which a transfer as text would change
    2          version of the format                                        all numbers little-endian
    4          length of the header
    8          number of words
    32         SHA-256 of everything else in the file
    ...        header: JSON, compressed by zlib
    ...        words of the stack, uint32

The header has the fields of `Container`.
"""

import dataclasses
import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

MAGIC = b"\x89hvae\r\n\x1a"
FORMAT = 1
_FIXED = struct.Struct("<HIQ")
_START = len(MAGIC) + _FIXED.size + 32
_MOST_HEADER = 2**28
"""Largest header after decompression, bytes."""


@dataclasses.dataclass(frozen=True)
class Container:
    """The contents of a file.

    Attributes:
      made_by: what the numbers depend on, by name: versions, backend, hashes of program and parameters.
      shape: `(N, *event)` of x.
      dtype: dtype of x, such as "uint8".
      counts: number of images in each batch, in the order of encoding.
      size: number of images in a batch of the compiled program; smaller batches are filled up with zeros.
      prior_bits, precision, seed: as in `Codec`.
      reached: number of words of the reservoir that the words hold.
      content: SHA-256 of x, hexadecimal, 32 digits.
      blocks: hash of each batch, hexadecimal, 8 digits.
      names: names of the images, such as their files'; () for none.
      words: words of the stack, uint32.
    """

    made_by: Mapping[str, str]
    shape: tuple[int, ...]
    dtype: str
    counts: tuple[int, ...]
    size: int
    prior_bits: int
    precision: int
    seed: int
    reached: int
    content: str
    blocks: tuple[str, ...]
    words: np.ndarray
    names: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """The file."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "words"}
        header = zlib.compress(json.dumps(fields, separators=(",", ":")).encode(), 9)
        words = self.words.astype("<u4").tobytes()
        fixed = _FIXED.pack(FORMAT, len(header), len(self.words))
        return MAGIC + fixed + _digest(fixed, header + words) + header + words


def read_container(data: bytes, name: str = "the data") -> Container:
    """Read the contents of a compressed file.

    Args:
      name: name of the file, for errors.
    Raises ValueError for data of another kind or version, and for a file that was cut off, appended to or changed.
    """
    if not data.startswith(MAGIC):
        raise ValueError(f"{name} is no .hvae file: it does not begin as `hvae compress` begins them.")
    if len(data) < _START:
        raise ValueError(f"{name} is cut short: {len(data)} bytes are fewer than its fixed part has.")
    fixed = data[len(MAGIC) : len(MAGIC) + _FIXED.size]
    version, header_length, words_length = _FIXED.unpack(fixed)
    if version != FORMAT:
        raise ValueError(f"{name} has version {version} of the format, or is damaged; this hvae_jax reads {FORMAT}.")
    expected, rest = _START + header_length + 4 * words_length, data[_START:]
    if len(data) != expected:
        what = "cut short" if len(data) < expected else "longer than it says"
        raise ValueError(f"{name} is {what}: {len(data):,} bytes, but it was written with {expected:,}.")
    if _digest(fixed, rest) != data[_START - 32 : _START]:
        raise ValueError(f"{name} is damaged: its SHA-256 is not the one that was written.")
    try:
        text = zlib.decompressobj().decompress(rest[:header_length], _MOST_HEADER)
        fields = json.loads(text)
        return _checked(fields, np.frombuffer(rest[header_length:], "<u4").astype(np.uint32))
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{name} has a header that `hvae compress` does not write ({error}).") from error


def _digest(fixed: bytes, rest: bytes) -> bytes:
    return hashlib.sha256(fixed + rest).digest()


def _checked(fields: dict[str, Any], words: np.ndarray) -> Container:
    """The container of a header's fields. Raises ValueError, TypeError and KeyError for fields that cannot be."""
    made_by, names = dict(fields["made_by"]), tuple(str(name) for name in fields["names"])
    shape, counts = (tuple(int(number) for number in fields[name]) for name in ("shape", "counts"))
    blocks = tuple(str(block) for block in fields["blocks"])
    numbers = {name: int(fields[name]) for name in ("size", "prior_bits", "precision", "seed", "reached")}
    found = Container(
        {str(key): str(value) for key, value in made_by.items()},
        shape,
        np.dtype(fields["dtype"]).name,
        counts,
        content=str(fields["content"]),
        blocks=blocks,
        words=words,
        names=names,
        **numbers,
    )
    if len(shape) < 2 or min(shape) < 1 or sum(counts) != shape[0] or len(blocks) != len(counts):
        raise ValueError(f"images of shape {shape} in batches of {counts}")
    if np.dtype(found.dtype).kind not in "biuf":
        raise ValueError(f"values of dtype {found.dtype}")
    if min(counts) < 1 or max(counts) > found.size or found.reached < 0 or len(names) not in (0, shape[0]):
        raise ValueError("its numbers do not fit together")
    return found
