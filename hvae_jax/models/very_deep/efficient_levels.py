"""Efficient-VDVAE's levels, as its settings list them, as stages of equal blocks.

A level of the way up is some blocks, one more with a tap, and then perhaps a pool; one of the way down begins by
enlarging, perhaps, and all its blocks read the tap of the level opposite. Its models have up to 70 levels of one block
each, which are one stage where they are alike.

Source: Hazami et al. (2022), their code's settings `up_*` and `down_*`.
"""

import dataclasses
from collections.abc import Sequence

from hvae_jax.models.very_deep.stages import Down, Up


def up_stages_of_levels(levels: Sequence[Up]) -> tuple[Up, ...]:
    """The stages of levels; `blocks` of each is how many it has in all, of which the last has the tap."""
    stages: list[Up] = []

    def add(stage: Up) -> None:
        last = stages[-1] if stages else None
        if last is not None and dataclasses.replace(last, blocks=1) == dataclasses.replace(stage, blocks=1, pool=1):
            stage = dataclasses.replace(stage, blocks=stage.blocks + stages.pop().blocks)
        stages.append(stage)

    for level in levels:
        if level.blocks > 1:
            add(dataclasses.replace(level, blocks=level.blocks - 1, pool=1, skip=0))
        add(dataclasses.replace(level, blocks=1))
    return tuple(stages)


def down_stages_of_levels(levels: Sequence[Down], taps: Sequence[int] = ()) -> tuple[Down, ...]:
    """The stages of levels, each of which reads one tap.

    Args:
      taps: how many channels each level's tap has, where they are not alike: those of a stage have to be.
    """
    stages: list[Down] = []
    for i, level in enumerate(levels):
        last = stages[-1] if stages else None
        alike = last is not None and dataclasses.replace(level, mixes_in=last.mixes_in) == dataclasses.replace(
            last, blocks=1, shared=True
        )
        alike = alike and len(set(taps[max(i - 1, 0) : i + 1])) <= 1
        if last is not None and alike and level.mixes_in is None and (last.blocks == 1 or not last.shared):
            stages[-1] = dataclasses.replace(last, blocks=last.blocks + 1, shared=False)
        else:
            stages.append(level)
    return tuple(stages)
