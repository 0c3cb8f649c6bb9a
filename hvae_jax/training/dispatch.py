"""Many steps per dispatch: steps are scanned over a portion of batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from typing_extensions import TypeAliasType

from hvae_jax.objectives import Batch
from hvae_jax.runtime.compilation import jit
from hvae_jax.training.mesh import replicated, split_rows
from hvae_jax.training.state import TrainState
from hvae_jax.training.step import Step

Portion = tuple[Any, Any]  # full batches [full, batch_size, ...], the partial one [rest, ...]; None for none
Dispatch = TypeAliasType(
    "Dispatch", Callable[[TrainState, Batch | None, Portion, Array], tuple[TrainState, dict[str, Array]]]
)


def make_dispatch(
    step: Step,
    mesh: Mesh,
    augment: Callable[[Array, Array], Array] | None = None,
    shardings: Any = None,
    unroll: int = 1,
) -> Dispatch:
    """A jitted `(state, data, portion, key) -> (state, metrics)` that takes the steps of one portion.

    Either `data` is the whole train split on every device and the portion holds row numbers, or `data` is None and the
    portion holds the batches themselves. Step s draws with the key folded with s. The state is donated. Metrics are
    stacked, `[steps, ...]`.

    Args:
      augment: `(x, key) -> x`, applied to every batch; None leaves batches as they are.
      shardings: layout of the state that comes out; None puts the whole state on every device.
      unroll: number of steps written out per iteration of the scan. Compile time grows with it; on CPUs, where XLA's
        convolutions are slow inside loops, a convolutional model steps ten times as fast once no loop is left.
    """

    def one(state: TrainState, data: Batch | None, item: Any, key: Array) -> tuple[TrainState, dict[str, Array]]:
        # Row numbers [batch_size] into the resident split, or the batch itself.
        batch = item if data is None else jax.tree.map(lambda a: a[item], data)
        batch = jax.tree.map(lambda a: split_rows(a, mesh), batch)
        # Only with an augmentation: a split would change the key, and every number, of a run without one.
        if augment is not None:
            augment_key, key = jax.random.split(key)
            batch = batch.replace(x=augment(batch.x, augment_key))
        return step(state, batch, key)

    def run(state: TrainState, data: Batch | None, portion: Portion, key: Array) -> tuple[TrainState, dict[str, Array]]:
        full, tail = portion
        steps = 0 if full is None else jax.tree.leaves(full)[0].shape[0]
        # Keys by the number of the step, not by its place in the dispatch: dispatches may have other lengths elsewhere.
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, state.step + jnp.arange(steps + (tail is not None)))
        pieces = []
        # A loop of one iteration would still be a loop, in which XLA's convolutions are slow on CPUs.
        if full is not None and steps <= unroll:
            for i in range(steps):
                state, metrics = one(state, data, jax.tree.map(lambda a, i=i: a[i], full), keys[i])
                pieces.append(jax.tree.map(lambda a: a[None], metrics))
        elif full is not None:
            batches = (full, keys[:steps])
            state, metrics = jax.lax.scan(lambda s, b: one(s, data, *b), state, batches, unroll=unroll)
            pieces.append(metrics)
        if tail is not None:
            state, metrics = one(state, data, tail, keys[-1])
            pieces.append(jax.tree.map(lambda a: a[None], metrics))
        # [full, ...] and [1, ...] to [steps, ...]
        return state, jax.tree.map(lambda *a: jnp.concatenate(a), *pieces)

    everywhere = replicated(mesh)
    return jit(run, donate_argnums=0, out_shardings=(everywhere if shardings is None else shardings, everywhere))
