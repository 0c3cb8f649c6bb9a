"""The variational mixture of posteriors, VampPrior."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hvae_jax.distributions import NormalMixture, hard_clamp
from hvae_jax.models.top_priors.base import Ground, TopPrior
from hvae_jax.records import check_sizes, checked


@dataclasses.dataclass(frozen=True)
@checked
class VampPrior(TopPrior):
    """p(z_L) = 1/K sum_k q(z_L | u_k), the posteriors of K learned pseudo-inputs u_k.

    The prior that maximises the ELBO is the aggregated posterior, 1/N sum_n q(z_L | x_n). The VampPrior has the same
    form with fewer inputs, learned to represent the data. Its KL has no closed form: the level's rate is log q - log p
    at the sample.

    Pseudo-inputs have the shape of x, so that they can be looked at, and are clipped to the range of its values. They
    are initialised with examples that the model is initialised on (`Training.init_examples`), in turn, scaled by 0.9
    about the middle of that range, plus noise of 1/100 of it. They are no part of the batch: batch norm normalises them
    by its running statistics in training too, and does not take them into its statistics. In a bottom-up model, the
    levels below the top pass on their means.

    Attributes:
      pseudo_inputs: K, number of pseudo-inputs.

    Source: Tomczak & Welling (2018), "VAE with a VampPrior", equation 9; section 4 for two levels.
    Raises ValueError if there is no pseudo-input.

    Example:
        >>> model = hv.models.TopDownVAE((8, 16), top_prior=hv.models.VampPrior(pseudo_inputs=5))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 8, 8, 1), int), jax.random.key(1))
        >>> variables["params"]["pseudo_inputs"].shape  # as x
        (5, 8, 8, 1)
    """

    pseudo_inputs: int = 500

    def __post_init__(self) -> None:
        check_sizes(self, "pseudo_inputs")

    def __call__(self, ground: Ground) -> NormalMixture:
        """Return the mixture; parameter `pseudo_inputs`, `[K, *event]`."""
        u = self._inputs(ground)
        if ground.value_range is not None:
            u = hard_clamp(u, *ground.value_range)
        posteriors = ground.encode(u)  # [K, *shape]
        # [n, K, *shape], the same for each example; all weights are equal
        components = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (ground.n, *leaf.shape)), posteriors)
        return NormalMixture(jnp.zeros((ground.n, self.pseudo_inputs), u.dtype), components)

    def _inputs(self, ground: Ground) -> Array:
        """The parameter `pseudo_inputs`; its shape comes from x at initialisation, then from the variables."""
        if ground.module.has_variable("params", "pseudo_inputs"):
            return ground.module.get_variable("params", "pseudo_inputs")
        x = ground.x
        if x is None:
            raise ValueError("The shape of the data is not known yet: initialise the model with an x first.")

        def begin(key: Array, dtype: Any = jnp.float32) -> Array:
            examples = jnp.take(x, jnp.arange(self.pseudo_inputs) % len(x), axis=0).astype(dtype)
            noise = jax.random.normal(key, examples.shape, dtype)
            if ground.value_range is None:
                return examples + 0.01 * noise
            low, high = ground.value_range
            middle = 0.5 * (low + high)
            # five standard deviations of the noise inside the range: beyond it the clamp has no gradient
            return middle + 0.9 * (examples - middle) + 0.01 * (high - low) * noise

        return ground.module.param("pseudo_inputs", begin)
