"""Optimisers as settings: frozen records that build the Optax transformation of the same name."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from hvae_jax.objectives import Constant, Schedule
from hvae_jax.records import checked


@runtime_checkable
class Optimiser(Protocol):
    """A frozen record that builds an Optax transformation."""

    def build(self) -> optax.GradientTransformation:
        """Builds the transformation."""
        ...


@dataclasses.dataclass(frozen=True)
@checked
class Adamax:
    """`optax.adamax`; the article's optimiser, with PyTorch's constants.

    Attributes:
      learning_rate: step size.
      b1, b2: decay of the first moment and of the infinity norm.
      eps: added to the gradient's magnitude.
      schedule: factor of the learning rate at each update; skipped steps do not count.
    """

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    schedule: Schedule = Constant()

    def build(self) -> optax.GradientTransformation:
        """Builds the transformation. Raises ValueError for a schedule with more than one value."""
        return optax.adamax(_scheduled(self.learning_rate, self.schedule), self.b1, self.b2, self.eps)


@dataclasses.dataclass(frozen=True)
@checked
class AdamW:
    """`optax.adamw`; plain Adam at weight_decay 0.

    Attributes:
      learning_rate: step size.
      b1, b2: decay of the moments.
      eps: added to the root of the second moment.
      weight_decay: decoupled weight decay, multiplied by the learning rate.
      schedule: factor of the learning rate at each update; skipped steps do not count.
    """

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Schedule = Constant()

    def build(self) -> optax.GradientTransformation:
        """Builds the transformation. Raises ValueError for a schedule with more than one value."""
        rate = _scheduled(self.learning_rate, self.schedule)
        return optax.adamw(rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay)


def _scheduled(learning_rate: float, schedule: Schedule) -> optax.ScalarOrSchedule:
    """The learning rate as a function of the update, or the number itself if the schedule is constant."""
    # A constant rate keeps no count of updates in the optimiser's state.
    if schedule == Constant():
        return learning_rate
    shape = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32)).shape
    if shape:
        raise ValueError(f"The learning rate's schedule gives {shape[0]} numbers, but there is one learning rate.")
    return lambda count: learning_rate * schedule(jnp.asarray(count))
