"""Stages of a very deep VAE: runs of equal blocks at one resolution, on the way up and on the way down, and what fits.

`models/deep.py` makes the graph of them, `models/block_strings.py` reads them from the published strings.
"""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Up:
    """Equal blocks on the way up.

    Attributes:
      side: height and width of their maps.
      blocks: how many.
      width: channels of their maps.
      pool: what leaves the last one is made this many times smaller; 1 for not.
      middle: channels between a bottleneck's ends; None for a quarter of the width.
      layers: convolutions in between.
      size: of their kernels; None for 3, and 1 on maps of 2x2 and 1x1.
      cells: bottlenecks in a block.
      skip: channels of the tap that each block has; 0 for none. Where taps are not learned it is not used.
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
        """Channels between a bottleneck's ends."""
        return _between(self)

    @property
    def kernel(self) -> int:
        """Size of the kernels there."""
        return _kernel(self)


@dataclasses.dataclass(frozen=True)
class Down:
    """Equal blocks on the way down, each with a latent.

    Attributes:
      side, blocks, width, middle, layers, size, cells: as in `Up`.
      mixes_in: the side of the state that is enlarged and added before the first block; None for none.
      latents: channels of z.
      posterior_middle: channels between the ends of the posterior's bottleneck; None for `middle`.
      shared: whether all blocks read one tap, or each its own. Where taps are not learned they read that of their side.
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
        """Channels between a bottleneck's ends."""
        return _between(self)

    @property
    def kernel(self) -> int:
        """Size of the kernels there."""
        return _kernel(self)

    @property
    def posterior_between(self) -> int:
        """Channels between the ends of the posterior's bottleneck."""
        return self.between if self.posterior_middle is None else self.posterior_middle


def _between(stage: Up | Down) -> int:
    return stage.width // 4 if stage.middle is None else stage.middle


def _kernel(stage: Up | Down) -> int:
    return (3 if stage.side > 2 else 1) if stage.size is None else stage.size


def names(prefix: str, stages: Sequence[Up | Down]) -> tuple[str, ...]:
    """One name a stage, "up32"; the second stage of the same side is "up32_2"."""
    sides = [stage.side for stage in stages]
    counts = [sides[: i + 1].count(side) for i, side in enumerate(sides)]
    return tuple(
        f"{prefix}{side}" if count == 1 else f"{prefix}{side}_{count}"
        for side, count in zip(sides, counts, strict=True)
    )


def level_sides(downs: Sequence[Down]) -> tuple[int, ...]:
    """The side of each level's maps, top first."""
    return tuple(stage.side for stage in downs for _ in range(stage.blocks))


def check_square(owner: str, image: tuple[int, ...]) -> None:
    """Raises ValueError unless one x is a square image `[S, S, C]`. `owner` is named in the error."""
    if len(image) != 3 or min(image) < 1 or image[0] != image[1]:
        raise ValueError(f"{owner}(image={image}): one x has to be [S, S, C], square. Crop, pad or resize x.")


def check_ups(owner: str, side: int, ups: Sequence[Up], learned: bool) -> None:
    """Raises ValueError where the stages of the way up do not follow from each other, beginning at the image's side."""
    if not ups:
        raise ValueError(f"{owner}(ups=()): at least one stage is needed, such as Up({side}, 2, 32).")
    for i, stage in enumerate(ups):
        said = f"{owner}(ups=...): stage {i}, {stage.blocks} blocks at side {stage.side}"
        sizes = (stage.side, stage.blocks, stage.width, stage.pool, stage.between, stage.kernel, stage.cells)
        if min(sizes) < 1 or min(stage.layers, stage.skip) < 0:
            raise ValueError(f"{said}, has a size below 1: {stage}.")
        if stage.side % stage.pool:
            raise ValueError(f"{said}, pools by {stage.pool}, which does not divide {stage.side}.")
        if learned and stage.pool > 1 and i == len(ups) - 1:
            raise ValueError(f"{said}, pools by {stage.pool}, but no stage reads that: set pool=1.")
        before = ups[i - 1] if i else None
        expected = side if before is None else before.side // before.pool
        if stage.side != expected:
            was = "the image's side" if before is None else f"what stage {i - 1} leaves"
            raise ValueError(f"{said}, should be at side {expected}, {was}. Change the stage, or the pool before it.")
        if before is not None and (before.pool == 1 or not learned):
            fits = stage.width == before.width if before.pool == 1 else stage.width >= before.width
            if not fits:
                raise ValueError(
                    f"{said}, has width {stage.width} after {before.width}: widths can grow where maps are pooled, "
                    "and stay as they are otherwise."
                )


def check_downs(owner: str, side: int, ups: Sequence[Up], downs: Sequence[Down], learned: bool) -> None:
    """Raises ValueError where the stages of the way down do not follow from each other and from the way up."""
    if not downs:
        raise ValueError(f"{owner}(downs=()): at least one stage is needed, such as Down({side}, 2, 32).")
    reached = {stage.side for stage in ups} | {ups[-1].side // ups[-1].pool}
    built: dict[int, int] = {}
    if learned and downs[0].mixes_in is not None:
        built[downs[0].mixes_in] = downs[0].width
    for i, stage in enumerate(downs):
        said = f"{owner}(downs=...): stage {i}, {stage.blocks} blocks at side {stage.side}"
        sizes = (stage.side, stage.blocks, stage.width, stage.latents, stage.between, stage.kernel, stage.cells)
        if min(sizes) < 1 or stage.posterior_between < 1 or stage.layers < 0:
            raise ValueError(f"{said}, has a size below 1: {stage}.")
        if stage.side not in reached:
            raise ValueError(f"{said}: the way up has no maps of that side, but of {sorted(reached)}.")
        if built.get(stage.side, stage.width) != stage.width:
            raise ValueError(f"{said}, has width {stage.width}, but that side had {built[stage.side]} before.")
        mixed = stage.mixes_in
        if mixed is not None:
            if mixed not in built:
                raise ValueError(
                    f"{said}, mixes in side {mixed}, which is not built yet; the sides before it are {sorted(built)}."
                )
            if stage.side % mixed or (learned and stage.side == mixed):
                raise ValueError(f"{said}, mixes in side {mixed}, which does not divide {stage.side}.")
            if not learned and built[mixed] < stage.width:
                raise ValueError(
                    f"{said}, has width {stage.width} and mixes in side {mixed} of {built[mixed]}: widths stay as they "
                    "are or fall on the way down."
                )
        previous = downs[i - 1].side if i else None
        if learned and i and mixed != (None if stage.side == previous else previous):
            raise ValueError(
                f"{said}, comes after side {previous}: mixes_in has to be that side, or None to stay there."
            )
        built[stage.side] = stage.width
    if side not in built or (learned and downs[-1].side != side):
        raise ValueError(
            f"{owner}(downs=...) reaches the sides {sorted(built)}, but the image's side is {side}: add stages up to "
            "there, or change the image."
        )


def check_taps(owner: str, ups: Sequence[Up], downs: Sequence[Down]) -> None:
    """Raises ValueError unless each tap of the way up has, in reverse, a block or a stage that reads it."""
    made = [stage.side for stage in ups if stage.skip for _ in range(stage.blocks)]
    read = [stage.side for stage in downs for _ in range(1 if stage.shared else stage.blocks)]
    if made[::-1] != read:
        raise ValueError(
            f"{owner}: the taps of the way up, from the last, are at sides {made[::-1]}, but the way down reads them "
            f"at {read}. Every block of a stage with skip has one, and each stage reads one (shared) or one a block."
        )
    widths = [stage.skip for stage in reversed(ups) if stage.skip for _ in range(stage.blocks)]
    for i, stage in enumerate(downs):
        taken, widths = widths[: 1 if stage.shared else stage.blocks], widths[1 if stage.shared else stage.blocks :]
        if len(set(taken)) > 1:
            raise ValueError(
                f"{owner}(downs=...): stage {i}, {stage.blocks} blocks at side {stage.side}, reads taps of {taken} "
                "channels, but those of a stage have to be alike: make stages of it."
            )
