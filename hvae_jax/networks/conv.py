"""Small convolutional networks for images: from `[B, H, W, C]` down to features, and from features up to p(x | z).

The encoder halves the resolution twice, the decoder doubles it twice, so that height and width are multiples of 4: 8x8
digits, 28x28 MNIST, 32x32 CIFAR-10. Every kernel is 3x3 and, like every bias, initialised as in PyTorch,
U(-1/sqrt(fan_in), 1/sqrt(fan_in)) with fan_in = 9 * inputs.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Num

from hvae_jax.networks.activations import sigmoid_gelu
from hvae_jax.networks.computing import ComputeDtype, prepend_axes, widen
from hvae_jax.networks.mlp import BatchNorm, sets, uniform_fan_in
from hvae_jax.networks.resample import convolve, enlarge

# The networks of a model that read x and parametrise p(x | z): linear layers, or those of this file.
NetworkKind = Literal["dense", "conv"]


def check_quarters(event: tuple[int, ...]) -> None:
    """Raise ValueError unless one x is an image `[H, W, C]` whose height and width can be halved twice."""
    if len(event) != 3 or event[0] % 4 or event[1] % 4 or min(event) < 1:
        raise ValueError(
            f"The convolutional networks take images [B, H, W, C] with H and W multiples of 4, but x has examples of "
            f"shape {tuple(event)}. Add the channel axis, pad or resize x, or use network='dense'."
        )


class Conv(nn.Module):
    """A convolution with bias, zero-padded by size // 2: `[B, H, W, C]` to `[B, H/stride, W/stride, features]`.

    Attributes:
      features: channels of the output.
      stride: 1 keeps the resolution, 2 halves it (rounded up).
      dtype: dtype of the product and the output, as in `Dense`.
      size: height and width of the kernel, an odd number.
    """

    features: int
    stride: int = 1
    dtype: ComputeDtype = None
    size: int = 3

    @nn.compact
    def __call__(
        self, x: Num[Array, "batch rows columns inputs"]
    ) -> Float[Array, "batch rows2 columns2 {self.features}"]:
        init = uniform_fan_in(self.size**2 * x.shape[-1])
        kernel = self.param("kernel", init, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        product = convolve(x, kernel, self.stride, dtype=self.dtype)
        return (widen(product) + prepend_axes(bias, 4)).astype(product.dtype)


class ConvEncoder(nn.Module):
    """Images to features: two convolutions of stride 2, each with activation and normalisation, then flattened.

    `[B, H, W, C]`, integers not rescaled, to `[B, (H/4) * (W/4) * 2 * width]`. The order of the layers is the
    article's: linear, activation, batch norm.

    Attributes:
      width: channels at half the resolution; twice as many at a quarter.
      activation: activation after each convolution.
      normalise: whether a `BatchNorm` over examples and pixels follows each activation.
      dtype: dtype of products, activations and the output; None is the dtype of the parameters.

    Raises ValueError if x is not a batch of images, or their height or width is not a multiple of 4.

    Example:
        >>> run = lambda x: hv.networks.ConvEncoder(width=8).init_with_output(jax.random.key(0), x, train=False)[0]
        >>> jax.eval_shape(run, jnp.ones((3, 8, 8, 1))).shape  # 2 x 2 pixels of 16 channels
        (3, 64)
    """

    width: int = 32
    activation: Callable[[Array], Array] = sigmoid_gelu
    normalise: bool = True
    dtype: ComputeDtype = None

    @nn.compact
    def __call__(self, x: Num[Array, "batch ..."], *, train: bool = False) -> Float[Array, "batch features"]:
        check_quarters(x.shape[1:])
        h = x
        for i, features in enumerate((self.width, 2 * self.width)):
            h = self.activation(Conv(features, 2, self.dtype, name=f"conv_{i}")(h))
            if self.normalise:
                h = BatchNorm(name=f"norm_{i}")(h, train=train)
        return h.reshape(h.shape[0], -1)


class ConvDecoder(nn.Module):
    """Features to the parameters of p(x | z), for images: `[B, F]` to `[B, H, W, C, parameters]`.

    A linear layer to `[H/4, W/4, 2 * width]` with activation and normalisation; nearest-neighbour upsampling and a
    convolution to `width` channels, with activation and normalisation again; upsampling and a convolution to
    C * parameters channels, fewer where channels share a set. It takes the place of `Readout` and, like it, records the
    shape of the data in the variables: in the shapes of `canvas_bias` and `pixel_bias`. The fan_in of the linear layer
    is F.

    Attributes:
      parameters: `Likelihood.parameters`, numbers in a set.
      image: `(H, W, C)`; may be None once there are variables.
      width, activation, normalise: as in `ConvEncoder`.
      dtype: dtype of products and activations; None is the dtype of the parameters. The output is float32 at least.
      channels: number of the image's channels that share one set of parameters.

    Raises ValueError if the shape is not that of an image, it is not known yet, or `channels` does not divide C.

    Example:
        >>> decoder = hv.networks.ConvDecoder(parameters=17, image=(8, 8, 1))
        >>> run = lambda h: decoder.init_with_output(jax.random.key(0), h, train=False)[0]
        >>> jax.eval_shape(run, jnp.ones((3, 32))).shape
        (3, 8, 8, 1, 17)
    """

    parameters: int
    image: tuple[int, ...] | None = None
    width: int = 32
    activation: Callable[[Array], Array] = sigmoid_gelu
    normalise: bool = True
    dtype: ComputeDtype = None
    channels: int = 1

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch inputs"], *, train: bool = False
    ) -> Float[Array, "batch rows columns sets {self.parameters}"]:
        image = self.event() or self.image
        if image is None:
            raise ValueError("The shape of the data is not known yet: initialise the model with an x first.")
        check_quarters(image)
        rows, columns, channels = image = sets(image, self.channels)
        canvas = (rows // 4, columns // 4, 2 * self.width)
        init = uniform_fan_in(h.shape[-1])
        kernel = self.param("canvas_kernel", init, (h.shape[-1], *canvas), jnp.float32)
        bias = self.param("canvas_bias", init, canvas, jnp.float32)
        if self.dtype is not None:
            h, kernel = h.astype(self.dtype), kernel.astype(self.dtype)
        product = jnp.tensordot(h, kernel, 1)
        # [B, H/4, W/4, 2 * width], then [B, H/2, W/2, width]
        h = self._finish((widen(product) + bias[None]).astype(product.dtype), 0, train)
        h = self._finish(Conv(self.width, dtype=self.dtype, name="conv")(enlarge(h, 2)), 1, train)

        init = uniform_fan_in(9 * self.width)
        kernel = self.param("pixel_kernel", init, (3, 3, self.width, channels, self.parameters), jnp.float32)
        bias = self.param("pixel_bias", init, (channels, self.parameters), jnp.float32)
        pixels = convolve(enlarge(h, 2), kernel.reshape(*kernel.shape[:3], -1), dtype=self.dtype)
        # [B, H, W, C * parameters] to [B, H, W, C, parameters]
        return widen(pixels).reshape(-1, *image, self.parameters) + prepend_axes(bias, 5)

    def _finish(self, h: Array, i: int, train: bool) -> Array:
        """Apply activation and normalisation of layer i."""
        h = self.activation(h)
        return BatchNorm(name=f"norm_{i}")(h, train=train) if self.normalise else h

    def event(self) -> tuple[int, ...] | None:
        """The shape of one x according to the variables; None before there are variables."""
        if not self.has_variable("params", "pixel_bias"):
            return None
        rows, columns, _ = self.get_variable("params", "canvas_bias").shape
        return (4 * rows, 4 * columns, self.get_variable("params", "pixel_bias").shape[0] * self.channels)
