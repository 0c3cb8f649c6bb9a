"""The importance-weighted bound as an objective, with three estimators of its gradient."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from hvae_jax.distributions import beside
from hvae_jax.objectives.bounds import check_draws, log_likelihood
from hvae_jax.objectives.protocol import Batch, Forward, Objective, bare_metrics, traced
from hvae_jax.records import checked
from hvae_jax.runtime.prng import exact_under_vmap
from hvae_jax.trace import Trace


@dataclasses.dataclass(frozen=True)
@checked
class ImportanceWeighted(Objective):
    """loss = -mean_B log (1/K) sum_k w_k, nats, of K draws of every latent: -mean log w for K = 1.

    Draw k has the key `fold_in(key, k)`, as in `importance`. The three gradients, with v_k = w_k / sum_j w_j:

    * "plain": that of the loss, sum_k v_k d log w_k. Unbiased; its signal-to-noise ratio for the inference network
      falls as 1/sqrt(K) (Rainforth et al., 2018).
    * "stl", sticking the landing: log q is computed with its parameters stopped, so that its part of the gradient is
      the path through z, sum_k v_k (d log w_k/dz_k) dz_k. Unbiased for K = 1; for K > 1 it leaves out a term whose mean
      is not 0, since v_k depends on z_k. This part has no variance if q is the true posterior.
    * "dreg", doubly reparameterised: sum_k v_k^2 (d log w_k/dz_k) dz_k for that part. Unbiased for every K; no variance
      if q is the true posterior; for large K its signal-to-noise ratio rises as sqrt(K).

    In the generative part, d log p at fixed latents, all three have v_k. A parameter that both q and p depend on, such
    as those of a prior whose posterior is an offset from it, has both parts. Values do not depend on the estimator.

    "stl" takes a second pass of the model and "dreg" a third, at the latents drawn (`latents=`), for which a flow needs
    its inverse. All this holds if examples do not depend on each other: with batch norm in training, "dreg" is unbiased
    only approximately.

    Attributes:
      k: number of draws K of each example, all in memory at once; under "rbg" and "unsafe_rbg" keys, whose draws a vmap
        would change, they are made one by one.
      gradient: gradient estimator, one of the above.

    Metrics: the bare ones, means over the K draws; `iwae`, the bound, -loss; `effective_sample_size`, mean_B
    1 / sum_k v_k^2, between 1 and K. Batch statistics are the mean over the draws.
    Source: Burda et al. (2015), equation 8; Roeder et al. (2017), the path derivative; Tucker et al. (2019), IWAE-DReG;
    Bauer & Mnih (2021) for hierarchies: the dependence of q on the latents above is part of the path.
    Raises ValueError if k is not a whole number of 1 or more, for another gradient, and at a model's first trace for
    "stl" or "dreg" with a level that is not reparameterised, such as a categorical one.

    Example:
        >>> model, batch = hv.models.LinearVAE((2,)), hv.Batch(jnp.ones((3, 4)))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), batch.x, jax.random.key(1))
        >>> forward = lambda *arguments, **choices: (model.apply(*arguments, **choices), {})
        >>> arguments = batch, jax.random.key(2), jnp.array(0), ()
        >>> run = lambda variables: hv.ImportanceWeighted(k=4, gradient="dreg")(forward, variables, *arguments)[1]
        >>> sorted(jax.eval_shape(run, variables))
        ['effective_sample_size', 'elbo', 'iwae', 'log_px', 'rates']
    """

    k: int = 5
    gradient: Literal["plain", "stl", "dreg"] = "plain"

    def __post_init__(self) -> None:
        check_draws("ImportanceWeighted", k=self.k)

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """Computes the loss from K descents."""

        def log_q_stopped(key: Array, latents: tuple[Array, ...]) -> Array:
            """log q(z | x) `[B]` at these latents, a function of them alone."""
            trace, _ = traced(forward, jax.lax.stop_gradient(variables), batch, key, latents=latents)
            return _log_densities(trace)[1]

        def draw(key: Array) -> tuple[Array, dict[str, Array], Any, tuple[Array, ...]]:
            trace, updates = traced(forward, variables, batch, key)
            if self.gradient != "plain":
                self._check_reparameterised(trace)
            log_p, log_q = _log_densities(trace)
            if self.gradient == "stl":
                log_q = log_q_stopped(key, trace.latents)
            return log_p - log_q, bare_metrics(trace), updates, trace.latents if self.gradient == "dreg" else ()

        def score(key: Array, latents: tuple[Array, ...], weights: Array) -> Array:
            """log w, `[B]`, at latents whose gradient is multiplied by the weights, `[B]`."""
            # Value z, gradient v_k dz: times the v_k of the sum below, the path has v_k^2 and the parameters have v_k.
            fixed = jax.lax.stop_gradient(latents)
            latents = tuple(
                z + beside(weights, z).astype(z.dtype) * (own - z) for own, z in zip(latents, fixed, strict=True)
            )
            trace, _ = traced(forward, variables, batch, key, latents=latents)
            return _log_densities(trace)[0] - log_q_stopped(key, latents)

        # Under keys whose draws a vmap would change, one draw after the other, each with its own key.
        over = jax.vmap if exact_under_vmap(key) else _one_by_one
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(self.k))
        log_w, metrics, updates, latents = over(draw)(keys)
        bound = jax.nn.logsumexp(log_w, axis=0) - math.log(self.k)
        weights = jax.lax.stop_gradient(jax.nn.softmax(log_w, axis=0))
        if self.gradient == "dreg":
            scored = over(score)(keys, latents, weights)
            # The value is that of the first pass; `change` is 0 and only carries the gradient.
            change = (weights * (scored - jax.lax.stop_gradient(scored))).sum(0)
            bound = jax.lax.stop_gradient(bound) + change

        metrics, updates = jax.tree.map(_over_draws, (metrics, updates))
        metrics |= {"iwae": bound.mean(), "effective_sample_size": (1.0 / (weights**2).sum(0)).mean()}
        return -metrics["iwae"], metrics, state, updates

    def _check_reparameterised(self, trace: Trace) -> None:
        """Raises ValueError for a level whose samples do not carry the gradient of their parameters."""
        for level in trace.levels:
            if not getattr(level.q, "reparameterised", False):
                raise ValueError(
                    f"ImportanceWeighted(gradient={self.gradient!r}) needs samples that are a smooth function of the "
                    f"posterior's parameters, but those of level {level.name!r} come from a {type(level.q).__name__}. "
                    "Take gradient='plain'."
                )


def _one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.vmap(function)` as a loop."""
    return lambda *arguments: jax.lax.map(lambda one: function(*one), arguments)


def _log_densities(trace: Trace) -> tuple[Array, Array]:
    """(log p(x, z), log q(z | x)) at the sample, `[B]` each, nats."""
    log_p, log_q = (
        jnp.concatenate([jnp.atleast_2d(getattr(level, name)) for level in trace.levels]).sum(0)
        for name in ("log_p", "log_q")
    )
    return log_likelihood(trace) + log_p, log_q


def _over_draws(leaf: Array) -> Array:
    """Mean over the K draws; for integers and other leaves that have no mean, the last draw."""
    return leaf.mean(0) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf[-1]
