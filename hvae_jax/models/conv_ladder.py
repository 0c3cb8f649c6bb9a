"""The Ladder VAE with latents that are feature maps, any number of levels.

    p(x, z) = p(x | z1) p(z1 | z2, ...) ... p(z_L)             every Gaussian diagonal
    q(z | x) = q(z_L | x) q(z_{L-1} | z_L, x) ... q(z1 | z2, ..., x)

    elbo(x) = E_q[log p(x | z1)] - sum_l KL(q(z_l | .) || p(z_l | .))

Residual blocks lead up from x, u_l = f_l(u_{l-1}), and down from the latents, t_l = g_l(z_l), or with `skip` t_l =
g_l(z_l, t_{l+1}), so that each level depends on all levels above. The prior of z_l comes from t_{l+1}, its posterior
from u_l and t_{l+1}: through a network that reads both, or as one of the two merges of Gaussians. No prior depends on
its own level's sample, so every KL is analytic; `Trace.ratios` has the log-ratios at the sample.

Source: A. Dittadi's Ladder VAE (addtt/ladder-vae-pytorch). Departs from that code in two things: log variances are
clamped by default, and rates are always analytic, whereas the code can take the log-ratio, which has the same mean.
The paper, Soenderby et al. (2016), has vectors, the merge "precision" and no skips; that model is in `ladder.py`. The
two models share the merges of `distributions.py`, but no networks.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Literal

from flax import linen as nn
from jax import Array

from hvae_jax.descent import Pick, draw
from hvae_jax.distributions import Normal, precision_weighted, residual
from hvae_jax.likelihoods import Bernoulli, Likelihood, LogisticMixture
from hvae_jax.models.base import HVAE
from hvae_jax.models.pieces import check_image, gaussian, learned_top_prior
from hvae_jax.networks.computing import ComputeDtype, call, widen
from hvae_jax.networks.conv import Conv
from hvae_jax.networks.mlp import one_hot
from hvae_jax.networks.resample import crop_to, double_bilinear, pad_to_multiple, padded_size
from hvae_jax.networks.residual import BlockStyle, Merge, ResidualBlock, ResidualRun
from hvae_jax.networks.standardise import standardised
from hvae_jax.records import check_sizes
from hvae_jax.runtime.prng import numbered, split
from hvae_jax.trace import Level, Trace

ConvMerge = Literal["concat", "concat_linear", "precision", "residual"]


class ConvLadderVAE(HVAE):
    """The Ladder VAE with feature maps as latents. The defaults have 3,209,153 parameters on 28x28 binary images.

        p(x, z) = p(x | z1) p(z1 | z2, ...) ... p(z_L)
        q(z | x) = q(z_L | x) q(z_{L-1} | z_L, x) ... q(z1 | z2, ..., x)

    Source: A. Dittadi's code (addtt/ladder-vae-pytorch), after Soenderby et al. (2016).

    x is padded with zeros to a multiple of the downsampling factor (`multiple`); the output is cropped to `image`.

    Attributes:
      image: `(H, W, C)` of one x.
      latents: channels of each latent, top first.
      downsample: number of blocks that downsample by 2 on the bottom-up path to each latent, top first.
      channels: channels of all other feature maps.
      blocks: number of residual blocks between two latents, on each path.
      block: settings of the residual blocks.
      halve_first: whether the first convolution, 5x5, downsamples by 2; bilinear upsampling by 2 then precedes the last
        `blocks` residual blocks.
      merge: how u_l and the top-down path give the posterior. "concat": a 1x1 convolution of both, a residual block and
        a 3x3 convolution to mean and log variance. "concat_linear": the same without the block. "precision" and
        "residual": a 3x3 convolution of u_l alone, merged with the prior by `distributions.precision_weighted` or
        `distributions.residual`.
      skip: whether a skip connection carries t_{l+1} past z_l on the top-down path.
      learn_top_prior: whether p(z_L) has a learned mean and log variance for each element, which start at N(0, I);
        otherwise it is N(0, I).
      clamp: bounds of every log variance; None for none, as published.
      data_dependent_init: whether convolutions are rescaled so that, in training mode and on the batch that `init` is
        called with, the output of each has mean 0 and standard deviation 0.1. Pass `init` a whole batch then.
      scale: divisor of x before the first convolution, such as 255; None is the likelihood's own scaling, whole numbers
        to [-1, 1] and others unchanged.
      likelihood: p(x | z1), a family from `hvae_jax.likelihoods`; a 3x3 convolution gives its parameters.
      dtype: precision of products and activations: "bfloat16" takes less memory and uses the fast units of a TPU or
        GPU; None is the precision of the parameters. Parameters, gradients, statistics, latents, KLs and likelihoods
        are float32 either way.
      remat: whether the backward pass recomputes each residual block instead of storing it: less memory for about a
        third more arithmetic.

    Raises ValueError if latents and downsample differ in length, there are more halvings than blocks or than the image
    allows, a size is below 1, scale is not positive, the likelihood does not take the image's channels, or merge or
    dtype is not known.

    Example:
        >>> hv.models.ConvLadderVAE().num_levels
        3
    """

    image: tuple[int, int, int] = (28, 28, 1)
    latents: tuple[int, ...] = (32, 32, 32)
    downsample: tuple[int, ...] = (1, 1, 1)
    channels: int = 64
    blocks: int = 4
    block: BlockStyle = BlockStyle()
    halve_first: bool = True
    merge: ConvMerge = "concat"
    skip: bool = True
    learn_top_prior: bool = True
    clamp: tuple[float, float] | None = (-7.0, 7.0)
    data_dependent_init: bool = True
    scale: float | None = None
    likelihood: Likelihood = Bernoulli()
    dtype: ComputeDtype = None
    remat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "image", "latents", "channels", "blocks")
        self._check_halvings()
        if self.scale is not None and self.scale <= 0.0:
            raise ValueError(f"ConvLadderVAE(scale={self.scale}): it has to be positive, or None.")
        self.likelihood.outputs(self.image[-1])

    def _check_halvings(self) -> None:
        """Raise ValueError if the halvings do not fit the levels, the blocks or the image."""
        if len(self.downsample) != len(self.latents):
            raise ValueError(
                f"ConvLadderVAE(latents={self.latents}, downsample={self.downsample}): {len(self.latents)} levels but "
                f"{len(self.downsample)} numbers of halvings. Give one a level, top first."
            )
        if not 0 <= min(self.downsample) <= max(self.downsample) <= self.blocks:
            raise ValueError(
                f"ConvLadderVAE(downsample={self.downsample}, blocks={self.blocks}): each block halves the resolution "
                "at most once, so each number of halvings is from 0 to blocks."
            )
        if self.multiple >= 2 * min(self.image[:2]):
            raise ValueError(
                f"ConvLadderVAE(image={self.image}, downsample={self.downsample}, halve_first={self.halve_first}): an "
                f"image of {self.image[0]}x{self.image[1]} cannot be halved {self.multiple.bit_length() - 1} times. "
                "Halve less often."
            )

    @property
    def num_levels(self) -> int:
        """L, the number of latents."""
        return len(self.latents)

    @property
    def multiple(self) -> int:
        """Downsampling factor from x to z_L; x is padded to a multiple of it."""
        return 2 ** (sum(self.downsample) + self.halve_first)

    @property
    def top_shape(self) -> tuple[int, int]:
        """Height and width of z_L."""
        rows, columns = (padded_size(side, self.multiple) // self.multiple for side in self.image[:2])
        return rows, columns

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        one_hot(y, 0, n)  # raises ValueError for labels
        initialises = self.data_dependent_init and self.is_initializing() and x is not None
        with nn.intercept_methods(standardised(0.1)) if initialises else contextlib.nullcontext():
            # in training mode, so that the batch norms in between see the statistics that they will see in training
            return self._descend(x, n, key, picks, train or initialises)

    def _descend(self, x: Array | None, n: int, key: Array, picks: tuple[Pick, ...], train: bool) -> Trace:
        # apart, so that dropout does not change which latents are drawn
        latent_key, block_key = split(key)
        keys = numbered(block_key)  # for dropout: each network takes the next
        # the whole way up comes first: the top level needs u_L, the last of it
        ups = {} if x is None else self._ascend(x, keys, train)

        levels: list[Level] = []
        h = None  # t_{l+1}; nothing lies above the top
        halvings_of = dict(zip(range(self.num_levels, 0, -1), self.downsample, strict=True))
        for (level, halvings), level_key, pick in zip(
            halvings_of.items(), split(latent_key, self.num_levels), picks, strict=True
        ):
            prior = self._prior(level, h, n)
            posterior = self._posterior(level, ups[level], h, prior, keys, train) if ups else None
            latent = draw(level_key, prior, posterior, pick, name=f"z{level}", side=prior.mean.shape[1])
            levels.append(latent)
            # z enters the path through its own convolution: it has fewer channels than the feature maps
            z = Conv(self.channels, dtype=self.dtype, name=f"z{level}")(latent.z)  # [n, h, w, channels]
            if self.skip and h is not None:
                merge = Merge(self.block, self.dtype, name=f"skip{level}")
                z = call(merge, z, h, next(keys), train=train, remat=self.remat)
            # t_l, at the resolution of the level below
            h = self._run(f"down{level}", halvings, "up")(z, next(keys), train=train)

        assert h is not None
        # the stem's stride is undone last, as it was the first change of resolution
        h = double_bilinear(h) if self.halve_first else h
        h = crop_to(self._run("px")(h, next(keys), train=train), *self.image[:2])
        # [n, H, W, outputs]; the likelihood splits the channels into its parameters
        outputs = self.likelihood.outputs(self.image[-1])
        x_dist = self.likelihood.from_map(widen(Conv(outputs, dtype=self.dtype, name="readout")(h)))
        return Trace(None if x is None else x_dist.log_prob(x), tuple(levels), x_dist)

    def _ascend(self, x: Array, keys: Iterator[Array], train: bool) -> dict[int, Array]:
        """Return u_1, ..., u_L by level."""
        check_image(self, x)
        seen = self.likelihood.as_input(x) if self.scale is None else x / self.scale
        seen = pad_to_multiple(widen(seen), self.multiple)  # zeros, as in the padding of the convolutions
        stride = 2 if self.halve_first else 1
        h = self.block.activation(Conv(self.channels, stride, self.dtype, 5, name="stem")(seen))
        # as in the code, the block after the first convolution has no gate
        ungated = ResidualBlock(dataclasses.replace(self.block, gated=False), self.dtype, name="stem_block")
        h = call(ungated, h, next(keys), train=train, remat=self.remat)
        ups = {}
        for level, halvings in enumerate(reversed(self.downsample), start=1):
            ups[level] = h = self._run(f"up{level}", halvings, "down")(h, next(keys), train=train)
        return ups

    def _prior(self, level: int, h: Array | None, n: int) -> Normal:
        """p(z_level | above) from t_{level+1}; at the top N(0, I) or a learned Gaussian."""
        size = self.latents[-level]
        if h is not None:
            return self._normal(f"p{level}", size, h)
        if not self.learn_top_prior:
            return Normal.standard((n, *self.top_shape, size))
        return learned_top_prior(self.param, (*self.top_shape, size), n, self.clamp)

    def _posterior(
        self, level: int, up: Array, h: Array | None, prior: Normal, keys: Iterator[Array], train: bool
    ) -> Normal:
        """q(z_level | above, x) from u_level merged with the top-down path; from u_level alone at the top."""
        concat = self.merge in ("concat", "concat_linear")
        if concat and h is not None:
            merge = Merge(self.block if self.merge == "concat" else None, self.dtype, name=f"merge{level}")
            up = call(merge, up, h, next(keys), train=train, remat=self.remat)
        # [n, h, w, latents]: what x alone says, where the paths are not concatenated
        evidence = self._normal(f"q{level}", self.latents[-level], up)
        # a concatenation has merged the paths already, and at the top there is nothing to merge
        if concat or h is None:
            return evidence
        return precision_weighted(prior, evidence) if self.merge == "precision" else residual(prior, evidence)

    def _normal(self, name: str, size: int, h: Array) -> Normal:
        """The Gaussian whose mean and log variance a 3x3 convolution gives."""
        return gaussian(Conv(2 * size, dtype=self.dtype, name=name)(h), clamp=self.clamp)

    def _run(self, name: str, resamplings: int = 0, direction: Literal["down", "up"] = "down") -> ResidualRun:
        """`blocks` residual blocks, of which the first `resamplings` change the resolution."""
        return ResidualRun(self.blocks, resamplings, direction, self.block, self.dtype, self.remat, name=name)


def addtt_mnist(layers: int = 3) -> ConvLadderVAE:
    """The published model of binary 28x28 images, with 3, 6 or 12 layers; any multiple of 3 works.

    Trained with FreeBits(0.5, "level", "sample"), or 1.0 above six layers, and Adamax at 3e-4, batch size 64. Published
    on static MNIST: -ELBO 82.14, 80.74 and 80.50 nats, and 79.24, 78.52 and 78.30 with 1000 importance samples.

    Example:
        >>> hv.models.addtt_mnist(12).num_levels
        12
    """
    return ConvLadderVAE(latents=(32,) * layers, downsample=_thirds(layers), clamp=None)


def addtt_cifar10(layers: int = 3) -> ConvLadderVAE:
    """The published model of 32x32 colour images, with 3, 6 or 15 layers; any multiple of 3 works.

    Trained as `addtt_mnist`. Published on CIFAR-10: -ELBO 3.59, 3.44 and 3.35 bits per dimension.

    Example:
        >>> hv.models.addtt_cifar10(15).num_levels
        15
    """
    return ConvLadderVAE(
        image=(32, 32, 3),
        latents=(32,) * layers,
        downsample=_thirds(layers),
        clamp=None,
        scale=255.0,
        likelihood=LogisticMixture(form="published"),
    )


def _thirds(layers: int) -> tuple[int, ...]:
    """`downsample` of the presets, top first: one halving in each third of the levels, at its lowest level.

    The published description says only that there are three, evenly spaced.
    Raises ValueError unless the number of layers is a multiple of 3.
    """
    if layers < 3 or layers % 3:
        raise ValueError(f"{layers} layers: a multiple of 3 is needed, for three evenly spaced halvings.")
    third = layers // 3
    return ((0,) * (third - 1) + (1,)) * 3
