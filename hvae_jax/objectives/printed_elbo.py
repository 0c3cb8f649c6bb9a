"""The formula that the article prints for its bottom-up VAE, which is not that model's ELBO."""

import dataclasses
from typing import Any

from jax import Array

from hvae_jax.distributions import kl, sum_event
from hvae_jax.objectives.bounds import log_likelihood
from hvae_jax.objectives.protocol import Batch, Forward, Objective, bare_metrics, check_closed, traced
from hvae_jax.records import checked


@dataclasses.dataclass(frozen=True)
@checked
class PrintedELBO(Objective):
    """loss = -mean (log p(x | z) - sum_l KL(q_l || p_l)), with closed-form KLs of the trace's q and p.

    With top-down inference this is the negative ELBO. With bottom-up inference it is not: p_l depends on a z_{l+1} that
    was itself drawn given z_l, so KL(q_l || p_l) is no estimate of E[log q_l - log p_l] (`models.bottom_up` has the
    derivation), and the loss is no bound. It is here to show what training on it does; validation, early stopping and
    results use the true ELBO.

    Metrics: the bare ones, of the true ELBO; `printed_elbo`, minus the loss; `printed_rate/LEVEL`.
    Source: the article's equation for the two-level VAE.
    Raises ValueError at a model's first trace for a level whose KL has no closed form.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> objective = hv.objectives.PrintedELBO()
        >>> forward = lambda *_, **__: (trace, {})  # in place of a model's pass
        >>> loss, *_ = objective(forward, {}, hv.Batch(x), jax.random.key(0), jnp.array(0), ())
        >>> print(loss.round(3))  # 2.773 + 1
        3.773
    """

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """Computes the loss from one sample of every latent."""
        trace, updates = traced(forward, variables, batch, key)
        check_closed("PrintedELBO", trace, "Train on NegativeELBO.")
        levels = trace.unstack()
        rates = [sum_event(kl(level.q, level.p)).mean() for level in levels]
        printed = log_likelihood(trace).mean() - sum(rates)
        named = {f"printed_rate/{level.name}": rate for level, rate in zip(levels, rates, strict=True)}
        return -printed, {**bare_metrics(trace), "printed_elbo": printed, **named}, state, updates
