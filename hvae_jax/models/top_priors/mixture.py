"""The learned mixture of Gaussians."""

import dataclasses
import math

import jax.numpy as jnp
from flax import linen as nn

from hvae_jax.distributions import Normal, NormalMixture, hard_clamp
from hvae_jax.models.top_priors.base import Ground, TopPrior
from hvae_jax.records import check_sizes, checked


@dataclasses.dataclass(frozen=True)
@checked
class MixturePrior(TopPrior):
    """p(z_L) = sum_k w_k N(m_k, diag s_k^2) with learned weights, means and standard deviations.

    Means are initialised from N(0, spread^2), so that the components differ, standard deviations with 1, and weights
    with 1/K. The KL has no closed form: the level's rate is log q - log p at the sample.

    Attributes:
      components: K, number of components.
      spread: standard deviation of the initial means.
      clamp: bounds of the log variances; None for none.

    Source: Tomczak & Welling (2018), "VAE with a VampPrior", where it is the mixture of Gaussians prior ("MoG").
    Raises ValueError if there is no component, or the spread is not positive and finite.

    Example:
        >>> model = hv.models.TopDownVAE((8, 16), top_prior=hv.models.MixturePrior(components=10))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 8, 8, 1), int), jax.random.key(1))
        >>> variables["params"]["top_prior_mean"].shape
        (10, 8)
    """

    components: int = 10
    spread: float = 1.0
    clamp: tuple[float, float] | None = (-7.0, 7.0)

    def __post_init__(self) -> None:
        check_sizes(self, "components")
        if not 0.0 < self.spread < math.inf:
            raise ValueError(f"MixturePrior(spread={self.spread}): it has to be positive and finite.")

    def __call__(self, ground: Ground) -> NormalMixture:
        """Return the mixture; parameters `top_prior_mean`, `top_prior_log_var` `[K, *shape]`, `top_prior_logits`."""
        param, shape = ground.module.param, (self.components, *ground.shape)
        mean = param("top_prior_mean", nn.initializers.normal(self.spread), shape, jnp.float32)
        log_var = param("top_prior_log_var", nn.initializers.zeros, shape, jnp.float32)
        logits = param("top_prior_logits", nn.initializers.zeros, (self.components,), jnp.float32)
        log_var = log_var if self.clamp is None else hard_clamp(log_var, *self.clamp)
        every = (ground.n, *shape)  # [n, K, ...], the same for each example
        components = Normal.from_log_var(jnp.broadcast_to(mean[None], every), jnp.broadcast_to(log_var[None], every))
        return NormalMixture(jnp.broadcast_to(logits[None], every[:2]), components)
