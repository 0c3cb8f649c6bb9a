"""What decides a run's numbers: one frozen record of real objects."""

import dataclasses
from typing import Annotated

import tyro

from hvae_jax.data.spec import Data
from hvae_jax.models.base import HVAE
from hvae_jax.objectives import NegativeELBO, Objective
from hvae_jax.training.feeds import Feeding
from hvae_jax.training.optimisers import Adamax, Optimiser
from hvae_jax.training.settings import Training


@dataclasses.dataclass(frozen=True)
class Devices:
    """What the run is spread over.

    Attributes:
      count: of devices, over all processes; None takes all there are.
      fsdp: split parameters, averages and the optimiser's state over the devices, for a model that does not fit on one.
    """

    count: int | None = None
    fsdp: bool = False


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How the finished model is measured.

    Attributes:
      draws: K of the importance-weighted bound on the test split (validation, where there is none).
      other_draws: K on the other splits.
      chunk: draws held in memory at once.
      size: examples held in memory at once.
      train_examples: how many of the train split are measured, its first ones; None takes all.
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
class Experiment:
    """Everything that decides a run's numbers.

    Attributes:
      name: of the run folder, runs/NAME, unless a folder is given.
      model: a model; its fields are its settings.
      data: which data set.
      objective: what is minimised.
      optimiser: how.
      training: how long, in what portions.
      evaluation: how the finished model is measured.
      feed: how the data comes to the devices.
      devices: what the run is spread over.
      seed: of everything random.
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
