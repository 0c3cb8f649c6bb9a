"""Functions d(x) of the self-supervised VAE: against NumPy, Pillow and SciPy, and what they refuse."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from hvae_jax.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretisedLogistic,
    Gaussian,
    Likelihood,
    LogisticMixture,
)
from hvae_jax.models import AveragePool, BilinearHalf, Grey, LeadingBits, Reduction, Sobel
from hvae_jax.models.reductions import check_discrete, likelihood_of_y, number_of_values

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (5, 12, 8, 3)).astype(np.uint8)


def test_average_pool() -> None:
    """The mean of each square, rounded, halves up; sums of uint8 do not wrap around."""
    for factor in (1, 2, 4):
        means = X.reshape(5, 12 // factor, factor, 8 // factor, factor, 3).mean((2, 4))
        y = AveragePool(factor)(jnp.asarray(X))
        np.testing.assert_array_equal(y, np.floor(means + 0.5))
        assert y.shape[1:] == AveragePool(factor).shape((12, 8, 3))
    np.testing.assert_array_equal(AveragePool(2)(jnp.asarray([[[[1], [0]], [[1], [0]]]])), [[[[1]]]])


@pytest.mark.parametrize("size", [(12, 8), (2, 4), (4, 2)])
def test_bilinear_half_is_pillows(size: tuple[int, int]) -> None:
    """Every pixel, those at the edges included."""
    x = RNG.integers(0, 256, (20, *size, 3)).astype(np.uint8)
    half = (size[1] // 2, size[0] // 2)
    expected = [np.asarray(Image.fromarray(one).resize(half, Image.Resampling.BILINEAR)) for one in x]
    np.testing.assert_array_equal(BilinearHalf()(jnp.asarray(x)), np.stack(expected))


def test_leading_bits() -> None:
    """Bits are those of the value; a range that does not use all of them has fewer values."""
    np.testing.assert_array_equal(LeadingBits(3)(jnp.asarray(X)), X >> 5)
    assert (LeadingBits(3).values(256), LeadingBits(3, of=5).values(17), LeadingBits(1, of=2).values(3)) == (8, 5, 2)


def test_grey() -> None:
    """Luma as the formula has it, rounded."""
    luma = X.astype(np.int64) @ np.array([299, 587, 114])
    np.testing.assert_array_equal(Grey()(jnp.asarray(X))[..., 0], np.floor(luma / 1000 + 0.5))


@pytest.mark.parametrize("levels", [2, 4, 16])
def test_sobel(levels: int) -> None:
    """The strength of SciPy's filters, cut into values; flat pictures have none, a full step edge has the last one."""
    grey = X.astype(np.int64).sum(-1) // 3
    strength = sum(abs(np.stack([ndimage.sobel(one, axis, mode="nearest") for one in grey])) for axis in (0, 1))
    expected = np.minimum(levels - 1, levels * strength // (4 * 255))
    sketch = Sobel(levels)(jnp.asarray(X))
    np.testing.assert_array_equal(sketch[..., 0], expected)
    assert set(np.unique(expected)) == set(range(levels)) or levels > 4
    flat = jnp.full((1, 4, 4, 3), 200)
    assert (Sobel(levels)(flat) == 0).all()
    assert (Sobel(levels)(flat.at[:, :, 2:].set(0).at[:, :, :2].set(255))[0, 1, 1:3, 0] == levels - 1).all()


def test_floats_that_are_whole() -> None:
    """Data may come as floats."""
    for d in (AveragePool(2), BilinearHalf(), LeadingBits(3), Grey(), Sobel()):
        np.testing.assert_array_equal(d(jnp.asarray(X, jnp.float32)), d(jnp.asarray(X)))
        check_discrete(d, (12, 8, 3))


@dataclasses.dataclass(frozen=True)
class Means(Reduction):
    """Means that are not rounded, in a shape that may be wrong."""

    rounded: bool = False
    channels: int = 3

    def __call__(self, x: Any) -> Any:
        means = x.mean((1, 2), keepdims=True)
        return jnp.round(means).astype(jnp.int32) if self.rounded else means

    def shape(self, event: Any) -> Any:
        return (1, 1, self.channels)


def test_a_continuous_d_is_refused() -> None:
    """By its dtype, before anything is computed; a d that contradicts its shape is refused too."""
    with pytest.raises(ValueError, match=r"returns float32, but y = d\(x\) has to be discrete.*Round it"):
        check_discrete(Means(), (4, 4, 3))
    check_discrete(Means(rounded=True), (4, 4, 3))
    with pytest.raises(ValueError, match=r"returns \(1, 1, 3\) for \(4, 4, 3\), but its shape\(\) says \(1, 1, 1\)"):
        check_discrete(Means(rounded=True, channels=1), (4, 4, 3))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AveragePool(3).shape((8, 8, 1)), r"factor=3\): it does not divide 8x8. These do: \[2, 4, 8\]"),
        (lambda: AveragePool(2).shape((7, 5, 1)), "Pad or crop the images"),
        (lambda: AveragePool(0), r"factor=0.*1 or more"),
        (lambda: BilinearHalf().shape((7, 8, 3)), "even height and width, but the images are 7x8"),
        (lambda: Grey().shape((8, 8, 1)), "three colours, but these have 1 channels"),
        (lambda: LeadingBits(0), r"bits=0"),
        (lambda: LeadingBits(8, of=8), r"bits=8, of=8"),
        (lambda: LeadingBits(2, of=4).values(17), r"of=4\): x has 17 values"),
        (lambda: Sobel(1), r"levels=1"),
        (lambda: Sobel(of=256).values(17), r"x has 17 values. Set of=17"),
        (lambda: number_of_values(Gaussian()), "not of whole numbers in a range"),
        (lambda: number_of_values(ContinuousBernoulli()), "not of whole numbers in a range"),
        (lambda: likelihood_of_y(Gaussian(), 17, 1), "give it by y_likelihoods"),
    ],
)
def test_refusals(make: Any, said: str) -> None:
    """Each with what would fit."""
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("likelihood", "values", "channels", "expected"),
    [
        (Categorical(17), 17, 1, Categorical(17)),
        (Categorical(17), 2, 1, Bernoulli()),
        (Bernoulli(), 2, 1, Bernoulli()),
        (Bernoulli(), 4, 1, Categorical(4)),
        (LogisticMixture(5), 256, 3, LogisticMixture(5)),
        (LogisticMixture(5), 256, 1, LogisticMixture(5, channels=1)),
        (LogisticMixture(5), 8, 3, Categorical(8)),
        (LogisticMixture(5), 32, 3, LogisticMixture(5, values=32)),
        (DiscretisedLogistic(), 64, 1, DiscretisedLogistic(64)),
        (DiscretisedLogistic(), 16, 1, Categorical(16)),
    ],
)
def test_the_family_of_y(likelihood: Likelihood, values: int, channels: int, expected: Likelihood) -> None:
    """That of x, with the values and channels of y."""
    assert likelihood_of_y(likelihood, values, channels) == expected
