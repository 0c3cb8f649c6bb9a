"""The pictures of a report: reconstructions level by level, samples, a traversal of each level, interpolations."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.data.dataset import Dataset
from hvae_jax.diagnostics import from_noise, level_by_level, made_of_noise, noise_of, of_class, on_circle
from hvae_jax.report import charts
from hvae_jax.report.sketch import image_range
from hvae_jax.runtime.compilation import jit, jit_once
from hvae_jax.trace import Model

EXAMPLES = 8
"""Examples in a picture, one a row."""

MOST_LEVELS = 6
"""Largest number of levels that are traversed, those with the highest rates."""

MOST_COLUMNS = 11
"""Largest number of reconstructions of an example, level by level: in a deeper model some depths are left out."""

MOST_CLASSES = 16
"""Largest number of classes whose samples are drawn, the most frequent ones."""

STEPS = 7
"""Images of a traversal, and of an interpolation."""


def walk_pictures(
    model: Model, variables: Any, dataset: Dataset, report: dict[str, Any], key: jax.Array
) -> dict[str, bytes]:
    """PNGs for a report by caption.

    All are decoded from noise of each level, so that two programs of one descent each make them. If a prior is not
    made of standard noise, as a mixture is not, there are no walks, but only reconstructions and samples.

    Args:
      report: as `diagnosis.diagnose` makes it.
    """
    split = dataset.splits[report["split"]].take(slice(EXAMPLES)).for_classes(model.classes)
    x, y, shown = np.asarray(split.x), split.y, image_range(dataset)
    counts = np.unique(np.linspace(0, len(model.levels_per_stage), MOST_COLUMNS).round().astype(int))
    if made_of_noise(model, variables, x, y):
        found = _decoded(model, variables, x, y, report, key, counts)
    else:
        key_levels, key_samples = jax.random.split(key)
        labels = None if y is None else np.resize(y, EXAMPLES**2)
        by_level = jit_once(lambda v: level_by_level(model, v, x, key_levels, y, counts))
        sample = jit_once(lambda v: model.apply(v, key_samples, EXAMPLES**2, y=labels, method="generate"))
        found = {"by_level": np.asarray(by_level(variables)), "Samples": np.asarray(sample(variables))}
        if model.clusters:
            found |= _by_class(model, variables, jax.random.fold_in(key_samples, 1))

    by_level = found.pop("by_level")
    caption = _by_level_caption(report["levels"], len(model.levels_per_stage), counts.tolist())
    found = {caption: np.concatenate([by_level, x[:, None].astype(by_level.dtype)], axis=1), **found}

    def png(images: np.ndarray) -> bytes:
        """The PNG of examples `[rows, columns, *event]`, or `[64, *event]`."""
        columns = images.shape[1] if images.ndim > x.ndim else EXAMPLES
        return charts.picture_bytes(charts.grid_picture(images.reshape(-1, *x.shape[1:]), columns, shown))

    return {caption: png(images) for caption, images in found.items()}


def _decoded(
    model: Model,
    variables: Any,
    x: np.ndarray,
    y: np.ndarray | None,
    report: dict[str, Any],
    key: Array,
    counts: np.ndarray,
) -> dict[str, np.ndarray]:
    """The images of each picture, `[rows, columns, *event]`, from noise; those level by level under "by_level"."""
    key_x, key_prior, key_samples = jax.random.split(key, 3)

    @jit_once
    def infer(variables: Any) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """The noise of x, `[8, ...]` a level, and noise of the prior, `[8, 8, ...]`."""
        noise = noise_of(model, variables, x, key_x, y)
        keys = jax.random.split(key_prior, len(noise))
        fresh = tuple(jax.random.normal(k, (EXAMPLES, *eps.shape)) for k, eps in zip(keys, noise, strict=True))
        return noise, fresh

    # Every picture calls this one program, some 70 times in all. A sample is drawn only where it is asked for: some
    # likelihoods take long.
    @jit
    def decode(variables: Any, noise: tuple[Array, ...], key: Array, draws: Array) -> Array:
        """E[x | z], or a sample of p(x | z), as floats."""
        dist = from_noise(model, variables, noise, key, y).x_dist
        return jax.lax.cond(draws, lambda: 1.0 * dist.sample(key), lambda: 1.0 * dist.mean)

    def mean(noise: Sequence[Any]) -> np.ndarray:
        return np.asarray(decode(variables, tuple(noise), key_samples, False))

    def along(values: Any, noise_at: Callable[[Any], Sequence[Any]]) -> np.ndarray:
        return np.stack([mean(noise_at(value)) for value in values], axis=1)

    noise, fresh = jax.device_get(infer(variables))
    ends = np.cumsum([0, *model.levels_per_stage])
    found = {"by_level": along(counts, lambda k: [eps * (level < ends[k]) for level, eps in enumerate(noise)])}
    keys = jax.random.split(key_samples, EXAMPLES)
    drawn = [decode(variables, tuple(e[i] for e in fresh), k, True) for i, k in enumerate(keys)]
    found["Samples"] = np.concatenate([np.asarray(images) for images in drawn])

    names, rates = report["levels"], [rate["value"] for rate in report["rates"]]
    for level in sorted(np.argsort(rates)[::-1][:MOST_LEVELS].tolist()):
        unit = report["units"][level]["order"][0]

        def moved(value: float, level: int = level, unit: int = unit) -> list[np.ndarray]:
            eps = noise[level].reshape(len(x), -1).copy()
            eps[:, unit] = value
            return [*noise[:level], eps.reshape(noise[level].shape), *noise[level + 1 :]]

        title = f"The unit of {names[level]} with the highest KL (unit {unit})"
        caption = f"{title} from -2.5 to 2.5 standard deviations of its prior"
        found[caption] = along(np.linspace(-2.5, 2.5, STEPS), moved)
    circle = jit_once(lambda noise, t: [on_circle(eps, jnp.roll(eps, 1, axis=0), t) for eps in noise])
    caption = "From one image to the next, along great circles in the noise of all levels"
    found[caption] = along(np.linspace(0.0, 1.0, STEPS), lambda t: circle(noise, t))
    return found


def _by_class(model: Model, variables: Any, key: Array) -> dict[str, np.ndarray]:
    """Samples of each class that comes up in one draw of a hundred or more, the most frequent ones, one a row."""
    key_often, key_class, key_x = jax.random.split(key, 3)
    count = 1000

    @jit_once
    def classes(variables: Any) -> Array:
        trace = model.apply(variables, key_often, count, method="decode")
        return next(level.z for level in trace.levels if level.name == "y").argmax(-1)

    often = np.bincount(np.asarray(classes(variables)), minlength=model.clusters)
    shown = np.sort(np.argsort(-often)[: min(MOST_CLASSES, int((often >= count / 100).sum()))])
    y = np.repeat(shown, EXAMPLES)
    latents = of_class(model, variables, key_class, y)
    sample = jit_once(lambda v, z: model.apply(v, key_x, len(y), latents=z, method="generate"))
    images = np.asarray(sample(variables, latents))
    caption = f"Samples of the classes {', '.join(map(str, shown))}, one a row"
    return {caption: images.reshape(len(shown), EXAMPLES, *images.shape[1:])}


def _by_level_caption(names: Sequence[str], stages: int, counts: Sequence[int]) -> str:
    """The caption of the reconstructions level by level."""
    if len(counts) == stages + 1:
        columns = f"from no level, from {names[0]}, and so on down to all {len(names)}"
    else:
        columns = f"from the top {', '.join(map(str, counts[:-1]))} and all {stages}"
    return f"Reconstructions {columns}; last, the image itself"
