"""Small models with the protocol, one for each way to choose a latent; tests know more of them than of real models."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from hvae_jax.descent import Flow as FlowMaps
from hvae_jax.descent import Pick, draw, propose, stack
from hvae_jax.distributions import Known, Normal, OneHotCategorical, residual, soft_clamp
from hvae_jax.likelihoods import Bernoulli, Likelihood
from hvae_jax.models.base import HVAE
from hvae_jax.networks.computing import Drawing
from hvae_jax.networks.mlp import BatchNorm, Dense, Readout
from hvae_jax.networks.scan import scanned
from hvae_jax.trace import Level, Trace


def gaussian_head(h: Array) -> Normal:
    """`[B, 2 d]` to a Gaussian with log_std soft-clamped to (-0.15, 0.15).

    The weights p/q have a variance only where var_q > var_p / 2, that is log_std_q - log_std_p > -0.35: two heads of
    this kind never differ by more than 0.3, so standard errors of mean weights can be trusted.
    """
    mean, log_std = jnp.split(h, 2, axis=-1)
    return Normal(mean, soft_clamp(log_std, 0.15))


def shifted(q: Normal, z: Array) -> Normal:
    """The Gaussian shifted by half of z, so that the two are well correlated."""
    return Normal(q.mean + 0.5 * z, q.log_std)


def flat(x: Array) -> Array:
    """`[B, *event]` to float `[B, D]`."""
    return x.reshape(x.shape[0], -1).astype(jnp.float32)


def orthonormal(pixels: int, size: int) -> np.ndarray:
    """`[pixels, size]` with orthonormal columns: the first cosines of the type-II transform."""
    angles = np.outer(np.arange(pixels) + 0.5, np.arange(size)) * np.pi / pixels
    basis = np.cos(angles)
    return basis / np.linalg.norm(basis, axis=0)


class BottomUp(HVAE):
    """q(z1 | x) q(z2 | z1) with p(z2) p(z1 | z2) p(x | z1): z1 is proposed on the bottom-up path.

    Attributes:
      size: size of z2 and of z1.
      hidden: width of the networks.
      likelihood: p(x | z1).
    """

    size: int = 2
    hidden: int = 6
    likelihood: Likelihood = Bernoulli()

    @property
    def num_levels(self) -> int:
        """Two."""
        return 2

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        ascent_key, key2, key1 = jax.random.split(key, 3)
        pick2, pick1 = picks
        z1 = q2 = None
        if x is not None:
            r = jnp.tanh(Dense(self.hidden, name="r")(flat(x)))
            z1 = propose(ascent_key, gaussian_head(Dense(2 * self.size, name="q1")(r)), pick1)
            r = jnp.tanh(Dense(self.hidden, name="r2")(z1.z))
            q2 = shifted(gaussian_head(Dense(2 * self.size, name="q2")(r)), z1.z)
        level2 = draw(key2, Normal.standard((n, self.size)), q2, pick2, name="z2")
        h = jnp.tanh(Dense(self.hidden, name="h")(level2.z))
        p1 = shifted(gaussian_head(Dense(2 * self.size, name="p1")(h)), level2.z)
        level1 = draw(key1, p1, z1, pick1, name="z1")
        h = jnp.tanh(Dense(self.hidden, name="px")(level1.z))
        readout = Readout(self.likelihood.parameters, name="readout")
        x_dist = self.likelihood(readout(h, None if x is None else x.shape[1:]))
        return Trace(None if x is None else x_dist.log_prob(x), (level2, level1), x_dist)


class Block(nn.Module):
    """One residual stochastic block: prior from h, posterior from h and the evidence, z added to h."""

    width: int
    size: int
    normalise: bool = False
    train: bool = False

    @nn.compact
    def __call__(self, h: Array, key: Array, pick: Pick, evidence: Array | None) -> tuple[Array, Level]:
        prior = gaussian_head(Dense(2 * self.size, name="prior")(jnp.tanh(h)))
        posterior = None
        if evidence is not None:
            delta = Dense(2 * self.size, name="delta")(jnp.tanh(jnp.concatenate([h, evidence], -1)))
            posterior = residual(prior, gaussian_head(delta))
        level = draw(key, prior, posterior, pick, name="run")
        h = h + Dense(self.width, name="merge")(level.z)
        return BatchNorm(name="norm")(h, train=self.train) if self.normalise else h, level


class Scanned(HVAE):
    """A top latent, then a run of n equal blocks with stacked parameters under nn.scan.

    Attributes:
      blocks: number of blocks n; the model has n + 1 levels.
      width, size: sizes of the deterministic path and of each latent.
      remat: whether the backward pass recomputes the blocks' activations instead of storing them.
      unroll: number of blocks per iteration of the scan.
      likelihood: p(x | h).
      normalise: whether each block ends with a batch norm, whose statistics are stacked like parameters.
    """

    blocks: int = 3
    width: int = 5
    size: int = 2
    remat: bool = False
    unroll: int = 1
    likelihood: Likelihood = Bernoulli()
    normalise: bool = False

    @property
    def num_levels(self) -> int:
        """The top and the run."""
        return 1 + self.blocks

    @property
    def stacked(self) -> tuple[str, ...]:
        """The run."""
        return ("run/",)

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        evidence = q = None
        if x is not None:
            evidence = jnp.tanh(Dense(self.width, name="r")(flat(x)))
            q = gaussian_head(Dense(2 * self.size, name="q")(evidence))
        keys = jax.random.split(key, self.num_levels)
        top = draw(keys[0], Normal.standard((n, self.size)), q, picks[0], name="top")
        h = Dense(self.width, name="h")(top.z)

        axes = (0, 0, nn.broadcast)
        run = scanned(self, Block, self.blocks, axes, unroll=self.unroll, remat=self.remat)
        block = run(self.width, self.size, self.normalise, train, name="run")
        h, levels = block(h, keys[1:], stack(picks[1:]), evidence)
        readout = Readout(self.likelihood.parameters, name="readout")
        x_dist = self.likelihood(readout(h, None if x is None else x.shape[1:]))
        return Trace(None if x is None else x_dist.log_prob(x), (top, levels.replace(stacked=True)), x_dist)


def coupling(scale: Array, shift: Array, context: Array) -> FlowMaps:
    """An affine coupling of two units: z = (u, v e^s + t), s and t functions of u and the context `[B, 3]`."""

    def terms(u: Array) -> tuple[Array, Array]:
        return 0.1 + 0.05 * jnp.tanh(context[:, 0] + scale * u), context[:, 1] + shift * u + context[:, 2] * u**2 * 0.1

    def forward(z0: Array) -> tuple[Array, Array]:
        s, t = terms(z0[:, 0])
        z = jnp.stack([z0[:, 0], z0[:, 1] * jnp.exp(s) + t], -1)
        return z, jnp.stack([jnp.zeros_like(s), s], -1)

    def inverse(z: Array) -> tuple[Array, Array]:
        s, t = terms(z[:, 0])
        z0 = jnp.stack([z[:, 0], (z[:, 1] - t) * jnp.exp(-s)], -1)
        return z0, jnp.stack([jnp.zeros_like(s), s], -1)

    return FlowMaps(forward, inverse)


class Flow(HVAE):
    """One level whose posterior is an affine coupling of a diagonal Gaussian, so its KL is a log-ratio.

    Attributes:
      hidden: width of the networks.
      likelihood: p(x | z).
    """

    hidden: int = 6
    likelihood: Likelihood = Bernoulli()

    @property
    def num_levels(self) -> int:
        """One."""
        return 1

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        ascent_key, descent_key = jax.random.split(key)
        proposed = None
        if x is not None:
            r = jnp.tanh(Dense(self.hidden, name="r")(flat(x)))
            q = gaussian_head(Dense(4, name="q")(r))
            scale = self.param("scale", nn.initializers.constant(0.4), (), jnp.float32)
            shift = self.param("shift", nn.initializers.constant(0.4), (), jnp.float32)
            flow = coupling(scale, shift, Dense(3, name="context")(r))
            proposed = propose(ascent_key, q, picks[0], flow)
        level = draw(descent_key, Normal.standard((n, 2)), proposed, picks[0], name="z1")
        h = jnp.tanh(Dense(self.hidden, name="px")(level.z))
        readout = Readout(self.likelihood.parameters, name="readout")
        x_dist = self.likelihood(readout(h, None if x is None else x.shape[1:]))
        return Trace(None if x is None else x_dist.log_prob(x), (level,), x_dist)


class CategoricalTop(HVAE):
    """A class c of K at the top, with or without a Gaussian z1 below it: sums over c can be enumerated.

    Attributes:
      classes_of_c: number of classes K.
      size: size of z1; 0 leaves it out, so that x depends on c alone.
      form: gradient of the one-hot sample.
      likelihood: p(x | z1, c).
    """

    classes_of_c: int = 3
    size: int = 2
    hidden: int = 6
    form: str = "straight_through"
    likelihood: Likelihood = Bernoulli()

    @property
    def num_levels(self) -> int:
        """One or two."""
        return 1 + (self.size > 0)

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        key_c, key_z = jax.random.split(key)
        logits = self.param("logits", nn.initializers.normal(0.5), (self.classes_of_c,), jnp.float32)
        prior = OneHotCategorical(jnp.broadcast_to(logits[None], (n, self.classes_of_c)), self.form)
        r = posterior = None
        if x is not None:
            r = jnp.tanh(Dense(self.hidden, name="r")(flat(x)))
            posterior = OneHotCategorical(Dense(self.classes_of_c, name="qc")(r), self.form)
        levels = [draw(key_c, prior, posterior, picks[0], name="c")]
        h = levels[0].z
        if self.size:
            p = gaussian_head(Dense(2 * self.size, name="p1")(h))
            q = None
            if r is not None:
                q = residual(p, gaussian_head(Dense(2 * self.size, name="q1")(jnp.concatenate([r, h], -1))))
            levels.append(draw(key_z, p, q, picks[1], name="z1"))
            h = jnp.concatenate([h, levels[1].z], -1)
        h = jnp.tanh(Dense(self.hidden, name="px")(h))
        readout = Readout(self.likelihood.parameters, name="readout")
        x_dist = self.likelihood(readout(h, None if x is None else x.shape[1:]))
        return Trace(None if x is None else x_dist.log_prob(x), tuple(levels), x_dist)


def pairs(x: Array) -> Array:
    """d(x): whether the two pixels of each pair differ, uint8, `[B, D/2]`."""
    return x[:, ::2] ^ x[:, 1::2]


class Observed(HVAE):
    """z2 at the top, below it y = d(x), which is known if x is, and p(x | y, z2): y is an observed level.

    Attributes:
      likelihood: likelihood of x; p(y | z2) is Bernoulli.
    """

    size: int = 2
    hidden: int = 6
    pixels: int = 4
    likelihood: Likelihood = Bernoulli()

    @property
    def num_levels(self) -> int:
        """z2 and y."""
        return 2

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        key_z, key_y = jax.random.split(key)
        q = known = None
        if x is not None:
            known = Known(pairs(x))
            seen = known.z if picks[1].given is None else picks[1].given
            r = jnp.tanh(Dense(self.hidden, name="r")(flat(seen)))
            q = gaussian_head(Dense(2 * self.size, name="q2")(r))
        z2 = draw(key_z, Normal.standard((n, self.size)), q, picks[0], name="z2")
        h = jnp.tanh(Dense(self.hidden, name="h")(z2.z))
        p = Bernoulli()(Dense(self.pixels // 2, name="py")(h)[..., None])
        level = draw(key_y, p, known, picks[1], name="y")
        h = jnp.tanh(Dense(self.hidden, name="px")(jnp.concatenate([h, flat(level.z)], -1)))
        readout = Readout(self.likelihood.parameters, name="readout")
        x_dist = self.likelihood(readout(h, None if x is None else x.shape[1:]))
        return Trace(None if x is None else x_dist.log_prob(x), (z2, level), x_dist)


class NoisyPrior(Drawing):
    """The network of a prior, `[B, 2]` to `[B, 4]`, that adds random noise to its input."""

    @nn.compact
    def __call__(self, v: Array, key: Array, *, train: bool = False) -> Array:
        moved = 0.8 * v + 0.6 * jax.random.normal(key, v.shape, v.dtype)
        more = Dense(2, name="scale")(jnp.tanh(Dense(5, name="hidden")(moved)))
        return jnp.concatenate([0.5 * Dense(2, name="mean")(moved), 0.1 * jnp.tanh(more)], axis=-1)
