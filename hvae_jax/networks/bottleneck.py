"""Bottlenecks of very deep VAEs, chains of pre-activated convolutions, and learned changes of resolution.

    f(h) = conv_{n+1}(a(... conv_1(a(conv_0(a(h))))))       channels: C to M, n times M to M, M to C'

The first and the last convolution are 1x1 by default. There is no normalisation; every bias begins at 0.

Source: Child (2021), "Very Deep VAEs", section 3 and figure 3, and its code; Hazami et al. (2022), "Efficient-VDVAE",
section 4, and its code.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Num

from hvae_jax.networks.activations import exact_gelu
from hvae_jax.networks.computing import ComputeDtype, Precision, product, widen
from hvae_jax.networks.mlp import Initialisation
from hvae_jax.networks.resample import convolve, enlarge
from hvae_jax.records import checked


@dataclasses.dataclass(frozen=True)
@checked
class BottleneckStyle:
    """Settings that all convolutions of a model share.

    Attributes:
      activation: activation before each convolution of a bottleneck.
      initialisation: initialiser of kernels, U(-b, b): "pytorch" with b = 1/sqrt(fan_in), or "glorot" with
        b = sqrt(6/(fan_in + fan_out)).
      edge: kernel size of a bottleneck's first and last convolution; None is that of the other convolutions.
      dtype: dtype of products and activations; None is the parameters'.
      precision: precision of products on accelerators.
    """

    activation: Callable[[Array], Array] = exact_gelu
    initialisation: Initialisation = "pytorch"
    edge: int | None = 1
    dtype: ComputeDtype = None
    precision: Precision = "default"


def _bound(initialisation: Initialisation, shape: tuple[int, ...]) -> float:
    """b of the initialiser U(-b, b), for a kernel `[height, width, inputs, outputs]`."""
    fan_in, fan_out = math.prod(shape[:3]), shape[0] * shape[1] * shape[3]
    return math.sqrt(6 / (fan_in + fan_out)) if initialisation == "glorot" else fan_in**-0.5


class BottleneckConv(nn.Module):
    """A convolution with a bias that begins at 0: `[B, H, W, C]` to `[B, H/stride, W/stride, features]`.

    Attributes:
      features: channels of the output.
      size: height and width of the kernel.
      stride: stride; x is padded with zeros at stride 1 only, which keeps the resolution.
      scale: factor of the kernel at initialisation; 1 is the style's initialiser.
      style: settings of all convolutions.
    """

    features: int
    size: int = 1
    stride: int = 1
    scale: float = 1.0
    style: BottleneckStyle = BottleneckStyle()

    @nn.compact
    def __call__(
        self,
        x: Num[Array, "batch rows columns inputs"],
        more: Num[Array, "batch rows columns inputs2"] | None = None,
        begin: Float[Array, " numbers"] | None = None,
        *,
        ahead: bool = False,
    ) -> Float[Array, "batch rows2 columns2 features"]:
        """The convolution of x, or of x and `more` concatenated along the channels.

        Args:
          begin: draws from U(-1, 1) that the kernel is initialised with, flattened; None makes new ones.
          ahead: whether x is that already but for the bias: the product with the kernel was taken elsewhere.
        """
        inputs = x.shape[-1] + (0 if more is None else more.shape[-1])
        style, shape = self.style, (self.size, self.size, inputs, self.features)
        bound = self.scale * _bound(style.initialisation, shape)

        def init(key: Array) -> Array:
            numbers = jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0) if begin is None else begin
            return bound * numbers.reshape(shape)

        kernel = None if ahead else self.param("kernel", init)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        padding = None if self.stride == 1 else ((0, 0), (0, 0))
        settings = (self.stride, padding, style.dtype, style.precision)
        if kernel is None:
            out = x
        elif more is None:
            out = convolve(x, kernel, *settings)
        else:
            # Two products of half the kernel each: the concatenated feature maps are never stored.
            first, second = jnp.split(kernel, [x.shape[-1]], axis=2)
            out = convolve(x, first, *settings) + convolve(more, second, *settings)
        # Added in float32, so that the bias's gradient, a sum over the batch and all positions, is float32.
        return product((widen(out) + bias[None, None, None]).astype(out.dtype))


class Bottleneck(nn.Module):
    """A bottleneck f: `[B, H, W, C]` to `[B, H, W, outputs]`.

    Attributes:
      outputs: C', channels of the output.
      middle: M, channels inside.
      layers: n, convolutions from M to M channels.
      size: their kernel size.
      scale: factor of the last kernel at initialisation.
      style: settings of all convolutions.
    """

    outputs: int
    middle: int
    layers: int = 2
    size: int = 3
    scale: float = 1.0
    style: BottleneckStyle = BottleneckStyle()

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "batch rows columns inputs"],
        more: Float[Array, "batch rows columns inputs2"] | None = None,
        *,
        ahead: bool = False,
    ) -> Float[Array, "batch rows columns outputs"]:
        """f(h), or f of h and `more` concatenated along the channels.

        Args:
          ahead: whether h is instead the first convolution's product with its kernel, `[B, H, W, M]`, taken elsewhere
            (`stacked_products`, `joint_products`).
        """
        inputs = h.shape[-1] + (0 if more is None else more.shape[-1])
        edge = self.size if self.style.edge is None else self.style.edge
        sizes = (edge, *(self.size,) * self.layers, edge)
        channels = (inputs, *(self.middle,) * (self.layers + 1), self.outputs)
        begin: list[Array | None] = [None] * len(sizes)
        if self.is_initializing():
            # One draw for all kernels of the bottleneck: it compiles as fast as the draw of a single kernel.
            ends = np.cumsum([size**2 * a * b for size, a, b in zip(sizes, channels, channels[1:], strict=False)])
            numbers = jax.random.uniform(self.make_rng("params"), (int(ends[-1]),), jnp.float32, -1.0, 1.0)
            begin = list(jnp.split(numbers, ends[:-1]))
        for i, size in enumerate(sizes):
            scale = self.scale if i == len(sizes) - 1 else 1.0
            conv = BottleneckConv(channels[i + 1], size, scale=scale, style=self.style, name=f"conv_{i}")
            # h and `more` are activated separately: XLA then shares a(h) with another bottleneck that reads h.
            second = None if more is None or i else self.style.activation(more)
            first_ahead = ahead and i == 0
            h = conv(h if first_ahead else self.style.activation(h), second, begin[i], ahead=first_ahead)
        return h


def stacked_products(
    h: Float[Array, "batch rows columns inputs"],
    kernels: Float[Array, "blocks height width inputs features"],
    style: BottleneckStyle,
) -> Float[Array, "blocks batch rows columns features"]:
    """The products of a(h) with first kernels of the blocks of a run, or with those halves of them that are for h.

    A block that is given its product does not read h, and no gradients of h are summed over the blocks.
    """
    activated = style.activation(h)
    return jax.vmap(lambda kernel: convolve(activated, kernel, dtype=style.dtype, precision=style.precision))(kernels)


def joint_products(
    h: Float[Array, "batch rows columns inputs"],
    kernels: Sequence[Float[Array, "height width inputs features"]],
    style: BottleneckStyle,
) -> list[Float[Array, "batch rows columns features"]]:
    """The products of a(h) with first kernels of several bottlenecks, taken as one, so that h is read once."""
    both = jnp.concatenate(kernels, axis=-1)
    out = convolve(style.activation(h), both, dtype=style.dtype, precision=style.precision)
    return jnp.split(out, np.cumsum([kernel.shape[-1] for kernel in kernels])[:-1], axis=-1)


def small_leak(h: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(h, 0.1 h)."""
    return jax.nn.leaky_relu(h, 0.1)


class LearnedPool(nn.Module):
    """Downsampling by a strided convolution, small_leak(conv(h)).

    Attributes:
      features: channels of the output.
      factor: kernel size and stride.
      style: settings of all convolutions.

    Source: Hazami et al. (2022), their code.
    """

    features: int
    factor: int
    style: BottleneckStyle = BottleneckStyle()

    @nn.compact
    def __call__(self, h: Float[Array, "batch rows columns inputs"]) -> Float[Array, "batch rows2 columns2 features"]:
        return small_leak(BottleneckConv(self.features, self.factor, self.factor, style=self.style, name="conv")(h))


class LearnedUnpool(nn.Module):
    """Upsampling by the nearest neighbour after a 1x1 convolution, enlarge(small_leak(conv(h))).

    Attributes:
      features: channels of the output.
      factor: upsampling factor.
      style: settings of all convolutions.

    Source: Hazami et al. (2022), their code.
    """

    features: int
    factor: int
    style: BottleneckStyle = BottleneckStyle()

    @nn.compact
    def __call__(self, h: Float[Array, "batch rows columns inputs"]) -> Float[Array, "batch rows2 columns2 features"]:
        return enlarge(small_leak(BottleneckConv(self.features, style=self.style, name="conv")(h)), self.factor)
