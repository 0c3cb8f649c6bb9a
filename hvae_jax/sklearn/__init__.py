"""Trained models in scikit-learn's pipelines. Importing loads scikit-learn."""

from hvae_jax.sklearn.features import HVAEFeatures as HVAEFeatures
