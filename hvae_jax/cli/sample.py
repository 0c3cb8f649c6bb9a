"""`hvae sample`: new images from the prior."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hvae_jax.cli.arguments import Import, Run, check_out, columns
from hvae_jax.descent import temperature_by_side
from hvae_jax.experiment.records import Experiment
from hvae_jax.experiment.reopen import an_example, open_variables
from hvae_jax.models import recalibrate
from hvae_jax.report import charts
from hvae_jax.report.sketch import image_range
from hvae_jax.runtime.compilation import jit_once
from hvae_jax.runtime.files import replacing
from hvae_jax.runtime.memory import memory_for
from hvae_jax.runtime.texts import say
from hvae_jax.trace import Model, level_sides


@dataclasses.dataclass(frozen=True)
class Sample:
    """Draws new images from the prior.

    Attributes:
      run: the run folder.
      n: number of images.
      temperature: temperature of the priors, 1 as trained, 0 their modes; one for all levels, or one for each, top
        first.
      temperature_by_side: instead, one for each resolution, by the side of its maps: 1 1.0 4 0.9 8 0.8.
      label: label of all images, for a model with classes; by default labels take turns.
      recalibrate: steps over which the statistics of batch norm are first moved to those of samples at this temperature
        (`models.recalibrate`), 500 in NVAE's code; the run keeps its own. None leaves them.
      seed: seed of the draws.
      out: file of the picture, or an .npz for the arrays; samples_tTEMPERATURE.png in the run folder by default, with
        labelN_ before the t if --label is given.
      import_: modules beside hvae_jax that settings.json may name.
    """

    run: Run
    n: int = 64
    temperature: tuple[float, ...] = (1.0,)
    temperature_by_side: dict[int, float] = dataclasses.field(default_factory=dict)
    label: int | None = None
    recalibrate: int | None = None
    seed: int = 0
    out: Path | None = None
    import_: Import = ()

    def __call__(self) -> None:
        """Runs the command."""
        check_out(self.out)
        if self.n < 1 or not self.temperature:
            raise ValueError(f"--n is {self.n} and --temperature {self.temperature}: at least one of each is needed.")
        experiment, variables, _ = open_variables(self.run, self.import_)
        model = experiment.model
        values = _range(experiment)
        temperature, name = _temperature(self, experiment, variables)
        y = _labels(model, self.label, self.n)
        if self.recalibrate is not None:
            variables = recalibrate(
                model,
                variables,
                jax.random.key(self.seed + 1),
                steps=self.recalibrate,
                batch=_BATCH,
                temperature=temperature,
                y=_labels(model, self.label, _BATCH),
            )
        draw = jit_once(lambda v, key: model.apply(v, key, self.n, y=y, temperature=temperature, method="generate"))
        with memory_for("sampling", "Lower --n."):
            x = np.asarray(draw(variables, jax.random.key(self.seed)))
        label = "" if self.label is None else f"label{self.label}_"
        out = self.out or self.run / f"samples_{label}t{name}.png"
        if out.suffix == ".npz":
            arrays: dict[str, Any] = {"x": x} if y is None else {"x": x, "y": y}
            with replacing(out) as partial, partial.open("wb") as file:
                np.savez_compressed(file, **arrays)
        else:
            charts.save_grids(out, {f"temperature {name}": x}, columns(self.n), values)
        say(out)


_BATCH = 16  # samples in each step of the recalibration, as in NVAE's code


def _range(experiment: Experiment) -> tuple[float, float]:
    """Values that are drawn black and white: the likelihood's value range if it has one, else the data's."""
    likelihood = experiment.model.likelihood
    known = None if likelihood is None else likelihood.value_range
    return known or image_range(experiment.data.load())


def _temperature(command: Sample, experiment: Experiment, variables: Any) -> tuple[np.ndarray, str]:
    """Temperatures `[]` or `[L]`, and a name for them."""
    if command.temperature_by_side:
        if command.temperature != (1.0,):
            raise ValueError("--temperature and --temperature-by-side say the same thing: give one of them.")
        model = experiment.model
        sides = level_sides(model, an_example(experiment).for_classes(model.classes))
        by_side = {f"{side}x{side}": t for side, t in command.temperature_by_side.items()}
        name = "_".join(f"{side}_{t:g}" for side, t in by_side.items())
        return temperature_by_side(sides, command.temperature_by_side), name
    several = len(command.temperature) > 1
    name = "_".join(f"{t:g}" for t in command.temperature)
    return np.asarray(command.temperature if several else command.temperature[0]), name


def _labels(model: Model, label: int | None, n: int) -> np.ndarray | None:
    """Labels of n images: `label` for all, or all labels in turn; None for a model without classes."""
    classes = model.classes
    if label is not None and not 0 <= label < classes:
        allowed = f"0 to {classes - 1}" if classes else "none: it was trained without labels"
        raise ValueError(f"--label is {label}, but the model allows {allowed}.")
    if not classes:
        return None
    return np.full(n, label, np.int32) if label is not None else np.arange(n, dtype=np.int32) % classes
