"""Families of levels: which distribution a level's prior and posterior are, and what its networks return.

A posterior is an offset from the prior of the same pass in every family, in the parameters that a network returns:
the mean and log variance of a Gaussian, the logits of a discrete level.
"""

import dataclasses
import math
from typing import Literal, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.distributions import BernoulliLatent, Latent, Normal, OneHotCategorical, residual
from hvae_jax.models.pieces import gaussian
from hvae_jax.models.top_priors import Ground, NormalPrior, TopPrior
from hvae_jax.networks.computing import widen

FamilyName = Literal["normal", "bernoulli", "categorical"]
Estimator = Literal["straight_through", "gumbel"]


@runtime_checkable
class Family(Protocol):
    """How the levels of one kind are parametrised."""

    @property
    def parameters(self) -> int:
        """Number of outputs of a network for prior or posterior."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one z."""
        ...

    def prior(self, h: Array) -> Latent:
        """p(z | above) from a network's output `[B, parameters]`."""
        ...

    def posterior(self, prior: Latent, h: Array) -> Latent:
        """q(z | above, x), an offset `[B, parameters]` from the prior."""
        ...

    def top(self, ground: Ground, top_prior: TopPrior) -> Latent:
        """p(z_L) of a model without labels."""
        ...


@dataclasses.dataclass(frozen=True)
class NormalFamily:
    """Gaussians: mean and log variance.

    Attributes:
      size: number of units.
      clamp: bounds of the offset's log variance.
      prior_clamp: bounds of the prior's log variance; None for none.
    """

    size: int
    clamp: tuple[float, float]
    prior_clamp: tuple[float, float] | None

    @property
    def parameters(self) -> int:
        """Mean and log variance of each unit."""
        return 2 * self.size

    @property
    def shape(self) -> tuple[int, ...]:
        """The units."""
        return (self.size,)

    def prior(self, h: Array) -> Normal:
        """The Gaussian of `h`."""
        return gaussian(h, clamp=self.prior_clamp)

    def posterior(self, prior: Latent, h: Array) -> Normal:
        """N(m + dm, var exp(d log var)); under another prior than a Gaussian the offset is from N(0, I)."""
        base = prior if isinstance(prior, Normal) else Normal.standard((len(h), self.size))
        return residual(base, gaussian(h, clamp=self.clamp))

    def top(self, ground: Ground, top_prior: TopPrior) -> Latent:
        """The setting of the model."""
        return top_prior(ground)


@dataclasses.dataclass(frozen=True)
class BernoulliFamily:
    """Independent bits: a logit each.

    Attributes:
      size: number of bits.
      estimator, relaxation: gradient of a sample, as in `BernoulliLatent`.
    """

    size: int
    estimator: Estimator
    relaxation: float

    @property
    def parameters(self) -> int:
        """A logit for each bit."""
        return self.size

    @property
    def shape(self) -> tuple[int, ...]:
        """The bits."""
        return (self.size,)

    def prior(self, h: Array) -> BernoulliLatent:
        """The bits with logits `h`."""
        return BernoulliLatent(widen(h), self.estimator, self.relaxation)

    def posterior(self, prior: Latent, h: Array) -> BernoulliLatent:
        """The prior's logits plus `h`."""
        assert isinstance(prior, BernoulliLatent)
        return dataclasses.replace(prior, logits=prior.logits + widen(h))

    def top(self, ground: Ground, top_prior: TopPrior) -> BernoulliLatent:
        """A learned logit for each bit, 0 at the start: parameter `top_prior_logits`."""
        return self.prior(_top_logits(ground))


@dataclasses.dataclass(frozen=True)
class CategoricalFamily:
    """Independent variables of K classes: K logits each; z is one-hot, `[B, size, K]`.

    Attributes:
      size: number of variables.
      categories: K, number of classes of each.
      estimator, relaxation: gradient of a sample, as in `OneHotCategorical`.
    """

    size: int
    categories: int
    estimator: Estimator
    relaxation: float

    @property
    def parameters(self) -> int:
        """A logit for each class of each variable."""
        return self.size * self.categories

    @property
    def shape(self) -> tuple[int, ...]:
        """Variables and classes."""
        return (self.size, self.categories)

    def prior(self, h: Array) -> OneHotCategorical:
        """The variables with logits `h`."""
        return OneHotCategorical(self._logits(h), self.estimator, self.relaxation)

    def posterior(self, prior: Latent, h: Array) -> OneHotCategorical:
        """The prior's logits plus `h`."""
        assert isinstance(prior, OneHotCategorical)
        return dataclasses.replace(prior, logits=prior.logits + self._logits(h))

    def top(self, ground: Ground, top_prior: TopPrior) -> OneHotCategorical:
        """Learned logits of each variable, 0 at the start: parameter `top_prior_logits`."""
        return self.prior(_top_logits(ground))

    def _logits(self, h: Array) -> Array:
        """`[B, size * K]` to `[B, size, K]`."""
        return widen(h).reshape(len(h), self.size, self.categories)


def _top_logits(ground: Ground) -> Array:
    """The learned logits of a discrete top level, the same for each example, `[n, parameters]`."""
    logits = ground.module.param("top_prior_logits", nn.initializers.zeros, ground.shape, jnp.float32)
    return jnp.broadcast_to(logits.reshape(1, -1), (ground.n, logits.size))


@runtime_checkable
class WithFamilies(Protocol):
    """Fields of a model whose levels have families."""

    latents: tuple[int, ...]
    levels: tuple[FamilyName, ...]
    categories: int
    estimator: Estimator
    relaxation: float
    clamp: tuple[float, float]
    prior_clamp: tuple[float, float] | None
    top_prior: TopPrior


def check_families(model: WithFamilies) -> None:
    """Check the families of a model's levels, and the settings of discrete ones.

    Raises ValueError for another number of families than levels, fewer than two classes, a relaxation that is not
    positive and finite, or a top prior beside a discrete top level.
    """
    name = type(model).__name__
    if len(model.levels) not in (0, len(model.latents)):
        raise ValueError(
            f"{name}(levels={model.levels}) has {len(model.levels)} families, but latents={model.latents} need "
            f"{len(model.latents)}, top first; () makes all of them normal."
        )
    if model.categories < 2:
        raise ValueError(f"{name}(categories={model.categories}): a categorical variable needs 2 classes or more.")
    if not 0.0 < model.relaxation < math.inf:
        raise ValueError(f"{name}(relaxation={model.relaxation}): it has to be positive and finite.")
    if model.levels and model.levels[0] != "normal" and model.top_prior != NormalPrior():
        raise ValueError(
            f"{name}(levels={model.levels}, top_prior={model.top_prior}): the prior of a {model.levels[0]} top level "
            "is its learned logits. Leave top_prior at NormalPrior(), or make the top level normal."
        )


def families_of(model: WithFamilies) -> dict[int, Family]:
    """The family of each level, by level; level 1 is next to x."""
    names = model.levels or ("normal",) * len(model.latents)
    found: dict[int, Family] = {}
    for level, name, size in zip(range(len(names), 0, -1), names, model.latents, strict=True):
        match name:
            case "normal":
                found[level] = NormalFamily(size, model.clamp, model.prior_clamp)
            case "bernoulli":
                found[level] = BernoulliFamily(size, model.estimator, model.relaxation)
            case "categorical":
                found[level] = CategoricalFamily(size, model.categories, model.estimator, model.relaxation)
    return found
