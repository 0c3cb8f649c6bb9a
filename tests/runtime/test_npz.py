"""Headers of an .npz: what they say, what is refused before a byte of an array is read, and what reading returns."""

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hvae_jax.runtime import npz
from hvae_jax.runtime.npz import array_headers, check_sizes, entry_names, read_arrays


def header(shape: str, dtype: str = "'<f8'") -> bytes:
    """The header of an .npy with whatever shape and dtype."""
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def zipped(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


ARRAYS = {
    "plain": np.arange(12).reshape(3, 4),
    "big_endian": np.arange(6, dtype=">f4").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "scalar": np.array(7),
    "empty": np.zeros((0, 5)),
    "words": np.array(["a", "bc"]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_headers_and_arrays(save: type, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save(path, **ARRAYS)
    headers = array_headers(path)
    assert list(headers) == entry_names(path) == list(ARRAYS)
    for name, array in ARRAYS.items():
        found = headers[name]
        assert (found.dtype, found.shape, found.nbytes) == (array.dtype, array.shape, array.nbytes)
    check_sizes(path, headers)
    for name, array in read_arrays(path, headers):
        np.testing.assert_array_equal(array, ARRAYS[name])
        assert array.dtype.isnative and array.flags.c_contiguous and array.shape == ARRAYS[name].shape
    assert list(array_headers(path, ["scalar"])) == ["scalar"] and not array_headers(path, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", "is no array"),
        (b"", "is no array"),
        (b"\x93NUMPY", "no header"),
        (b"\x93NUMPY\x09\x00" + bytes(100), "no header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 10**5, "no header"),
        (header("(-5, 2)") + bytes(8), r"shape \(-5, 2\), which no array has"),
        (header("(0, 99999999999999999999)"), "which no array has"),
        (header("(99999999999, 99999999999)") + bytes(8), r"79,999,999,998,400,000,000,008 bytes, but 8 follow"),
        (header("(3,)") + bytes(8), "24 bytes, but 8 follow"),
        (header("(1,)") + bytes(16), "8 bytes, but 16 follow"),
        (header("(1.5,)") + bytes(8), "no header"),
        (header("(1,)", "'what'") + bytes(8), "no header"),
        (header("(" * 5000), "no header"),
        (header("(1,)", "'|O'") + b"cos\nsystem\n", "object dtype"),
        (header("(1,)", "[('a', '|O')]") + bytes(8), "object dtype"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_entries_that_will_not_do(content: bytes, message: str, tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.npz", **{"other.npy": header("(1,)") + bytes(8), "bad.npy": content})
    with pytest.raises(ValueError, match=message) as raised:
        array_headers(path)
    assert f"bad in {path}" in str(raised.value) and len(str(raised.value)) < 500
    assert array_headers(path, ["other"])["other"].shape == (1,)


def test_damage_behind_the_header_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(1000), b=np.arange(10))
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a in {path} is damaged"):
        dict(read_arrays(path, array_headers(path)))


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for content in (b"", b"hello", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be read as an \.npz"):
            entry_names(path)
    with path.open("wb") as stream:
        np.save(stream, np.arange(3))
    with pytest.raises(ValueError, match=r"single \.npy array"):
        entry_names(path)
    with pytest.raises(ValueError, match="cannot be read"):
        entry_names(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"")
        archive.writestr("a", b"")
    with pytest.raises(ValueError, match="'a' twice"):
        entry_names(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", header("(1,)") + bytes(8))
    with pytest.raises(ValueError, match="another method"):
        array_headers(path)


def test_a_decompression_bomb_is_refused_by_its_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, size = tmp_path / "bomb.npz", 2**24
    np.savez_compressed(path, x=np.zeros(size, np.uint8))
    assert path.stat().st_size < size / 500
    check_sizes(path, array_headers(path))
    monkeypatch.setattr(npz, "ALWAYS_FINE", 2**23)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"take 16 MiB in memory .*decompression bomb.*numpy\.savez"):
        check_sizes(path, array_headers(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    np.savez(path, x=np.zeros(size, np.uint8))
    check_sizes(path, array_headers(path))


def test_what_exceeds_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros(2**17), y=np.zeros(2))
    headers = array_headers(path)
    monkeypatch.setattr(npz, "free_host_memory", lambda: 2**21)
    with pytest.raises(
        ValueError, match=r"take 1 MiB \(x alone 1 MiB\), .* half of the memory that is free here, 2 MiB"
    ):
        check_sizes(path, headers)
    check_sizes(path, {"x": headers["x"]})
