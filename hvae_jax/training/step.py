"""One training step, a pure function, and many of them in one dispatch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from hvae_jax.objectives import Batch, Objective
from hvae_jax.trace import Model, Trace
from hvae_jax.training.state import TrainState

Step = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]


def make_step(
    model: Model,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    *,
    ema_decay: float | None = None,
    axis_name: str | None = None,
) -> Step:
    """The pure step `(state, batch, key) -> (state, metrics)`.

    Under jit with a sharded batch it is the step of the whole batch, whatever the number of devices. With `axis_name`
    it is the step of one device, for `jax.pmap` or `jax.shard_map`: each device folds its index into the key,
    normalises by its own batch, and gradients, metrics and batch statistics are averaged over the axis.

    A step whose loss or gradients are not finite changes nothing but `step`, `skipped` and `streak`.

    Args:
      ema_decay: of the averaged parameters: min(decay, (1 + t)/(10 + t)) at update t, so that the average does not
        remember the initialisation; None keeps none.
    Returns: a step whose metrics are the objective's, with `loss`, `grad_norm` and `skipped` (0 or 1), all `[]` but
      `rates` `[L]`.
    """

    def step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Array]]:
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

        def forward(variables: Any, x: Array, key: Array, **choices: Any) -> tuple[Trace, Any]:
            return model.apply(variables, x, key, train=True, mutable=list(state.statistics), **choices)

        def loss_fn(params: Any) -> tuple[Array, tuple[dict[str, Array], Any, Any]]:
            variables = {"params": params, **state.statistics}
            loss, metrics, objective_state, updates = objective(
                forward, variables, batch, key, state.step, state.objective_state
            )
            if axis_name is not None:
                # Averaged here and not only below: shard_map, where it tracks what varies over the axis, sums the
                # gradients of what does not, so that a mean of them later would come too late.
                loss = jax.lax.pmean(loss, axis_name)
            return loss, (metrics, objective_state, updates)

        (loss, (metrics, objective_state, updates)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        metrics = {"loss": loss, **metrics}
        if axis_name is not None:
            grads, metrics, updates = jax.lax.pmean((grads, metrics, updates), axis_name)
        grad_norm = optax.tree.norm(grads)
        ok = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)

        def take(_: None) -> tuple[Any, ...]:
            changes, opt_state = optimiser.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, changes)
            ema = state.ema
            if ema_decay is not None:
                taken = (state.step - state.skipped).astype(jnp.float32)
                decay = jnp.minimum(ema_decay, (1.0 + taken) / (10.0 + taken))
                ema = optax.incremental_update(params, ema, 1.0 - decay)
            return params, {**state.statistics, **updates}, opt_state, objective_state, ema

        def leave(_: None) -> tuple[Any, ...]:
            return state.params, state.statistics, state.opt_state, state.objective_state, state.ema

        # A conditional, not a select: on a CPU, choosing leaf by leaf costs more than the optimiser itself.
        params, statistics, opt_state, objective_state, ema = jax.lax.cond(ok, take, leave, None)
        skip = 1 - ok.astype(jnp.int32)
        state = TrainState(
            step=state.step + 1,
            params=params,
            statistics=statistics,
            opt_state=opt_state,
            objective_state=objective_state,
            ema=ema,
            skipped=state.skipped + skip,
            streak=(state.streak + 1) * skip,
        )
        return state, {**metrics, "grad_norm": grad_norm, "skipped": skip}

    return step
