"""The Frechet distance of Gaussians fitted to two sets of features."""

from typing import Any

import numpy as np

from hvae_jax.metrics.features import as_features, check_pair


def frechet_distance(real: Any, generated: Any) -> float:
    """Squared Frechet distance of the Gaussians with the moments of two sets of features; 0 is best.

    With features of an Inception network this is the FID. Covariances are divided by N - 1. The estimate is biased
    upwards, more so with fewer examples: compare sets of equal size, larger than the number of features.

    Args:
      real, generated: features `[N, D]` and `[M, D]`.

    Source: Heusel et al. (2017), "GANs trained by a two time-scale update rule", equation 6.
    Raises ValueError as `as_features` does, for different D, and for fewer than two examples.

    Example:
        >>> real, generated = np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]])
        >>> round(hv.metrics.frechet_distance(real, generated), 3)  # means 1 apart, equal covariances
        1.0
    """
    real, generated = as_features(real, name="real"), as_features(generated, name="generated")
    check_pair(real, generated, 2)
    moments = [(x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))) for x in (real, generated)]
    return frechet_of_moments(*moments[0], *moments[1])


def frechet_of_moments(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2)), for Gaussians N(m1, C1) and N(m2, C2).

    Args:
      mean1, mean2: `[D]`.
      cov1, cov2: symmetric and positive semidefinite, `[D, D]`; singular ones are allowed, and need not commute.

    Source: Dowson & Landau (1982), "The Frechet distance between multivariate normal distributions".
    Raises ValueError for moments whose shapes do not fit each other.

    Example:
        >>> zero, one = np.zeros(1), np.ones((1, 1))
        >>> round(hv.metrics.frechet_of_moments(zero, one, zero, 4 * one), 3)  # (2 - 1)^2, of the standard deviations
        1.0
    """
    shape = (len(mean1), len(mean1))
    if np.shape(mean2) != shape[:1] or np.shape(cov1) != shape or np.shape(cov2) != shape:
        found = ", ".join(str(np.shape(a)) for a in (mean1, cov1, mean2, cov2))
        raise ValueError(f"Means [D] and covariances [D, D] do not fit each other: their shapes are {found}.")
    # by eigenvalues of symmetric matrices: a root of the product C1 C2, which is not symmetric, turns complex where
    # covariances are singular
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product = np.maximum(np.linalg.eigvalsh(root @ cov2 @ root), 0.0)
    apart = np.square(mean1 - mean2).sum() + np.trace(cov1) + np.trace(cov2) - 2.0 * np.sqrt(product).sum()
    return float(max(apart, 0.0))
