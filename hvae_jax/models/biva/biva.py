"""BIVA: below the top, each stage has one latent inferred on the way up and one inferred on the way down.

    p(x, z) = p(x | z) p(z_S) prod_{l<S} p(z_l^td | z_>l) p(z_l^bu | z_>l)           every Gaussian diagonal
    q(z | x) = prod_{l<S} q(z_l^bu | x, z_<l^bu)  q(z_S | x, z_<S^bu)  prod_{l<S} q(z_l^td | x, z_<l^bu, z_>l)

with S stages, z_l = (z_l^td, z_l^bu), p(z_S) = N(0, I) and, if `conditional_bu`, p(z_l^bu | z_l^td, z_>l).

Two paths lead up. Blocks of the first give q(z_l^bu | .) and pass its sample on to the next stage. Blocks of the
second, without samples, give the feature maps that z_l^td is inferred from; they read the first path as auxiliary
input, and both paths read the stage below. One path leads down: its blocks turn z_l into the feature maps that the
priors of the stage below come from. Each of these blocks reads a block of the stage above as auxiliary input, so that
every prior depends on all latents above; without these skips it depends on the next stage alone.

Which rate is right depends on the direction of inference.

- Bottom-up: p(z_l^bu | .) depends, through the latents above, on this level's own sample. The rate is log q - log p at
  the sample; the analytic KL would not give a bound (`bottom_up.py` has the derivation).
- Top: p(z_S) depends on no sample. Given z_<S^bu, the mean of log q - log p over z_S is KL(q(z_S | .) || p(z_S)).
- Top-down: q and p of z_l^td depend on x, z_<l^bu and z_>l, all drawn before it. The KL is analytic.

`Trace.ratios` has the log-ratios of all levels, which are the KLs of the published codes.

`keep_top` counts stages: z_S, then z_l^td and z_l^bu together. The top stages are inferred through bottom-up samples of
the stages below, which are then replaced by draws from their priors; E w = p(x) still holds.

Source: Maaloe et al. (2019), equations 5 to 8, and the codes (larsmaaloee/BIVA; vlievin/biva-pytorch, whose weights
`convert.biva` reads). Departs from both in the analytic rates and, by default, in the log variances: theirs are
softplus(a), so that every variance except that of p(z_S) is at least 1 (`head`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.descent import Drawn, Pick, propose
from hvae_jax.distributions import Normal
from hvae_jax.likelihoods import Bernoulli, Likelihood, LogisticMixture
from hvae_jax.models.base import HVAE
from hvae_jax.models.biva.skeleton import Skeleton, check_gated
from hvae_jax.models.biva.stages import Stage, cifar10_stages, mnist_stages
from hvae_jax.networks.computing import ComputeDtype
from hvae_jax.networks.mlp import one_hot
from hvae_jax.networks.scale_head import ScaleHead
from hvae_jax.records import check_sizes
from hvae_jax.runtime.prng import split
from hvae_jax.trace import Level, Trace


class BIVA(HVAE):
    """BIVA. The defaults have 31,550,946 parameters, those of the published code for 28x28 binary images.

        p(x, z) = p(x | z) p(z_S) prod_{l<S} p(z_l^td | z_>l) p(z_l^bu | z_>l)
        q(z | x) = prod_{l<S} q(z_l^bu | x, z_<l^bu)  q(z_S | x, z_<S^bu)  prod_{l<S} q(z_l^td | x, z_<l^bu, z_>l)

    Source: Maaloe et al. (2019), equations 5 to 8, and the codes larsmaaloee/BIVA and vlievin/biva-pytorch.

    Attributes:
      image: `(H, W, C)` of one x.
      stages: latents and blocks, top first.
      pad: width of the frame of zeros around x, cropped again before p(x | z).
      conditional_bu: whether the prior of each bottom-up latent reads the top-down latent of its stage.
      merge_kernel: kernel size of the blocks that merge the bottom-up and the top-down path.
      skip: whether blocks read the stage before as auxiliary input. The second bottom-up path reads the first anyway.
      learn_top_prior: whether p(z_S) has a learned mean and log variance for each element, which start at N(0, I);
        otherwise it is N(0, I).
      head: form of the log variances from a layer, all but that of p(z_S); "softplus_log_var" as published.
      clamp: bounds of these log variances; None for none, as published.
      activation: nonlinearity at the input of each layer.
      q_dropout: dropout probability of bottom-up blocks, in training.
      p_dropout: dropout probability of top-down blocks and of those that merge the two paths, in training.
      data_dependent_init: whether gains and biases are initialised so that, on the batch that `init` is called with,
        the output of every layer has mean 0 and standard deviation 0.01. Pass `init` a whole batch then.
      likelihood: p(x | z), a family from `hvae_jax.likelihoods`; a 1x1 convolution gives its parameters.
      dtype: precision of products and activations: "bfloat16" takes less memory and uses the fast units of a TPU or
        GPU; None is the precision of the parameters. Parameters, gradients, latents, KLs and likelihoods are float32
        either way.
      remat: whether the backward pass recomputes each block instead of storing it: less memory for about a third more
        arithmetic.

    Raises ValueError if there are no stages, the strides do not divide the image, the likelihood does not take the
    image's channels, a dropout probability is outside [0, 1), a size is below 1, or dtype is not known.

    Example:
        >>> hv.models.BIVA().levels_per_stage  # a bottom-up and a top-down latent below the top
        (1, 2, 2, 2, 2, 2)
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
        super().__post_init__()
        check_gated(self)
        check_sizes(self, "merge_kernel")

    @property
    def num_levels(self) -> int:
        """L: one level at the top, two in each stage below."""
        return sum(self.levels_per_stage)

    @property
    def levels_per_stage(self) -> tuple[int, ...]:
        """Number of levels in each stage, the unit of `keep_top`, top first."""
        return (1, *(2,) * (len(self.stages) - 1))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the levels, top first: "z3", "z2_td", "z2_bu", "z1_td", "z1_bu"."""
        top = len(self.stages)
        return (f"z{top}", *(f"z{i}_{way}" for i in range(top - 1, 0, -1) for way in ("td", "bu")))

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        one_hot(y, 0, n)  # raises ValueError for labels
        ascent_key, descent_key, block_key = split(key, 3)
        nets = Skeleton(self, block_key, train)
        # by name, because bottom-up levels are drawn in another order than they are scored
        pick = dict(zip(self.names, picks, strict=True))
        keys = dict(zip(self.names, split(descent_key, self.num_levels), strict=True))
        posteriors, features = ({}, {}) if x is None else self._ascend(x, nets, ascent_key, pick)

        def level(name: str, prior: Normal, posterior: Normal | Drawn | None) -> Level:
            return nets.level(keys[name], prior, posterior, pick[name], name)

        top = len(self.stages)
        levels = [level(f"z{top}", nets.top_prior(n), posteriors.get(f"z{top}"))]
        h, skips = nets.down(top, levels[0].z, None)
        for stage in range(top - 1, 0, -1):
            # z_l^td: its posterior merges the second bottom-up path with the top-down path
            prior, posterior = nets.normal(f"p{stage}_td", stage, h), None
            if features:
                merged = self._meet(nets, f"merge{stage}", stage, features[stage], h)
                posterior = nets.normal(f"q{stage}_td", stage, merged)
            td = level(f"z{stage}_td", prior, posterior)

            # z_l^bu: drawn in the ascent, scored here under its prior
            above = h
            if self.conditional_bu:
                z_maps = nets.to_maps(f"condition{stage}_z", stage, td.z)
                above = self._meet(nets, f"condition{stage}", stage, z_maps, h)
            prior = nets.normal(f"p{stage}_bu", stage, above)
            bu = level(f"z{stage}_bu", prior, posteriors.get(f"z{stage}_bu"))

            levels += [td, bu]
            # [n, h, w, C] at the resolution of the stage below
            h, skips = nets.down(stage, jnp.concatenate([td.z, bu.z], axis=-1), skips)
        return nets.trace(x, levels, h)

    def _ascend(
        self, x: Array, nets: Skeleton, key: Array, pick: dict[str, Pick]
    ) -> tuple[dict[str, Normal | Drawn], dict[int, Array]]:
        """Return the posteriors of z_S and, with samples, of every z_l^bu, and the feature maps for every z_l^td."""
        posteriors: dict[str, Normal | Drawn] = {}
        features: dict[int, Array] = {}
        bu = td = nets.framed(x)
        below: Array | None = None  # both paths of the stage below, side by side
        top = len(self.stages)
        for stage, stage_key in enumerate(split(key, top), start=1):
            bu = nets.up(f"up{stage}_bu", stage, bu, below if self.skip else None)
            # the second path reads bu before z_l^bu is drawn from it
            features[stage] = td = nets.up(f"up{stage}_td", stage, td, bu)
            below = jnp.concatenate([bu, td], axis=-1)  # [B, h, w, 2 C]
            if stage < top:
                name = f"z{stage}_bu"
                posteriors[name] = drawn = propose(stage_key, nets.normal(f"q{stage}_bu", stage, bu), pick[name])
                bu = nets.to_maps(f"up{stage}_z", stage, drawn.z)  # the sample is what the first path passes on
        assert below is not None
        # nothing lies above z_S, so that this block merges the two bottom-up paths alone
        kernel = self.stages[0].last_kernel
        joined = nets.block(f"merge{top}", top, below, None, kernel=kernel, dropout=self.q_dropout)
        posteriors[f"z{top}"] = nets.normal(f"q{top}", top, joined)
        return posteriors, features

    def _meet(self, nets: Skeleton, name: str, stage: int, h: Array, beside: Array) -> Array:
        """The block that merges h with the top-down path, `beside`."""
        return nets.block(name, stage, h, beside, kernel=self.merge_kernel, dropout=self.p_dropout)


def biva_mnist() -> BIVA:
    """The published model of 28x28 binary images: 31,550,946 parameters.

    Trained with FreeBits(2.0, "level", "sample"), Adamax at 2e-3 decayed to 1e-4, batch size 48 and averaged
    parameters. Published on static MNIST: -ELBO 81.20 nats, and 78.59 with 1000 importance samples.

    Example:
        >>> len(hv.models.biva_mnist().stages)
        6
    """
    return BIVA(head=ScaleHead("softplus_log_var"), clamp=None)


def biva_cifar10() -> BIVA:
    """The published model of 32x32 colour images: 102,948,560 parameters.

    Trained as `biva_mnist`. Published on CIFAR-10: 3.08 bits per dimension with importance weights.

    Example:
        >>> len(hv.models.biva_cifar10().stages)
        15
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
