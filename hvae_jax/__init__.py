"""hvae_jax: hierarchical variational auto-encoders in JAX. Importing touches no device and reads no file.

Examples in docstrings take these imports for granted:

    import jax, jax.numpy as jnp, numpy as np
    import hvae_jax as hv
"""

import importlib
from typing import Any

from hvae_jax import codec as codec
from hvae_jax import data as data
from hvae_jax import diagnostics as diagnostics
from hvae_jax import distributions as distributions
from hvae_jax import filling as filling
from hvae_jax import likelihoods as likelihoods
from hvae_jax import metrics as metrics
from hvae_jax import models as models
from hvae_jax import networks as networks
from hvae_jax import objectives as objectives
from hvae_jax.descent import temperature_by_side as temperature_by_side
from hvae_jax.distributions import Normal as Normal
from hvae_jax.distributions import kl as kl
from hvae_jax.distributions import kl_residual as kl_residual
from hvae_jax.distributions import precision_weighted as precision_weighted
from hvae_jax.distributions import residual as residual
from hvae_jax.filling import Imputed as Imputed
from hvae_jax.filling import impute as impute
from hvae_jax.likelihoods import Bernoulli as Bernoulli
from hvae_jax.likelihoods import Categorical as Categorical
from hvae_jax.likelihoods import DiscretisedLogistic as DiscretisedLogistic
from hvae_jax.likelihoods import Gaussian as Gaussian
from hvae_jax.likelihoods import LogisticMixture as LogisticMixture
from hvae_jax.likelihoods import Missing as Missing
from hvae_jax.likelihoods import PixelCNN as PixelCNN
from hvae_jax.objectives import GECO as GECO
from hvae_jax.objectives import Batch as Batch
from hvae_jax.objectives import FreeBits as FreeBits
from hvae_jax.objectives import Importance as Importance
from hvae_jax.objectives import ImportanceWeighted as ImportanceWeighted
from hvae_jax.objectives import NegativeELBO as NegativeELBO
from hvae_jax.objectives import RateTarget as RateTarget
from hvae_jax.objectives import Regularised as Regularised
from hvae_jax.objectives import elbo as elbo
from hvae_jax.objectives import importance as importance
from hvae_jax.objectives import iwae as iwae
from hvae_jax.objectives import log_weight as log_weight
from hvae_jax.trace import Level as Level
from hvae_jax.trace import Trace as Trace

__version__ = "0.2.0"

_LATER = {
    "Pretrained": "hvae_jax.experiment.pretrained:Pretrained",
    "load": "hvae_jax.experiment.pretrained:load",
    "sklearn": "hvae_jax.sklearn",
}
"""Names that are imported when they are first asked for, with the libraries that only they need."""


def __getattr__(name: str) -> Any:
    """Imports a name of `_LATER`."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LATER[name].partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    """All names, those of `_LATER` included."""
    return sorted({*globals(), *_LATER})
