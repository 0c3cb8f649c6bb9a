"""The numbers of a run: bounds, bits per dimension, rates and active units over whole splits, as plain Python."""

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array, ShapeDtypeStruct
from jax.sharding import Mesh, NamedSharding

from hvae_jax.data.dataset import Dataset, Split
from hvae_jax.diagnostics import (
    UnitCounts,
    Usage,
    class_accuracy,
    class_levels,
    class_use,
    clustering_accuracy,
    standard_error,
    usage,
)
from hvae_jax.objectives import Importance, importance
from hvae_jax.runtime import memory
from hvae_jax.runtime.compilation import jit
from hvae_jax.trace import Model, level_names, level_sides
from hvae_jax.training.mesh import AXIS, agree, data_mesh, place_rows, replicated, rows_sharding


def evaluate(
    model: Model,
    variables: Any,
    dataset: Dataset,
    key: Array,
    draws: dict[str, int],
    chunk: int = 10,
    size: int = 450,
    usage_draws: int = 16,
    mesh: Mesh | None = None,
    each: dict[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Everything that `result.json` says about the model, over every example of the splits that `draws` names.

    Args:
      draws: K of the importance-weighted bound by split; the ELBO is the mean over the same draws.
      chunk: largest number of draws held in memory at once; fewer where memory is short, which changes no number
        beyond rounding.
      size: largest number of examples held in memory at once; fewer, with a warning, where even one draw of so many
        does not fit. Examples that are measured together draw their noise together, so that another size has other
        draws.
      usage_draws: largest number of draws behind rates and active units; a split with a smaller K uses K.
      mesh: devices, of one process or of several, that the examples are spread over; None takes those the variables
        lie on after a run, otherwise the first device.
      each: dict that gets the bounds of every example, `[N]`: `elbo_SPLIT` and `iw_bound_SPLIT`; None for none.
    Returns: dicts by split: `elbo`, `iw_bound`, `k`, `bits_per_dim` (of both bounds), `standard_error` (of both
      bounds' means over the split: examples and draws together), `effective_sample_size` (mean), `rates` by level
      with `rates_error`, `distortion`, `active_units`, `used_units`, `moving_units` by level, and, where latents are
      maps, `rates_by_side`, the sum over the levels of each resolution; of a model with a class among its latents,
      `classes`: `information` I(x; y), `used` classes and, if examples have labels, the number that is `labelled`,
      their `accuracy` and `clustering` accuracy. Nats, but for bits, counts and accuracies. Beside them `pieces`:
      `size` and `chunk` as they were taken.
    Raises ValueError for a split that does not exist, and for a `size` or `chunk` below 1.
    """
    if size < 1 or chunk < 1:
        raise ValueError(f"evaluate(size={size}, chunk={chunk}): both have to be 1 or more.")
    unknown = [name for name in draws if name not in dataset.splits]
    if unknown:
        raise ValueError(f"{dataset.name} has no split {unknown[0]!r}; it has {list(dataset.splits)}.")
    mesh = _mesh_of(variables) if mesh is None else mesh
    everywhere = replicated(mesh)
    bound = jit(partial(importance, model), static_argnames="chunk", out_shardings=everywhere)
    use = jit(partial(usage, model), static_argnames="draws", out_shardings=everywhere)
    # One size for all splits, so that one compilation serves them, and one that divides over the devices.
    size = min(size, max(len(dataset.splits[name]) for name in draws))
    size = -(-size // mesh.size) * mesh.size
    few = dataset.splits[next(iter(draws))].for_classes(model.classes)
    names, sides = level_names(model, few), level_sides(model, few)
    one = few.take(slice(1))
    at = next(iter(class_levels(model, variables, one.x, one.y)), None)  # the class's level, if there is one
    size, chunk = _pieces(
        lambda rows, at_once: _memory(bound, variables, few, rows, mesh, k=1, chunk=at_once),
        lambda rows: _memory(use, variables, few, rows, mesh, draws=min(usage_draws, next(iter(draws.values())))),
        size,
        chunk,
        mesh,
    )

    def measure(x: Array, y: Array | None, key: Array, k: int) -> tuple[Importance, Usage]:
        bound_key, usage_key = jax.random.split(key)
        drawn = bound(variables, x, bound_key, k=k, chunk=chunk, y=y)
        return drawn, use(variables, x, usage_key, y=y, draws=min(usage_draws, k))

    found: dict[str, Any] = {"pieces": {"size": size, "chunk": chunk}}
    for name, k in draws.items():
        split = dataset.splits[name].for_classes(model.classes)
        split_key = jax.random.fold_in(key, list(dataset.splits).index(name))
        bounds, rates, log_px, units, classes = _over(split, size, mesh, split_key, partial(measure, k=k), at)
        if each is not None:
            each[f"elbo_{name}"], each[f"iw_bound_{name}"] = np.asarray(bounds.elbo), np.asarray(bounds.bound)
        bit = math.log(2) * dataset.seen_dimensions(name)
        numbers = {**_bounds(bounds, bit), "k": k, **_levels(names, sides, rates, units)}
        if classes is not None:
            numbers["classes"] = _classes(classes, dataset.splits[name])
        for what, value in {**numbers, "distortion": float(-np.mean(log_px))}.items():
            found.setdefault(what, {})[name] = value
    return found


def _pieces(
    bound: Callable[[int, int], int], use: Callable[[int], int], size: int, chunk: int, mesh: Mesh
) -> tuple[int, int]:
    """The largest pieces that fit into the free memory of all devices: examples and draws at once.

    Args:
      bound, use: memory of the two programs, bytes, for a number of examples, and of draws.
      size, chunk: largest number of examples, a multiple of the number of devices, and of draws.
    """
    mebibytes = -agree(-(memory.free_device_memory() // 2**20))[0]  # the least of all processes
    budget = int(memory.SHARE * mebibytes * 2**20)
    fits = memory.fitting(size, mesh.size, use, budget)
    # Draws first, because their number changes no result.
    chunk = memory.fitting(chunk, 1, lambda at_once: bound(fits, at_once), budget)
    if chunk == 1:
        fits = memory.fitting(fits, mesh.size, lambda rows: bound(rows, 1), budget)
    if fits < size:
        warnings.warn(
            f"{size} examples at once do not fit into the free memory, {mebibytes:,} MiB a device, with room to spare: "
            f"{fits} are measured at once, and draw other noise than {size} would.",
            stacklevel=3,
        )
    return fits, chunk


def _memory(program: Any, variables: Any, like: Split, rows: int, mesh: Mesh, **options: Any) -> int:
    """Memory that a program takes for so many examples, bytes a device; compiles it, which calling it then does not."""

    def abstract(array: Any) -> ShapeDtypeStruct:
        dtype = jax.dtypes.canonicalize_dtype(array.dtype)
        return ShapeDtypeStruct((rows, *array.shape[1:]), dtype, sharding=rows_sharding(rows, mesh))

    y = None if like.y is None else abstract(like.y)
    lowered = program.lower(variables, abstract(like.x), jax.random.key(0), y=y, **options)
    return memory.program_memory(lowered.compile())


def _over(
    split: Split,
    size: int,
    mesh: Mesh,
    key: Array,
    measure: Callable[[Array, Array | None, Array], tuple[Importance, Usage]],
    at: int | None,
) -> tuple[Importance, np.ndarray, np.ndarray, UnitCounts, np.ndarray | None]:
    """Bounds of every example of a split, rates `[L, N]`, log_px `[N]`, units, classes `[N, K]`: `size` at a time.

    Args:
      at: index of the level whose posterior means are the classes; None for none.
    """
    bounds, rates, log_px, units, classes = [], [], [], UnitCounts(), []
    for i, (*arrays, count) in enumerate(chunks(split, size)):
        x, y = (place_rows(array, mesh) for array in arrays)
        assert x is not None
        drawn, used = measure(x, y, jax.random.fold_in(key, i))
        used = jax.device_get(used)
        bounds.append(jax.tree.map(lambda a, n=count: np.asarray(a)[:n], drawn))  # without what fills up the last chunk
        rates.append(np.asarray(used.rates)[:, :count])
        log_px.append(np.asarray(used.log_px)[:count])
        units.add(used, count)
        if at is not None:
            classes.append(np.asarray(used.posterior_means[at])[:count])
    each: Importance = jax.tree.map(lambda *parts: np.concatenate(parts), *bounds)
    whole = np.concatenate(classes) if classes else None
    return each, np.concatenate(rates, axis=1), np.concatenate(log_px), units, whole


def _classes(probabilities: np.ndarray, split: Split) -> dict[str, float]:
    """How a class is used in a split, from its q(y | x) `[N, K]`, and its accuracy where examples have labels."""
    use = class_use(probabilities)
    numbers = {"information": use.information, "used": use.used}
    rows = split.labelled
    if len(rows):
        q, y = probabilities[rows], np.asarray(split.y)[rows]
        right = {"accuracy": class_accuracy(q, y).value, "clustering": clustering_accuracy(q, y).value}
        numbers |= {"labelled": len(rows), **right}
    return numbers


def _bounds(each: Importance, nats: float) -> dict[str, Any]:
    """ELBO and importance-weighted bound of a split, from those of each example; `nats` make one bit per dimension."""
    return {
        "elbo": float(each.elbo.mean()),
        "iw_bound": float(each.bound.mean()),
        "bits_per_dim": {"elbo": float(-each.elbo.mean() / nats), "iw_bound": float(-each.bound.mean() / nats)},
        "standard_error": {"elbo": float(standard_error(each.elbo)), "iw_bound": float(standard_error(each.bound))},
        "effective_sample_size": float(each.effective_sample_size.mean()),
    }


def _levels(names: tuple[str, ...], sides: tuple[int, ...], rates: np.ndarray, units: UnitCounts) -> dict[str, Any]:
    """Rates `[L, N]` and units of a split, by level."""
    numbers = {
        "rates": dict(zip(names, rates.mean(1).tolist(), strict=True)),
        "rates_error": dict(zip(names, standard_error(rates).tolist(), strict=True)),
        "active_units": dict(zip(names, units.active(), strict=True)),
        "used_units": dict(zip(names, units.used(), strict=True)),
        "moving_units": dict(zip(names, units.moving(), strict=True)),
    }
    if max(sides) > 1:
        by_side = {side: float(rates[np.array(sides) == side].mean(1).sum()) for side in dict.fromkeys(sides)}
        numbers["rates_by_side"] = {f"{side}x{side}": rate for side, rate in by_side.items()}
    return numbers


def chunks(split: Split, size: int) -> Iterator[tuple[np.ndarray, np.ndarray | None, int]]:
    """Yields x and y of `size` examples at a time, always that many, and how many of them count.

    The last chunk is filled up with copies of its first example, so that one compilation serves all chunks and no
    example is left out.
    """
    for start in range(0, len(split), size):
        rows = np.arange(start, start + size)
        count = min(size, len(split) - start)
        rows[count:] = start
        yield np.asarray(split.x[rows]), None if split.y is None else split.y[rows], count


def _mesh_of(variables: Any) -> Mesh:
    """The mesh that a run left the variables on, or one of the first device."""
    for leaf in jax.tree.leaves(variables):
        sharding = getattr(leaf, "sharding", None)  # NumPy arrays have none
        mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
        if isinstance(mesh, Mesh) and mesh.axis_names == (AXIS,):
            return mesh
    return data_mesh(1)
