"""A rate that is asked for."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array

from hvae_jax.objectives.bounds import log_likelihood
from hvae_jax.objectives.per_level import PerLevel, check_numbers, named, spread
from hvae_jax.objectives.protocol import Batch, Forward, Objective, bare_metrics
from hvae_jax.objectives.schedules import Constant, Schedule


@dataclasses.dataclass(frozen=True)
class RateTarget(Objective):
    """loss = -mean log p(x | z) + weight |R - r(t)|, nats, with R the batch's mean total rate.

    With one target a level, weight sum_l |R_l - r_l(t)|. The rate is held at r only where the distortion that a nat
    of rate buys lies between -weight and weight: with a weight of 1, a model that gains more than a nat of distortion
    for a nat of rate goes above its target.

    Attributes:
      target: r, nats: one number for the total rate, or one a level, top first.
      weight: of the distance.
      schedule: what r is multiplied by: a capacity that rises is a `Linear`.

    Over a batch that is computed in parts, R is a part's. Metrics: `rate_target`, r(t), or `rate_target/LEVEL`.
    Source: Alemi et al. (2018), min D + |sigma - R|; with a schedule and a weight, Burgess et al. (2018), equation 8.
    Raises ValueError for a negative target or weight, and at a model's first trace for as many targets as it has no
    levels.
    """

    target: PerLevel
    weight: float = 1.0
    schedule: Schedule = Constant()

    def __post_init__(self) -> None:
        check_numbers(self, "target", "weight", low=0.0)

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """One descent, one sample of every latent."""
        trace, updates = forward(variables, batch.x, key, y=batch.y)
        rates = trace.rates.mean(1)
        wanted = jnp.asarray(self.target, float) * self.schedule(step)
        if wanted.ndim:
            missed = rates - spread(wanted, len(rates), "target (with its schedule)", rates.dtype)
        else:
            missed = rates.sum() - wanted.astype(rates.dtype)
        loss = self.weight * jnp.abs(missed).sum() - log_likelihood(trace).mean()
        return loss, {**bare_metrics(trace), **named("rate_target", wanted, trace.names)}, state, updates
