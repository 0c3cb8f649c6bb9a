"""The negative ELBO with a weighted rate: beta, warm-up, free bits and KL balancing, in one order."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array

from hvae_jax.objectives.balance import Balance, Unbalanced
from hvae_jax.objectives.bounds import log_likelihood
from hvae_jax.objectives.free_bits import FreeBits
from hvae_jax.objectives.per_level import PerLevel, check_numbers, named, spread
from hvae_jax.objectives.protocol import Batch, Forward, Objective, bare_metrics, traced
from hvae_jax.objectives.schedules import Constant, Schedule
from hvae_jax.records import checked
from hvae_jax.trace import Trace


@dataclasses.dataclass(frozen=True)
@checked
class Regularised(Objective):
    """loss = -mean log p(x | z) + sum_l beta_l w_l(t) gamma_l F_l, nats; with the defaults, the negative ELBO.

    In this order, for each level l:

    1. the KL of the trace, in nats, is summed within each group of elements;
    2. free bits: F_l is the sum over the groups of max(lambda, .); without free bits it is the mean rate;
    3. balancing: F_l is multiplied by gamma_l, computed from the plain rates and without gradient;
    4. beta and warm-up: the product is multiplied by beta_l w_l(t).

    So lambda is in true nats, whatever scales the rate, and a balanced level is not pushed below its free bits.

    Attributes:
      beta: weight of the rate, one number or one per level, top first.
      warm_up: schedule w(t), factor of beta; constant by default.
      free_bits: nats of each group that are not minimised; off by default.
      balance: coefficients gamma of the levels' rates; 1 by default.

    If a batch is computed in parts, or on each device by itself, gamma and the free bits with average="batch" are
    computed from each part.
    Source: beta, Higgins et al. (2017), equation 4; warm-up, Soenderby et al. (2016); the others, see their classes.
    Over T steps NVAE's is Regularised(warm_up=Linear(1e-4 * T, 0.3001 * T, floor=1e-4), balance=NVAEBalance()),
    Efficient-VDVAE's Regularised(warm_up=Linear(20, 5041, floor=1e-4), balance=GammaBalance(10_000)).
    Raises ValueError for a negative beta, and at a model's first trace if a setting's number of values differs from the
    number of levels.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> rate, _ = hv.Regularised(beta=2.0, warm_up=hv.objectives.Linear(0, 100)).rate(trace, jnp.array(50))
        >>> print(rate.round(3))  # beta w(t) R = 2 * 0.5 * 1
        1.0
    """

    beta: PerLevel = 1.0
    warm_up: Schedule = Constant()
    free_bits: FreeBits = FreeBits()
    balance: Balance = Unbalanced()

    def __post_init__(self) -> None:
        check_numbers(self, "beta", low=0.0)

    def rate(self, trace: Trace, step: Array) -> tuple[Array, dict[str, Array]]:
        """Computes (sum_l beta_l w_l(t) gamma_l F_l, metrics); the sum is `[]`.

        Metrics: `regularised_rate`, that sum; `beta`, beta w(t), or `beta/LEVEL` if either has one value per level;
        `balance/LEVEL`, gamma, unless balance is `Unbalanced`; those of the free bits.
        """
        names = trace.names
        floored, metrics = self.free_bits(trace, step)
        dtype = floored.dtype
        beta, warm_up = jnp.asarray(self.beta, float), self.warm_up(step)
        weights = spread(beta, len(names), "beta", dtype) * spread(warm_up, len(names), "warm_up", dtype)
        gamma = self.balance(trace, step, spread(warm_up, len(names), "warm_up", dtype))
        total = (weights * gamma * floored).sum()
        metrics |= {"regularised_rate": total, **named("beta", beta * warm_up, names)}
        if not isinstance(self.balance, Unbalanced):
            metrics |= named("balance", gamma, names)
        return total, metrics

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """Computes the loss from one sample of every latent."""
        trace, updates = traced(forward, variables, batch, key)
        rate, metrics = self.rate(trace, step)
        loss = rate - log_likelihood(trace).mean()
        return loss, {**bare_metrics(trace), **metrics}, state, updates
