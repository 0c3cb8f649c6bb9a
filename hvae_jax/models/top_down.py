"""The article's top-down VAE, with any number of levels.

    p(x, z) = p(x | z1) p(z1 | z2) ... p(z_L)          every Gaussian diagonal, p(z_L) = N(0, I)
    q(z | x) = q(z_L | x) q(z_{L-1} | z_L, x) ... q(z1 | z2, x)

A deterministic path goes up, r1 = f1(x), r_l = f_l(r_{l-1}); each r_l gives an offset (dm_l, d log var_l) from the
level's prior, so q(z_l | .) = N(m_l + dm_l, var_l * dvar_l) shares the generative path.

Source: J. Tomczak, "Hierarchical Variational Auto-Encoders" (the article) and its code; the residual posterior is
NVAE's (Vahdat & Kautz, 2020). It departs from the code in one thing: the log variance of the priors is clamped too
(`prior_clamp`), where the article leaves it free to overflow; None gives the article's.
"""

import jax
from flax import linen as nn
from jax import Array

from hvae_jax.descent import Pick, draw
from hvae_jax.distributions import Normal, residual
from hvae_jax.likelihoods import Categorical, Likelihood
from hvae_jax.models.base import HVAE, check_networks
from hvae_jax.models.chain import (
    base_of,
    check_top_prior,
    likelihood_of,
    network,
    own_network,
    prior_of,
    read_out,
    stem_of,
)
from hvae_jax.models.pieces import gaussian
from hvae_jax.models.top_priors import Ground, NormalPrior, TopPrior
from hvae_jax.networks.activations import exact_gelu, leaky_relu
from hvae_jax.networks.computing import ComputeDtype, call
from hvae_jax.networks.conv import NetworkKind
from hvae_jax.networks.mlp import Initialisation, check_event, join, one_hot
from hvae_jax.records import as_tuples, check_sizes
from hvae_jax.trace import Level, Trace


class TopDownVAE(HVAE):
    """The article's top-down VAE. The defaults are its networks: 721,808 parameters on 8x8 digits of 17 values.

    Attributes:
      latents: size of each latent vector, top first. The article: z2 has 8, z1 has 16.
      hidden: width of every network.
      depth: hidden layers (linear, sigmoid-GELU, batch norm) of every network; the decoder has one more.
      network: what stands next to x. "dense": x flattened. "conv", for images `[B, H, W, C]` with H and W multiples of
        4: a `ConvEncoder` before the first network and a `ConvDecoder` for the last linear layer.
      width: channels of the convolutions at half the resolution; twice as many at a quarter. No part in dense networks.
      likelihood: p(x | z1), a family from `hvae_jax.likelihoods`.
      top_prior: p(z_L); `NormalPrior()`, N(0, I), is the article's. Offsets at the top are from N(0, I) in any case.
      clamp: bounds of each level's d log var, the article's hardtanh.
      prior_clamp: bounds of each prior's log var below the top, or None for none, as in the article.
      classes: how many class labels there are; 0 for a model without y. With labels, a one-hot y joins the input of
        every network and the top prior is learned from y.
      bottom_up: networks that replace f_L, ..., f_1, top first, None where the article's stays; () replaces none.
        Each is a module called as `net(v, train=train)`: x `[B, *event]` as it is for f_1 in a model without labels,
        else `[B, F]`, to `[B, F']`.
      delta: likewise for the networks of the offsets: `[B, F]` to `[B, 2 * latents[i]]`.
      prior: likewise for the L - 1 networks of the priors below the top: `[B, latents[i]]` to `[B, 2*latents[i+1]]`.
      decoder: replaces the network from z1 `[B, latents[-1]]` to the features `[B, F]` that the readout takes.
      initialisation: of the model's own dense networks, "pytorch" or "glorot", as `VAE` has it.
      dtype: what the products and activations of the model's own networks are computed in: "bfloat16", less
        memory and the fast units of a TPU or GPU; None for what the parameters are. Parameters, gradients, statistics,
        latents, KLs and likelihoods are float32 either way. Networks that replace others keep their own.
      remat: whether the backward pass recomputes what is inside each network instead of remembering it: less memory
        for about a third more arithmetic.
    """

    latents: tuple[int, ...] = (8, 16)
    hidden: int = 256
    depth: int = 1
    network: NetworkKind = "dense"
    width: int = 32
    likelihood: Likelihood = Categorical(17)
    top_prior: TopPrior = NormalPrior()
    clamp: tuple[float, float] = (-7.0, 2.0)
    prior_clamp: tuple[float, float] | None = (-7.0, 7.0)
    classes: int = 0
    bottom_up: tuple[nn.Module | None, ...] = ()
    delta: tuple[nn.Module | None, ...] = ()
    prior: tuple[nn.Module | None, ...] = ()
    decoder: nn.Module | None = None
    initialisation: Initialisation = "pytorch"
    dtype: ComputeDtype = None
    remat: bool = False

    def __post_init__(self) -> None:
        as_tuples(self, "latents", "bottom_up", "delta", "prior")
        super().__post_init__()
        levels = len(self.latents)
        check_sizes(self, "latents", "hidden", "depth", "width")
        check_top_prior(self, self.classes)
        check_networks(self, bottom_up=levels, delta=levels, prior=levels - 1)

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.latents)

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        sizes = dict(zip(range(self.num_levels, 0, -1), self.latents, strict=True))
        readout = read_out(self, None if x is None else x.shape[1:])
        label = one_hot(y, self.classes, n)
        # The ascent's networks by level, made here because a top prior may send inputs of its own through them.
        stem = stem_of(self, bool(self.bottom_up) and self.bottom_up[-1] is not None)
        paths, heads = {}, {}
        for level in range(1, self.num_levels + 1):
            last = exact_gelu if level == 1 else leaky_relu
            paths[level] = network(self, self.bottom_up, level, f"r{level}", self.hidden, last)
            heads[level] = network(self, self.delta, level, f"delta{level}", 2 * sizes[level])

        def ascend(x: Array, train: bool) -> dict[int, Normal]:
            """The offset of every level's posterior from its prior, from the bottom up."""
            found, r = {}, x if stem is None else self._call(stem, x, train)
            for level in paths:
                r = self._call(paths[level], join(r, label), train)
                found[level] = gaussian(self._call(heads[level], join(r, label), train), clamp=self.clamp)
            return found

        offsets: dict[int, Normal] = {}
        if x is not None:
            check_event(readout.event(), x)
            offsets = ascend(x, train)

        top = self.num_levels
        ground = Ground(self, n, (sizes[top],), lambda u: ascend(u, False)[top], x, self.likelihood.value_range)
        levels: list[Level] = []
        for level, level_key, pick in zip(sizes, jax.random.split(key, len(sizes)), picks, strict=True):
            above = levels[-1].z if levels else None
            prior, level_key = prior_of(self, ground, level, above, label, level_key, train)
            posterior = residual(base_of(prior, (n, sizes[level])), offsets[level]) if offsets else None
            levels.append(draw(level_key, prior, posterior, pick, name=f"z{level}"))

        decoder = self.decoder or own_network(self, "px", self.depth + 1)
        h = self._call(decoder, join(levels[-1].z, label), train)
        x_dist = likelihood_of(self, readout, h, x, train)
        return Trace(None if x is None else x_dist.log_prob(x), tuple(levels), x_dist)

    def _call(self, net: nn.Module, v: Array, train: bool) -> Array:
        """The network at v, kept or recomputed."""
        return call(net, v, train=train, remat=self.remat)
