"""Checkpoints of a small state, made without compiling anything, and what harms them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax

from hvae_jax.training import TrainState, data_mesh
from hvae_jax.training.checkpoint import Checkpoints, Progress

PLACE = {"epoch": 2, "batch": 5, "batch_size": 8, "examples": 50, "hash": "0123456789abcdef"}


def state_at(step: int) -> TrainState:
    """A state with all that a state may have, every number drawn anew; made without compiling anything."""
    rng = np.random.default_rng(step)
    params = {
        "dense": {
            "kernel": rng.normal(size=(16, 24)).astype(np.float32),
            "bias": rng.normal(size=24).astype(np.float32),
        },
        "half": rng.normal(size=(3, 5)).astype(ml_dtypes.bfloat16),
    }
    moments = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), params)
    state = TrainState(
        step=np.int32(step),
        params=params,
        statistics={"batch_stats": {"mean": rng.normal(size=7).astype(np.float32)}},
        opt_state=(
            optax.ScaleByAdamState(np.int32(step), moments, jax.tree.map(np.square, moments)),
            optax.EmptyState(),
        ),
        objective_state={
            "calls": np.int32(3),
            "seen": np.array([True, False]),
            "bytes": np.arange(5, dtype=np.uint8),
        },
        ema=jax.tree.map(lambda leaf: leaf + leaf.dtype.type(1), params),
        ema_statistics={"batch_stats": {"mean": rng.normal(size=7).astype(np.float32)}},
        skipped=np.int32(2),
        streak=np.int32(1),
        usual_norm=np.float32([0.3, -1.0, 31.0]),
    )
    return jax.tree.map(jnp.asarray, state)


def best_at(step: int) -> dict[str, Any]:
    """Variables of another step."""
    return state_at(step + 1000).variables


def abstract(tree: Any) -> Any:
    """Shapes and dtypes."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


WANTED = abstract((state_at(0), best_at(0)))


def record(step: int) -> Progress:
    """A progress with every field its own."""
    return Progress(-50.25, step - 1, 3, 12.5, 99.0, False)


def save(checkpoints: Checkpoints, *steps: int) -> None:
    """One checkpoint a step."""
    for step in steps:
        checkpoints.save(step, state_at(step), best_at(step), record(step), PLACE)
    checkpoints.wait()


def restore(folder: Path, devices: int = 1, fsdp: bool = False, **options: Any) -> Any:
    """What is restored from a folder."""
    checkpoints = Checkpoints(folder, **options)
    try:
        return checkpoints.restore(*WANTED, data_mesh(devices), fsdp, PLACE["hash"])
    finally:
        checkpoints.close()


def assert_is(restored: Any, step: int) -> None:
    """Bit for bit the checkpoint of a step, dtypes and all."""
    state, best, progress = restored
    chex.assert_trees_all_equal(jax.device_get(state), jax.device_get(state_at(step)), strict=True)
    chex.assert_trees_all_equal(jax.device_get(best), jax.device_get(best_at(step)), strict=True)
    assert isinstance(state, TrainState) and isinstance(state.opt_state[0], optax.ScaleByAdamState)
    assert progress == record(step)


def with_metadata(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes what the newest checkpoint says of itself."""
    path = folder / "7" / "_CHECKPOINT_METADATA"
    everything = json.loads(path.read_text())
    change(everything["custom_metadata"])
    path.write_text(json.dumps(everything))


def files(folder: Path) -> list[Path]:
    """Those of one checkpoint, largest first."""
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: -path.stat().st_size)
