"""E[x] of a logistic cut into bins, from a few terms, against the sum over all edges in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from hvae_jax.likelihoods import DiscretisedLogistic
from hvae_jax.likelihoods.base import softplus
from hvae_jax.likelihoods.bins import Bins

EPS = float(np.finfo(np.float32).eps)


@functools.cache
def points(values: int) -> np.ndarray:
    """Means on edges, on centres, between, at and beyond the ends, with log scales, `[P, 2]`, float32.

    Scales are 1e-3 bins to e^80, dense around a bin's width, where the formula changes.
    """
    width = 2.0 / (values - 1)
    inside = [-1.0 + width * (k + part) for k in (0, 1, 7, 20, values // 2) for part in (0.0, 0.3, 0.5)]
    means = (*inside, -1e30, -1e4, -3.0, -1.1, -1.0, -0.37, 0.0, 1e-6, 0.5, 0.99, 1.0, 1.3, 40.0, 1e30)
    in_bins = (
        1e-3,
        0.03,
        0.2,
        0.5,
        0.9,
        0.9999,
        1.0,
        1.0001,
        1.1,
        2.0,
        5.0,
        30.0,
        0.5 / width,
        1.0 / width,
        3.0 / width,
    )
    scales = (*(np.log(s * width) for s in in_bins), 5.0, 12.0, 20.0, 80.0)
    return np.asarray(list(itertools.product(means, scales)), np.float32)


def exact(values: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E[x], what rounding the edges and distances changes in it, and its derivatives `[2, P]`, by all edges."""
    mean, log_scale = points(values).astype(np.float64).T
    total, moved, slopes = np.zeros_like(mean), np.zeros_like(mean), np.zeros((2, len(mean)))
    for edge in (2.0 * np.arange(values - 1) + 2.0 - values) / (values - 1):
        y = (mean - edge) * np.exp(-log_scale)
        p = expit(y)
        slope = p * expit(-y)
        total += p
        moved += slope * (np.abs(mean) + np.abs(edge)) * np.exp(-log_scale)
        slopes += slope * np.stack([np.exp(-log_scale), -y])
    return total, moved, slopes


@functools.cache
def found(values: int) -> tuple[np.ndarray, np.ndarray]:
    """E[x] `[P]` and its derivatives `[2, P]` in float32."""

    def one(mean: jax.Array, log_scale: jax.Array) -> jax.Array:
        return Bins(values).expectation(mean, log_scale)

    def both(mean: jax.Array, log_scale: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, back = jax.vjp(one, mean, log_scale)
        return value, jnp.stack(back(jnp.ones_like(value)))

    value, slopes = jax.jit(both)(*jnp.asarray(points(values)).T)
    return np.asarray(value, np.float64), np.asarray(slopes, np.float64)


@pytest.mark.parametrize("values", [2, 30, 31, 256, 3000])
def test_the_sum_over_all_edges_to_rounding(values: int) -> None:
    """For all scales and means, within 8 roundings of the sum and of the distances in it; never outside 0 to V - 1."""
    value, (total, moved, _) = found(values)[0], exact(values)
    assert (np.abs(value - total) <= 8 * EPS * (total + moved) + 1e-37).all()  # the smallest normal number
    assert (value >= 0).all() and (value <= values - 1).all()


@pytest.mark.parametrize("values", [30, 256, 3000])
def test_its_derivatives(values: int) -> None:
    """In mean and log scale, those of the sum: to 4 digits, and to rounding of their largest values."""
    slopes, (total, moved, expected) = found(values)[1], exact(values)
    scale = np.exp(-points(values)[:, 1].astype(np.float64))
    largest = np.stack([(1.0 + moved) * scale, total + moved])
    assert np.isfinite(slopes).all()
    assert (np.abs(slopes - expected) <= 1e-4 * np.abs(expected) + 20 * EPS * largest + 1e-37).all()


def test_it_does_not_jump_where_the_formula_changes() -> None:
    """At a scale of one bin both forms agree, so that a histogram of means has no seam."""
    bins, mean = Bins(256), jnp.linspace(-1.2, 1.2, 500)
    inverse = jnp.full_like(mean, 255 / 2)
    near, smooth = jax.jit(lambda m, i: (bins._near(m, i), bins._smooth(m, i)))(mean, inverse)
    np.testing.assert_allclose(near, smooth, rtol=2e-6, atol=2 * 127.5 * EPS)  # rounding of distances


def test_half_precision_is_summed_in_float32() -> None:
    """In bfloat16 a running sum above 256 would no longer grow by ones."""
    h = jnp.asarray([[[0.9, -2.0]]], jnp.bfloat16)
    wide = DiscretisedLogistic(1000)(h.astype(jnp.float32)).mean
    half = DiscretisedLogistic(1000)(h).mean
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), wide, rtol=1 / 256)


def test_the_derivative_of_softplus_at_0() -> None:
    """1/2: the readout of an untrained model may be exactly 0."""
    slope = jax.grad(lambda a: softplus(a).sum())(jnp.array([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(slope, expit([-1.0, 0.0, 1.0]), rtol=1e-6)
