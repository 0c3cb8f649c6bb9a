"""Strided and transposed convolutions, upsampling, padding and cropping against sums written out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from hvae_jax.networks.resample import (
    TransposedConv,
    convolve,
    convolve_transposed,
    crop_to,
    double_bilinear,
    enlarge,
    pad_to_multiple,
    padded_size,
)

KEY = jax.random.key(0)


def normal(*shape: int) -> np.ndarray:
    """Normal numbers from a fixed seed."""
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def written_out(x: np.ndarray, kernel: np.ndarray, stride: int, padding: tuple) -> np.ndarray:
    """A cross-correlation, one output at a time."""
    x = np.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = kernel.shape[:2]
    rows, columns = ((x.shape[1 + i] - kernel.shape[i]) // stride + 1 for i in (0, 1))
    out = np.zeros((len(x), rows, columns, kernel.shape[-1]))
    for i, j in itertools.product(range(rows), range(columns)):
        window = x[:, stride * i : stride * i + height, stride * j : stride * j + width]
        out[:, i, j] = np.tensordot(window, kernel, 3)
    return out


@pytest.mark.parametrize(
    ("image", "size", "stride", "padding"),
    [
        ((6, 4), 3, 1, None),
        ((6, 4), 5, 2, None),
        ((6, 4), 3, 2, ((0, 1), (0, 1))),
        ((6, 4), 1, 1, None),
        ((2, 2), 3, 1, None),
        ((2, 1), 5, 1, ((2, 2), (2, 2))),
        ((2, 4), 3, 1, None),
    ],
)
def test_convolutions(image: tuple, size: int, stride: int, padding: tuple | None) -> None:
    """All forms are right: 1x1, maps smaller than the kernel, strided, padded unevenly."""
    x, kernel = normal(2, *image, 3), normal(size, size, 3, 5)
    got = convolve(jnp.asarray(x), jnp.asarray(kernel), stride, padding)
    expected = written_out(x, kernel, stride, padding or ((size // 2,) * 2,) * 2)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def gradients(x: np.ndarray, kernel: np.ndarray, g: np.ndarray, stride: int, padding: tuple) -> tuple:
    """Gradients of sum(g * y) for x and the kernel, one output at a time."""
    padded = np.pad(x, ((0, 0), *padding, (0, 0))).astype(float)
    dx, dkernel = np.zeros_like(padded), np.zeros(kernel.shape)
    height, width = kernel.shape[:2]
    for i, j in itertools.product(range(g.shape[1]), range(g.shape[2])):
        at = (slice(None), slice(stride * i, stride * i + height), slice(stride * j, stride * j + width))
        dx[at] += np.tensordot(g[:, i, j], kernel, (1, 3))
        dkernel += np.tensordot(padded[at], g[:, i, j], (0, 0))
    (top, _), (left, _) = padding
    return dx[:, top : top + x.shape[1], left : left + x.shape[2]], dkernel


@pytest.mark.parametrize("block", [70, 4096])
@pytest.mark.parametrize(
    ("image", "size", "stride", "padding"),
    [
        ((6, 4), 3, 1, ((1, 1), (1, 1))),
        ((6, 4), 5, 1, ((4, 0), (1, 3))),
        ((6, 4), 3, 1, ((0, 0), (0, 0))),
        ((6, 4), 2, 1, ((1, 0), (0, 1))),
        ((6, 4), 1, 1, ((1, 0), (0, 0))),
        ((6, 4), 3, 2, ((0, 1), (0, 1))),
        ((2, 5), 3, 1, ((1, 1), (1, 1))),
    ],
)
def test_gradients_of_convolutions(
    image: tuple, size: int, stride: int, padding: tuple, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are right in blocks of one or several examples, with a smaller last block, at once, and inside a loop."""
    monkeypatch.setattr("hvae_jax.networks.cpu_conv.BLOCK", block)
    x, kernel = jnp.asarray(normal(5, *image, 3)), jnp.asarray(normal(size, size, 3, 4))
    g = jnp.asarray(normal(*jax.eval_shape(lambda: convolve(x, kernel, stride, padding)).shape))

    def looped(kernel: jax.Array) -> jax.Array:
        return jax.lax.map(lambda a: (g * convolve(a, kernel, stride, padding)).sum(), jnp.stack([x, x])).sum()

    @jax.jit
    def computed(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple:
        _, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, stride, padding), x, kernel)
        return pull(g), jax.grad(looped)(kernel)

    at_once, in_a_loop = computed(x, kernel, g)
    expected = gradients(*map(np.asarray, (x, kernel, g)), stride, padding)
    for got, right in zip(at_once, expected, strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(in_a_loop, 2.0 * expected[1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("block", [30, 4096])
def test_derivatives_of_every_kind(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward-mode, second and batched derivatives are right: a convolution is linear in either argument."""
    monkeypatch.setattr("hvae_jax.networks.cpu_conv.BLOCK", block)
    x, kernel, dx, dkernel = (jnp.asarray(normal(*shape)) for shape in [(5, 4, 6, 2), (3, 3, 2, 3)] * 2)
    _, dy = jax.jvp(convolve, (x, kernel), (dx, dkernel))
    np.testing.assert_allclose(dy, convolve(dx, kernel) + convolve(x, dkernel), rtol=1e-5, atol=1e-5)

    def energy(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return 0.5 * jnp.square(convolve(x, kernel)).sum()

    product = jax.jvp(jax.grad(energy, 1), (x, kernel), (jnp.zeros_like(x), dkernel))[1]
    np.testing.assert_allclose(jnp.vdot(product, dkernel), 2.0 * energy(x, dkernel), rtol=1e-4)
    several = jnp.stack([kernel, dkernel])
    each = jax.vmap(jax.grad(energy, 1), (None, 0))(x, several)
    np.testing.assert_allclose(each[1], jax.grad(energy, 1)(x, dkernel), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "stride", "crop"), [(3, 2, (1, 0)), (3, 2, (0, 1)), (5, 2, (1, 2)), (4, 2, (1, 1)), (5, 4, (0, 1))]
)
def test_transposed_convolutions(size: int, stride: int, crop: tuple[int, int]) -> None:
    """Each input i adds its kernel from stride * i on; then the output is cropped."""
    x, kernel = normal(2, 3, 4, 3), normal(size, size, 3, 5)
    full = np.zeros((2, 2 * stride + size, 3 * stride + size, 5))
    for i, j in itertools.product(range(3), range(4)):
        full[:, stride * i : stride * i + size, stride * j : stride * j + size] += np.tensordot(
            x[:, i, j], kernel, (1, 2)
        )
    before = crop[0]
    expected = full[:, before : before + 3 * stride, before : before + 4 * stride]
    got = convolve_transposed(jnp.asarray(x), jnp.asarray(kernel), stride, crop)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_nearest_neighbours_repeat_pixels(factor: int) -> None:
    """Each pixel becomes a square of factor^2; integers stay integers."""
    for x in (normal(2, 3, 5, 2), np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2)):
        got = enlarge(jnp.asarray(x), factor)
        np.testing.assert_array_equal(got, x.repeat(factor, 1).repeat(factor, 2))
        assert got.dtype == x.dtype


def test_a_transposed_convolution_is_the_gradient_of_a_strided_one() -> None:
    """So is ConvTranspose2d(3, stride=2, padding=1, output_padding=1) of Conv2d(3, stride=2, padding=1)."""
    module = TransposedConv(3)
    small = jnp.asarray(normal(2, 4, 6, 5))
    got, variables = module.init_with_output(KEY, small)
    kernel, bias = (variables["params"][name] for name in ("kernel", "bias"))
    turned = kernel.transpose(0, 1, 3, 2)
    (back,) = jax.vjp(lambda x: convolve(x, turned, 2), jnp.zeros((2, 8, 12, 3)))[1](small)
    np.testing.assert_allclose(got, back + bias[None, None, None], rtol=1e-5, atol=1e-5)
    bound = 1 / np.sqrt(9 * 3)
    assert 0.9 * bound < jnp.abs(kernel).max() < bound


def test_a_crop_that_gives_another_size() -> None:
    """The error names the kernel, the stride and the sum that is needed."""
    with pytest.raises(ValueError, match=r"crop=\(1, 1\).*3x3 and stride 2.*= 1"):
        convolve_transposed(jnp.zeros((1, 2, 2, 1)), jnp.zeros((3, 3, 1, 1)), 2, (1, 1))


def test_bilinear_doubling() -> None:
    """Half-pixel centres with edges repeated agree with SciPy's first-order spline."""
    x = normal(2, 3, 5, 2)
    rows, columns = np.meshgrid((np.arange(6) - 0.5) / 2, (np.arange(10) - 0.5) / 2, indexing="ij")
    got = double_bilinear(jnp.asarray(x))
    for b, c in itertools.product(range(2), range(2)):
        expected = ndimage.map_coordinates(x[b, ..., c], [rows, columns], order=1, mode="nearest")
        np.testing.assert_allclose(got[b, ..., c], expected, rtol=1e-5, atol=1e-6)


def test_padding_and_cropping() -> None:
    """Padding goes to the next multiple, an odd zero after; cropping inverts it."""
    x = jnp.asarray(normal(2, 5, 8, 1))
    padded = pad_to_multiple(x, 8)
    assert padded.shape == (2, 8, 8, 1)
    np.testing.assert_array_equal(padded, np.pad(x, ((0, 0), (1, 2), (0, 0), (0, 0))))
    np.testing.assert_array_equal(crop_to(padded, 5, 8), x)
    assert [padded_size(size, 16) for size in (16, 17, 28)] == [16, 32, 32]
    with pytest.raises(ValueError, match="5x8 cannot be cropped to 6x6"):
        crop_to(x, 6, 6)
