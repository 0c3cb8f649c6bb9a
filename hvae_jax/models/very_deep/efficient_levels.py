"""Efficient-VDVAE's levels, as its settings list them, regrouped into stages of equal blocks.

A bottom-up level has any number of blocks, of which the last has a tap, and may end with a pool. A top-down level may
begin with an unpool, and all its blocks read the tap of one bottom-up level. Published models have up to 70 levels of
one block each; levels that are alike become one stage, which is scanned.

Source: Hazami et al. (2022), their code's settings `up_*` and `down_*`.
"""

import dataclasses
from collections.abc import Sequence

from hvae_jax.models.very_deep.stages import Down, Up


def up_stages_of_levels(levels: Sequence[Up]) -> tuple[Up, ...]:
    """Regroup bottom-up levels into stages.

    Args:
      levels: one `Up` per level; only its last block has the tap and the pool.
    """
    stages: list[Up] = []

    def add(stage: Up) -> None:
        last = stages[-1] if stages else None
        # Only the last block of a stage may pool: what follows a pool begins a stage.
        if last is not None and dataclasses.replace(last, blocks=1) == dataclasses.replace(stage, blocks=1, pool=1):
            stage = dataclasses.replace(stage, blocks=stage.blocks + stages.pop().blocks)
        stages.append(stage)

    for level in levels:
        if level.blocks > 1:
            add(dataclasses.replace(level, blocks=level.blocks - 1, pool=1, skip=0))
        add(dataclasses.replace(level, blocks=1))
    return tuple(stages)


def down_stages_of_levels(levels: Sequence[Down], taps: Sequence[int] = ()) -> tuple[Down, ...]:
    """Regroup top-down levels into stages.

    Args:
      levels: one `Down` per level; its blocks share one tap.
      taps: channels of each level's tap, which have to be equal within a stage; () if all are equal.
    """
    stages: list[Down] = []
    for i, level in enumerate(levels):
        last = stages[-1] if stages else None
        alike = last is not None and dataclasses.replace(level, mixes_in=last.mixes_in) == dataclasses.replace(
            last, blocks=1, shared=True
        )
        alike = alike and len(set(taps[max(i - 1, 0) : i + 1])) <= 1
        # A stage is either one level whose blocks share a tap, or levels of one block with a tap each.
        if last is not None and alike and level.mixes_in is None and (last.blocks == 1 or not last.shared):
            stages[-1] = dataclasses.replace(last, blocks=last.blocks + 1, shared=False)
        else:
            stages.append(level)
    return tuple(stages)
