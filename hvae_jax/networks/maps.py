"""Networks over feature maps without normalisation: a run of residual blocks, and heads that may start at zero."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.networks.computing import ComputeDtype, call, prepend_axes, widen
from hvae_jax.networks.conv import Conv
from hvae_jax.networks.resample import convolve


class Maps(nn.Module):
    """A 3x3 convolution, which may halve the resolution, and residual blocks: `[B, H, W, C]` to `[B, h, w, width]`.

    Without batch norm, so that a frozen module is the same function in training as in evaluation.

    Attributes:
      width: channels of the output.
      blocks: number of blocks x + conv(elu(conv(elu(x)))).
      halves: whether the first convolution has stride 2.
      dtype: precision of products and activations; None is the precision of the parameters.
      remat: whether the backward pass recomputes each block instead of storing it.
    """

    width: int
    blocks: int
    halves: bool
    dtype: ComputeDtype = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = Conv(self.width, 1 + self.halves, self.dtype, name="first")(x)
        for i in range(self.blocks):
            h = call(Block(self.dtype, name=f"block_{i}"), h, train=False, remat=self.remat)
        return jax.nn.elu(h)


class Block(nn.Module):
    """x + conv(elu(conv(elu(x)))) with 3x3 convolutions; `dtype` as in `Maps`."""

    dtype: ComputeDtype = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        h = x
        for i in range(2):
            h = Conv(x.shape[-1], dtype=self.dtype, name=f"conv_{i}")(jax.nn.elu(h))
        return x + h


class Head(nn.Module):
    """A 3x3 convolution, which may start at zero, behind a hidden one if there is one: `[B, H, W, C]` to maps.

    Attributes:
      features: channels of the output.
      hidden: channels of the hidden convolution, which an ELU follows; 0 for none.
      zero: whether kernel and bias start at zero.
      dtype: as in `Maps`.
    """

    features: int
    hidden: int
    zero: bool
    dtype: ComputeDtype = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = jax.nn.elu(Conv(self.hidden, dtype=self.dtype, name="hidden")(x)) if self.hidden else x
        if not self.zero:
            return Conv(self.features, dtype=self.dtype, name="last")(h)
        kernel = self.param("kernel", nn.initializers.zeros, (3, 3, h.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        product = convolve(h, kernel, dtype=self.dtype)
        return (widen(product) + prepend_axes(bias, 4)).astype(product.dtype)
