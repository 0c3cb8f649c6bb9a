"""Stages of a very deep VAE: runs of equal blocks at one resolution, bottom-up and top-down.

`graph.py` connects them, `stage_checks.py` checks that they fit together, and `block_strings.py` parses them from
VDVAE's published block strings.
"""

import dataclasses
from collections.abc import Sequence

from hvae_jax.records import checked


@dataclasses.dataclass(frozen=True)
@checked
class Up:
    """A run of equal blocks of the bottom-up path.

    Attributes:
      side: height and width of the feature maps.
      blocks: number of blocks.
      width: channels of the feature maps.
      pool: downsampling factor after the last block; 1 keeps the resolution.
      middle: channels inside a bottleneck; None is a quarter of `width`.
      layers: convolutions between a bottleneck's first and last.
      size: kernel size of these convolutions; None is 3, or 1 for feature maps of 2x2 and 1x1.
      cells: bottlenecks in each block.
      skip: channels of the tap that each block leaves for the top-down path; 0 for no tap. Only `EfficientVDVAE`
        reads it.

    Example:
        >>> hv.models.Up(side=32, blocks=2, width=64).between  # a quarter of the width
        16
    """

    side: int
    blocks: int
    width: int
    pool: int = 1
    middle: int | None = None
    layers: int = 2
    size: int | None = None
    cells: int = 1
    skip: int = 0

    @property
    def between(self) -> int:
        """Channels inside a bottleneck."""
        return _between(self)

    @property
    def kernel(self) -> int:
        """Kernel size inside a bottleneck."""
        return _kernel(self)


@dataclasses.dataclass(frozen=True)
@checked
class Down:
    """A run of equal blocks of the top-down path, each with a latent.

    Attributes:
      side, blocks, width, middle, layers, size, cells: as in `Up`.
      mixes_in: side of the state that is upsampled and added before the first block; None for no such state.
      latents: channels of z.
      posterior_middle: channels inside the posterior's bottleneck; None is `middle`.
      shared: whether all blocks read the same tap; False gives each block its own. Only `EfficientVDVAE` reads it.

    Example:
        >>> hv.models.Down(side=1, blocks=2, width=64).kernel  # 1x1 for maps of a single pixel
        1
    """

    side: int
    blocks: int
    width: int
    mixes_in: int | None = None
    latents: int = 16
    middle: int | None = None
    posterior_middle: int | None = None
    layers: int = 2
    size: int | None = None
    cells: int = 1
    shared: bool = True

    @property
    def between(self) -> int:
        """Channels inside a bottleneck."""
        return _between(self)

    @property
    def kernel(self) -> int:
        """Kernel size inside a bottleneck."""
        return _kernel(self)

    @property
    def posterior_between(self) -> int:
        """Channels inside the posterior's bottleneck."""
        return self.between if self.posterior_middle is None else self.posterior_middle


def _between(stage: Up | Down) -> int:
    return stage.width // 4 if stage.middle is None else stage.middle


def _kernel(stage: Up | Down) -> int:
    # on 2x2 and 1x1 feature maps a 3x3 kernel would see mostly padding
    return (3 if stage.side > 2 else 1) if stage.size is None else stage.size


def stage_names(prefix: str, stages: Sequence[Up | Down]) -> tuple[str, ...]:
    """One name per stage: "up32" for the first of side 32, "up32_2" for the second."""
    # Names are in the paths of parameters, so that a stage keeps its name when another side gains one.
    sides = [stage.side for stage in stages]
    counts = [sides[: i + 1].count(side) for i, side in enumerate(sides)]
    return tuple(
        f"{prefix}{side}" if count == 1 else f"{prefix}{side}_{count}"
        for side, count in zip(sides, counts, strict=True)
    )


def stacked_paths(ups: Sequence[Up], downs: Sequence[Down]) -> tuple[str, ...]:
    """Prefixes of the paths of stacked parameters (`HVAE.stacked`): every stage is scanned."""
    return tuple(f"{name}/" for name in (*stage_names("up", ups), *stage_names("down", downs)))


def count_levels(downs: Sequence[Down]) -> int:
    """L, one level per block of the top-down path."""
    return sum(stage.blocks for stage in downs)


def sides_of_levels(downs: Sequence[Down]) -> tuple[int, ...]:
    """Height and width of each level's feature maps, top first."""
    return tuple(stage.side for stage in downs for _ in range(stage.blocks))
