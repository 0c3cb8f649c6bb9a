"""Two feeds, the same batches: data that lies on the devices, and data that streams to them."""

import dataclasses
import gc
import itertools
import multiprocessing
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import chex
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from hvae_jax.data import Rows, Split
from hvae_jax.objectives import Batch
from hvae_jax.training import Feeding, Plan, data_mesh, feeds
from hvae_jax.training.dispatch import Portion
from hvae_jax.training.feeds import Feed, Portions, Resident, Streamed, read
from hvae_jax.training.loop import Machine

pytestmark = pytest.mark.leg

BATCH = 8
STREAMED = Feeding("streamed", threads=3, ahead=4)


def images(examples: int) -> np.ndarray:
    """Images that tell which they are: no two alike."""
    x = np.zeros((examples, 2, 3), np.uint8)
    x[:, 0, 0] = np.arange(examples)
    x[:, 1] = np.random.default_rng(0).integers(0, 256, (examples, 3))
    return x


def labels(examples: int) -> np.ndarray:
    """A label for each."""
    return np.arange(examples, dtype=np.int32) * 3 % 11


@dataclasses.dataclass(eq=False)
class Lazy:
    """Rows that are read when they are asked for, and say which were."""

    examples: int
    fails_at: int = -1
    seconds: float = 0.0
    asked: list[int] = dataclasses.field(default_factory=list)
    threads: set[str] = dataclasses.field(default_factory=set)
    together: threading.Barrier | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all of them."""
        return (self.examples, 2, 3)

    @property
    def dtype(self) -> np.dtype:
        """Of the images."""
        return np.dtype(np.uint8)

    @property
    def fingerprint(self) -> str:
        """Of no file."""
        return "lazy"

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, rows: Any) -> np.ndarray:
        rows = np.arange(self.examples)[rows]
        self.asked += rows.tolist()
        self.threads.add(threading.current_thread().name)
        if self.together is not None:
            self.together.wait()
        time.sleep(self.seconds)
        if self.fails_at in rows:
            raise OSError(f"image_{self.fails_at}.png is torn")
        return images(self.examples)[rows]


def steps_of(portion: Portion) -> list[Batch]:
    """The batches of one portion, one entry a step."""
    full, rest = portion
    found = [] if full is None else [jax.tree.map(lambda a, i=i: np.asarray(a[i]), full) for i in range(len(full.x))]
    return found if rest is None else [*found, jax.tree.map(np.asarray, rest)]


def gathered(portion: Portion, data: Batch | None) -> Portion:
    """A portion with its examples in the place of row numbers."""
    return portion if data is None else jax.tree.map(lambda rows: jax.tree.map(lambda a: a[rows], data), portion)


def take(feed: Feed, step: int) -> list[Batch]:
    """The batches of every step from one on, whatever the portions."""
    return [batch for portion in feed.portions(step) for batch in steps_of(gathered(portion, feed.data))]


def assert_same(found: Sequence[Batch], expected: Sequence[Batch]) -> None:
    """The same batches, to the bit and to the dtype."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        chex.assert_trees_all_equal(a, b, strict=True)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(
    ("examples", "per_dispatch", "start", "last"),
    [
        (50, 3, 0, 21),  # full batches and a rest
        (50, 100, 9, 21),  # from the middle of an epoch
        (50, 3, 4, 20),  # of a dispatch, to the middle of another
        (48, 1, 5, 13),  # no rest, one step a dispatch
        (48, 100, 0, 12),
        (5, 3, 0, 4),  # fewer than a batch
        (50, 3, 6, 7),  # a rest alone
        (50, 3, 21, 21),  # nothing left to do
    ],
)
def test_both_feeds_give_the_same_batches(
    examples: int, per_dispatch: int, start: int, last: int, labelled: bool
) -> None:
    """x and y of every step, on one device; in portions of the same length."""
    x, y, mesh = images(examples), labels(examples) if labelled else None, data_mesh(1)
    plan = Plan(examples, BATCH, per_dispatch, last, (3, 4))
    resident, streamed = Resident(x, y, plan, mesh), Streamed(Lazy(examples), y, plan, mesh, STREAMED)
    expected = take(resident, start)
    assert len(expected) == last - start
    if last > start:
        rows, rest = plan.rows(start, 1)
        rows = rest if rows is None else rows[0]
        np.testing.assert_array_equal(expected[0].x, x[rows])
        assert y is None or (expected[0].y == y[rows]).all()
    assert_same(take(streamed, start), expected)


def test_eight_devices_are_fed_as_one() -> None:
    """Full batches are split over them, what does not divide lies on each."""
    x, y = images(50), labels(50)
    plan = Plan(50, BATCH, 3, 14, (3, 4))
    expected = take(Resident(x, y, plan, data_mesh(1)), 0)
    mesh = data_mesh(8)
    resident, streamed = Resident(x, y, plan, mesh), Streamed(x, y, plan, mesh, STREAMED)
    assert resident.data is not None and resident.data.x.sharding.is_fully_replicated
    assert len(resident.data.x.sharding.device_set) == 8
    assert_same(take(resident, 0), expected)
    assert_same(take(streamed, 0), expected)
    for full, rest in streamed.portions(0):
        assert full is None or full.x.sharding.spec == full.y.sharding.spec == PartitionSpec(None, "data")
        assert full is None or {part.data.shape for part in full.x.addressable_shards} == {(3, 1, 2, 3)}
        assert rest is None or (rest.x.is_fully_replicated and len(rest.y.sharding.device_set) == 8)


@pytest.mark.slow
def test_worker_processes_give_the_same_batches() -> None:
    """In the same order; none of them is left when reading is abandoned."""
    x, y, mesh = images(50), labels(50), data_mesh(1)
    plan = Plan(50, BATCH, 3, 1000, (3, 4))
    portions = Streamed(x, y, plan, mesh, Feeding("streamed", workers=2, threads=1)).portions(2)
    expected = take(Resident(x, y, dataclasses.replace(plan, last_step=14), mesh), 2)
    found = [batch for portion in itertools.islice(portions, 6) for batch in steps_of(portion)]
    assert_same(found, expected)
    assert len(multiprocessing.active_children()) == 2
    portions.close()
    assert not multiprocessing.active_children()


def test_streamed_rows_are_read_once_and_no_others() -> None:
    """A run of one step reads its eight examples; an epoch reads each once."""
    lazy = Lazy(50)
    plan = Plan(50, BATCH, 1, 1)
    list(Streamed(lazy, None, plan, data_mesh(1), STREAMED).portions(0))
    full, _ = plan.rows(0, 1)
    assert full is not None and sorted(lazy.asked) == sorted(full[0].tolist())
    lazy = Lazy(50)
    list(Streamed(lazy, None, Plan(50, BATCH, 3, 7), data_mesh(1), STREAMED).portions(0))
    assert sorted(lazy.asked) == list(range(50))


def test_several_threads_read_at_a_time() -> None:
    """None of which is the one that trains: each batch waits until as many are being read as there are threads."""
    lazy = Lazy(48, together=threading.Barrier(STREAMED.threads, timeout=60))
    list(Streamed(lazy, None, Plan(48, BATCH, 1, 6), data_mesh(1), STREAMED).portions(0))
    assert len(lazy.threads) == STREAMED.threads
    assert threading.current_thread().name not in lazy.threads


def test_reading_runs_ahead_and_no_further() -> None:
    """While one portion is used the next ones are read, `ahead` of them; what is abandoned ends."""
    lazy = Lazy(200)
    before = threading.active_count()
    portions = Streamed(lazy, None, Plan(200, BATCH, 1, 500), data_mesh(1), STREAMED).portions(0)
    next(portions)
    deadline = time.monotonic() + 30
    while len(lazy.asked) < 4 * BATCH and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(lazy.asked) >= 4 * BATCH  # the one that was taken, and three more at least
    time.sleep(0.2)
    assert len(lazy.asked) <= (1 + STREAMED.ahead + STREAMED.threads) * BATCH
    portions.close()
    gc.collect()
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before, threading.enumerate()
    asked = len(lazy.asked)
    time.sleep(0.1)
    assert len(lazy.asked) == asked


def test_reading_costs_no_time_while_devices_compute() -> None:
    """Twenty portions of 20 ms each to read and to use take little more than using them."""
    portions = Streamed(Lazy(200, seconds=0.02), None, Plan(200, BATCH, 1, 20), data_mesh(1), STREAMED).portions(0)
    next(portions)
    start, waited = time.monotonic(), 0.0
    for _ in range(19):
        time.sleep(0.02)
        asked = time.monotonic()
        next(portions)
        waited += time.monotonic() - asked
    assert waited < 0.5 * (time.monotonic() - start)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_a_reader_raises_is_heard(workers: int) -> None:
    """With its message, at the batch it belongs to or before; the batches before it are whole."""
    lazy, plan = Lazy(50, fails_at=17), Plan(50, BATCH, 1, 7)
    fails = next(step for step in range(7) if any(17 in rows for rows in plan.rows(step, 1) if rows is not None))
    feed, seen = Streamed(lazy, None, plan, data_mesh(1), dataclasses.replace(STREAMED, workers=workers)), 0
    with pytest.raises(Exception, match=r"image_17\.png is torn"):  # noqa: PT012  the batches before it
        for _ in feed.portions(0):
            seen += 1
    assert seen <= fails


def test_an_array_is_a_source_of_rows() -> None:
    """What streams is an array or rows; the test's own rows are rows."""
    assert isinstance(Lazy(3), Rows)


# ---- which feed


def test_what_streams() -> None:
    """What takes more than a share of a device's memory, or what is told to."""
    auto = Feeding(share=0.5)
    assert [auto.streams(n, 100) for n in (0, 50, 51)] == [False, False, True]
    assert Feeding("streamed").streams(1, 2**40) and not Feeding("resident").streams(2**40, 1)


def test_the_machine_chooses() -> None:
    """By the bytes of x."""
    split, plan = Split(images(50)), Plan(50, BATCH, 3, 7)
    kinds = [type(Machine(data_mesh(1), Feeding(share=0.5), memory=memory).feed(split, plan)) for memory in (600, 599)]
    assert kinds == [Resident, Streamed]


def test_portions_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dispatch of streamed data is shortened to portions of some bytes, one batch at least."""
    x, mesh, plan = images(50), data_mesh(1), Plan(50, BATCH, 100, 7)
    assert Streamed(x, None, plan, mesh, STREAMED).plan == plan
    monkeypatch.setattr(feeds, "PORTION_BYTES", 3 * BATCH * 6 + 5)
    assert Streamed(x, None, plan, mesh, STREAMED).plan.per_dispatch == 3
    assert_same(take(Streamed(x, None, plan, mesh, STREAMED), 0), take(Resident(x, None, plan, mesh), 0))
    monkeypatch.setattr(feeds, "PORTION_BYTES", 5)
    assert Streamed(x, None, plan, mesh, STREAMED).plan.per_dispatch == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0}, "feed.share is 0.0"),
        ({"share": 1.5}, "feed.share is 1.5"),
        ({"share": float("nan")}, r"Feeding\(share=nan\): it has to be a number"),
        ({"threads": 0}, "feed.threads is 0, but it has to be 1 or more"),
        ({"workers": -1}, "feed.workers is -1, but it has to be 0 or more"),
        ({"ahead": 0}, "feed.ahead is 0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Feeding(**settings)


def test_without_grain_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no Grain for Windows."""
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r"--feed\.kind resident"):
        next(read([1], Feeding()))


# ---- several processes


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_read_shares_that_make_up_the_batch(processes: int) -> None:
    """Each reads its rows of every full batch; a rest that does not divide over the devices is read by all."""
    x, y, plan = images(50), labels(50), Plan(50, BATCH, 3, 14)
    whole = Portions(x, y, plan, 4, slice(0, 8), slice(0, 2))
    size = BATCH // processes
    parts = [Portions(x, y, plan, 4, slice(i * size, (i + 1) * size), slice(0, 2)) for i in range(processes)]
    assert {len(part) for part in parts} == {len(whole)} == {5}
    for i in range(len(whole)):
        full, rest = whole[i]
        shares = [part[i] for part in parts]
        for j, array in enumerate(full):
            np.testing.assert_array_equal(np.concatenate([share[0][j] for share in shares], axis=1), array)
        for j, array in enumerate(rest):
            for share in shares:
                np.testing.assert_array_equal(share[1][j], array)
