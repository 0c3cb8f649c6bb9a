"""`hvae sample`: new images from the prior."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hvae_jax.cli.arguments import Import, Run, columns
from hvae_jax.descent import temperature_by_side
from hvae_jax.experiment.records import Experiment
from hvae_jax.experiment.reopen import an_example, open_variables
from hvae_jax.report import charts
from hvae_jax.report.sketch import image_range
from hvae_jax.runtime.compilation import jit_once
from hvae_jax.trace import level_sides


@dataclasses.dataclass(frozen=True)
class Sample:
    """New images from the prior.

    Attributes:
      run: the run folder.
      n: how many.
      temperature: of every latent's prior: 1 as trained, 0 the mode; or one number a level, top first.
      temperature_by_side: or one for each resolution, by the side of its maps: 1 1.0 4 0.9 8 0.8.
      label: of all samples, for a model with classes; otherwise labels in turn.
      seed: of the draws.
      out: the picture; samples_tTEMPERATURE.png in the run folder if it is not given (samples_labelN_t... of one
        label). An .npz keeps the arrays.
      import_: modules that settings.json may name beside hvae_jax.
    """

    run: Run
    n: int = 64
    temperature: tuple[float, ...] = (1.0,)
    temperature_by_side: dict[int, float] = dataclasses.field(default_factory=dict)
    label: int | None = None
    seed: int = 0
    out: Path | None = None
    import_: Import = ()

    def __call__(self) -> None:
        """Carries it out."""
        if self.n < 1 or not self.temperature:
            raise ValueError(f"--n is {self.n} and --temperature {self.temperature}: at least one of each is needed.")
        experiment, variables, _ = open_variables(self.run, self.import_)
        model: Any = experiment.model
        values = _range(experiment)
        temperature, name = _temperature(self, experiment, variables)
        y = _labels(model, self.label, self.n)
        draw = jit_once(lambda v, key: model.apply(v, key, self.n, y=y, temperature=temperature, method="generate"))
        x = np.asarray(draw(variables, jax.random.key(self.seed)))
        label = "" if self.label is None else f"label{self.label}_"
        out = self.out or self.run / f"samples_{label}t{name}.png"
        if out.suffix == ".npz":
            arrays: dict[str, Any] = {"x": x} if y is None else {"x": x, "y": y}
            np.savez_compressed(out, **arrays)
        else:
            charts.save_grids(out, {f"temperature {name}": x}, columns(self.n), values)
        print(out)


def _range(experiment: Experiment) -> tuple[float, float]:
    """What is drawn black and what white: of the likelihood's values where they have bounds, else of the data."""
    likelihood = experiment.model.likelihood
    known = None if likelihood is None else likelihood.value_range
    return known or image_range(experiment.data.load())


def _temperature(command: Sample, experiment: Experiment, variables: Any) -> tuple[np.ndarray, str]:
    """One for all levels or one for each, and how that is called."""
    if command.temperature_by_side:
        if command.temperature != (1.0,):
            raise ValueError("--temperature and --temperature-by-side say the same thing: give one of them.")
        model: Any = experiment.model
        sides = level_sides(model, an_example(experiment).for_classes(model.classes))
        by_side = {f"{side}x{side}": t for side, t in command.temperature_by_side.items()}
        name = "_".join(f"{side}_{t:g}" for side, t in by_side.items())
        return temperature_by_side(sides, command.temperature_by_side), name
    several = len(command.temperature) > 1
    name = "_".join(f"{t:g}" for t in command.temperature)
    return np.asarray(command.temperature if several else command.temperature[0]), name


def _labels(model: Any, label: int | None, n: int) -> np.ndarray | None:
    """Labels for n samples: none, one for all, or all in turn."""
    classes = model.classes
    if label is not None and not 0 <= label < classes:
        allowed = f"0 to {classes - 1}" if classes else "none: it was trained without labels"
        raise ValueError(f"--label is {label}, but the model allows {allowed}.")
    if not classes:
        return None
    return np.full(n, label, np.int32) if label is not None else np.arange(n, dtype=np.int32) % classes
