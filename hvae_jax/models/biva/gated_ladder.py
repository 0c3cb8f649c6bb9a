"""The two VAEs that BIVA's code compares it with: gated blocks and skips as in BIVA, one latent in each stage.

    p(x, z) = p(x | z) p(z1 | z_>1) ... p(z_L)                             every Gaussian diagonal, p(z_L) = N(0, I)
    q(z | x) = q(z_L | x) q(z_{L-1} | z_L, x) ... q(z1 | z_>1, x)          inference="top_down", the Ladder VAE
    q(z | x) = q(z1 | x) q(z2 | z1, x) ... q(z_L | z_<L, x)                inference="bottom_up", the VAE

p is the same in both: blocks turn z_l into the feature maps that the prior of the stage below comes from, and each
block reads a block of the stage above as auxiliary input.

In the Ladder VAE the bottom-up path has no samples, and in each stage a block merges its feature maps with those of the
top-down path. No prior depends on its own level's sample, so every KL is analytic. In the VAE the sample of z_l is
passed on to the next stage, with the feature maps it was inferred from as auxiliary input. Below the top the rates are
log q - log p at the sample, since the priors depend on it (`bottom_up.py` has the derivation, and says how `keep_top`
works).

Source: V. Lievin's code (vlievin/biva-pytorch), whose weights `convert.biva` reads; Soenderby et al. (2016) for the
Ladder VAE, whose direction of inference this one has, but not its merge (see `ladder.py`). Departs from the code as
BIVA does, in analytic rates and in the log variances (`head`).
"""

from collections.abc import Callable
from typing import Literal

import jax
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
from hvae_jax.runtime.prng import split
from hvae_jax.trace import Level, Trace

Inference = Literal["top_down", "bottom_up"]


class GatedLadderVAE(HVAE):
    """The Ladder VAE and the VAE of BIVA's code. The defaults have 16,524,450 parameters on 28x28 binary images.

        p(x, z) = p(x | z) p(z1 | z_>1) ... p(z_L)
        q(z | x) = q(z_L | x) q(z_{L-1} | z_L, x) ... q(z1 | z_>1, x)          inference="top_down", the Ladder VAE
        q(z | x) = q(z1 | x) q(z2 | z1, x) ... q(z_L | z_<L, x)                inference="bottom_up", the VAE

    Source: V. Lievin's code (vlievin/biva-pytorch); Soenderby et al. (2016) for the Ladder VAE.

    Attributes:
      inference: direction of q: "top_down" or "bottom_up".
      image, stages, pad, skip, learn_top_prior, head, clamp, activation, q_dropout, p_dropout, data_dependent_init,
      likelihood, dtype, remat: as in `BIVA`.

    Raises ValueError as `BIVA` does, and if the inference is not known.

    Example:
        >>> hv.models.GatedLadderVAE(inference="bottom_up").num_levels
        6
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
        super().__post_init__()
        check_gated(self)

    @property
    def num_levels(self) -> int:
        """L, one level in each stage."""
        return len(self.stages)

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        one_hot(y, 0, n)  # raises ValueError for labels
        # three uses: latents drawn on the way up, latents drawn on the way down, dropout
        ascent_key, descent_key, block_key = split(key, 3)
        nets = Skeleton(self, block_key, train)
        features, drawn = ({}, {}) if x is None else self._ascend(x, nets, ascent_key, picks)

        levels: list[Level] = []
        h = skips = None  # nothing lies above the top stage
        keys = split(descent_key, self.num_levels)
        for stage, level_key, pick in zip(range(self.num_levels, 0, -1), keys, picks, strict=True):
            prior = nets.top_prior(n) if h is None else nets.normal(f"p{stage}", stage, h)
            # bottom-up inference: q, below the top with a sample that was drawn before this prior was known
            posterior = drawn.get(stage)
            if features and self.inference == "top_down":
                # top-down inference: q merges what x says at this stage with what the latents above say
                kernel = self.stages[-stage].last_kernel
                merged = nets.block(f"merge{stage}", stage, features[stage], h, kernel=kernel, dropout=self.p_dropout)
                posterior = nets.normal(f"q{stage}", stage, merged)
            levels.append(nets.level(level_key, prior, posterior, pick, f"z{stage}"))
            h, skips = nets.down(stage, levels[-1].z, skips)  # [n, h, w, C] at the resolution of the stage below
        assert h is not None
        return nets.trace(x, levels, h)

    def _ascend(
        self, x: Array, nets: Skeleton, key: Array, picks: tuple[Pick, ...]
    ) -> tuple[dict[int, Array], dict[int, Normal | Drawn]]:
        """Return each stage's feature maps and, bottom-up only, its posterior, with a sample below the top."""
        features: dict[int, Array] = {}
        drawn: dict[int, Normal | Drawn] = {}
        # [n, H + 2 pad, W + 2 pad, C]
        h = nets.framed(x)
        for stage, stage_key in enumerate(split(key, self.num_levels), start=1):
            # the auxiliary input is the stage below: a second way for x to reach the upper stages
            features[stage] = h = nets.up(f"up{stage}", stage, h, features.get(stage - 1) if self.skip else None)
            if self.inference == "bottom_up":
                drawn[stage] = q = nets.normal(f"q{stage}", stage, h)
                # the top latent needs no early sample, since no network above reads it
                if stage < self.num_levels:
                    drawn[stage] = below = propose(stage_key, q, picks[-stage])
                    h = nets.to_maps(f"up{stage}_z", stage, below.z)  # the sample is what the path passes on
        return features, drawn


def gated_ladder_mnist(inference: Inference = "top_down") -> GatedLadderVAE:
    """The published code's models of 28x28 binary images: 16,524,450 parameters top-down, 17,804,706 bottom-up.

    Example:
        >>> hv.models.gated_ladder_mnist("bottom_up").num_levels
        6
    """
    return GatedLadderVAE(inference=inference, head=ScaleHead("softplus_log_var"), clamp=None)


def gated_ladder_cifar10(inference: Inference = "top_down") -> GatedLadderVAE:
    """The published code's models of 32x32 colour images: 59,576,896 parameters top-down.

    Example:
        >>> hv.models.gated_ladder_cifar10().num_levels
        15
    """
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
