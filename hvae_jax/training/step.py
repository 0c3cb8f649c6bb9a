"""One training step, a pure function, and many of them in one dispatch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from hvae_jax.objectives import Batch, Objective
from hvae_jax.runtime.trees import path_name
from hvae_jax.trace import Model, Trace
from hvae_jax.training.gradients import Gradients
from hvae_jax.training.state import TrainState

Step = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]


def make_step(
    model: Model,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    *,
    ema_decay: float | None = None,
    axis_name: str | None = None,
    microbatch: int | None = None,
    gradients: Gradients | None = None,
) -> Step:
    """The pure step `(state, batch, key) -> (state, metrics)`.

    Under jit with a sharded batch it is the step of the whole batch, whatever the number of devices. With `axis_name`
    it is the step of one device, for `jax.pmap` or `jax.shard_map`: each device folds its index into the key,
    normalises by its own batch, and gradients, metrics and batch statistics are averaged over the axis.

    A step whose loss or gradients are not finite changes nothing but `step`, `skipped` and `streak`; one whose gradient
    is too large for `gradients` likewise, but that its norm is remembered.

    Args:
      ema_decay: of the averaged parameters: min(decay, (1 + t)/(10 + t)) at update t, so that the average does not
        remember the initialisation; None keeps none.
      microbatch: gradient accumulation: a larger batch is computed in turn, at most this many examples at once and in
        the memory of so many, and makes one update all the same (`accumulate` has the rule). Where it divides the
        batch and the devices divide it, all devices have the same share of each part. With `axis_name` it counts a
        device's own examples. None, or a number that no batch exceeds, costs nothing.
      gradients: limits on their norm; None has none.
    Returns: a step whose metrics are the objective's, with `loss`, `grad_norm` (before it is clipped) and `skipped` (0
      or 1), all `[]` but `rates` `[L]`; with `large` (0 or 1: skipped for its norm) and `skip_threshold` where a finite
      step may be skipped.
    Raises ValueError for a microbatch below 1.
    """
    if microbatch is not None and microbatch < 1:
        raise ValueError(
            f"microbatch is {microbatch}, but it has to be 1 or more (or None, for the whole batch at once)."
        )

    limits = gradients or Gradients()

    def only_trained(tree: Any, kept: Any) -> Any:
        """tree, with the leaves of `kept` wherever the objective does not train them."""
        return jax.tree.map_with_path(
            lambda path, new, old: new if objective.trains(path_name(path)) else old, tree, kept
        )

    def step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Array]]:
        params = state.params
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
            params = _varying(params, axis_name)

        def forward(variables: Any, x: Array, key: Array, **choices: Any) -> tuple[Trace, Any]:
            return model.apply(variables, x, key, train=True, mutable=list(state.statistics), **choices)

        def loss_fn(params: Any, batch: Batch, key: Array) -> tuple[Array, tuple[dict[str, Array], Any, Any]]:
            variables = {"params": params, **state.statistics}
            loss, metrics, objective_state, updates = objective(
                forward, variables, batch, key, state.step, state.objective_state
            )
            return loss, ({"loss": loss, **metrics}, objective_state, updates)

        def gradient(batch: Batch, key: Array) -> tuple[Any, tuple[dict[str, Array], Any, Any]]:
            (_, rest), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch, key)
            return grads, rest

        if microbatch is None or batch.x.shape[0] <= microbatch:
            grads, rest = gradient(batch, key)
        else:
            grads, rest = accumulate(gradient, params, batch, key, microbatch)
        if axis_name is not None:
            average = functools.partial(jax.lax.pmean, axis_name=axis_name)
            grads, rest = jax.tree.map(lambda leaf: average(leaf) if _is_real(leaf) else leaf, (grads, rest))
        metrics, objective_state, updates = rest
        grads = only_trained(grads, jax.tree.map(jnp.zeros_like, grads))
        grad_norm = optax.tree.norm(grads)
        ok = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)
        usual_norm = state.usual_norm
        if limits.skips:
            threshold = limits.threshold(usual_norm)
            large = ok & (grad_norm >= threshold) & (state.streak < limits.skip_streak)
            usual_norm = jnp.where(ok, limits.remember(usual_norm, grad_norm), usual_norm)
            ok &= ~large
            metrics = {**metrics, "large": large.astype(jnp.int32), "skip_threshold": threshold}
        else:
            threshold = jnp.float32(jnp.inf)

        def take(_: None) -> tuple[Any, ...]:
            scaled = grads
            if limits.skips or limits.clip is not None:
                scale = limits.scale(grad_norm, threshold)
                scaled = jax.tree.map(lambda g: (scale * g).astype(g.dtype), grads)
            changes, opt_state = optimiser.update(scaled, state.opt_state, state.params)
            params = only_trained(optax.apply_updates(state.params, changes), state.params)
            kept = {name: only_trained(new, state.statistics[name]) for name, new in updates.items()}
            statistics = {**state.statistics, **kept}
            ema = state.ema
            if ema_decay is not None:
                taken = (state.step - state.skipped).astype(jnp.float32)
                decay = jnp.minimum(ema_decay, (1.0 + taken) / (10.0 + taken))
                ema = optax.incremental_update(params, ema, 1.0 - decay)
            return params, statistics, opt_state, objective_state, ema

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
            usual_norm=usual_norm,
        )
        return state, {**metrics, "grad_norm": grad_norm, "skipped": skip}

    return step


def accumulate(
    gradient: Callable[[Batch, Array], tuple[Any, Any]], params: Any, batch: Batch, key: Array, microbatch: int
) -> tuple[Any, Any]:
    """`gradient(batch, key) -> (gradient, rest)` of a batch, in the memory of a microbatch.

    n examples are cut into ceil(n / microbatch) parts that differ by one example at most, so that the last batch of
    an epoch, of whatever size, leaves no part too small for batch statistics. Of k equal parts the j-th has rows j,
    j + k, j + 2 k, ...: where the rows are split over devices in order, each part is split likewise, and nothing
    moves. Each part has its own key.

    Where the microbatch divides the batch, every part has just so many examples.

    What comes back is the mean over the parts, weighted by their examples. For a loss that is a mean over examples
    this is the whole batch's gradient, and so are the metrics. Of `rest`:

    * Statistics of the batch: each part normalises by its own; a running statistic is affine in the batch's, so the
      mean of its updates is the update with the mean statistic.
    * The objective's state: every part starts from the same one, and the mean of what they make of it counts. A state
      handed from part to part would move several times a step, and a choice of memory would change what is trained.
    * What is no real number (counters, keys) cannot be averaged: the last part's counts.

    A scan rather than `optax.microbatching.microbatch`, which has no key for each part, no parts of unequal size and
    no mean of a tree with integers in it.
    """
    n = batch.x.shape[0]
    parts = -(-n // microbatch)
    size, longer = divmod(n, parts)
    keys = jax.random.split(key, parts)

    def add(total: Any, part: tuple[Batch, Array]) -> tuple[Any, Any]:
        share = part[0].x.shape[0] / n
        grads, rest = gradient(*part)
        total = jax.tree.map(lambda t, g: t + share * g, total, grads)
        return total, jax.tree.map(lambda leaf: share * leaf if _is_real(leaf) else leaf, rest)

    def cut(a: Array, count: int, rows: int, start: int) -> Array:
        return a[start : start + count * rows].reshape(rows, count, *a.shape[1:]).swapaxes(0, 1)

    grads, pieces = jax.tree.map(jnp.zeros_like, params), []
    long_rows = longer * (size + 1)
    for count, rows, start, own in (
        (longer, size + 1, 0, keys[:longer]),
        (parts - longer, size, long_rows, keys[longer:]),
    ):
        if count:
            equal = jax.tree.map(functools.partial(cut, count=count, rows=rows, start=start), batch)
            grads, piece = jax.lax.scan(add, grads, (equal, own))
            pieces.append(piece)

    def combine(*pieces: Array) -> Array:
        every = jnp.concatenate(pieces)
        return every.sum(0) if _is_real(every) else every[-1]

    return grads, jax.tree.map(combine, *pieces)


def _is_real(leaf: Array) -> bool:
    """Whether a mean makes sense: floating, not an integer, a truth value or a key."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _varying(tree: Any, axis_name: str) -> Any:
    """The same values, marked as each device's own where shard_map tracks what varies over the axis.

    The gradient with respect to what does not vary would be summed over the axis there, once a microbatch.
    """
    if not hasattr(jax.lax, "pcast"):  # JAX 0.7 has another name for it
        return jax.lax.pvary(tree, axis_name)  # pyrefly: ignore[missing-attribute]
    return jax.lax.pcast(tree, axis_name, to="varying")
