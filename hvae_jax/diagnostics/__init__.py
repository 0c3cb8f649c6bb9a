"""How a trained model uses its latents, measured on its traces: nats per level, top first, with standard errors."""

from hvae_jax.diagnostics.anomaly import auroc as auroc
from hvae_jax.diagnostics.anomaly import bound_above as bound_above
from hvae_jax.diagnostics.anomaly import likelihood_ratio as likelihood_ratio
from hvae_jax.diagnostics.information import Information as Information
from hvae_jax.diagnostics.information import information as information
from hvae_jax.diagnostics.probe import Accuracy as Accuracy
from hvae_jax.diagnostics.probe import linear_probe as linear_probe
from hvae_jax.diagnostics.probe import two_samples as two_samples
from hvae_jax.diagnostics.usage import UnitCounts as UnitCounts
from hvae_jax.diagnostics.usage import Usage as Usage
from hvae_jax.diagnostics.usage import active_units as active_units
from hvae_jax.diagnostics.usage import bootstrap as bootstrap
from hvae_jax.diagnostics.usage import cumulative as cumulative
from hvae_jax.diagnostics.usage import moving_units as moving_units
from hvae_jax.diagnostics.usage import standard_error as standard_error
from hvae_jax.diagnostics.usage import usage as usage
from hvae_jax.diagnostics.usage import used_units as used_units
from hvae_jax.diagnostics.walks import from_noise as from_noise
from hvae_jax.diagnostics.walks import interpolate as interpolate
from hvae_jax.diagnostics.walks import level_by_level as level_by_level
from hvae_jax.diagnostics.walks import made_of_noise as made_of_noise
from hvae_jax.diagnostics.walks import noise_of as noise_of
from hvae_jax.diagnostics.walks import on_circle as on_circle
from hvae_jax.diagnostics.walks import traverse as traverse
