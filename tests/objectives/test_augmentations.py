"""Augmentations: exact maps on hand-made images, values that stay in their range, and what is refused."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax.likelihoods import Bernoulli, Categorical
from hvae_jax.objectives import Affine, Augmentation, Brightness, Flip
from hvae_jax.objectives.augmentations import augmented, check_augmentations, moved

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
IMAGES = RNG.integers(0, 17, (3, 5, 5, 2)).astype(np.uint8)


@functools.partial(jax.jit, static_argnames="edges")
def by(x: Any, degrees: float, shift: Any, scale: float, edges: Any = "zero") -> Any:
    """The same change of every image."""
    count = len(x)
    angles, scales = jnp.full(count, jnp.deg2rad(degrees)), jnp.full(count, scale)
    return moved(x, angles, jnp.broadcast_to(jnp.asarray(shift, float)[None], (count, 2)), scales, edges)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turns(turns: int) -> None:
    """Those of NumPy, counter-clockwise; whole numbers exactly, real ones to rounding."""
    expected = np.rot90(IMAGES, turns, axes=(1, 2))
    got = by(IMAGES, 90.0 * turns, (0.0, 0.0), 1.0)
    assert got.dtype == jnp.uint8
    np.testing.assert_array_equal(got, expected)
    got = by(IMAGES.astype(np.float32), 90.0 * turns, (0.0, 0.0), 1.0)
    np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize(("edges", "mode"), [("zero", "constant"), ("nearest", "edge")])
def test_whole_pixels(edges: Any, mode: Any) -> None:
    """Two down and one to the left: what comes in is zero, or the pixel at the edge."""
    wide = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=mode)
    got = by(IMAGES, 0.0, (2.0, -1.0), 1.0, edges)
    np.testing.assert_array_equal(got, wide[:, 0:5, 3:8])


def test_rotation_shift_and_scale_of_a_plane() -> None:
    """Bilinear interpolation is exact on a x + b y: the value at p is the plane's at R^-1 (p - c - shift)/scale + c."""
    rows, columns = np.mgrid[:9, :9] - 4.0
    plane = (0.7 * rows - 0.3 * columns)[None, ..., None].astype(np.float32)
    angle, shift, scale = 30.0, (0.5, -0.25), 2.0
    got = by(plane, angle, shift, scale)
    # as complex numbers, x to the right and y up: a turn is a factor
    z = ((columns - shift[1]) - 1j * (rows - shift[0])) * np.exp(-1j * np.deg2rad(angle)) / scale
    np.testing.assert_allclose(got[0, ..., 0], 0.7 * -z.imag - 0.3 * z.real, atol=1e-5)


def test_halves_are_rounded_up() -> None:
    """Half a pixel to the right: a binary step has 1/2 at its edge, which becomes 1."""
    step = np.array([[0, 0, 1, 1]], np.uint8)[None, ..., None]
    got = by(step, 0.0, (0.0, 0.5), 1.0)
    np.testing.assert_array_equal(got[0, 0, :, 0], [0, 0, 1, 1])
    got = by(step.astype(np.float32), 0.0, (0.0, 0.5), 1.0)
    np.testing.assert_allclose(got[0, 0, :, 0], [0, 0, 0.5, 1])


@pytest.mark.parametrize("values", [2, 17])
def test_whole_numbers_stay_in_their_range(values: int) -> None:
    """After all changes together: the likelihood's own check, and the dtype."""
    x = jnp.asarray(RNG.integers(0, values, (64, 6, 5, 1)), jnp.uint8)
    changes = (Affine(180.0, 0.5, (0.5, 2.0)), Flip(vertical=True), Brightness(1.0, high=values - 1.0))
    got = jax.jit(lambda key: augmented(changes, x, key))(KEY)
    assert got.dtype == x.dtype and got.shape == x.shape
    (Bernoulli() if values == 2 else Categorical(values)).check(np.asarray(got))
    assert (got != x).any() and got.max() > 0


def test_each_image_has_its_own_change() -> None:
    """Equal images become different ones, within the bounds: a dot moves by half a side at most."""
    x = jnp.zeros((32, 9, 9, 1)).at[:, 4, 4].set(1.0)
    got = np.asarray(jax.jit(Affine(0.0, 0.25, (1.0, 1.0)))(x, KEY))[..., 0]
    np.testing.assert_allclose(got.sum((1, 2)), 1.0, rtol=1e-5)  # nothing left the image
    centres = np.einsum("bij,cij->bc", got, np.mgrid[:9, :9] - 4.0)
    assert len(np.unique(centres.round(4), axis=0)) == 32
    assert 1.8 < np.abs(centres).max() <= 9 / 4 + 1e-5


def test_flips() -> None:
    """Each way with probability 1/2, by itself."""
    x = jnp.broadcast_to(jnp.asarray(IMAGES[:1]), (64, 5, 5, 2))
    both = np.asarray(jax.jit(Flip(vertical=True))(x, KEY))
    one = IMAGES[0]
    kinds = [one, one[:, ::-1], one[::-1], one[::-1, ::-1]]
    counts = [sum(np.array_equal(image, kind) for image in both) for kind in kinds]
    assert sum(counts) == 64 and min(counts) > 5
    across = np.asarray(jax.jit(Flip())(x, KEY))
    assert sum(np.array_equal(image, one) or np.array_equal(image, one[:, ::-1]) for image in across) == 64


def test_brightness() -> None:
    """One factor an image, about the lowest value; cut to the range."""
    x = jnp.asarray(RNG.uniform(-1.0, 1.0, (16, 3, 3, 1)), jnp.float32)
    got = np.asarray(jax.jit(Brightness(0.5, low=-1.0, high=1.0))(x, KEY))
    factors = (got + 1.0) / (np.asarray(x) + 1.0)
    inside = got < 1.0
    for factor, mask in zip(factors, inside, strict=True):
        assert np.ptp(factor[mask]) < 1e-4 and 0.5 <= factor[mask].mean() <= 1.5
    assert got.min() >= -1.0 and got.max() <= 1.0 and not inside.all()


@dataclasses.dataclass(frozen=True)
class Wrong(Augmentation):
    """Two rows less, or another dtype."""

    cast: bool = False

    def __call__(self, x: Any, key: Any) -> Any:
        """In one of the two ways."""
        return x.astype(jnp.float32) if self.cast else x[:, 2:]


def test_what_is_refused() -> None:
    """The shape, the dtype, values out of range, x that is no image; each error names the change."""
    x = jnp.asarray(IMAGES)
    with pytest.raises(ValueError, match=r"Wrong\(cast=False\) turns x of shape \(3, 5, 5, 2\).*\(3, 3, 5, 2\)"):
        jax.eval_shape(lambda: augmented((Flip(), Wrong()), x, KEY))
    with pytest.raises(ValueError, match=r"dtype uint8 into .* float32"):
        jax.eval_shape(lambda: augmented((Wrong(cast=True),), x, KEY))
    with pytest.raises(ValueError, match=r"Affine changes images, \[B, H, W, C\], but x has shape \(3, 5\)"):
        Affine()(x[:, :, 0, 0], KEY)
    digits = Categorical(17).check
    check_augmentations((Affine(), Flip(), Brightness(high=16.0)), IMAGES, digits)
    with pytest.raises(ValueError, match=r"Brightness\(change=0.9.* leaves the values .*0..16 only"):
        check_augmentations((Affine(), Brightness(0.9)), IMAGES, digits)
    with pytest.raises(ValueError, match=r"Affine.* leaves the values .*Whole numbers need an integer dtype"):
        check_augmentations((Affine(),), IMAGES.astype(np.float32), digits)
    check_augmentations((Affine(),), IMAGES.astype(np.float32), None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Affine(rotation=-1.0), "degrees from 0 to 180"),
        (lambda: Affine(shift=1.5), "from 0 to 1"),
        (lambda: Affine(scale=(0.0, 1.0)), "factor above 0"),
        (lambda: Affine(scale=(1.1, 0.9)), "not smaller"),
        (lambda: Affine(edges="wrap"), "'zero' or 'nearest'"),
        (lambda: Flip(horizontal=False), "changes nothing"),
        (lambda: Brightness(change=2.0), "0 to 1"),
        (lambda: Brightness(low=1.0, high=1.0), "smallest value, then the largest"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
