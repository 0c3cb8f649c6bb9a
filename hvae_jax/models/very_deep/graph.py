"""The graph of very deep VAEs, of which `VDVAE` and `EfficientVDVAE` are two sets of parts.

    up:     maps at falling resolutions, from x; what they hold is kept as taps
    down:   h begins as a learned map and grows in resolution; each of L blocks has a latent

        prior(h)            ->  p(z_l | z_>l), and what is added to h beside z_l
        posterior(h, tap)   ->  q(z_l | z_>l, x)
        h <- h + shift + project(z_l)
        h <- h + bottleneck(h)                          once or more

What comes from below is a bias in every block, what comes from above is a sum over all blocks, so that depth adds
levels, not steps between them. A stage is a run of equal blocks at one resolution; its parameters are stacked and it
is scanned, so that compiling takes as long as one block.

Source: Child (2021), section 3; Hazami et al. (2022), section 4.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.descent import Pick, draw, stack
from hvae_jax.distributions import Normal, ScaleHead, residual
from hvae_jax.models.very_deep.stages import Down, Up, names
from hvae_jax.networks.bottleneck import Bottleneck, BottleneckConv, BottleneckStyle, LearnedPool, LearnedUnpool
from hvae_jax.networks.computing import widen
from hvae_jax.networks.resample import average_pool, enlarge
from hvae_jax.networks.scan import scanned
from hvae_jax.trace import Level


@dataclasses.dataclass(frozen=True)
class Parts:
    """What tells one very deep VAE from another.

    Attributes:
      style: of all convolutions.
      learned: whether pooling, enlarging, taps and the Gaussians' heads are layers of their own (`EfficientVDVAE`), or
        means, nearest neighbours and cropped channels, the maps themselves, and channels of the bottlenecks' outputs.
      head: how a layer's output becomes a standard deviation.
      residual: whether the posterior's Gaussian is an offset from the prior's.
      clamp: bounds of every log standard deviation, or None.
      up_scale, down_scale: of the last kernel of each bottleneck of the way up, and of the way down, at the start.
      bias_up_to: the largest side whose maps begin with a learned one; None for all.
      unroll, remat: of the scans.
    """

    style: BottleneckStyle
    learned: bool
    head: ScaleHead
    residual: bool
    clamp: tuple[float, float] | None
    up_scale: float
    down_scale: float
    bias_up_to: int | None
    unroll: int
    remat: bool


class UpBlock(nn.Module):
    """A block of the way up: (h, what it was given) to the same, and the tap, if its stage has one.

    h `[B, side, side, width]`. That the block's input is handed on is for the last one of a stage, whose output is
    pooled: the tap of that resolution is then its input.
    """

    stage: Up
    parts: Parts

    @nn.compact
    def __call__(self, carry: tuple[Array, Array], nothing: None) -> tuple[tuple[Array, Array], Array | None]:
        given, _ = carry
        h, stage, parts = given, self.stage, self.parts
        for i in range(stage.cells):
            h = h + Bottleneck(
                stage.width,
                stage.between,
                stage.layers,
                stage.kernel,
                parts.up_scale,
                parts.style,
                name=f"bottleneck_{i}",
            )(h)
        tap = BottleneckConv(stage.skip, style=parts.style, name="skip")(h) if parts.learned and stage.skip else None
        return (h, given), tap


class DownBlock(nn.Module):
    """A block of the way down: h `[B, side, side, width]` to the same, and its level. tap: None without x."""

    stage: Down
    parts: Parts

    @nn.compact
    def __call__(self, h: Array, tap: Array | None, key: Array, pick: Pick) -> tuple[Array, Level]:
        stage, parts, width = self.stage, self.parts, h.shape[-1]
        scale = 1.0 if parts.learned else 0.0  # at 0 every prior begins as N(0, I)
        outputs = 2 * width if parts.learned else 2 * stage.latents + width
        features = self._bottleneck("prior", outputs, stage.between, scale)(h)
        if parts.learned:
            shift, features = jnp.split(features, 2, axis=-1)
            features = BottleneckConv(2 * stage.latents, style=parts.style, name="prior_head")(features)
            prior = self._normal(*jnp.split(features, 2, axis=-1))
        else:
            mean, a, shift = jnp.split(features, [stage.latents, 2 * stage.latents], axis=-1)
            prior = self._normal(mean, a)

        posterior = None
        if tap is not None:
            outputs = (width + tap.shape[-1]) // 2 if parts.learned else 2 * stage.latents
            posterior_of = self._bottleneck("posterior", outputs, stage.posterior_between, 1.0)
            features = posterior_of(h, tap.astype(h.dtype))
            if parts.learned:
                features = BottleneckConv(2 * stage.latents, style=parts.style, name="posterior_head")(features)
            posterior = self._normal(*jnp.split(features, 2, axis=-1))
            posterior = residual(prior, posterior) if parts.residual else posterior

        level = draw(key, prior, posterior, pick, side=h.shape[1])
        project = BottleneckConv(width, scale=parts.down_scale, style=parts.style, name="project")
        h = h + shift + project(level.z.astype(h.dtype))
        for i in range(stage.cells):
            h = h + self._bottleneck(f"bottleneck_{i}", width, stage.between, parts.down_scale)(h)
        return h, level

    def _bottleneck(self, name: str, outputs: int, middle: int, scale: float) -> Bottleneck:
        stage = self.stage
        return Bottleneck(outputs, middle, stage.layers, stage.kernel, scale, self.parts.style, name=name)

    def _normal(self, mean: Array, a: Array) -> Normal:
        """The Gaussian of a layer's outputs."""
        return Normal(widen(mean), self.parts.head.log_std(widen(a), self.parts.clamp))


def ascend(
    model: nn.Module, parts: Parts, ups: Sequence[Up], h: Array, last_width: int = 0
) -> tuple[dict[int, Array], list]:
    """The way up: from the first maps to what the way down sees of x.

    Args:
      h: the first maps, `[B, side, side, ups[0].width]`.
      last_width: channels of what the last stage leaves, if it pools; with learned pools it does not.
    Returns: the last maps of each side, `[B, side, side, width]` by side; and the taps of the blocks that have
      one, in the order they were made, each `[B, side, side, skip]`.
    """
    by_side, taps = {h.shape[1]: h}, []
    for i, (stage, name) in enumerate(zip(ups, names("up", ups), strict=True)):
        (h, given), run = _run(model, UpBlock, parts, stage.blocks, (0,))(stage, parts, name=name)((h, h), None)
        taps += [] if run is None else list(run)
        if stage.pool == 1:
            by_side[stage.side] = h
            continue
        by_side[stage.side] = given
        width = ups[i + 1].width if i + 1 < len(ups) else last_width
        if parts.learned:
            h = LearnedPool(width, stage.pool, parts.style, name=name.replace("up", "pool"))(h)
        else:
            h = jnp.pad(average_pool(h, stage.pool), ((0, 0), (0, 0), (0, 0), (0, width - h.shape[-1])))
        by_side[stage.side // stage.pool] = h
    return by_side, taps


def descend(
    model: nn.Module,
    parts: Parts,
    downs: Sequence[Down],
    found: tuple[dict[int, Array], list] | None,
    n: int,
    key: Array,
    picks: tuple[Pick, ...],
    label: Array | None,
    like: Array | None = None,
) -> tuple[tuple[Level, ...], dict[int, Array]]:
    """The way down: from what `ascend` found of x, None without x, to all levels.

    Args:
      n: B, the number of examples.
      picks: one a level, from the top.
      label: one-hot, `[B, classes]`, or None.
      like: a parameter, whose dtype zeros have.
    Returns: the levels, from the top, a run of equal blocks as one with a leading axis; and the last maps of each side,
      `[B, side, side, width]` by side.
    """
    by_side, taps = found or ({}, [])
    keys, levels, at = jax.random.split(key, len(picks)), [], 0
    states: dict[int, Array] = {}
    first = downs[0]
    if first.mixes_in is not None:
        states[first.mixes_in] = _begin(model, parts, first.mixes_in, first.width, n, None, like)
    for stage, name in zip(downs, names("down", downs), strict=True):
        h = states.get(stage.side)
        if h is None:
            h = _begin(model, parts, stage.side, stage.width, n, label, like)
        if stage.mixes_in is not None:
            factor, above = stage.side // stage.mixes_in, states[stage.mixes_in]
            if parts.learned:
                h = h + LearnedUnpool(stage.width, factor, parts.style, name=name.replace("down", "unpool"))(above)
            else:
                h = h + enlarge(above[..., : stage.width], factor)
        tap, axis = by_side.get(stage.side), nn.broadcast
        if parts.learned and taps and stage.shared:
            tap = taps.pop()
        elif parts.learned and taps:
            tap, axis = jnp.stack([taps.pop() for _ in range(stage.blocks)]), 0
        here, at = slice(at, at + stage.blocks), at + stage.blocks
        run = _run(model, DownBlock, parts, stage.blocks, (axis, 0, 0))(stage, parts, name=name)
        h, level = run(h, tap, keys[here], stack(picks[here]))
        levels.append(level.replace(stacked=True, name=name.replace("down", "z")))
        states[stage.side] = h
    return tuple(levels), states


def _begin(
    model: nn.Module, parts: Parts, side: int, width: int, n: int, label: Array | None, like: Array | None
) -> Array:
    """The first maps of a side, `[n, side, side, width]`: learned ones or zeros, and what a label adds everywhere."""
    if parts.bias_up_to is None or side <= parts.bias_up_to:
        h = model.param(f"bias{side}", nn.initializers.zeros, (side, side, width), jnp.float32)
    else:
        h = jnp.zeros((side, side, width), None if like is None else like.dtype)
    h = h[None]
    if label is not None:
        kernel = model.param(f"label{side}", nn.initializers.zeros, (label.shape[-1], width), jnp.float32)
        h = h + (label.astype(kernel.dtype) @ kernel)[:, None, None]
    return jnp.broadcast_to(h, (n, side, side, width)).astype(parts.style.dtype or h.dtype)


def _run(model: nn.Module, block: Any, parts: Parts, length: int, in_axes: tuple[Any, ...]) -> Any:
    """Equal blocks as one scan over stacked parameters; initialised without unrolling."""
    return scanned(model, block, length, in_axes, unroll=parts.unroll, remat=parts.remat)
