"""Which examples each step sees, and where dispatches begin and end."""

import itertools

import numpy as np
import pytest

from hvae_jax.training import Plan, Training

pytestmark = pytest.mark.leg

EXAMPLES, BATCH = 50, 8  # an epoch: six full batches and one of two


def steps_of(plan: Plan, epoch: int) -> list[np.ndarray]:
    """The rows of each step of an epoch, dispatch by dispatch."""
    step, stop, batches = epoch * plan.epoch_steps, (epoch + 1) * plan.epoch_steps, []
    while step < stop:
        length = plan.length(step)
        full, rest = plan.rows(step, length)
        batches += ([] if full is None else list(full)) + ([] if rest is None else [rest])
        step += length
    assert step == stop == (epoch + 1) * plan.epoch_steps
    return batches


def order(plan: Plan, epoch: int) -> list[int]:
    """All rows of an epoch, in order."""
    return np.concatenate(steps_of(plan, epoch)).tolist()


def test_epoch_steps() -> None:
    """The partial batch counts; a batch may be larger than the data."""
    assert [Plan(n, 8, 4, 100).epoch_steps for n in (1, 8, 9, 50, 56)] == [1, 1, 2, 7, 7]


@pytest.mark.parametrize(
    ("per_dispatch", "expected"), [(3, [3, 3, 1]), (7, [7]), (100, [7]), (1, [1] * 7), (6, [6, 1])]
)
def test_dispatches_start_over_with_each_epoch(per_dispatch: int, expected: list[int]) -> None:
    """Boundaries are multiples of per_dispatch within the epoch, its end, and the last step."""
    plan, step, lengths = Plan(EXAMPLES, BATCH, per_dispatch, 14 + 5), 0, []
    while step < plan.last_step:
        lengths.append(plan.length(step))
        step += lengths[-1]
    assert step == 19
    assert lengths[: 2 * len(expected)] == expected * 2
    assert sum(lengths[2 * len(expected) :]) == 5


def test_a_resumed_run_meets_the_same_boundaries() -> None:
    """From any step within a dispatch, the rest of that dispatch is taken: later ones begin where they always do."""
    plan = Plan(EXAMPLES, BATCH, 3, 1000)
    starts = {step for step in range(21) if step % 7 in (0, 3, 6)}
    for step in range(21):
        assert step + plan.length(step) == min(s for s in starts | {21} if s > step)


@pytest.mark.parametrize("per_dispatch", [1, 3, 7, 100])
@pytest.mark.parametrize("examples", [5, 48, 50])
def test_dispatches_are_numbered_in_turn(examples: int, per_dispatch: int) -> None:
    """The i-th one begins at `start(i)`, and every step in it answers with i."""
    plan = Plan(examples, BATCH, per_dispatch, 40)
    step = 0
    for number in itertools.count():
        assert plan.start(number) == step
        length = plan.length(step)
        assert [plan.dispatch(s) for s in range(step, step + length)] == [number] * length
        step += length
        if step == plan.last_step:
            break


@pytest.mark.parametrize("per_dispatch", [1, 3, 100])
@pytest.mark.parametrize(
    ("examples", "sizes"), [(50, [8] * 6 + [2]), (48, [8] * 6), (5, [5]), (8, [8]), (9, [8, 1]), (1, [1])]
)
def test_each_example_once_an_epoch(examples: int, sizes: list[int], per_dispatch: int) -> None:
    """Full batches, then exactly what is left; nothing twice, nothing left out."""
    plan = Plan(examples, BATCH, per_dispatch, 1000)
    for epoch in (0, 1, 5):
        batches = steps_of(plan, epoch)
        assert [len(batch) for batch in batches] == sizes
        assert all(batch.dtype == np.int32 for batch in batches)
        assert sorted(np.concatenate(batches).tolist()) == list(range(examples))


@pytest.mark.parametrize(
    ("examples", "step", "length", "full", "rest"),
    [
        (50, 0, 7, (6, 8), (2,)),
        (50, 7, 3, (3, 8), None),
        (50, 5, 2, (1, 8), (2,)),
        (50, 6, 1, None, (2,)),
        (48, 0, 6, (6, 8), None),
        (48, 5, 1, (1, 8), None),
        (5, 3, 1, None, (5,)),
    ],
)
def test_rows_come_as_full_batches_and_a_rest(
    examples: int, step: int, length: int, full: tuple[int, ...] | None, rest: tuple[int, ...] | None
) -> None:
    """[full, batch_size] and [rest], None where there are none."""
    found = Plan(examples, BATCH, 100, 1000).rows(step, length)
    assert tuple(None if rows is None else rows.shape for rows in found) == (full, rest)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    """Not on the dispatch, nor on where training ends, nor on who asks first."""
    plan = Plan(EXAMPLES, BATCH, 3, 1000, (1, 2))
    first, second = order(plan, 0), order(plan, 1)
    assert first != second
    assert first != order(Plan(EXAMPLES, BATCH, 3, 1000, (1, 3)), 0)
    assert first != order(Plan(EXAMPLES, BATCH, 3, 1000, (2, 1)), 0)
    again = Plan(EXAMPLES, BATCH, 100, 7 * 99, (1, 2))
    assert order(again, 1) == second
    assert order(again, 0) == first
    assert order(Plan(EXAMPLES, 16, 1, 100, (1, 2)), 0) == first  # batches cut the same order


def test_the_order_is_that_of_a_stored_run() -> None:
    """A resumed run, on whatever version of NumPy, goes through the data as before it was interrupted."""
    assert order(Plan(8, 4, 1, 100, (0,)), 0) == [3, 7, 4, 0, 2, 6, 5, 1]


def test_place() -> None:
    """Epoch and batch of the step that comes next."""
    plan = Plan(EXAMPLES, BATCH, 3, 1000)
    assert plan.place(0) == {"epoch": 0, "batch": 0, "batch_size": 8, "examples": 50}
    assert plan.place(20) == {"epoch": 2, "batch": 6, "batch_size": 8, "examples": 50}
    assert plan.place(21) == {"epoch": 3, "batch": 0, "batch_size": 8, "examples": 50}


def test_training_ends_with_its_steps_or_its_epochs() -> None:
    """Whichever is sooner; the partial batch is a step."""
    assert Training(batch_size=8, epochs=3).plan(50) == Plan(50, 8, 100, 21)
    assert Training(batch_size=8, epochs=3, steps=20, per_dispatch=5).plan(50, (4,)) == Plan(50, 8, 5, 20, (4,))
    assert Training(batch_size=8, epochs=3, steps=22).plan(50).last_step == 21
