"""Optimisers as settings: frozen records that build the Optax transformation of the same name."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
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
      weight_decay: factor of the parameters that are added to the gradient before the moments (an L2 term), as in
        PyTorch; unlike AdamW's it is scaled by the infinity norm.
      schedule: factor of the learning rate at each update; skipped steps do not count.

    Example:
        >>> from hvae_jax import training
        >>> optimiser = training.Adamax(learning_rate=0.1).build()
        >>> updates, _ = optimiser.update(jnp.array([5.0]), optimiser.init(jnp.zeros(1)), jnp.zeros(1))
        >>> print(updates.round(3))  # the first step has the length of the learning rate
        [-0.1]
    """

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Schedule = Constant()

    def __post_init__(self) -> None:
        _check(self)

    def build(self) -> optax.GradientTransformation:
        """Builds the transformation. Raises ValueError for a schedule with more than one value."""
        adamax = optax.adamax(_scheduled(self.learning_rate, self.schedule), self.b1, self.b2, self.eps)
        # without a decay the state stays that of Adamax alone
        return optax.chain(optax.add_decayed_weights(self.weight_decay), adamax) if self.weight_decay else adamax


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

    Example:
        >>> from hvae_jax import training
        >>> optimiser = training.AdamW(learning_rate=0.1).build()
        >>> updates, _ = optimiser.update(jnp.array([5.0]), optimiser.init(jnp.zeros(1)), jnp.zeros(1))
        >>> print(updates.round(3))
        [-0.1]
    """

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Schedule = Constant()

    def __post_init__(self) -> None:
        _check(self)

    def build(self) -> optax.GradientTransformation:
        """Builds the transformation. Raises ValueError for a schedule with more than one value."""
        rate = _scheduled(self.learning_rate, self.schedule)
        return optax.adamw(rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay)


def _check(optimiser: Adamax | AdamW) -> None:
    """Raises ValueError for a number with which no step is finite, in float32, or that is no decay."""
    limits: dict[str, tuple[Callable[[np.float32], Any], str]] = {
        "learning_rate": (lambda v: v >= 0 and np.isfinite(v), "a finite number of 0 or more"),
        "weight_decay": (lambda v: v >= 0 and np.isfinite(v), "a finite number of 0 or more"),
        "b1": (lambda v: 0 <= v < 1, "a decay from 0 up to, but not including, 1, such as 0.9"),
        "b2": (lambda v: 0 <= v < 1, "a decay from 0 up to, but not including, 1, such as 0.999"),
        "eps": (lambda v: v > 0 and np.isfinite(v), "a finite number above 0, such as 1e-8"),
    }
    for name, given in vars(optimiser).items():
        if name not in limits:
            continue
        fits, wanted = limits[name]
        with np.errstate(over="ignore", under="ignore"):
            rounded = np.float32(given)
        if not fits(rounded):
            raise ValueError(f"{type(optimiser).__name__}({name}={given!r}): in float32 it has to be {wanted}.")


def _scheduled(learning_rate: float, schedule: Schedule) -> optax.ScalarOrSchedule:
    """The learning rate as a function of the update, or the number itself if the schedule is constant."""
    # A constant rate keeps no count of updates in the optimiser's state.
    if schedule == Constant():
        return learning_rate
    shape = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32)).shape
    if shape:
        raise ValueError(f"The learning rate's schedule gives {shape[0]} numbers, but there is one learning rate.")
    return lambda count: learning_rate * schedule(jnp.asarray(count))
