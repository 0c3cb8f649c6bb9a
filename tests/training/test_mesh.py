"""Devices as a sharding: which meshes there are, how states and batches lie on them, and that it changes no number."""

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hvae_jax.likelihoods import Categorical
from hvae_jax.models import TopDownVAE
from hvae_jax.objectives import NegativeELBO
from hvae_jax.training import Plan, TrainState, data_mesh, init_state, make_dispatch, make_step, mesh
from hvae_jax.training.feeds import Resident
from hvae_jax.training.mesh import (
    agree,
    check_divides,
    host_copy,
    local_rows,
    place_rows,
    rows_sharding,
    state_sharding,
)
from hvae_jax.training.state import initial_state

pytestmark = pytest.mark.leg

KEY = jax.random.key(3)
X = np.random.default_rng(0).integers(0, 3, (32, 5)).astype(np.uint8)


# ---- meshes


def test_a_mesh_of_some_devices() -> None:
    """The first ones, all by default, along one axis."""
    assert data_mesh().shape == {"data": 8}
    assert data_mesh(3).devices.tolist() == jax.devices()[:3]


@pytest.mark.parametrize("devices", [0, 9, -1])
def test_a_mesh_of_too_many_devices(devices: int) -> None:
    with pytest.raises(ValueError, match=f"of {devices} devices was asked for, but there are 8: 1 to 8"):
        data_mesh(devices)


@pytest.mark.parametrize(
    ("on", "devices", "message"),
    [
        ([0, 0, 1, 1], 2, r"gives the 2 processes \[2, 0\] of them"),
        ([0, 0, 1, 1], 3, r"gives the 2 processes \[2, 1\] of them"),
        ([0, 0, 0, 1], None, r"A mesh of 4 devices gives the 2 processes \[3, 1\] .* all 4, or start every process"),
    ],
)
def test_a_mesh_that_does_not_match_the_processes(
    on: list[int], devices: int | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process needs as many devices as the others: otherwise one of them would have no part in the batch."""
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(process_index=process) for process in on])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=message):
        data_mesh(devices)


def test_what_divides() -> None:
    """The batch and what is computed of it at once; what would do is said."""
    check_divides(16, data_mesh(8), 8)
    with pytest.raises(ValueError, match="A batch of 12 cannot be split evenly over 8 devices; 8 or 16 would do"):
        check_divides(12, data_mesh(8))
    with pytest.raises(ValueError, match="A microbatch of 4 cannot be split evenly over 8 devices; 8 would do"):
        check_divides(16, data_mesh(8), 4)


# ---- batches


@pytest.mark.parametrize(("processes", "rows"), [(1, 16), (2, 16), (4, 16), (8, 8)])
def test_each_process_has_its_share_of_a_batch(processes: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disjoint, in order, all of it; a batch that does not divide is every process's whole."""
    every = data_mesh(8)
    each = 8 // processes

    def as_process(number: int) -> list[int]:
        own = every.devices.flat[number * each : (number + 1) * each].tolist()

        def sharding(rows: int, over: Any, axis: int = 0) -> Any:
            places = rows_sharding(rows, over, axis).devices_indices_map((rows,))
            return SimpleNamespace(addressable_devices_indices_map=lambda _: {d: places[d] for d in own})

        with monkeypatch.context() as patch:
            patch.setattr(mesh, "rows_sharding", sharding)
            assert local_rows(rows + 1, every) == slice(0, rows + 1)
            return list(range(rows))[local_rows(rows, every)]

    shares = [as_process(number) for number in range(processes)]
    assert [len(share) for share in shares] == [rows // processes] * processes
    assert [row for share in shares for row in share] == list(range(rows))


@pytest.mark.parametrize("rows", [16, 10])
def test_rows_are_placed_where_they_divide(rows: int) -> None:
    """16 rows lie two to a device, 10 whole on each; the values stay."""
    placed = place_rows(X[:rows], data_mesh(8))
    assert placed is not None
    np.testing.assert_array_equal(placed, X[:rows])
    assert {part.data.shape for part in placed.addressable_shards} == {(2, 5) if rows == 16 else (10, 5)}
    assert len(placed.addressable_shards) == 8
    assert place_rows(None, data_mesh(8)) is None


# ---- states


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((128, 128), ("data",)),  # as long: the first
        ((64, 256), (None, "data")),
        ((300, 64), (None, "data")),  # 8 does not divide 300
        ((4, 64, 128), (None, None, "data")),  # stacked blocks
        ((16_384,), ("data",)),
        ((16_383,), ()),  # small, and odd
        ((127, 128), ()),  # small
        ((129, 129), ()),  # nothing divides
        ((), ()),
    ],
)
def test_the_longest_axis_that_divides_is_split(shape: tuple[int, ...], spec: tuple[str | None, ...]) -> None:
    """With fsdp; what is small or does not divide lies whole on each device, as everything does without."""
    leaf = {"leaf": jax.ShapeDtypeStruct(shape, jnp.float32)}
    assert state_sharding(leaf, data_mesh(8), fsdp=True)["leaf"].spec == PartitionSpec(*spec)
    assert state_sharding(leaf, data_mesh(8))["leaf"].spec == PartitionSpec()


MODEL = TopDownVAE(latents=(2,), hidden=8, likelihood=Categorical(3))
OPTIMISER = optax.sgd(0.02, momentum=0.5)


@functools.cache
def trained(devices: int, fsdp: bool) -> tuple[TrainState, TrainState, list[dict[str, np.ndarray]]]:
    """A fresh state, what twenty steps make of it, and their metrics; arrays of 16 numbers and more are split."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "SMALLEST", 16)
        over = data_mesh(devices)
        ingredients = (MODEL, NegativeELBO(), OPTIMISER, KEY, X[:16], None, True)
        shardings = state_sharding(jax.eval_shape(lambda: initial_state(*ingredients)), over, fsdp)
        state = init_state(*ingredients, shardings=shardings)
        fresh = jax.tree.map(jnp.copy, state)
        dispatch = make_dispatch(make_step(MODEL, NegativeELBO(), OPTIMISER, ema_decay=0.9), over, None, shardings)
        feed, history = Resident(X, None, Plan(32, 16, 2, 20), over), []
        for portion in feed.portions(0):
            state, metrics = dispatch(state, feed.data, portion, KEY)
            history.append(jax.device_get(metrics))
    return fresh, state, history


def assert_close(found: Any, expected: Any, rtol: float = 0.0) -> None:
    """To 1e-6 absolutely or, where numbers are large, relatively."""
    compare = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-6)
    jax.tree.map(compare, jax.device_get(found), jax.device_get(expected))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "fsdp"),
    [pytest.param(8, False, id="replicated"), pytest.param(1, False, id="one device")],
)
def test_a_split_state_trains_as_a_whole_one(devices: int, fsdp: bool) -> None:
    """Parameters after twenty steps, to 1e-6; loss, gradient norm, statistics, momentum and average likewise."""
    split, whole = trained(8, True), trained(devices, fsdp)
    assert_close(split[0], whole[0])
    first, last = (jax.tree.leaves(jax.device_get(whole[i].params)) for i in (0, 1))
    assert max(np.abs(a - b).max() for a, b in zip(first, last, strict=True)) > 0.05
    for found, expected in zip(split[2], whole[2], strict=True):
        assert_close(found, expected, rtol=1e-5)
    assert_close(split[1].params, whole[1].params)
    assert_close(split[1], whole[1], rtol=1e-5)


@pytest.mark.parametrize("when", [0, 1], ids=["fresh", "trained"])
def test_a_split_state_takes_less_memory(when: int) -> None:
    """Parameters, average, momentum: an eighth of each large array on a device, at the start and at the end."""
    state, whole = trained(8, True)[when], trained(8, False)[when]

    def on_a_device(tree: Any) -> int:
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

    assert on_a_device(whole) == sum(leaf.nbytes for leaf in jax.tree.leaves(whole))
    for part in ("params", "ema", "opt_state"):
        assert on_a_device(getattr(state, part)) < on_a_device(getattr(whole, part)) / 3
    kernels = [leaf for leaf in jax.tree.leaves((state.params, state.ema, state.opt_state)) if leaf.shape == (8, 8)]
    assert kernels
    assert all(leaf.addressable_shards[0].data.size == 8 for leaf in kernels)


def test_host_copy() -> None:
    """Split or not, it is NumPy's in the end."""
    sharding = NamedSharding(data_mesh(8), PartitionSpec("data"))
    tree = {"split": jax.device_put(jnp.arange(16), sharding), "whole": jnp.float32(3)}
    found = host_copy(tree)
    assert all(isinstance(leaf, np.ndarray) for leaf in found.values())
    np.testing.assert_array_equal(found["split"], np.arange(16))
    assert found["whole"] == 3


def test_one_process_agrees_with_itself() -> None:
    assert agree(3, 0, -2) == [3, 0, -2]
