"""A trace made by hand, in NumPy and as a model would return it: the reference of the tests of objectives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.distributions import Normal
from hvae_jax.likelihoods import GaussianRecord
from hvae_jax.objectives import Batch, Objective
from hvae_jax.trace import Level, Trace

KEY = jax.random.key(0)
B = 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, 6)).astype(np.float32)
NAMES = ("top", "map.0", "map.1")
# A vector, and a run of two feature maps; two values are below 0, as log-ratios may be.
KLS = {"top": RNG.exponential(size=(B, 3)), "map": RNG.exponential(0.5, size=(2, B, 2, 2, 5))}
KLS["top"][0, 0], KLS["map"][0, 1, 0, 0, 0] = -0.3, -0.2
VARIABLES = {
    "kl": {name: jnp.asarray(kl, jnp.float32) for name, kl in KLS.items()},
    "log_px": jnp.asarray(RNG.normal(-3.0, 1.0, B), jnp.float32),
    "mean": jnp.asarray(RNG.normal(size=(B, 6)), jnp.float32),
}
PER_LEVEL = [KLS["top"], *KLS["map"]]  # [B, ...] each
RATES = np.stack([kl.reshape(B, -1).sum(1) for kl in PER_LEVEL])
LOG_PX = np.asarray(VARIABLES["log_px"], np.float64)


def level_of(name: str, kl: Array, side: int, stacked: bool = False) -> Level:
    """A level with this KL; everything else in it is 0."""
    zeros = jnp.zeros_like(kl)
    axes = tuple(range(2 if stacked else 1, kl.ndim))
    return Level(
        zeros, Normal(zeros, zeros), Normal(zeros, zeros), kl, kl.sum(axes), zeros.sum(axes), name, side, stacked
    )


def forward(variables: Any, x: Array, key: Array, **choices: Any) -> tuple[Trace, Any]:
    """The trace that the variables describe: a top vector if they have one, then feature maps of 2 by 2."""
    kl, mean = variables["kl"], variables["mean"]
    levels = (level_of("top", kl["top"], 1),) if "top" in kl else ()
    levels += (level_of("map", kl["map"], 2, stacked=True),)
    return Trace(variables["log_px"], levels, GaussianRecord(Normal(mean, jnp.zeros_like(mean)))), {}


MAPS = VARIABLES | {"kl": {"map": VARIABLES["kl"]["map"]}}


def call(objective: Objective, step: int = 0, variables: Any = VARIABLES, state: Any = None) -> tuple[Any, ...]:
    """(loss, metrics, state, updates) on the trace."""
    state = objective.init(variables) if state is None else state
    return objective(forward, variables, Batch(jnp.asarray(X)), KEY, jnp.int32(step), state)


def gradient(objective: Objective, step: int = 0, variables: Any = VARIABLES) -> Any:
    """The gradient of the loss with respect to all variables."""
    return jax.grad(lambda variables: call(objective, step, variables)[0])(variables)
