"""What a class among the latents is worth: information on x in nats, classes in use, and agreement with labels."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.diagnostics.probe import Accuracy
from hvae_jax.diagnostics.usage import standard_error
from hvae_jax.distributions import OneHotCategorical
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.trace import Level, Model


@dataclasses.dataclass(frozen=True)
class ClassUse:
    """How a latent class is used, from q(y | x) of N examples.

    Attributes:
      information: I(x; y) = mean_x KL(q(y | x) || q(y)), nats, with q(y) the mean of q(y | x); at most log K.
      error: standard error of the information over the examples; nats.
      entropy: mean entropy of q(y | x), nats: how undecided the classes are.
      used: e^(entropy of q(y)), between 1 and K: the number of equally frequent classes of this entropy.
    """

    information: float
    error: float
    entropy: float
    used: float


def class_levels(model: Model, variables: Any, x: ArrayLike, y: ArrayLike | None = None) -> tuple[int, ...]:
    """Indices, top first, of the levels with one class an example, whose p is a `OneHotCategorical` `[B, K]`.

    From shapes alone: nothing is computed.

    Example:
        >>> model = hv.models.CaGeM(clusters=3, latents=(1, 1), hidden=2, likelihood=hv.Bernoulli())
        >>> x = jnp.ones((2, 4))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), x, jax.random.key(1))
        >>> hv.diagnostics.class_levels(model, variables, x)  # z2, y, z1
        (1,)
    """
    found: list[int] = []

    def look(variables: Any) -> None:
        levels: Sequence[Level] = model.apply(variables, x, jax.random.key(0), y=y).levels
        at = 0
        for level in levels:
            if isinstance(level.p, OneHotCategorical) and level.z.ndim == 2:
                found.append(at)
            at += level.z.shape[0] if level.stacked else 1

    jax.eval_shape(look, variables)
    return tuple(found)


def class_use(probabilities: ArrayLike) -> ClassUse:
    """How a class is used, from q(y | x), `[N, K]`, such as the posterior means of `Usage`.

    The probabilities are means over draws of what y is inferred from, so that the information is that of y itself.
    Raises ValueError without examples.

    Example:
        >>> use = hv.diagnostics.class_use(np.eye(2))  # two examples, each sure of its own class
        >>> round(use.information, 3), round(use.used, 3)  # log 2 nats, two classes
        (0.693, 2.0)
    """
    q = np.asarray(probabilities, np.float64)
    if q.ndim != 2 or not len(q):
        raise ValueError(f"class_use takes q(y | x) of 1 example or more, [N, K], but the shape is {q.shape}.")
    mean = q.mean(0)
    divergence = (_times_log(q, q) - _times_log(q, mean[None])).sum(1)  # KL(q(y | x) || q(y)), [N]
    return ClassUse(
        float(divergence.mean()),
        float(standard_error(divergence)),
        float(-_times_log(q, q).sum(1).mean()),
        float(np.exp(-_times_log(mean, mean).sum())),
    )


def class_accuracy(probabilities: ArrayLike, labels: ArrayLike) -> Accuracy:
    """Accuracy of the likeliest class, `[N, K]`, as the label itself, `[N]`.

    Raises ValueError if labels or examples are missing.

    Example:
        >>> hv.diagnostics.class_accuracy(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0])).value
        0.5
    """
    found, y = _checked(probabilities, labels)
    return _accuracy(found == y, y)


def clustering_accuracy(probabilities: ArrayLike, labels: ArrayLike) -> Accuracy:
    """Accuracy of the likeliest class, `[N, K]`, under the best one-to-one map from classes to labels, `[N]`.

    The map is the assignment, by the Hungarian algorithm, that agrees with most labels of these very examples; classes
    beyond the number of labels are mapped to none, and are wrong.
    Source: Yang et al. (2010), "Image Clustering Using Local Discriminant Models", equation 16; Kuhn (1955).
    Raises ValueError if labels or examples are missing.

    Example:
        >>> hv.diagnostics.clustering_accuracy(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([1, 0])).value
        1.0
    """
    from scipy.optimize import linear_sum_assignment

    found, y = _checked(probabilities, labels)
    counts = np.zeros((np.shape(probabilities)[1], int(y.max()) + 1), int)  # examples of each class with each label
    np.add.at(counts, (found, y), 1)
    matched = np.full(len(counts), -1)
    classes, labels_of = linear_sum_assignment(counts, maximize=True)
    matched[classes] = labels_of
    return _accuracy(matched[found] == y, y)


def of_class(
    model: Model,
    variables: Any,
    key: Array,
    y: ArrayLike,
    temperature: ArrayLike = 1.0,
    candidates: int = 4096,
    rounds: int = 16,
) -> tuple[Array, ...]:
    """Draw the latents down to the class for each class in y, `[n]`: `latents=` for samples of p(x | y).

    The class may depend on levels above it, so these and y are drawn from the model until each class has come up as
    often as it is asked for: at temperature 1 exact draws of p(z above | y).

    Args:
      model: a model with a class at the level "y".
      temperature: temperature of the priors, one number or one a level.
      candidates: number of draws in a round.
      rounds: largest number of rounds.
    Returns: the latents, top first, y one-hot `[n, K]` the last.
    Raises ValueError for a model without classes, a class outside 0..K-1, and one that hardly ever comes up.
    """
    wanted = np.asarray(y)
    if not model.clusters:
        raise ValueError(f"{type(model).__name__} has no class among its latents, so that none can be asked for.")
    if wanted.ndim != 1 or not len(wanted) or not np.isin(wanted, np.arange(model.clusters)).all():
        raise ValueError(f"of_class(y={y}): it takes an array of classes, each of them 0 to {model.clusters - 1}.")

    @jax.jit
    def draw(key: Array) -> tuple[Array, ...]:
        trace = model.apply(variables, key, candidates, temperature=temperature, method="decode")
        levels = trace.unstack()
        # nothing below y is returned, so nothing below is computed
        return tuple(level.z for level in levels[: [level.name for level in levels].index("y") + 1])

    found: tuple[np.ndarray, ...] = ()
    left = np.ones(len(wanted), bool)
    for i in range(rounds):
        drawn = jax.device_get(draw(jax.random.fold_in(key, i)))
        found = found or tuple(np.zeros((len(wanted), *z.shape[1:]), z.dtype) for z in drawn)
        classes = drawn[-1].argmax(-1)
        for one in np.unique(wanted[left]):
            fitting = np.flatnonzero(classes == one)
            rows = np.flatnonzero(left & (wanted == one))[: len(fitting)]
            for z, candidate in zip(found, drawn, strict=True):
                z[rows] = candidate[fitting[: len(rows)]]
            left[rows] = False
        if not left.any():
            return tuple(jnp.asarray(z) for z in found)
    raise ValueError(
        f"Class {wanted[left][0]} came up too rarely in {rounds * candidates:,} draws from the model to be sampled: "
        "the model hardly uses it. Ask for another class, or raise candidates."
    )


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest class and the label of each example."""
    q, y = np.asarray(probabilities), np.asarray(labels)
    if q.ndim != 2 or not len(q) or y.shape != (len(q),):
        raise ValueError(f"Classes are compared with labels of as many examples: {q.shape} and {y.shape} here.")
    if y.min() < 0:
        raise ValueError(f"A label is {y.min()}, so it is missing: leave examples without a label out.")
    return q.argmax(1), y


def _accuracy(right: np.ndarray, y: np.ndarray) -> Accuracy:
    _, counts = np.unique(y, return_counts=True)
    return Accuracy(float(right.mean()), float(right.std() / np.sqrt(len(y))), float(counts.max() / len(y)))


def _times_log(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """p log q, 0 where p is 0."""
    return np.where(p > 0, p * np.log(np.where(q > 0, q, 1.0)), 0.0)
