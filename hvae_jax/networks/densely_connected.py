"""Densely connected convolutions with channel attention: each block adds maps to all those before it.

    block        h -> [h, conv3(conv1(h))]                            conv1 to 4 g channels, conv3 to g, nothing between
    layer        (block, ELU of all maps) `steps` times, then channel attention
    attention    h * sigmoid(W2 W1 mean(h)), the mean over rows and columns; W1 to an eighth of the channels

From these: an encoder halves the resolution, a decoder doubles it, a network keeps it. Every layer is weight-normed.

Source: Gatopoulos & Tomczak (2021), "Self-Supervised Variational Auto-Encoders", and their code (ioangatop/srVAE);
Huang et al. (2017) for dense connections; Zhang et al. (2018) for the attention. The ELU is applied to the old maps
too, once more in each step, as in that code.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Num

from hvae_jax.networks.computing import ComputeDtype
from hvae_jax.networks.weight_norm import WeightNormConv, WeightNormDense

# standard deviation of the outputs of inner layers on the first batch: that of the maps they are joined to
_INNER = 1.0
_REDUCTION = 8


class ChannelAttention(nn.Module):
    """Scales each channel by a number between 0 and 1, made of the means of all channels.

    Attributes:
      dtype: dtype of the products; None is that of the parameters.
    """

    dtype: ComputeDtype = None

    @nn.compact
    def __call__(self, h: Float[Array, "batch rows columns channels"]) -> Float[Array, "batch rows columns channels"]:
        channels = h.shape[-1]
        means = h.mean((1, 2))  # [B, C]
        few = WeightNormDense(max(1, channels // _REDUCTION), _INNER, dtype=self.dtype, name="reduce")(means)
        gates = jax.nn.sigmoid(WeightNormDense(channels, _INNER, dtype=self.dtype, name="expand")(few))
        return h * gates[:, None, None, :]


class DenseBlocks(nn.Module):
    """A layer: `steps` blocks and the attention, `[B, H, W, C]` to `[B, H, W, C + steps * growth]`.

    Attributes:
      growth: number of maps that a block adds.
      steps: number of blocks.
      dtype: dtype of the products; None is that of the parameters.
    """

    growth: int
    steps: int
    dtype: ComputeDtype = None

    @nn.compact
    def __call__(self, h: Num[Array, "batch rows columns channels"]) -> Float[Array, "batch rows columns more"]:
        for i in range(self.steps):
            wide = WeightNormConv(4 * self.growth, 1, scale=_INNER, dtype=self.dtype, name=f"wide_{i}")(h)
            new = WeightNormConv(self.growth, scale=_INNER, dtype=self.dtype, name=f"grow_{i}")(wide)
            h = jax.nn.elu(jnp.concatenate([h, new], axis=-1))
        return ChannelAttention(self.dtype, name="attention")(h)


class DenselyEncoder(nn.Module):
    """`[B, H, W, C]` to `[B, H/2^halvings, W/2^halvings, features]`.

    Attributes:
      features: channels of the output.
      growth: growth at the resolution of the input; doubled by each halving.
      steps: blocks of each layer.
      halvings: number of times the resolution is halved, each time by a layer and a convolution to twice its channels.
      dtype: dtype of the products; None is that of the parameters.
    """

    features: int
    growth: int
    steps: int
    halvings: int = 1
    dtype: ComputeDtype = None

    @nn.compact
    def __call__(self, h: Num[Array, "batch ..."], *, train: bool = False) -> Float[Array, "batch ..."]:
        growth = self.growth
        for i in range(self.halvings):
            h = DenseBlocks(growth, self.steps, self.dtype, name=f"dense_{i}")(h)
            down = WeightNormConv(
                2 * h.shape[-1], stride=2, scale=_INNER, dtype=self.dtype, odd_before=True, name=f"down_{i}"
            )
            h, growth = down(h), 2 * growth
        h = DenseBlocks(growth, self.steps, self.dtype, name=f"dense_{self.halvings}")(h)
        return WeightNormConv(self.features, 1, dtype=self.dtype, name="last")(h)


class DenselyDecoder(nn.Module):
    """`[B, H, W, C]` to `[B, H 2^doublings, W 2^doublings, features]`.

    Attributes:
      features: channels of the output.
      growth: growth at the resolution of the input; halved by each doubling.
      steps: blocks of each layer.
      doublings: number of times the resolution is doubled, each time by a layer and a transposed convolution to half
        its channels.
      dtype: dtype of the products; None is that of the parameters.
    """

    features: int
    growth: int
    steps: int
    doublings: int = 1
    dtype: ComputeDtype = None

    @nn.compact
    def __call__(self, h: Num[Array, "batch ..."], *, train: bool = False) -> Float[Array, "batch ..."]:
        growth = self.growth
        for i in range(self.doublings):
            h = DenseBlocks(growth, self.steps, self.dtype, name=f"dense_{i}")(h)
            up = WeightNormConv(
                h.shape[-1] // 2,
                stride=2,
                transposed=True,
                scale=_INNER,
                dtype=self.dtype,
                odd_before=True,
                name=f"up_{i}",
            )
            h, growth = up(h), max(1, growth // 2)
        return WeightNormConv(self.features, dtype=self.dtype, name="last")(h)


class DenselyNetwork(nn.Module):
    """`[B, H, W, C]` to `[B, H, W, features]`.

    Attributes:
      features: channels of the output.
      growth, steps: of each layer.
      blocks: number of layers.
      dtype: dtype of the products; None is that of the parameters.
    """

    features: int
    growth: int
    steps: int
    blocks: int = 3
    dtype: ComputeDtype = None

    @nn.compact
    def __call__(self, h: Num[Array, "batch ..."], *, train: bool = False) -> Float[Array, "batch ..."]:
        for i in range(self.blocks):
            h = DenseBlocks(self.growth, self.steps, self.dtype, name=f"dense_{i}")(h)
        return WeightNormConv(self.features, 1, dtype=self.dtype, name="last")(h)
