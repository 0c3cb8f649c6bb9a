"""`hvae sample`: new images from the prior, or given some of their levels."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hvae_jax.cli.arguments import Import, Run, check_out, columns
from hvae_jax.descent import temperature_by_side
from hvae_jax.diagnostics import of_class
from hvae_jax.experiment.given import given_levels
from hvae_jax.experiment.records import Experiment
from hvae_jax.experiment.reopen import an_example, open_variables, outputs
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
    """Draws new images from the prior, or given some of their levels.

    Attributes:
      run: the run folder, or the name of a model in the box.
      n: number of images.
      given: levels that are not drawn, as LEVEL=FILE.npz or, for levels that are pictures, LEVEL=FOLDER: y=small.npz
        has the small pictures that a self-supervised VAE makes large ones of. The first --n are taken; the levels above
        an observed one are inferred from it.
      temperature: temperature of the priors, 1 as trained, 0 their modes; one for all levels, or one for each, top
        first.
      temperature_by_side: instead, one for each resolution, by the side of its maps: 1 1.0 4 0.9 8 0.8.
      label: label of all images, for a model with classes; by default labels take turns. For a model that has a class
        among its latents, the value of that class; by default it is drawn like all latents.
      recalibrate: steps over which the statistics of batch norm are first moved to those of samples at this temperature
        (`models.recalibrate`), 500 in NVAE's code; the run keeps its own. None leaves them.
      seed: seed of the draws.
      out: file of the picture, or an .npz for the arrays; samples_tTEMPERATURE.png in the run folder by default, with
        labelN_ before the t if --label is given, given_LEVEL_ if --given is.
      import_: modules beside hvae_jax that settings.json may name.
    """

    run: Run
    n: int = 64
    given: tuple[str, ...] = ()
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
        if model.clusters and self.given and self.label is not None:
            raise ValueError("--label chooses the latents above the class, so --given cannot: take one of the two.")
        values = _range(experiment)
        temperature, name = _temperature(self, experiment, variables)
        given = given_levels(model, variables, self.given, self.n) if self.given else {}
        n = next((len(z) for z in given.values() if z is not None), self.n)
        y = _labels(model, self.label, n)
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
        choices = {"y": y, "temperature": temperature}
        # the given latents are data of the program: constants would be compiled into it
        draw = jit_once(lambda v, key, z: model.apply(v, key, n, latents=z, **choices, method="generate"))
        key, latents = jax.random.key(self.seed), tuple(given.values())
        of_one_class = bool(model.clusters) and self.label is not None
        with memory_for("sampling", "Lower --n."):
            if of_one_class:
                key, class_key = jax.random.split(key)
                latents = of_class(model, variables, class_key, np.full(self.n, self.label), temperature)
            x = np.asarray(draw(variables, key, latents))
        label = "" if self.label is None else f"label{self.label}_"
        label += "".join(f"given_{entry.partition('=')[0]}_" for entry in self.given)
        out = self.out or outputs(self.run, f"samples_{label}t{name}.png")
        if out.suffix == ".npz":
            known = np.full(self.n, self.label, np.int32) if of_one_class else y
            arrays: dict[str, Any] = {"x": x} if known is None else {"x": x, "y": known}
            with replacing(out) as partial, partial.open("wb") as file:
                np.savez_compressed(file, **arrays)
        else:
            shown = _given_panels(model, given, values)
            what = f"{'x, ' if shown else ''}{'' if self.label is None else f'label {self.label}, '}temperature {name}"
            panels = {**shown, what: x}
            charts.save_grids(out, panels, columns(n), values)
        say(out)


_BATCH = 16  # samples in each step of the recalibration, as in NVAE's code


def _given_panels(
    model: Model, given: Mapping[str, np.ndarray | None], values: tuple[float, float]
) -> dict[str, np.ndarray]:
    """Pictures of the given observed levels by title, scaled from the range of their values to that of x."""
    panels: dict[str, np.ndarray] = {}
    for name, family in model.observed.items():
        z = given.get(name)
        if z is not None:
            low, high = family.value_range or values
            panels[f"{name}, given"] = values[0] + (z - low) / (high - low) * (values[1] - values[0])
    return panels


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
    """Labels of n images: `label` for all, or all labels in turn; None for a model that is not conditioned on them."""
    classes = model.classes or model.clusters
    if label is not None and not 0 <= label < classes:
        allowed = f"0 to {classes - 1}" if classes else "none: it was trained without labels"
        raise ValueError(f"--label is {label}, but the model allows {allowed}.")
    if not model.classes:
        return None
    return np.full(n, label, np.int32) if label is not None else np.arange(n, dtype=np.int32) % classes
