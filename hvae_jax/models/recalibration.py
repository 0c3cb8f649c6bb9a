"""Running statistics of batch norm for sampling: those of what the model itself generates."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hvae_jax.models.base import HVAE
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.runtime.prng import split


def recalibrate(
    model: HVAE,
    variables: Mapping[str, Any],
    key: Array,
    *,
    steps: int = 500,
    batch: int = 16,
    temperature: ArrayLike = 1.0,
    y: ArrayLike | None = None,
) -> dict[str, Any]:
    """Return variables whose batch statistics have moved to those of samples from the prior at a temperature.

    Batch norm keeps statistics of features inferred from data; samples from the prior, the more so at a low
    temperature, have others. `steps` passes in training mode over `batch` samples each move the running statistics of
    the top-down networks there, by their own momentum. Parameters, the statistics of the bottom-up networks, and the
    variables that were given stay as they are.

    Args:
      key: random key for the samples.
      temperature: temperature of the priors, `[]` or `[L]`, top first: the one that samples are to be drawn with.
      y: class labels `[batch]`, for a model with classes.

    Source: Vahdat & Kautz (2020), section 4, whose published code does 500 steps.
    Raises ValueError for a model without batch statistics, fewer than one step, or statistics that become infinite or
    NaN, which then are not returned.

    Example:
        >>> model = hv.models.TopDownVAE((1,), hidden=2, likelihood=hv.Bernoulli())
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((2, 4)), jax.random.key(1))
        >>> variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), variables)
        >>> sorted(hv.models.recalibrate(model, variables, jax.random.key(2), steps=2, batch=2))
        ['batch_stats', 'params']
    """
    if not jax.tree.leaves(variables.get("batch_stats", {})):
        raise ValueError(f"{type(model).__name__} keeps no batch statistics: there is nothing to recalibrate.")
    if steps < 1 or batch < 2:
        raise ValueError(f"recalibrate(steps={steps}, batch={batch}): at least 1 step, of at least 2 samples.")
    kept = {name: values for name, values in variables.items() if name != "batch_stats"}

    def once(statistics: Any, key: Array) -> tuple[Any, None]:
        options = {"temperature": temperature, "y": y, "method": "decode", "train": True, "mutable": ["batch_stats"]}
        _, updates = model.apply({**kept, "batch_stats": statistics}, key, batch, **options)
        return updates["batch_stats"], None

    run = jax.jit(lambda statistics, keys: jax.lax.scan(once, statistics, keys)[0])
    moved = run(variables["batch_stats"], split(key, steps))
    wrong = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(moved)
        if not bool(jnp.isfinite(leaf).all())
    ]
    if wrong:
        raise ValueError(
            f"Recalibration over {steps} steps made {len(wrong)} batch statistics infinite or NaN, {wrong[0]} first. "
            "Take fewer steps, or a temperature closer to 1."
        )
    return {**kept, "batch_stats": moved}
