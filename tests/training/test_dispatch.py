"""Many steps per dispatch: which examples each step sees, with which key, and what is done to them anew."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array

from hvae_jax.data import Augment
from hvae_jax.models import LinearVAE
from hvae_jax.objectives import Batch, NegativeELBO
from hvae_jax.training import Plan, TrainState, data_mesh, init_state, make_dispatch, make_step
from hvae_jax.training.feeds import Resident
from hvae_jax.training.mesh import replicated

pytestmark = pytest.mark.leg

KEY = jax.random.key(5)
EXAMPLES, BATCH = 50, 8  # an epoch: six full batches and one of two


def blank() -> TrainState:
    """A state that only counts. Each counter is an array of its own, since the dispatch donates them."""
    return TrainState(jnp.int32(0), {}, {}, (), (), None, {}, jnp.int32(0), jnp.int32(0), jnp.zeros(3))


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


def follow(step: Any, feed: Resident, devices: int, **options: Any) -> tuple[list[int], dict[str, np.ndarray]]:
    """Lengths of all dispatches of a run, and the metrics of all its steps."""
    dispatch = make_dispatch(step, data_mesh(devices), **options)
    state, pieces = blank(), []
    for portion in feed.portions(0):
        state, metrics = dispatch(state, feed.data, portion, KEY)
        pieces.append(jax.device_get(metrics))
    assert int(state.step) == feed.plan.last_step
    return [len(piece["size"]) for piece in pieces], jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


@functools.cache
def watched(per_dispatch: int, epochs: int = 2) -> dict[str, np.ndarray]:
    """Metrics of every step of some epochs, on eight devices or, one step a dispatch, on one."""
    devices = 1 if per_dispatch == 1 else 8
    plan = Plan(EXAMPLES, BATCH, per_dispatch, 7 * epochs)
    feed = Resident(np.arange(EXAMPLES)[:, None], 2 * np.arange(EXAMPLES), plan, data_mesh(devices))
    lengths, seen = follow(watch, feed, devices)
    assert lengths == ([1] * 14 if per_dispatch == 1 else [4, 3, 4, 3])
    return seen


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
    expected = [jax.random.uniform(jax.random.fold_in(KEY, step)) for step in range(14)]
    np.testing.assert_array_equal(one["drawn"], expected)


def test_fewer_examples_than_a_batch() -> None:
    """Every step is the partial batch of everything."""
    feed = Resident(np.arange(5)[:, None], 2 * np.arange(5), Plan(5, BATCH, 4, 3), data_mesh(1))
    lengths, seen = follow(watch, feed, 1)
    assert lengths == [1, 1, 1]
    np.testing.assert_array_equal(seen["seen"][:, :5], np.ones((3, 5)))
    assert not seen["seen"][:, 5:].any()


def test_sixteen_dispatches_of_one_are_one_of_sixteen() -> None:
    """The same parameters and metrics to float tolerance, the partial batch among them."""
    x = np.random.default_rng(0).normal(size=(122, 3)).astype(np.float32)  # fifteen batches of 8 and one of 2
    model, optimiser = LinearVAE((2,), "shifted"), optax.sgd(0.05)
    step = make_step(model, NegativeELBO(), optimiser)
    results = []
    for per_dispatch in (16, 1):
        feed = Resident(x, None, Plan(122, 8, per_dispatch, 16), data_mesh(1))
        dispatch = make_dispatch(step, data_mesh(1))
        state, pieces = init_state(model, NegativeELBO(), optimiser, KEY, x, shardings=replicated(data_mesh(1))), []
        for portion in feed.portions(0):
            state, metrics = dispatch(state, feed.data, portion, KEY)
            pieces.append(jax.device_get(metrics))
        assert len(pieces) == 16 // per_dispatch
        results.append((jax.device_get(state), jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)))
    compare: Any = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(compare, *results)


# ---- what is done to every batch anew

IMAGES = np.random.default_rng(1).integers(0, 256, (20, 3, 4, 1)).astype(np.uint8)  # two batches of 8, one of 4


def show(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Array]]:
    """A step that gives back what it was given, filled up to a full batch."""
    filled = jnp.zeros((BATCH, *batch.x.shape[1:]), batch.x.dtype).at[: len(batch.x)].set(batch.x)
    return state.replace(step=state.step + 1), {
        "x": filled,
        "size": jnp.int32(len(filled)),
        "key": jax.random.bits(key),
    }


@functools.cache
def shown(augment: Augment, devices: int = 1, per_dispatch: int = 100) -> dict[str, np.ndarray]:
    """What the steps of two epochs are given."""
    plan = Plan(20, BATCH, per_dispatch, 6)
    feed = Resident(IMAGES, None, plan, data_mesh(devices))
    return follow(show, feed, devices, augment=augment)[1]


def stored() -> np.ndarray:
    """The images of the same six steps as they are stored, filled up likewise."""
    found = np.zeros((6, BATCH, *IMAGES.shape[1:]), np.uint8)
    for step in range(6):
        full, rest = Plan(20, BATCH, 1, 6).rows(step, 1)
        rows = rest if full is None else full[0]
        assert rows is not None
        found[step, : len(rows)] = IMAGES[rows]
    return found


@pytest.mark.parametrize(("devices", "per_dispatch"), [(8, 100), (1, 1)])
def test_what_is_drawn_belongs_to_the_step(devices: int, per_dispatch: int) -> None:
    """Not to the devices, nor to the dispatch: bit for bit, the partial batch that every device computes whole too."""
    both = Augment(flip=True, binarise=256)
    found, expected = shown(both, devices, per_dispatch), shown(both)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_flip() -> None:
    """Each image is as it is or mirrored from left to right; about half of them, others at each step."""
    found, plain = shown(Augment(flip=True))["x"], stored()
    same = (found == plain).all((2, 3, 4))
    mirrored = (found == plain[:, :, :, ::-1]).all((2, 3, 4))
    np.testing.assert_array_equal(same ^ mirrored, plain.any((2, 3, 4)))  # the filling is both
    assert 10 <= (mirrored & ~same).sum() <= 30  # of 40, p = 1/2: 3.2 standard deviations
    full = mirrored[[0, 1, 3, 4]]
    assert len({tuple(step) for step in full.tolist()}) == 4


def test_binarise() -> None:
    """0 and 1, drawn anew at each step: x/255 on average, within four standard errors, and their variance."""
    x = np.broadcast_to(np.linspace(0, 255, 16).astype(np.uint8)[None], (8, 16))
    steps = 500
    feed = Resident(x, None, Plan(8, 8, 100, steps), data_mesh(1))
    found = follow(show, feed, 1, augment=Augment(binarise=256))[1]["x"]
    assert found.dtype == np.uint8 and set(np.unique(found)) == {0, 1}
    mean, p = found.reshape(-1, 16).mean(0), x[0] / 255
    error = np.sqrt(p * (1 - p) / (8 * steps))
    assert error[0] == error[-1] == 0 and error.max() < 0.01
    assert (np.abs(mean - p) <= 4 * error).all()
    assert (found[0] != found[1]).any()
    means = found.mean(1)[:, 1:-1]  # over the batch: independent between steps, so that their variance is p (1 - p) / 8
    ratio = (means.var(0, ddof=1) / (p * (1 - p) / 8)[1:-1]).mean()
    assert ratio == pytest.approx(1.0, abs=4 * np.sqrt(2 / steps / 14))


def test_noise_of_the_step_and_of_what_is_drawn_before_it_are_apart() -> None:
    """One half of fold_in(key, step) each."""

    def draw(x: Array, key: Array) -> Array:
        return jnp.broadcast_to(jax.random.bits(key), (len(x), 1))

    feed = Resident(IMAGES, None, Plan(20, BATCH, 100, 6), data_mesh(1))
    found = follow(show, feed, 1, augment=draw)[1]
    halves = [jax.random.split(jax.random.fold_in(KEY, step)) for step in range(6)]
    np.testing.assert_array_equal(found["x"][:, 0, 0], [jax.random.bits(key) for key, _ in halves])
    np.testing.assert_array_equal(found["key"], [jax.random.bits(key) for _, key in halves])
