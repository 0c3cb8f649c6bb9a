"""TFDS: what its real builders prepared, read without TensorFlow; made-up records; data that is not prepared."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.raw_tfds import COLOUR, FACES, GREY, LABELS, RAW, STROKES, prepare

from hvae_jax import data
from hvae_jax.data import tfds as tfds_module
from hvae_jax.data.dataset import BINARY, Split, integer
from hvae_jax.data.splits import drawn
from hvae_jax.data.tfds import open_tfds

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data_dir in which TFDS's builders have prepared small copies of all that we name."""
    where = tmp_path_factory.mktemp("tfds")
    for i, (name, make_raw) in enumerate(RAW.items()):
        folder = tmp_path_factory.mktemp(f"raw{i}")
        prepare(name, make_raw(folder), where)
    return str(where)


def counts(dataset: data.Dataset) -> tuple[int, ...]:
    return tuple(len(split) for split in dataset.splits.values())


def same_images(found: list[Split], x: np.ndarray, y: np.ndarray | None = None) -> None:
    """The splits' examples are those of x, in whatever order; labels go with them."""
    images = np.concatenate([split.x[:] for split in found])
    order, wanted = (np.lexsort(array.reshape(len(array), -1).T[:50]) for array in (images, x))
    np.testing.assert_array_equal(images[order], x[wanted])
    if y is not None:
        np.testing.assert_array_equal(np.concatenate([split.y for split in found])[order], y[wanted])


def test_a_directory_one_folder_too_high(prepared: str, tmp_path: Path) -> None:
    (tmp_path / "tfds").symlink_to(prepared)
    (tmp_path / "other").mkdir()
    for name in ("binarized_mnist", "tfds:mnist", "tfds:mnist:3.0.1", "imagenet32"):
        assert data.load(name, str(tmp_path)).content_hash == data.load(name, prepared).content_hash
    (tmp_path / "again").symlink_to(prepared)
    for name in ("mnist", "tfds:mnist"):
        with pytest.raises(ValueError, match="holds no mnist, but again and tfds in it do"):
            data.load(name, str(tmp_path))


def test_splits_of_other_names(prepared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"Train": 0, "test": 0, "dev": 0, "extra": 0, "eval": 0}
    assert tfds_module._named(list(known), ("train", "validation", "test"), "x") == {
        "train": "Train",
        "validation": "dev",
        "test": "test",
    }
    with pytest.raises(ValueError, match="val and dev both name the validation split"):
        tfds_module._named(["train", "val", "dev"], ("train", "validation"), "x")


def test_examples_in_their_original_order_are_drawn(prepared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where TFDS has not shuffled, the last examples may be of one class."""
    plain = data.load("tfds:mnist", prepared)
    monkeypatch.setattr(tfds.core.DatasetInfo, "disable_shuffling", property(lambda info: True))
    in_order = data.load("tfds:mnist", prepared)
    assert "last 1 train examples" in plain.protocol and "1 train examples drawn with seed 0" in in_order.protocol
    everything = np.concatenate([plain.splits[part].x for part in ("train", "validation")])
    np.testing.assert_array_equal(in_order.splits["validation"].x, everything[drawn(11, 1)])


def test_missing_labels_and_labels_of_other_kinds(prepared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = open_tfds("mnist", prepared, ("train",))["train"]
    x = rows[:]

    def labelled(*labels: int) -> data.Split:
        y = np.resize(np.array(labels), 11)
        monkeypatch.setattr(tfds_module.TfdsRows, "examples", lambda self, numbers: (x, y))
        return tfds_module.read_split(rows, 10**9)

    assert labelled(-1).y is None
    np.testing.assert_array_equal(labelled(3, 4).y[:2], [3, 4])
    np.testing.assert_array_equal(labelled(3, -1).y[:2], [3, -1])
    with pytest.raises(ValueError, match="label -2 at index 1"):
        labelled(3, -2)
    with pytest.raises(ValueError, match="label 8589934592 at index 0"):
        labelled(2**33, 1)
    of = tfds.features
    kinds = {
        of.ClassLabel(num_classes=3): True,
        of.Text(): False,
        of.Scalar(np.float32): False,
        of.BBoxFeature(): False,
    }
    for feature, has_labels in kinds.items():
        assert tfds_module._has_labels(of.FeaturesDict({"label": feature})) is has_labels
    assert not tfds_module._has_labels(of.FeaturesDict({"label": {"a": of.ClassLabel(num_classes=3)}}))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_in_the_order_of_its_files(name: str, prepared: str) -> None:
    dataset = getattr(data, name)(prepared, held_out=2)
    assert counts(dataset) == (9, 2, 5) and dataset.kind == integer(256)
    np.testing.assert_array_equal(np.concatenate([split.x for split in dataset.splits.values()]), GREY)
    np.testing.assert_array_equal(np.concatenate([split.y for split in dataset.splits.values()]), LABELS)
    shuffled = data.load(f"tfds:{name}", prepared)
    assert counts(shuffled) == (10, 1, 5)
    same_images([shuffled.splits["train"], shuffled.splits["validation"]], GREY[:11], LABELS[:11])
    assert (shuffled.splits["test"].x != dataset.splits["test"].x).any()


def test_binarized_mnist_keeps_its_splits(prepared: str) -> None:
    for name in ("binarized_mnist", "tfds:binarized_mnist"):
        dataset = data.load(name, prepared)
        assert dataset.kind == BINARY and counts(dataset) == (9, 4, 3) and dataset.classes == 0
        for split, rows in zip(dataset.splits.values(), (slice(0, 9), slice(9, 13), slice(13, 16)), strict=True):
            same_images([split], (GREY[rows] > 127).astype(np.uint8))
    ordered = data.load("binarized_mnist", prepared)
    np.testing.assert_array_equal(ordered.splits["train"].x, GREY[:9] > 127)


def test_cifar10_in_the_order_of_its_files(prepared: str) -> None:
    dataset = data.cifar10(prepared, held_out=3)
    held = np.sort(np.random.RandomState(11172018).permutation(10)[:3])
    np.testing.assert_array_equal(dataset.splits["validation"].x, COLOUR[held])
    np.testing.assert_array_equal(dataset.splits["validation"].y, LABELS[held])
    np.testing.assert_array_equal(dataset.splits["test"].x, COLOUR[10:12])


@pytest.mark.parametrize(
    ("name", "has_labels"), [("svhn_cropped", True), ("imagenet32", True), ("downsampled_imagenet32", False)]
)
def test_natural_images(name: str, has_labels: bool, prepared: str) -> None:
    dataset = data.load(name, prepared)
    assert counts(dataset) == (8, 1, 4) and dataset.event == (32, 32, 3) and dataset.kind == integer(256)
    train = [dataset.splits["train"], dataset.splits["validation"]]
    same_images(train, COLOUR[:9], LABELS[:9] if has_labels else None)
    same_images([dataset.splits["test"]], COLOUR[9:])
    assert (dataset.splits["train"].y is not None) == has_labels
    assert ("do not compare" in dataset.protocol) == ("imagenet" in name)


def test_celeb_a64(prepared: str) -> None:
    dataset = data.load("celeb_a64", prepared, bits=5, flip=True)
    assert counts(dataset) == (3, 1, 2) and dataset.event == (64, 64, 3) and dataset.kind == integer(32)
    cropped = [Image.fromarray(face[40:188, 15:163]).resize((64, 64), Image.Resampling.BILINEAR) for face in FACES]
    x = np.stack([np.asarray(image) for image in cropped]) >> 3
    for split, rows in zip(dataset.splits.values(), (slice(0, 3), slice(3, 4), slice(4, 6)), strict=True):
        same_images([split], x[rows])


def test_omniglot_resized(prepared: str) -> None:
    dataset = data.load("omniglot_resized", prepared, binarise="dynamic")
    assert counts(dataset) == (5, 1, 3) and dataset.event == (28, 28, 1) and dataset.augment.binarise == 256
    small = [ImageOps.invert(Image.fromarray(s)).resize((28, 28), Image.Resampling.BOX) for s in STROKES]
    x = np.stack([np.asarray(image)[..., None] for image in small])
    same_images([data.load("omniglot_resized", prepared).splits["test"]], x[6:])
    assert "not the file of Burda" in dataset.protocol
    assert abs(x.mean() - (255 - STROKES).mean()) < 1  # ink is bright, and as much of it as there was


SETTINGS: list[dict[str, Any]] = [{}, {"binarise": "static"}, {"binarise": "dynamic"}, {"bits": 3}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_lazy_is_as_in_memory(settings: dict[str, Any], prepared: str) -> None:
    plain = data.load("tfds:mnist", prepared, **settings)
    lazy = data.load("tfds:mnist", prepared, in_memory_bytes=9 * 784, **settings)
    assert isinstance(lazy.splits["test"].x, np.ndarray) and lazy.splits["test"].y is not None  # small enough
    assert not isinstance(lazy.splits["train"].x, np.ndarray) and lazy.splits["train"].y is None
    assert lazy.kind == plain.kind and lazy.protocol == plain.protocol
    for part, split in plain.splits.items():
        np.testing.assert_array_equal(lazy.splits[part].x[:], split.x)
    np.testing.assert_array_equal(lazy.train.x[np.array([8, 1, 1])], plain.train.x[[8, 1, 1]])
    again = data.load("tfds:mnist", prepared, in_memory_bytes=9 * 784, **settings)
    assert again.content_hash == lazy.content_hash


@pytest.mark.parametrize("name", ["tfds:binarized_mnist", "imagenet32", "celeb_a64", "omniglot_resized"])
def test_everything_lazy(name: str, prepared: str) -> None:
    plain, lazy = data.load(name, prepared), data.load(name, prepared, in_memory_bytes=0)
    assert lazy.kind == plain.kind and lazy.event == plain.event
    for part, split in plain.splits.items():
        rows = pickle.loads(pickle.dumps(lazy.splits[part].x))
        np.testing.assert_array_equal(rows[:], split.x)
        assert rows.fingerprint == lazy.splits[part].x.fingerprint and rows.dtype == np.uint8


def test_rows_are_read_by_threads(prepared: str) -> None:
    rows = open_tfds("mnist", prepared, ("train",))["train"]
    everything = rows[:]
    orders = [np.random.default_rng(seed).integers(0, 11, 20) for seed in range(30)]
    with ThreadPoolExecutor(8) as pool:
        for order, x in zip(orders, pool.map(rows.__getitem__, orders), strict=True):
            np.testing.assert_array_equal(x, everything[order])


def test_the_fingerprint_is_of_what_lies_there(prepared: str, tmp_path: Path) -> None:
    rows = open_tfds("mnist", prepared, ("train", "test"))
    assert rows["train"].fingerprint != rows["test"].fingerprint
    raw = tmp_path / "raw"
    raw.mkdir()
    images = RAW["mnist"](raw)
    images["train-images-idx3-ubyte.gz"].write_bytes(images["train-images-idx3-ubyte.gz"].read_bytes()[:-1] + b"!")
    prepare("mnist", images, tmp_path / "other")
    assert open_tfds("mnist", str(tmp_path / "other"), ("train",))["train"].fingerprint != rows["train"].fingerprint


def test_any_image_data_set_at_a_size(prepared: str) -> None:
    dataset = data.load("tfds:celeb_a", prepared, size=16)
    assert dataset.event == (16, 16, 3) and counts(dataset) == (3, 1, 2) and "resized to 16" in dataset.protocol
    assert data.load("tfds:celeb_a", prepared).event == (218, 178, 3)


NAMES = {
    "mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3), "svhn_cropped": (32, 32, 3),
    "imagenet_resized/64x64": (64, 64, 3), "celeb_a": (218, 178, 3), "omniglot": (105, 105, 3),
}  # fmt: skip


def test_made_up_records() -> None:
    """The builders' own records, with made-up pixels: names, splits, labels and kinds as TFDS declares them."""
    with tfds.testing.mock_data(num_examples=12):
        found = {name: data.load(f"tfds:{name}") for name in NAMES}
        lazy = data.load("tfds:cifar10", in_memory_bytes=0)
        named = {name: data.load(name) for name in ("svhn_cropped", "imagenet32", "imagenet64", "celeb_a64")}
        sized = data.load("tfds:cats_vs_dogs", size=8)
        resized = data.load("omniglot_resized", binarise="threshold")
        with pytest.raises(ValueError, match=r"differ in size\. Give --data\.size"):
            data.load("tfds:cats_vs_dogs")
    for name, event in NAMES.items():
        assert found[name].event == event and found[name].kind == integer(256)
        assert found[name].splits["train"].x.dtype == np.uint8
    assert counts(found["mnist"]) == (12, 12, 12) and found["mnist"].classes > 1
    assert "TFDS mnist/3.0.1" in found["mnist"].protocol
    np.testing.assert_array_equal(lazy.splits["test"].x[:], found["cifar10"].splits["test"].x)
    assert [dataset.event[0] for dataset in named.values()] == [32, 32, 64, 64]
    assert sized.event == (8, 8, 3) and resized.event == (28, 28, 1)


@pytest.mark.parametrize(
    ("name", "builder"),
    [
        ("tfds:mnist", "mnist"),
        ("svhn_cropped", "svhn_cropped"),
        ("imagenet64", "imagenet_resized/64x64"),
        ("downsampled_imagenet32", "downsampled_imagenet/32x32"),
        ("celeb_a64", "celeb_a"),
        ("omniglot_resized", "omniglot"),
    ],
)
def test_what_is_not_prepared_gets_the_command(name: str, builder: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        data.load(name, str(tmp_path))
    said = str(raised.value)
    command = f"tfds.builder('{builder}', data_dir='{tmp_path}', file_format='array_record').download_and_prepare()"
    assert f'python -c "import tensorflow_datasets as tfds; {command}"' in said and "pip install tensorflow" in said
    assert ("no longer" in said) == name.startswith("downsampled")


def test_unknown_names_and_data_without_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tfds:mnist"):
        data.load("tfds:mnits", str(tmp_path))
    with pytest.raises(ValueError, match="no 'image'"):
        data.load("tfds:imdb_reviews", str(tmp_path))
