"""Short flags of an experiment: a deep model's size, beta, free bits and the likelihood by its name.

They are read before all other flags, whose defaults they change, as `--preset` is.
"""

import argparse
import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hvae_jax import likelihoods
from hvae_jax.experiment import Experiment
from hvae_jax.likelihoods import Bernoulli, Likelihood, LogisticMixture, Missing, PixelCNN
from hvae_jax.models import NVAE, VDVAE, EfficientVDVAE, resized
from hvae_jax.models.sized import described
from hvae_jax.objectives import NegativeELBO, Objective, Regularised
from hvae_jax.objectives.around import Around
from hvae_jax.recipes import unknown

NAMES = ("beta", "free-bits", "likelihood", "side", "width", "depth")
"""The short flags."""

_LEFT_OUT = ("base", "missing", "quantised")
"""The base class, and families around another one; an experiment puts `Missing` around a likelihood by itself."""

HELP = """Short flags:

  --beta B             weight of the KL: the objective becomes Regularised(beta=B), or its part that has a beta
  --free-bits NATS     nats of each level that are not minimised, likewise
  --likelihood NAME    bernoulli, categorical, discretised_logistic, logistic_mixture, ...; categorical:17: of 17 values
"""
SIZES = """  --side S             deep models: images of S x S pixels, halved down to 4 (VDVAEs: and then 1)
  --width W            deep models: channels of the feature maps; of NVAE's next to the image
  --depth D            deep models: levels in all, twice as many at each resolution as at the one above
"""


@dataclasses.dataclass(frozen=True)
class Short:
    """What the short flags ask for; None for what was not given.

    Attributes:
      side, width, depth: size of a deep model.
      beta: weight of the rate.
      free_bits: nats of a level that are not minimised.
      likelihood: name of a family, with ":VALUES" behind it for a number of values.
    """

    side: int | None = None
    width: int | None = None
    depth: int | None = None
    beta: float | None = None
    free_bits: float | None = None
    likelihood: str | None = None

    @property
    def size(self) -> dict[str, int]:
        """The sizes that were given."""
        return {name: value for name in ("side", "width", "depth") if (value := getattr(self, name)) is not None}

    def applied(self, experiment: Experiment) -> Experiment:
        """The experiment with these changes. Raises ValueError where model or objective have no such thing."""
        model, objective = experiment.model, experiment.objective
        name = experiment.name
        if self.size:
            model = resized(model, **self.size)
            name += "".join(f"_{key[0]}{value}" for key, value in self.size.items())
        if self.likelihood is not None:
            model = model.clone(likelihood=family(self.likelihood, model.likelihood, model.image))
        if self.beta is not None:
            objective = regularised(objective, "--beta", beta=self.beta)
        if self.free_bits is not None:
            objective = regularised(objective, "--free-bits", nats=self.free_bits)
        return dataclasses.replace(experiment, name=name, model=model, objective=objective)

    def of_folder(self, experiment: Experiment) -> Experiment:
        """The experiment with a folder's pictures resized to the side that was given, unless they are already."""
        data = experiment.data
        if self.side is None or data.size is not None or not Path(data.name).expanduser().is_dir():
            return experiment
        return dataclasses.replace(experiment, data=dataclasses.replace(data, size=self.side))

    def said(self, experiment: Experiment) -> str | None:
        """A line on the stages that the sizes made; None if no size was given."""
        model = experiment.model
        sized = self.size and isinstance(model, VDVAE | EfficientVDVAE | NVAE)
        return f"levels: {described(model)}" if sized else None


def help_of(experiment: Experiment) -> str:
    """The text on the short flags that this experiment takes."""
    try:
        resized(experiment.model)
    except ValueError:
        return HELP
    return HELP + SIZES


def taken(arguments: Sequence[str] | None, prog: str | None = None) -> tuple[Short, list[str]]:
    """The short flags of a command line, and the other arguments; ends the process, code 2, for what is no number."""
    parser = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    for name, kind in (("side", int), ("width", int), ("depth", int), ("beta", float), ("free-bits", float)):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--likelihood")
    found, left = parser.parse_known_args(arguments)
    return Short(**vars(found)), left


def regularised(objective: Objective, flag: str, *, beta: float | None = None, nats: float | None = None) -> Objective:
    """An objective with another beta or other free bits, in the part of it that has them.

    Raises ValueError, naming the flag, for an objective without them.
    """
    if isinstance(objective, NegativeELBO):
        objective = Regularised()
    if isinstance(objective, Around):
        around: Any = objective  # a frozen record, as every objective around another one is
        return dataclasses.replace(around, base=regularised(objective.base, flag, beta=beta, nats=nats))
    if not isinstance(objective, Regularised):
        raise ValueError(
            f"{flag}: the objective is {type(objective).__name__}, and only NegativeELBO, Regularised and what is "
            "around them have one. Leave the flag out, or take another preset."
        )
    if nats is not None:
        return dataclasses.replace(objective, free_bits=dataclasses.replace(objective.free_bits, nats=nats))
    return objective if beta is None else dataclasses.replace(objective, beta=beta)


def family(text: str, old: Likelihood | None, image: tuple[int, ...] | None) -> Likelihood:
    """The likelihood of a name, with the number of values that the old one has, or that is behind a colon.

    Args:
      text: such as "logistic_mixture" or "categorical:17".
      old: the likelihood that it replaces, if there is one; a PixelCNN is around it, and has its number of values.
      image: shape of x, whose channels a mixture has; None if the model does not say.
    Raises ValueError, naming the nearest, for an unknown name, and for a number of values where there is none.
    """
    name, _, values = text.partition(":")
    known = _families()
    if name not in known:
        raise ValueError(f"--likelihood: {unknown('likelihood', name, known)}")
    kind = known[name]
    old = old.of if isinstance(old, Missing) else old
    if issubclass(kind, PixelCNN):
        return old if isinstance(old, PixelCNN) else PixelCNN(old or Bernoulli())
    field = next((name for name in ("num_values", "values") if name in inspect.signature(kind).parameters), None)
    inner = old.base if isinstance(old, PixelCNN) else old
    number = next((getattr(inner, f) for f in ("num_values", "values") if hasattr(inner, f)), None)
    if values:
        if field is None or not values.isdecimal():
            raise ValueError(f"--likelihood {text}: a number of values is behind the colon, where a family has one.")
        number = int(values)
    made: dict[str, Any] = {} if field is None or number is None else {field: number}
    if issubclass(kind, LogisticMixture) and image is not None:
        made["channels"] = image[-1]
    return kind(**made)


def _families() -> dict[str, type[Likelihood]]:
    """Families by the flag's name, that of their file: LogisticMixture is logistic_mixture, PixelCNN pixelcnn."""
    kinds = [kind for kind in vars(likelihoods).values() if isinstance(kind, type) and issubclass(kind, Likelihood)]
    named = {kind.__module__.rpartition(".")[2]: kind for kind in kinds}
    return {name: kind for name, kind in named.items() if name not in _LEFT_OUT}
