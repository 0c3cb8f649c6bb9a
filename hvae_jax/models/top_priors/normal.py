"""The standard Gaussian prior."""

import dataclasses

from hvae_jax.distributions import Normal
from hvae_jax.models.top_priors.base import Ground, TopPrior
from hvae_jax.records import checked


@dataclasses.dataclass(frozen=True)
@checked
class NormalPrior(TopPrior):
    """p(z_L) = N(0, I).

    Example:
        >>> hv.models.TopDownVAE((8, 16)).top_prior  # the article's
        NormalPrior()
    """

    def __call__(self, ground: Ground) -> Normal:
        """Return N(0, I), `[n, *shape]`; no parameters."""
        return Normal.standard((ground.n, *ground.shape))
