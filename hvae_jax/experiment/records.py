"""The experiment: one frozen record of real objects that determines a run's numbers."""

import dataclasses
from typing import Annotated

import tyro

from hvae_jax.data.spec import Data
from hvae_jax.experiment.names import check_run_name
from hvae_jax.likelihoods import Missing
from hvae_jax.models.base import HVAE
from hvae_jax.objectives import NegativeELBO, Objective
from hvae_jax.records import checked
from hvae_jax.training.feeds import Feeding
from hvae_jax.training.optimisers import Adamax, Optimiser
from hvae_jax.training.settings import Training


@dataclasses.dataclass(frozen=True)
@checked
class Devices:
    """The devices of a run.

    Attributes:
      count: number of devices, over all processes; None takes all.
      fsdp: whether parameters, averages and the optimiser's state are split over the devices, for a model that does
        not fit on one.

    Example:
        >>> from hvae_jax.experiment import Devices
        >>> Devices(count=1).fsdp
        False
    """

    count: int | None = None
    fsdp: bool = False


@dataclasses.dataclass(frozen=True)
@checked
class Evaluation:
    """Settings of the measurement of the trained model.

    Attributes:
      draws: K of the importance-weighted bound on the test split, or on validation if there is no test split.
      other_draws: K on the other splits.
      chunk: largest number of draws held in memory at once; fewer where memory is short. Changes no number.
      size: largest number of examples held in memory at once; fewer, with a warning, where memory is short. Another
        size draws other noise.
      train_examples: number of examples of the train split that are measured, its first ones; None takes all.

    Raises ValueError for a number below 1.

    Example:
        >>> from hvae_jax.experiment import Evaluation
        >>> Evaluation(draws=1000).other_draws
        50
    """

    draws: int = 500
    other_draws: int = 50
    chunk: int = 10
    size: int = 450
    train_examples: int | None = 10_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise ValueError(f"evaluation.{field.name} is {value}, but it has to be 1 or more.")


@dataclasses.dataclass(frozen=True)
@checked
class Experiment:
    """Everything that determines a run's numbers.

    Attributes:
      name: name of the run, whose folder is runs/NAME unless another is given; one component of a path.
      model: the model; its fields are its settings. Where data has missing values, its likelihood becomes
        `likelihoods.Missing` around the one that is given.
      data: the data set, and how its values are prepared.
      objective: what is minimised.
      optimiser: the optimiser and its learning rate.
      training: how long to train, and what happens how often.
      evaluation: how the trained model is measured.
      feed: how the data gets to the devices.
      devices: devices of the run.
      seed: seed of everything random.

    Raises ValueError for a name that is no single component of a path, and as its records do.

    Example:
        >>> from hvae_jax.experiment import Experiment
        >>> mine = Experiment("mine", hv.models.TopDownVAE((2, 4), hidden=32), objective=hv.Regularised(beta=0.5))
        >>> mine.data.name, mine.optimiser.learning_rate
        ('digits', 0.001)
    """

    name: str
    model: HVAE
    data: Data = Data()
    objective: Objective = NegativeELBO()
    optimiser: Optimiser = Adamax()
    training: Annotated[Training, tyro.conf.arg(name="")] = Training()
    evaluation: Evaluation = Evaluation()
    feed: Feeding = Feeding()
    devices: Devices = Devices()
    seed: int = 0

    def __post_init__(self) -> None:
        check_run_name(self.name)
        # here, so that settings, training and every command on the run see one model
        object.__setattr__(self, "model", _for_missing(self.model, self.data))


def _for_missing(model: HVAE, data: Data) -> HVAE:
    """The model with a likelihood of what is seen, if the data has missing values and the likelihood is a setting."""
    family = model.likelihood
    if not data.has_missing or family is None or model.observed:
        return model
    if all(field.name != "likelihood" for field in dataclasses.fields(model)):
        return model
    if isinstance(family, Missing):
        same = data.missing_fill in (None, family.fill)
        return model if same else model.clone(likelihood=Missing(family.of, data.missing_fill))
    return model.clone(likelihood=Missing(family, data.missing_fill))
