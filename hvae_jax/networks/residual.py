"""Residual blocks of 3x3 convolutions with batch norm and a gate, runs of them that change the resolution, merges.

    block(x) = x + gate(f(x))          gate(h) = a(v) sigmoid(g),  v and g the halves of a 1x1 convolution of h

What f is, a string says: b batch norm, a activation, c convolution, d dropout. All channels count the same throughout.
Source: the Ladder VAE of A. Dittadi (addtt/ladder-vae-pytorch), which has the gate's activation too.
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

Maps = Float[Array, "batch rows columns channels"]


@dataclasses.dataclass(frozen=True)
class BlockStyle:
    """What the residual blocks of a model are like.

    Attributes:
      order: of the layers in f, letters of "bacd" as above; "bacdbacd", "bacdbac" and "cabdcabd" are known to work.
      gated: whether f ends with the gate.
      activation: of each a, and of the gate's value.
      normalise: whether the batch norms are there.
      dropout: the share of channels that each d sets to zero in training, whole maps at once; the others are scaled up.

    Raises ValueError for another letter, an order without a convolution, or a share outside [0, 1).
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
                'dropout, with one convolution at least, such as "bacdbacd".'
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"BlockStyle(dropout={self.dropout}): a share of the channels, from 0 to below 1.")


def gate(
    h: Float[Array, "batch rows columns both"], activation: Callable[[Array], Array]
) -> Float[Array, "batch rows columns half"]:
    """a(v) sigmoid(g), v and g the first and the second half of h's channels."""
    value, opening = jnp.split(h, 2, axis=-1)
    return activation(value) * jax.nn.sigmoid(opening)


def drop_channels(h: Maps, key: Key[Array, ""], share: float) -> Maps:
    """h with that share of its maps set to zero, for each example anew, and the others divided by 1 - share."""
    kept = jax.random.bernoulli(key, 1.0 - share, (h.shape[0], 1, 1, h.shape[-1]))
    return h * (kept / (1.0 - share)).astype(h.dtype)


class ResidualBlock(nn.Module):
    """x + gate(f(x)), `[B, H, W, C]` to the same shape.

    Attributes:
      style: the settings.
      dtype: what products and activations are computed in; None for what the parameters are.
    """

    style: BlockStyle = BlockStyle()
    dtype: ComputeDtype = None

    @nn.compact
    def __call__(self, x: Maps, key: Key[Array, ""], *, train: bool) -> Maps:
        style, h, channels = self.style, x, x.shape[-1]
        seen: collections.Counter[str] = collections.Counter()
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
                h = drop_channels(h, jax.random.fold_in(key, i), style.dropout)
        if style.gated:
            h = gate(Conv(2 * channels, dtype=self.dtype, size=1, name="gate")(h), style.activation)
        return x + h


class ResidualRun(nn.Module):
    """Residual blocks one after the other, the first of which change the resolution before anything else.

    Attributes:
      blocks: how many.
      resamplings: how many of them, the first ones, begin with a convolution of stride 2.
      direction: "down" halves the resolution with it, "up" doubles it with a transposed one.
      style, dtype: as in `ResidualBlock`.
      remat: whether each block is recomputed in the backward pass instead of remembered.
    """

    blocks: int
    resamplings: int = 0
    direction: Literal["down", "up"] = "down"
    style: BlockStyle = BlockStyle()
    dtype: ComputeDtype = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Maps, key: Key[Array, ""], *, train: bool) -> Float[Array, "batch rows2 columns2 channels"]:
        h, channels = x, x.shape[-1]
        for i in range(self.blocks):
            if i < self.resamplings:
                name = f"{self.direction}_{i}"
                if self.direction == "down":
                    h = Conv(channels, 2, self.dtype, name=name)(h)
                else:
                    h = TransposedConv(channels, self.dtype, name=name)(h)
            block = ResidualBlock(self.style, self.dtype, name=f"block_{i}")
            h = call(block, h, jax.random.fold_in(key, i), train=train, remat=self.remat)
        return h


class Merge(nn.Module):
    """Two sets of maps into one: concatenated, a 1x1 convolution to as many channels as the second has, a block.

    Attributes:
      style: of the block, which is gated whatever it says; None leaves it out.
      dtype: as in `ResidualBlock`.
    """

    style: BlockStyle | None = BlockStyle()
    dtype: ComputeDtype = None

    @nn.compact
    def __call__(self, x: Maps, other: Maps, key: Key[Array, ""], *, train: bool) -> Maps:
        h = jnp.concatenate([x, other], axis=-1)
        h = Conv(other.shape[-1], dtype=self.dtype, size=1, name="join")(h)
        if self.style is None:
            return h
        style = dataclasses.replace(self.style, gated=True)
        return ResidualBlock(style, self.dtype, name="block")(h, key, train=train)
