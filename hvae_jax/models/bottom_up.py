"""The article's bottom-up VAE: two levels, or any number.

    p(x, z) = p(x | z1) p(z1 | z2) ... p(z_L)                 every Gaussian diagonal, p(z_L) = N(0, I)
    q(z | x) = q(z1 | x) q(z2 | z1) ... q(z_L | z_{L-1})      or, with `posteriors_see_x`, q(z_l | z_{l-1}, x)

    elbo(x) = E_q[log p(x | z1) - sum_l rate_l]

Which rate is right depends on the direction of inference. The mean of rate_l over q has to be
E_q[log q(z_l | z_{l-1}) - log p(z_l | z_{l+1})].

- Top, l = L: p(z_L) depends on no sample. Given z_{L-1}, the mean over z_L is KL(q(z_L | z_{L-1}) || p(z_L)), so the
  analytic KL is right.
- Below, l < L: z_{l+1} was drawn from q(z_{l+1} | z_l), so the prior p(z_l | z_{l+1}) depends on this level's own
  sample. KL(q(z_l | z_{l-1}) || p(z_l | z_{l+1})) averages over a second z_l that is independent of that z_{l+1}. Given
  z_{l-1}, it is off by

    E[log p(z_l | z_{l+1})] under q's joint of z_l and z_{l+1}, minus the same under the product of its marginals,

  an error of either sign, though usually positive: the better z_{l+1} predicts z_l, the more the formula charges.
  The right rate is log q - log p at the sample. It may be negative, but the mean of the sum over levels, KL(q(z | x) ||
  p(z)), is not.

The article prints the ELBO with KL(q(z1 | x) || p(z1 | z2)); `objectives.PrintedELBO` trains on it. Its two rates have
the mean

    KL(q(z1 | x) q(z2 | x) || p(z1, z2)) + I_q(z1; z2 | x),          q(z2 | x) = E_q(z1 | x) q(z2 | z1):

the rate of another posterior, in which z1 and z2 are independent, plus a charge for the information that z2 has about
z1. The printed formula is below log p(x) on average, but it is not the ELBO of this q, may lie above or below it by
nats, and is largest when z2 carries no information: training on it makes z2 collapse, largely for that reason alone.
Log weights, and with them the IWAE bounds, are right either way.

keep_top = k infers the top k levels through bottom-up samples of the levels below, which are then replaced by draws
from their priors; E w = p(x) still holds. For the same key, the k levels have the values that they have without
keep_top. Levels above a given latent are inferred from it.

Source: J. Tomczak, "Hierarchical Variational Auto-Encoders" (the article), "Two-level VAE". It does not specify the
networks; these are those of its top-down code where they apply. Burda et al. (2015), section 3, has the log-ratio.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.descent import Drawn, Pick, draw, propose
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
from hvae_jax.models.families import NormalFamily
from hvae_jax.models.pieces import gaussian
from hvae_jax.models.top_priors import Ground, NormalPrior, TopPrior
from hvae_jax.networks.computing import ComputeDtype, call
from hvae_jax.networks.conv import NetworkKind
from hvae_jax.networks.mlp import Initialisation, check_event, join, one_hot
from hvae_jax.networks.smoothed import Smoothing
from hvae_jax.runtime.prng import split
from hvae_jax.trace import Level, Trace


class BottomUpVAE(HVAE):
    """The article's bottom-up VAE. The defaults have 660,368 parameters on 8x8 digits of 17 values.

        p(x, z) = p(x | z1) p(z1 | z2) ... p(z_L)
        q(z | x) = q(z1 | x) q(z2 | z1) ... q(z_L | z_{L-1})        with `posteriors_see_x`, q(z_l | z_{l-1}, x)

    Priors below the top depend on their level's own sample: these rates are log q - log p at the sample.

    Source: J. Tomczak's article, "Two-level VAE"; Burda et al. (2015), section 3, for the log-ratio.

    Attributes:
      latents: size of each latent vector, top first, for any number of levels. By default z2 has 8, z1 has 16, as in
        the article's top-down code.
      hidden: width of every network.
      depth: number of hidden layers (linear, sigmoid-GELU, batch norm) of every network; the decoder has one more.
      posteriors_see_x: whether the posteriors above z1 read x too: its features r_1, appended to z_{l-1}.
      network: layers next to x. "dense": linear layers on flattened x. "conv": a `ConvEncoder` before the first network
        and a `ConvDecoder` in place of the last linear layer, for images `[B, H, W, C]` with H and W multiples of 4.
      width: channels of the convolutions at half the resolution; twice as many at a quarter. Not used by "dense".
      likelihood: p(x | z1), a family from `hvae_jax.likelihoods`.
      top_prior: p(z_L); `NormalPrior()`, N(0, I), is the article's.
      clamp: bounds of each posterior's log variance.
      prior_clamp: bounds of each learned prior's log variance; None for none. Those of the posteriors, [-7, 2], by
        default, because each prior has a posterior of its own to match; in `TopDownVAE`, where posteriors are offsets
        from their priors, they are [-7, 7].
      classes: number of class labels; 0 for a model without y. With labels, a one-hot y is appended to the
        input of every network, and the top prior is learned from y.
      bottom_up: networks that replace f_L, ..., f_1, top first; None for a level, or () for all levels, keeps the
        model's own. Each is called as `net(v, train=train)` and returns the features r_l, `[B, F']`. f_1, convolutions
        included, reads x itself, `[B, *event]`, or with labels `[B, F]`; the others read z_{l-1} `[B, latents]`, with
        r_1 and y appended if the model has them.
      posterior: networks that replace those from r_l to mean and log variance, likewise: `[B, F]` to
        `[B, 2 * latents[i]]`.
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
        posteriors have networks of their own, which it leaves alone.

    Raises ValueError if a size is below 1, there is one class, the number of networks does not fit the number of
    levels, there are labels and a top prior, or network, initialisation or dtype is not known; and for smoothing of a
    learned top prior or of networks that draw.

    Example:
        >>> model = hv.models.BottomUpVAE((8, 16))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 8, 8, 1), int), jax.random.key(1))
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        660368
    """

    latents: tuple[int, ...] = (8, 16)
    hidden: int = 256
    depth: int = 1
    posteriors_see_x: bool = False
    network: NetworkKind = "dense"
    width: int = 32
    likelihood: Likelihood = Categorical(17)
    top_prior: TopPrior = NormalPrior()
    clamp: tuple[float, float] = (-7.0, 2.0)
    prior_clamp: tuple[float, float] | None = (-7.0, 2.0)
    classes: int = 0
    bottom_up: tuple[nn.Module | None, ...] = ()
    posterior: tuple[nn.Module | None, ...] = ()
    prior: tuple[nn.Module | None, ...] = ()
    decoder: nn.Module | None = None
    initialisation: Initialisation = "pytorch"
    dtype: ComputeDtype = None
    remat: bool = False
    smoothing: Smoothing = Smoothing()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_chain(self, posterior=self.posterior)

    @property
    def num_levels(self) -> int:
        """L, the number of latents."""
        return len(self.latents)

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        run, top = functools.partial(call, remat=self.remat), self.num_levels
        label = one_hot(y, self.classes, n)  # [n, classes], or None
        readout = readout_of(self, None if x is None else x.shape[1:])
        ascent_key, descent_key = split(key)
        # made outside the ascent, so that its two calls share them: a top prior sends inputs of its own through it
        families = {
            level: NormalFamily(size, self.clamp, self.prior_clamp)
            for level, size in zip(range(top, 0, -1), self.latents, strict=True)
        }
        counts = {level: family.parameters for level, family in families.items()}
        stem, paths, heads = ascent_of(self, self.posterior, "q", counts)

        def ascend(x: Array, train: bool, pass_on: Callable[[int, Normal], Array]) -> Normal:
            """Return q(z_L | .); each level below the top passes `pass_on(l, q(z_l | .))` up as its z_l."""

            def infer(level: int, v: Array) -> tuple[Array, Normal]:
                """r_l and q(z_l | .), from what the level below passes on."""
                r = run(paths[level], join(v, label), train=train)  # [B, hidden]
                return r, gaussian(run(heads[level], join(r, label), train=train), clamp=self.clamp)

            x = input_of(self, x)
            r1, q = infer(1, x if stem is None else run(stem, x, train=train))
            for level in range(1, top):
                z = pass_on(level, q)
                # [B, latents of level l + hidden], or z_l alone
                v = jnp.concatenate([z, r1], axis=-1) if self.posteriors_see_x else z
                _, q = infer(level + 1, v)
            return q

        posteriors: dict[int, Normal | Drawn] = {}
        if x is not None:
            check_event(readout.event(), x)
            # a key for each level's sample; draws from the priors have keys of their own, so that keep_top changes none
            keys = split(ascent_key, top)

            def sample(level: int, q: Normal) -> Array:
                """Draw z_l ~ q, and keep it for the descent, where its prior is known."""
                # picks are listed top first
                posteriors[level] = drawn = propose(keys[level - 1], q, picks[-level], name=f"z{level}")
                return drawn.z

            posteriors[top] = ascend(x, train, sample)

        def encode(u: Array) -> Normal:
            """q(z_L | u) of a top prior's own inputs u: nothing is drawn, and no batch statistics change."""
            return ascend(u, False, lambda level, q: q.mean)

        ground = Ground(self, n, (self.latents[0],), encode, x, self.likelihood.value_range)
        smoother, descent_key, decoder_key = self.smoothing.begin(self, descent_key)
        levels: list[Level] = []
        for level, level_key, pick in zip(range(top, 0, -1), split(descent_key, top), picks, strict=True):
            above = levels[-1] if levels else None
            prior, level_key = prior_of(self, ground, level, above, label, level_key, train, families[level], smoother)
            # the top has its posterior alone; the levels below have a sample of theirs already
            levels.append(draw(level_key, prior, posteriors.get(level), pick, name=f"z{level}"))

        decoder = self.decoder or own_network(self, "px", self.depth + 1)
        x_dist = likelihood_below(self, decoder, readout, levels[-1], label, x, train, smoother, decoder_key)
        return Trace(None if x is None else x_dist.log_prob(x), tuple(levels), x_dist)
