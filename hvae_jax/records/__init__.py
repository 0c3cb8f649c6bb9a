"""Checks of settings: what the fields of frozen records (models, likelihoods, objectives) may hold."""

from hvae_jax.records.checks import as_tuples as as_tuples
from hvae_jax.records.checks import check_choices as check_choices
from hvae_jax.records.checks import check_sizes as check_sizes
