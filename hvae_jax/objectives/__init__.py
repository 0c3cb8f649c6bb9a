"""Bounds of log p(x), and the objectives that training minimises.

`elbo` and `log_weight` are functions of one Trace; `iwae` and `importance` average any number of draws in bounded
memory. An objective has `init(variables) -> state`, and is called as
`(forward, variables, batch, key, step, state) -> (loss, metrics, state, updates)`.
"""

from hvae_jax.objectives.around import Around as Around
from hvae_jax.objectives.augmentations import Affine as Affine
from hvae_jax.objectives.augmentations import Augmentation as Augmentation
from hvae_jax.objectives.augmentations import Brightness as Brightness
from hvae_jax.objectives.augmentations import Flip as Flip
from hvae_jax.objectives.balance import Balance as Balance
from hvae_jax.objectives.balance import GammaBalance as GammaBalance
from hvae_jax.objectives.balance import NVAEBalance as NVAEBalance
from hvae_jax.objectives.balance import Unbalanced as Unbalanced
from hvae_jax.objectives.bounds import Importance as Importance
from hvae_jax.objectives.bounds import elbo as elbo
from hvae_jax.objectives.bounds import importance as importance
from hvae_jax.objectives.bounds import iwae as iwae
from hvae_jax.objectives.bounds import log_likelihood as log_likelihood
from hvae_jax.objectives.bounds import log_weight as log_weight
from hvae_jax.objectives.consistency import Consistency as Consistency
from hvae_jax.objectives.enumerated import Classes as Classes
from hvae_jax.objectives.enumerated import Enumerated as Enumerated
from hvae_jax.objectives.enumerated import enumerate_classes as enumerate_classes
from hvae_jax.objectives.free_bits import FreeBits as FreeBits
from hvae_jax.objectives.geco import GECO as GECO
from hvae_jax.objectives.geco import Constraint as Constraint
from hvae_jax.objectives.geco import Distortion as Distortion
from hvae_jax.objectives.geco import Multipliers as Multipliers
from hvae_jax.objectives.geco import SquaredError as SquaredError
from hvae_jax.objectives.importance_weighted import ImportanceWeighted as ImportanceWeighted
from hvae_jax.objectives.mutual_information import MutualInformation as MutualInformation
from hvae_jax.objectives.penalty import Covariance as Covariance
from hvae_jax.objectives.penalty import Decorrelated as Decorrelated
from hvae_jax.objectives.penalty import Penalty as Penalty
from hvae_jax.objectives.penalty import TraceFunction as TraceFunction
from hvae_jax.objectives.printed_elbo import PrintedELBO as PrintedELBO
from hvae_jax.objectives.protocol import Batch as Batch
from hvae_jax.objectives.protocol import Forward as Forward
from hvae_jax.objectives.protocol import NegativeELBO as NegativeELBO
from hvae_jax.objectives.protocol import Objective as Objective
from hvae_jax.objectives.protocol import bare_metrics as bare_metrics
from hvae_jax.objectives.rate_target import RateTarget as RateTarget
from hvae_jax.objectives.regularised import Regularised as Regularised
from hvae_jax.objectives.scheduled_smoothing import ScheduledSmoothing as ScheduledSmoothing
from hvae_jax.objectives.scheduled_smoothing import smoothed_by as smoothed_by
from hvae_jax.objectives.schedules import Constant as Constant
from hvae_jax.objectives.schedules import Cosine as Cosine
from hvae_jax.objectives.schedules import Cyclical as Cyclical
from hvae_jax.objectives.schedules import Exponential as Exponential
from hvae_jax.objectives.schedules import Geometric as Geometric
from hvae_jax.objectives.schedules import Linear as Linear
from hvae_jax.objectives.schedules import Product as Product
from hvae_jax.objectives.schedules import Schedule as Schedule
from hvae_jax.objectives.schedules import Tripling as Tripling
from hvae_jax.objectives.spectral import SpectralRegularised as SpectralRegularised
from hvae_jax.objectives.stretched import stretched as stretched
