"""One training step, as a pure function of state, batch and key."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from typing_extensions import TypeAliasType

from hvae_jax.objectives import Batch, Objective
from hvae_jax.objectives.protocol import without_own
from hvae_jax.runtime.trees import path_name
from hvae_jax.trace import Model, Trace
from hvae_jax.training.gradients import Gradients
from hvae_jax.training.stages import Trains, joined, parted
from hvae_jax.training.state import TrainState

Step = TypeAliasType("Step", Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]])


def make_step(
    model: Model,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    *,
    ema_decay: float | None = None,
    axis_name: str | None = None,
    microbatch: int | None = None,
    gradients: Gradients | None = None,
    trains: Trains | None = None,
) -> Step:
    """The pure step `(state, batch, key) -> (state, metrics)`.

    Under jit with a sharded batch it is the step of the whole batch, whatever the number of devices. With `axis_name`
    it is the step of one device, for `jax.pmap` or `jax.shard_map`: each device folds its index into the key,
    normalises by its own batch, and gradients, metrics and batch statistics are averaged over the axis.

    A step whose loss or gradients are not finite, or whose gradient is too large for `gradients`, changes nothing but
    `step`, `skipped` and `streak`; in the second case its norm is remembered too. Parameters that the objective or
    `trains` leaves out, their averages, and the statistics below the same paths keep every bit.

    Args:
      ema_decay: decay of the averaged parameters and statistics: min(decay, (1 + t)/(10 + t)) at update t, so that the
        average does not remember the initialisation; None keeps no average.
      microbatch: gradient accumulation: largest number of examples computed at once; a larger batch still makes one
        update (`accumulate` has the rule). If it divides the batch and the devices divide it, every device has as many
        rows of each part. With `axis_name` it counts a device's own examples. None takes the whole batch at once.
      gradients: limits on the norm of the gradient; None sets none.
      trains: which parameters a stage trains, with the state of `stages.optimiser_in`. None leaves it to the objective.
    Returns: a step whose metrics are the objective's, with `loss`, `grad_norm` (before clipping) and `skipped` (0 or
      1), all `[]` but `rates` `[L]`; and those of `Gradients.judge` where a finite step may be skipped.
    Raises ValueError for a microbatch below 1.

    Example:
        >>> from hvae_jax import training
        >>> model, x, optimiser = hv.models.LinearVAE((2,)), jnp.ones((4, 3)), training.Adamax().build()
        >>> state = training.init_state(model, hv.NegativeELBO(), optimiser, jax.random.key(0), x)
        >>> step = jax.jit(training.make_step(model, hv.NegativeELBO(), optimiser))
        >>> state, metrics = step(state, hv.Batch(x), jax.random.key(1))
        >>> int(state.step), sorted(metrics)
        (1, ['elbo', 'grad_norm', 'log_px', 'loss', 'rates', 'skipped'])
    """
    if microbatch is not None and microbatch < 1:
        raise ValueError(
            f"microbatch is {microbatch}, but it has to be 1 or more (or None, for the whole batch at once)."
        )
    limits = gradients or Gradients()

    def step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Array]]:
        # Of a stage, its own parameters: what is not differentiated costs neither gradient nor state.
        params, constant = (state.params, {}) if trains is None else parted(state.params, trains)
        # One device of several: its own noise, and gradients that are averaged by us below rather than by shard_map.
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
            params = _varying(params, axis_name)
        gradient = _gradient_of(model, objective, state, params, constant)
        grads, rest = _of_batch(gradient, params, batch, key, microbatch, axis_name)
        metrics, objective_state, updates = rest

        # Zeroed before the norm is taken: what is not trained neither counts towards a limit nor skips a step.
        grads = _trained(objective.trains, grads, jax.tree.map(jnp.zeros_like, grads))
        norm = optax.tree.norm(grads)
        # The norm is finite only if every gradient is, so that no leaf has to be looked at.
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        verdict = limits.judge(norm, finite, state.usual_norm, state.streak)

        def take() -> TrainState:
            scaled = _scaled(limits, grads, norm, verdict.threshold)
            return _updated(objective, optimiser, ema_decay, trains, state, scaled, objective_state, updates)

        # A conditional, not a select: on a CPU, choosing leaf by leaf costs more than the optimiser itself.
        after = jax.lax.cond(verdict.taken, take, lambda: state)
        skip = 1 - verdict.taken.astype(jnp.int32)
        streak = (state.streak + 1) * skip
        after = after.replace(
            step=state.step + 1, skipped=state.skipped + skip, streak=streak, usual_norm=verdict.usual
        )
        return after, {**metrics, **verdict.metrics, "grad_norm": norm, "skipped": skip}

    return step


def _of_batch(
    gradient: Callable[[Batch, Array], tuple[Any, Any]],
    params: Any,
    batch: Batch,
    key: Array,
    microbatch: int | None,
    axis_name: str | None,
) -> tuple[Any, Any]:
    """Gradients of a batch, computed at once or in parts, and averaged over the devices of an axis, with the rest."""
    if microbatch is None or batch.x.shape[0] <= microbatch:
        found = gradient(batch, key)
    else:
        found = accumulate(gradient, params, batch, key, microbatch)
    if axis_name is None:
        return found
    average = functools.partial(jax.lax.pmean, axis_name=axis_name)
    return jax.tree.map(lambda leaf: average(leaf) if _is_real(leaf) else leaf, found)


def _scaled(limits: Gradients, grads: Any, norm: Array, threshold: Array) -> Any:
    """The gradients, scaled down to the limits where there are some."""
    if not limits.scales:
        return grads
    scale = limits.scale(norm, threshold)
    return jax.tree.map(lambda g: (scale * g).astype(g.dtype), grads)


def _gradient_of(
    model: Model, objective: Objective, state: TrainState, params: Any, constant: Any
) -> Callable[[Batch, Array], tuple[Any, tuple[dict[str, Array], Any, Any]]]:
    """`(batch, key) -> (gradient, (metrics, objective's state, updated statistics))` at `params`.

    Args:
      constant: the parameters that are not differentiated; {} for none.
    """

    def forward(variables: Any, x: Any, key: Any, **choices: Any) -> tuple[Trace, Any]:
        variables = {**variables, "params": without_own(variables["params"])}
        return model.apply(variables, x, key, mutable=list(state.statistics), **{"train": True, **choices})

    def loss_fn(params: Any, batch: Batch, key: Array) -> tuple[Array, tuple[dict[str, Array], Any, Any]]:
        variables = {"params": joined(params, constant) if constant else params, **state.statistics}
        loss, metrics, objective_state, updates = objective(
            forward, variables, batch, key, state.step, state.objective_state
        )
        return loss, ({"loss": loss, **metrics}, objective_state, updates)

    def gradient(batch: Batch, key: Array) -> tuple[Any, tuple[dict[str, Array], Any, Any]]:
        (_, rest), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch, key)
        return grads, rest

    return gradient


def _updated(
    objective: Objective,
    optimiser: optax.GradientTransformation,
    ema_decay: float | None,
    trains: Trains | None,
    state: TrainState,
    grads: Any,
    objective_state: Any,
    updates: Any,
) -> TrainState:
    """The state after an update; its counters are the caller's business."""
    own, constant = (state.params, {}) if trains is None else parted(state.params, trains)
    changes, opt_state = optimiser.update(grads, state.opt_state, own)
    # A gradient of 0 is not enough: weight decay and moments from before would still move a parameter.
    own = _trained(objective.trains, optax.apply_updates(own, changes), own)
    params = joined(own, constant) if constant else own
    chosen = objective.trains if trains is None else trains
    kept = {name: _trained(chosen, new, state.statistics[name]) for name, new in updates.items()}
    statistics = {**state.statistics, **kept}
    ema, ema_statistics = state.ema, state.ema_statistics
    if ema_decay is not None:
        # Skipped steps do not count: after many of them the average would start as mostly the initialisation.
        taken = (state.step - state.skipped).astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1.0 + taken) / (10.0 + taken))
        # Of a frozen leaf the average is kept: the average of equal numbers is not that number to the bit.
        ema = _trained(chosen, _averaged(params, ema, decay), ema)
        ema_statistics = {
            name: _trained(chosen, _averaged(new, ema_statistics[name], decay), ema_statistics[name])
            for name, new in statistics.items()
        }
    return dataclasses.replace(
        state,
        params=params,
        statistics=statistics,
        opt_state=opt_state,
        objective_state=objective_state,
        ema=ema,
        ema_statistics=ema_statistics,
    )


def _averaged(new: Any, average: Any, decay: Array) -> Any:
    """An exponential moving average after one more value; leaves that have no mean (counters) are the newest."""
    moved = optax.incremental_update(new, average, 1.0 - decay)
    return jax.tree.map(lambda leaf, mean: mean if _is_real(leaf) else leaf, new, moved)


def _trained(trains: Trains, tree: Any, kept: Any) -> Any:
    """`tree`, with the leaves of `kept` wherever they are not trained."""
    return jax.tree.map_with_path(lambda path, new, old: new if trains(path_name(path)) else old, tree, kept)


def accumulate(
    gradient: Callable[[Batch, Array], tuple[Any, Any]], params: Any, batch: Batch, key: Array, microbatch: int
) -> tuple[Any, Any]:
    """`gradient(batch, key) -> (gradient, rest)` of a batch, in the memory of a microbatch.

    n examples are cut into k = ceil(n / microbatch) parts that differ by one example at most, so that the last batch
    of an epoch, whatever its size, leaves no part too small for batch statistics; if the microbatch divides the batch,
    every part has exactly that many examples. Of k equal parts the j-th has rows j, j + k, j + 2 k, ...: if the rows
    are split over devices in order, each part is split likewise, and nothing moves. Each part has its own key.

    Returns the mean over the parts, weighted by their examples. For a loss that is a mean over examples this is the
    gradient of the whole batch, and the same holds for the metrics. The other entries of `rest`:

    * Batch statistics: each part normalises by its own; a running statistic is affine in the batch's, so the mean of
      its updates is the update with the mean statistic.
    * The objective's state: every part starts from the same one, and the mean of the parts' states is kept. A state
      handed from part to part would move several times a step, and a choice of memory would change what is trained.
    * What is no real number (counters, keys) cannot be averaged: the last part's is kept.

    A scan rather than `optax.microbatching.microbatch`, which has no key for each part, no parts of unequal size and
    no mean of a tree with integers in it.
    """
    n = batch.x.shape[0]
    parts = -(-n // microbatch)
    size, longer = divmod(n, parts)
    keys = jax.random.split(key, parts)

    def add(total: Any, part: tuple[Batch, Array]) -> tuple[Any, Any]:
        weight = part[0].x.shape[0] / n
        grads, rest = gradient(*part)
        total = jax.tree.map(lambda t, g: t + weight * g, total, grads)
        return total, jax.tree.map(lambda leaf: weight * leaf if _is_real(leaf) else leaf, rest)

    def cut(a: Array, count: int, rows: int, start: int) -> Array:
        # [count * rows, ...] -> [count, rows, ...] with the stride of the parts
        return a[start : start + count * rows].reshape(rows, count, *a.shape[1:]).swapaxes(0, 1)

    grads, pieces = jax.tree.map(jnp.zeros_like, params), []
    long_rows = longer * (size + 1)
    # A scan needs parts of one size, so there are two: over the longer parts, and over the others.
    for count, rows, start, own in (
        (longer, size + 1, 0, keys[:longer]),
        (parts - longer, size, long_rows, keys[longer:]),
    ):
        if count:
            equal = jax.tree.map(functools.partial(cut, count=count, rows=rows, start=start), batch)
            grads, piece = jax.lax.scan(add, grads, (equal, own))
            pieces.append(piece)

    def combine(*pieces: Array) -> Array:
        every = jnp.concatenate(pieces)  # [parts, ...], already weighted
        return every.sum(0) if _is_real(every) else every[-1]

    return grads, jax.tree.map(combine, *pieces)


def _is_real(leaf: Array) -> bool:
    """Whether a leaf has a mean: it is floating, not an integer, a truth value or a key."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _varying(tree: Any, axis_name: str) -> Any:
    """The same values, marked as each device's own where shard_map tracks what varies over the axis.

    Without the mark, shard_map would sum the gradient over the axis, once for each microbatch.
    """
    if not hasattr(jax.lax, "pcast"):  # JAX 0.7 has another name for it
        return jax.lax.pvary(tree, axis_name)  # pyrefly: ignore[missing-attribute]
    return jax.lax.pcast(tree, axis_name, to="varying")
