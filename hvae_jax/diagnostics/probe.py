"""Accuracy of simple classifiers on latents: of their label, or of whether they come from posterior or prior."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.diagnostics.usage import standard_error
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.trace import Model


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """An accuracy with its standard error.

    Attributes:
      value: fraction of right answers, 0 to 1.
      error: standard error over the examples, sd/sqrt(n); of one answer an example, sqrt(p (1 - p)/n).
      chance: accuracy of always giving the most frequent answer.
    """

    value: float
    error: float
    chance: float


class Features(NamedTuple):
    """What a probe of each level may read, top first.

    Attributes:
      sampled: z ~ q(z | x), `[draws, N, units]` each: what the level transmits.
      means: mean of q, averaged over the draws of the levels above, `[N, units]` each. This is a function of x without
        noise, which may determine the label however few nats the level carries: a probe of it says nothing about z.
    """

    sampled: tuple[Array, ...]
    means: tuple[Array, ...]


def features(
    model: Model,
    variables: Any,
    x: ArrayLike,
    key: Array,
    draws: int = 4,
    y: ArrayLike | None = None,
    units: Sequence[ArrayLike] | None = None,
) -> Features:
    """Draw the latents of x several times, as features of a probe.

    Args:
      units: indices of the units to take from each flattened level, top first; None takes all.
    Raises ValueError for fewer than one draw.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> found = hv.diagnostics.features(model, variables, x, jax.random.key(2), draws=4)
        >>> [sample.shape for sample in found.sampled], [mean.shape for mean in found.means]
        ([(4, 3, 2), (4, 3, 1)], [(3, 2), (3, 1)])
    """
    if draws < 1:
        raise ValueError(f"features(draws={draws}): 1 or more are needed.")

    def flat(values: Array, level: int) -> Array:
        rows = values.reshape(values.shape[0], -1)
        rows = rows if units is None else rows[:, jnp.asarray(units[level])]
        return rows.astype(jnp.promote_types(rows.dtype, jnp.float32))  # a Known level has the dtype of x

    def one(index: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        levels = model.apply(variables, x, jax.random.fold_in(key, index), y=y).unstack()
        return (
            tuple(flat(level.z, i) for i, level in enumerate(levels)),
            tuple(flat(level.q.mean, i) for i, level in enumerate(levels)),
        )

    sampled, means = jax.lax.map(one, jnp.arange(draws))
    return Features(sampled, tuple(mean.mean(0) for mean in means))


def _accuracy(right: np.ndarray, chance: float) -> Accuracy:
    """Of the fraction of right answers of each example, `[n]`."""
    return Accuracy(float(right.mean()), float(right.std() / math.sqrt(len(right))), chance)


def linear_probe(train: ArrayLike, train_y: ArrayLike | None, test: ArrayLike, test_y: ArrayLike | None) -> Accuracy:
    """Test accuracy of a logistic regression from standardised features to labels.

    Args:
      train, test: `[N, *features]`.
      train_y, test_y: `[N]` labels.
    Source: Alain & Bengio (2016).
    Raises ValueError if labels or examples are missing, or all labels are equal.

    Example:
        >>> x, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
        >>> hv.diagnostics.linear_probe(x, y, x, y).value
        1.0
    """
    x, other = np.asarray(train), np.asarray(test)
    return accuracy_of(probe_right(x[None], train_y, other[None], test_y), test_y)


def probe_right(train: ArrayLike, train_y: ArrayLike | None, test: ArrayLike, test_y: ArrayLike | None) -> np.ndarray:
    """Fraction of the draws of each test example that `linear_probe`'s classifier labels rightly, `[N]`.

    One classifier is fitted to all draws of the train examples, and reads each draw of a test example by itself: an
    average of draws would have less noise than z.

    Args:
      train, test: `[draws, N, *features]`, such as one level of `Features.sampled`.
      train_y, test_y: `[N]` labels.
    Raises ValueError as `linear_probe` does.

    Example:
        >>> x, y = np.array([[[-2.0], [-1.0], [1.0], [2.0]]]), np.array([0, 0, 1, 1])  # one draw
        >>> hv.diagnostics.probe_right(x, y, x, y).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    if train_y is None or test_y is None:
        raise ValueError("A probe needs labels, and this data has none in one of its splits.")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, other, wanted = (np.asarray(a) for a in (train, train_y, test, test_y))
    if not len(y) or not len(wanted):
        raise ValueError(f"A probe needs examples to learn from and to be tested on: {len(y)} and {len(wanted)} here.")
    if len(np.unique(y)) < 2:
        raise ValueError(f"A probe needs two labels or more, but all {len(y)} training examples have {y[0]}.")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(x.reshape(x.shape[0] * len(y), -1), np.tile(y, x.shape[0]))
    said = np.asarray(probe.predict(other.reshape(other.shape[0] * len(wanted), -1)))
    return np.equal(said.reshape(-1, len(wanted)), wanted).mean(0)


def accuracy_of(right: np.ndarray, labels: ArrayLike | None) -> Accuracy:
    """The accuracy of `probe_right`'s answers; chance is the frequency of the most frequent label.

    Example:
        >>> found = hv.diagnostics.accuracy_of(np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 1, 1]))
        >>> found.value, found.chance
        (0.75, 0.5)
    """
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    return _accuracy(right, float(counts.max() / counts.sum()))


def fano(accuracy: float, labels: ArrayLike) -> float:
    """The least I(y; z), nats, with which labels are read off z at this accuracy: H(y) - H_b(e) - e log(C - 1).

    e = 1 - accuracy, C labels, H(y) that of the labels at hand; 0 where the bound is negative. As I(y; z) <= I(x; z)
    <= R, no probe of sampled latents can exceed what the rate of these levels and all above them allows.
    Source: Fano's inequality; Cover & Thomas (2006), theorem 2.10.1.
    Raises ValueError for an accuracy outside 0 to 1.

    Example:
        >>> round(hv.diagnostics.fano(1.0, np.array([0, 1])), 3)  # log 2: the labels are read without an error
        0.693
    """
    if not 0 <= accuracy <= 1:
        raise ValueError(f"fano(accuracy={accuracy}): a fraction, 0 to 1.")
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    p, e = counts / counts.sum(), 1.0 - accuracy
    wrong = e * math.log(len(p) - 1) if len(p) > 1 else 0.0
    return max(0.0, float(-(p * np.log(p)).sum()) - _binary_entropy(e) - wrong)


def _binary_entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1.0 - p) if q > 0.0)


def clearly_best(rights: Sequence[np.ndarray], chance: float, errors: float = 2.0) -> int | None:
    """Index of the probe that is better than chance and every other one by more than `errors` standard errors.

    The differences are taken example by example; None where no probe is that much better.

    Args:
      rights: `[N]` each, fractions of right answers of the same examples.

    Example:
        >>> hv.diagnostics.clearly_best([np.zeros(8), np.ones(8)], chance=0.5)
        1
    """
    best = max(range(len(rights)), key=lambda i: rights[i].mean())
    others = [np.full_like(rights[best], chance), *(right for i, right in enumerate(rights) if i != best)]
    gains = [rights[best] - other for other in others]
    return best if all(gain.mean() > errors * standard_error(gain) for gain in gains) else None


def two_samples(one: ArrayLike, other: ArrayLike) -> Accuracy:
    """Accuracy of the nearest neighbour at telling two sets apart: 1/2 for the same distribution, up to 1.

    Each of the 2n points is assigned to the set of the nearest other point.
    Source: Lopez-Paz & Oquab (2017), the 1-NN test.
    Raises ValueError unless both sets have the same number of points, 2 or more.

    Example:
        >>> one, other = np.array([[0.0], [0.1]]), np.array([[5.0], [5.1]])
        >>> hv.diagnostics.two_samples(one, other).value
        1.0
    """
    a, b = (np.asarray(s, np.float64).reshape(len(np.asarray(s)), -1) for s in (one, other))
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"two_samples compares as many points with as many, 2 or more: {len(a)} and {len(b)} here.")
    from sklearn.neighbors import NearestNeighbors

    points, label = np.concatenate([a, b]), np.repeat([0, 1], len(a))
    _, nearest = NearestNeighbors(n_neighbors=2).fit(points).kneighbors(points)
    # Of two equal points the neighbour may come first, before the point itself.
    second = np.where(nearest[:, 0] == np.arange(len(points)), nearest[:, 1], nearest[:, 0])
    return _accuracy(np.equal(label[second], label), 0.5)
