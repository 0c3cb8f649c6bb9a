"""Gated residual blocks with an auxiliary input, runs of them with skips, and layers to and from latents.

    y = conv2(drop(a(conv1(a(x)) + aux(a(s)))))          a the activation, s the auxiliary input, y of 2 C channels
    block(x, s) = v sigmoid(w) + shortcut(x)             v and w the halves of y

Every convolution has weight norm, and conv2 has the stride. The shortcut is x, of which excess channels are dropped and
excess pixels averaged; there is no shortcut if x has too few channels or pixels. The output of a block is not
activated: each block activates its own inputs.

Source: Maaloe et al. (2019), and V. Lievin's code (vlievin/biva-pytorch) for what the paper leaves open.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.networks.computing import ComputeDtype, call
from hvae_jax.networks.weight_norm import WeightNormConv, WeightNormDense
from hvae_jax.records import checked
from hvae_jax.runtime.prng import fold_ins, fused

Maps = Num[Array, "batch rows columns channels"]


@dataclasses.dataclass(frozen=True)
@checked
class GatedStyle:
    """Settings that the blocks and layers of a model have in common.

    Attributes:
      activation: nonlinearity at the input of each layer.
      dropout: probability that an element is set to zero before each conv2 in training; the others are scaled up.
      data_dependent: whether layers are initialised from the batch that `init` is called with.
      scale: standard deviation of every output on that batch.
      dtype: precision of products and activations; None is the precision of the parameters.
    """

    activation: Callable[[Array], Array] = jax.nn.elu
    dropout: float = 0.0
    data_dependent: bool = True
    scale: float = 0.01
    dtype: ComputeDtype = None

    def conv(self, features: int, size: int, stride: int = 1, *, transposed: bool = False, name: str) -> WeightNormConv:
        """Return a convolution in this style."""
        return WeightNormConv(
            features, size, stride, transposed, self.scale, self.data_dependent, self.dtype, name=name
        )

    def dense(self, features: int, name: str) -> WeightNormDense:
        """Return a linear layer in this style."""
        return WeightNormDense(features, self.scale, self.data_dependent, self.dtype, name=name)


def drop(h: Float[Array, "..."], key: Key[Array, ""], probability: float) -> Float[Array, "..."]:
    """Dropout: sets each element to zero with that probability, and divides the others by 1 - probability."""
    kept = jax.random.bernoulli(fused(key), 1.0 - probability, h.shape)
    return h * (kept / (1.0 - probability)).astype(h.dtype)


def shortcut(x: Maps, rows: int, channels: int) -> Num[Array, "batch rows2 columns2 channels2"] | None:
    """Return x with that height and number of channels, or None if x has fewer of either.

    Only the first channels are kept. Pixels are averaged over 3x3, zeros beyond the edges included.
    """
    if x.shape[-1] < channels or x.shape[1] < rows:
        return None
    x = x[..., :channels]
    stride = x.shape[1] // rows
    return x if stride == 1 else nn.avg_pool(x, (3, 3), (stride, stride), "SAME")


class GatedBlock(nn.Module):
    """block(x, s) as above: `[B, H, W, C]` to `[B, H/stride, W/stride, features]`, or `[B, H * stride, ...]`.

    Attributes:
      features: channels of the output.
      size: kernel size.
      stride: stride of conv2.
      transposed: whether conv2 is transposed, so that the stride upsamples.
      residual: whether there is a shortcut; without one, x is not activated before conv1 either.
      style: settings of the layers.
    """

    features: int
    size: int = 3
    stride: int = 1
    transposed: bool = False
    residual: bool = True
    style: GatedStyle = GatedStyle()

    @nn.compact
    def __call__(
        self, x: Maps, aux: Num[Array, "batch rows3 columns3 inputs"] | None, key: Key[Array, ""], *, train: bool
    ) -> Float[Array, "batch rows2 columns2 {self.features}"]:
        """`aux` is s; its resolution is that of x, or a multiple or a divisor of it."""
        style, conv, act = self.style, self.style.conv, self.style.activation
        h = conv(self.features, self.size, name="conv1")(act(x) if self.residual else x)
        if aux is not None:
            h = h + self._aux(aux.shape[1], x.shape[1])(act(aux))
        h = act(h)
        if train and style.dropout:
            h = drop(h, key, style.dropout)
        transposed = self.transposed and self.stride > 1
        h = conv(2 * self.features, self.size, self.stride, transposed=transposed, name="conv2")(h)
        value, opening = jnp.split(h, 2, axis=-1)  # each [B, rows2, columns2, features]
        h = value * jax.nn.sigmoid(opening)
        around = shortcut(x, h.shape[1], self.features) if self.residual else None
        return h if around is None else h + around

    def _aux(self, theirs: int, ours: int) -> WeightNormConv:
        """The convolution that takes an auxiliary input of height `theirs` to x's height, `ours`."""
        if theirs == ours:
            return self.style.conv(self.features, 1, name="aux")
        # strided down from a larger auxiliary input, transposed up from a smaller one
        ratio, transposed = max(theirs, ours) // min(theirs, ours), theirs < ours
        return self.style.conv(self.features, self.size, ratio, transposed=transposed, name="aux")


class GatedRun(nn.Module):
    """Blocks in sequence, with skips from one run to the next.

    The skips are a queue: each block takes the first as its auxiliary input, and appends its own output.

    Attributes:
      blocks: (channels, kernel size, stride) of each block, in the order of application.
      transposed: whether strides upsample.
      residual: whether the first block has a shortcut; the others always have one.
      style: settings of the layers.
      remat: whether the backward pass recomputes each block instead of storing it.
    """

    blocks: tuple[tuple[int, int, int], ...]
    transposed: bool = False
    residual: bool = True
    style: GatedStyle = GatedStyle()
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Maps, skips: tuple[Array, ...] | None, key: Key[Array, ""], *, train: bool
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the last output and the queue. If `skips` is None, no block has an auxiliary input."""
        queue, keys = list(skips or ()), fold_ins(key, len(self.blocks))
        for i, block in enumerate(self.blocks):
            # if the queue is shorter than the run, later blocks take outputs of this run
            aux = None if skips is None else queue.pop(0)
            residual = self.residual or i > 0
            net = GatedBlock(*block, self.transposed, residual, self.style, name=f"block_{i}")
            x = call(net, x, aux, keys[i], train=train, remat=self.remat)
            queue.append(x)
        return x, tuple(queue)


class ToMap(nn.Module):
    """A latent as feature maps: a linear layer from a vector; latents that are maps are left as they are.

    Attributes:
      shape: `(H, W, C)` of the feature maps.
      style: settings of the layer.
    """

    shape: tuple[int, int, int]
    style: GatedStyle = GatedStyle()

    @nn.compact
    def __call__(self, z: Float[Array, "batch ..."]) -> Float[Array, "batch rows columns channels"]:
        if z.ndim == 4:
            return z
        rows, columns, channels = self.shape
        return self.style.dense(rows * columns * channels, "linear")(z).reshape(-1, *self.shape)


class Head(nn.Module):
    """Feature maps to the parameters of a latent's distribution, `[B, features]` or `[B, H, W, features]`.

    Attributes:
      features: number of parameters, of the vector or of each pixel.
      kernel: kernel size of the convolution; None for a vector, from a linear layer.
      style: settings of the layer.
    """

    features: int
    kernel: int | None = None
    style: GatedStyle = GatedStyle()

    @nn.compact
    def __call__(self, h: Float[Array, "batch rows columns channels"]) -> Float[Array, "batch *place {self.features}"]:
        h = self.style.activation(h)
        if self.kernel is not None:
            return self.style.conv(self.features, self.kernel, name="conv")(h)
        return self.style.dense(self.features, "linear")(h.reshape(h.shape[0], -1))
