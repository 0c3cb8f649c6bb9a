"""Many steps per dispatch: the data stays on the device, batches are gathered there, steps are scanned."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from hvae_jax.compilation import jit
from hvae_jax.objectives import Batch
from hvae_jax.training.mesh import replicated, split_rows
from hvae_jax.training.state import TrainState
from hvae_jax.training.step import Step

Dispatch = Callable[[TrainState, Batch, Array, int, int], tuple[TrainState, dict[str, Array]]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which batches a dispatch takes.

    Attributes:
      examples: N, in the train split.
      batch_size: of a full batch; the epoch's last one has what is left.
      per_dispatch: steps per dispatch at most. Dispatches start over with each epoch.
      last_step: where training ends at the latest.
    """

    examples: int
    batch_size: int
    per_dispatch: int
    last_step: int

    @property
    def epoch_steps(self) -> int:
        """Steps in an epoch, the partial one included."""
        return -(-self.examples // self.batch_size)

    def length(self, step: int) -> int:
        """How many steps the dispatch that starts at `step` takes: a function of the step alone.

        So a resumed run repeats the dispatches of an uninterrupted one, and with them its rounding.
        """
        within = step % self.epoch_steps
        boundary = min((within // self.per_dispatch + 1) * self.per_dispatch, self.epoch_steps)
        return min(boundary - within, self.last_step - step)


def make_dispatch(step: Step, plan: Plan, mesh: Mesh) -> Dispatch:
    """A jitted `(state, data, key, start, length) -> (state, metrics)` that takes `length` steps.

    `data` is the whole train split on every device; the state is donated. The epoch's examples are permuted with the
    key folded with the epoch, step s draws with the key folded with s. Metrics are stacked, `[length, ...]`.
    """
    full_steps = plan.examples // plan.batch_size

    def dispatch(
        state: TrainState, data: Batch, key: Array, start: int, length: int
    ) -> tuple[TrainState, dict[str, Array]]:
        order_key, step_key = jax.random.split(key)
        within = start % plan.epoch_steps
        full = min(length, full_steps - within)
        epoch = jnp.int32(start // plan.epoch_steps)
        return run(state, data, order_key, step_key, epoch, jnp.int32(within), full, full < length)

    def one(state: TrainState, data: Batch, rows: Array, key: Array) -> tuple[TrainState, dict[str, Array]]:
        return step(state, jax.tree.map(lambda a: split_rows(a[rows], mesh), data), key)

    def run(
        state: TrainState,
        data: Batch,
        order_key: Array,
        step_key: Array,
        epoch: Array,
        within: Array,
        full: int,
        has_tail: bool,
    ) -> tuple[TrainState, dict[str, Array]]:
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), plan.examples)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, state.step + jnp.arange(full + has_tail))
        pieces = []
        if full:
            rows = jax.lax.dynamic_slice(order, (within * plan.batch_size,), (full * plan.batch_size,))
            batches = (rows.reshape(full, plan.batch_size), keys[:full])
            state, metrics = jax.lax.scan(lambda s, batch: one(s, data, *batch), state, batches)
            pieces.append(metrics)
        if has_tail:
            state, metrics = one(state, data, order[full_steps * plan.batch_size :], keys[-1])
            pieces.append(jax.tree.map(lambda a: a[None], metrics))
        return state, jax.tree.map(lambda *a: jnp.concatenate(a), *pieces)

    everywhere = replicated(mesh)
    run = jit(run, static_argnums=(6, 7), donate_argnums=0, out_shardings=(everywhere, everywhere))
    return dispatch
