"""Residual blocks of 3x3 convolutions with batch norm and a gate, runs of them that change the resolution, merges.

    block(x) = x + gate(f(x))          gate(h) = a(v) sigmoid(g),  v and g the halves of a 1x1 convolution of h

A string of letters gives the layers of f: b batch norm, a activation, c convolution, d dropout. All feature maps have
the same number of channels.

Source: the Ladder VAE of A. Dittadi (addtt/ladder-vae-pytorch), gate with activation included.
"""

import collections
import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Key

from hvae_jax.networks.computing import ComputeDtype, call
from hvae_jax.networks.conv import Conv
from hvae_jax.networks.mlp import BatchNorm
from hvae_jax.networks.resample import TransposedConv
from hvae_jax.records import checked
from hvae_jax.runtime.prng import fold_ins, fused

Maps = Float[Array, "batch rows columns channels"]


@dataclasses.dataclass(frozen=True)
@checked
class BlockStyle:
    """Settings that the residual blocks of a model have in common.

    Attributes:
      order: layers of f in order, by the letters above; "bacdbacd", "bacdbac" and "cabdcabd" are known to work.
      gated: whether f ends with the gate.
      activation: nonlinearity of each a, and of the gate's value.
      normalise: whether there is batch norm.
      dropout: probability that a dropout layer sets a channel, at all pixels, to zero in training; the other channels
        are scaled up.

    Raises ValueError if `order` has another letter or no convolution, or a probability is outside [0, 1).
    """

    order: str = "bacdbacd"
    gated: bool = True
    activation: Callable[[Array], Array] = jax.nn.elu
    normalise: bool = True
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if not set(self.order) <= set("abcd") or "c" not in self.order:
            raise ValueError(
                f"BlockStyle(order={self.order!r}): b for batch norm, a for activation, c for convolution and d for "
                'dropout, with at least one convolution, such as "bacdbacd".'
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"BlockStyle(dropout={self.dropout}): a dropout probability is from 0 to below 1.")


def gate(
    h: Float[Array, "batch rows columns both"], activation: Callable[[Array], Array]
) -> Float[Array, "batch rows columns half"]:
    """Return a(v) sigmoid(g), where v and g are the first and the second half of h's channels."""
    value, opening = jnp.split(h, 2, axis=-1)
    return activation(value) * jax.nn.sigmoid(opening)


def drop_channels(h: Maps, key: Key[Array, ""], probability: float) -> Maps:
    """Channel dropout: sets each channel of each example to zero with that probability, and scales up the others."""
    kept = jax.random.bernoulli(fused(key), 1.0 - probability, (h.shape[0], 1, 1, h.shape[-1]))
    return h * (kept / (1.0 - probability)).astype(h.dtype)


class ResidualBlock(nn.Module):
    """x + gate(f(x)), `[B, H, W, C]` to the same shape.

    Attributes:
      style: settings of the block.
      dtype: precision of products and activations; None is the precision of the parameters.
    """

    style: BlockStyle = BlockStyle()
    dtype: ComputeDtype = None

    @nn.compact
    def __call__(self, x: Maps, key: Key[Array, ""], *, train: bool) -> Maps:
        style, h, channels = self.style, x, x.shape[-1]
        keys = fold_ins(key, style.order.count("d"))
        seen: collections.Counter[str] = collections.Counter()  # layers are numbered by kind: norm_0, conv_0, norm_1
        for letter in style.order:
            i = seen[letter]
            seen[letter] += 1
            if letter == "a":
                h = style.activation(h)
            elif letter == "b" and style.normalise:
                h = BatchNorm(name=f"norm_{i}")(h, train=train)
            elif letter == "c":
                h = Conv(channels, dtype=self.dtype, name=f"conv_{i}")(h)
            elif letter == "d" and train and style.dropout:
                h = drop_channels(h, keys[i], style.dropout)
        if style.gated:
            h = gate(Conv(2 * channels, dtype=self.dtype, size=1, name="gate")(h), style.activation)
        return x + h


class ResidualRun(nn.Module):
    """Residual blocks in sequence, the first of which change the resolution.

    Attributes:
      blocks: number of blocks.
      resamplings: number of blocks, from the first on, that a convolution of stride 2 precedes.
      direction: "down" halves the resolution by that convolution; "up" doubles it by a transposed one.
      style, dtype: as in `ResidualBlock`.
      remat: whether the backward pass recomputes each block instead of storing it.
    """

    blocks: int
    resamplings: int = 0
    direction: Literal["down", "up"] = "down"
    style: BlockStyle = BlockStyle()
    dtype: ComputeDtype = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Maps, key: Key[Array, ""], *, train: bool) -> Float[Array, "batch rows2 columns2 channels"]:
        h, channels, keys = x, x.shape[-1], fold_ins(key, self.blocks)
        for i in range(self.blocks):
            if i < self.resamplings:
                name = f"{self.direction}_{i}"
                if self.direction == "down":
                    h = Conv(channels, 2, self.dtype, name=name)(h)
                else:
                    h = TransposedConv(channels, self.dtype, name=name)(h)
            block = ResidualBlock(self.style, self.dtype, name=f"block_{i}")
            h = call(block, h, keys[i], train=train, remat=self.remat)
        return h


class Merge(nn.Module):
    """Merge two sets of feature maps: concatenation, a 1x1 convolution to the second's channels, a block.

    Attributes:
      style: settings of the block, which is gated in any case; None leaves the block out.
      dtype: as in `ResidualBlock`.
    """

    style: BlockStyle | None = BlockStyle()
    dtype: ComputeDtype = None

    @nn.compact
    def __call__(self, x: Maps, other: Maps, key: Key[Array, ""], *, train: bool) -> Maps:
        h = jnp.concatenate([x, other], axis=-1)  # [B, H, W, 2 C]
        h = Conv(other.shape[-1], dtype=self.dtype, size=1, name="join")(h)
        if self.style is None:
            return h
        style = dataclasses.replace(self.style, gated=True)
        return ResidualBlock(style, self.dtype, name="block")(h, key, train=train)
