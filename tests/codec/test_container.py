"""The file: what is cut, changed, continued or foreign is told apart, and nothing of it is decoded."""

import dataclasses
import hashlib
import struct
import zlib

import numpy as np
import pytest

from hvae_jax.codec.container import MAGIC, Container, read_container

WHOLE = Container(
    made_by={"jax": "1"},
    shape=(3, 2, 2),
    dtype="uint8",
    counts=(1, 2),
    size=4,
    prior_bits=12,
    precision=24,
    seed=0,
    reached=5,
    content="ab",
    blocks=("1", "2"),
    words=np.arange(1, 9, dtype=np.uint32),
    names=("a.png", "b.png", "ü.png"),
)
DATA = WHOLE.to_bytes()
START = 8 + 2 + 4 + 8 + 32


def test_a_file_is_read_as_it_was_written() -> None:
    read = read_container(DATA)
    for field in dataclasses.fields(Container):
        np.testing.assert_array_equal(getattr(read, field.name), getattr(WHOLE, field.name))
    assert read.words.dtype == np.uint32


def test_every_flipped_bit_is_noticed() -> None:
    for position in range(len(DATA)):
        for bit in (0, 7):
            damaged = bytearray(DATA)
            damaged[position] ^= 1 << bit
            with pytest.raises(ValueError, match=r"^x\.hvae ") as error:
                read_container(bytes(damaged), "x.hvae")
            assert "\n" not in str(error.value)


def test_every_length_is_noticed() -> None:
    for length in range(len(DATA)):
        with pytest.raises(ValueError, match="cut short" if length >= 8 else "no .hvae file"):
            read_container(DATA[:length])
    with pytest.raises(ValueError, match="longer than it says"):
        read_container(DATA + b"\0")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" + bytes(100), b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(100)])
def test_foreign_files(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no \.hvae file"):
        read_container(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (4, 2, 2)},
        {"shape": (3,)},
        {"counts": (0, 3)},
        {"size": 1},
        {"reached": -1},
        {"blocks": ("1",)},
        {"names": ("a",)},
        {"dtype": "nonsense"},
        {"dtype": "object"},
        {"seed": "x"},
    ],
    ids=str,
)
def test_headers_that_no_codec_writes(changes: dict) -> None:
    with pytest.raises(ValueError, match="a header that `hvae compress` does not write"):
        read_container(dataclasses.replace(WHOLE, **changes).to_bytes())


@pytest.mark.parametrize("header", [b"nonsense", zlib.compress(b"[1]"), zlib.compress(b"{"), zlib.compress(b"{}")])
def test_headers_that_are_none(header: bytes) -> None:
    fixed = struct.pack("<HIQ", 1, len(header), 0)
    with pytest.raises(ValueError, match="a header that"):
        read_container(MAGIC + fixed + hashlib.sha256(fixed + header).digest() + header)
