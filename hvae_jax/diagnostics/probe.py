"""Accuracy of simple classifiers on latents: of their label, or of whether they come from posterior or prior."""

import dataclasses
import math

import numpy as np
from jax.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """An accuracy with its standard error.

    Attributes:
      value: fraction of right answers, 0 to 1.
      error: standard error, sqrt(p (1 - p)/n).
      chance: accuracy of always giving the most frequent answer.
    """

    value: float
    error: float
    chance: float


def _accuracy(right: np.ndarray, chance: float) -> Accuracy:
    p = float(right.mean())
    return Accuracy(p, math.sqrt(p * (1 - p) / len(right)), chance)


def linear_probe(train: ArrayLike, train_y: ArrayLike | None, test: ArrayLike, test_y: ArrayLike | None) -> Accuracy:
    """Test accuracy of a logistic regression from standardised features to labels.

    Args:
      train, test: `[N, *features]`, such as the posterior means of one level.
      train_y, test_y: `[N]` labels.
    Source: Alain & Bengio (2016).
    Raises ValueError if labels or examples are missing, or all labels are equal.
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
    probe.fit(x.reshape(len(x), -1), y)
    right = np.equal(probe.predict(other.reshape(len(other), -1)), wanted)
    _, counts = np.unique(wanted, return_counts=True)
    return _accuracy(right, float(counts.max() / counts.sum()))


def two_samples(one: ArrayLike, other: ArrayLike) -> Accuracy:
    """Accuracy of the nearest neighbour at telling two sets apart: 1/2 for the same distribution, up to 1.

    Each of the 2n points is assigned to the set of the nearest other point.
    Source: Lopez-Paz & Oquab (2017), the 1-NN test.
    Raises ValueError unless both sets have the same number of points, 2 or more.
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
