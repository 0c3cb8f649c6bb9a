"""KL balancing: coefficients of the levels' rates, computed from the rates themselves."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.objectives.protocol import check_closed
from hvae_jax.records import checked
from hvae_jax.trace import Trace


@runtime_checkable
class Balance(Protocol):
    """The coefficient gamma_l of each level's rate: a frozen record."""

    def __call__(self, trace: Trace, step: Array, warm_up: Array) -> Array:
        """Computes gamma, `[L]`, top first, with mean 1 and no gradient; `warm_up`, `[L]`, is the schedule's value."""
        ...


@dataclasses.dataclass(frozen=True)
@checked
class Unbalanced:
    """gamma_l = 1.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> print(hv.objectives.Unbalanced()(trace, jnp.array(0), jnp.ones(1)))
        [1.]
    """

    def __call__(self, trace: Trace, step: Array, warm_up: Array) -> Array:
        """Ones, `[L]`."""
        return jnp.ones_like(warm_up)


@dataclasses.dataclass(frozen=True)
@checked
class NVAEBalance:
    """gamma_l = (mean_B |rate_l| + epsilon)/alpha_l, divided by its mean over levels; 1 once the warm-up is over.

    alpha_l = (side_l / smallest side)^2 / G_l, divided by its minimum over levels, with G_l the number of levels of
    that side: a level may have more nats if its feature map is larger or fewer levels share its resolution. A level
    with a large rate is penalised more than one close to posterior collapse.

    It applies while the warm-up of some level is below 1, so never with a constant warm-up of 1.

    Attributes:
      epsilon: constant added to every rate, above 0; nats.

    Source: Vahdat & Kautz (2020), appendix A, as in its code (`kl_balancer`). The code has 4^i for scale i, each scale
    twice as wide as the one before: the same as (side / smallest side)^2.
    Raises ValueError if epsilon is not positive (all rates may be 0), and at a model's first trace for a level whose KL
    has no closed form.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> print(hv.objectives.NVAEBalance()(trace, jnp.array(0), jnp.full(1, 0.5)))  # over the mean of one level
        [1.]
    """

    epsilon: float = 0.01

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(f"NVAEBalance(epsilon={self.epsilon}): it has to be above 0.")

    def __call__(self, trace: Trace, step: Array, warm_up: Array) -> Array:
        """gamma, `[L]`."""
        check_closed("NVAEBalance", trace, "Take Unbalanced(), or distributions that have one.")
        rates = _mean_rates(trace)
        gamma = (rates + self.epsilon) / jnp.asarray(sizes(trace), rates.dtype)
        return jnp.where((warm_up < 1.0).any(), gamma / gamma.mean(), 1.0)


@dataclasses.dataclass(frozen=True)
@checked
class GammaBalance:
    """gamma_l = L (rate_l/n_l) / sum_j (rate_j/n_j) in the first `steps` steps, then 1; n_l: elements of latent l.

    rate_l stands for mean_B |rate_l|. If every rate is 0, as in a fresh model whose posteriors equal its priors, gamma
    is 1.

    Attributes:
      steps: number of steps in which it applies; 0 turns it off.

    Source: Efficient-VDVAE (Hazami et al., 2022), its code's `scaled_gamma` with `gamma_max_steps`.
    Raises ValueError for negative steps, and at a model's first trace for a level whose KL has no closed form.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> print(hv.objectives.GammaBalance()(trace, jnp.array(0), jnp.ones(1)))  # one level has all of the rate
        [1.]
    """

    steps: int = 10_000

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"GammaBalance(steps={self.steps}): it has to be 0 or more.")

    def __call__(self, trace: Trace, step: Array, warm_up: Array) -> Array:
        """gamma, `[L]`."""
        check_closed("GammaBalance", trace, "Take Unbalanced(), or distributions that have one.")
        rates = _mean_rates(trace)
        elements = np.array([level.z[0].size for level in trace.unstack()])
        density = rates / jnp.asarray(elements, rates.dtype)
        mean = density.mean()
        works = (step < self.steps) & (mean > 0.0)
        return jnp.where(works, density / jnp.where(mean > 0.0, mean, 1.0), 1.0)


def sizes(trace: Trace) -> np.ndarray:
    """NVAE's alpha, `[L]`: (side / smallest side)^2 / (number of levels of that side), divided by its minimum."""
    sides = np.array([level.side for level in trace.unstack()])
    shared = (sides[:, None] == sides[None]).sum(1)
    alpha = (sides / sides.min()) ** 2 / shared
    return alpha / alpha.min()


def _mean_rates(trace: Trace) -> Array:
    """Mean over the batch of the rates' magnitudes, `[L]`, nats, without gradient."""
    return jax.lax.stop_gradient(jnp.abs(trace.rates).mean(1))
