"""PSNR and SSIM: closed forms, and the formula written out square by square."""

import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax.diagnostics import psnr, ssim

RNG = np.random.default_rng(0)


def test_psnr_of_a_known_error() -> None:
    """An error of R/10 at every pixel is 20 dB; equal images have no noise."""
    x = jnp.zeros((2, 8, 8, 1))
    np.testing.assert_allclose(psnr(x, x + 1.6, 16.0), [20.0, 20.0], rtol=1e-5)
    assert np.isinf(psnr(x, x, 16.0)).all()


def by_squares(x: np.ndarray, y: np.ndarray, value_range: float, window: int) -> float:
    """SSIM of one channel, square by square, in float64."""
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    found = []
    for i in range(x.shape[0] - window + 1):
        for j in range(x.shape[1] - window + 1):
            a, b = (z[i : i + window, j : j + window].astype(float).ravel() for z in (x, y))
            covariance = np.cov(a, b)
            above = (2 * a.mean() * b.mean() + c1) * (2 * covariance[0, 1] + c2)
            found.append(above / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2)))
    return float(np.mean(found))


@pytest.mark.parametrize("window", [3, 7])
def test_ssim_is_its_formula(window: int) -> None:
    """The mean over squares, and over channels."""
    x = RNG.integers(0, 17, (3, 9, 10, 2)).astype(np.uint8)
    y = np.clip(x + RNG.integers(-3, 4, x.shape), 0, 16).astype(np.uint8)
    wanted = [
        np.mean([by_squares(a[..., c], b[..., c], 16.0, window) for c in range(2)]) for a, b in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(ssim(jnp.asarray(x), jnp.asarray(y), 16.0, window), wanted, rtol=1e-4)
    np.testing.assert_allclose(ssim(jnp.asarray(x), jnp.asarray(x), 16.0), 1.0, rtol=1e-5)


def test_ssim_of_flat_images() -> None:
    """Without variance it is (2 a b + c1) / (a^2 + b^2 + c1)."""
    x = jnp.full((1, 8, 8, 1), 4.0)
    c1 = 0.16**2
    np.testing.assert_allclose(ssim(x, 2 * x, 16.0), (2 * 32 + c1) / (16 + 64 + c1), rtol=1e-5)


def test_a_window_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="from 2 to the lower side"):
        ssim(jnp.zeros((1, 4, 8, 1)), jnp.zeros((1, 4, 8, 1)), 1.0)
