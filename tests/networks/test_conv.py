"""Convolutions against SciPy, their shapes and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal
from support.cases import equations

from hvae_jax.networks.conv import Conv, ConvDecoder, ConvEncoder

KEY = jax.random.key(0)
IMAGES = [(8, 8, 1), (28, 28, 1), (32, 32, 3), (4, 12, 2)]


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_is_scipys(stride: int) -> None:
    """Sums of products with the kernel as it is, one zero around the image, every stride-th pixel, then the bias."""
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype(np.float32)
    got, variables = Conv(5, stride).init_with_output(KEY, jnp.asarray(x))
    kernel, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    for b in range(2):
        for o in range(5):
            planes = [signal.correlate2d(x[b, ..., i], kernel[..., i, o], mode="same") for i in range(3)]
            expected = sum(planes)[::stride, ::stride] + bias[o]
            np.testing.assert_allclose(got[b, ..., o], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("image", IMAGES)
def test_shapes(image: tuple[int, ...]) -> None:
    """Any height and width that can be halved twice fit, integers too; the variables record the image's shape."""
    x = jnp.zeros((3, *image), jnp.uint8)
    features = jax.eval_shape(lambda: ConvEncoder(width=4).init_with_output(KEY, x)[0])
    assert features.shape == (3, image[0] // 4 * (image[1] // 4) * 8)
    h = jnp.zeros((3, 7))
    made, variables = jax.eval_shape(lambda: ConvDecoder(2, image, width=4).init_with_output(KEY, h))
    assert made.shape == (3, *image, 2)
    again = jax.eval_shape(lambda variables: ConvDecoder(2, width=4).apply(variables, h), variables)
    assert again.shape == made.shape
    assert jax.eval_shape(lambda v: jnp.zeros(ConvDecoder(2).apply(v, method="event")), variables).shape == image


@pytest.mark.parametrize("shape", [(8, 8), (6, 8, 1), (8, 7, 1), (0, 4, 1), (8,)])
def test_what_is_no_image(shape: tuple[int, ...]) -> None:
    """Encoder and decoder raise an error with the shape and what would fit."""
    with pytest.raises(ValueError, match=r"multiples of 4, but x has examples of\s+shape \("):
        ConvEncoder().init(KEY, jnp.zeros((2, *shape)))
    with pytest.raises(ValueError, match="network='dense'"):
        ConvDecoder(1, shape).init(KEY, jnp.zeros((2, 3)))


def test_an_image_that_is_not_known_yet() -> None:
    with pytest.raises(ValueError, match="initialise the model with an x first"):
        ConvDecoder(1).init(KEY, jnp.zeros((2, 3)))


def test_initialisation() -> None:
    """Kernels and biases start as U(-b, b), b = 1/sqrt(fan_in): the largest is near b, the deviation b/sqrt(3)."""
    encoder = jax.jit(ConvEncoder(width=16).init)(KEY, jnp.zeros((1, 8, 8, 4)))["params"]
    decoder = jax.jit(ConvDecoder(3, (16, 16, 2), width=16).init)(KEY, jnp.zeros((1, 30)))["params"]
    for layer, kernel, bias, fan_in in (
        (encoder["conv_0"], "kernel", "bias", 9 * 4),
        (encoder["conv_1"], "kernel", "bias", 9 * 16),
        (decoder, "canvas_kernel", "canvas_bias", 30),
        (decoder["conv"], "kernel", "bias", 9 * 32),
        (decoder, "pixel_kernel", "pixel_bias", 9 * 16),
    ):
        bound = fan_in**-0.5
        assert 0.98 * bound < np.abs(layer[kernel]).max() <= bound
        np.testing.assert_allclose(np.std(layer[kernel]), bound / np.sqrt(3), rtol=0.05)
        assert 0.1 * bound < np.abs(layer[bias]).max() <= bound


def test_bfloat16() -> None:
    """Products read bfloat16; parameters and the decoder's output are float32, and close to those of float32."""
    x, h = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32), jnp.ones((4, 6))
    for half, plain, v in (
        (ConvEncoder(4, dtype="bfloat16"), ConvEncoder(4), x),
        (ConvDecoder(2, (8, 8, 3), 4, dtype="bfloat16"), ConvDecoder(2, (8, 8, 3), 4), h),
    ):
        variables = jax.jit(plain.init)(KEY, v)
        jax.tree.map(np.testing.assert_array_equal, jax.jit(half.init)(KEY, v), variables)
        products = [
            {str(operand.aval.dtype) for operand in equation.invars}
            for equation in equations(jax.make_jaxpr(half.apply)(variables, v))
            if equation.primitive.name in ("conv_general_dilated", "dot_general")
        ]
        assert len(products) in (2, 3) and all(dtypes == {"bfloat16"} for dtypes in products)
        got, expected = jax.jit(half.apply)(variables, v), jax.jit(plain.apply)(variables, v)
        assert got.dtype == (jnp.bfloat16 if isinstance(half, ConvEncoder) else jnp.float32)
        np.testing.assert_allclose(got.astype(jnp.float32), expected, atol=0.03)
