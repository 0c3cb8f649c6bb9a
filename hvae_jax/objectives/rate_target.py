"""A target for the rate, with a penalty on the distance from it."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array

from hvae_jax.objectives.bounds import log_likelihood
from hvae_jax.objectives.per_level import PerLevel, check_numbers, named, spread
from hvae_jax.objectives.protocol import Batch, Forward, Objective, bare_metrics, traced
from hvae_jax.objectives.schedules import Constant, Schedule
from hvae_jax.records import checked


@dataclasses.dataclass(frozen=True)
@checked
class RateTarget(Objective):
    """loss = -mean log p(x | z) + weight |R - r(t)|, nats, with R the mean total rate of the batch.

    With one target per level the penalty is weight sum_l |R_l - r_l(t)|. The rate stays at r only if one more nat of
    rate changes the distortion by at most `weight` nats: with a weight of 1, a model whose distortion falls by more
    than a nat per nat of rate exceeds its target.

    Attributes:
      target: target rate r, one number for the total or one per level, top first; nats.
      weight: weight of the penalty.
      schedule: factor of r over time; constant by default, a `Linear` for a capacity that rises.

    If a batch is computed in parts, R is the mean of a part. Metrics: `rate_target`, r(t), or `rate_target/LEVEL`.
    Source: Alemi et al. (2018), min D + |sigma - R|; with a schedule and a weight, Burgess et al. (2018), equation 8.
    Raises ValueError for a negative target or weight, and at a model's first trace if the number of targets differs
    from the number of levels.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> forward = lambda *_, **__: (trace, {})  # in place of a model's pass
        >>> loss, *_ = hv.RateTarget(3.0)(forward, {}, hv.Batch(x), jax.random.key(0), jnp.array(0), ())
        >>> print(loss.round(3))  # 2.773 + |1 - 3|
        4.773
    """

    target: PerLevel
    weight: float = 1.0
    schedule: Schedule = Constant()

    def __post_init__(self) -> None:
        check_numbers(self, "target", "weight", low=0.0)

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """Computes the loss from one sample of every latent."""
        trace, updates = traced(forward, variables, batch, key)
        rates = trace.rates.mean(1)
        wanted = jnp.asarray(self.target, float) * self.schedule(step)
        if wanted.ndim:
            missed = rates - spread(wanted, len(rates), "target (with its schedule)", rates.dtype)
        else:
            missed = rates.sum() - wanted.astype(rates.dtype)
        loss = self.weight * jnp.abs(missed).sum() - log_likelihood(trace).mean()
        return loss, {**bare_metrics(trace), **named("rate_target", wanted, trace.names)}, state, updates
