"""Validation: the ELBO of every example of a split, one draw each."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from typing_extensions import TypeAliasType

from hvae_jax.objectives import Batch, elbo
from hvae_jax.runtime import memory
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.runtime.compilation import jit
from hvae_jax.trace import Model
from hvae_jax.training.feeds import Feeding, read, to_devices
from hvae_jax.training.mesh import local_rows, replicated, rows_sharding, split_rows

Validate = TypeAliasType("Validate", Callable[[Any, Array], tuple[ArrayLike, ArrayLike]])


def make_validate(
    model: Model,
    x: Any,
    y: np.ndarray | None,
    size: int,
    mesh: Mesh,
    streamed: Feeding | None = None,
    device_memory: int | None = None,
) -> Validate:
    """A `(variables, key) -> (elbo [], rates [L])`: means over all examples, nats.

    Examples are spread over the devices `size` at a time; the last batch is padded and the padding masked out of the
    means (in evaluation no example depends on its batch mates). A batch draws with the key folded with the row of its
    first example, however the split gets to the devices.

    Args:
      x, y: the split, arrays or `Rows`.
      size: largest number of examples at a time; rounded up to a multiple of the number of devices.
      streamed: how batches are read; None sends the whole split to the devices and measures it in one dispatch.
      device_memory: bytes of a device, the same for all processes: `size` is halved until a batch takes at most
        `memory.SHARE` of it. All of the memory and not what is free of it, so that a run that resumes draws the same
        noise. None takes `size` as it is.
    """
    size = -(-min(size, len(x)) // mesh.size) * mesh.size
    data = None if streamed is not None else to_devices(x, y, mesh)

    @functools.cache
    def of(size: int) -> _Validation:
        if data is None:
            assert streamed is not None
            return _streamed(model, x, y, size, mesh, streamed)
        return _resident(model, data, len(x), size, mesh)

    fits: list[int] = [] if device_memory is not None else [size]

    def validate(variables: Any, key: Array) -> tuple[ArrayLike, ArrayLike]:
        def needs(size: int) -> int:
            return memory.program_memory(of(size).lower(variables, key).compile())

        with memory.memory_for("validation", "Lower --validation-size (with --resume in the same folder)."):
            if not fits:  # the first call, which compiles anyway
                assert device_memory is not None
                fits.append(memory.fitting(size, mesh.size, needs, int(memory.SHARE * device_memory)))
            return of(fits[0]).call(variables, key)

    return validate


class _Validation(NamedTuple):
    """Validation with batches of one size.

    Attributes:
      call: validates.
      lower: lowers the jitted program behind it.
    """

    call: Validate
    lower: Callable[[Any, Array], Any]


def _batch(model: Model, examples: int, size: int) -> Callable[[Any, Batch, Array, Array], tuple[Array, Array]]:
    """A `(variables, batch, key, start) -> (elbo [], rates [L])`: what a batch adds to the means over all examples."""

    def one(variables: Any, batch: Batch, key: Array, start: Array) -> tuple[Array, Array]:
        # 1 for an example, 0 for padding; divided by all examples, so that the parts add up to means.
        counts = (start + jnp.arange(size) < examples).astype(jnp.float32)
        trace = model.apply(variables, batch.x, jax.random.fold_in(key, start), y=batch.y)
        return (elbo(trace) * counts).sum() / examples, (trace.rates * counts[None]).sum(1) / examples

    return one


def _streamed(model: Model, x: Any, y: np.ndarray | None, size: int, mesh: Mesh, streamed: Feeding) -> _Validation:
    """Validation in a dispatch a batch, added up on the host: the next batch is read in the meantime."""
    part = jit(_batch(model, len(x), size), out_shardings=replicated(mesh))
    starts = np.arange(0, len(x), size, dtype=np.int32)
    source, sharding = Chunks(x, y, starts, size, local_rows(size, mesh)), rows_sharding(size, mesh)

    def stream(variables: Any, key: Array) -> tuple[ArrayLike, ArrayLike]:
        sums = []
        for start, arrays in zip(starts, read(source, streamed), strict=True):
            parts = [jax.make_array_from_process_local_data(sharding, a, (size, *a.shape[1:])) for a in arrays]
            sums.append(part(variables, Batch(*parts), key, start))
        return jax.tree.map(lambda *parts: np.sum([np.asarray(part) for part in parts], axis=0), *sums)

    def lower(variables: Any, key: Array) -> Any:
        shapes: list[Any] = [
            jax.ShapeDtypeStruct((size, *a.shape[1:]), jax.dtypes.canonicalize_dtype(a.dtype), sharding=sharding)
            for a in ((x,) if y is None else (x, y))
        ]
        return part.lower(variables, Batch(*shapes), key, starts[0])

    return _Validation(stream, lower)


def _resident(model: Model, data: Batch, examples: int, size: int, mesh: Mesh) -> _Validation:
    """Validation of a split on the devices, in one dispatch."""
    one, starts = _batch(model, examples, size), np.arange(0, examples, size, dtype=np.int32)

    def run(variables: Any, data: Batch, key: Array) -> tuple[Array, Array]:
        def at(start: Array) -> tuple[Array, Array]:
            rows = jnp.minimum(start + jnp.arange(size), examples - 1)  # padded with the last example
            return one(variables, jax.tree.map(lambda a: split_rows(a[rows], mesh), data), key, start)

        # A loop, in the memory of one batch: [batches] to a sum.
        return jax.tree.map(lambda a: a.sum(0), jax.lax.map(at, jnp.asarray(starts)))

    jitted = jit(run, out_shardings=replicated(mesh))
    return _Validation(lambda v, key: jitted(v, data, key), lambda v, key: jitted.lower(v, data, key))


class Chunks:
    """A split in batches of `size`, the last one padded with the last example, as a Grain source."""

    def __init__(self, x: Any, y: np.ndarray | None, starts: np.ndarray, size: int, rows: slice) -> None:
        self._x, self._y, self._starts, self._size, self._rows = x, y, starts, size, rows

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, i: Any) -> tuple[np.ndarray, ...]:
        """x and y of this process's rows of batch i; x alone without labels."""
        rows = np.minimum(self._starts[int(i)] + np.arange(self._size), len(self._x) - 1)[self._rows]
        x = np.asarray(self._x[rows])
        return (x,) if self._y is None else (x, self._y[rows])
