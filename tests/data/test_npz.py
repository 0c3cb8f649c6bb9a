"""A user's arrays: exact casts, native order, names of splits, labels, and files that are damaged or too large."""

import warnings
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from hvae_jax import data
from hvae_jax.data.dataset import REAL
from hvae_jax.data.exact import as_float32, narrowed
from hvae_jax.data.splits import NAMES, drawn, looks_like_split, split_of
from hvae_jax.runtime import npz

X = np.random.default_rng(0).integers(0, 5, (20, 3, 3, 1))
X.flat[:2] = 0, 4


def save(tmp_path: Path, **arrays: np.ndarray) -> str:
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return str(path)


def with_value(value: float, dtype: type | str) -> np.ndarray:
    """Zeros `[1100, 2]`, more than are cast at once, with one other value at (1050, 1)."""
    x = np.zeros((1100, 2), dtype)
    x[1050, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (with_value(2**33, np.int64), "8589934592 at index (1050, 1)"),
        (with_value(2**31, np.uint32), "2147483648 at index (1050, 1)"),
        (with_value(2**63, np.uint64), "9223372036854775808 at index (1050, 1)"),
        (with_value(-1, np.int8), "-1 at index (1050, 1)"),
        (with_value(1e300, np.float64), "1e+300 at index (1050, 1): values that are beyond float32"),
        (with_value(-3.5e38, np.float64), "would become -inf"),
        (with_value(1e-300, np.float64), "would become 0.0"),
        (with_value(np.nan, np.float64), "nan at index (1050, 1): values that are not finite, 1 in all"),
        (with_value(np.inf, np.float16), "inf at index (1050, 1)"),
        (with_value(-np.inf, np.float32), "-inf at index (1050, 1)"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.dtype),
)
def test_values_that_a_cast_would_change_are_refused_by_their_place(x: np.ndarray, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine") as raised:
        data.load(save(tmp_path, x_train=x))
    assert said in str(raised.value)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int16, ">i4", "<i8", ">u8"])
def test_whole_numbers_are_the_same_afterwards(dtype: type | str) -> None:
    most = 1 if dtype is bool else int(np.iinfo(dtype).max)
    for high in {min(most, value) for value in (1, 255, 256, 2**31 - 1)}:
        x = np.array([[0, high], [high, 0]], dtype)
        cast = narrowed("x", x)
        np.testing.assert_array_equal(cast, x)
        assert cast.dtype == (np.uint8 if high < 256 else np.int32) and cast.dtype.isnative


@pytest.mark.parametrize("dtype", [np.float16, ">f4", np.float32, np.float64, np.longdouble])
def test_floats_are_rounded_to_float32_and_no_further(dtype: type | str) -> None:
    x = np.array([[0.1, -65504.0], [1 / 3, 0.0]]).astype(dtype)
    cast = as_float32("x", np.asarray(x, x.dtype.newbyteorder("=")))
    np.testing.assert_array_equal(cast, x.astype(np.float32))
    assert cast.dtype == np.float32 and cast.dtype.isnative
    subnormal = np.full((2, 2), 2.0**-149)  # exact in float32
    np.testing.assert_array_equal(as_float32("x", subnormal), subnormal)


def test_any_byte_order_and_any_order_of_axes(tmp_path: Path) -> None:
    y = np.arange(20) % 3
    plain = data.load(save(tmp_path, x_train=X, y_train=y))
    big = save(tmp_path, x_train=np.asfortranarray(X.astype(">i4")), y_train=y.astype(">i8"))
    other = data.load(big)
    assert other.content_hash == plain.content_hash
    for split in other.splits.values():
        assert split.x.dtype == np.uint8 and split.x.flags.c_contiguous
        assert split.y.dtype == np.int32 and split.y.dtype.isnative
    reals = data.load(save(tmp_path, x_train=(X / 7).astype(">f8")))
    assert reals.kind == REAL and reals.splits["train"].x.dtype == np.dtype(np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": X.astype(ml_dtypes.bfloat16)}, r"bfloat16, perhaps: save it as float32"),
        ({"x_train": X.astype(complex)}, "dtype complex128"),
        ({"x_train": X.astype(str)}, "dtype <U"),
        ({"x_train": X.astype("m8[s]")}, "dtype timedelta64"),
        ({"x_train": np.zeros((20, 2), [("a", "i4")])}, r"dtype \[\('a'"),
        ({"x_train": np.zeros((20, 0, 3))}, "nothing in it"),
        ({"x_train": np.zeros((0, 4))}, "nothing in it"),
        ({"x_train": np.float64(3)}, "nothing in it"),
        ({"x_train": np.zeros((20, 3, 32, 32), np.uint8)}, r"channels first.*transpose\(0, 2, 3, 1\)"),
        ({"x_train": np.zeros((20, 1, 28, 28), np.uint8)}, "channels first"),
        ({"x_train": X, "y_train": np.zeros((20, 1), int)}, "one whole number an example"),
        ({"x_train": X, "y_train": np.zeros(20, bool)}, "one whole number an example"),
        ({"x_train": X, "y_train": np.full(20, np.nan)}, "one whole number an example"),
        ({"x_train": X, "y_train": np.arange(20) * 2**33}, r"label 163208757248 at index 19.*numpy\.unique"),
        ({"x_train": X, "y_train": np.arange(20) - 3}, "label -3 at index 0"),
        ({"x_train": X, "num_values": np.float64(5)}, "one whole number"),
        ({"x_train": X, "num_values": np.int64(-5)}, "-5"),
        ({"x_train": X, "num_values": np.array([], int)}, "one whole number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_that_will_not_do(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    path = save(tmp_path, **arrays)
    with pytest.raises(ValueError, match=message) as raised:
        data.load(path)
    assert path in str(raised.value)


def test_two_channels_and_rows_of_one_pixel_are_images(tmp_path: Path) -> None:
    for shape in ((20, 8, 8, 2), (20, 1, 100, 16), (20, 4, 4, 4), (20, 3, 3, 8)):
        assert data.load(save(tmp_path, x_train=np.zeros(shape, np.uint8))).event == shape[1:]


@pytest.mark.parametrize(
    ("names", "validation", "test"),
    [
        (("x_train", "x_val", "x_test"), 5, 3),
        (("X_train", "X_VALID", "X_Test"), 5, 3),
        (("x_training", "x_dev", "x_eval"), 5, 3),
        (("x_train", "x_development", "x_testing"), 5, 3),
        (("x_train", "y_train", "other"), 2, 0),
    ],
)
def test_other_names_of_splits(names: tuple[str, str, str], validation: int, test: int, tmp_path: Path) -> None:
    arrays = {name: X[:count] for name, count in zip(names, (20, 5, 3), strict=True)}
    if "y_train" in arrays:
        arrays["y_train"] = np.arange(20) % 2
    dataset = data.load(save(tmp_path, **arrays))
    assert len(dataset.splits["validation"]) == validation
    assert ("test" in dataset.splits) == bool(test) and (not test or len(dataset.splits["test"]) == test)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("x_val", "x_valid"), "x_val and x_valid both name the validation split"),
        (("x_vaild",), r"x_vaild, which is no split.*validation may be valid, val, dev"),
        (("X_extra",), "X_extra, which is no split"),
        (("y_tset",), "y_tset, which is no split"),
        (("x_",), "which is no split"),
        (("x_TRAIN",), "both name the train split"),
    ],
)
def test_names_that_are_no_splits_are_refused(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    path = save(tmp_path, x_train=X, **dict.fromkeys(names, X))
    with pytest.raises(ValueError, match=message):
        data.load(path)


def test_a_missing_validation_split_is_drawn(tmp_path: Path) -> None:
    """Sorted by class, the last tenth would be one class."""
    y = np.repeat(np.arange(10), 100)
    x = np.repeat(X[:1], 1000, 0)
    x[:, 0, 0, 0] = y
    dataset = data.load(save(tmp_path, x_train=x, y_train=y, x_test=x[::10], y_test=y[::10]))
    held = drawn(1000, 100)
    np.testing.assert_array_equal(dataset.splits["validation"].y, y[held])
    np.testing.assert_array_equal(dataset.splits["validation"].x[:, 0, 0, 0], y[held])
    np.testing.assert_array_equal(dataset.splits["train"].y, np.delete(y, held))
    assert len(set(dataset.splits["validation"].y)) == 10
    assert "validation = 100 of the train examples, drawn with seed 0" in dataset.describe()
    assert (
        dataset.content_hash
        == data.load(save(tmp_path, x_train=x, y_train=y, x_test=x[::10], y_test=y[::10])).content_hash
    )
    np.testing.assert_array_equal(drawn(12, 3), [4, 6, 11])  # for good


@pytest.mark.parametrize(
    ("validation", "message"),
    [([9] * 30, "100% of its labels are not among"), ([2] * 30, "30 examples have the label 2"), ([2] * 9, "")],
)
def test_splits_that_do_not_go_together_are_warned_of(validation: list[int], message: str, tmp_path: Path) -> None:
    count = len(validation)
    path = save(
        tmp_path,
        x_train=np.repeat(X, 3, 0),
        y_train=np.arange(60) % 5,
        x_val=np.repeat(X, 3, 0)[:count],
        y_val=np.array(validation),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.load(path)
    said = "".join(str(warning.message) for warning in caught)
    assert (message in said and "sorted by class" in said) if message else not said


def test_digits_keep_their_splits() -> None:
    assert data.load("digits").content_hash == "8145c90488bb196b"


def header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(8)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x_train.txt", b"no array", "x_train.txt, which is no split"),
        ("x_train.npy", b"no array", "x_train in .* is no array"),
        ("x_train.npy", header("(-5, 2)"), r"x_train in .* shape \(-5, 2\), which no array has"),
        ("x_train.npy", header("(99999999999, 99999999999)"), "x_train in .* but 8 follow"),
        ("x_\x1b[31m.npy", header("(1,)"), r"'x_\\x1b\[31m', whose characters"),
    ],
)
def test_entries_that_are_no_arrays(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    with pytest.raises(ValueError, match=message) as raised:
        data.load(str(path))
    assert str(raised.value).isprintable()


def test_other_entries_are_not_looked_at(tmp_path: Path) -> None:
    path = save(tmp_path, x_train=X, names=np.array(["a", None]))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README.txt", "mine")
    assert len(data.load(path).splits["train"]) == 18


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x_train=np.zeros((2**14, 1024), np.uint8), unused=X)
    assert len(data.load(str(path)).splits["train"])
    monkeypatch.setattr(npz, "ALWAYS_FINE", 2**20)
    with pytest.raises(ValueError, match="decompression bomb"):
        data.load(str(path))


def test_names_of_splits() -> None:
    assert all(split_of(name) == split for split, names in NAMES.items() for name in names)
    assert split_of("Train") == "train" and split_of("VAL") == "validation" and split_of("trains") is None
    like = "train test2017 train_32x32 trainA val-images images_test Training_Data testset test.1 dev_b TEST"
    unlike = "bullet_train test_tube trains testimony dev_board cats validator a 9 training_shoes protest evaluator"
    assert [name for name in like.split() if not looks_like_split(name)] == []
    assert [name for name in unlike.split() if looks_like_split(name)] == []
