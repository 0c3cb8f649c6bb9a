"""Optimisers as settings: frozen records that build the Optax transformation of the same name."""

import dataclasses
from typing import Protocol, runtime_checkable

import optax


@runtime_checkable
class Optimiser(Protocol):
    """A frozen record that builds an Optax transformation."""

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        ...


@dataclasses.dataclass(frozen=True)
class Adamax:
    """`optax.adamax`; the article's optimiser, with PyTorch's constants.

    Attributes:
      learning_rate: step size.
      b1, b2: decay of the first moment and of the infinity norm.
      eps: added to the gradient's magnitude.
    """

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        return optax.adamax(self.learning_rate, self.b1, self.b2, self.eps)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """`optax.adamw`; plain Adam at weight_decay 0.

    Attributes:
      learning_rate: step size.
      b1, b2: decay of the moments.
      eps: added to the root of the second moment.
      weight_decay: decoupled, times the learning rate.
    """

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        return optax.adamw(self.learning_rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay)
