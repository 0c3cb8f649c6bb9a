"""Bounds by one program: of the upper levels alone, and of the training examples."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.data.dataset import Dataset, Split
from hvae_jax.diagnostics import auroc, bound_above
from hvae_jax.report.estimates import Number, difference, number
from hvae_jax.runtime.compilation import jit
from hvae_jax.trace import Model


class Bounds:
    """L^{>k} of any examples; k is data of one compiled program, not a setting of many.

    Attributes:
      draws: draws of the latents behind each bound.
    """

    def __init__(self, model: Model, variables: Any, key: Array, draws: int) -> None:
        self._variables, self._key, self._model, self.draws = variables, key, model, draws
        self._bound = jit(lambda v, x, y, k, key: bound_above(model, v, x, key, k, draws, y))

    def __call__(self, x: np.ndarray, y: Any, k: int, key: Array | None = None) -> np.ndarray:
        """L^{>k} of each example, `[B]`, nats.

        Args:
          key: None takes the same draws at every call, so that bounds can be compared.
        """
        drawn = self._key if key is None else key
        return np.asarray(self._bound(self._variables, x, y, jnp.int32(k), drawn))

    def above(
        self,
        x: np.ndarray,
        y: Any,
        depths: int,
        elbo: np.ndarray,
        lost: np.ndarray,
        other: Dataset | None,
    ) -> list[dict[str, Any]]:
        """L^{>k} for k = 0 to L - 1 (of stages, if a model has them), and how well LLR^{>k} detects the other data.

        Args:
          depths: largest number of k's; of more those are taken that are evenly spread.
          elbo, lost: the report's ELBO, L^{>0}, and its loss without the lowest level, L - L^{>1}, of each example.
        """
        sizes = self._model.levels_per_stage
        strange = None
        if other is not None and y is None:
            strange = np.asarray(other.splits[list(other.splits)[-1]].take(slice(len(x))).x)
        known = {0: elbo}
        if sizes[-1] == 1 and np.isfinite(lost).all():
            known[1] = elbo - lost
        found: list[dict[str, Any]] = []
        first: tuple[Any, ...] = ()
        for k in np.unique(np.linspace(0, len(sizes) - 1, depths).round().astype(int)).tolist():
            # Scores that are compared need the same draws at every k, and as many of them for both data sets.
            here = self(x, y, k) if strange is not None or k not in known else known[k]
            shown = known.get(k, here)
            entry: dict[str, Any] = {"k": k, "bound": number(shown), "ratio": number(elbo - shown)}
            if strange is not None and other is not None:
                there = self(strange, None, k)
                first = first or (here, there)
                scores = (first[0] - here, first[1] - there) if k else (-here, -there)
                area, error = auroc(*scores)
                entry["auroc"] = {"value": area, "error": error, "data": other.name}
            found.append(entry)
        return found

    def of_training(self, train: Split, labels: bool, elbo: Number, key: Array) -> dict[str, Any]:
        """The ELBO of training examples, and by how much it is above the ELBO of those that are measured: overfitting.

        Args:
          train: training examples; as many as are measured, so that no other program is compiled.
          labels: whether the model is conditioned on labels.
          elbo: the report's ELBO.
        """
        found = number(self(np.asarray(train.x), train.y if labels else None, 0, key))
        return {"examples": len(train), "draws": self.draws, "elbo": found, "gap": difference(found, elbo)}


def by_side(sides: Sequence[int], rates: np.ndarray) -> list[dict[str, Any]]:
    """The rate of each resolution, top first: `side`, the number of `levels` and their `rate` together.

    Args:
      sides: height of each level's feature map, top first.
      rates: `[L, B]`, nats.
    """
    found = []
    for side in dict.fromkeys(sides):
        chosen = [i for i, one in enumerate(sides) if one == side]
        found.append({"side": side, "levels": len(chosen), "rate": number(rates[chosen].sum(0))})
    return found


def sides_of(model: Model, variables: Any, x: np.ndarray, y: Any) -> list[int]:
    """Height of each level's feature map, top first, 1 for vectors; from shapes alone."""
    found: list[int] = []
    one, label = x[:1], None if y is None else y[:1]
    jax.eval_shape(
        lambda v: found.extend(int(side) for side in model.apply(v, one, jax.random.key(0), y=label).sides), variables
    )
    return found
