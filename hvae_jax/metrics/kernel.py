"""The kernel distance: an unbiased estimate of the maximum mean discrepancy under a polynomial kernel."""

import dataclasses
from typing import Any

import numpy as np

from hvae_jax.metrics.features import as_features, check_pair


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """A kernel distance.

    Attributes:
      value: mean of the estimates over subsets; it may be negative, as an unbiased estimate of 0 has to.
      spread: standard deviation of the estimates over subsets; None for a single one.
      subsets: number of subsets.
      size: number of examples of each set in a subset.
    """

    value: float
    spread: float | None
    subsets: int
    size: int


def mmd2(x: np.ndarray, y: np.ndarray, degree: int = 3, scale: float | None = None, shift: float = 1.0) -> float:
    """Unbiased estimate of MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) with k(a, b) = (scale a.b + shift)^degree.

    1/(n (n - 1)) sum_{i != j} k(x_i, x_j) + 1/(m (m - 1)) sum_{i != j} k(y_i, y_j) - 2/(n m) sum_ij k(x_i, y_j)

    Args:
      x, y: features `[n, D]` and `[m, D]`, two or more of each.
      degree, scale, shift: settings of the kernel; a scale of None is 1/D.

    Source: Gretton et al. (2012), "A kernel two-sample test", equation 3.

    Example:
        >>> round(hv.metrics.mmd2(np.zeros((2, 1)), np.ones((2, 1)), degree=1, shift=0.0), 3)  # k(a, b) = a b
        1.0
    """
    scale = 1.0 / x.shape[1] if scale is None else scale

    within = [_gram(a, a, degree, scale, shift) for a in (x, y)]
    means = [(gram.sum() - np.trace(gram)) / (len(gram) * (len(gram) - 1)) for gram in within]
    return float(sum(means) - 2.0 * _gram(x, y, degree, scale, shift).mean())


def _gram(a: np.ndarray, b: np.ndarray, degree: int, scale: float, shift: float) -> np.ndarray:
    """The kernel of each pair, `[n, m]`."""
    base = scale * (a @ b.T) + shift
    gram = base.copy()
    for _ in range(degree - 1):  # products: a power takes ten times as long
        gram *= base
    return gram


def kernel_distance(
    real: Any, generated: Any, *, subsets: int = 100, size: int = 1000, degree: int = 3, seed: int = 0
) -> KernelDistance:
    """Mean and spread of `mmd2` over random subsets, with the kernel (a.b/D + 1)^degree; 0 is best.

    With features of an Inception network this is the KID. Its expectation does not depend on the number of examples.

    Args:
      real, generated: features `[N, D]` and `[M, D]`.
      subsets: number of subsets, drawn anew from all examples, without repetition inside a subset.
      size: number of examples of each set in a subset, at most min(N, M); where it is that of both sets there is one
        subset.
      degree: degree of the kernel.
      seed: seed of the subsets.

    Source: Binkowski et al. (2018), "Demystifying MMD GANs", section 4: degree 3, 100 subsets of 1,000.
    Raises ValueError as `as_features` does, for different D, fewer than two examples, and numbers below 1 (size: 2).

    Example:
        >>> distance = hv.metrics.kernel_distance(np.zeros((2, 1)), np.ones((2, 1)), size=2)
        >>> round(distance.value, 3), distance.spread  # k(0, 0) + k(1, 1) - 2 k(0, 1) = 1 + 8 - 2
        (7.0, None)
    """
    for name, number, least in (("subsets", subsets, 1), ("size", size, 2), ("degree", degree, 1)):
        if number < least:
            raise ValueError(f"{name} is {number}, but it has to be {least} or more.")
    real, generated = as_features(real, name="real"), as_features(generated, name="generated")
    check_pair(real, generated, 2)
    size = min(size, len(real), len(generated))
    if size == len(real) == len(generated):
        subsets = 1
    draw = np.random.default_rng(seed)
    found = [
        mmd2(*(x[draw.choice(len(x), size, replace=False)] for x in (real, generated)), degree=degree)
        for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(found)), float(np.std(found, ddof=1)) if subsets > 1 else None, subsets, size)
