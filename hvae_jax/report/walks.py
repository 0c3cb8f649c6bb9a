"""The pictures of a report: reconstructions level by level, samples, a traversal of each level, interpolations."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.data.dataset import Dataset
from hvae_jax.diagnostics import from_noise, level_by_level, made_of_noise, noise_of, of_class, on_circle
from hvae_jax.report.pictures import Picture, changes_png, grid_png
from hvae_jax.report.sketch import image_range
from hvae_jax.runtime.compilation import jit, jit_once
from hvae_jax.trace import Model

EXAMPLES = 8
"""Examples in a picture, one a row."""

MOST_LEVELS = 6
"""Largest number of levels that are traversed, those with the highest rates; of a collapsed level nothing moves."""

WALKED = 4
"""Examples from which the traversal of a level sets out."""

MOST_COLUMNS = 11
"""Largest number of reconstructions of an example, level by level: in a deeper model some depths are left out."""

MOST_CLASSES = 16
"""Largest number of classes whose samples are drawn, the most frequent ones."""

STEPS = 7
"""Images of a traversal, and of an interpolation."""


def walk_pictures(
    model: Model, variables: Any, dataset: Dataset, report: dict[str, Any], key: jax.Array
) -> list[Picture]:
    """The pictures of a report.

    All are decoded from noise of each level, so that two programs of one descent each make them. If a prior is not
    made of standard noise, as a mixture is not, there are no walks, but only reconstructions and samples.

    Args:
      report: as `diagnosis.diagnose` makes it.
    """
    whole = dataset.splits[report["split"]]
    split = whole.take(slice(EXAMPLES)).for_classes(model.classes)
    x, y, shown = np.asarray(split.x), split.y, image_range(dataset)
    counts = np.unique(np.linspace(0, len(model.levels_per_stage), MOST_COLUMNS).round().astype(int))
    if made_of_noise(model, variables, x, y):
        by_level, grids = _decoded(model, variables, x, y, report, key, counts)
    else:
        key_levels, key_samples = jax.random.split(key)
        labels = None if y is None else np.resize(y, EXAMPLES**2)
        levels = jit_once(lambda v, x: level_by_level(model, v, x, key_levels, y, counts))
        by_level = np.asarray(levels(variables, x))
        sample = jit_once(lambda v: model.apply(v, key_samples, EXAMPLES**2, y=labels, method="generate"))
        grids = [_samples(np.asarray(sample(variables)))]
        if model.clusters:
            grids.append(_by_class(model, variables, jax.random.fold_in(key_samples, 1)))

    square = np.asarray(whole.take(slice(EXAMPLES**2)).x)
    square = square[: len(square) // EXAMPLES * EXAMPLES] if len(square) >= EXAMPLES else square
    data = square.reshape(-1, min(EXAMPLES, len(square)), *x.shape[1:])
    seen = f"The first {len(square)} examples of the {report['split']} split, to compare with."
    return [
        *_levels(report, by_level, x, len(model.levels_per_stage), counts.tolist(), shown),
        *(
            replace(text, png=grid_png(images[:WALKED] if text.kind == "walk" else images, shown))
            for text, images in grids
        ),
        Picture("data", "Data", seen, grid_png(data, shown)),
    ]


def _samples(images: np.ndarray) -> tuple[Picture, np.ndarray]:
    """What is written around 64 samples, and their grid."""
    note = "New examples: every level is drawn from its prior, and x from p(x | z). They should look like the data."
    return Picture("samples", "Samples", note, b""), images.reshape(EXAMPLES, -1, *images.shape[1:])


def _levels(
    report: dict[str, Any], by_level: np.ndarray, x: np.ndarray, stages: int, counts: list[int], shown: Any
) -> list[Picture]:
    """Reconstructions level by level, and what each level changes in them.

    Args:
      by_level: `[8, K, *event]`, from the top `counts` levels, `[K]`, or stages.
    """
    kept, added = depth_labels(report["levels"], stages, counts)
    note = (
        "An example a row. The levels down to that of a column are inferred from the image at the right; those below "
        "it are at the mode of their prior. A level adds what is new in its column."
    )
    images = np.concatenate([by_level, x[:, None].astype(by_level.dtype)], axis=1)
    what = "inferred, from the top down to" if kept[0] == "none" else "levels inferred, from the top"
    found = [
        Picture("levels", "Level by level", note, grid_png(images, shown), (*kept, "image"), across=what),
    ]
    changes = changes_png(by_level, shown)
    if changes is not None:
        note = (
            "The same columns, each minus the one before: orange pixels rise, blue ones fall, and empty ones stay. The "
            f"deepest colour is a change by {changes[1]:.0%} of the range of values."
        )
        found.append(Picture("changes", "What each level changes", note, changes[0], added, across="level added"))
    return found


def depth_labels(names: Sequence[str], stages: int, counts: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels of reconstructions from the top `counts` levels, and of what is added from each to the next."""
    if len(counts) == stages + 1 == len(names) + 1:
        return ("none", *names), tuple(names)
    return tuple(map(str, counts)), tuple(
        str(b) if b == a + 1 else f"{a + 1}-{b}" for a, b in itertools.pairwise(counts)
    )


def _decoded(
    model: Model,
    variables: Any,
    x: np.ndarray,
    y: np.ndarray | None,
    report: dict[str, Any],
    key: Array,
    counts: np.ndarray,
) -> tuple[np.ndarray, list[tuple[Picture, np.ndarray]]]:
    """Images level by level, `[8, K, *event]`, and the other pictures, without their PNGs, with theirs; from noise."""
    key_x, key_prior, key_samples = jax.random.split(key, 3)

    @jit_once
    def infer(variables: Any, x: Any) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
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

    noise, fresh = jax.device_get(infer(variables, x))
    ends = np.cumsum([0, *model.levels_per_stage])
    by_level = along(counts, lambda k: [eps * (level < ends[k]) for level, eps in enumerate(noise)])
    keys = jax.random.split(key_samples, EXAMPLES)
    drawn = [decode(variables, tuple(e[i] for e in fresh), k, True) for i, k in enumerate(keys)]
    found = [_samples(np.concatenate([np.asarray(images) for images in drawn]))]

    names, rates = report["levels"], [rate["value"] for rate in report["rates"]]
    values = np.linspace(-2.5, 2.5, STEPS)
    walked = [i for i in np.argsort(rates)[::-1].tolist() if report["verdicts"][i] != "collapsed"][:MOST_LEVELS]
    for level in sorted(walked):
        unit = report["units"][level]["order"][0]

        def moved(value: float, level: int = level, unit: int = unit) -> list[np.ndarray]:
            eps = noise[level].reshape(len(x), -1).copy()
            eps[:, unit] = value
            return [*noise[:level], eps.reshape(noise[level].shape), *noise[level + 1 :]]

        note = (
            f"Unit {unit}, the one of {names[level]} with the highest KL, is moved, and the noise of all else stays as "
            "inferred from an example. What differs along a row is what the unit stands for."
        )
        title, what = f"One unit of {names[level]}", "standard deviations of the prior"
        steps = tuple(f"{value:+.1f}" if value else "0" for value in values.round(1))
        found.append((Picture("walk", title, note, b"", steps, across=what), along(values, moved)))
    circle = jit_once(lambda noise, t: [on_circle(eps, jnp.roll(eps, 1, axis=0), t) for eps in noise])
    note = "Along great circles in the noise of all levels. A smooth way through examples is a sign of a good prior."
    ways, steps = np.linspace(0.0, 1.0, STEPS), ("one", *("",) * (STEPS - 2), "other")
    between = along(ways, lambda t: circle(noise, t))
    found.append((Picture("circle", "From one example to another", note, b"", steps), between))
    return by_level, found


def _by_class(model: Model, variables: Any, key: Array) -> tuple[Picture, np.ndarray]:
    """Samples of each class that comes up in one draw of a hundred or more, the most frequent ones, one a row.

    Of the most frequent one alone if none is as frequent.
    """
    key_often, key_class, key_x = jax.random.split(key, 3)
    count = 1000

    @jit_once
    def classes(variables: Any) -> Array:
        trace = model.apply(variables, key_often, count, method="decode")
        return next(level.z for level in trace.levels if level.name == "y").argmax(-1)

    often = np.bincount(np.asarray(classes(variables)), minlength=model.clusters)
    shown = np.sort(np.argsort(-often)[: min(MOST_CLASSES, max(1, int((often >= count / 100).sum())))])
    y = np.repeat(shown, EXAMPLES)
    latents = of_class(model, variables, key_class, y)
    sample = jit_once(lambda v, z: model.apply(v, key_x, len(y), latents=z, method="generate"))
    images = np.asarray(sample(variables, latents))
    note = "New examples given their class, the most frequent classes: those of a row should be of one kind."
    text = Picture("classes", "Samples by class", note, b"", rows=tuple(f"class {one}" for one in shown))
    return text, images.reshape(len(shown), EXAMPLES, *images.shape[1:])
