"""Weight normalisation with data-dependent initialisation: linear layers, convolutions, transposed convolutions.

    kernel = gain v/|v|          the norm over all that goes into one output

v begins as N(0, 0.05^2). On the batch that `init` is called with, gain and bias are such that each output has mean 0
and the standard deviation `scale` over examples and places, layer after layer in the order of the forward pass: no
layer begins too large or too small, however many there are. Give `init` a whole batch then.

Source: Salimans & Kingma (2016), equations 2, 5 and 6.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Num

from hvae_jax.networks.computing import ComputeDtype, widen
from hvae_jax.networks.resample import convolve, convolve_transposed


def inverse_norm(v: Float[Array, "... outputs"]) -> Float[Array, " outputs"]:
    """1/|v| for each output, and 1 for one into which nothing goes, all of its v being 0."""
    square = jnp.square(v).sum(range(v.ndim - 1))
    return jax.lax.rsqrt(jnp.where(square > 0.0, square, 1.0))


def directions(v: Float[Array, "*inputs outputs"]) -> Float[Array, "*inputs outputs"]:
    """v/|v| for each output. An output into which nothing goes, all of its v being 0, keeps its zeros."""
    return v * _last(inverse_norm(v), v.ndim)


def first_gain_and_bias(
    outputs: Float[Array, "... features"], scale: float
) -> tuple[Float[Array, " features"], Float[Array, " features"]]:
    """Gain and bias that give each output, over every axis before it, mean 0 and standard deviation `scale`.

    Where an output varies by less than its mean's rounding, as it does over a batch of one vector, there is nothing to
    go by: it gets mean 0 and a gain of `scale`, as for inputs of variance 1.
    """
    axes = tuple(range(outputs.ndim - 1))
    mean, var = outputs.mean(axes), outputs.var(axes)
    varies = var > 1e-10 * (1.0 + jnp.square(mean))
    gain = scale * jnp.where(varies, jax.lax.rsqrt(jnp.where(varies, var, 1.0)), 1.0)
    return gain, -mean * gain


class WeightNormDense(nn.Module):
    """A linear layer with weight norm, `[B, inputs]` to `[B, features]`: gain (x @ v)/|v| + bias.

    Attributes:
      features: width of the output.
      scale: standard deviation of the outputs on the first batch.
      data_dependent: whether the first batch decides gain and bias; otherwise they are 1 and 0.
      dtype: what the product is computed in, and the output's; None for what x and the kernel promote to. Norm, gain
        and bias are float32 all the same.
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
    """A convolution with weight norm: `[B, H, W, C]` to `[B, H/stride, W/stride, features]`, or times stride.

    The zeros around x are as few as the output's size, H/stride rounded up, asks for, half of them (rounded down)
    before. Transposed, size - stride lines are cropped of the whole, half of them (rounded down) before; a kernel
    smaller than its stride leaves gaps, and what of those lies beyond the first and the last place of the kernel is 0
    without bias.

    Attributes:
      features: channels of the output.
      size: of the kernel, in rows and columns.
      stride: between the places where it is laid.
      transposed: whether the stride enlarges the map instead.
      scale, data_dependent, dtype: as in `WeightNormDense`.
    """

    features: int
    size: int = 3
    stride: int = 1
    transposed: bool = False
    scale: float = 0.1
    data_dependent: bool = True
    dtype: ComputeDtype = None

    @nn.compact
    def __call__(
        self, x: Num[Array, "batch rows columns inputs"]
    ) -> Float[Array, "batch rows2 columns2 {self.features}"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        v = self.param("kernel", nn.initializers.normal(0.05), shape, jnp.float32)
        if self.is_initializing():
            product = self._convolve(x, directions(v))
            gain, bias = _gain_and_bias(self, widen(product), self.scale, self.data_dependent)
            product = product * gain[None, None, None].astype(product.dtype)
        else:
            gain, bias = _gain_and_bias(self, v, self.scale, self.data_dependent)
            product = self._convolve(x, v * (gain * inverse_norm(v))[None, None, None])
        return self._without_gaps((widen(product) + bias[None, None, None]).astype(product.dtype))

    def _convolve(self, x: Array, kernel: Array) -> Array:
        """The convolution alone."""
        if not self.transposed:
            rows, columns = (_same(side, self.size, self.stride) for side in x.shape[1:3])
            return convolve(x, kernel, self.stride, (rows, columns), self.dtype)
        before, after = self._gaps
        kernel = jnp.pad(kernel, ((before, after), (before, after), (0, 0), (0, 0)))
        more = max(self.size - self.stride, 0)
        return convolve_transposed(x, kernel, self.stride, (more // 2, more - more // 2), self.dtype)

    @property
    def _gaps(self) -> tuple[int, int]:
        """Lines that a transposed kernel lacks of its stride, before and after."""
        lacking = max(self.stride - self.size, 0) if self.transposed else 0
        return lacking - lacking // 2, lacking // 2

    def _without_gaps(self, y: Array) -> Array:
        """y, and 0 where nothing was laid, at the edges."""
        before, after = self._gaps
        if not before:
            return y
        inner = y[:, before : y.shape[1] - after, before : y.shape[2] - after]
        return jnp.pad(inner, ((0, 0), (before, after), (before, after), (0, 0)))


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after `size` pixels for size/stride outputs, rounded up: TensorFlow's SAME."""
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def _gain_and_bias(module: nn.Module, unit: Array, scale: float, data_dependent: bool) -> tuple[Array, Array]:
    """The module's two vectors; `unit`, what it gives at gain 1 and bias 0, decides how they begin."""
    features = unit.shape[-1]
    gain, bias = jnp.ones(features, jnp.float32), jnp.zeros(features, jnp.float32)
    if data_dependent and module.is_initializing():
        gain, bias = first_gain_and_bias(unit, scale)
    return (
        module.param("gain", lambda _: gain.astype(jnp.float32)),
        module.param("bias", lambda _: bias.astype(jnp.float32)),
    )


def _last(v: Float[Array, " outputs"], ndim: int) -> Float[Array, "*ones outputs"]:
    """v with leading axes of size 1, so that no operation promotes ranks silently."""
    return v.reshape((1,) * (ndim - 1) + v.shape)
