"""The task of a training run, and the provenance of its state."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from hvae_jax.objectives import Objective
from hvae_jax.trace import Model
from hvae_jax.training.feeds import Examples
from hvae_jax.training.settings import Training


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A model, its objective and optimiser, and the data it is trained on.

    Attributes:
      model: the model.
      objective: what is minimised.
      optimiser: an Optax transformation.
      train: train split.
      validation: validation split.
      augment: `(x, key) -> x`, applied to every training batch; None leaves batches as they are.
    """

    model: Model
    objective: Objective
    optimiser: optax.GradientTransformation
    train: Examples
    validation: Examples
    augment: Callable[[Array, Array], Array] | None = None

    def first_examples(self, settings: Training, key: Array) -> tuple[np.ndarray, np.ndarray | None]:
        """x and y that the model is initialised on: the first examples of the train split, augmented as in training."""
        few = self.train.take(slice(settings.init_examples or settings.batch_size))
        if self.augment is None:
            return few.x, few.y
        # Back to the host, where every process of a run holds the same array; a device array would be local to one.
        return np.asarray(self.augment(jnp.asarray(few.x), key)), few.y


@dataclasses.dataclass(frozen=True)
class Provenance:
    """The origin of a run's state and scores, saved with every checkpoint.

    Attributes:
      data_hash: hash of the data; None is not compared with a checkpoint's.
      identity: hash of model, objective and data. Scores of different identities do not compare, so the best
        variables of a checkpoint with another identity are dropped.
      any_data: whether a checkpoint that was made on other data is accepted.
    """

    data_hash: str | None = None
    identity: str | None = None
    any_data: bool = False
