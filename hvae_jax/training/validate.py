"""Validation: the ELBO of every example of a split, one draw each, in one dispatch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from hvae_jax.compilation import jit
from hvae_jax.objectives import Batch, elbo
from hvae_jax.trace import Model
from hvae_jax.training.mesh import replicated, split_rows

Validate = Callable[[Any, Array], tuple[Array, Array]]


def make_validate(model: Model, data: Batch, size: int, mesh: Mesh) -> Validate:
    """A jitted `(variables, key) -> (elbo [], rates [L])`: means over all examples, nats.

    Examples go `size` at a time over the devices; the last batch is padded, and the padding is masked out of the
    means (in evaluation no example depends on its batch mates).

    Args:
      data: the split, on the devices.
      size: examples at a time; rounded up to divide over the devices.
    """
    examples = data.x.shape[0]
    size = -(-min(size, examples) // mesh.size) * mesh.size
    batches = -(-examples // size)

    def one(variables: Any, data: Batch, key: Array, start: Array) -> tuple[Array, Array]:
        rows = start + jnp.arange(size)
        counts = (rows < examples).astype(jnp.float32)
        batch = jax.tree.map(lambda a: split_rows(a[jnp.minimum(rows, examples - 1)], mesh), data)
        trace = model.apply(variables, batch.x, jax.random.fold_in(key, start), y=batch.y)
        return (elbo(trace) * counts).sum(), (trace.rates * counts[None]).sum(1)

    def run(variables: Any, data: Batch, key: Array) -> tuple[Array, Array]:
        sums = jax.lax.map(lambda start: one(variables, data, key, start), jnp.arange(batches) * size)
        return jax.tree.map(lambda a: a.sum(0) / examples, sums)

    everywhere = replicated(mesh)
    jitted = jit(run, out_shardings=(everywhere, everywhere))
    return lambda variables, key: jitted(variables, data, key)
