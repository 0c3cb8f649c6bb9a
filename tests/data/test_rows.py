"""Examples read where they lie, and what is done to data sets: lazily and at once, the same values."""

import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from hvae_jax import data
from hvae_jax.data.dataset import BINARY, REAL, Dataset, Split, integer
from hvae_jax.data.prepare import BINARISATIONS, Draw, Shift, Threshold, split_off, uniform_words
from hvae_jax.data.rows import Changed, Chosen, LazyRows, changed, chosen, in_memory, sampled_hash

RNG = np.random.default_rng(0)


@dataclasses.dataclass(frozen=True, eq=False)
class Stored(LazyRows):
    """An array that is read as if it lay elsewhere."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def fingerprint(self) -> str:
        return str(self.array.sum())

    def read(self, numbers: np.ndarray) -> np.ndarray:
        assert numbers.ndim == 1 and (numbers >= 0).all()
        return self.array[numbers]


GREY = RNG.integers(0, 256, (2500, 5, 3, 1), dtype=np.uint8)
LAZY = {
    "stored": (Stored(GREY), GREY),
    "chosen by a range": (Chosen(Stored(GREY), range(7, 2000, 3)), GREY[7:2000:3]),
    "chosen by numbers": (Chosen(Stored(GREY), np.array([5, 3, 99, 3])), GREY[[5, 3, 99, 3]]),
    "shifted": (Changed(Stored(GREY), Shift(3)), GREY >> 3),
    "drawn": (Changed(Stored(GREY), Draw(256, "test")), changed(GREY, Draw(256, "test"))),
    "drawn and chosen": (
        Chosen(Changed(Stored(GREY), Draw(256, "test")), range(100, 2500)),
        changed(GREY, Draw(256, "test"))[100:],
    ),
}


@pytest.mark.parametrize("name", LAZY)
def test_rows_are_indexed_as_an_array_is(name: str) -> None:
    rows, array = LAZY[name]
    n = len(array)
    mask = np.arange(n) % 3 == 1
    assert rows.shape == array.shape and rows.dtype == array.dtype and len(rows) == n
    everything: list[Any] = [
        np.s_[:], np.s_[1:3], np.s_[::-1], np.s_[-2:], np.s_[2:2], np.array([n - 1, 0, 1, 1]), [0, 2], mask, -1, 2,
        np.int64(1), np.array([-1, 0]), np.array([], int), [],
    ]  # fmt: skip
    for index in everything:
        wanted = array[np.asarray(index, int)] if isinstance(index, list) else array[index]
        np.testing.assert_array_equal(rows[index], wanted)
    for wrong in (n, [-n - 1], np.ones(n + 1, bool), np.array([0.5]), np.zeros((1, 1), int), np.uint64(2**64 - 1)):
        with pytest.raises(IndexError):
            rows[wrong]


@pytest.mark.parametrize("name", LAZY)
def test_rows_are_pickled_and_read_by_threads(name: str) -> None:
    rows, array = LAZY[name]
    copy = pickle.loads(pickle.dumps(rows))
    assert copy.fingerprint == rows.fingerprint
    orders = [np.random.default_rng(seed).integers(0, len(array), 50) for seed in range(20)]
    with ThreadPoolExecutor(8) as pool:
        for order, got in zip(orders, pool.map(lambda order: copy[order], orders), strict=True):
            np.testing.assert_array_equal(got, array[order])


def test_reading_into_memory_heeds_the_limit() -> None:
    rows = Stored(GREY)
    assert in_memory(rows, GREY.nbytes - 1) is rows
    np.testing.assert_array_equal(in_memory(rows, GREY.nbytes), GREY)
    assert in_memory(GREY, 0) is GREY
    assert chosen(GREY, range(1, 9)).base is GREY  # a view


def test_fingerprints_tell_apart() -> None:
    rows = Stored(GREY)
    ways = [rows, Chosen(rows, range(5)), Chosen(rows, np.arange(5)), Changed(rows, Shift(1)), Changed(rows, Shift(2))]
    ways += [Changed(rows, Draw(256, "train")), Changed(rows, Draw(256, "test")), Changed(rows, Threshold(256))]
    assert len({way.fingerprint for way in ways}) == len(ways)


def test_sampled_hash_sees_size_and_content(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(bytes(300_000))
    before = sampled_hash([file])
    assert sampled_hash([file]) == before
    file.write_bytes(bytes(299_999) + b"x")
    changed_end = sampled_hash([file])
    file.write_bytes(bytes(300_001))
    assert len({before, changed_end, sampled_hash([file])}) == 3


def test_uniform_words_are_a_function_of_the_row() -> None:
    for size in (1, 7, 8, 9, 784):
        together = uniform_words(np.arange(50), size, 3)
        np.testing.assert_array_equal(uniform_words(np.array([49, 3, 4, 5, 0]), size, 3), together[[49, 3, 4, 5, 0]])
        assert together.shape == (50, size) and (uniform_words(np.arange(50), size, 4) != together).any()
    words = uniform_words(np.arange(1000), 100, 0).astype(np.float64) / 2**32
    assert abs(words.mean() - 0.5) < 5 / np.sqrt(12 * words.size)
    assert abs(np.corrcoef(words[:-1].ravel(), words[1:].ravel())[0, 1]) < 5 / np.sqrt(words.size)


def test_draws_have_the_right_chances() -> None:
    """Each grey value's share of ones within five standard errors; black and white are certain."""
    for levels in (2, 17, 256):
        x = np.broadcast_to(np.arange(levels), (4000, levels))
        share = changed(x, Draw(levels, "train")).mean(0)
        p = np.arange(levels) / (levels - 1)
        assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / 4000)).all()
        assert share[0] == 0 and share[-1] == 1
    x = np.array([[0.0, 0.25, 1.0]] * 4000, np.float32)
    share = changed(x, Draw(0, "train")).mean(0)
    assert share[0] == 0 and share[2] == 1 and abs(share[1] - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)


BYTES = integer(256)


def a_dataset(x: np.ndarray = GREY, kind: data.Kind = BYTES, lazy: bool = False) -> Dataset:
    wrap = Stored if lazy else np.asarray
    cuts = {"train": x[:1500], "validation": x[1500:2000], "test": x[2000:]}
    return Dataset("mine", {part: Split(wrap(cut)) for part, cut in cuts.items()}, kind, "mine")


@pytest.mark.parametrize("settings", [{"binarise": how} for how in BINARISATIONS] + [{"bits": 5}, {"bits": 1}, {}])
def test_lazy_is_as_in_memory(settings: dict[str, Any]) -> None:
    lazy, plain = data.prepare(a_dataset(lazy=True), **settings), data.prepare(a_dataset(), **settings)
    assert lazy.kind == plain.kind and lazy.protocol == plain.protocol and lazy.augment == plain.augment
    for part, split in plain.splits.items():
        order = np.random.default_rng(1).permutation(len(split))
        assert isinstance(split.x, np.ndarray) and not isinstance(lazy.splits[part].x, np.ndarray)
        np.testing.assert_array_equal(lazy.splits[part].x[order], split.x[order])
        assert lazy.splits[part].x.dtype == split.x.dtype == np.uint8
        assert lazy.splits[part].x.fingerprint == pickle.loads(pickle.dumps(lazy.splits[part].x)).fingerprint
    np.testing.assert_array_equal(lazy.train.x[:50], plain.train.x[:50])
    assert lazy.content_hash == data.prepare(a_dataset(lazy=True), **settings).content_hash


def test_dynamic_trains_on_grey_and_measures_one_draw() -> None:
    dynamic, static = (data.prepare(a_dataset(), binarise=how) for how in ("dynamic", "static"))
    assert dynamic.kind == static.kind == BINARY
    np.testing.assert_array_equal(dynamic.train.x, GREY[:1500])
    assert dynamic.augment == data.Augment(binarise=256) and static.augment == data.Augment()
    assert static.training is None
    for part, split in dynamic.splits.items():
        np.testing.assert_array_equal(split.x, static.splits[part].x)
        assert set(np.unique(split.x)) == {0, 1}
    batch = np.asarray(dynamic.augment(jax.numpy.asarray(dynamic.train.x[:100]), jax.random.key(0)))
    assert set(np.unique(batch)) == {0, 1} and dynamic.content_hash != static.content_hash
    assert "seed 0" in dynamic.protocol and "each training step" in dynamic.protocol
    same = GREY[:500]
    twice = data.prepare(Dataset("", {p: Split(same) for p in ("train", "test")}, integer(256), ""), binarise="static")
    assert (twice.splits["train"].x != twice.splits["test"].x).any()  # each split its own draw


def test_other_kinds_are_binarised_by_their_largest_value() -> None:
    digits = data.load("digits", binarise="dynamic")
    assert digits.augment.binarise == 17 and digits.kind == BINARY
    threshold = data.load("digits", binarise="threshold").splits["test"].x
    np.testing.assert_array_equal(threshold, data.digits().splits["test"].x > 8)
    reals = RNG.random((2500, 4)).astype(np.float32)
    dynamic = data.prepare(a_dataset(reals, REAL), binarise="dynamic")
    assert dynamic.augment.binarise == 2 and dynamic.train.x.dtype == np.float32
    np.testing.assert_array_equal(
        data.prepare(a_dataset(reals, REAL), binarise="threshold").splits["train"].x, reals[:1500] > 0.5
    )


def test_settings_combine() -> None:
    dataset = data.prepare(a_dataset(), binarise="dynamic", flip=True, bits=4)
    assert dataset.augment == data.Augment(flip=True, binarise=16)
    np.testing.assert_array_equal(dataset.train.x, GREY[:1500] >> 4)
    assert "top 4 bits" in dataset.protocol and "mirrored" in dataset.describe()


@pytest.mark.parametrize(
    ("settings", "x", "kind", "message"),
    [
        ({"binarise": "often"}, GREY, integer(256), "dynamic, static, threshold"),
        ({"binarise": "static"}, GREY // 255, BINARY, "binary as it is"),
        ({"binarise": "static"}, np.repeat(GREY, 3, -1), integer(256), "grey images"),
        ({"binarise": "dynamic"}, GREY / 3, REAL, r"from 0 to 85\. Scale x"),
        ({"binarise": "dynamic"}, np.full((2500, 4), np.nan), REAL, "from nan to nan"),
        ({"bits": 0}, GREY, integer(256), "1 to 8"),
        ({"bits": 9}, GREY, integer(256), "1 to 8"),
        ({"bits": 5}, GREY // 16, integer(16), "8-bit data"),
        ({"bits": 5}, GREY / 255, REAL, "8-bit data"),
        ({"flip": True}, GREY.reshape(2500, 15), integer(256), r"\[H, W, C\]"),
    ],
)
def test_settings_that_do_not_go_with_the_data(
    settings: dict[str, Any], x: np.ndarray, kind: data.Kind, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        data.prepare(a_dataset(x, kind), **settings)


def test_splitting_off() -> None:
    splits = {"train": Split(GREY[:10], np.arange(10)), "test": Split(GREY[10:12])}
    by_number = split_off(splits, np.array([4, 1]))
    np.testing.assert_array_equal(by_number["validation"].y, [1, 4])
    np.testing.assert_array_equal(by_number["train"].x, GREY[[0, 2, 3, 5, 6, 7, 8, 9]])
    assert list(by_number) == ["train", "validation", "test"]
    lazy = split_off({"train": Split(Stored(GREY[:10]))}, 3)
    assert [len(split) for split in lazy.values()] == [7, 3]
    np.testing.assert_array_equal(lazy["validation"].x[:], GREY[7:10])
    for count in (0, 10, 11):
        with pytest.raises(ValueError, match="some stay"):
            split_off(splits, count)
