"""The ResNet VAE with inverse autoregressive flow: bidirectional inference through residual blocks.

    p(x, z) = p(x | h_0) prod_l p(z_l | z_>l)          every Gaussian diagonal; h_0 reads all of z
    q(z | x) = prod_l q(z_l | z_>l, x)                 from the top, each through a flow of its own

Every latent is a feature map and has two blocks, one bottom-up and one top-down; the bottom-up block passes only its
terms of the posterior to the top-down block. Each block splits a convolution of elu(h) by channels:

    bottom-up:   m_q, s_q, c_q, d                      h <- h + 0.1 conv(elu(d))
    top-down:    m_p, s_p, m_r, s_r, c_r, d            h <- h + 0.1 conv(elu([z_l, d]))

    p(z_l | z_>l) = N(m_p, e^{2 s_p})
    q(z_l | z_>l, x):   z_l = flow(z0; c_r + c_q),     z0 ~ N(m_r + m_q, e^{2 (s_r + s_q)})

Without a flow the posterior is that Gaussian and its KL is analytic; with one the KL is log q - log p at the sample,
where log q has the flow's log-determinant. Either way no prior depends on its own level's sample. The top-down path
begins with a learned vector, the same at all positions of the coarsest feature map.

Source: Kingma et al. (2016), section 6.2 and appendix, and their two codes. It departs from them in these points:
- The KL is analytic where there is no flow.
- The default flow has the gate of the paper's algorithm 1; their code for CIFAR-10 has the form "published".
- Gains of weight norm are initialised from the first batch. Their TensorFlow code stores log(gain)/3 and reads it as
  log(gain), so that its gains begin at other values.
- Masked kernels have no row below the centre, instead of one multiplied by 0, and the topmost bottom-up block has no
  second convolution, which nothing would read: the model is the same.
- Log variances are clamped (`clamp`), with bounds far beyond what training needs; None is their unbounded form.
- p(x | z) is exact (`DiscretisedLogistic`). In their codes the first and the last bin do not reach to infinity, and
  probabilities are floored.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.descent import Drawn, Pick, draw, propose, stack
from hvae_jax.distributions import Normal
from hvae_jax.flows import InverseAutoregressive, StepForm
from hvae_jax.likelihoods import Bernoulli, DiscretisedLogistic, Likelihood
from hvae_jax.models.base import HVAE
from hvae_jax.models.pieces import check_image, gaussian
from hvae_jax.networks.computing import widen
from hvae_jax.networks.masked import check_order
from hvae_jax.networks.mlp import one_hot
from hvae_jax.networks.resample import enlarge
from hvae_jax.networks.scale_head import ScaleHead
from hvae_jax.networks.scan import once, scanned
from hvae_jax.networks.weight_norm import WeightNormConv
from hvae_jax.records import check_sizes
from hvae_jax.runtime.prng import split
from hvae_jax.trace import Level, Trace

_LOG_STD = ScaleHead("log_std")

# A bottom-up block's terms of the posterior's mean and log standard deviation, `[B, H, W, 2 latents]`, and of the
# flow's context, `[B, H, W, context]`.
Evidence = tuple[Array, Array]


class AscentBlock(nn.Module):
    """A bottom-up block: h `[B, H, W, width]` to the same shape, or half the side if `halve`, and the block's evidence.

    Attributes:
      latents: channels of z.
      context: channels of the flow's context; 0 for no flow.
      halve: whether the first convolution has stride 2, and the skip connection takes every second row and column.
      last: whether this is the topmost block, whose h nothing reads.
    """

    latents: int
    context: int
    halve: bool = False
    last: bool = False

    @nn.compact
    def __call__(self, h: Array) -> tuple[Array, Evidence]:
        width, moments = h.shape[-1], 2 * self.latents
        features = moments + self.context + (0 if self.last else width)
        v = WeightNormConv(features, stride=2 if self.halve else 1, name="first")(nn.elu(h))
        evidence, context, v = jnp.split(v, [moments, moments + self.context], axis=-1)
        if not self.last:
            v = WeightNormConv(width, name="second")(nn.elu(v))
            h = (h[:, ::2, ::2] if self.halve else h) + 0.1 * v
        return h, (evidence, context)


class DescentBlock(nn.Module):
    """A top-down block: h `[B, H, W, width]` to the same shape, or twice the side if `enlarge`, and the block's level.

    Attributes:
      latents, context: as in `AscentBlock`.
      flow: (steps, hidden, form) of an `InverseAutoregressive`; None for a Gaussian posterior.
      clamp: bounds of both log variances; None for no bounds.
      enlarge: whether the last convolution is a transposed one of stride 2, and the skip connection repeats each pixel.
    """

    latents: int
    context: int
    flow: tuple[int, tuple[int, ...], StepForm] | None
    clamp: tuple[float, float] | None
    enlarge: bool = False

    @nn.compact
    def __call__(self, h: Array, key: Array, pick: Pick, evidence: Evidence | None) -> tuple[Array, Level]:
        width, moments = h.shape[-1], 2 * self.latents
        v = WeightNormConv(2 * moments + self.context + width, name="first")(nn.elu(h))
        ends = [moments, 2 * moments, 2 * moments + self.context]
        p, r, context, v = jnp.split(v, ends, axis=-1)  # p and r [B, H, W, 2 latents]: mean, log std
        prior = self._gaussian(p)
        draw_key, propose_key = split(key)
        posterior: Normal | Drawn | None = None
        if evidence is not None:
            posterior = base = self._gaussian(r + evidence[0])
            if self.flow is not None:
                # The flow is initialised on a sample of its base, as the other layers are on their inputs: the one that
                # `propose` draws below, by the same key.
                flow = InverseAutoregressive(*self.flow, name="flow")(base.sample(propose_key), context + evidence[1])
                posterior = propose(propose_key, base, pick, flow)
        level = draw(draw_key, prior, posterior, pick, side=h.shape[1])
        # z joins the features in their dtype; Gaussians and z are float32 at least
        v = nn.elu(jnp.concatenate([level.z.astype(v.dtype), v], axis=-1))
        stride = 2 if self.enlarge else 1
        v = WeightNormConv(width, stride=stride, transposed=self.enlarge, name="second")(v)
        return (enlarge(h, 2) if self.enlarge else h) + 0.1 * v, level

    def _gaussian(self, h: Array) -> Normal:
        """The Gaussian of mean and log standard deviation `[B, H, W, 2 latents]`, its log variance clamped."""
        # the head clamps the log standard deviation, half the log variance
        return gaussian(h, _LOG_STD, None if self.clamp is None else (0.5 * self.clamp[0], 0.5 * self.clamp[1]))


class ResNetVAE(HVAE):
    """The ResNet VAE, with or without inverse autoregressive flow, for images.

        p(x, z) = p(x | h_0) prod_l p(z_l | z_>l)
        q(z | x) = prod_l q(z_l | z_>l, x)        from the top, each through a flow of its own

    Source: Kingma et al. (2016), section 6.2 and appendix, and their two codes.

    The first convolution halves the image, and so does the first block of every resolution but the finest: with two
    resolutions, 32x32 has latents of 8x8 and of 16x16. Levels are named by their side and counted from the top:
    "z8.0", "z8.1", ..., "z16.0".

    Attributes:
      image: shape `(H, W, C)` of one x; H and W are multiples of 2^(number of resolutions).
      blocks: number of blocks, each with a latent, at each resolution, coarsest first.
      latents: channels of z at each resolution, coarsest first.
      width: channels of h.
      flow: form of the steps of `flows.InverseAutoregressive`; None for diagonal Gaussian posteriors.
      flow_steps: number of steps; the autoregressive order is reversed between them.
      flow_hidden: widths of the hidden layers of a step's network, multiples or divisors of `latents`; the context has
        as many channels as the first.
      likelihood: p(x | h_0).
      clamp: bounds of every log variance; None for no bounds.
      unroll: number of blocks of a scan that are unrolled per iteration. At 1 compile time does not grow with depth; on
        a CPU, unrolling all blocks runs several times as fast.
      remat: whether the backward pass recomputes the activations of each block instead of storing them.

    Raises ValueError if `blocks` and `latents` differ in length, a size is below 1, the image cannot be halved as
    often as needed, the flow's form is unknown, or a width in `flow_hidden` is neither a multiple nor a divisor of a
    number in `latents`.

    Example:
        >>> hv.models.ResNetVAE(image=(32, 32, 3), blocks=(2, 3), latents=(8, 8)).num_levels
        5
    """

    image: tuple[int, int, int] = (28, 28, 1)
    blocks: tuple[int, ...] = (4,)
    latents: tuple[int, ...] = (8,)
    width: int = 32
    flow: StepForm | None = "gate"
    flow_steps: int = 1
    flow_hidden: tuple[int, ...] = (32, 32)
    likelihood: Likelihood = Bernoulli()
    clamp: tuple[float, float] | None = (-12.0, 12.0)
    unroll: int = 1
    remat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "blocks", "latents", "width", "unroll")
        if len(self.blocks) != len(self.latents):
            raise ValueError(
                f"ResNetVAE(blocks={self.blocks}, latents={self.latents}): each needs one number per resolution, "
                f"coarsest first, but these are {len(self.blocks)} and {len(self.latents)}."
            )
        factor = 2 ** len(self.blocks)
        if min(self.image) < 1 or self.image[0] % factor or self.image[1] % factor:
            raise ValueError(
                f"ResNetVAE(image={self.image}, blocks={self.blocks}): one x has to be [H, W, C] with H and W "
                f"multiples of {factor}, because each of {len(self.blocks)} resolutions halves it. Take fewer "
                "resolutions, or pad or resize x."
            )
        self.likelihood.outputs(self.image[2])
        if self.flow is not None:
            check_sizes(self, "flow_steps", "flow_hidden")
            for channels in self.latents:
                check_order(
                    f"ResNetVAE(latents={self.latents}, flow_hidden={self.flow_hidden})", channels, self.flow_hidden
                )

    @property
    def num_levels(self) -> int:
        """L, one level per block."""
        return sum(self.blocks)

    @property
    def stacked(self) -> tuple[str, ...]:
        """Path prefixes of the runs of blocks that keep their resolution, which are scanned."""
        return tuple(f"{path}{side}/" for side in self._sides for path in ("up", "down"))

    @property
    def _sides(self) -> tuple[int, ...]:
        """Height of the feature maps at each resolution, coarsest first."""
        return tuple(self.image[0] // 2**halvings for halvings in range(len(self.blocks), 0, -1))

    @property
    def _plain(self) -> tuple[int, ...]:
        """Number of blocks that keep their resolution: all at the finest one, all but one elsewhere."""
        return (*(count - 1 for count in self.blocks[:-1]), self.blocks[-1])

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        one_hot(y, 0, n)  # raises ValueError for labels
        channels, resolutions, context = self.image[2], len(self.blocks), self._context
        flow = None if self.flow is None else (self.flow_steps, self.flow_hidden, self.flow)
        runs, edges = ({}, {}) if x is None else self._ascend(x)

        top = self.param("top", nn.initializers.zeros, (self.width,), jnp.float32)
        # [n, h, w, width]: the same vector at all positions of the coarsest feature maps
        h = jnp.broadcast_to(top[None, None, None], (n, self._sides[0], self.image[1] // 2**resolutions, self.width))
        keys, levels, at = split(key, self.num_levels), [], 0
        # at each resolution the run of blocks that keep it, then the edge, which doubles it
        for r, (side, plain) in enumerate(zip(self._sides, self._plain, strict=True)):
            settings = (self.latents[r], context, flow, self.clamp)
            if plain:
                here, at = slice(at, at + plain), at + plain
                blocks = self._run(DescentBlock, plain, (0, 0, 0))(*settings, name=f"down{side}")
                h, level = blocks(h, keys[here], stack(picks[here]), runs.get(r))
                levels.append(level.replace(stacked=True, name=f"z{side}"))
            if r < resolutions - 1:
                edge = once(DescentBlock, self.remat)(*settings, enlarge=True, name=f"down{side}_edge")
                h, level = edge(h, keys[at], picks[at], edges.get(r))  # [B, H, W, width] to [B, 2 H, 2 W, width]
                levels.append(level.replace(name=f"z{side}.{plain}"))
                at += 1

        outputs = self.likelihood.outputs(channels)
        v = WeightNormConv(outputs, 5, 2, transposed=True, name="readout")(nn.elu(h))
        x_dist = self.likelihood.from_map(widen(v))
        return Trace(None if x is None else x_dist.log_prob(x), tuple(levels), x_dist)

    def _ascend(self, x: Array) -> tuple[dict[int, Evidence], dict[int, Evidence]]:
        """The bottom-up path, from the finest resolution to the coarsest.

        Returns: by resolution the evidence of the blocks that keep it, stacked from the top, `[plain, B, H, W, C]`, and
          that of the block that halves it, `[B, H, W, C]`.
        """
        check_image(self, x)
        runs: dict[int, Evidence] = {}
        edges: dict[int, Evidence] = {}
        h = WeightNormConv(self.width, 5, 2, name="stem")(widen(self.likelihood.as_input(x)))
        for r in reversed(range(len(self.blocks))):
            plain, settings, name = self._plain[r], (self.latents[r], self._context), f"up{self._sides[r]}"
            if r < len(self.blocks) - 1:
                # true if the coarsest resolution has no block but this one
                is_last = r == 0 and not plain
                edge = once(AscentBlock, self.remat)(*settings, halve=True, last=is_last, name=f"{name}_edge")
                h, edges[r] = edge(h)
            found: list[Evidence] = []
            # The topmost block has fewer parameters than the others, and so stays outside the run.
            has_top = r == 0 and plain > 0
            if inner := plain - has_top:
                h, run = self._run(AscentBlock, inner, ())(*settings, name=name)(h)
                # stacked from the bottom by the scan, read from the top
                found.append(jax.tree.map(lambda leaf: leaf[::-1], run))
            if has_top:
                _, one = once(AscentBlock, self.remat)(*settings, last=True, name=f"{name}_top")(h)
                found.insert(0, jax.tree.map(lambda leaf: leaf[None], one))
            if found:
                # [plain, B, H, W, C], in the order of the descent
                runs[r] = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found)
        return runs, edges

    @property
    def _context(self) -> int:
        """Channels of the flow's context."""
        return 0 if self.flow is None else self.flow_hidden[0]

    def _run(self, block: type[nn.Module], length: int, in_axes: Sequence[int]) -> Any:
        """Equal blocks as one scan over stacked parameters."""
        return scanned(self, block, length, in_axes, unroll=self.unroll, remat=self.remat)


def iaf_cifar10(unroll: int = 1, remat: bool = False) -> ResNetVAE:
    """The published code's best run on CIFAR-10: 20 blocks at 16x16, z of 32 channels, h of 160.

    38,638,887 parameters. Published: 3.15 bits per dimension, 3.111 with 10,000 importance samples, trained with
    FreeBits(0.1, "channel", "batch"), Adamax at 0.002, batch size 256 and an EMA of the parameters at 0.999.

    Source: Kingma et al. (2016), their code for CIFAR-10.

    Example:
        >>> hv.models.iaf_cifar10().flow
        'published'
    """
    return ResNetVAE(
        image=(32, 32, 3),
        blocks=(20,),
        latents=(32,),
        width=160,
        flow="published",
        flow_hidden=(160, 160),
        likelihood=DiscretisedLogistic(256, scale="global"),
        unroll=unroll,
        remat=remat,
    )


def iaf_cifar10_two_resolutions(unroll: int = 1, remat: bool = False) -> ResNetVAE:
    """The published Theano run on CIFAR-10: 10 blocks at 8x8 and 10 at 16x16, otherwise as `iaf_cifar10`.

    38,638,887 parameters. Published: 3.28 bits per dimension with FreeBits(0.25, "channel", "batch").

    Example:
        >>> hv.models.iaf_cifar10_two_resolutions().blocks
        (10, 10)
    """
    return iaf_cifar10(unroll, remat).clone(blocks=(10, 10), latents=(32, 32))


def iaf_cifar10_small() -> ResNetVAE:
    """A small `iaf_cifar10`: 4 blocks, z of 8 channels, h of 32. 292,775 parameters.

    Example:
        >>> hv.models.iaf_cifar10_small().num_levels
        4
    """
    return iaf_cifar10(unroll=4).clone(blocks=(4,), latents=(8,), width=32, flow_hidden=(32,))


def iaf_mnist_small() -> ResNetVAE:
    """A small model for binary images of 28x28: 2 blocks at 7x7 and 2 at 14x14, z of 4 channels, h of 32.

    247,842 parameters. Not in the paper, whose models for MNIST have a single latent vector.

    Example:
        >>> hv.models.iaf_mnist_small().num_levels
        4
    """
    return ResNetVAE(blocks=(2, 2), latents=(4, 4), width=32, flow_hidden=(32,), unroll=2)
