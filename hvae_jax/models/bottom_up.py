"""The article's bottom-up VAE: two levels, or any number.

    p(x, z) = p(x | z1) p(z1 | z2) ... p(z_L)                 every Gaussian diagonal, p(z_L) = N(0, I)
    q(z | x) = q(z1 | x) q(z2 | z1) ... q(z_L | z_{L-1})      or, with `posteriors_see_x`, q(z_l | z_{l-1}, x)

    elbo(x) = E_q[log p(x | z1) - sum_l rate_l]

What rate_l is goes by direction. Its right mean is E_q[log q(z_l | z_{l-1}) - log p(z_l | z_{l+1})].

- The top, l = L: p(z_L) does not depend on any sample, so that given z_{L-1} the mean over z_L is
  KL(q(z_L | z_{L-1}) || p(z_L)). The analytic KL is right.
- Below, l < L: z_{l+1} was drawn from q(z_{l+1} | z_l), so the prior p(z_l | z_{l+1}) depends on this level's own
  sample. KL(q(z_l | z_{l-1}) || p(z_l | z_{l+1})) averages over a second z_l that knows nothing of that z_{l+1}. It is
  off by

    E[log p(z_l | z_{l+1})] under q's joint of z_l and z_{l+1}, less the same under the product of its marginals,

  each given z_{l-1}: nats of either sign, although as a rule too much. The better z_{l+1} foretells z_l, the more that
  formula charges for it. The term is log q - log p at the sample. It may be negative; the mean of the sum over the
  levels, KL(q(z | x) || p(z)), is not.

The article prints the ELBO with KL(q(z1 | x) || p(z1 | z2)): `objectives.PrintedELBO` trains on it. Written out, its
two rates have the mean

    KL(q(z1 | x) q(z2 | x) || p(z1, z2)) + I_q(z1; z2 | x),          q(z2 | x) = E_q(z1 | x) q(z2 | z1):

the rate of another posterior, in which z1 and z2 are independent, and on top of it a charge for what z2 tells of z1. So
it is below log p(x) on average, but it is not this q's ELBO, may lie above or below it by nats, and is best served by a
z2 that says nothing: trained on it, z2 collapses in good part for that reason alone. The log weights, and with them the
IWAE bounds, are right either way.

keep_top = k infers the top k levels through bottom-up samples of those below, which are then drawn anew from their
priors: E w = p(x) all the same. Under one key the levels that are kept have the values of the plain pass. A given
latent is what the levels above it are inferred from.

Source: J. Tomczak, "Hierarchical Variational Auto-Encoders" (the article), "Two-level VAE", where the networks are not
said: they are those of its top-down code as far as they go. Burda et al. (2015), section 3, has the log-ratio.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.descent import Drawn, Pick, draw, propose
from hvae_jax.distributions import Normal
from hvae_jax.likelihoods import Categorical, Likelihood
from hvae_jax.models.base import HVAE, check_networks
from hvae_jax.models.chain import check_top_prior, likelihood_of, network, own_network, prior_of, read_out, stem_of
from hvae_jax.models.pieces import gaussian
from hvae_jax.models.top_priors import Ground, NormalPrior, TopPrior
from hvae_jax.networks.activations import exact_gelu, leaky_relu
from hvae_jax.networks.computing import ComputeDtype, call
from hvae_jax.networks.conv import NetworkKind
from hvae_jax.networks.mlp import Initialisation, check_event, join, one_hot
from hvae_jax.records import as_tuples, check_sizes
from hvae_jax.trace import Level, Trace


class BottomUpVAE(HVAE):
    """The article's bottom-up VAE. The defaults have 660,368 parameters on 8x8 digits of 17 values.

    Attributes:
      latents: size of each latent vector, top first. z2 has 8, z1 has 16, as in the article's code; of any length.
      hidden: width of every network.
      depth: hidden layers (linear, sigmoid-GELU, batch norm) of every network; the decoder has one more.
      posteriors_see_x: whether the posteriors above z1 read x too, as its features r1 beside z_{l-1}.
      network: what stands next to x. "dense": x flattened. "conv", for images `[B, H, W, C]` with H and W multiples of
        4: a `ConvEncoder` before the first network and a `ConvDecoder` for the last linear layer.
      width: channels of the convolutions at half the resolution; twice as many at a quarter. No part in dense networks.
      likelihood: p(x | z1), a family from `hvae_jax.likelihoods`.
      top_prior: p(z_L); `NormalPrior()`, N(0, I), is the article's.
      clamp: bounds of each posterior's log variance.
      prior_clamp: bounds of each learned prior's log variance, or None for none.
      classes: how many class labels there are; 0 for a model without y. With labels, a one-hot y joins the input of
        every network and the top prior is learned from y.
      bottom_up: networks that replace f_L, ..., f_1, top first, None where the model's stays; () replaces none.
        Each is called as `net(v, train=train)`: f_1, convolutions included, with x `[B, *event]` as it is in a model
        without labels, else `[B, F]`; the others with z_{l-1} `[B, latents]` (beside r1, beside y); to `[B, F']`.
      posterior: likewise for the networks from those features to mean and log variance: `[B, F]` to
        `[B, 2 * latents[i]]`.
      prior: likewise for the L - 1 networks of the priors below the top: `[B, latents[i]]` to `[B, 2*latents[i+1]]`.
      decoder: replaces the network from z1 `[B, latents[-1]]` to the features `[B, F]` that the last layer takes.
      initialisation: of the model's own dense networks. "pytorch": kernels and biases as PyTorch's. "glorot": Glorot's
        kernels, biases of 0, and where the likelihood can say it those of the last layer such that p(x | z) begins
        as the marginals of the examples that the model is initialised on (`Training.init_examples`). Without them
        units die while the biases are learned: on static MNIST the IWAE paper's network is 18 nats worse after ten
        epochs.
      dtype: what the products and activations of the model's own networks are computed in: "bfloat16", less
        memory and the fast units of a TPU or GPU; None for what the parameters are. Parameters, gradients, statistics,
        latents, KLs and likelihoods are float32 either way. Networks that replace others keep their own.
      remat: whether the backward pass recomputes what is inside each network instead of remembering it: less memory
        for about a third more arithmetic.

    Raises ValueError for a size below 1, one class, a wrong number of networks, or an estimator, network or dtype that
    is not known.
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

    def __post_init__(self) -> None:
        as_tuples(self, "latents", "bottom_up", "posterior", "prior")
        super().__post_init__()
        levels = len(self.latents)
        check_sizes(self, "latents", "hidden", "depth", "width")
        check_top_prior(self, self.classes)
        check_networks(self, bottom_up=levels, posterior=levels, prior=levels - 1)

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
        ascent_key, descent_key = jax.random.split(key)
        # The ascent's networks by level, made here because a top prior may send inputs of its own through them.
        stem = stem_of(self, bool(self.bottom_up) and self.bottom_up[-1] is not None)
        paths, heads = {}, {}
        for level in range(1, self.num_levels + 1):
            last = exact_gelu if level == 1 else leaky_relu
            paths[level] = network(self, self.bottom_up, level, f"r{level}", self.hidden, last)
            heads[level] = network(self, self.posterior, level, f"q{level}", 2 * sizes[level])

        def ascend(x: Array, keys: Array | None, train: bool) -> dict[int, Normal | Drawn]:
            """Posteriors from the bottom up, each but the top one drawn, since the next one reads its sample.

            Without keys it is their means that are handed on, and nothing is drawn.
            """
            found: dict[int, Normal | Drawn] = {}
            v, r1 = x if stem is None else self._call(stem, x, train), None
            for level in paths:
                r = self._call(paths[level], join(v, label), train)
                r1 = r if r1 is None else r1
                q = gaussian(self._call(heads[level], join(r, label), train), clamp=self.clamp)
                if level == self.num_levels:
                    found[level] = q
                    break
                if keys is None:
                    z = q.mean
                else:
                    found[level] = drawn = propose(keys[level - 1], q, picks[-level], name=f"z{level}")
                    z = drawn.z
                v = jnp.concatenate([z, r1], axis=-1) if self.posteriors_see_x else z
            return found

        posteriors: dict[int, Normal | Drawn] = {}
        if x is not None:
            check_event(readout.event(), x)
            posteriors = ascend(x, jax.random.split(ascent_key, self.num_levels), train)

        def encode(u: Array) -> Normal:
            top = ascend(u, None, False)[self.num_levels]
            assert isinstance(top, Normal)
            return top

        ground = Ground(self, n, (self.latents[0],), encode, x, self.likelihood.value_range)
        levels: list[Level] = []
        for level, level_key, pick in zip(sizes, jax.random.split(descent_key, len(sizes)), picks, strict=True):
            above = levels[-1].z if levels else None
            prior, level_key = prior_of(self, ground, level, above, label, level_key, train)
            levels.append(draw(level_key, prior, posteriors.get(level), pick, name=f"z{level}"))

        decoder = self.decoder or own_network(self, "px", self.depth + 1)
        h = self._call(decoder, join(levels[-1].z, label), train)
        x_dist = likelihood_of(self, readout, h, x, train)
        return Trace(None if x is None else x_dist.log_prob(x), tuple(levels), x_dist)

    def _call(self, net: nn.Module, v: Array, train: bool) -> Array:
        """The network at v, kept or recomputed."""
        return call(net, v, train=train, remat=self.remat)
