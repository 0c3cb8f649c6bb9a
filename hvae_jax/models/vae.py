"""The VAE: one latent vector.

    p(x, z1) = p(x | z1) p(z1)          p(z1) = N(0, I)
    q(z1 | x) = N(m(x), diag var(x))

    elbo(x) = E_q[log p(x | z1)] - KL(q(z1 | x) || p(z1))

The prior does not depend on z1, so the KL is analytic. This is what the hierarchies are compared with.

Source: Kingma & Welling (2014), equations 3, 9 and 10; J. Tomczak's post on VAEs, whose code has the default networks.
It departs from that code in one thing: the posterior's log variance is clamped (`clamp`), as in his hierarchical one.
"""

from collections.abc import Callable

from flax import linen as nn
from jax import Array

from hvae_jax.descent import Pick, draw
from hvae_jax.distributions import Normal
from hvae_jax.likelihoods import Categorical, Likelihood
from hvae_jax.models.base import HVAE
from hvae_jax.models.chain import likelihood_of, read_out, stem_of
from hvae_jax.models.pieces import gaussian
from hvae_jax.networks.activations import leaky_relu
from hvae_jax.networks.computing import ComputeDtype, call
from hvae_jax.networks.conv import NetworkKind
from hvae_jax.networks.mlp import MLP, Initialisation, check_event, join, one_hot
from hvae_jax.records import check_sizes
from hvae_jax.trace import Trace


class VAE(HVAE):
    """The VAE of one latent vector. The defaults have 440,416 parameters on 8x8 digits of 17 values.

    They are the networks of the author's one-level code, as wide as those of the article's top-down model and with as
    many latents as its z1: 64 -> 256 -> 256 -> 32 and 16 -> 256 -> 256 -> 64*17 with leaky ReLUs. The article's own
    layers are `activation=sigmoid_gelu, normalise=True`.

    Attributes:
      latents: size of z1.
      hidden: width of every network.
      depth: hidden layers of every network.
      network: what stands next to x. "dense": x flattened. "conv", for images `[B, H, W, C]` with H and W multiples of
        4: a `ConvEncoder` before the first network and a `ConvDecoder` for the last linear layer.
      width: channels of the convolutions at half the resolution; twice as many at a quarter. No part in dense networks.
      activation: after every hidden layer.
      normalise: whether a batch norm follows every hidden activation of the dense networks; data of large values (0 to
        255) want it. The convolutions have theirs always: without it z1 makes so little difference at first that it
        collapses (8x8 digits after 500 steps: a KL of 0.1 nats).
      likelihood: p(x | z1), a family from `hvae_jax.likelihoods`.
      clamp: bounds of the posterior's log variance.
      prior_clamp: bounds of the log variance of p(z1 | y), or None for none; N(0, I) has no use for it.
      classes: how many class labels there are; 0 for a model without y. With labels, a one-hot y joins the input of
        every network and the prior is learned from y.
      encoder: replaces the network from x to the posterior, convolutions included: called as `net(v, train=train)`
        with x `[B, *event]` in a model without labels, else `[B, F]`, to `[B, 2 * latents]`, mean and log variance.
      decoder: replaces the network from z1 `[B, latents]` (and y) to the features `[B, F]` that the last layer takes.
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

    Raises ValueError for a size below 1, one class, or a network or dtype that is not known.
    """

    latents: int = 16
    hidden: int = 256
    depth: int = 2
    network: NetworkKind = "dense"
    width: int = 32
    activation: Callable[[Array], Array] = leaky_relu
    normalise: bool = False
    likelihood: Likelihood = Categorical(17)
    clamp: tuple[float, float] = (-7.0, 2.0)
    prior_clamp: tuple[float, float] | None = (-7.0, 7.0)
    classes: int = 0
    encoder: nn.Module | None = None
    decoder: nn.Module | None = None
    initialisation: Initialisation = "pytorch"
    dtype: ComputeDtype = None
    remat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "latents", "hidden", "depth", "width")

    @property
    def num_levels(self) -> int:
        """One."""
        return 1

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        readout = read_out(self, None if x is None else x.shape[1:], activation=self.activation)
        label = one_hot(y, self.classes, n)

        posterior = None
        if x is not None:
            check_event(readout.event(), x)
            stem = stem_of(self, self.encoder is not None, activation=self.activation)
            seen = join(x if stem is None else self._call(stem, x, train), label)
            encoder = self.encoder or self._mlp("q1", 2 * self.latents)
            posterior = gaussian(self._call(encoder, seen, train), clamp=self.clamp)

        prior = Normal.standard((n, self.latents))
        if label is not None:
            learned = self._call(self._mlp("prior1", 2 * self.latents), label, train)
            prior = gaussian(learned, clamp=self.prior_clamp)
        level = draw(key, prior, posterior, picks[0], name="z1")

        h = self._call(self.decoder or self._mlp("px"), join(level.z, label), train)
        x_dist = likelihood_of(self, readout, h, x, train)
        return Trace(None if x is None else x_dist.log_prob(x), (level,), x_dist)

    def _mlp(self, name: str, features: int | None = None) -> MLP:
        """A network of the model's own, with a last linear layer to `features` or without one."""
        hidden = (self.hidden,) * self.depth
        settings = {"normalise": self.normalise, "dtype": self.dtype, "initialisation": self.initialisation}
        return MLP(hidden, features, self.activation, name=name, **settings)

    def _call(self, net: nn.Module, v: Array, train: bool) -> Array:
        """The network at v, kept or recomputed."""
        return call(net, v, train=train, remat=self.remat)
