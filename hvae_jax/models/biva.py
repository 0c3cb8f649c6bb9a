"""BIVA: below the top, each stage has a latent that is inferred on the way up and one that is on the way down.

    p(x, z) = p(x | z) p(z_L) prod_{l<L} p(z_l^td | z_>l) p(z_l^bu | z_>l)           every Gaussian diagonal
    q(z | x) = prod_{l<L} q(z_l^bu | x, z_<l^bu)  q(z_L | x, z_<L^bu)  prod_{l<L} q(z_l^td | x, z_<l^bu, z_>l)

with z_l = (z_l^td, z_l^bu), p(z_L) = N(0, I) and, with `conditional_bu`, p(z_l^bu | z_l^td, z_>l).

Up: blocks lead to z_l^bu, and what goes on from there is its sample; a path beside it, without samples, leads to the
maps that z_l^td is inferred from. It reads the first path's maps, and both read those of the stage below, as auxiliary
inputs. Down: blocks lead from z_l to the maps that give the priors of the stage below, and each reads one of the stage
above, so that everything depends on all latents above it; without these skips, on the next stage above alone.

The rates go by direction.

- Bottom-up: p(z_l^bu | .) depends, through the latents above, on this level's own sample. The rate is log q - log p at
  the sample; the analytic KL would be no bound (`bottom_up.py` has the derivation).
- The top: p(z_L) depends on nothing, so that given z_<L^bu the mean over z_L is KL(q(z_L | x, z_<L^bu) || p(z_L)).
- Top-down: q and p of z_l^td are made of x, z_<l^bu and z_>l, all drawn before it. The KL is analytic.

`Trace.ratios` has the log-ratios of all of them, which are the KLs of the published codes.

`keep_top` counts stages: z_L, then z_l^td and z_l^bu together. Those that are kept are inferred through bottom-up
samples of the stages below, which are then replaced by draws from their priors: E w = p(x) all the same.

Source: Maaloe et al. (2019), equations 5 to 8, and the codes (larsmaaloee/BIVA; vlievin/biva-pytorch, whose weights
`convert.biva` reads). It departs from both in the analytic rates and, unless told otherwise, in the log variances:
theirs are softplus(a), so that every variance but that of p(z_L) is 1 or more (`head`).
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.descent import Drawn, Pick, draw, propose
from hvae_jax.distributions import Normal, ScaleHead
from hvae_jax.likelihoods import Bernoulli, Likelihood, LogisticMixture
from hvae_jax.models.base import HVAE
from hvae_jax.models.pieces import gaussian, learned_top_prior
from hvae_jax.networks.computing import ComputeDtype, call, widen
from hvae_jax.networks.gated import (
    GatedBlock,
    GatedRun,
    GatedStyle,
    Head,
    Stage,
    ToMap,
    check_dropout,
    check_stages,
    cifar10_stages,
    mnist_stages,
    sides,
)
from hvae_jax.networks.mlp import one_hot
from hvae_jax.records import as_tuples, check_sizes
from hvae_jax.trace import Level, Trace


class BIVA(HVAE):
    """BIVA. The defaults have 31,550,946 parameters, those of the published code for 28x28 binary images.

    Attributes:
      image: `(H, W, C)` of one x.
      stages: latents and blocks, top first.
      pad: zeros around x before the first block, on each side; the same is cropped again from what comes down.
      conditional_bu: whether the prior of each bottom-up latent reads the top-down latent beside it.
      merge_kernel: size of the kernels where the way up and the way down meet.
      skip: whether blocks read auxiliary inputs from the stage before. Without, the second path up still reads the
        first one.
      learn_top_prior: whether p(z_L) has a mean and log variance of each element, starting at N(0, I), or is N(0, I).
      head: how a layer's output becomes a log variance, of all but p(z_L); "softplus_log_var" as published.
      clamp: bounds of these log variances, or None for none, as published.
      activation: at the input of each layer.
      q_dropout, p_dropout: share of the elements that is set to zero in each block in training, on the way up, and on
        the way down and where it meets the way up.
      data_dependent_init: whether the x that a model is initialised with decides how its layers begin: mean 0 and
        standard deviation 0.01 of every output. Give `init` a whole batch then.
      likelihood: p(x | z), a family from `hvae_jax.likelihoods`; its numbers come from a 1x1 convolution.
      dtype: what the products and activations are computed in: "bfloat16", less memory and the fast units of a TPU or
        GPU; None for what the parameters are. Parameters, gradients, latents, KLs and likelihoods are float32 either
        way.
      remat: whether the backward pass recomputes each block instead of remembering it: less memory for about a third
        more arithmetic.

    Raises ValueError for no stages, an image that the strides do not divide, channels that the likelihood does not
    take, a share outside [0, 1), a size below 1, or a head or dtype that is not known.
    """

    image: tuple[int, int, int] = (28, 28, 1)
    stages: tuple[Stage, ...] = mnist_stages()
    pad: int = 0
    conditional_bu: bool = False
    merge_kernel: int = 3
    skip: bool = True
    learn_top_prior: bool = False
    head: ScaleHead = ScaleHead("log_var")
    clamp: tuple[float, float] | None = (-7.0, 7.0)
    activation: Callable[[Array], Array] = jax.nn.elu
    q_dropout: float = 0.5
    p_dropout: float = 0.5
    data_dependent_init: bool = True
    likelihood: Likelihood = Bernoulli()
    dtype: ComputeDtype = None
    remat: bool = False

    def __post_init__(self) -> None:
        as_tuples(self, "image", "stages")
        super().__post_init__()
        check_stages("BIVA", self.image, self.pad, self.stages)
        check_sizes(self, "merge_kernel")
        check_dropout("BIVA", self.q_dropout, self.p_dropout)
        self.likelihood.outputs(self.image[-1])

    @property
    def num_levels(self) -> int:
        """L: 1 at the top, 2 in each stage below."""
        return 2 * len(self.stages) - 1

    @property
    def levels_per_stage(self) -> tuple[int, ...]:
        """What `keep_top` counts."""
        return (1, *(2,) * (len(self.stages) - 1))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the levels, top first: "z3", "z2_td", "z2_bu", "z1_td", "z1_bu"."""
        top = len(self.stages)
        return (f"z{top}", *(f"z{i}_{way}" for i in range(top - 1, 0, -1) for way in ("td", "bu")))

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        one_hot(y, 0, n)
        ascent_key, descent_key, block_key = jax.random.split(key, 3)
        block_keys = (jax.random.fold_in(block_key, i) for i in itertools.count())
        chosen = dict(zip(self.names, picks, strict=True))
        keys = dict(zip(self.names, jax.random.split(descent_key, self.num_levels), strict=True))
        posteriors, features = {}, {}
        if x is not None:
            posteriors, features = self._ascend(x, ascent_key, chosen, block_keys, train)

        def level(name: str, prior: Normal, posterior: Normal | Drawn | None) -> Level:
            side = prior.mean.shape[1] if prior.mean.ndim == 4 else 1
            return draw(keys[name], prior, posterior, chosen[name], name=name, side=side)

        top = len(self.stages)
        levels = [level(f"z{top}", self._top_prior(n), posteriors.get(f"z{top}"))]
        h, skips = self._down(top, levels[0].z, None, block_keys, train)
        for stage in range(top - 1, 0, -1):
            prior, posterior = self._normal(f"p{stage}_td", stage, h), None
            if features:
                merged = self._call(
                    self._block(f"merge{stage}", stage), features[stage], h, next(block_keys), train=train
                )
                posterior = self._normal(f"q{stage}_td", stage, merged)
            td = level(f"z{stage}_td", prior, posterior)
            above = self._condition(stage, td.z, h, block_keys, train) if self.conditional_bu else h
            bu = level(f"z{stage}_bu", self._normal(f"p{stage}_bu", stage, above), posteriors.get(f"z{stage}_bu"))
            levels += [td, bu]
            h, skips = self._down(stage, jnp.concatenate([td.z, bu.z], axis=-1), skips, block_keys, train)

        h = h[:, self.pad : h.shape[1] - self.pad, self.pad : h.shape[2] - self.pad]
        style = self._style(0.0)
        readout = style.conv(self.likelihood.outputs(self.image[-1]), 1, name="readout")
        x_dist = self.likelihood.from_map(widen(readout(self.activation(h))))
        return Trace(None if x is None else x_dist.log_prob(x), tuple(levels), x_dist)

    def _ascend(
        self, x: Array, key: Array, chosen: dict[str, Pick], block_keys: Iterator[Array], train: bool
    ) -> tuple[dict[str, Normal | Drawn], dict[int, Array]]:
        """Posteriors of the bottom-up latents, drawn, and of the top one; features of the top-down ones by stage."""
        if x.shape[1:] != self.image:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, that is examples of {tuple(x.shape[1:])}, but "
                f"BIVA(image={self.image}) takes those. Reshape x, or set image."
            )
        frame = (self.pad, self.pad)
        bu = td = jnp.pad(widen(self.likelihood.as_input(x)), ((0, 0), frame, frame, (0, 0)))
        posteriors: dict[str, Normal | Drawn] = {}
        features: dict[int, Array] = {}
        beside, top = None, len(self.stages)
        for stage, stage_key in enumerate(jax.random.split(key, top), start=1):
            blocks = len(self.stages[-stage].blocks)
            skips = None if beside is None or not self.skip else (beside,) * blocks
            bu, _ = self._run(f"up{stage}_bu", stage)(bu, skips, next(block_keys), train=train)
            td, _ = self._run(f"up{stage}_td", stage)(td, (bu,) * blocks, next(block_keys), train=train)
            beside, features[stage] = jnp.concatenate([bu, td], axis=-1), td
            if stage < top:
                name = f"z{stage}_bu"
                q = self._normal(f"q{stage}_bu", stage, bu)
                posteriors[name] = drawn = propose(stage_key, q, chosen[name])
                bu = self._map(f"up{stage}_z", stage)(drawn.z)
        channels, size, _ = self.stages[0].blocks[-1]
        merge = GatedBlock(channels, size, style=self._style(self.q_dropout), name=f"merge{top}")
        joined = self._call(merge, beside, None, next(block_keys), train=train)
        posteriors[f"z{top}"] = self._normal(f"q{top}", top, joined)
        return posteriors, features

    def _down(
        self, stage: int, z: Array, skips: tuple[Array, ...] | None, block_keys: Iterator[Array], train: bool
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """From a stage's latents to the maps for the priors of the one below, and the skips to its blocks."""
        style, blocks = self._style(self.p_dropout), self.stages[-stage].blocks[::-1]
        run = GatedRun(blocks, True, False, style, self.remat, name=f"down{stage}")
        h, queue = run(self._map(f"down{stage}_z", stage)(z), skips, next(block_keys), train=train)
        return h, queue if self.skip else None

    def _condition(self, stage: int, z_td: Array, h: Array, block_keys: Iterator[Array], train: bool) -> Array:
        """What the prior of a bottom-up latent reads instead of h."""
        z = self._map(f"condition{stage}_z", stage)(z_td)
        return self._call(self._block(f"condition{stage}", stage), z, h, next(block_keys), train=train)

    def _top_prior(self, n: int) -> Normal:
        """p(z_L)."""
        stage = self.stages[0]
        place = () if stage.kernel is None else sides(self.image, self.pad, self.stages)[0]
        if not self.learn_top_prior:
            return Normal.standard((n, *place, stage.latents))
        return learned_top_prior(self, (*place, stage.latents), n)

    def _normal(self, name: str, stage: int, h: Array) -> Normal:
        """A stage's Gaussian from its maps."""
        settings = self.stages[-stage]
        head = Head(2 * settings.latents, settings.kernel, self._style(0.0), name=name)
        return gaussian(head(h), self.head, self.clamp)

    def _map(self, name: str, stage: int) -> ToMap:
        """From a stage's latents to its maps."""
        place = sides(self.image, self.pad, self.stages)[-stage]
        return ToMap((*place, self.stages[-stage].channels), self._style(0.0), name=name)

    def _run(self, name: str, stage: int) -> GatedRun:
        """A stage's blocks on the way up."""
        style = self._style(self.q_dropout)
        return GatedRun(self.stages[-stage].blocks, False, stage > 1, style, self.remat, name=name)

    def _block(self, name: str, stage: int) -> GatedBlock:
        """A block where the way down meets something else."""
        channels = self.stages[-stage].channels
        return GatedBlock(channels, self.merge_kernel, style=self._style(self.p_dropout), name=name)

    def _style(self, dropout: float) -> GatedStyle:
        return GatedStyle(self.activation, dropout, self.data_dependent_init, dtype=self.dtype)

    def _call(self, net: GatedBlock, *inputs: Any, train: bool) -> Array:
        """The block at its inputs, remembered or not."""
        return call(net, *inputs, train=train, remat=self.remat)


def biva_mnist() -> BIVA:
    """The published model of 28x28 binary images: 31,550,946 parameters.

    Trained with FreeBits(2.0, "level", "sample"), Adamax at 2e-3, decaying to 1e-4, batches of 48 and averaged
    parameters. Reported on static MNIST: an -ELBO of 81.20 nats, and 78.59 with 1000 samples.
    """
    return BIVA(head=ScaleHead("softplus_log_var"), clamp=None)


def biva_cifar10() -> BIVA:
    """The published model of 32x32 colour images: 102,948,560 parameters.

    Trained as `biva_mnist`. Reported on CIFAR-10: 3.08 bits per dimension with importance weights.
    """
    return BIVA(
        image=(32, 32, 3),
        stages=cifar10_stages(),
        head=ScaleHead("softplus_log_var"),
        clamp=None,
        q_dropout=0.2,
        p_dropout=0.0,
        likelihood=LogisticMixture(form="published"),
    )
