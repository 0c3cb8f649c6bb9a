"""Data sets: the article's split, a user's arrays, TFDS by name; and every way in which a file can be wrong."""

import os
from pathlib import Path

import numpy as np
import pytest

import hvae_jax as hv
from hvae_jax import data
from hvae_jax.data.dataset import BINARY, REAL
from hvae_jax.data.spec import Data
from hvae_jax.data.splits import drawn
from hvae_jax.likelihoods import for_data


def save(tmp_path: Path, **arrays: np.ndarray) -> str:
    """An .npz, whatever is in it."""
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return str(path)


def images(n: int = 20, high: int = 4, dtype: type = np.uint8) -> np.ndarray:
    """A few small images with the values 0..high."""
    x = np.random.default_rng(0).integers(0, high + 1, (n, 3, 3, 1))
    x.flat[0], x.flat[1] = 0, high
    return x.astype(dtype)


def test_digits_are_the_articles() -> None:
    digits = data.digits()
    assert {name: len(split) for name, split in digits.splits.items()} == {
        "train": 1000,
        "validation": 350,
        "test": 447,
    }
    assert digits.event == (8, 8, 1) and digits.dimensions == 64 and digits.classes == 10
    assert digits.kind == data.integer(17)
    from sklearn.datasets import load_digits

    raw = load_digits()
    everything = np.concatenate([split.x for split in digits.splits.values()])
    np.testing.assert_array_equal(everything.reshape(-1, 64), raw.data)
    np.testing.assert_array_equal(np.concatenate([split.y for split in digits.splits.values()]), raw.target)


def test_content_hash_sees_one_changed_pixel(tmp_path: Path) -> None:
    x = images()
    before = data.from_npz(save(tmp_path, x_train=x)).content_hash
    assert data.from_npz(save(tmp_path, x_train=x)).content_hash == before
    x[3, 1, 1] ^= 1
    assert data.from_npz(save(tmp_path, x_train=x)).content_hash != before


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (images(high=1), BINARY),
        (images(high=1, dtype=bool), BINARY),
        (images(high=4), data.integer(5)),
        (images(high=200), data.integer(256)),
        (images(high=300, dtype=np.int64), data.integer(301)),
        (images().astype(np.float64) / 4, REAL),
    ],
)
def test_kinds_of_value(x: np.ndarray, kind: data.Kind, tmp_path: Path) -> None:
    dataset = data.load(save(tmp_path, x_train=x))
    assert dataset.kind == kind
    likelihood = for_data(dataset)
    expected = {"binary": hv.Bernoulli(), "integer": hv.Categorical(max(kind.num_values, 2)), "real": hv.Gaussian()}
    assert likelihood == (hv.likelihoods.NegativeBinomial() if kind.num_values > 256 else expected[kind.name])
    likelihood.check(dataset.splits["train"].x)
    rows = drawn(20, 2)
    np.testing.assert_array_equal(dataset.splits["validation"].x, x[rows])
    np.testing.assert_array_equal(dataset.splits["train"].x, np.delete(x, rows, axis=0))


def test_npz_with_all_its_arrays(tmp_path: Path) -> None:
    x = images(30)
    y = np.arange(30) % 3
    path = save(
        tmp_path,
        x_train=x[:10],
        x_validation=x[10:20],
        x_test=x[20:],
        y_train=y[:10],
        y_validation=y[10:20],
        y_test=y[20:],
        num_values=9,
    )
    dataset = data.from_npz(path)
    assert list(dataset.splits) == ["train", "validation", "test"]
    assert dataset.kind == data.integer(9) and dataset.classes == 3
    np.testing.assert_array_equal(dataset.splits["test"].y, y[20:])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_test": images()}, "x_train is needed"),
        ({"x_train": images(0 + 1)[:0].reshape(0, 3, 3, 1)}, "nothing in it"),
        ({"x_train": np.array([[1.0, np.nan], [2.0, 3.0]])}, r"nan at index \(0, 1\)"),
        ({"x_train": np.array([[1.0, np.inf], [2.0, 3.0]])}, "not finite"),
        ({"x_train": np.array([[1, -2], [2, 3]])}, "-2"),
        ({"x_train": np.array(["a", "b"])}, "dtype"),
        ({"x_train": np.array([[1j, 2.0]])}, "dtype"),
        ({"x_train": np.arange(5)}, r"\[N, \.\.\.\]"),
        ({"x_train": images(), "x_test": images()[:, :2]}, "shape of x_train"),
        ({"x_train": images(), "y_train": np.zeros(3, int)}, "20 examples"),
        ({"x_train": images(), "y_train": np.zeros(20)}, "one whole number"),
        ({"x_train": images(), "y_train": np.full(20, -2)}, "count from 0"),
        ({"x_train": images(), "y_test": np.zeros(3, int)}, "no x of that name"),
        ({"x_train": images(), "num_values": np.array(3)}, "holds the value 4"),
        ({"x_train": images(), "num_values": np.array([5, 6])}, "one whole number"),
        ({"x_train": images(), "x_validation": images() / 9}, "all of one kind"),
        ({"x_train": images(1)}, "one example"),
    ],
)
def test_bad_arrays(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    path = save(tmp_path, **arrays)
    with pytest.raises(ValueError, match=message) as raised:
        data.load(path)
    assert "mine.npz" in str(raised.value)


def test_object_arrays_are_never_unpickled(tmp_path: Path) -> None:
    """Loading runs nothing: the payload below would leave a file."""
    witness = tmp_path / "witness"

    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(witness),)

    path = tmp_path / "evil.npz"
    np.savez(path, x_train=np.array([Payload(), Payload()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="object dtype"):
        data.load(str(path))
    assert not witness.exists()


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    path = tmp_path / "torn.npz"
    np.savez(path, x_train=images())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read"):
        data.load(str(path))
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        data.load(str(path))
    np.save(path.with_suffix(".npy"), images())
    path.with_suffix(".npy").replace(path)
    with pytest.raises(ValueError, match=r"\.npy"):
        data.load(str(path))
    with pytest.raises(FileNotFoundError, match="no file"):
        data.load(str(tmp_path / "nowhere.npz"))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("digts", "digits"),
        ("mnits", "mnist"),
        ("tfds-mnist", "mnist"),
        ("cifar", "cifar10"),
        ("imagenet_64", "imagenet64"),
        ("celeba64", "celeb_a64"),
        ("binarised_mnist", "binarized_mnist"),
    ],
)
def test_unknown_names_get_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"Did you mean '{near}'") as raised:
        data.load(name)
    assert all(known in str(raised.value) for known in (*data.NAMES, "tfds:NAME", ".npz", "folder"))


def test_names_that_are_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*tfds:NAME"):
        data.load("imagenet_resized/32x32")
    with pytest.raises(FileNotFoundError, match="no folder"):
        data.load(str(tmp_path / "pictures"))


def test_settings_reach_the_data_by_name(tmp_path: Path) -> None:
    path = save(tmp_path, x_train=images(high=255))
    dataset = data.load(path, binarise="static", flip=True, bits=2)
    assert dataset.kind == BINARY and dataset.augment.flip and "top 2 bits" in dataset.protocol
    with pytest.raises(ValueError, match=r"size=8 is for folders .* has the size it has"):
        data.load(path, size=8)
    with pytest.raises(ValueError, match="size=8"):
        data.load("mnist", size=8)
    with pytest.raises(ValueError, match="refuse and skip"):
        data.load("digits", bad_files="drop")


@pytest.mark.parametrize("name", ["", "  ", "tfds:", "tfds: "])
def test_an_empty_name_is_refused(name: str) -> None:
    for load in (data.load, data.check_name, lambda name: Data(name).load()):
        with pytest.raises(ValueError, match=r"which names none\. Known are digits"):
            load(name)
    with pytest.raises(ValueError, match="directory='' names no directory"):
        data.load("mnist", "")
