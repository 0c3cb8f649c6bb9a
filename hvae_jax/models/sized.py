"""A deep model of another size: its stages from the side of the images, a width and a depth.

    resized(model, side=32, width=48, depth=15)

keeps everything of a very deep VAE or NVAE but its stages. The levels are spread over the resolutions as in the
published VDVAEs: twice as many at each resolution as at the one above, which is half as wide, and one at least.
"""

import itertools

from flax import linen as nn

from hvae_jax.models.nvae import NVAE
from hvae_jax.models.very_deep.block_strings import down_stages, up_stages
from hvae_jax.models.very_deep.efficient_vdvae import EfficientVDVAE
from hvae_jax.models.very_deep.stages import Down, Up
from hvae_jax.models.very_deep.vdvae import VDVAE

_COARSEST = 4
"""Side of the smallest feature maps; those of VDVAEs are followed by one of a single pixel."""


def resized(
    model: nn.Module, *, side: int | None = None, width: int | None = None, depth: int | None = None
) -> VDVAE | EfficientVDVAE | NVAE:
    """The model for images of another side, with channels and levels as given; None keeps what the model has.

    VDVAE, Efficient-VDVAE: sides are halved down to 4 (or to an odd side below 8), and then pooled to 1. `width`
    channels at every side, a quarter of them inside bottlenecks; a sixth of them, 4 to 16, in every z. Bottom-up, a
    VDVAE has half as many blocks at a side as top-down, rounded up, and one more that pools; an Efficient-VDVAE has as
    many. Depth 43 at side 32 gives VDVAE's published top-down path for CIFAR-10.
    NVAE: groups of latents at the sides that its first halvings leave and at their halves down to 4; `width` channels
    at the images' own side, twice as many after each halving. Cells, latents and flows stay.

    Args:
      side: height and width of the images.
      width: channels of the feature maps; of NVAE, of those next to the image.
      depth: number of levels, all resolutions together.
    Raises ValueError for a model of another class, a side that cannot be halved so, less than one level a resolution
    and a width below 4.

    Example:
        >>> model = hv.models.resized(hv.models.vdvae_digits(), side=16, depth=15)
        >>> model.image, model.num_levels
        ((16, 16, 1), 15)
    """
    if not isinstance(model, VDVAE | EfficientVDVAE | NVAE):
        raise ValueError(
            f"{type(model).__name__} has no stages to build from a side, a width and a depth, as VDVAE, "
            "EfficientVDVAE and NVAE have. Other models have settings of their own, such as --model.hidden."
        )
    side, depth = model.image[0] if side is None else side, model.num_levels if depth is None else depth
    wide = _width(model) if width is None else width
    if wide < 4:
        raise ValueError(f"The width is {wide}, but it has to be 4 or more.")
    image = (side, side, model.image[2])
    if isinstance(model, NVAE):
        return _nvae(model, image, wide, depth)
    pad = model.pad if isinstance(model, EfficientVDVAE) and side == model.image[0] else 0
    blocks = spread(depth, halved(side + 2 * pad, and_one=True))
    latents = min(16, max(4, wide // 6))
    if isinstance(model, VDVAE):
        return _vdvae(model, image, blocks, wide, latents)
    return _efficient(model, image, pad, blocks, wide, latents)


def halved(side: int, *, and_one: bool = False) -> tuple[int, ...]:
    """The sides of feature maps, from `side` down.

    Args:
      and_one: whether a single pixel comes last.
    Raises ValueError for a side that leaves an odd number above 8.
    """
    sides = [side]
    while sides[-1] % 2 == 0 and sides[-1] > _COARSEST:
        sides.append(sides[-1] // 2)
    if side < 2 or sides[-1] > 2 * _COARSEST:
        good = [size for size in (side - side % 8, side + 8 - side % 8) if size > 0]
        raise ValueError(
            f"A side of {side} cannot be halved to {2 * _COARSEST} pixels or fewer: take "
            f"{' or '.join(str(size) for size in good)}, such as by --data.size of a folder of pictures."
        )
    return (*sides, 1) if and_one and sides[-1] > 1 else tuple(sides)


def spread(depth: int, sides: tuple[int, ...]) -> dict[int, int]:
    """Number of levels at each side, finest first: in proportion 2^i from the coarsest on, each 1 at least.

    Fractions go to the sides with the largest ones. Raises ValueError for fewer levels than sides.
    """
    if depth < len(sides):
        raise ValueError(
            f"A depth of {depth} is too few for {len(sides)} resolutions ({', '.join(map(str, sides))} pixels), which "
            f"have one level or more each: take {len(sides)} or more."
        )
    shares = [depth * 2**i / (2 ** len(sides) - 1) for i in range(len(sides))]  # coarsest first
    counts = [max(1, int(share)) for share in shares]
    largest_first = sorted(range(len(sides)), key=lambda i: shares[i] - counts[i], reverse=True)
    for i in largest_first[: max(0, depth - sum(counts))]:
        counts[i] += 1
    counts[-1] -= sum(counts) - depth  # where ones were raised from less, the finest side gives them
    return dict(zip(sides, reversed(counts), strict=True))


def _width(model: VDVAE | EfficientVDVAE | NVAE) -> int:
    """The largest width of the top-down path, or NVAE's next to the image."""
    return model.width if isinstance(model, NVAE) else max(stage.width for stage in model.downs)


def _vdvae(model: VDVAE, image: tuple[int, int, int], blocks: dict[int, int], width: int, latents: int) -> VDVAE:
    sides = list(blocks)
    up = [f"{side}x{_ups(blocks[side])},{side}d{side // below}" for side, below in itertools.pairwise(sides)]
    down = [f"{sides[-1]}x{blocks[sides[-1]]}"]
    for above, side in itertools.pairwise(reversed(sides)):
        down.append(f"{side}m{above}" + (f",{side}x{blocks[side] - 1}" if blocks[side] > 1 else ""))
    return model.clone(
        image=image,
        ups=up_stages(",".join([*up, f"{sides[-1]}x{_ups(blocks[sides[-1]])}"]), width),
        downs=down_stages(",".join(down), width, latents=latents),
    )


def _efficient(
    model: EfficientVDVAE, image: tuple[int, int, int], pad: int, blocks: dict[int, int], width: int, latents: int
) -> EfficientVDVAE:
    sides, middle = list(blocks), max(1, width // 4)
    pools = [side // below for side, below in itertools.pairwise(sides)] + [1]
    ups = [
        Up(side, blocks[side], width, pool, middle, skip=width)  # a tap for each block of the top-down path
        for side, pool in zip(sides, pools, strict=True)
    ]
    upward = list(reversed(sides))
    downs = [
        Down(side, blocks[side], width, upward[i - 1] if i else None, latents, middle, shared=blocks[side] == 1)
        for i, side in enumerate(upward)
    ]
    return model.clone(image=image, pad=pad, ups=tuple(ups), downs=tuple(downs))


def _nvae(model: NVAE, image: tuple[int, int, int], width: int, depth: int) -> NVAE:
    pad = model.pad if image[0] == model.image[0] else 0
    whole, by = image[0] + 2 * pad, 2**model.halvings
    if whole % by:
        raise ValueError(f"A side of {whole} cannot be halved {model.halvings} times: take a multiple of {by}.")
    counts = spread(depth, halved(whole // by))
    return model.clone(image=image, pad=pad, width=width, groups=tuple(reversed(counts.values())))


def _ups(blocks: int) -> int:
    """Bottom-up blocks beside so many top-down ones, without the one that pools."""
    return -(-blocks // 2)


def described(model: VDVAE | EfficientVDVAE | NVAE) -> str:
    """The levels at each resolution, "1 level at 1x1, 3 at 4x4, ..."."""
    if isinstance(model, NVAE):
        found = [(rows, count) for (rows, _), count in zip(model.sides, model.groups, strict=True)]
    else:
        found = [(stage.side, stage.blocks) for stage in model.downs]
    totals: dict[int, int] = {}
    for side, count in found:
        totals[side] = totals.get(side, 0) + count
    return ", ".join(f"{count} at {side}x{side}" for side, count in totals.items())
