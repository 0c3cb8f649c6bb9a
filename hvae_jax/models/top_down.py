"""The article's top-down VAE, with any number of levels.

    p(x, z) = p(x | z1) p(z1 | z2) ... p(z_L)          every Gaussian diagonal, p(z_L) = N(0, I)
    q(z | x) = q(z_L | x) q(z_{L-1} | z_L, x) ... q(z1 | z2, x)

A deterministic path leads up, r_1 = f_1(x), r_l = f_l(r_{l-1}). Each r_l gives an offset (dm_l, d log var_l) from the
level's prior N(m_l, var_l), so that q shares the generative path:

    q(z_l | z_{l+1}, x) = N(m_l + dm_l, var_l exp(d log var_l))

No prior depends on its own level's sample, so every KL is analytic.

Levels may be discrete instead (`levels`): bits, or variables of K classes, whose posterior is an offset from the prior
in the logits. Their samples are exact, and so are KLs and bounds; the gradient that a sample passes on is not
(`estimator`). A discrete top level has learned logits as its prior.

Source: J. Tomczak, "Hierarchical Variational Auto-Encoders" (the article) and its code; the residual posterior is
NVAE's (Vahdat & Kautz, 2020). Departs from the code in one thing: the log variance of the priors is clamped too
(`prior_clamp`), where the article leaves it free to overflow; None gives the article's.
"""

import functools

from flax import linen as nn
from jax import Array

from hvae_jax.descent import Pick, draw
from hvae_jax.distributions import Normal
from hvae_jax.likelihoods import Categorical, Likelihood
from hvae_jax.models.base import HVAE
from hvae_jax.models.chain import (
    ascent_of,
    check_chain,
    input_of,
    likelihood_below,
    own_network,
    prior_of,
    readout_of,
)
from hvae_jax.models.families import Estimator, FamilyName, check_families, families_of
from hvae_jax.models.pieces import gaussian
from hvae_jax.models.top_priors import Ground, NormalPrior, TopPrior
from hvae_jax.networks.computing import ComputeDtype, call
from hvae_jax.networks.conv import NetworkKind
from hvae_jax.networks.mlp import Initialisation, check_event, join, one_hot
from hvae_jax.networks.smoothed import Smoothing
from hvae_jax.runtime.prng import split
from hvae_jax.trace import Level, Trace


class TopDownVAE(HVAE):
    """The article's top-down VAE. The defaults are its networks: 721,808 parameters on 8x8 digits of 17 values.

        p(x, z) = p(x | z1) p(z1 | z2) ... p(z_L)
        q(z | x) = q(z_L | x) q(z_{L-1} | z_L, x) ... q(z1 | z2, x)
        q(z_l | z_{l+1}, x) = N(m_l + dm_l, var_l exp(d log var_l))        an offset from the prior N(m_l, var_l)

    Source: J. Tomczak's article and its code; Vahdat & Kautz (2020) for the offsets.

    Attributes:
      latents: size of each latent vector, top first. In the article z2 has 8, z1 has 16. The number of bits or of
        variables in a discrete level.
      levels: family of each level, top first: "normal", "bernoulli" (bits) or "categorical" (one-hot variables); () for
        Gaussians on all of them, as in the article.
      categories: number of classes of each variable of a categorical level; not used without one.
      estimator: gradient through the samples of discrete levels, "straight_through" or "gumbel", both biased
        (`distributions.OneHotCategorical`); not used without such a level.
      relaxation: temperature of "gumbel": smaller is less biased and noisier.
      hidden: width of every network.
      depth: number of hidden layers (linear, sigmoid-GELU, batch norm) of every network; the decoder has one more.
      network: layers next to x. "dense": linear layers on flattened x. "conv": a `ConvEncoder` before the first network
        and a `ConvDecoder` in place of the last linear layer, for images `[B, H, W, C]` with H and W multiples of 4.
      width: channels of the convolutions at half the resolution; twice as many at a quarter. Not used by "dense".
      likelihood: p(x | z1), a family from `hvae_jax.likelihoods`.
      top_prior: p(z_L); `NormalPrior()`, N(0, I), is the article's. Offsets at the top are from N(0, I) under
        other top priors too.
      clamp: bounds of d log var at each level, the article's hardtanh.
      prior_clamp: bounds of each learned prior's log variance; None for none, as in the article.
      classes: number of class labels; 0 for a model without y. With labels, a one-hot y is appended to the
        input of every network, and the top prior is learned from y.
      bottom_up: networks that replace f_L, ..., f_1, top first; None for a level, or () for all levels, keeps the
        model's own. Each is called as `net(v, train=train)` and returns features `[B, F']`; v is `[B, F]`, except that
        without labels f_1 reads x itself, `[B, *event]`.
      delta: networks that replace those of the offsets, likewise: `[B, F]` to `[B, 2 * latents[i]]`, or to as many
        logits as a discrete level has.
      prior: networks that replace those of the L - 1 priors below the top, likewise: `[B, latents[i]]` to
        `[B, 2 * latents[i + 1]]`.
      decoder: network that replaces the decoder, from z1 `[B, latents[-1]]` to the features `[B, F]` that the readout
        reads.
      initialisation: initialiser of the model's own dense networks, "pytorch" or "glorot", as in `VAE`.
      dtype: precision of products and activations in the model's own networks: "bfloat16" takes less memory and uses
        the fast units of a TPU or GPU; None is the precision of the parameters. Parameters, gradients, statistics,
        latents, KLs and likelihoods are float32 either way. Replacement networks keep their own dtype.
      remat: whether the backward pass recomputes each network's activations instead of storing them: less memory for
        about a third more arithmetic.
      smoothing: smoothing of the priors' networks below the top, with rho = 1 for none (`networks.smoothed`). The
        posteriors, offsets from these priors, move with them.

    Raises ValueError if a size is below 1, there is one class, the number of networks does not fit the number of
    levels, there are labels and a top prior, or network, initialisation or dtype is not known; likewise for a number of
    families that is not that of levels, fewer than two categories, a relaxation that is not positive and finite, and a
    top prior beside a discrete top level; and for smoothing of discrete levels, a learned top prior or networks that
    draw.

    Example:
        >>> model = hv.models.TopDownVAE((8, 16))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 8, 8, 1), int), jax.random.key(1))
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        721808
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
    levels: tuple[FamilyName, ...] = ()
    categories: int = 10
    estimator: Estimator = "straight_through"
    relaxation: float = 1.0
    smoothing: Smoothing = Smoothing()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_chain(self, delta=self.delta)
        check_families(self)
        smoothed = self.levels if self.smoothing.decoder else self.levels[:-1]
        if self.smoothing.rho != 1.0 and any(name != "normal" for name in smoothed):
            raise ValueError(
                f"TopDownVAE(smoothing={self.smoothing}, levels={self.levels}): the levels that smoothed networks read "
                "have to be normal."
            )

    @property
    def num_levels(self) -> int:
        """L, the number of latents."""
        return len(self.latents)

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        run = functools.partial(call, remat=self.remat)
        families, top = families_of(self), self.num_levels
        label = one_hot(y, self.classes, n)  # [n, classes], or None
        readout = readout_of(self, None if x is None else x.shape[1:])
        # made outside the ascent, so that its two calls share them: a top prior sends inputs of its own through it
        counts = {level: family.parameters for level, family in families.items()}
        stem, paths, heads = ascent_of(self, self.delta, "delta", counts)

        def ascend(x: Array, train: bool) -> dict[int, Array]:
            """Return (dm_l, d log var_l), or the offsets of logits, by level, from r_1 up to r_L."""
            x = input_of(self, x)
            offsets, r = {}, x if stem is None else run(stem, x, train=train)
            # paths are ordered from level 1 up
            for level in paths:
                r = run(paths[level], join(r, label), train=train)  # [B, hidden]
                offsets[level] = run(heads[level], join(r, label), train=train)  # [B, parameters]
            return offsets

        offsets: dict[int, Array] = {}
        if x is not None:
            check_event(readout.event(), x)
            offsets = ascend(x, train)

        def encode(u: Array) -> Normal:
            """q(z_L | u) of a top prior's own inputs u: an offset from N(0, I), so it is the offset itself."""
            return gaussian(ascend(u, False)[top], clamp=self.clamp)

        ground = Ground(self, n, families[top].shape, encode, x, self.likelihood.value_range)
        smoother, key, decoder_key = self.smoothing.begin(self, key)
        levels: list[Level] = []
        for level, level_key, pick in zip(families, split(key, top), picks, strict=True):
            above = levels[-1] if levels else None
            prior, level_key = prior_of(self, ground, level, above, label, level_key, train, families[level], smoother)
            # an offset from the prior of this very pass, so that q shares the generative path
            posterior = families[level].posterior(prior, offsets[level]) if offsets else None
            levels.append(draw(level_key, prior, posterior, pick, name=f"z{level}"))

        decoder = self.decoder or own_network(self, "px", self.depth + 1)
        x_dist = likelihood_below(self, decoder, readout, levels[-1], label, x, train, smoother, decoder_key)
        return Trace(None if x is None else x_dist.log_prob(x), tuple(levels), x_dist)
