"""Many steps per dispatch: which steps a dispatch takes, which examples each step sees, with which key."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array
from toys import Flow

from hvae_jax.objectives import Batch, NegativeELBO
from hvae_jax.training import Plan, TrainState, data_mesh, init_state, make_dispatch, make_step

pytestmark = pytest.mark.leg

KEY = jax.random.key(5)
EXAMPLES, BATCH = 50, 8  # an epoch: six full batches and one of two


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


def blank() -> TrainState:
    """A state that only counts. Each counter is an array of its own, since the dispatch donates them."""
    return TrainState(jnp.int32(0), {}, {}, (), (), None, jnp.int32(0), jnp.int32(0))


def watch(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Array]]:
    """A step that learns nothing and tells which examples it saw, how many, their labels and what its key draws."""
    rows = batch.x[:, 0].astype(jnp.int32)
    assert batch.y is not None
    return state.replace(step=state.step + 1), {
        "seen": jnp.zeros(EXAMPLES, jnp.int32).at[rows].add(1),
        "size": jnp.int32(len(rows)),
        "labelled": (batch.y == 2 * rows).all(),
        "drawn": jax.random.uniform(key),
    }


@functools.cache
def watched(per_dispatch: int, epochs: int = 2) -> dict[str, np.ndarray]:
    """Metrics of every step of some epochs, on eight devices or, one step a dispatch, on one."""
    plan = Plan(EXAMPLES, BATCH, per_dispatch, 7 * epochs)
    dispatch = make_dispatch(watch, plan, data_mesh(1 if per_dispatch == 1 else 8))
    data = Batch(jnp.arange(EXAMPLES)[:, None], 2 * jnp.arange(EXAMPLES))
    state, pieces = blank(), []
    while (step := int(state.step)) < plan.last_step:
        state, metrics = dispatch(state, data, KEY, step, plan.length(step))
        pieces.append(jax.device_get(metrics))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


@pytest.mark.parametrize("per_dispatch", [1, 4])
def test_each_example_once_an_epoch(per_dispatch: int) -> None:
    """Full batches, then exactly the examples that are left, each with its own label."""
    seen = watched(per_dispatch)
    np.testing.assert_array_equal(seen["size"], [8] * 6 + [2] + [8] * 6 + [2])
    np.testing.assert_array_equal(seen["seen"].sum(1), seen["size"])
    for epoch in (seen["seen"][:7], seen["seen"][7:]):
        np.testing.assert_array_equal(epoch.sum(0), np.ones(EXAMPLES))
    assert (seen["seen"][:7] != seen["seen"][7:]).any()
    assert seen["labelled"].all()


def test_batches_and_keys_do_not_depend_on_the_dispatch() -> None:
    """Step s has the same examples and the same key, fold_in(its key, s), however steps are dispatched."""
    one, four = watched(1), watched(4)
    for name in ("seen", "size", "drawn"):
        np.testing.assert_array_equal(one[name], four[name])
    assert len(set(one["drawn"])) == 14
    step_key = jax.random.split(KEY)[1]
    np.testing.assert_array_equal(one["drawn"][9], jax.random.uniform(jax.random.fold_in(step_key, 9)))


def test_fewer_examples_than_a_batch() -> None:
    """Every step is the partial batch of everything."""
    plan = Plan(5, BATCH, 4, 3)
    dispatch = make_dispatch(watch, plan, data_mesh(1))
    state = blank()
    for step in range(3):
        assert plan.length(step) == 1
        state, metrics = dispatch(state, Batch(jnp.arange(5)[:, None], 2 * jnp.arange(5)), KEY, step, 1)
        np.testing.assert_array_equal(metrics["seen"][0, :5], np.ones(5))


def test_sixteen_dispatches_of_one_are_one_of_sixteen() -> None:
    """The same parameters and metrics to float tolerance, the partial batch among them."""
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (122, 4)), jnp.uint8)  # fifteen batches of 8 and one of 2
    model, optimiser = Flow(), optax.sgd(0.05)
    step = make_step(model, NegativeELBO(), optimiser)
    results = []
    for per_dispatch in (16, 1):
        plan = Plan(122, 8, per_dispatch, 16)
        dispatch = make_dispatch(step, plan, data_mesh(1))
        state, pieces = init_state(model, NegativeELBO(), optimiser, KEY, x), []
        while (start := int(state.step)) < 16:
            state, metrics = dispatch(state, Batch(x), KEY, start, plan.length(start))
            pieces.append(jax.device_get(metrics))
        assert len(pieces) == 16 // per_dispatch
        results.append((jax.device_get(state), jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)))
    compare: Any = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(compare, *results)
