"""Weights published for other code bases, as our models and variables."""

from hvae_jax.convert.state_dict import Entry as Entry
from hvae_jax.convert.state_dict import to_variables as to_variables
