"""The two VAEs that BIVA's code compares it with: gated blocks and skips as BIVA's, one latent in each stage.

    p(x, z) = p(x | z) p(z1 | z_>1) ... p(z_L)                             every Gaussian diagonal, p(z_L) = N(0, I)
    q(z | x) = q(z_L | x) q(z_{L-1} | z_L, x) ... q(z1 | z_>1, x)          inference="top_down", the Ladder VAE
    q(z | x) = q(z1 | x) q(z2 | z1, x) ... q(z_L | z_<L, x)                inference="bottom_up", the VAE

p is the same in both: blocks lead from z_l to the maps for the prior of the stage below, and each block reads one of
the stage above. In the Ladder VAE a path goes up without samples, and its maps meet those of the way down in a block:
no prior depends on its own level's sample, so every KL is analytic. In the VAE it is z_l's sample that goes on, beside
the maps that gave it as an auxiliary input: the rates below the top are log q - log p at the sample, as the priors
depend on it (`bottom_up.py` has the derivation); there `keep_top` works as it does in that file.

Source: V. Lievin's code (vlievin/biva-pytorch), whose weights `convert.biva` reads; Soenderby et al. (2016) for the
Ladder VAE, of which this one has the direction and not the merge (`ladder.py` has it). It departs from that code as
`biva.py` does, in analytic rates and in the log variances (`head`).
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal

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
from hvae_jax.records import as_tuples
from hvae_jax.trace import Level, Trace

Inference = Literal["top_down", "bottom_up"]


class GatedLadderVAE(HVAE):
    """The Ladder VAE of BIVA's code. The defaults have 16,524,450 parameters on 28x28 binary images.

    Attributes:
      image: `(H, W, C)` of one x.
      stages: latents and blocks, top first.
      inference: the direction of q: "top_down" or "bottom_up".
      pad: zeros around x before the first block, on each side; the same is cropped again from what comes down.
      skip: whether blocks read auxiliary inputs from the stage before.
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
    take, a share outside [0, 1), or an inference, head or dtype that is not known.
    """

    image: tuple[int, int, int] = (28, 28, 1)
    stages: tuple[Stage, ...] = mnist_stages()
    inference: Inference = "top_down"
    pad: int = 0
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
        check_stages("GatedLadderVAE", self.image, self.pad, self.stages)
        check_dropout("GatedLadderVAE", self.q_dropout, self.p_dropout)
        self.likelihood.outputs(self.image[-1])

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.stages)

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        one_hot(y, 0, n)
        ascent_key, descent_key, block_key = jax.random.split(key, 3)
        block_keys = (jax.random.fold_in(block_key, i) for i in itertools.count())
        features: dict[int, Array] = {}
        drawn: dict[int, Normal | Drawn] = {}
        if x is not None:
            features, drawn = self._ascend(x, ascent_key, picks, block_keys, train)

        levels: list[Level] = []
        h, skips = None, None
        for stage, key, pick in zip(
            range(len(self.stages), 0, -1), jax.random.split(descent_key, len(self.stages)), picks, strict=True
        ):
            prior = self._top_prior(n) if h is None else self._normal(f"p{stage}", stage, h)
            posterior = drawn.get(stage)
            if features and self.inference == "top_down":
                channels, size, _ = self.stages[-stage].blocks[-1]
                merge = GatedBlock(channels, size, style=self._style(self.p_dropout), name=f"merge{stage}")
                merged = self._call(merge, features[stage], h, next(block_keys), train=train)
                posterior = self._normal(f"q{stage}", stage, merged)
            side = prior.mean.shape[1] if prior.mean.ndim == 4 else 1
            levels.append(draw(key, prior, posterior, pick, name=f"z{stage}", side=side))
            style, blocks = self._style(self.p_dropout), self.stages[-stage].blocks[::-1]
            run = GatedRun(blocks, True, False, style, self.remat, name=f"down{stage}")
            z = self._map(f"down{stage}_z", stage)(levels[-1].z)
            h, queue = run(z, skips, next(block_keys), train=train)
            skips = queue if self.skip else None

        assert h is not None
        h = h[:, self.pad : h.shape[1] - self.pad, self.pad : h.shape[2] - self.pad]
        readout = self._style(0.0).conv(self.likelihood.outputs(self.image[-1]), 1, name="readout")
        x_dist = self.likelihood.from_map(widen(readout(self.activation(h))))
        return Trace(None if x is None else x_dist.log_prob(x), tuple(levels), x_dist)

    def _ascend(
        self, x: Array, key: Array, picks: tuple[Pick, ...], block_keys: Iterator[Array], train: bool
    ) -> tuple[dict[int, Array], dict[int, Normal | Drawn]]:
        """The maps of each stage and, bottom-up, the posteriors, drawn below the top."""
        if x.shape[1:] != self.image:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, that is examples of {tuple(x.shape[1:])}, but "
                f"GatedLadderVAE(image={self.image}) takes those. Reshape x, or set image."
            )
        frame = (self.pad, self.pad)
        h = jnp.pad(widen(self.likelihood.as_input(x)), ((0, 0), frame, frame, (0, 0)))
        features: dict[int, Array] = {}
        drawn: dict[int, Normal | Drawn] = {}
        for stage, stage_key in enumerate(jax.random.split(key, len(self.stages)), start=1):
            blocks = self.stages[-stage].blocks
            skips = (features[stage - 1],) * len(blocks) if stage > 1 and self.skip else None
            run = GatedRun(blocks, False, stage > 1, self._style(self.q_dropout), self.remat, name=f"up{stage}")
            h, _ = run(h, skips, next(block_keys), train=train)
            features[stage] = h
            if self.inference == "bottom_up":
                drawn[stage] = q = self._normal(f"q{stage}", stage, h)
                if stage < len(self.stages):
                    drawn[stage] = one = propose(stage_key, q, picks[-stage])
                    h = self._map(f"up{stage}_z", stage)(one.z)
        return features, drawn

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

    def _style(self, dropout: float) -> GatedStyle:
        return GatedStyle(self.activation, dropout, self.data_dependent_init, dtype=self.dtype)

    def _call(self, net: GatedBlock, *inputs: Any, train: bool) -> Array:
        """The block at its inputs, remembered or not."""
        return call(net, *inputs, train=train, remat=self.remat)


def gated_ladder_mnist(inference: Inference = "top_down") -> GatedLadderVAE:
    """The published code's models of 28x28 binary images: 16,524,450 parameters top-down, 17,804,706 bottom-up."""
    return GatedLadderVAE(inference=inference, head=ScaleHead("softplus_log_var"), clamp=None)


def gated_ladder_cifar10(inference: Inference = "top_down") -> GatedLadderVAE:
    """The published code's models of 32x32 colour images: 59,576,896 parameters top-down."""
    return GatedLadderVAE(
        image=(32, 32, 3),
        stages=cifar10_stages(),
        inference=inference,
        head=ScaleHead("softplus_log_var"),
        clamp=None,
        q_dropout=0.2,
        p_dropout=0.0,
        likelihood=LogisticMixture(form="published"),
    )
