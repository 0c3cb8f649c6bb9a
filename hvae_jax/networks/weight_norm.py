"""Weight normalisation with data-dependent initialisation: linear layers, convolutions, transposed convolutions.

    kernel = gain v/|v|          the norm taken over all inputs of one output

v is initialised as N(0, 0.05^2). Gain and bias are initialised so that, on the batch that `init` is called with, each
output has mean 0 and standard deviation `scale` over examples and positions, layer after layer in the order of the
forward pass: outputs begin neither too large nor too small at any depth. So call `init` with a whole batch.

Source: Salimans & Kingma (2016), equations 2, 5 and 6.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Num

from hvae_jax.networks.computing import ComputeDtype, prepend_axes, widen
from hvae_jax.networks.resample import convolve, convolve_transposed


def inverse_norm(v: Float[Array, "... outputs"]) -> Float[Array, " outputs"]:
    """1/|v| for each output; 1 for an output without inputs, whose v is 0."""
    square = jnp.square(v).sum(range(v.ndim - 1))
    return jax.lax.rsqrt(jnp.where(square > 0.0, square, 1.0))


def directions(v: Float[Array, "*inputs outputs"]) -> Float[Array, "*inputs outputs"]:
    """v/|v| for each output; 0 for an output that a mask leaves without inputs, whose v is 0."""
    return v * prepend_axes(inverse_norm(v), v.ndim)


def first_gain_and_bias(
    outputs: Float[Array, "... features"], scale: float
) -> tuple[Float[Array, " features"], Float[Array, " features"]]:
    """Gain and bias that give each output mean 0 and standard deviation `scale` over all other axes.

    An output that varies by less than the rounding of its mean, as over a batch of one vector, has no standard
    deviation to divide by: it gets mean 0 and a gain of `scale`, as for inputs of variance 1.
    """
    axes = tuple(range(outputs.ndim - 1))
    mean, var = outputs.mean(axes), outputs.var(axes)
    # relative to the mean, whose rounding alone gives a variance
    varies = var > 1e-10 * (1.0 + jnp.square(mean))
    gain = scale * jnp.where(varies, jax.lax.rsqrt(jnp.where(varies, var, 1.0)), 1.0)
    return gain, -mean * gain


class WeightNormDense(nn.Module):
    """A linear layer with weight norm, `[B, inputs]` to `[B, features]`: gain (x @ v)/|v| + bias.

    Attributes:
      features: width of the output.
      scale: standard deviation of the outputs on the first batch.
      data_dependent: whether the first batch decides gain and bias; otherwise they begin as 1 and 0.
      dtype: dtype of the product and the output; None is what x and the kernel promote to. Norm, gain and bias are
        float32 either way.
    """

    features: int
    scale: float = 0.1
    data_dependent: bool = True
    dtype: ComputeDtype = None

    @nn.compact
    def __call__(self, x: Num[Array, "batch inputs"]) -> Float[Array, "batch {self.features}"]:
        v = self.param("kernel", nn.initializers.normal(0.05), (x.shape[-1], self.features), jnp.float32)
        product = x @ v if self.dtype is None else x.astype(self.dtype) @ v.astype(self.dtype)
        unit = widen(product) * inverse_norm(v)[None]
        gain, bias = _gain_and_bias(self, unit, self.scale, self.data_dependent)
        return (unit * gain[None] + bias[None]).astype(product.dtype)


class WeightNormConv(nn.Module):
    """A convolution with weight norm: `[B, H, W, C]` to `[B, H/stride, W/stride, features]`; transposed, times stride.

    x is padded with as few zeros as an output of size H/stride, rounded up, needs: half of them (rounded down) before.
    The output of a transposed convolution is cropped by size - stride lines, half of them (rounded down) before. A
    transposed kernel smaller than its stride leaves gaps in the output; those at its edges are 0, without the bias.

    Attributes:
      features: channels of the output.
      size: height and width of the kernel.
      stride: stride of the kernel, in rows and columns.
      transposed: whether the stride upsamples instead of downsampling.
      scale, data_dependent, dtype: as in `WeightNormDense`.
      odd_before: whether an odd line of zeros, or of the cropped output, is before and not after: PyTorch's padding of
        1 (with output_padding of 1) for a 3x3 kernel of stride 2.
    """

    features: int
    size: int = 3
    stride: int = 1
    transposed: bool = False
    scale: float = 0.1
    data_dependent: bool = True
    dtype: ComputeDtype = None
    odd_before: bool = False

    @nn.compact
    def __call__(
        self, x: Num[Array, "batch rows columns inputs"]
    ) -> Float[Array, "batch rows2 columns2 {self.features}"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        v = self.param("kernel", nn.initializers.normal(0.05), shape, jnp.float32)
        if self.is_initializing():
            # gain and bias follow from the statistics of the output at gain 1
            product = self._convolve(x, directions(v))
            gain, bias = _gain_and_bias(self, widen(product), self.scale, self.data_dependent)
            product = product * prepend_axes(gain, 4).astype(product.dtype)
        else:
            gain, bias = _gain_and_bias(self, v, self.scale, self.data_dependent)  # of v, only the last axis matters
            # Outside of initialisation gain/|v| scales the kernel, which is smaller than the maps.
            product = self._convolve(x, v * prepend_axes(gain * inverse_norm(v), 4))
        return self._without_gaps((widen(product) + prepend_axes(bias, 4)).astype(product.dtype))

    def _convolve(self, x: Array, kernel: Array) -> Array:
        """The convolution without gain and bias."""
        if not self.transposed:
            rows, columns = (self._halves(_same(side, self.size, self.stride)) for side in x.shape[1:3])
            return convolve(x, kernel, self.stride, (rows, columns), self.dtype)
        before, after = self._gaps
        kernel = jnp.pad(kernel, ((before, after), (before, after), (0, 0), (0, 0)))
        crop = self._halves(max(self.size - self.stride, 0))
        return convolve_transposed(x, kernel, self.stride, crop, self.dtype)

    def _halves(self, total: int) -> tuple[int, int]:
        """Number of lines before and after, of `total`."""
        less = total // 2
        return (total - less, less) if self.odd_before else (less, total - less)

    @property
    def _gaps(self) -> tuple[int, int]:
        """Number of lines by which a transposed kernel is smaller than its stride, before and after."""
        lacking = max(self.stride - self.size, 0) if self.transposed else 0
        return lacking - lacking // 2, lacking // 2

    def _without_gaps(self, y: Array) -> Array:
        """y with 0 in the gaps at its edges."""
        before, after = self._gaps
        if not before:
            return y
        inner = y[:, before : y.shape[1] - after, before : y.shape[2] - after]
        return jnp.pad(inner, ((0, 0), (before, after), (before, after), (0, 0)))


def _same(size: int, kernel: int, stride: int) -> int:
    """Number of zeros around `size` pixels for size/stride outputs, rounded up: TensorFlow's SAME."""
    return max(0, (-(-size // stride) - 1) * stride + kernel - size)


def _gain_and_bias(module: nn.Module, unit: Array, scale: float, data_dependent: bool) -> tuple[Array, Array]:
    """Gain and bias of the module, initialised by `unit`, its output at gain 1 and bias 0."""
    features = unit.shape[-1]
    gain, bias = jnp.ones(features, jnp.float32), jnp.zeros(features, jnp.float32)
    if data_dependent and module.is_initializing():
        gain, bias = first_gain_and_bias(unit, scale)
    return (
        module.param("gain", lambda _: gain.astype(jnp.float32)),
        module.param("bias", lambda _: bias.astype(jnp.float32)),
    )
