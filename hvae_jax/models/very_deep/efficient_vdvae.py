"""Efficient-VDVAE: the graph of `VDVAE` with learned pooling and upsampling, learned taps, and smooth scales.

    std = log(1 + e^(beta a))/beta, beta = log 2        a is a layer's output: 1 at a = 0, at most linear in a

Widths may taper with the resolution. The other differences are swish, Glorot's initialiser, a tap for each bottom-up
block or one for several, a 1x1 convolution from features to each Gaussian, and no zero initialisation of the prior and
the shift of h.

Source: Hazami et al. (2022), "Efficient-VDVAE: Less is more", and its code. It departs from that in these points:
- beta is log 2, of which the code has seven digits.
- All kernels have Glorot's initialiser; the PyTorch tree leaves the first of each bottleneck at PyTorch's default.
- The KL of "log_std" has beta in all its terms; the JAX tree leaves it out of one.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.descent import Pick
from hvae_jax.distributions import Normal, residual
from hvae_jax.likelihoods import Bernoulli, Likelihood
from hvae_jax.models.base import HVAE
from hvae_jax.models.pieces import check_image, gaussian
from hvae_jax.models.very_deep.blocks import BottleneckOf, ConvProjection, DownBlock, LearnedStart, UpBlock
from hvae_jax.models.very_deep.graph import ascend, descend
from hvae_jax.models.very_deep.parts import Ascent, Parts, Reading
from hvae_jax.models.very_deep.stage_checks import check_parsed, check_stages, name_down, name_up
from hvae_jax.models.very_deep.stages import Down, Up, count_levels, sides_of_levels, stacked_paths
from hvae_jax.networks.bottleneck import BottleneckConv, BottleneckStyle, LearnedPool, LearnedUnpool
from hvae_jax.networks.computing import ComputeDtype, Kept, Precision, widen
from hvae_jax.networks.mlp import one_hot
from hvae_jax.networks.scale_head import ScaleHead
from hvae_jax.records import check_sizes
from hvae_jax.trace import Trace


@dataclasses.dataclass(frozen=True)
class HeadPrior:
    """A bottleneck to the shift of h and as many features, and a 1x1 convolution from these features to the prior.

    Attributes:
      style: settings of the convolutions.
      head: how a layer's output becomes a standard deviation.
    """

    style: BottleneckStyle
    head: ScaleHead

    def __call__(self, stage: Down, h: Array) -> tuple[Normal, Array]:
        """p(z_l | z_>l), and the shift `[B, side, side, width]`."""
        # one bottleneck for both halves, as in the published code
        both = BottleneckOf(self.style).layer(stage, 2 * stage.width, stage.between, "prior")(h)
        shift, features = jnp.split(both, 2, axis=-1)  # [B, side, side, width] each
        head = BottleneckConv(2 * stage.latents, style=self.style, name="prior_head")
        return gaussian(head(features), self.head), shift


@dataclasses.dataclass(frozen=True)
class HeadPosterior:
    """A bottleneck from the channels of h and of the tap to half as many, and a 1x1 convolution to the posterior.

    Attributes:
      style, head: as in `HeadPrior`.
      offset: whether the convolution's Gaussian is an offset from the prior.
    """

    style: BottleneckStyle
    head: ScaleHead
    offset: bool

    def __call__(self, stage: Down, h: Array, tap: Array, prior: Normal) -> Normal:
        """q(z_l | z_>l, x)."""
        outputs = (stage.width + tap.shape[-1]) // 2
        features = BottleneckOf(self.style).layer(stage, outputs, stage.posterior_between, "posterior")(h, tap)
        head = BottleneckConv(2 * stage.latents, style=self.style, name="posterior_head")
        # the tap enters beside h, not added to it: their channels differ
        found = gaussian(head(features), self.head)  # [B, side, side, latents], from (width + C)/2 channels
        return residual(prior, found) if self.offset else found


@dataclasses.dataclass(frozen=True)
class ConvTaps:
    """Taps by a 1x1 convolution after each bottom-up block of a stage with `skip`, read in reverse order.

    Attributes:
      style: settings of the convolutions.
    """

    style: BottleneckStyle

    def tap(self, stage: Up, h: Array) -> Array | None:
        """The tap of a block, `[B, side, side, skip]`."""
        return BottleneckConv(stage.skip, style=self.style, name="skip")(h) if stage.skip else None

    def read(self, found: Ascent, downs: Sequence[Down]) -> list[Reading]:
        """One tap for each stage that shares it, `blocks` taps for a stage that does not, the latest first."""
        taps, readings = list(found.taps), []  # the last tap made, at the coarsest side, is the first read
        for stage in downs:
            if stage.shared:
                readings.append(Reading(taps.pop(), nn.broadcast))
            else:  # [blocks, B, side, side, skip]
                readings.append(Reading(jnp.stack([taps.pop() for _ in range(stage.blocks)]), 0))
        return readings


@dataclasses.dataclass(frozen=True)
class ConvPool:
    """`LearnedPool` between bottom-up stages.

    Attributes:
      style: settings of the convolution.
    """

    style: BottleneckStyle

    def __call__(self, h: Array, width: int, factor: int, name: str) -> Array:
        """h `[B, side, side, C]` to `[B, side / factor, side / factor, width]`."""
        return LearnedPool(width, factor, self.style, name=name)(h)


@dataclasses.dataclass(frozen=True)
class ConvUnpool:
    """`LearnedUnpool` between top-down stages.

    Attributes:
      style: settings of the convolution.
    """

    style: BottleneckStyle

    def __call__(self, above: Array, width: int, factor: int, name: str) -> Array:
        """The state `[B, side, side, C]` to `[B, factor * side, factor * side, width]`."""
        return LearnedUnpool(width, factor, self.style, name=name)(above)


class EfficientVDVAE(HVAE):
    """Efficient-VDVAE, for square images.

    p and q factorise as in `VDVAE`. A layer's output a becomes a standard deviation, log(1 + e^(beta a))/beta with
    beta = log 2.

    Source: Hazami et al. (2022), "Efficient-VDVAE: Less is more", and its code.

    Levels are named as in `VDVAE`. Each block of a bottom-up stage with `skip` above 0 has a tap. A top-down stage
    reads one tap, or with `shared=False` one for each of its blocks, the latest first.

    Attributes:
      image, likelihood, classes, dtype, precision, unroll, remat, kept: as in `VDVAE`.
      ups: stages of the bottom-up path, from x; pooled feature maps have the width of the next stage.
      downs: stages of the top-down path, from the top. Each stays at its side or upsamples the state of the stage
        before, whose side is then `mixes_in`; the first stage's `mixes_in` is the side of the learned feature maps that
        the path begins with.
      pad: width of the frame of zeros around x, which is cropped again from the last feature maps.
      head: how a layer's output becomes a standard deviation: "softplus_std" as above, or "log_std", std = e^(beta a).
      residual_posterior: whether the posterior is an offset from the prior.
      stem_size, readout_size: kernel sizes of the first and of the last convolution.
      edge: kernel size of the first and last convolution of each bottleneck; None is the stage's own.

    Raises ValueError as `VDVAE` does, and if taps and the stages that read them do not match.

    Example:
        >>> hv.models.EfficientVDVAE().num_levels
        7
    """

    image: tuple[int, int, int] = (28, 28, 1)
    ups: tuple[Up, ...] = (
        Up(32, 1, 16, 2, skip=16),
        Up(16, 2, 32, 2, skip=32),
        Up(8, 2, 32, 8, skip=32),
        Up(1, 1, 32, skip=32),
    )
    downs: tuple[Down, ...] = (
        Down(1, 2, 32, latents=8),
        Down(8, 2, 32, 1, 8, shared=False),
        Down(16, 2, 32, 8, 8, shared=False),
        Down(32, 1, 16, 16, 8),
    )
    likelihood: Likelihood = Bernoulli()
    classes: int = 0
    pad: int = 2
    head: ScaleHead = ScaleHead("softplus_std", math.log(2.0))
    residual_posterior: bool = False
    stem_size: int = 1
    readout_size: int = 1
    edge: int | None = 1
    dtype: ComputeDtype = None
    precision: Precision = "default"
    unroll: int = 1
    remat: bool = False
    kept: Kept = "all"

    def __post_init__(self) -> None:
        check_parsed(self)  # before the check of fields, which would ask for a tuple of stages
        super().__post_init__()
        check_sizes(self, "unroll", "stem_size", "readout_size", *(() if self.edge is None else ("edge",)))
        if self.pad < 0:
            raise ValueError(f"EfficientVDVAE(pad={self.pad}): 0 or more.")
        check_stages(self, self.image[0] + 2 * self.pad)
        _check_chain(self)
        _check_taps(self)
        self.likelihood.outputs(self.image[2])  # raises for a number of channels that does not fit

    @property
    def num_levels(self) -> int:
        """L, one level per block of the top-down path."""
        return count_levels(self.downs)

    @property
    def stacked(self) -> tuple[str, ...]:
        """Every stage is a scanned run."""
        return stacked_paths(self.ups, self.downs)

    @property
    def sides(self) -> tuple[int, ...]:
        """Height and width of each level's feature maps, top first."""
        return sides_of_levels(self.downs)

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        side, channels, label = self.image[0], self.image[2], one_hot(y, self.classes, n)
        style = BottleneckStyle(jax.nn.swish, "glorot", self.edge, self.dtype, self.precision)
        parts = self._parts(style)

        readings = None
        if x is not None:
            check_image(self, x)
            frame = (self.pad, self.pad)
            # zeros beyond the edge of x, so that 28x28 halves as often as 32x32
            padded = jnp.pad(widen(self.likelihood.as_input(x)), ((0, 0), frame, frame, (0, 0)))
            stem = BottleneckConv(self.ups[0].width, self.stem_size, style=style, name="stem")
            h = stem(padded)  # [B, S + 2 pad, S + 2 pad, width]
            readings = ascend(self, parts, self.ups, self.downs, h)
        levels, states = descend(self, parts, self.downs, readings, n, key, picks, label)

        readout = BottleneckConv(self.likelihood.outputs(channels), self.readout_size, style=style, name="readout")
        h = widen(readout(states[side + 2 * self.pad]))
        # what was generated in the frame stands for no pixel
        inner = slice(self.pad, self.pad + side)
        x_dist = self.likelihood.from_map(h[:, inner, inner])  # from S + 2 pad rows and columns to S
        return Trace(None if x is None else x_dist.log_prob(x), levels, x_dist)

    def _parts(self, style: BottleneckStyle) -> Parts:
        """Efficient-VDVAE's parts."""
        # The published code scales both paths by the number of top-down blocks.
        scale = self.num_levels**-0.5
        return Parts(
            up_block=UpBlock,
            down_block=DownBlock,
            up_cell=BottleneckOf(style, scale),
            down_cell=BottleneckOf(style, scale),
            taps=ConvTaps(style),
            pool=ConvPool(style),
            unpool=ConvUnpool(style),
            start=LearnedStart(dtype=self.dtype),
            prior=HeadPrior(style, self.head),
            posterior=HeadPosterior(style, self.head, self.residual_posterior),
            projection=ConvProjection(style, scale),
            unroll=self.unroll,
            remat=self.remat,
            kept=self.kept,
        )


def _check_chain(model: EfficientVDVAE) -> None:
    """Check that each top-down stage continues the one before and that no last pool is left unread.

    Raises ValueError naming the stage.
    """
    last = len(model.ups) - 1
    if model.ups[last].pool > 1:
        raise ValueError(
            f"{name_up(model, last)}, pools by {model.ups[last].pool}, but no stage reads that: set pool=1."
        )
    # The path is a chain: each stage has to begin where the one before it ended.
    for i, stage in enumerate(model.downs):
        previous = model.downs[i - 1].side if i else stage.mixes_in
        # a stage mixes in the state before it if the side changes, and nothing if it stays
        if stage.mixes_in != (None if stage.side == previous else previous):
            raise ValueError(
                f"{name_down(model, i)}, comes after side {previous}: mixes_in has to be that side, or None to stay "
                "there."
            )


def _check_taps(model: EfficientVDVAE) -> None:
    """Check that the top-down path reads exactly the taps there are, the latest first.

    Raises ValueError naming the sides of the taps, or the stage whose taps differ in their channels.
    """
    taps = [(stage.side, stage.skip) for stage in model.ups if stage.skip for _ in range(stage.blocks)]
    counts = [1 if stage.shared else stage.blocks for stage in model.downs]
    # the last tap of the bottom-up path is the first to be read
    made = [side for side, _ in reversed(taps)]
    read = [stage.side for stage, count in zip(model.downs, counts, strict=True) for _ in range(count)]
    if made != read:
        raise ValueError(
            f"EfficientVDVAE: the taps of the bottom-up path, the latest first, are at sides {made}, but the top-down "
            f"path reads them at {read}. Every block of a stage with skip has one, and each stage reads one (shared) "
            "or one per block."
        )
    for i, count in enumerate(counts):
        # the blocks of a stage are scanned, and a scan needs taps of one shape
        taken = [taps.pop()[1] for _ in range(count)]
        if len(set(taken)) > 1:
            raise ValueError(
                f"{name_down(model, i)}, reads taps of {taken} channels, but those of a stage have to be alike: split "
                "the stage."
            )
