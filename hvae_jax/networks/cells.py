"""NVAE's residual cells: convolutions whose weights are normalised by a learned logarithm, batch norm, squeezing.

    cell(x) = skip(x) + 0.1 squeeze(branch(x))

    EncoderCell   branch: [batch norm, swish, 3x3 convolution] twice, the first perhaps of stride 2
    DecoderCell   branch: an inverted residual: batch norm, 1x1 to a multiple of the channels, [batch norm, swish],
                  depthwise 5x5, [batch norm, swish], 1x1 back, batch norm; perhaps after nearest-neighbour upsampling

A cell that changes the resolution has a skip of its own: `FactorisedReduce` down, aligned bilinear interpolation and a
1x1 convolution up. The small factor of the branch lets hundreds of cells begin near the identity.

Source: Vahdat & Kautz (2020), section 3.1 and figure 3; what the paper leaves open follows their published models.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Num

from hvae_jax.networks.computing import ComputeDtype, prepend_axes, product, widen
from hvae_jax.networks.mlp import BatchNorm, Dense, uniform_fan_in
from hvae_jax.networks.resample import convolve, depthwise, double_bilinear, enlarge
from hvae_jax.records import checked

_BRANCH = 0.1  # factor of the branch beside the skip
_MOMENTUM = 0.95  # of batch norm; PyTorch's momentum of 0.05


@dataclasses.dataclass(frozen=True)
@checked
class CellStyle:
    """Settings that all cells of a model share.

    Attributes:
      squeeze: whether `SqueezeExcite` scales the channels of every branch.
      epsilon: number added to the norms of weights; the published code adds 1e-5.
      dtype: dtype of products and activations; None is that of the parameters.
    """

    squeeze: bool = True
    epsilon: float = 0.0
    dtype: ComputeDtype = None


def normalised(
    kernel: Float[Array, "... height width inputs outputs"],
    log_norm: Float[Array, "... outputs"],
    epsilon: float = 0.0,
) -> Float[Array, "... height width inputs outputs"]:
    """exp(log_norm) kernel/(|kernel| + epsilon), the norm of each output taken over height, width and inputs.

    Source: Vahdat & Kautz (2020), section 3.2, after Salimans & Kingma (2016), equation 2, with a logarithmic gain.
    """
    norm = jnp.sqrt(jnp.square(kernel).sum((-4, -3, -2)))
    gain = jnp.exp(log_norm) / (norm + epsilon)
    return kernel * gain[..., None, None, None, :]


class LogNormConv(nn.Module):
    """A convolution with normalised weights: `[B, H, W, C]` to `[B, H/stride, W/stride, features]`.

    The kernel is initialised as in PyTorch, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), and `log_norm` as the logarithm of its
    norm plus 0.01, so that the layer begins as PyTorch's. Zero-padded by size // 2 on every side.

    Attributes:
      features: channels of the output.
      size: height and width of the kernel, an odd number.
      stride: 1, or 2 to halve the resolution.
      bias: whether a bias is added.
      style: settings of the cell it belongs to.
    """

    features: int
    size: int = 3
    stride: int = 1
    bias: bool = True
    style: CellStyle = CellStyle()

    @nn.compact
    def __call__(
        self, x: Num[Array, "batch rows columns inputs"]
    ) -> Float[Array, "batch rows2 columns2 {self.features}"]:
        init = uniform_fan_in(self.size**2 * x.shape[-1])
        kernel = self.param("kernel", init, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        log_norm = self.param("log_norm", lambda _: first_log_norm(kernel))
        weight = normalised(kernel, log_norm, self.style.epsilon)
        out = convolve(x, weight, self.stride, dtype=self.style.dtype)
        if self.bias:
            bias = self.param("bias", init, (self.features,), jnp.float32)
            out = (widen(out) + prepend_axes(bias, 4)).astype(out.dtype)
        return product(out)


def first_log_norm(kernel: Float[Array, "height width inputs outputs"]) -> Float[Array, " outputs"]:
    """log(|kernel| + 0.01) for each output, the initial value of `log_norm`."""
    return jnp.log(jnp.sqrt(jnp.square(kernel).sum((0, 1, 2))) + 0.01)


class SqueezeExcite(nn.Module):
    """Scales the channels of `[B, H, W, C]` by sigmoid(W2 relu(W1 mean)), the mean over the positions of each channel.

    The hidden layer has C // 16 units, at least 4.
    Source: Hu et al. (2018), "Squeeze-and-Excitation Networks", section 3.
    """

    style: CellStyle = CellStyle()

    @nn.compact
    def __call__(self, h: Float[Array, "batch rows columns channels"]) -> Float[Array, "batch rows columns channels"]:
        channels = h.shape[-1]
        mean = product(widen(h).mean((1, 2)).astype(h.dtype))  # [B, C]
        hidden = jax.nn.relu(Dense(max(channels // 16, 4), self.style.dtype, name="reduce")(mean))
        scale = jax.nn.sigmoid(Dense(channels, self.style.dtype, name="expand")(hidden))
        return h * scale[:, None, None]


class FactorisedReduce(nn.Module):
    """Halves the resolution: four 1x1 convolutions of stride 2 of swish(x), each of another position of 2x2 squares.

    `[B, H, W, C]` to `[B, H/2, W/2, features]`. The first three give features // 4 channels, the last one the rest.
    """

    features: int
    style: CellStyle = CellStyle()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch rows columns inputs"]
    ) -> Float[Array, "batch rows2 columns2 {self.features}"]:
        h = jax.nn.swish(x)
        quarter = self.features // 4
        parts = []
        # The order of the positions is that of the published weights.
        for i, (row, column) in enumerate(((0, 0), (1, 1), (0, 1), (1, 0))):
            features = quarter if i < 3 else self.features - 3 * quarter
            conv = LogNormConv(features, 1, style=self.style, name=f"conv_{i}")
            parts.append(conv(h[:, row::2, column::2]))
        return jnp.concatenate(parts, axis=-1)


class EncoderCell(nn.Module):
    """A cell of the bottom-up path: `[B, H, W, C]` to `[B, H/stride, W/stride, features]`.

    Attributes:
      features: channels of the output; those of x at stride 1.
      stride: 1, or 2 to halve the resolution.
      style: settings of all cells.
    """

    features: int
    stride: int = 1
    style: CellStyle = CellStyle()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch rows columns inputs"], *, train: bool
    ) -> Float[Array, "batch rows2 columns2 {self.features}"]:
        h = x
        for i in range(2):
            h = jax.nn.swish(BatchNorm(_MOMENTUM, name=f"norm_{i}")(h, train=train))
            h = LogNormConv(self.features, 3, 1 if i else self.stride, style=self.style, name=f"conv_{i}")(h)
        if self.style.squeeze:
            h = SqueezeExcite(self.style, name="squeeze")(h)
        skip = x if self.stride == 1 else FactorisedReduce(self.features, self.style, name="skip")(x)
        return skip + _BRANCH * h


class DecoderCell(nn.Module):
    """A cell of the top-down path: `[B, H, W, C]` to `[B, H, W, features]`, or twice the height and width.

    Attributes:
      features: channels of the output; those of x unless the resolution is doubled.
      expansion: channels inside the branch, as a multiple of those of x.
      double: whether the resolution is doubled.
      style: settings of all cells.
    """

    features: int
    expansion: int = 6
    double: bool = False
    style: CellStyle = CellStyle()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch rows columns inputs"], *, train: bool
    ) -> Float[Array, "batch rows2 columns2 {self.features}"]:
        def norm(i: int, h: Array) -> Array:
            return BatchNorm(_MOMENTUM, name=f"norm_{i}")(h, train=train)

        inside = self.expansion * x.shape[-1]
        h = norm(0, enlarge(x, 2) if self.double else x)
        h = jax.nn.swish(norm(1, self._conv("expand", 1, x.shape[-1], inside, h)))
        h = jax.nn.swish(norm(2, self._conv("depthwise", 5, 1, inside, h)))
        h = norm(3, self._conv("project", 1, inside, self.features, h))
        if self.style.squeeze:
            h = SqueezeExcite(self.style, name="squeeze")(h)
        skip = x
        if self.double:
            # bilinear and not nearest as in the branch: the skip carries the signal, which should not get edges
            interpolated = double_bilinear(x, align_corners=True)
            skip = LogNormConv(self.features, 1, bias=False, style=self.style, name="skip")(interpolated)
        return skip + _BRANCH * h

    def _conv(self, name: str, size: int, inputs: int, outputs: int, h: Array) -> Array:
        """A plain convolution without bias, which the batch norm after it has; depthwise if it has a single input."""
        init = uniform_fan_in(size**2 * inputs)
        kernel = self.param(f"{name}_kernel", init, (size, size, inputs, outputs), jnp.float32)
        apply = depthwise if size > 1 else convolve
        return product(apply(h, kernel, dtype=self.style.dtype))
