"""Checks of the fields of frozen records of settings: models, likelihoods, objectives and the like."""

from hvae_jax.records.checks import check_sizes as check_sizes
from hvae_jax.records.fields import annotations as annotations
from hvae_jax.records.fields import check_fields as check_fields
from hvae_jax.records.fields import checked as checked
from hvae_jax.records.fields import described as described
from hvae_jax.records.fields import fits as fits
