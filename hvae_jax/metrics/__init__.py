"""Sample quality: distances between real and generated examples, on features that the caller hands over.

Nothing is fetched: features are arrays, or a function that makes them of examples in batches.
"""

from hvae_jax.metrics.features import as_features as as_features
from hvae_jax.metrics.frechet import frechet_distance as frechet_distance
from hvae_jax.metrics.frechet import frechet_of_moments as frechet_of_moments
from hvae_jax.metrics.kernel import KernelDistance as KernelDistance
from hvae_jax.metrics.kernel import kernel_distance as kernel_distance
from hvae_jax.metrics.kernel import mmd2 as mmd2
from hvae_jax.metrics.neighbours import Neighbours as Neighbours
from hvae_jax.metrics.neighbours import neighbours as neighbours
from hvae_jax.metrics.score import FeatureScores as FeatureScores
from hvae_jax.metrics.score import score_features as score_features
