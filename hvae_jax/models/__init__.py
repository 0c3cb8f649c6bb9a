"""The contents page: one model, one file."""

from hvae_jax.models.base import HVAE as HVAE
from hvae_jax.models.top_down import TopDownVAE as TopDownVAE
from hvae_jax.models.two_level import TwoLevelVAE as TwoLevelVAE
from hvae_jax.models.vae import VAE as VAE
