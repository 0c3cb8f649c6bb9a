"""Presets of `NVAE`: the published models, and small ones for two CPU cores.

The published settings are those of the README of the public code; the recipe `nvae` trains with them. The results are
the paper's. Likelihood, top prior and norms are the exact ones here (`published=False`).
"""

from hvae_jax.likelihoods import Bernoulli, Categorical, LogisticMixture
from hvae_jax.models.nvae import NVAE, halving_groups


def nvae_mnist(unroll: int = 1, remat: bool = False) -> NVAE:
    """The published model for binary MNIST: 15 groups, 33,363,134 parameters; 78.01 nats.

    Source: Vahdat & Kautz (2020), their published models.

    Example:
        >>> hv.models.nvae_mnist().num_levels
        15
    """
    return NVAE(
        image=(28, 28, 1),
        pad=2,
        groups=halving_groups(10, 2),
        width=32,
        halvings=2,
        pre_cells=3,
        post_cells=3,
        likelihood=Bernoulli(),
        unroll=unroll,
        remat=remat,
    )


def nvae_cifar10(flows: int = 1, unroll: int = 1, remat: bool = False) -> NVAE:
    """The published model for CIFAR-10: 30 groups, 130,852,480 parameters; 2.91 bits per dimension, 2.93 without flows.

    Without flows it has 129,215,680 parameters.

    Source: Vahdat & Kautz (2020), their published models.

    Example:
        >>> hv.models.nvae_cifar10().num_levels
        30
    """
    return NVAE((32, 32, 3), groups=(30,), width=128, flows=flows, unroll=unroll, remat=remat)


def nvae_celeba64(flows: int = 1, unroll: int = 1, remat: bool = False) -> NVAE:
    """The published model for CelebA 64x64: 35 groups, 153,281,364 parameters; 2.03 bits per dimension.

    Source: Vahdat & Kautz (2020), their published models.

    Example:
        >>> hv.models.nvae_celeba64().num_levels
        35
    """
    return NVAE((64, 64, 3), groups=halving_groups(20, 3), width=64, flows=flows, unroll=unroll, remat=remat)


def nvae_imagenet32(unroll: int = 1, remat: bool = False) -> NVAE:
    """The published model for ImageNet 32x32: 28 groups, 268.5 million parameters; 3.92 bits per dimension.

    Source: Vahdat & Kautz (2020), their published models.

    Example:
        >>> hv.models.nvae_imagenet32().num_levels
        28
    """
    return NVAE((32, 32, 3), groups=(28,), width=192, flows=1, unroll=unroll, remat=remat)


def nvae_faces256(unroll: int = 1, remat: bool = False) -> NVAE:
    """The published model for CelebA-HQ and FFHQ 256x256 at 5 bits: 36 groups, 330.8 million parameters.

    Published: 0.70 and 0.69 bits per dimension.

    Source: Vahdat & Kautz (2020), their published models.

    Example:
        >>> hv.models.nvae_faces256().num_levels
        36
    """
    return NVAE(
        (256, 256, 3),
        groups=halving_groups(16, 5, least=4),
        width=30,
        flows=2,
        likelihood=LogisticMixture(values=32),
        unroll=unroll,
        remat=remat,
    )


def nvae_digits(unroll: int = 1) -> NVAE:
    """For scikit-learn's digits, two CPU cores: 5 groups at 4x4 and 8x8, no halving before them.

    Example:
        >>> hv.models.nvae_digits().num_levels
        5
    """
    return NVAE(
        (8, 8, 1),
        groups=(2, 3),
        latents=4,
        width=16,
        halvings=0,
        up_cells=1,
        down_cells=1,
        likelihood=Categorical(17),
        unroll=unroll,
    )


def nvae_mnist_small(unroll: int = 1) -> NVAE:
    """For binary MNIST, two CPU cores: 6 groups at 4x4 and 8x8.

    Example:
        >>> hv.models.nvae_mnist_small().num_levels
        6
    """
    return NVAE(
        image=(28, 28, 1),
        pad=2,
        groups=(2, 4),
        latents=8,
        width=8,
        halvings=2,
        pre_cells=1,
        post_cells=1,
        up_cells=1,
        down_cells=1,
        likelihood=Bernoulli(),
        unroll=unroll,
    )


def nvae_cifar10_small(unroll: int = 1) -> NVAE:
    """For CIFAR-10, two CPU cores: 9 groups at 4x4, 8x8 and 16x16.

    Example:
        >>> hv.models.nvae_cifar10_small().num_levels
        9
    """
    return NVAE(
        (32, 32, 3),
        groups=(2, 3, 4),
        latents=8,
        width=16,
        pre_cells=1,
        post_cells=1,
        up_cells=1,
        down_cells=1,
        likelihood=LogisticMixture(5),
        unroll=unroll,
    )
