"""CaGeM, the cluster-aware generative model: a class between two Gaussian levels.

    p(x, y, z) = p(z2) p(y | z2) p(z1 | y, z2) p(x | z1)          p(z2) = N(0, I), y one of K classes
    q(y, z | x) = q(z1 | x) q(y | z1, x) q(z2 | z1, y)            every Gaussian diagonal

The class clusters the upper representation, z1, and not the pixels, which see it through z1 alone. Inference goes from
the bottom up, so that the priors of y and z1 depend on these levels' own samples: their rates are log q - log p at the
sample (`descent.draw`). z2 is last, and has its KL in closed form.

A class may be known for some examples. For one with a label the bound is of the joint,

    log p(x, y) >= E_q[log p(x | z1) + log p(z1 | y, z2) + log p(y | z2) + log p(z2)
                       - log q(z1 | x) - log q(z2 | z1, y)]

and for one without it, of log p(x), with log q(y | z1, x) subtracted as well: by a sample of y, as here, or by the sum
over all y, as `objectives.Enumerated` has it. Only the levels above z1 depend on y, so that the sum over K classes
costs K times these small networks; encoder and decoder are computed once.

Source: Maaloe, Fraccaro & Winther (2017), "Semi-Supervised Generation with Cluster-aware Generative Models". It has no
public code, and we could not read its body: a class above z1 and below z2, inferred beside them, is the paper's; these
arrows are one consistent reading. Chosen here: p(x | z1) reads neither y nor z2, which would let the decoder bypass
z1; q(y | .) reads x beside z1 (`posterior_sees_x`), q(z2 | .) does not; p(y | z2) rather than p(z2 | y), so that z2 is
N(0, I) whatever the class, and samples of one class are found by `diagnostics.of_class`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax import Array

from hvae_jax.descent import Drawn, Pick, draw, propose
from hvae_jax.distributions import Normal, OneHotCategorical
from hvae_jax.likelihoods import Categorical, Likelihood
from hvae_jax.models.base import HVAE
from hvae_jax.models.chain import input_of, likelihood_of, readout_of, stem_of
from hvae_jax.models.pieces import gaussian
from hvae_jax.networks.activations import sigmoid_gelu
from hvae_jax.networks.computing import ComputeDtype, call
from hvae_jax.networks.conv import NetworkKind
from hvae_jax.networks.mlp import MLP, Initialisation, check_event, join
from hvae_jax.records import check_sizes
from hvae_jax.runtime.prng import split
from hvae_jax.trace import Level, Trace


@struct.dataclass
class Labelled:
    """q(y) of a batch in which some labels are known: all mass on the label there, the inferred classes elsewhere.

    Attributes:
      label: one-hot labels, `[B, K]`; rows of zeros where there is none.
      inferred: q(y | z1, x) of every example.
    """

    label: Array
    inferred: OneHotCategorical

    reparameterised = False

    @property
    def known(self) -> Array:
        """Whether there is a label, bool `[B]`."""
        return self.label.sum(-1) > 0

    def sample(self, key: Array, temperature: Array | float = 1.0) -> Array:
        """Return the labels, and draws of the inferred classes where there are none, `[B, K]`."""
        return self._choose(self.label, self.inferred.sample(key, temperature))

    def log_prob(self, z: Array) -> Array:
        """Return log q(y), `[B]`: 0 where the label is known, whatever z is, as for `distributions.Known`."""
        return jnp.where(self.known, 0.0, self.inferred.log_prob(z))

    @property
    def mean(self) -> Array:
        """The probabilities, `[B, K]`."""
        return self._choose(self.label, self.inferred.mean)

    @property
    def mode(self) -> Array:
        """The label, or the likeliest class, one-hot."""
        return self._choose(self.label, self.inferred.mode)

    def _choose(self, label: Array, inferred: Array) -> Array:
        return jnp.where(self.known[:, None], label, inferred)


class CaGeM(HVAE):
    """The cluster-aware generative model. Its levels, top first: z2, y (one-hot, `[B, clusters]`), z1.

        p(x, y, z) = p(z2) p(y | z2) p(z1 | y, z2) p(x | z1)          p(z2) = N(0, I), y one of K classes
        q(y, z | x) = q(z1 | x) q(y | z1, x) q(z2 | z1, y)

    Source: Maaloe, Fraccaro & Winther (2017); the module's docstring says what is chosen here.

    A call may have `y`, labels `[B]` with -1 where there is none: the level y is then known where there is a label.

    Attributes:
      clusters: number of classes K; 2 or more.
      latents: sizes of z2 and z1.
      hidden: width of every network.
      depth: number of hidden layers (linear, sigmoid-GELU) of every network; the decoder has one more.
      normalise: whether batch norm follows every hidden activation of the networks that read neither y nor z2. The
        others have none: where classes are enumerated, a batch has one class throughout, and its statistics would
        remove what the class says.
      posterior_sees_x: whether q(y | .) reads features of x beside z1.
      network: layers next to x. "dense": linear layers on flattened x. "conv": a `ConvEncoder` before the first network
        and a `ConvDecoder` in place of the last linear layer, for images `[B, H, W, C]` with H and W multiples of 4.
      width: channels of the convolutions at half the resolution; twice as many at a quarter. Not used by "dense".
      likelihood: p(x | z1), a family from `hvae_jax.likelihoods`.
      clamp: bounds of each posterior's log variance.
      prior_clamp: bounds of the log variance of p(z1 | y, z2); None for none.
      initialisation: initialiser of dense networks, "pytorch" or "glorot", as in `VAE`.
      dtype: precision of products and activations: "bfloat16", or None for that of the parameters.
      remat: whether the backward pass recomputes each network's activations instead of storing them.

    Raises ValueError if a size is below 1, there are fewer than two classes, or other than two Gaussian latents.

    Example:
        >>> model = hv.models.CaGeM(clusters=10, latents=(8, 16))
        >>> model.num_levels, model.clusters  # z2, y, z1
        (3, 10)
    """

    clusters: int = 10
    latents: tuple[int, int] = (8, 16)
    hidden: int = 256
    depth: int = 1
    normalise: bool = True
    posterior_sees_x: bool = True
    network: NetworkKind = "dense"
    width: int = 32
    likelihood: Likelihood = Categorical(17)
    clamp: tuple[float, float] = (-7.0, 2.0)
    prior_clamp: tuple[float, float] | None = (-7.0, 2.0)
    initialisation: Initialisation = "pytorch"
    dtype: ComputeDtype = None
    remat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "clusters", "latents", "hidden", "depth", "width")
        if self.clusters < 2:
            raise ValueError(f"CaGeM(clusters={self.clusters}): a single class says nothing; 2 or more are needed.")

    @property
    def num_levels(self) -> int:
        """Three: z2, y and z1."""
        return 3

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        run = functools.partial(call, remat=self.remat)
        size2, size1 = self.latents
        label = self._label(x, y, n)  # [n, K], or None
        readout = readout_of(self, None if x is None else x.shape[1:])
        ascent_key, descent_key = split(key)

        q_z2: Normal | None = None
        q_y: Drawn | None = None
        q_z1: Drawn | None = None
        if x is not None:
            check_event(readout.event(), x)
            key_z1, key_y = split(ascent_key)
            stem = stem_of(self, replaced=False)
            seen_x = input_of(self, x)
            seen_x = seen_x if stem is None else run(stem, seen_x, train=train)
            r = run(self._beside_x("r1"), seen_x, train=train)  # [B, hidden]
            q = gaussian(run(self._beside_x("q1", 2 * size1), r, train=train), clamp=self.clamp)
            q_z1 = propose(key_z1, q, picks[2], name="z1")
            seen = jnp.concatenate([q_z1.z, r], axis=-1) if self.posterior_sees_x else q_z1.z
            inferred = OneHotCategorical(run(self._beside_x("qy", self.clusters), seen, train=train))
            q_y = propose(key_y, inferred if label is None else Labelled(label, inferred), picks[1], name="y")
            q_z2 = gaussian(run(self._above("q2", 2 * size2), join(q_z1.z, q_y.z), train=train), clamp=self.clamp)

        # keys of their own for draws from the priors, so that keep_top changes none of the levels it keeps
        key_z2, key_y, key_z1 = split(descent_key, 3)
        z2 = draw(key_z2, Normal.standard((n, size2)), q_z2, picks[0], name="z2")
        p_y = OneHotCategorical(run(self._above("py", self.clusters), z2.z, train=train))
        drawn_y = draw(key_y, p_y, q_y, picks[1], name="y")
        h = run(self._above("prior1", 2 * size1), join(z2.z, drawn_y.z), train=train)
        z1 = draw(key_z1, gaussian(h, clamp=self.prior_clamp), q_z1, picks[2], name="z1")
        levels: tuple[Level, ...] = (z2, drawn_y, z1)

        decoder = self._mlp("px", None, self.normalise, self.depth + 1)
        x_dist = likelihood_of(self, decoder, readout, z1.z, x, train)
        return Trace(None if x is None else x_dist.log_prob(x), levels, x_dist)

    def _beside_x(self, name: str, features: int | None = None) -> MLP:
        """A network that reads neither y nor z2."""
        return self._mlp(name, features, self.normalise, self.depth)

    def _above(self, name: str, features: int) -> MLP:
        """A network that reads y or z2, which is inferred from y: without batch norm."""
        return self._mlp(name, features, False, self.depth)

    def _mlp(self, name: str, features: int | None, normalise: bool, depth: int) -> MLP:
        """A dense network that ends with a linear layer to `features`, or with its last hidden layer for None."""
        return MLP(
            (self.hidden,) * depth,
            features,
            sigmoid_gelu,
            normalise=normalise,
            dtype=self.dtype,
            initialisation=self.initialisation,
            name=name,
        )

    def _label(self, x: Array | None, y: Array | None, n: int) -> Array | None:
        """Labels `[n]` as one-hot rows, zeros where there is none (-1); None without labels.

        Raises ValueError for labels without x, another shape and, unless y is traced, another label.
        """
        if y is None:
            return None
        if x is None:
            raise ValueError(
                "CaGeM was given y without x, but y is drawn after z2, which depends on it: samples of a class come "
                "from diagnostics.of_class(model, variables, key, y), latents of your own from latents=."
            )
        if y.shape != (n,):
            raise ValueError(f"y has shape {y.shape}, but there are {n} examples: one label each, -1 for none.")
        if not isinstance(y, jax.core.Tracer):
            wrong = [label for label in np.asarray(y).tolist() if label not in range(-1, self.clusters)]
            if wrong:
                raise ValueError(
                    f"y holds the label {wrong[0]}, but the {self.clusters} classes are 0..{self.clusters - 1}, and -1 "
                    "is for none."
                )
        return jax.nn.one_hot(y, self.clusters, dtype=jnp.float32)  # -1 becomes a row of zeros
