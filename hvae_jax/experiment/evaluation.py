"""The numbers of a run: bounds, bits per dimension, rates and active units over whole splits, as plain Python."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding

from hvae_jax.data.dataset import Dataset, Split
from hvae_jax.diagnostics import UnitCounts, Usage, standard_error, usage
from hvae_jax.objectives import Importance, importance
from hvae_jax.runtime.compilation import jit
from hvae_jax.trace import Model, level_names, level_sides
from hvae_jax.training.mesh import AXIS, data_mesh, place_rows, replicated


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
) -> dict[str, Any]:
    """Everything `result.json` says about the model, over every example of the splits that `draws` names.

    Args:
      draws: K of the importance-weighted bound for each split to evaluate; the ELBO is the mean over the same draws.
      chunk: draws held in memory at once; size: examples likewise.
      usage_draws: draws behind rates and active units, at most: of a split with fewer draws, so many as it has.
      mesh: devices, of one process or of several, over which the examples are spread; None takes those that
        the variables lie on, where a run left them, or the first one.
    Returns: dicts by split: `elbo`, `iw_bound`, `k`, `bits_per_dim` (of both bounds), `standard_error` (of both
      bounds' means over the split: examples and draws together), `effective_sample_size` (mean), `rates` by level
      with `rates_error`, `distortion`, `active_units`, `used_units`, `moving_units` by level, and
      `rates_by_side`, the sums over the levels of each resolution, where latents are maps. Nats but for the
      bits.
    Raises ValueError for a split that is not there.
    """
    unknown = [name for name in draws if name not in dataset.splits]
    if unknown:
        raise ValueError(f"{dataset.name} has no split {unknown[0]!r}; it has {list(dataset.splits)}.")
    labelled = bool(model.classes)
    mesh = _mesh_of(variables) if mesh is None else mesh
    everywhere = replicated(mesh)
    bound = jit(partial(importance, model), static_argnames="chunk", out_shardings=everywhere)
    use = jit(partial(usage, model), static_argnames="draws", out_shardings=everywhere)
    size = min(size, max(len(dataset.splits[name]) for name in draws))
    size = -(-size // mesh.size) * mesh.size
    nats = math.log(2) * dataset.dimensions
    report: dict[str, Any] = {}
    for name, k in draws.items():
        split, split_key = dataset.splits[name], jax.random.fold_in(key, list(dataset.splits).index(name))
        bounds, each_rate, log_px, units = [], [], [], UnitCounts()
        for i, (*arrays, count) in enumerate(chunks(split, size, labelled)):
            x, y = (place_rows(array, mesh) for array in arrays)
            bound_key, usage_key = jax.random.split(jax.random.fold_in(split_key, i))
            drawn = bound(variables, x, bound_key, k=k, chunk=chunk, y=y)
            used: Usage = jax.device_get(use(variables, x, usage_key, y=y, draws=min(usage_draws, k)))
            bounds.append(jax.tree.map(lambda a, n=count: np.asarray(a)[:n], drawn))
            each_rate.append(np.asarray(used.rates)[:, :count])
            log_px.append(np.asarray(used.log_px)[:count])
            units.add(used, count)
        few = split.take(slice(1))
        example = (few.x, few.y if labelled else None)
        levels, sides = level_names(model, variables, *example), level_sides(model, variables, *example)
        each: Importance = jax.tree.map(lambda *parts: np.concatenate(parts), *bounds)
        rates = np.concatenate(each_rate, axis=1)
        values = {
            "elbo": float(each.elbo.mean()),
            "iw_bound": float(each.bound.mean()),
            "k": k,
            "bits_per_dim": {"elbo": float(-each.elbo.mean() / nats), "iw_bound": float(-each.bound.mean() / nats)},
            "standard_error": {"elbo": float(standard_error(each.elbo)), "iw_bound": float(standard_error(each.bound))},
            "effective_sample_size": float(each.effective_sample_size.mean()),
            "rates": dict(zip(levels, rates.mean(1).tolist(), strict=True)),
            "rates_error": dict(zip(levels, standard_error(rates).tolist(), strict=True)),
            "distortion": float(-np.mean(np.concatenate(log_px))),
            "active_units": dict(zip(levels, units.active(), strict=True)),
            "used_units": dict(zip(levels, units.used(), strict=True)),
            "moving_units": dict(zip(levels, units.moving(), strict=True)),
        }
        if max(sides) > 1:
            by_side = {side: float(rates[np.array(sides) == side].mean(1).sum()) for side in dict.fromkeys(sides)}
            values["rates_by_side"] = {f"{side}x{side}": rate for side, rate in by_side.items()}
        for measure, value in values.items():
            report.setdefault(measure, {})[name] = value
    return report


def chunks(split: Split, size: int, labelled: bool) -> Iterator[tuple[np.ndarray, np.ndarray | None, int]]:
    """Yields `size` examples at a time, always that many, and how many of them count.

    The last chunk is filled up with its first examples, so that one compilation serves all and none is left out.
    """
    labels = split.y if labelled else None
    for start in range(0, len(split), size):
        rows = np.arange(start, start + size)
        count = min(size, len(split) - start)
        rows[count:] = start
        yield np.asarray(split.x[rows]), None if labels is None else labels[rows], count


def _mesh_of(variables: Any) -> Mesh:
    """The mesh that a run left the variables on, or one of the first device."""
    for leaf in jax.tree.leaves(variables):
        sharding = getattr(leaf, "sharding", None)
        mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
        if isinstance(mesh, Mesh) and mesh.axis_names == (AXIS,):
            return mesh
    return data_mesh(1)
