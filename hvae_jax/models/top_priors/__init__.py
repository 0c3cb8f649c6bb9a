"""Priors of the top latent, p(z_L): a setting of the models that have `top_prior`."""

from hvae_jax.models.top_priors.base import Ground as Ground
from hvae_jax.models.top_priors.base import TopPrior as TopPrior
from hvae_jax.models.top_priors.mixture import MixturePrior as MixturePrior
from hvae_jax.models.top_priors.normal import NormalPrior as NormalPrior
from hvae_jax.models.top_priors.real_nvp import RealNVPPrior as RealNVPPrior
from hvae_jax.models.top_priors.vamp import VampPrior as VampPrior
