"""Presets of `VDVAE`: the published models, and small ones for two CPU cores.

The published settings are those of the code's `hps.py`: AdamW with betas (0.9, 0.9), weight decay 0.01, 100 warm-up
steps, and an exponential moving average (EMA) of the parameters. Bits per dimension are those of its README. The
likelihood is the exact one here (`LogisticMixture`).
"""

from hvae_jax.likelihoods import Bernoulli, Categorical, LogisticMixture
from hvae_jax.models.very_deep.block_strings import down_stages, up_stages
from hvae_jax.models.very_deep.vdvae import VDVAE


def vdvae_cifar10(unroll: int = 1, remat: bool = False) -> VDVAE:
    """The published model for CIFAR-10: 33 blocks up, 43 down, 39,145,700 parameters; 2.87 bits per dimension.

    Trained with learning rate 2e-4, batch size 32, the gradient norm (of nats per dimension) clipped at 200, steps
    skipped from a norm of 400, and EMA 0.9999, for about a million steps.

    Source: Child (2021), its code's `hps.py`.

    Example:
        >>> hv.models.vdvae_cifar10().num_levels
        43
    """
    return _published(
        32,
        384,
        "32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3",
        "1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21",
        (120.63838, 64.16736),
        unroll,
        remat,
    )


def vdvae_imagenet32(unroll: int = 1, remat: bool = False) -> VDVAE:
    """The published model for ImageNet 32x32: 78 blocks down, 119,280,868 parameters; 3.80 bits per dimension.

    Trained with learning rate 1.5e-4, batch size 256, gradient norm clipped at 200, steps skipped from 300, EMA 0.999.

    Source: Child (2021), its code's `hps.py`.

    Example:
        >>> hv.models.vdvae_imagenet32().num_levels
        78
    """
    return _published(
        32,
        512,
        "32x15,32d2,16x9,16d2,8x8,8d2,4x6,4d4,1x6",
        "1x2,4m1,4x4,8m4,8x9,16m8,16x19,32m16,32x40",
        (116.2373, 69.37404),
        unroll,
        remat,
    )


def vdvae_imagenet64(unroll: int = 1, remat: bool = False) -> VDVAE:
    """The published model for ImageNet 64x64: 75 blocks down, 125,005,860 parameters; 3.52 bits per dimension.

    Trained with learning rate 1.5e-4, batch size 128, gradient norm clipped at 220, steps skipped from 380, EMA 0.999.

    Source: Child (2021), its code's `hps.py`.

    Example:
        >>> hv.models.vdvae_imagenet64().num_levels
        75
    """
    return _published(
        64,
        512,
        "64x11,64d2,32x20,32d2,16x9,16d2,8x8,8d2,4x7,4d4,1x5",
        "1x2,4m1,4x3,8m4,8x7,16m8,16x15,32m16,32x31,64m32,64x12",
        (115.92961967, 69.37404),
        unroll,
        remat,
    )


def vdvae_ffhq256(unroll: int = 1, remat: bool = False) -> VDVAE:
    """The published model for FFHQ 256x256 at 5 bits, x in 0..31: 66 blocks down, 114,874,852 parameters.

    Its 0.61 bits per dimension come from bins that overlap and from a bottom-up path that reads 8 bits; `Quantised` has
    both. Trained with learning rate 1.5e-4, batch size 32, gradient norm clipped at 130, steps skipped from 180, EMA
    0.999.

    Source: Child (2021), its code's `hps.py`.

    Example:
        >>> hv.models.vdvae_ffhq256().num_levels
        66
    """
    model = _published(
        256,
        512,
        "256x3,256d2,128x8,128d2,64x12,64d2,32x17,32d2,16x7,16d2,8x5,8d2,4x5,4d4,1x4",
        "1x2,4m1,4x3,8m4,8x4,16m8,16x9,32m16,32x21,64m32,64x13,128m64,128x7,256m128",
        (112.8666757481 / 8, 69.84780273 / 8),
        unroll,
        remat,
    )
    return model.clone(likelihood=LogisticMixture(values=32))


def vdvae_ffhq1024(unroll: int = 1, remat: bool = False) -> VDVAE:
    """The published settings for FFHQ 1024x1024: 70 blocks up and down, 109,366,904 parameters.

    2.42 bits per dimension. The published weights have only 68 bottom-up blocks (`convert.vdvae`). Trained with
    learning rate 7e-5, batch size 32, gradient norm clipped at 360, steps skipped from 500, EMA 0.999.

    Source: Child (2021), its code's `hps.py`.

    Example:
        >>> hv.models.vdvae_ffhq1024().num_levels
        70
    """
    model = _published(
        1024,
        16,
        "1024x1,1024d2,512x3,512d2,256x5,256d2,128x7,128d2,64x10,64d2,32x14,32d2,16x7,16d2,8x5,8d2,4x5,4d4,1x4",
        "1x2,4m1,4x3,8m4,8x4,16m8,16x9,32m16,32x20,64m32,64x14,128m64,128x7,256m128,256x2,512m256,1024m512",
        (0.4387 * 255, 0.2743 * 255),
        unroll,
        remat,
        widths="512:32,256:64,128:512,64:512,32:512,16:512,8:512,4:512,1:512",
    )
    return model.clone(likelihood=LogisticMixture(mixtures=2))


def _published(
    side: int,
    width: int,
    enc_blocks: str,
    dec_blocks: str,
    standardise: tuple[float, float],
    unroll: int,
    remat: bool,
    widths: str = "",
) -> VDVAE:
    """A model for colour images, with one width unless `widths` has others by side."""
    return VDVAE(
        image=(side, side, 3),
        ups=up_stages(enc_blocks, width, widths),
        downs=down_stages(dec_blocks, width, widths),
        likelihood=LogisticMixture(),
        standardise=standardise,
        unroll=unroll,
        remat=remat,
    )


def vdvae_digits(unroll: int = 1) -> VDVAE:
    """A small model for the digits (8x8 pixels, 17 values): 10 blocks down, 24 channels.

    Example:
        >>> hv.models.vdvae_digits().num_levels
        10
    """
    return VDVAE(
        image=(8, 8, 1),
        ups=up_stages("8x2,8d2,4x2,4d4,1x1", 24),
        downs=down_stages("1x2,4m1,4x3,8m4,8x3", 24, latents=4),
        likelihood=Categorical(17),
        unroll=unroll,
    )


def vdvae_mnist(unroll: int = 1) -> VDVAE:
    """A small model for binary images of 28x28: 10 blocks down, 32 channels.

    Example:
        >>> hv.models.vdvae_mnist().num_levels
        10
    """
    return VDVAE(
        image=(28, 28, 1),
        ups=up_stages("28x1,28d2,14x2,14d2,7x2,7d7,1x2", 32),
        downs=down_stages("1x2,7m1,7x3,14m7,14x2,28m14", 32, latents=8),
        likelihood=Bernoulli(),
        unroll=unroll,
    )


def vdvae_cifar10_small(unroll: int = 1) -> VDVAE:
    """A small model for CIFAR-10: 15 blocks down, 48 channels.

    Example:
        >>> hv.models.vdvae_cifar10_small().num_levels
        15
    """
    return VDVAE(
        image=(32, 32, 3),
        ups=up_stages("32x2,32d2,16x2,16d2,8x2,8d2,4x1,4d4,1x1", 48),
        downs=down_stages("1x1,4m1,4x1,8m4,8x3,16m8,16x4,32m16,32x2", 48, latents=8),
        likelihood=LogisticMixture(),
        standardise=(120.63838, 64.16736),
        unroll=unroll,
    )
