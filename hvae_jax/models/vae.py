"""The VAE: one latent vector.

    p(x, z1) = p(x | z1) p(z1)          p(z1) = N(0, I)
    q(z1 | x) = N(m(x), diag var(x))

    elbo(x) = E_q[log p(x | z1)] - KL(q(z1 | x) || p(z1))

The prior does not depend on z1, so the KL is analytic. This is the baseline for the hierarchies.

Source: Kingma & Welling (2014), equations 3, 9 and 10; J. Tomczak's post on VAEs, whose code has the default networks.
Departs from that code in one thing: the posterior's log variance is clamped (`clamp`), as in his hierarchical code.
"""

import functools
from collections.abc import Callable

from flax import linen as nn
from jax import Array

from hvae_jax.descent import Pick, draw
from hvae_jax.distributions import Normal
from hvae_jax.likelihoods import Categorical, Likelihood
from hvae_jax.models.base import HVAE
from hvae_jax.models.chain import check_top_prior, input_of, likelihood_of, readout_of, stem_of
from hvae_jax.models.pieces import gaussian
from hvae_jax.models.top_priors import Ground, NormalPrior, TopPrior
from hvae_jax.networks.activations import leaky_relu
from hvae_jax.networks.computing import ComputeDtype, call
from hvae_jax.networks.conv import NetworkKind
from hvae_jax.networks.mlp import MLP, Initialisation, check_event, join, one_hot
from hvae_jax.records import check_sizes
from hvae_jax.trace import Trace


class VAE(HVAE):
    """The VAE of one latent vector. The defaults have 440,416 parameters on 8x8 digits of 17 values.

        p(x, z1) = p(x | z1) p(z1),    q(z1 | x) = N(m(x), diag var(x))

    Source: Kingma & Welling (2014), equations 3, 9 and 10.

    The default networks are those of J. Tomczak's one-level code, with the width of the article's top-down model and
    the latents of its z1: 64 -> 256 -> 256 -> 32 and 16 -> 256 -> 256 -> 64*17 with leaky ReLUs. The article's own
    layers are `activation=sigmoid_gelu, normalise=True`.

    Attributes:
      latents: size of z1.
      hidden: width of every network.
      depth: number of hidden layers of every network.
      network: layers next to x. "dense": linear layers on flattened x. "conv": a `ConvEncoder` before the first network
        and a `ConvDecoder` in place of the last linear layer, for images `[B, H, W, C]` with H and W multiples of 4.
      width: channels of the convolutions at half the resolution; twice as many at a quarter. Not used by "dense".
      activation: nonlinearity after every hidden layer.
      normalise: whether batch norm follows every hidden activation of the dense networks; data of large values (0 to
        255) need it. Convolutions always have batch norm: without it z1 has so little effect at first that it collapses
        (8x8 digits after 500 steps: a KL of 0.1 nats).
      likelihood: p(x | z1), a family from `hvae_jax.likelihoods`.
      top_prior: p(z1); `NormalPrior()` is N(0, I).
      clamp: bounds of the posterior's log variance.
      prior_clamp: bounds of the log variance of p(z1 | y); None for none. Not used without labels.
      classes: number of class labels; 0 for a model without y. With labels, a one-hot y is appended to the
        input of every network, and the prior is learned from y.
      encoder: network that replaces the encoder, convolutions included. It is called as `net(v, train=train)` and
        returns mean and log variance, `[B, 2 * latents]`; v is x itself, `[B, *event]`, or with labels x flattened and
        y appended, `[B, F]`.
      decoder: network that replaces the decoder, from z1 `[B, latents]`, with y appended, to the features `[B, F]` that
        the readout reads.
      initialisation: initialiser of the model's own dense networks. "pytorch": PyTorch's default for kernels and
        biases. "glorot": Glorot's for kernels and 0 for biases; the readout's biases, if the likelihood has
        `marginals`, start so that p(x | z) has the marginals of the examples that the model is initialised on
        (`Training.init_examples`). Without that, units die while the biases are learned: on static MNIST the IWAE
        paper's network is 18 nats worse after ten epochs.
      dtype: precision of products and activations in the model's own networks: "bfloat16" takes less memory and uses
        the fast units of a TPU or GPU; None is the precision of the parameters. Parameters, gradients, statistics,
        latents, KLs and likelihoods are float32 either way. Replacement networks keep their own dtype.
      remat: whether the backward pass recomputes each network's activations instead of storing them: less memory for
        about a third more arithmetic.

    Raises ValueError if a size is below 1, there is one class, there are labels and a top prior, or network,
    initialisation or dtype is not known.

    Example:
        >>> model = hv.models.VAE(latents=16)
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 8, 8, 1), int), jax.random.key(1))
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        440416
    """

    latents: int = 16
    hidden: int = 256
    depth: int = 2
    network: NetworkKind = "dense"
    width: int = 32
    activation: Callable[[Array], Array] = leaky_relu
    normalise: bool = False
    likelihood: Likelihood = Categorical(17)
    top_prior: TopPrior = NormalPrior()
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
        check_top_prior(self)

    @property
    def num_levels(self) -> int:
        """One: z1."""
        return 1

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        run = functools.partial(call, remat=self.remat)
        label = one_hot(y, self.classes, n)  # [n, classes], or None
        readout = readout_of(self, None if x is None else x.shape[1:], activation=self.activation)
        # made outside `encode`, so that its two calls share them: a top prior sends inputs of its own through it
        stem = stem_of(self, self.encoder is not None, activation=self.activation)
        encoder = self.encoder or self._mlp("q1", 2 * self.latents)

        def encode(x: Array, train: bool) -> Normal:
            """q(z1 | x, y)."""
            x = input_of(self, x)
            seen = join(x if stem is None else run(stem, x, train=train), label)
            return gaussian(run(encoder, seen, train=train), clamp=self.clamp)

        # without x, `draw` takes z from the prior
        posterior = None
        if x is not None:
            check_event(readout.event(), x)
            posterior = encode(x, train)

        if label is not None:
            learned = run(self._mlp("prior1", 2 * self.latents), label, train=train)
            prior = gaussian(learned, clamp=self.prior_clamp)
        else:
            # in evaluation mode: pseudo-inputs of a top prior are no part of the batch
            event, bounds = (self.latents,), self.likelihood.value_range
            prior = self.top_prior(Ground(self, n, event, lambda u: encode(u, False), x, bounds))
        level = draw(key, prior, posterior, picks[0], name="z1")

        decoder = self.decoder or self._mlp("px")
        x_dist = likelihood_of(self, decoder, readout, join(level.z, label), x, train)
        return Trace(None if x is None else x_dist.log_prob(x), (level,), x_dist)

    def _mlp(self, name: str, features: int | None = None) -> MLP:
        """A dense network that ends with a linear layer to `features`, or with its last hidden layer for None."""
        hidden = (self.hidden,) * self.depth
        settings = {"normalise": self.normalise, "dtype": self.dtype, "initialisation": self.initialisation}
        return MLP(hidden, features, self.activation, name=name, **settings)
