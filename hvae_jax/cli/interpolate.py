"""`hvae interpolate`: pictures between two pictures, along great circles in the noise of each level."""

import dataclasses
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

from hvae_jax.cli.arguments import Import, Run, check_out
from hvae_jax.diagnostics.codes import check_levels
from hvae_jax.experiment.own import given_examples, own_pictures
from hvae_jax.experiment.pretrained import Pretrained, load
from hvae_jax.experiment.reopen import outputs
from hvae_jax.report import charts
from hvae_jax.runtime.files import replacing
from hvae_jax.runtime.memory import memory_for
from hvae_jax.runtime.texts import say


@dataclasses.dataclass(frozen=True)
class Interpolate:
    """Draws a row of pictures from one to another.

    Both ends are inferred, and each level's standard normal noise under its prior moves along the great circle between
    them (White, 2016), on which it keeps its length; one descent decodes each step. The first and last picture of the
    row are the ends as they were given, those beside them their reconstructions.

    Attributes:
      run: the run folder, or the name of a model in the box.
      from_: a picture, fitted to the model, or the number of an example of --split.
      to: the other end, likewise.
      steps: number of pictures from end to end, both included.
      levels: names of the levels that move; the others keep the noise of the first end. All by default.
      posterior_temperature: temperature of the posteriors of both ends; 0 infers without noise, which reconstructs
        best, 1 draws from them.
      split: split of the run's data that numbers are of; the last one (test, if there is one) by default.
      label: label of all pictures, for a model with classes; that of the first end by default.
      invert: exchange black and white of pictures.
      seed: seed of the draws.
      out: file of the picture, or an .npz for the array `x` `[steps, ...]`; interpolation.png in the run folder by
        default.
      import_: modules beside hvae_jax that settings.json may name.
    """

    run: Run
    from_: Annotated[str, tyro.conf.arg(name="from")]
    to: str
    steps: int = 8
    levels: tuple[str, ...] = ()
    posterior_temperature: float = 0.0
    split: str | None = None
    label: int | None = None
    invert: bool = False
    seed: int = 0
    out: Path | None = None
    import_: Import = ()

    def __call__(self) -> None:
        """Runs the command."""
        check_out(self.out)
        if not 2 <= self.steps <= 1000:
            raise ValueError(f"--steps is {self.steps}, but it has to be 2 (the ends) to 1,000.")
        if not 0 <= self.posterior_temperature < np.inf:
            raise ValueError(f"--posterior-temperature is {self.posterior_temperature}, but it has to be 0 or more.")
        trained = load(self.run, self.import_)
        levels = check_levels(trained.levels, self.levels or None)
        ends = [self._end(trained, which) for which in (self.from_, self.to)]
        (x, label, values), (other, _, _) = ends
        y = self._labels(trained, label)
        with memory_for("interpolating", "Take a smaller model."):
            drawn = trained.interpolate(
                x,
                other,
                self.steps,
                levels=levels,
                y=y,
                posterior_temperature=self.posterior_temperature,
                key=jax.random.key(self.seed),
            )
        out = self.out or outputs(self.run, "interpolation.png")
        if out.suffix == ".npz":
            with replacing(out) as partial, partial.open("wb") as file:
                np.savez_compressed(file, x=drawn[0])
        else:
            fractions = [f"{t:.2f}".rstrip("0").rstrip(".") for t in np.linspace(0.0, 1.0, self.steps)]
            moved = "every level" if len(levels) == len(trained.levels) else ", ".join(levels)
            panels = {
                "from": (x[:, None], [""]),
                f"noise of {moved} on a great circle": (drawn, fractions),
                "to": (other[:, None], [""]),
            }
            charts.save_columns(out, panels, values, inch=0.7)
        say(f"{out}: {self.steps} steps on great circles in the noise of {', '.join(levels)}")

    def _end(self, trained: Pretrained, which: str) -> tuple[np.ndarray, int | None, tuple[float, float]]:
        """One end `[1, *event]`, its label if there is one, and the values that are drawn black and white."""
        if which.isdecimal():
            given = given_examples(
                trained.experiment, trained.event, splits=(self.split,) if self.split is not None else ()
            )
            number, split = int(which), given.only
            if number >= len(split):
                name = list(given.dataset.splits)[-1]
                raise ValueError(
                    f"There is no example {number}: the {name} split of {given.dataset.name} has {len(split):,}."
                )
            one = split.take(slice(number, number + 1))
            return one.x, None if one.y is None else int(one.y[0]), given.value_range
        given = own_pictures(trained.experiment, trained.event, [which], invert=self.invert)
        say(given.dataset.protocol)
        if len(given.only) != 1:
            raise ValueError(f"{which} holds {len(given.only):,} pictures, but an end is one.")
        return np.asarray(given.only.x), None, given.value_range

    def _labels(self, trained: Pretrained, label: int | None) -> np.ndarray | None:
        """Labels `[1]` for a model with classes. Raises ValueError for none, and for one that it does not have."""
        classes = trained.model.classes
        if not classes:
            if self.label is not None:
                raise ValueError(f"--label is {self.label}, but the model was trained without labels.")
            return None
        label = self.label if self.label is not None else label
        if label is None or not 0 <= label < classes:
            given = "is not given" if label is None else f"is {label}"
            raise ValueError(f"--label {given}, but the model is conditioned on a class, 0 to {classes - 1}.")
        return np.array([label], np.int32)
