"""The ResNet VAE with inverse autoregressive flow: bidirectional inference through residual blocks.

    p(x, z) = p(x | h_0) prod_l p(z_l | z_>l)          every Gaussian diagonal; h_0 reads all of z
    q(z | x) = prod_l q(z_l | z_>l, x)                 from the top, each through a flow of its own

Every latent is a map of channels and has two blocks, one on the way up and one on the way down, which share nothing
but what the first tells the second. Each takes elu(h) through a convolution and cuts the result into pieces:

    up:      m_q, s_q, c_q, d                    h <- h + 0.1 conv(elu(d))
    down:    m_p, s_p, m_r, s_r, c_r, d          h <- h + 0.1 conv(elu(z_l beside d))

    p(z_l | z_>l) = N(m_p, e^{2 s_p})
    q(z_l | z_>l, x):   z_l = flow(z0; c_r + c_q),   z0 ~ N(m_r + m_q, e^{2 (s_r + s_q)})

The posterior adds what both say. Without a flow it is that Gaussian and its KL is analytic; with one the KL is
log q - log p at the sample, log q with the flow's log-determinant. Either way the prior does not depend on the level's
own sample. The descent starts from a learned vector, the same at all places of the coarsest map.

Source: Kingma et al. (2016), section 6.2 and appendix, and their two codes. It departs from them so:
- The KL is analytic where there is no flow.
- The gate of the paper's algorithm 1 is the default, where their code for CIFAR-10 has "published".
- Gains of weight norm start at what the first batch says. Their TensorFlow code stores log(gain)/3 and reads it as
  log(gain), so that it starts elsewhere.
- Masked kernels have no row below the centre, instead of one that is multiplied by 0, and the topmost block of the
  ascent has no second convolution, which nothing would read: the model is the same.
- Log variances are clamped (`clamp`), wide of what training needs; None for neither bound, as theirs.
- Their bins of p(x | z) are closed and floored: `DiscretisedLogistic` says how.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.descent import Pick, draw, propose, stack
from hvae_jax.distributions import Normal, hard_clamp, residual
from hvae_jax.flows import InverseAutoregressive, StepForm
from hvae_jax.likelihoods import Bernoulli, DiscretisedLogistic, Likelihood
from hvae_jax.models.base import HVAE
from hvae_jax.networks.computing import widen
from hvae_jax.networks.masked import check_order
from hvae_jax.networks.mlp import check_event, one_hot
from hvae_jax.networks.resample import enlarge
from hvae_jax.networks.scan import scanned
from hvae_jax.networks.weight_norm import WeightNormConv
from hvae_jax.records import as_tuples, check_sizes
from hvae_jax.trace import Level, Trace

# What the way up tells of a level: mean and log standard deviation `[B, h, w, latents]`, context `[B, h, w, C]`.
Found = tuple[Array, Array, Array]


def _split(v: Array, *sizes: int) -> list[Array]:
    """v cut along its channels into pieces of these sizes and the rest."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return jnp.split(v, ends, axis=-1)


class Up(nn.Module):
    """A block of the ascent: `[B, h, w, width]` to the same, halved if `halve`, and what it found.

    Attributes:
      latents: channels of z.
      context: channels of what the flow is told; 0 for none.
      halve: whether the first convolution has stride 2, and h passes by with every second row and column.
      last: whether nothing is above that would read h, so that it goes on no further.
    """

    latents: int
    context: int
    halve: bool = False
    last: bool = False

    @nn.compact
    def __call__(self, h: Array, _: None) -> tuple[Array, Found]:
        width, z = h.shape[-1], self.latents
        features = 2 * z + self.context + (0 if self.last else width)
        v = WeightNormConv(features, stride=2 if self.halve else 1, name="first")(nn.elu(h))
        mean, log_std, context, v = _split(v, z, z, self.context)
        if not self.last:
            v = WeightNormConv(width, name="second")(nn.elu(v))
            h = (h[:, ::2, ::2] if self.halve else h) + 0.1 * v
        return h, (mean, log_std, context)


class Down(nn.Module):
    """A block of the descent: `[B, h, w, width]` to the same, doubled if `enlarge`, and its level.

    Attributes:
      latents, context: as in `Up`.
      flow: settings of an `InverseAutoregressive`, (steps, hidden, form), or None.
      clamp: bounds of both log variances, or None.
      enlarge: whether the last convolution is a transposed one of stride 2, and h passes by with each pixel four times.
    """

    latents: int
    context: int
    flow: tuple[int, tuple[int, ...], StepForm] | None
    clamp: tuple[float, float] | None
    enlarge: bool = False

    @nn.compact
    def __call__(self, h: Array, key: Array, pick: Pick, found: Found | None) -> tuple[Array, Level]:
        width, z = h.shape[-1], self.latents
        v = WeightNormConv(4 * z + self.context + width, name="first")(nn.elu(h))
        p_mean, p_log_std, r_mean, r_log_std, context, v = _split(v, z, z, z, z, self.context)
        prior = self._normal(p_mean, p_log_std)
        draw_key, propose_key = jax.random.split(key)
        posterior: Any = None
        if found is not None:
            merged = residual(Normal(r_mean, r_log_std), Normal(found[0], found[1]))
            posterior = self._normal(merged.mean, merged.log_std)
            if self.flow is not None:
                base = posterior
                flow = InverseAutoregressive(*self.flow, name="flow")(base.sample(propose_key), context + found[2])
                posterior = propose(propose_key, base, pick, flow)
        level = draw(draw_key, prior, posterior, pick, side=h.shape[1])
        v = nn.elu(jnp.concatenate([level.z.astype(v.dtype), v], axis=-1))
        stride = 2 if self.enlarge else 1
        v = WeightNormConv(width, stride=stride, transposed=self.enlarge, name="second")(v)
        return (enlarge(h, 2) if self.enlarge else h) + 0.1 * v, level

    def _normal(self, mean: Array, log_std: Array) -> Normal:
        """The Gaussian, its log variance clamped."""
        mean, log_var = widen(mean), widen(2.0 * log_std)
        return Normal.from_log_var(mean, log_var if self.clamp is None else hard_clamp(log_var, *self.clamp))


class ResNetVAE(HVAE):
    """The ResNet VAE, with or without inverse autoregressive flow, for images.

    The image is halved by the first convolution, then once between resolutions: with two of them 32x32 has latents of
    8x8 and 16x16. Levels are named by their side and counted from the top: "z8.0", "z8.1", ..., "z16.0".

    Attributes:
      image: `(H, W, C)` of one x; H and W multiples of 2^(number of resolutions).
      blocks: how many blocks, each with a latent, at each resolution, the coarsest first.
      latents: channels of z at each resolution, likewise.
      width: channels of h.
      flow: the form of the steps of `flows.InverseAutoregressive`; None for diagonal Gaussian posteriors.
      flow_steps: how many, the order reversed between them.
      flow_hidden: widths of the hidden layers of a step's network, multiples or divisors of `latents`; the context has
        as many channels as the first.
      likelihood: p(x | h_0).
      clamp: bounds of every log variance, or None for none.
      unroll: how many equal blocks are written out in a row: 1 compiles in a time that does not grow with depth; as
        many as there are is several times as fast on a CPU.
      remat: whether the backward pass recomputes what is inside a block instead of remembering it.

    Raises ValueError for `blocks` and `latents` of different lengths, a size below 1, an image that does not halve, a
    form of flow that is not known, or latents that cannot be put in order through `flow_hidden`.
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
        as_tuples(self, "image", "blocks", "latents", "flow_hidden")
        super().__post_init__()
        check_sizes(self, "blocks", "latents", "width", "unroll")
        if len(self.blocks) != len(self.latents):
            raise ValueError(
                f"ResNetVAE(blocks={self.blocks}, latents={self.latents}): one number a resolution each, the coarsest "
                f"first, but these are {len(self.blocks)} and {len(self.latents)}."
            )
        factor = 2 ** len(self.blocks)
        if len(self.image) != 3 or min(self.image) < 1 or self.image[0] % factor or self.image[1] % factor:
            raise ValueError(
                f"ResNetVAE(image={self.image}, blocks={self.blocks}): with {len(self.blocks)} resolutions the image "
                f"is halved {len(self.blocks)} times, so that one x has to be [H, W, C] with H and W multiples of "
                f"{factor}. Take fewer resolutions, or pad or resize x."
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
        """One for each block."""
        return sum(self.blocks)

    @property
    def stacked(self) -> tuple[str, ...]:
        """The runs of blocks that keep the resolution."""
        sides = [self.image[0] // 2 ** (len(self.blocks) - r) for r in range(len(self.blocks))]
        return tuple(f"{way}{side}/" for side in sides for way in ("up", "down"))

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        one_hot(y, 0, n)  # refuses a label
        rows, columns, channels = self.image
        resolutions = len(self.blocks)
        sides = [rows // 2 ** (resolutions - r) for r in range(resolutions)]
        plain = [count - (r < resolutions - 1) for r, count in enumerate(self.blocks)]  # blocks that keep the size
        context = 0 if self.flow is None else self.flow_hidden[0]
        flow = None if self.flow is None else (self.flow_steps, self.flow_hidden, self.flow)

        # The ascent, from the finest resolution on: at each other one the first block halves, and the very last one
        # has nothing above it.
        runs: dict[int, Found] = {}
        edges: dict[int, Found] = {}
        if x is not None:
            check_event(self.image, x)
            h = WeightNormConv(self.width, 5, 2, name="stem")(widen(self.likelihood.as_input(x)))
            for r in reversed(range(resolutions)):
                settings, name = (self.latents[r], context), f"up{sides[r]}"
                if r < resolutions - 1:
                    edge = self._once(Up)(*settings, halve=True, last=r == 0 and not plain[r], name=f"{name}_edge")
                    h, edges[r] = edge(h, None)
                found: list[Found] = []
                if inner := plain[r] - (r == 0 and plain[r] > 0):
                    h, run = self._run(Up, inner, 1)(*settings, name=name)(h, None)
                    found.append(jax.tree.map(lambda leaf: leaf[::-1], run))
                if r == 0 and plain[r]:
                    _, one = self._once(Up)(*settings, last=True, name=f"{name}_top")(h, None)
                    found.insert(0, jax.tree.map(lambda leaf: leaf[None], one))
                if found:
                    runs[r] = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found)  # from the top

        top = self.param("top", nn.initializers.zeros, (self.width,), jnp.float32)
        h = jnp.broadcast_to(top[None, None, None], (n, sides[0], columns // 2**resolutions, self.width))
        keys, levels, at = jax.random.split(key, self.num_levels), [], 0
        for r, side in enumerate(sides):
            settings = (self.latents[r], context, flow, self.clamp)
            if plain[r]:
                here, at = slice(at, at + plain[r]), at + plain[r]
                run = self._run(Down, plain[r], 3)(*settings, name=f"down{side}")
                h, level = run(h, keys[here], stack(picks[here]), runs.get(r))
                levels.append(level.replace(stacked=True, name=f"z{side}"))
            if r < resolutions - 1:
                edge = self._once(Down)(*settings, enlarge=True, name=f"down{side}_edge")
                h, level = edge(h, keys[at], picks[at], edges.get(r))
                levels.append(level.replace(name=f"z{side}.{plain[r]}"))
                at += 1

        outputs = self.likelihood.outputs(channels)
        v = WeightNormConv(outputs, 5, 2, transposed=True, name="readout")(nn.elu(h))
        x_dist = self.likelihood.from_map(widen(v))
        return Trace(None if x is None else x_dist.log_prob(x), tuple(levels), x_dist)

    def _once(self, block: Any) -> Any:
        """One block, remembered or not."""
        return nn.remat(block) if self.remat else block

    def _run(self, block: Any, length: int, inputs: int) -> Any:
        """Equal blocks as one scan over stacked parameters and so many inputs; initialised without unrolling."""
        return scanned(self, block, length, (0,) * inputs, unroll=self.unroll, remat=self.remat)


def iaf_cifar10(unroll: int = 1, remat: bool = False) -> ResNetVAE:
    """The best run on CIFAR-10 of the published code: 20 blocks at 16x16, z of 32 channels, h of 160.

    38,638,887 parameters. Published: 3.15 bits per dimension, 3.111 with 10,000 importance samples, trained with
    FreeBits(0.1, "channel", "batch"), Adamax at 0.002, 256 images a batch and an average of the parameters at 0.999.
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
    """The published Theano run on CIFAR-10: 10 blocks at 8x8 and 10 at 16x16, else as `iaf_cifar10`.

    38,638,887 parameters. Published: 3.28 bits per dimension with FreeBits(0.25, "channel", "batch").
    """
    return iaf_cifar10(unroll, remat).clone(blocks=(10, 10), latents=(32, 32))


def iaf_cifar10_small() -> ResNetVAE:
    """As `iaf_cifar10`, for two cores: 4 blocks, z of 8 channels, h of 32. 292,775 parameters."""
    return iaf_cifar10(unroll=4).clone(blocks=(4,), latents=(8,), width=32, flow_hidden=(32,))


def iaf_mnist_small() -> ResNetVAE:
    """For binary images of 28x28 and two cores: 2 blocks at 7x7 and 2 at 14x14, z of 4 channels, h of 32.

    247,842 parameters. Not of the paper, whose models of MNIST have one vector as their latent.
    """
    return ResNetVAE(blocks=(2, 2), latents=(4, 4), width=32, flow_hidden=(32,), unroll=2)
