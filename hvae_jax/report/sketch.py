"""Pictures of a model: grids while it trains, the four final ones, and those of a report."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from hvae_jax.data.dataset import Dataset
from hvae_jax.diagnostics import interpolate, level_by_level, made_of_noise, traverse
from hvae_jax.report import charts
from hvae_jax.runtime.compilation import jit_once
from hvae_jax.trace import Model, level_names
from hvae_jax.training.mesh import host_copy
from hvae_jax.training.sinks import Reporter, read_metrics


class Sketch:
    """Samples and reconstructions of a model, of the same examples and with the same keys at every call.

    Training calls `sketch(step, variables, reporter)` at intervals, which saves two grids in pictures/ of the run
    folder and hands them to the reporter's sinks.
    """

    def __init__(self, model: Model, dataset: Dataset, seed: int, folder: Path) -> None:
        """Takes the first 64 examples of the test split, or of validation if there is no test split."""
        split = dataset.splits.get("test", dataset.splits["validation"]).take(slice(64)).for_classes(model.classes)
        self.x, self._y, self._folder = split.x, split.y, folder
        self.value_range = image_range(dataset)
        self.levels = len(level_names(model, split))
        key = jax.random.fold_in(jax.random.key(seed), 2)
        self._key_samples, self._key_all, self._key_top = jax.random.split(key, 3)
        x, y, n = split.x, split.y, len(split)
        self._generate = jit_once(lambda v, k: model.apply(v, k, n, y=y, method="generate"))
        self._reconstruct = jit_once(lambda v, k, top: model.apply(v, x, k, y=y, keep_top=top, method="reconstruct"))

    def __call__(self, step: int, variables: Any, reporter: Reporter) -> None:
        """Saves the grids of one step; all processes of a run have to call it."""
        local = host_copy(variables)
        if jax.process_index() != 0:
            return
        self._folder.joinpath("pictures").mkdir(exist_ok=True)
        reconstructions = np.stack([self.x[:32], self.reconstructions(local)[:32]], axis=1)
        beside = reconstructions.reshape(-1, *self.x.shape[1:])
        for name, images in (("samples", self.samples(local)), ("reconstructions", beside)):
            picture = charts.grid_picture(images, 8, self.value_range)
            charts.save_picture(self._folder / "pictures" / f"{name}_{step:08d}.png", picture)
            reporter.image(name, picture, step)

    def samples(self, variables: Any) -> np.ndarray:
        """New examples, as many as there are real ones."""
        return np.asarray(self._generate(variables, self._key_samples))

    def reconstructions(self, variables: Any, keep_top: int | None = None) -> np.ndarray:
        """Reconstructions of the examples, E[x | z], from all levels or from the top `keep_top` alone."""
        key = self._key_all if keep_top is None else self._key_top
        return np.asarray(self._reconstruct(variables, key, self.levels if keep_top is None else keep_top))


def save_final_pictures(sketch: Sketch, variables: Any, best_step: int, folder: Path) -> None:
    """Saves real.png, samples.png, reconstructions.png and curve.png in the run folder.

    Args:
      variables: a copy on this process: it computes in another thread, while all processes' devices are in use.
      best_step: step that curve.png marks.
    """
    every = sketch.levels
    charts.save_grids(folder / "real.png", {"real": sketch.x}, 8, sketch.value_range)
    charts.save_grids(folder / "samples.png", {"samples": sketch.samples(variables)}, 8, sketch.value_range)
    panels = {
        "real": sketch.x,
        f"all {every} levels" if every > 1 else "reconstruction": sketch.reconstructions(variables),
    }
    if every > 1:
        panels["top level only"] = sketch.reconstructions(variables, 1)
    charts.save_grids(folder / "reconstructions.png", {k: v[:36] for k, v in panels.items()}, 6, sketch.value_range)
    charts.save_curve(folder / "curve.png", read_metrics(folder / "metrics.jsonl"), best_step)


def walk_pictures(
    model: Model, variables: Any, dataset: Dataset, report: dict[str, Any], key: jax.Array
) -> dict[str, bytes]:
    """PNGs for a report by caption: levels one by one, samples, a traversal of each level, interpolations.

    If there are more than eight levels, those with the highest rates are traversed. Traversals and interpolations go
    through the noise of each level: a model has none if a prior is not made of standard noise, as a mixture is not.
    """
    split = dataset.splits[report["split"]].take(slice(8)).for_classes(model.classes)
    x, y, values = np.asarray(split.x), split.y, image_range(dataset)
    keys = jax.random.split(key, 4)

    def grid(rows: np.ndarray) -> bytes:
        """The PNG of examples `[rows, columns, *event]`."""
        return charts.picture_bytes(charts.grid_picture(rows.reshape(-1, *x.shape[1:]), rows.shape[1], values))

    by_level = np.asarray(jit_once(lambda v: level_by_level(model, v, x, keys[0], y))(variables))
    names = report["levels"]
    caption = (
        f"Reconstructions from no level, from {names[0]}, and so on down to all {len(names)}; last, the image itself"
    )
    found = {caption: grid(np.concatenate([by_level, x[:, None].astype(by_level.dtype)], axis=1))}
    labels = None if y is None else np.resize(y, 64)
    drawn = jit_once(lambda v: model.apply(v, keys[1], 64, y=labels, method="generate"))(variables)
    found["Samples"] = grid(np.asarray(drawn).reshape(8, 8, *x.shape[1:]))
    if not made_of_noise(model, variables, x, y):
        return found
    steps = np.linspace(-2.5, 2.5, 9)
    highest = sorted(range(len(names)), key=lambda i: -report["rates"][i]["value"])[:8]
    for level in sorted(highest):
        unit = report["units"][level]["order"][0]
        walk = jit_once(lambda v, at=level, u=unit: traverse(model, v, x, keys[2], at, u, steps, y))
        title = f"The unit of {names[level]} with the highest KL (unit {unit})"
        caption = f"{title} from -2.5 to 2.5 standard deviations of its prior"
        found[caption] = grid(np.asarray(walk(variables)))
    ways = jit_once(lambda v: interpolate(model, v, x, np.roll(x, 1, axis=0), keys[3], 9, y=y))(variables)
    found["From one image to the next, along great circles in the noise of all levels"] = grid(np.asarray(ways))
    return found


def image_range(dataset: Dataset) -> tuple[float, float]:
    """Values that are drawn black and white."""
    if dataset.kind.num_values:
        return 0.0, float(dataset.kind.num_values - 1)
    x = dataset.splits["train"].take(slice(1024)).x
    return float(x.min()), float(x.max())
