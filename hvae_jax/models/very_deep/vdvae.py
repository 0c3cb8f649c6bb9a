"""The very deep VAE: many levels at every resolution, residual bottlenecks, and no normalisation.

    p(x, z) = p(x | h) prod_l p(z_l | z_>l)            every Gaussian diagonal and learned
    q(z | x) = prod_l q(z_l | z_>l, x)                 each reads the bottom-up path at its resolution

Every prior begins as N(0, I): the last kernel of its network starts at zero. The last kernels of the other
bottlenecks, and those that project z, start 1/sqrt(depth) smaller than PyTorch's default, so that the sum over blocks
keeps its scale. `graph.py` and `blocks.py` have the forward pass; this file has VDVAE's parts.

Source: Child (2021), "Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images", and its code.
It departs from that in one thing: log standard deviations are clamped (`clamp`), far beyond what training needs.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from hvae_jax.descent import Pick
from hvae_jax.distributions import Normal
from hvae_jax.likelihoods import Bernoulli, Likelihood
from hvae_jax.models.base import HVAE
from hvae_jax.models.pieces import check_image, gaussian
from hvae_jax.models.very_deep.block_strings import down_stages, up_stages
from hvae_jax.models.very_deep.blocks import BottleneckOf, ConvProjection, DownBlock, LearnedStart, UpBlock
from hvae_jax.models.very_deep.graph import ascend, descend
from hvae_jax.models.very_deep.parts import Ascent, Parts, Reading
from hvae_jax.models.very_deep.stage_checks import check_parsed, check_stages, name_down, name_up
from hvae_jax.models.very_deep.stages import Down, Up, count_levels, sides_of_levels, stacked_paths, stage_names
from hvae_jax.networks.activations import exact_gelu, stored_gelu
from hvae_jax.networks.bottleneck import BottleneckConv, BottleneckStyle, joint_products, stacked_products
from hvae_jax.networks.computing import ComputeDtype, Kept, Precision, product, widen
from hvae_jax.networks.mlp import one_hot
from hvae_jax.networks.resample import average_pool, enlarge
from hvae_jax.networks.scale_head import ScaleHead
from hvae_jax.records import check_sizes
from hvae_jax.trace import Trace

_LOG_STD = ScaleHead("log_std")


@dataclasses.dataclass(frozen=True)
class JointPrior:
    """One bottleneck whose output channels are the prior's mean and log standard deviation, and the shift of h.

    Attributes:
      style: settings of the convolutions.
      clamp: bounds of the log standard deviation; None for no bounds.
      ahead: whether it is called with its product of `FirstProducts` in the place of h.
    """

    style: BottleneckStyle
    clamp: tuple[float, float] | None
    ahead: bool = False

    def __call__(self, stage: Down, h: Array) -> tuple[Normal, Array]:
        """p(z_l | z_>l), and the shift `[B, side, side, width]`."""
        bottleneck = BottleneckOf(self.style, 0.0)  # the last kernel begins at zero: N(0, I), and no shift
        layer = bottleneck.layer(stage, 2 * stage.latents + stage.width, stage.between, "prior")
        features = layer(h, ahead=self.ahead)
        moments, shift = jnp.split(features, [2 * stage.latents], axis=-1)  # 2 latents and width channels
        # stored by themselves: with the shift they are as wide as the state
        return gaussian(product(moments), _LOG_STD, self.clamp), shift


@dataclasses.dataclass(frozen=True)
class JointPosterior:
    """One bottleneck from the channels of h and of the tap to the posterior's mean and log standard deviation.

    Attributes:
      style, clamp: as in `JointPrior`.
      ahead: whether it is called with products in the place of h (`FirstProducts`) and of the tap (`ProductsOfSide`).
    """

    style: BottleneckStyle
    clamp: tuple[float, float] | None
    ahead: bool = False

    def __call__(self, stage: Down, h: Array, tap: Array, prior: Normal) -> Normal:
        """q(z_l | z_>l, x)."""
        layer = BottleneckOf(self.style).layer(stage, 2 * stage.latents, stage.posterior_between, "posterior")
        # from width + C channels to 2 latents
        features = layer(h + tap.reshape(h.shape), ahead=True) if self.ahead else layer(h, tap)
        return gaussian(features, _LOG_STD, self.clamp)


class LastOfSide:
    """All blocks of a side read the last feature maps of that side."""

    def tap(self, stage: Up, h: Array) -> None:
        """No block has a tap of its own."""

    def read(self, found: Ascent, downs: Sequence[Down]) -> list[Reading]:
        """The feature maps `[B, side, side, C]` of each stage's side."""
        return [Reading(found.by_side[stage.side], nn.broadcast) for stage in downs]


@dataclasses.dataclass(frozen=True)
class ProductsOfSide(LastOfSide):
    """The products of `LastOfSide`'s taps with the first kernels of the posteriors that read them.

    They are taken before the blocks run, for all blocks of a stage at once. A block then reads M channels, those inside
    its posterior's bottleneck, instead of the tap, and no gradients of the tap are summed over the blocks.

    Attributes:
      style: settings of the convolutions.
      params: the model's parameters.
    """

    style: BottleneckStyle
    params: Mapping[str, Any]

    def read(self, found: Ascent, downs: Sequence[Down]) -> list[Reading]:
        """Of each stage `[blocks, B, 1, side^2, M]`: a 1x1 kernel may have all pixels in one row."""
        readings = []
        for stage, name in zip(downs, stage_names("down", downs), strict=True):
            maps = found.by_side[stage.side]
            # With a shape of their own the products share no buffer of zeros with what blocks store: XLA fills the one
            # that their gradients are written into, and would fill all of them.
            row = maps.reshape(maps.shape[0], 1, -1, maps.shape[-1])
            kernels = self.params[name]["posterior"]["conv_0"]["kernel"]  # [blocks, 1, 1, width + C, M]
            readings.append(Reading(stacked_products(row, kernels[:, :, :, stage.width :], self.style), 0))
        return readings


@dataclasses.dataclass(frozen=True)
class FirstProducts:
    """The products of a block's state with the first kernels of its prior and its posterior, taken as one.

    Attributes:
      style: settings of the convolutions.
    """

    style: BottleneckStyle

    def __call__(self, block: nn.Module, stage: Down, h: Array) -> tuple[Array, Array]:
        """Products `[B, side, side, M]`, M channels inside the prior's bottleneck and M inside the posterior's."""
        both = [block.get_variable("params", name)["conv_0"]["kernel"] for name in ("prior", "posterior")]
        # of the posterior's, the other inputs are those of the tap
        first, second = joint_products(h, [kernel[:, :, : stage.width] for kernel in both], self.style)
        return first, second


def mean_pool(h: Array, width: int, factor: int, name: str) -> Array:
    """Means over squares of factor x factor pixels, with channels of zeros up to `width`."""
    h = average_pool(h, factor)
    return jnp.pad(h, ((0, 0), (0, 0), (0, 0), (0, width - h.shape[-1])))


def nearest_unpool(above: Array, width: int, factor: int, name: str) -> Array:
    """The first `width` channels, each pixel repeated factor x factor times."""
    return enlarge(above[..., :width], factor)


class VDVAE(HVAE):
    """The very deep VAE, for square images.

        p(x, z) = p(x | h) prod_l p(z_l | z_>l)            every Gaussian diagonal and learned
        q(z | x) = prod_l q(z_l | z_>l, x)                 each reads the bottom-up path at its resolution

    Source: Child (2021), "Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images".

    Levels are named by the side of their feature maps and counted from the top: "z1.0", "z4.0", "z4.1", ...
    `up_stages` and `down_stages` parse stages from the published block strings.

    Attributes:
      image: shape `(S, S, C)` of one x.
      ups: stages of the bottom-up path, from x.
      downs: stages of the top-down path, from the top.
      likelihood: p(x | h), from the last state at the image's side.
      classes: number of class labels; 0 for a model without y. A learned vector for each label is added to the first
        state of each side, so that priors and posteriors read it.
      standardise: mean and standard deviation of the data's values; the bottom-up path reads (x - mean)/deviation. None
        is `likelihood.as_input(x)`, whole numbers to -1 .. 1.
      no_bias_above: largest side whose state begins with learned feature maps; larger sides begin with zeros.
      clamp: bounds of every log standard deviation; None for no bounds, as published.
      dtype: dtype of products and activations. "bfloat16" takes less memory and uses the fast units of a TPU or GPU;
        None is the parameters' dtype. Parameters, gradients, latents, KLs and likelihoods are float32 either way.
      precision: precision of products on accelerators: "default", the hardware's fastest, or "highest", float32.
      unroll: number of blocks of a scan that are unrolled per iteration. At 1 compile time does not grow with depth; on
        a CPU, unrolling all blocks runs several times as fast.
      remat: whether the backward pass recomputes the activations of each block instead of storing them.
      kept: what is stored of a block otherwise: "all" values that its backward pass reads, or "products", the outputs
        of convolutions, from which everything else is computed again. With "products" blocks also sum their KLs
        themselves, and without `remat` what posteriors read of x is multiplied before the blocks run, and the state
        for prior and posterior at once. All that moves and takes less memory on a TPU or GPU; a CPU gains nothing.

    Raises ValueError if the image is not square, stages do not follow from each other, mix in a side that is not built
    yet or do not reach the image's side, a size is below 1, or dtype or precision is not known.

    Example:
        >>> model = hv.models.VDVAE(image=(8, 8, 1), ups=hv.models.up_stages("8d8,1x1", 8),
        ...     downs=hv.models.down_stages("1x2,8m1,8x3", 8), likelihood=hv.Categorical(17))
        >>> model.num_levels  # 2 blocks at 1x1, 1 + 3 at 8x8
        6
    """

    image: tuple[int, int, int] = (28, 28, 1)
    ups: tuple[Up, ...] = up_stages("28x1,28d2,14x2,14d2,7x2,7d7,1x2", 32)
    downs: tuple[Down, ...] = down_stages("1x2,7m1,7x3,14m7,14x3,28m14", 32, latents=8)
    likelihood: Likelihood = Bernoulli()
    classes: int = 0
    standardise: tuple[float, float] | None = None
    no_bias_above: int = 64
    clamp: tuple[float, float] | None = (-10.0, 10.0)
    dtype: ComputeDtype = None
    precision: Precision = "default"
    unroll: int = 1
    remat: bool = False
    kept: Kept = "all"

    def __post_init__(self) -> None:
        check_parsed(self)  # before the check of fields, which would ask for a tuple of stages
        super().__post_init__()
        check_sizes(self, "unroll")
        if self.standardise is not None and not self.standardise[1] > 0:
            raise ValueError(f"VDVAE(standardise={self.standardise}): a mean, and a standard deviation above 0.")
        if self.no_bias_above < 0:
            raise ValueError(f"VDVAE(no_bias_above={self.no_bias_above}): 0 or more.")
        check_stages(self, self.image[0])
        _check_widths(self)
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
        # the state at x's resolution, which the readout reads
        width = next(stage.width for stage in self.downs if stage.side == side)
        # There is no normalisation: before the readout the sum over all blocks has a learned scale and shift.
        gain = self.param("gain", nn.initializers.ones, (width,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        # where the blocks choose what is stored, an activation that chooses for itself would be in their way
        activation = stored_gelu if self.kept == "products" else exact_gelu
        style = BottleneckStyle(activation, dtype=self.dtype, precision=self.precision)
        # Zeros of JAX's default dtype would turn every state into float64 wherever that is switched on.
        parts = self._parts(style, gain.dtype, inferred=x is not None)

        readings = None
        if x is not None:
            check_image(self, x)
            stem = BottleneckConv(self.ups[0].width, 3, style=style, name="stem")
            h = stem(widen(self._as_input(x)))  # [B, S, S, C] to [B, S, S, width]
            readings = ascend(self, parts, self.ups, self.downs, h)
        levels, states = descend(self, parts, self.downs, readings, n, key, picks, label)

        # The sum over blocks, [B, S, S, width], leaves bfloat16 before it is scaled.
        h = widen(states[side]) * gain[None, None, None] + bias[None, None, None]
        readout = BottleneckConv(self.likelihood.outputs(channels), style=style, name="readout")
        x_dist = self.likelihood.from_map(widen(readout(h)))
        return Trace(None if x is None else x_dist.log_prob(x), levels, x_dist)

    def _as_input(self, x: Array) -> Array:
        """x as the bottom-up path reads it."""
        if self.standardise is None:
            return self.likelihood.as_input(x)
        mean, deviation = self.standardise
        return (x - mean) / deviation

    def _parts(self, style: BottleneckStyle, zeros: DTypeLike, inferred: bool) -> Parts:
        """VDVAE's parts. `zeros` is the dtype of states that begin with zeros, `inferred` whether there is an x."""
        # A sum of n residual branches, each 1/sqrt(n) smaller, has the variance of one.
        depth_up, depth_down = sum(stage.blocks for stage in self.ups), self.num_levels
        # While the model initialises there are no kernels yet; with `remat` the products would take memory.
        ahead = inferred and self.kept == "products" and not self.remat and not self.is_initializing()
        return Parts(
            up_block=UpBlock,
            down_block=DownBlock,
            up_cell=BottleneckOf(style, depth_up**-0.5),
            down_cell=BottleneckOf(style, depth_down**-0.5),
            taps=ProductsOfSide(style, self.variables["params"]) if ahead else LastOfSide(),
            pool=mean_pool,
            unpool=nearest_unpool,
            start=LearnedStart(self.no_bias_above, zeros, self.dtype),
            prior=JointPrior(style, self.clamp, ahead),
            posterior=JointPosterior(style, self.clamp, ahead),
            projection=ConvProjection(style, depth_down**-0.5),
            unroll=self.unroll,
            remat=self.remat,
            kept=self.kept,
            first=FirstProducts(style) if ahead else None,
            sums=self.kept == "products",
        )


def _check_widths(model: VDVAE) -> None:
    """Raise ValueError unless pools only add channels and unpools only crop them: they have no parameters."""
    for i, (before, stage) in enumerate(itertools.pairwise(model.ups), start=1):
        if stage.width < before.width:
            raise ValueError(
                f"{name_up(model, i)}, has width {stage.width} after {before.width}: pooled feature maps get channels "
                "of zeros, so that widths can only grow."
            )
    # The graph could begin with the state of another side, as Efficient-VDVAE does; block strings have no token for it.
    if model.downs[0].mixes_in is not None:
        raise ValueError(f"{name_down(model, 0)}, mixes in side {model.downs[0].mixes_in}, which is not built yet.")
    # A coarser state is cropped to the finer one's channels, never padded.
    widths = {stage.side: stage.width for stage in model.downs}
    for i, stage in enumerate(model.downs):
        if stage.mixes_in is not None and widths[stage.mixes_in] < stage.width:
            raise ValueError(
                f"{name_down(model, i)}, has width {stage.width} and mixes in side {stage.mixes_in} of "
                f"{widths[stage.mixes_in]}: widths stay as they are or fall on the way down."
            )
