"""Numbers of weights: floats only, in the machine's byte order, cast exactly or by rounding; sizes before arrays."""

import json
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from safetensors.numpy import save_file

from hvae_jax.convert.array_files import _chosen, read_arrays
from hvae_jax.convert.biva import _norms
from hvae_jax.convert.casts import cast_weights
from hvae_jax.convert.state_dict import Entry, Misfits, size, to_variables, unwrapped
from hvae_jax.runtime import npz

F32 = np.float32


# ---- casts


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, ">f4", ">f8", ">f2"])
def test_casts_to_as_much_range_are_exact(dtype: Any) -> None:
    values = np.array([[0.0, -0.0, 1.5, -3.0], [np.inf, -np.inf, np.nan, 2.0**-8]])
    cast = cast_weights("w", values.astype(dtype), F32)
    assert cast.dtype == F32 and cast.dtype.isnative
    np.testing.assert_array_equal(cast, values)


def test_rounding_is_what_a_cast_does() -> None:
    """To the nearest number; numbers that are tiny beside others become zero, and what is not finite stays."""
    values = np.array([1 / 3, 1e-50, 3.4028235e38, np.inf, np.nan])
    np.testing.assert_array_equal(cast_weights("w", values, F32), values.astype(F32))
    assert cast_weights("w", np.zeros((2, 3)), F32).shape == (2, 3)
    assert cast_weights("w", np.float64(0.1), F32) == F32(0.1)
    assert cast_weights("w", np.ones((0, 3)), F32).shape == (0, 3)


@pytest.mark.parametrize(
    ("values", "dtype", "says"),
    [
        (np.array([[1.0, 2.0], [-1e300, 3.0]]), F32, r"w\[1, 0\] is -1e\+300, which float32 does not have: .* -inf"),
        (np.array([0.0, 1e-60, 0.0]), F32, r"w\[1\] is 1e-60, .* would become 0\."),
        (np.array([1e30], F32), np.float16, r"w\[0\] is 1e\+30, which float16 does not have"),
        (np.float64(1e39), F32, r"w\[\] is 1e\+39"),
        (np.full(3, 2**33), F32, "w is int64, but weights are floats. If they were quantised"),
        (np.ones(3, np.int8), F32, "w is int8"),
        (np.ones(3, bool), F32, "w is bool"),
        (np.ones(3, complex), F32, "w is complex128"),
        (np.ones(3, ml_dtypes.float8_e4m3fn), F32, "w is float8_e4m3fn"),
        (np.array(["1.0"]), F32, "w is <U3"),
    ],
    ids=range(10),
)
def test_casts_that_would_change_numbers(values: Any, dtype: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cast_weights("w", values, dtype)


def test_state_dicts_are_cast_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of several dtypes share a leaf; an array of no float and one out of range are named by their own name."""
    template = {"params": {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}}
    table = {f"block.{i}.w": Entry("params/w", at=i) for i in range(2)}

    def read(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        return to_variables({"block.0.w": one, "block.1.w": two}, table, template)["params"]["w"]

    half = np.array([1.0, 2.0, 3.0])
    assert read(half.astype(">f4"), half).dtype == F32
    mixed = read(half.astype(ml_dtypes.bfloat16), half.astype(np.float16))
    np.testing.assert_array_equal(mixed, [half, half])
    assert read(half.astype(ml_dtypes.bfloat16), half.astype(ml_dtypes.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"block.1.w\[2\] is 1e\+300"):
        read(half, np.array([0.0, 1.0, 1e300]))
    with pytest.raises(ValueError, match=r"block.0.w is int64, but weights are floats"):
        read(np.arange(3), half)


def test_norms_of_weights_beyond_the_range_of_squares() -> None:
    """They are what float64 gives; others are those of the weight's own dtype, bit for bit."""
    w = np.random.default_rng(0).normal(size=(4, 5, 3, 3)).astype(F32)
    np.testing.assert_array_equal(_norms(w, (1, 2, 3)), np.sqrt(np.square(w).sum((1, 2, 3), keepdims=True)))
    for scale in (1e30, 1e-30):
        exact = scale * np.sqrt(np.square(w.astype(float)).sum((1, 2, 3), keepdims=True))
        np.testing.assert_allclose(_norms(w * F32(scale), (1, 2, 3)), exact, rtol=1e-6)
    half = np.full((1, 9), 300, np.float16)
    np.testing.assert_array_equal(_norms(half, (1,)), [[900.0]])
    assert not _norms(np.zeros((2, 3), F32), (1,)).any()


# ---- files


def test_every_format_gives_native_arrays() -> None:
    """Big-endian floats come back in the machine's order; counters and flags pass the reader."""
    given = {
        "a": np.array([1.0, 2.0], ">f4"),
        "b": np.array([3.0], ">f8"),
        "n": np.array(7, ">i8"),
        "f": np.array(True),
    }
    np.savez("x.npz", **given)
    Path("x.msgpack").write_bytes(msgpack_serialize({k: v.astype(v.dtype.newbyteorder("=")) for k, v in given.items()}))
    for name in ("x.npz", "x.msgpack"):
        arrays = read_arrays(Path(name)).arrays
        for key, value in given.items():
            np.testing.assert_array_equal(arrays[key], value)
            assert arrays[key].dtype == value.dtype.newbyteorder("=") and arrays[key].dtype.isnative


def safetensors_of(dtype: str, size: int) -> None:
    """A safetensors file with four numbers of a dtype."""
    header = json.dumps({"a.w": {"dtype": dtype, "shape": [4], "data_offsets": [0, size]}}).encode()
    Path("x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))


@pytest.mark.parametrize(("dtype", "size"), [("F8_E4M3", 4), ("F8_E5M2", 4), ("F4", 2), ("F8_E8M0", 4), ("C64", 32)])
def test_dtypes_of_safetensors_that_are_refused(dtype: str, size: int) -> None:
    safetensors_of(dtype, size)
    with pytest.raises(ValueError, match=f"a.w in x.safetensors is {dtype}. .* save it as float32"):
        read_arrays(Path("x.safetensors"))


def test_dtypes_of_npz_that_are_refused() -> None:
    """NumPy keeps bfloat16 as two bytes without a name: that is a guess, and not made."""
    for dtype, says in (
        (ml_dtypes.bfloat16, "do not keep bfloat16. Save it as float32, or as a safetensors file"),
        (complex, "is complex128. Weights are floats"),
        ("U3", "is <U3"),
        ([("x", "f4")], "is "),
        (np.longdouble, "is float128"),
    ):
        np.savez("x.npz", w=np.zeros(2, dtype))
        with pytest.raises(ValueError, match=f"w in x.npz .*{says}"):
            read_arrays(Path("x.npz"))


def test_bfloat16_of_other_formats() -> None:
    given = np.arange(3).astype(ml_dtypes.bfloat16)
    save_file({"a": given}, "x.safetensors")
    Path("x.msgpack").write_bytes(msgpack_serialize({"a": given}))
    for name in ("x.safetensors", "x.msgpack"):
        array = read_arrays(Path(name)).arrays["a"]
        assert array.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(array, given)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def header_of(name: str, shape: str, descr: str = "<f4") -> None:
    """An .npz of one entry whose header says this shape, and 8 bytes."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"
    with zipfile.ZipFile("x.npz", "w") as archive:
        archive.writestr(name, b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + b"\0" * 8)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("w.npy", "(-5, 2)", "has shape .-5, 2., which no array has"),
        ("w.npy", "(99999999999, 99999999999)", "bytes, but 8 follow"),
        ("w.npy", "(1,)", "4 bytes, but 8 follow"),
        ("w.txt", "(2,)", "w.txt in x.npz|x.npz"),
    ],
)
def test_headers_that_no_array_has(name: str, shape: str, says: str) -> None:
    header_of(name, shape)
    if name.endswith(".txt"):
        with zipfile.ZipFile("x.npz", "w") as archive:
            archive.writestr(name, "no array")
    with pytest.raises(ValueError, match=says):
        read_arrays(Path("x.npz"))


def test_a_decompression_bomb_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of .npz and of PyTorch's zips are those of their headers; no entry is opened to the end."""
    monkeypatch.setattr(npz, "ALWAYS_FINE", 2**20)  # a bomb of a test that is quick
    np.savez_compressed("x.npz", w=np.zeros((2, 2**19), F32))
    assert Path("x.npz").stat().st_size < 2**13
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(ValueError, match=r"x.npz take 4 MiB in memory .* decompression bomb"):
        read_arrays(Path("x.npz"))
    with zipfile.ZipFile("x.th", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"")
        archive.writestr("x/data/0", bytes(2**22))
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="2.8.0"))
    with pytest.raises(ValueError, match=r"x.th take 4 MiB in memory .*x/data/0"):
        read_arrays(Path("x.th"))


def test_files_larger_than_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvae_jax.convert.array_files.host_memory", lambda: 100)
    Path("x.npz").write_bytes(bytes(101))
    with pytest.raises(ValueError, match=r"x.npz has 0 MiB, but this machine has"):
        read_arrays(Path("x.npz"))


class Tensor(types.SimpleNamespace):
    """As much of a PyTorch tensor as the reader asks for, over an array."""

    def detach(self) -> "Tensor":
        return self

    def contiguous(self) -> "Tensor":
        return self

    def numel(self) -> int:
        return self.count

    def element_size(self) -> int:
        return 4

    def numpy(self) -> np.ndarray:
        return self.array


def test_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """One number that a view repeats 2^40 times is refused, and so are dtypes that NumPy does not have."""
    from hvae_jax.convert.formats import tensor_arrays

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(strided=0, bfloat16="torch.bfloat16"))
    Path("x.th").write_bytes(bytes(1000))

    def tensor(**changes: Any) -> Tensor:
        given = {"layout": 0, "is_quantized": False, "dtype": "torch.float32", "count": 2, "array": np.ones(2, F32)}
        return Tensor(**(given | changes), shape=(2,))

    np.testing.assert_array_equal(tensor_arrays(Path("x.th"), {"a": tensor()})["a"], np.ones(2))
    for changes, says in (
        ({"count": 2**40}, "x.th take 4,194,304 MiB"),
        ({"dtype": "torch.float8_e4m3fn"}, "a in x.th is float8_e4m3fn. Its numbers mean something with their scales"),
        ({"dtype": "torch.complex64"}, "a in x.th is complex64"),
        ({"is_quantized": True}, "sparse or quantised"),
    ):
        with pytest.raises(ValueError, match=says):
            tensor_arrays(Path("x.th"), {"a": tensor(**changes)})


# ---- names and parts


@pytest.mark.parametrize(
    ("tree", "weights", "entry", "value"),
    [
        ({"a": 1}, None, None, 1),
        ({"state_dict": {"a": 1}, "epoch": 3}, None, "state_dict", 1),
        ({"model": {"a": 1}, "optimizer": {"state": {}}}, None, "model", 1),
        ({"state_dict": {"model": {"a": 1}}}, None, "state_dict.model", 1),
        ({"model": {"a": 1}, "model_ema": {"a": 2}}, None, "model_ema", 2),
        ({"model": {"a": 1}, "model_ema": {"a": 2}}, "plain", "model", 1),
        ({"state_dict": {"model": {"a": 1}, "model_ema": {"a": 2}}}, "ema", "state_dict.model_ema", 2),
        ({"ema_params": {"params": {"a": 2}}}, "ema", "ema_params.params", 2),
    ],
    ids=range(8),
)
def test_parts_of_checkpoints(tree: Any, weights: Any, entry: str | None, value: int) -> None:
    as_arrays = jax.tree.map(lambda leaf: np.full(2, leaf, F32), tree)
    Path("x.msgpack").write_bytes(msgpack_serialize(as_arrays))
    found = read_arrays(Path("x.msgpack"), weights)
    assert found.entry == entry
    np.testing.assert_equal(dict(found.arrays), {"a": np.full(2, value, F32)})


@pytest.mark.parametrize(
    ("tree", "weights", "says"),
    [
        ({"ema_params": {"params": {"a": 1}}}, "plain", "has ema_params. Leave --weights out"),
        ({"state_dict": {"a": 1}}, "ema", "has state_dict. Leave"),
        ({"a\x1b[2J": 1}, None, r"holds the name 'a\\x1b\[2J', which no code gives"),
        ({"a.b": 1, "a": {"b": 2}}, None, "holds a.b twice"),
    ],
    ids=range(4),
)
def test_parts_and_names_that_will_not_do(tree: Any, weights: Any, says: str) -> None:
    Path("x.msgpack").write_bytes(msgpack_serialize(jax.tree.map(lambda leaf: np.full(2, leaf, F32), tree)))
    with pytest.raises(ValueError, match=says):
        read_arrays(Path("x.msgpack"), weights)


def test_names_within_names_without_end() -> None:
    tree: Any = {"a": np.zeros(1, F32)}
    for _ in range(70):
        tree = {"x": tree}
    Path("x.msgpack").write_bytes(msgpack_serialize(tree))
    with pytest.raises(ValueError, match="names within names, more than 64 deep"):
        read_arrays(Path("x.msgpack"))
    itself: dict[str, Any] = {}
    itself["model"] = itself  # as a pickle may have it
    with pytest.raises(ValueError, match="parts within parts, more than 64 deep"):
        _chosen(Path("x.th"), itself, None)


@pytest.mark.parametrize(
    "wrapped",
    [
        "module.{}",
        "model.{}",
        "module.model.{}",
        "_orig_mod.{}",
        "module._orig_mod.{}",
        "_orig_mod.module.{}",
        "_fsdp_wrapped_module._orig_mod.model.{}",
        "params.{}",
    ],
)
def test_names_of_wrapped_models(wrapped: str) -> None:
    """Prefixes that all names have come off; the names of wrappers come off within a name too."""
    given = {wrapped.format(name): i for i, name in enumerate(("a.w", "a.b", "module.x"))}
    assert unwrapped(given) == {"a.w": 0, "a.b": 1, "module.x": 2}
    assert unwrapped({"a._orig_mod.w": 0, "b._checkpoint_wrapped_module.module.w": 1}) == {"a.w": 0, "b.module.w": 1}


def test_names_of_parts_of_models() -> None:
    """A prefix that only some names have stays, and the error of the importer says so; nothing is lost."""
    given = {"model.a": 0, "model.b": 1, "model_ema.a": 2}
    assert unwrapped(given) == given
    arrays = {name: np.zeros(2) for name in given}
    with pytest.raises(ValueError, match=r'Most of its names begin with "model\.", but model_ema\.a do not'):
        size(arrays, "a")
    with pytest.raises(ValueError, match=r"has a\.w twice, as _orig_mod\.a\.w and a\._orig_mod\.w"):
        unwrapped({"_orig_mod.a.w": 0, "a._orig_mod.w": 1})


def test_errors_name_a_dozen_of_a_kind() -> None:
    """And the number of the others."""
    misfits = Misfits({f"a.{i}": (2, 3) for i in range(1000)}, {"b": (1,)}, {f"c.{i}": ((1,), (2,)) for i in range(13)})
    assert misfits.listed().startswith("Missing: a.0 (2, 3), a.1 (2, 3), ")
    assert "a.11 (2, 3) and 988 more; not expected: b; of another shape: c.0 is (1,), not (2,)," in misfits.listed()
    assert misfits.listed().endswith("and 1 more.")
