"""Pictures of a model: grids while it trains, and the four final ones."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from hvae_jax.data.dataset import Dataset
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
        y, n = split.y, len(split)
        self._generate = jit_once(lambda v, k: model.apply(v, k, n, y=y, method="generate"))
        # x is an argument, since XLA would compute whatever follows from a constant while it compiles
        self._reconstruct = jit_once(lambda v, x, k, top: model.apply(v, x, k, y=y, keep_top=top, method="reconstruct"))

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

    def rehearse(self, variables: Any) -> None:
        """Traces the programs behind all pictures, and draws blank images of their shapes; nothing is compiled.

        Args:
          variables: arrays, or their shapes and dtypes.
        """
        for images in (
            jax.eval_shape(self._generate, variables, self._key_samples),
            jax.eval_shape(self._reconstruct, variables, self.x, self._key_all, self.levels),
        ):
            charts.grid_picture(np.zeros((2, *images.shape[1:]), images.dtype), 2, self.value_range)

    def samples(self, variables: Any) -> np.ndarray:
        """New examples, as many as there are real ones."""
        return np.asarray(self._generate(variables, self._key_samples))

    def reconstructions(self, variables: Any, keep_top: int | None = None) -> np.ndarray:
        """Reconstructions of the examples, E[x | z], from all levels or from the top `keep_top` alone."""
        key = self._key_all if keep_top is None else self._key_top
        levels = self.levels if keep_top is None else keep_top
        return np.asarray(self._reconstruct(variables, self.x, key, levels))


FINAL_PICTURES = ("real.png", "samples.png", "reconstructions.png", "curve.png")
"""Files of `save_final_pictures`."""


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


def image_range(dataset: Dataset) -> tuple[float, float]:
    """Values that are drawn black and white."""
    if dataset.kind.num_values:
        return 0.0, float(dataset.kind.num_values - 1)
    x = dataset.splits["train"].take(slice(1024)).x
    return float(np.nanmin(x)), float(np.nanmax(x))
