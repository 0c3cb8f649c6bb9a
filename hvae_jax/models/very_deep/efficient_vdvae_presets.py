"""Presets of `EfficientVDVAE`: the published settings (`egs/` of its code), and a small model for two CPU cores.

The code trains with KL warm-up over 5,000 steps, gamma balancing for 10,000 (`objectives.balance`), Adamax with cosine
decay of the learning rate, steps skipped by gradient norm, and an EMA of the parameters at 0.9999. The numbers of its
README belong to larger models than these settings, and to other versions of ImageNet and other splits than VDVAE's.
"""

import itertools
from typing import Literal

from hvae_jax.likelihoods import Bernoulli, Categorical, LogisticMixture
from hvae_jax.models.very_deep.efficient_vdvae import EfficientVDVAE
from hvae_jax.models.very_deep.stages import Down, Up
from hvae_jax.networks.scale_head import ScaleHead

Size = Literal["baseline", "C1", "compact"]
# {side: (channels of the feature maps, channels inside bottlenecks)}.
Widths = dict[int, tuple[int, int]]
# (side, plain, tapped): numbers of bottom-up blocks at a side, first without a tap, then with one each.
Ups = tuple[tuple[int, int, int], ...]
# (side, run, ...): runs of top-down blocks, an int for blocks with a tap each, (blocks,) for blocks that share one.
Downs = tuple[tuple[int | tuple[int], ...], ...]

BETA = 0.6931472  # log 2 with the digits of the code


def efficient_vdvae_mnist() -> EfficientVDVAE:
    """For binary images of 28x28: 23 blocks up and down, 69,919,585 parameters.

    Source: Hazami et al. (2022), their published configurations.

    Example:
        >>> hv.models.efficient_vdvae_mnist().num_levels
        23
    """
    ups, downs = _plain((32, 16, 8, 4, 1), (1, 2, 10, 5, 5)), ((1, 5), (4, 5), (8, 10), (16, 2), (32, 1))
    widths = {32: (32, 32), 16: (64, 64), 8: (128, 128), 4: (256, 256), 1: (512, 512)}
    return _published((28, 28, 1), 2, ups, downs, widths, 32)


def efficient_vdvae_cifar10(size: Size = "baseline") -> EfficientVDVAE:
    """For CIFAR-10: 33 blocks up and 47 down; 56,598,692 parameters, or 18,124,020 ("C1").

    Source: Hazami et al. (2022), their published configurations.

    Example:
        >>> hv.models.efficient_vdvae_cifar10().num_levels
        47
    """
    ups = _plain((32, 16, 8, 4, 1), (12, 7, 7, 4, 3))
    downs: Downs = ((1, 3), (4, 4), (8, 7), (16, (1,), (5,), 5), (32, (1,), (11,), 10))
    match _known("efficient_vdvae_cifar10", size, "baseline", "C1"):
        case "baseline":
            return _published((32, 32, 3), 0, ups, downs, _equal(ups, 384), 32)
    widths = {32: (48, 48), 16: (96, 48), 8: (192, 48), 4: (384, 96), 1: (384, 96)}
    return _published((32, 32, 3), 0, ups, downs, widths, 16)


def efficient_vdvae_imagenet32(size: Size = "baseline") -> EfficientVDVAE:
    """For ImageNet 32x32: 48 blocks up and 73 down; 145.1 M parameters, 52.3 M ("C1") or 19,561,188 ("compact").

    Source: Hazami et al. (2022), their published configurations.

    Example:
        >>> hv.models.efficient_vdvae_imagenet32().num_levels
        73
    """
    ups = _plain((32, 16, 8, 4, 1), (16, 10, 9, 7, 6))
    downs: Downs = ((1, 6), (4, 7), (8, (11,), 8), (16, (16,), 9), (32, 16))
    match _known("efficient_vdvae_imagenet32", size, "baseline", "C1", "compact"):
        case "baseline":
            return _published((32, 32, 3), 0, ups, downs, _equal(ups, 512), 32)
        case "C1":
            widths = {32: (64, 64), 16: (128, 64), 8: (256, 64), 4: (512, 128), 1: (512, 128)}
            return _published((32, 32, 3), 0, ups, downs, widths, 48, output="log_std")
    widths = {32: (32, 32), 16: (64, 32), 8: (128, 32), 4: (256, 64), 1: (512, 128)}
    return _published((32, 32, 3), 0, ups, downs, widths, 32)


def efficient_vdvae_imagenet64(size: Size = "baseline") -> EfficientVDVAE:
    """For ImageNet 64x64: 53 blocks up and 84 down; 168.4 M parameters, 57.0 M ("C1") or 42.6 M ("compact").

    Source: Hazami et al. (2022), their published configurations.

    Example:
        >>> hv.models.efficient_vdvae_imagenet64().num_levels
        84
    """
    ups = _plain((64, 32, 16, 8, 4, 1), (5, 16, 10, 9, 7, 6))
    downs: Downs = ((1, 6), (4, 7), (8, (11,), 8), (16, (16,), 9), (32, 16), (64, (7,), 4))
    match _known("efficient_vdvae_imagenet64", size, "baseline", "C1", "compact"):
        case "baseline":
            return _published((64, 64, 3), 0, ups, downs, _equal(ups, 512), 32)
        case "C1":
            widths = {64: (64, 64), 32: (64, 32), 16: (256, 64), 8: (256, 64), 4: (512, 128), 1: (512, 128)}
            return _published((64, 64, 3), 0, ups, downs, widths, 64, output="log_std")
    widths = {64: (32, 32), 32: (64, 32), 16: (128, 32), 8: (256, 64), 4: (512, 128), 1: (512, 128)}
    return _published((64, 64, 3), 0, ups, downs, widths, 32)


def efficient_vdvae_celeba64(size: Size = "baseline") -> EfficientVDVAE:
    """For CelebA 64x64: 41 blocks up and 62 down; 131.4 M parameters, or 25.4 M ("compact").

    Source: Hazami et al. (2022), their published configurations.

    Example:
        >>> hv.models.efficient_vdvae_celeba64().num_levels
        62
    """
    ups = _plain((64, 32, 16, 8, 4, 1), (12, 9, 7, 7, 4, 2))
    downs: Downs = ((1, 2), (4, 4), (8, 7), (16, (5,), 6), (32, (8,), 8), (64, (11,), 11))
    match _known("efficient_vdvae_celeba64", size, "baseline", "compact"):
        case "baseline":
            return _published((64, 64, 3), 0, ups, downs, _equal(ups, 512), 32)
    widths = {64: (32, 32), 32: (64, 32), 16: (128, 32), 8: (256, 64), 4: (512, 128), 1: (512, 128)}
    return _published((64, 64, 3), 0, ups, downs, widths, 32)


def efficient_vdvae_faces256(size: Size = "baseline") -> EfficientVDVAE:
    """For CelebA-HQ and FFHQ 256x256: 68 blocks up and 69 down; 208.9 M parameters, or 71.2 M ("compact").

    Source: Hazami et al. (2022), their published configurations.

    Example:
        >>> hv.models.efficient_vdvae_faces256().num_levels
        69
    """
    ups: Ups = ((256, 0, 6), (128, 0, 13), (64, 0, 13), (32, 0, 12), (16, 0, 8), (8, 1, 5), (4, 2, 4), (1, 2, 2))
    downs: Downs = ((1, 2), (4, 4), (8, 5), (16, (3,), 7), (32, (5,), 11), (64, 13), (128, 13), (256, 6))
    match _known("efficient_vdvae_faces256", size, "baseline", "compact"):
        case "baseline":
            return _published((256, 256, 3), 0, ups, downs, _equal(ups, 512), 64)
    widths = dict.fromkeys((1, 4, 8, 16), (512, 128))
    widths |= {256: (32, 32), 128: (64, 32), 64: (128, 32), 32: (256, 64)}
    return _published((256, 256, 3), 0, ups, downs, widths, 64)


def efficient_vdvae_faces256_5_bits(size: Size = "baseline") -> EfficientVDVAE:
    """For CelebA-HQ and FFHQ 256x256 at 5 bits, x in 0..31: 68 blocks up, 66 down; 197.7 M parameters, 67 M ("C1").

    Source: Hazami et al. (2022), their published configurations.

    Example:
        >>> hv.models.efficient_vdvae_faces256_5_bits().num_levels
        66
    """
    ups: Ups = ((256, 3, 1), (128, 1, 8), (64, 0, 13), (32, 0, 18), (16, 0, 8), (8, 1, 5), (4, 2, 4), (1, 2, 2))
    downs: Downs = ((1, 2), (4, 4), (8, 5), (16, (3,), 7), (32, (5,), 17), (64, (2,), 12), (128, 8), (256, 1))
    match _known("efficient_vdvae_faces256_5_bits", size, "baseline", "C1"):
        case "baseline":
            return _published((256, 256, 3), 0, ups, downs, _equal(ups, 512), 32, values=32)
    widths = dict.fromkeys((1, 4, 8), (512, 128)) | {16: (256, 64), 32: (256, 64)}
    widths |= {256: (128, 128), 128: (128, 64), 64: (128, 32)}
    return _published((256, 256, 3), 0, ups, downs, widths, 32, values=32, output="log_std")


def efficient_vdvae_faces1024() -> EfficientVDVAE:
    """For CelebA-HQ and FFHQ 1024x1024: 49 blocks up and 72 down; 75.9 M parameters, beta = 0.4.

    Source: Hazami et al. (2022), their published configurations.

    Example:
        >>> hv.models.efficient_vdvae_faces1024().num_levels
        72
    """
    ups = _plain((1024, 512, 256, 128, 64, 32, 16, 8, 4, 1), (1, 2, 3, 5, 7, 12, 8, 5, 4, 2))
    downs: Downs = (
        *((1, 2), (4, 4), (8, 5), (16, 8), (32, 12)),
        *((64, (7,), 6), (128, (9,), 4), (256, (4,), 2), (512, (4,), 1), (1024, (4,))),
    )
    widths = dict.fromkeys((1, 4, 8, 16), (512, 128)) | {32: (256, 64), 64: (128, 32), 128: (64, 16)}
    widths |= {256: (32, 16), 512: (16, 16), 1024: (8, 8)}
    return _published((1024, 1024, 3), 0, ups, downs, widths, 64, beta=0.4)


def efficient_vdvae_digits(unroll: int = 1) -> EfficientVDVAE:
    """A small model for the digits (8x8 pixels, 17 values): 7 blocks down.

    Example:
        >>> hv.models.efficient_vdvae_digits().num_levels
        7
    """
    ups, downs = _plain((8, 4, 1), (2, 2, 1)), ((1, 1), (4, (2,), 1), (8, (2,), 1))
    model = _published((8, 8, 1), 0, ups, downs, {8: (16, 8), 4: (24, 8), 1: (24, 8)}, 4)
    return model.clone(likelihood=Categorical(17), unroll=unroll)


def _plain(sides: tuple[int, ...], tapped: tuple[int, ...]) -> Ups:
    """A bottom-up path with a tap at every block."""
    return tuple((side, 0, blocks) for side, blocks in zip(sides, tapped, strict=True))


def _equal(ups: Ups, width: int) -> Widths:
    """The same width at every side, and a quarter of it inside bottlenecks."""
    return {side: (width, width // 4) for side, _, _ in ups}


def _known(preset: str, size: str, *allowed: str) -> str:
    """The size. Raises ValueError, naming the sizes of the preset, if it has no such size."""
    if size not in allowed:
        raise ValueError(f"{preset}(size={size!r}): {' or '.join(map(repr, allowed))}.")
    return size


def _published(
    image: tuple[int, int, int],
    pad: int,
    ups: Ups,
    downs: Downs,
    widths: Widths,
    latents: int,
    values: int = 256,
    output: Literal["softplus_std", "log_std"] = "softplus_std",
    beta: float = BETA,
) -> EfficientVDVAE:
    """A model with these stages.

    Args:
      widths: by side, the channels of the feature maps and those inside bottlenecks.
      latents: channels of every z.
      values: number of values of a pixel, for colour images.
      output: head of the likelihood's scales.
      beta: slope of the latents' scales, and of the likelihood's unless its head is "log_std", whose beta is 1.
    """
    above: list[Up] = []
    for (side, plain, tapped), following in itertools.zip_longest(ups, ups[1:]):
        width, middle = widths[side]
        # a pool leads to the next side; the last stage of a side has it
        pool = 1 if following is None else side // following[0]
        above += [Up(side, plain, width, middle=middle)] if plain else []
        above.append(Up(side, tapped, width, pool, middle, skip=width))
    below: list[Down] = []
    for side, *runs in downs:
        assert isinstance(side, int)
        width, middle = widths[side]
        for i, run in enumerate(runs):
            mixes_in = below[-1].side if below and i == 0 else None
            # A single block counts as sharing its tap, as in `efficient_levels`: imports then equal their preset.
            blocks, shared = (run, run == 1) if isinstance(run, int) else (run[0], True)
            below.append(Down(side, blocks, width, mixes_in, latents, middle, shared=shared))
    # lower bound of the log scales in the published settings
    floor = -14.0 if values == 32 else -250.0
    mixture = LogisticMixture(
        values=values,
        min_log_scale=floor,
        head=ScaleHead(output, beta if output == "softplus_std" else 1.0),
    )
    return EfficientVDVAE(
        image=image,
        ups=tuple(above),
        downs=tuple(below),
        likelihood=Bernoulli() if image[2] == 1 else mixture,
        pad=pad,
        head=ScaleHead("softplus_std", beta),
    )
