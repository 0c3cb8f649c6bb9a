"""Blocks of very deep VAEs: residual bottlenecks, and a latent in each block of the top-down path.

    prior(h)            ->  p(z_l | z_>l), shift
    posterior(h, tap)   ->  q(z_l | z_>l, x)
    h <- h + shift + projection(z_l)
    h <- h + cell(h)                                once or more

Source: Child (2021), section 3 and figure 3; Hazami et al. (2022), section 4.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from hvae_jax.descent import Pick, draw
from hvae_jax.models.very_deep.parts import Parts
from hvae_jax.models.very_deep.stages import Down, Up
from hvae_jax.networks.bottleneck import Bottleneck, BottleneckConv, BottleneckStyle
from hvae_jax.networks.computing import ComputeDtype, product
from hvae_jax.trace import Level


class UpBlock(nn.Module):
    """A block of the bottom-up path.

    The carry is (h, the block's input), both `[B, side, side, width]`. The input is carried as well: the last block
    of a stage is pooled, and what the posteriors read at its side is then its input.
    """

    stage: Up
    parts: Parts

    @nn.compact
    def __call__(self, carry: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array | None]:
        given, _ = carry  # the input of the block before is dropped
        h = given
        # residual cells: with several, only the last one's output is tapped
        for i in range(self.stage.cells):
            h = product(h + self.parts.up_cell(self.stage, h, f"bottleneck_{i}"))
        return (h, given), self.parts.taps.tap(self.stage, h)


class DownBlock(nn.Module):
    """A block of the top-down path: h `[B, side, side, width]` to the same shape, and its level.

    The tap is `[B, side, side, C]`; without x it is None, and z comes from the prior.
    """

    stage: Down
    parts: Parts

    @nn.compact
    def __call__(self, h: Array, tap: Array | None, key: Array, pick: Pick) -> tuple[Array, Level]:
        stage, parts = self.stage, self.parts
        # Both Gaussians read the state before the shift; neither sees z, so that the analytic KL is right.
        for_prior, for_posterior = (h, h) if parts.first is None else parts.first(self, stage, h)
        prior, shift = parts.prior(stage, for_prior)
        posterior = None if tap is None else parts.posterior(stage, for_posterior, tap.astype(h.dtype), prior)
        level = draw(key, prior, posterior, pick, side=stage.side)
        if parts.sums:
            level = dataclasses.replace(level, summed=level.rate)
        # The state is what the products are computed in, perhaps bfloat16; Gaussians and z are float32 at least.
        h = product(h + shift + parts.projection(stage, level.z.astype(h.dtype)))
        for i in range(stage.cells):
            h = product(h + parts.down_cell(stage, h, f"bottleneck_{i}"))  # after z, so that it mixes z into the state
        return h, level


@dataclasses.dataclass(frozen=True)
class BottleneckOf:
    """Bottlenecks with the inner width, the number of layers and the kernel size of a stage.

    Attributes:
      style: settings of the convolutions.
      scale: factor of the last kernel at initialisation.
    """

    style: BottleneckStyle
    scale: float = 1.0

    def __call__(self, stage: Up | Down, h: Array, name: str) -> Array:
        """The residual branch of a cell, from `stage.width` channels to as many."""
        return self.layer(stage, stage.width, stage.between, name)(h)

    def layer(self, stage: Up | Down, outputs: int, middle: int, name: str) -> Bottleneck:
        """A bottleneck to `outputs` channels, with `middle` inside."""
        return Bottleneck(outputs, middle, stage.layers, stage.kernel, self.scale, self.style, name=name)


@dataclasses.dataclass(frozen=True)
class ConvProjection:
    """A 1x1 convolution from z to the width of the state.

    Attributes:
      style: settings of the convolution.
      scale: factor of its kernel at initialisation.
    """

    style: BottleneckStyle
    scale: float

    def __call__(self, stage: Down, z: Array) -> Array:
        """What is added to the state, `[B, side, side, width]`."""
        return BottleneckConv(stage.width, scale=self.scale, style=self.style, name="project")(z)


@dataclasses.dataclass(frozen=True)
class LearnedStart:
    """Learned feature maps that begin at zero, and for each class a learned vector that is added at every position.

    Attributes:
      largest: largest side with learned feature maps, beyond which they are zeros; None for all sides.
      zeros: dtype of those zeros; None for JAX's default.
      dtype: dtype of the state; None for the parameters'.
    """

    largest: int | None = None
    zeros: DTypeLike | None = None
    dtype: ComputeDtype = None

    def __call__(self, module: nn.Module, side: int, width: int, n: int, label: Array | None) -> Array:
        """The first state of a side, `[n, side, side, width]`."""
        if self.largest is None or side <= self.largest:
            # one value a position and channel: the published models have these up to 64x64
            h = module.param(f"bias{side}", nn.initializers.zeros, (side, side, width), jnp.float32)
        else:
            h = jnp.zeros((side, side, width), self.zeros)
        h = h[None]  # [1, side, side, width]
        if label is not None:
            # zeros as well: a conditional model starts as the unconditional one
            kernel = module.param(f"label{side}", nn.initializers.zeros, (label.shape[-1], width), jnp.float32)
            h = h + (label.astype(kernel.dtype) @ kernel)[:, None, None]  # [n, side, side, width]
        return jnp.broadcast_to(h, (n, side, side, width)).astype(self.dtype or h.dtype)
