"""Folders of images: splits by any usual name, folders that look like splits, files that are passed over, odd names."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvae_jax import data

RNG = np.random.default_rng(0)


def fill(folder: Path, n: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.fromarray(RNG.integers(0, 256, (4, 4), dtype=np.uint8)).save(folder / f"{i}.png")


def counts(folder: Path, **settings: object) -> dict[str, int]:
    return {part: len(split) for part, split in data.load(str(folder), **settings).splits.items()}


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        ("Train Test", {"train": 7, "validation": 1, "test": 3}),
        ("training testing", {"train": 7, "validation": 1, "test": 3}),
        ("train dev eval", {"train": 8, "validation": 3, "test": 3}),
        ("TRAIN VAL", {"train": 8, "validation": 3}),
        ("training development evaluation", {"train": 8, "validation": 3, "test": 3}),
    ],
)
def test_splits_by_their_usual_names(folders: str, found: dict[str, int], tmp_path: Path) -> None:
    for i, name in enumerate(folders.split()):
        fill(tmp_path / name, 3 if i else 8)
    assert counts(tmp_path) == found


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ("train test_images", r"test_images, which looks like a split under another name.*validation may be valid"),
        ("train_32x32 valid_32x32", "train_32x32, valid_32x32, which look"),
        ("trainA trainB testA", "testA, trainA, trainB"),
        ("cat dog test", "test, but no train folder"),
        ("train val valid", "val and valid both name the validation split"),
        ("Train train", "both name the train split"),
        ("bus car train", r"train and bus, car\. If that is a class named train"),
        ("mine/train mine/test", "splits below other folders, such as mine/test, mine/train:"),
        ("cat/train cat/test dog/train dog/test", "splits below other folders"),
    ],
)
def test_folders_that_look_like_splits_are_refused(folders: str, message: str, tmp_path: Path) -> None:
    for name in folders.split():
        fill(tmp_path / name)
    with pytest.raises(ValueError, match=message) as raised:
        data.load(str(tmp_path))
    assert str(tmp_path) in str(raised.value)


def test_classes_that_only_sound_like_splits(tmp_path: Path) -> None:
    for name in ("bullet_train", "test_tube", "trains", "dev_board"):
        fill(tmp_path / name, 5)
    assert data.load(str(tmp_path)).classes == 4


def test_images_beside_the_splits_are_counted(tmp_path: Path) -> None:
    for name in ("train", "test", "unlabelled", "extra"):
        fill(tmp_path / name)
    with pytest.warns(UserWarning, match=r"images beside the folders of the splits \(6\)"):
        assert counts(tmp_path) == {"train": 2, "validation": 1, "test": 3}


def test_files_passed_over_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, 4)
    for name in ("a.heic", "b.HEIC", "c.txt", "Makefile"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"pictures of other formats \(2 \.heic\): convert them to PNG"):
        dataset = data.load(str(tmp_path))
    assert "other files passed over: 2 .heic, 1 without suffix, 1 .txt" in dataset.protocol
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match=r"holds no images.* Passed over: 2 \.heic"):
        data.load(str(tmp_path))


def test_names_beyond_utf_8_and_with_control_characters(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    odd = tmp_path / os.fsdecode(b"\xff\x1b[31m.png")
    (tmp_path / "0.png").rename(odd)
    dataset = data.load(str(tmp_path))
    lazy = data.load(str(tmp_path), in_memory_bytes=0)
    assert counts(tmp_path) == {"train": 9, "validation": 1}
    assert lazy.content_hash == data.load(str(tmp_path), in_memory_bytes=0).content_hash
    np.testing.assert_array_equal(lazy.splits["train"].x[:], dataset.splits["train"].x)
    odd.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"\\xff\\x1b\[31m\.png") as raised:
        data.load(str(tmp_path))
    str(raised.value).encode()
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize("limit", [2**20, 0])
def test_skip_leaves_out_what_is_damaged_behind_its_header(limit: int, tmp_path: Path) -> None:
    fill(tmp_path, 12)
    damaged = tmp_path / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:-25])
    Image.new("L", (1, 65_000)).save(tmp_path / "narrow.png")
    with pytest.warns(UserWarning, match=r"(?s)one file is.*3\.png cannot be decoded"):
        dataset = data.load(str(tmp_path), bad_files="skip", size=4, in_memory_bytes=limit)
    assert sum(len(split) for split in dataset.splits.values()) == 12
    assert all(split.x[:].shape[1:] == (4, 4, 1) for split in dataset.splits.values())


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "a")
    fill(tmp_path / "b")
    scandir = os.scandir

    def denied(path: str) -> object:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ValueError, match=r"/b cannot be listed \(Permission denied\)"):
        data.load(str(tmp_path))


def test_the_split_by_names_is_as_it_was(tmp_path: Path) -> None:
    """By the SHA-256 of relative paths."""
    for name in ("cat", "dog"):
        fill(tmp_path / name, 10)
    lazy = data.load(str(tmp_path), in_memory_bytes=0)
    assert lazy.splits["validation"].x.names == ("cat/8.png", "dog/7.png")


def test_labels_that_do_not_overlap_are_warned_of(tmp_path: Path) -> None:
    for part, kinds in (("train", "ab"), ("val", "cd")):
        for kind in kinds:
            fill(tmp_path / part / kind, 6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.load(str(tmp_path))
    assert "100% of its labels are not among those of train" in str(caught[0].message)
