"""Hidden labels: which are kept, how labelled examples are repeated, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvae_jax.data import MISSING, Dataset, Split, digits, few_labels, integer, prepare
from hvae_jax.data.rows import LazyRows
from hvae_jax.data.spec import Data


class Numbered(LazyRows):
    """Rows that are their own number."""

    shape = (100, 1)
    dtype = np.dtype(np.uint8)
    fingerprint = "numbered"

    def read(self, numbers: np.ndarray) -> np.ndarray:
        return numbers.astype(np.uint8)[:, None]


def toy(x: Any = None) -> Dataset:
    """A hundred examples of four classes."""
    x = np.arange(100, dtype=np.uint8)[:, None] if x is None else x
    y = (np.arange(100) % 4).astype(np.int32)
    return Dataset("toy", {"train": Split(x, y), "validation": Split(x, y)}, integer(100), "made up")


def test_as_many_labels_of_each_class() -> None:
    """The others are missing; examples, and the labels of other splits, stay."""
    whole = digits()
    few = few_labels(whole, 10)
    y, all_y = few.splits["train"].y, whole.splits["train"].y
    assert np.bincount(y[y != MISSING]).tolist() == [10] * 10 and (y == MISSING).sum() == 900
    np.testing.assert_array_equal(y[few.splits["train"].labelled], all_y[few.train.labelled])
    assert few.train is few.splits["train"]
    for name, split in whole.splits.items():
        np.testing.assert_array_equal(few.splits[name].x, split.x)
        if name != "train":
            np.testing.assert_array_equal(few.splits[name].y, split.y)
    assert "10 labels of each class, drawn with seed 0" in few.protocol
    assert few.content_hash != whole.content_hash


def test_the_seed_draws_them() -> None:
    """The same seed keeps the same labels, another one others; 0 labels hide all."""
    kept = [few_labels(toy(), 3, seed=seed).splits["train"].y for seed in (0, 0, 1)]
    np.testing.assert_array_equal(kept[0], kept[1])
    assert (kept[0] != kept[2]).any()
    assert (few_labels(toy(), 0).splits["train"].y == MISSING).all()
    assert len(Split(np.zeros((2, 1))).labelled) == 0


@pytest.mark.parametrize("x", [None, Numbered()], ids=["array", "rows"])
def test_labelled_examples_are_repeated(x: Any) -> None:
    """Every example occurs, labelled ones equally often, so that their share is the nearest there is."""
    few = few_labels(toy(x), 2, share=0.5)  # 8 labelled of 100: 92/8 = 11.5, to an even 12
    train = few.train
    rows, counts = np.unique(np.asarray(train.x[:]), return_counts=True)
    assert len(rows) == 100 and set(counts) == {1, 12}
    assert np.mean(train.y != MISSING) == pytest.approx(96 / 188)
    np.testing.assert_array_equal(train.y[train.y != MISSING], np.asarray(train.x[:])[train.labelled, 0] % 4)
    assert len(few.splits["train"]) == 100  # what is measured has each example once
    assert few_labels(toy(x), 20, share=0.1).train.y.shape == (100,)  # 80% are labelled: nothing is repeated


def test_dynamic_binarisation_keeps_its_grey_values() -> None:
    """The examples that training draws from are still the grey ones, with the same labels."""
    x = np.arange(64, dtype=np.uint8).reshape(16, 2, 2, 1)
    y = np.repeat(np.arange(2), 8).astype(np.int32)
    grey = Dataset("grey", {"train": Split(x, y), "validation": Split(x, y)}, integer(256), "made up")
    few = few_labels(prepare(grey, binarise="dynamic"), 1, share=0.5)
    assert few.train.x.max() == 63 and few.splits["train"].x.max() <= 1
    assert set(few.train.y[few.train.labelled]) == {0, 1}


def test_as_settings(tmp_path: Path) -> None:
    """Flags of `Data`; another data set in its place keeps its labels."""
    few = Data("digits", labels=2, label_share=0.1, label_seed=3).load()
    assert len(few.splits["train"].labelled) == 20 and "seed 3" in few.protocol
    np.savez(tmp_path / "other.npz", x_train=digits().splits["train"].x[:30], num_values=17)
    other = Data("digits", labels=2, label_share=0.1).of_other(str(tmp_path / "other.npz"))
    assert other.splits["train"].y is None


@pytest.mark.parametrize(
    ("dataset", "labels", "share", "said"),
    [
        (Dataset("bare", {"train": Split(np.zeros((3, 1)))}, integer(2), ""), 1, None, "bare has none. Leave labels"),
        (toy(), 26, None, "toy has 25 train examples of class 0. Keep at most so many"),
        (toy(), -1, None, "labels=-1: 0 hides all labels"),
        (toy(), 1, 1.0, "label_share=1.0: it has to be between 0 and 1"),
        (toy(), 0, 0.5, "labels=0 keeps none. Set label_share to None"),
    ],
)
def test_what_is_refused(dataset: Dataset, labels: int, share: float | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        few_labels(dataset, labels, share)


def test_settings_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"label_share=0\.5 repeats labelled examples: set labels"):
        Data("digits", label_share=0.5)
    with pytest.raises(ValueError, match="label_seed=-1"):
        Data("digits", labels=1, label_seed=-1)
