"""The graph of very deep VAEs, which `VDVAE` and `EfficientVDVAE` fill with two sets of parts.

    bottom-up:   feature maps of x at falling resolutions, some of which are kept as taps
    top-down:    a state h that begins as learned feature maps and grows in resolution; each of its L blocks draws a
                 latent, whose posterior reads a tap (`blocks.py`)

x enters every block of the top-down path directly, and the output reads the sum over all of them: depth adds levels,
not steps between x and a level. A stage is a run of equal blocks at one resolution; its parameters are stacked and it
is scanned, so that compile time does not grow with depth.

Source: Child (2021), section 3; Hazami et al. (2022), section 4.
"""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array

from hvae_jax.descent import Pick, stack
from hvae_jax.models.very_deep.parts import Ascent, Parts, Reading
from hvae_jax.models.very_deep.stages import Down, Up, stage_names
from hvae_jax.networks.scan import scanned
from hvae_jax.runtime.prng import split
from hvae_jax.trace import Level


def ascend(model: nn.Module, parts: Parts, ups: Sequence[Up], downs: Sequence[Down], h: Array) -> list[Reading]:
    """Run the bottom-up path and return what each stage of the top-down path reads of it.

    Args:
      model: the module in whose compact method this is called; the stages become its submodules.
      h: the first feature maps, `[B, side, side, ups[0].width]`.
    """
    by_side, taps = {h.shape[1]: h}, []
    # Feature maps pooled by the last stage have the width of the states at their side, others that of the next stage.
    widths = {stage.side: stage.width for stage in (*downs, *reversed(ups))}
    for stage, name, pool_name in zip(ups, stage_names("up", ups), stage_names("pool", ups), strict=True):
        blocks = scanned(model, parts.up_block, stage.blocks, (), **parts.scanning)
        (h, given), made = blocks(stage, parts, name=name)((h, h))
        taps += [] if made is None else list(made)  # [blocks, B, side, side, C]: one tap per block
        by_side[stage.side] = h if stage.pool == 1 else given
        if stage.pool > 1:
            side = stage.side // stage.pool
            h = parts.pool(h, widths.get(side, stage.width), stage.pool, pool_name)
            by_side[side] = h
    return parts.taps.read(Ascent(by_side, taps), downs)


def descend(
    model: nn.Module,
    parts: Parts,
    downs: Sequence[Down],
    readings: Sequence[Reading] | None,
    n: int,
    key: Array,
    picks: tuple[Pick, ...],
    label: Array | None,
) -> tuple[tuple[Level, ...], dict[int, Array]]:
    """Run the top-down path.

    Args:
      model: as in `ascend`.
      readings: from `ascend`; None without x.
      n: number of examples, B.
      picks: one per level, top first.
      label: one-hot, `[B, classes]`, or None.
    Returns: the levels, top first, those of a stage as one with a leading axis; and the last state of each side,
      `[B, side, side, width]`.
    """
    keys, levels, at = split(key, len(picks)), [], 0
    # without x nothing is read, and every block draws from its prior
    readings = [Reading(None, nn.broadcast)] * len(downs) if readings is None else readings
    states: dict[int, Array] = {}
    first = downs[0]
    if first.mixes_in is not None:  # nothing has built that side: it begins as feature maps of its own
        states[first.mixes_in] = parts.start(model, first.mixes_in, first.width, n, None)
    names = zip(*(stage_names(prefix, downs) for prefix in ("down", "unpool", "z")), strict=True)
    for stage, (tap, axis), (name, unpool_name, level_name) in zip(downs, readings, names, strict=True):
        h = states.get(stage.side)
        if h is None:
            h = parts.start(model, stage.side, stage.width, n, label)
        if stage.mixes_in is not None:
            factor = stage.side // stage.mixes_in
            h = h + parts.unpool(states[stage.mixes_in], stage.width, factor, unpool_name)
        here, at = slice(at, at + stage.blocks), at + stage.blocks
        axes = (axis, 0, 0)  # of the tap, the key and the pick of each block
        blocks = scanned(model, parts.down_block, stage.blocks, axes, **parts.scanning)
        h, level = blocks(stage, parts, name=name)(h, tap, keys[here], stack(picks[here]))
        levels.append(level.replace(stacked=True, name=level_name))
        # a later stage at this side goes on from this state
        states[stage.side] = h
    return tuple(levels), states
