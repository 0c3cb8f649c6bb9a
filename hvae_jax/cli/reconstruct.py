"""`hvae reconstruct`: images from their top levels alone."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from hvae_jax.cli.arguments import Import, Run, check_out, columns
from hvae_jax.diagnostics import level_by_level
from hvae_jax.experiment.own import given_examples
from hvae_jax.experiment.reopen import open_stored, outputs
from hvae_jax.report import charts
from hvae_jax.runtime.compilation import jit_once
from hvae_jax.runtime.memory import memory_for
from hvae_jax.runtime.texts import say


@dataclasses.dataclass(frozen=True)
class Reconstruct:
    """Draws test images, or pictures of one's own, beside their reconstructions from the top levels.

    Attributes:
      run: the run folder, or the name of a model in the box.
      data: pictures, a folder of them, an .npz, or the name of a data set; the run's own data by default.
      keep_top: number of levels (stages, if a model has them) inferred from the image, from the top; the others are
        drawn from their priors. All by default.
      by_level: draw a row for each image instead: reconstructions from no level, from the top one, and so on down to
        all (a dozen at most), with the levels below at their priors' modes, and last the image itself.
      draws: number of draws of the latents, 2 or more: the reconstruction is their mean, beside the standard deviation
        of each pixel over them, drawn from black, 0, to white, half the range of values. One draw by default.
      n: number of images; 36 by default, 8 with --by-level.
      split: split that the images come from; the last one (test, if there is one) by default.
      temperature: temperature of the levels drawn from their priors; 1 by default.
      posterior_temperature: temperature of the posteriors of inferred levels; 0 infers without noise, means all the way
        down.
      invert: exchange black and white of pictures.
      seed: seed of the draws.
      out: file of the picture; reconstructions_topK.png or level_by_level.png in the run folder by default.
      import_: modules beside hvae_jax that settings.json may name.
    """

    run: Run
    data: tuple[str, ...] = ()
    keep_top: int | None = None
    by_level: bool = False
    draws: int | None = None
    n: int | None = None
    split: str | None = None
    temperature: float | None = None
    posterior_temperature: float = 1.0
    invert: bool = False
    seed: int = 0
    out: Path | None = None
    import_: Import = ()

    def __call__(self) -> None:
        """Runs the command."""
        check_out(self.out)
        run = open_stored(self.run, self.import_)
        n = (8 if self.by_level else 36) if self.n is None else self.n
        if n < 1:
            raise ValueError(f"--n is {n}, but it has to be 1 or more.")
        if self.by_level and (self.keep_top, self.temperature, self.draws) != (None, None, None):
            raise ValueError(
                "--by-level keeps every number of levels and draws none: leave --keep-top, --temperature, --draws out."
            )
        if self.draws is not None and self.draws < 2:
            raise ValueError(f"--draws is {self.draws}, but it has to be 2 or more; without it one draw is made.")
        splits = (self.split,) if self.split is not None else ()
        given = given_examples(run.experiment, run.card.event, self.data, splits=splits, invert=self.invert)
        if self.data:
            say(given.dataset.protocol)
        model = run.experiment.model
        few = given.only.take(slice(n)).for_classes(model.classes)
        sizes = model.levels_per_stage
        levels, what = len(sizes), "levels" if max(sizes) == 1 else "stages"
        key, values = jax.random.key(self.seed), given.value_range
        if self.by_level:
            counts = np.unique(np.linspace(0, levels, min(levels + 1, 12)).round().astype(int))
            inferring = self.posterior_temperature
            by_level = jit_once(lambda v, x, key: level_by_level(model, v, x, key, few.y, counts, inferring))
            with memory_for("reconstructing", "Lower --n."):
                drawn = np.asarray(by_level(run.variables, few.x, key))
            rows = np.concatenate([drawn, np.asarray(few.x)[:, None].astype(drawn.dtype)], axis=1)
            out = self.out or outputs(self.run, "level_by_level.png")
            title = f"0 to {levels} {what} kept; the image"
            charts.save_grids(out, {title: rows.reshape(-1, *few.x.shape[1:])}, rows.shape[1], values)
            say(f"{out}: from the top {', '.join(map(str, counts))} of {levels} {what}, and the image")
            return
        keep = levels if self.keep_top is None else self.keep_top
        if not 0 <= keep <= levels:
            raise ValueError(f"--keep-top is {keep}, but the model has {levels} {what}: 0 to {levels}.")
        temperature = 1.0 if self.temperature is None else self.temperature
        choices = {"temperature": temperature, "posterior_temperature": self.posterior_temperature}
        reconstruct = jit_once(
            lambda v, x, key: model.apply(
                v, x, key, y=few.y, keep_top=keep, **choices, draws=self.draws, method="reconstruct"
            )
        )
        with memory_for("reconstructing", "Lower --n."):
            found = jax.tree.map(np.asarray, reconstruct(run.variables, few.x, key))
        title = f"top {keep} of {levels} {what}"
        if self.draws is None:
            out = self.out or outputs(self.run, f"reconstructions_top{keep}.png")
            panels = {"real": few.x, title: found}
        else:
            out = self.out or outputs(self.run, f"reconstructions_top{keep}_of_{self.draws}_draws.png")
            deviation = values[0] + 2.0 * found.deviation
            panels = {"real": few.x, f"{title}, mean of {self.draws} draws": found.mean, "deviation": deviation}
        charts.save_grids(out, panels, columns(len(few)), values)
        say(out)
