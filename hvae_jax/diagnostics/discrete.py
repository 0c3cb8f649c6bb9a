"""Discrete levels: how many values they have, and how many of them a model uses."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from hvae_jax.distributions import BernoulliLatent, OneHotCategorical
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.trace import Level, Model


@dataclasses.dataclass(frozen=True)
class Alphabet:
    """The values of a discrete level.

    Attributes:
      kind: "categorical" or "bernoulli".
      variables: number of independent variables.
      classes: number of classes of each; 2 for a bit.

    Example:
        >>> round(hv.diagnostics.Alphabet("categorical", variables=2, classes=10).capacity, 3)  # 2 log 10
        4.605
    """

    kind: str
    variables: int
    classes: int

    @property
    def capacity(self) -> float:
        """Largest information that the level can hold, variables * log classes; nats."""
        return self.variables * math.log(self.classes)


def alphabets(model: Model, variables: Any, x: ArrayLike, y: ArrayLike | None = None) -> tuple[Alphabet | None, ...]:
    """The alphabet of each level, top first, None for one that is not discrete; from shapes alone.

    Example:
        >>> model = hv.models.TopDownVAE((3,), levels=("bernoulli",), hidden=2, likelihood=hv.Bernoulli())
        >>> x = jnp.ones((2, 4))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), x, jax.random.key(1))
        >>> hv.diagnostics.alphabets(model, variables, x)
        (Alphabet(kind='bernoulli', variables=3, classes=2),)
    """
    found: list[Alphabet | None] = []

    def look(variables: Any, x: Any, y: Any) -> None:
        found.extend(_alphabet(level) for level in model.apply(variables, x, jax.random.key(0), y=y).unstack())

    jax.eval_shape(look, variables, x, y)
    return tuple(found)


def _alphabet(level: Level) -> Alphabet | None:
    if isinstance(level.p, OneHotCategorical):
        return Alphabet("categorical", math.prod(level.z.shape[1:-1]), level.z.shape[-1])
    if isinstance(level.p, BernoulliLatent):
        return Alphabet("bernoulli", math.prod(level.z.shape[1:]), 2)
    return None


def perplexities(alphabet: Alphabet, posterior_means: ArrayLike) -> np.ndarray:
    """Number of classes that each variable uses, e to the entropy of its aggregated posterior, `[variables]`.

    1 for a variable that has the same value for all x, and its number of classes if all are equally frequent.

    Args:
      posterior_means: probabilities, `[N, variables * classes]`, or those of a 1, `[N, variables]`
        (`Usage.posterior_means`).

    Example:
        >>> alphabet = hv.diagnostics.Alphabet("categorical", variables=1, classes=3)
        >>> print(hv.diagnostics.perplexities(alphabet, np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])).round(3))
        [2.]
    """
    mean = np.asarray(posterior_means, np.float64).mean(0)
    if alphabet.kind == "bernoulli":
        p = np.stack([1.0 - mean, mean], -1)
    else:
        p = mean.reshape(alphabet.variables, alphabet.classes)
    p = np.clip(p, 0.0, None)
    # 0 log 0 is 0
    return np.exp(-(p * np.log(np.where(p > 0, p, 1.0))).sum(-1))
