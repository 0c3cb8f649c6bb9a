"""Objectives around another one, to whose loss they add a term or whose passes they change."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import Array

from hvae_jax.objectives.protocol import Batch, Forward, Objective
from hvae_jax.trace import Model


class Around(Objective):
    """An objective around `base`, a field of its record: whatever it does not say itself is as the base says."""

    if TYPE_CHECKING:  # the field itself has a place and a default of its own in each record

        @property
        def base(self) -> Objective:
            """The other objective."""
            ...

    def init(self, variables: Any) -> Any:
        """The base's state."""
        return self.base.init(variables)

    def parameters(self, forward: Forward, variables: Any, batch: Batch, key: Array) -> dict[str, Any]:
        """The base's own parameters."""
        return self.base.parameters(forward, variables, batch, key)

    def trains(self, path: str) -> bool:
        """As the base says."""
        return self.base.trains(path)

    def conclude(self, rows: Sequence[dict[str, float | int]]) -> tuple[str, ...]:
        """The base's comments."""
        return self.base.conclude(rows)

    def check(self, model: Model, x: np.ndarray) -> None:
        """As the base says."""
        self.base.check(model, x)
