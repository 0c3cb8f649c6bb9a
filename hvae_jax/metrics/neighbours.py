"""Precision, recall, density and coverage: which examples lie inside balls around those of the other set."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from hvae_jax.metrics.features import as_features, check_pair

_BYTES = 2**26  # of one block of distances
_TOLERANCE = 1e-9  # of squared distances: one on the edge of a ball is computed with rounding


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Fractions of examples inside balls.

    Attributes:
      precision: fraction of generated examples inside the ball of some real one: how many look real.
      recall: fraction of real examples inside the ball of some generated one: how much of the data is made.
      density: mean number of real balls that a generated example is in, over k; 1 if the sets are alike, and above 1
        where generated examples crowd dense regions.
      coverage: fraction of real examples whose ball has a generated one in it.
      k: number of the neighbour that a ball reaches to.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k: int


def neighbours(real: Any, generated: Any, k: int = 5) -> Neighbours:
    """Precision, recall, density and coverage, with balls whose radius is the distance to the k-th nearest of the set.

    A ball is around each example and contains it. For precision and recall it is closed, for density and coverage open,
    as in the papers' codes: of two equal sets precision, recall, density and coverage are 1.

    Args:
      real, generated: features `[N, D]` and `[M, D]`, more than k of each. Distances are Euclidean, and computed in
        blocks: memory grows with N + M.
      k: number of the neighbour. Kynkaanniemi et al. take 3, Naeem et al. 5.

    Source: Kynkaanniemi et al. (2019), "Improved precision and recall metric for assessing generative models",
    equations 1 and 2; Naeem et al. (2020), "Reliable fidelity and diversity metrics for generative models", equations
    2 and 3.
    Raises ValueError as `as_features` does, for different D, a k below 1, and k or fewer examples.

    Example:
        >>> real = np.arange(8.0)[:, None]
        >>> found = hv.metrics.neighbours(real, real + 100.0, k=3)  # far away, and as far from each other
        >>> found.precision, found.recall, found.coverage
        (0.0, 0.0, 0.0)
    """
    if k < 1:
        raise ValueError(f"k is {k}, but it has to be 1 or more.")
    real, generated = as_features(real, name="real"), as_features(generated, name="generated")
    check_pair(real, generated, k + 1)
    # distances do not depend on it, and near the origin |a|^2 + |b|^2 - 2 a.b keeps its digits
    centre = real.mean(0)
    real, generated = real - centre, generated - centre
    real_radii, generated_radii = _radii(real, k), _radii(generated, k)  # squared, [N] and [M]
    precise, dense = 0, 0
    recalled, covered = (np.zeros(len(real), bool) for _ in range(2))
    for rows, squares in _blocks(generated, real):  # [m, N]
        precise += int((squares <= real_radii * (1.0 + _TOLERANCE)).any(1).sum())
        inside = (squares < real_radii * (1.0 - _TOLERANCE)) | (squares == 0.0)
        dense += int(inside.sum())
        covered |= inside.any(0)
        recalled |= (squares <= generated_radii[rows, None] * (1.0 + _TOLERANCE)).any(0)
    count = len(generated)
    return Neighbours(precise / count, float(recalled.mean()), dense / (k * count), float(covered.mean()), k)


def _radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each example to its k-th nearest other one, `[N]`."""
    radii = np.empty(len(x))
    for rows, squares in _blocks(x, x):
        # an example itself is at 0, and so among the k + 1 nearest
        radii[rows] = np.partition(squares, k, axis=1)[:, k]
    return radii


def _blocks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of a's rows to all of b's, `[m, len(b)]`, block by block with the slice of a; 0 of equal ones.

    |a|^2 + |b|^2 - 2 a.b, whose rounding would give equal rows a small distance: what is below it counts as 0.
    """
    norms_a, norms_b = np.square(a).sum(1), np.square(b).sum(1)
    step = max(1, _BYTES // (8 * len(b)))
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        sums = norms_a[rows, None] + norms_b
        squares = sums - 2.0 * (a[rows] @ b.T)
        squares[squares < 1e-13 * sums] = 0.0
        yield rows, squares
