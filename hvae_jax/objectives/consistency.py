"""Consistency regularisation: posteriors of an image and of the same image changed a little are kept together.

    loss = loss(x) + loss(x~) + sum_l w_l(t) C_l                  x~ ~ t(x~ | x), the augmentation
    C_l = E KL(q_l(. | z_>l, x~) || q_l(. | z_>l, x)),             z_>l ~ q(. | x~)

C_l is the mean over the batch, nats. The sum over the levels is KL(q(z | x~) || q(z | x)) of all latents together, by
the chain rule, with the levels in the order in which the model infers them: both posteriors of a level read the same
values of the levels that it is conditioned on, those drawn for x~.

Source: Sinha & Dieng (2021), "Consistency Regularization for Variational Auto-Encoders", equation 4 for one level. The
sum over levels is ours: the paper leaves open how a hierarchy is treated.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.distributions import Known, Latent, kl, sum_event
from hvae_jax.objectives.around import Around
from hvae_jax.objectives.augmentations import Affine, Augmentation, augmented, check_augmentations
from hvae_jax.objectives.per_level import named, spread
from hvae_jax.objectives.protocol import Batch, Forward, NegativeELBO, Objective, recalling, refuse_missing, traced
from hvae_jax.objectives.schedules import Constant, Schedule
from hvae_jax.records import checked
from hvae_jax.runtime.prng import split
from hvae_jax.trace import Level, Model, Trace

_OWN = 0x636F6E73  # folded into the key, so that the base's noise at x is what it is without the term


@dataclasses.dataclass(frozen=True)
@checked
class Consistency(Around):
    """A loss of x and of x~ with a KL between their posteriors, for every model and around every objective.

        loss = loss(x) + loss(x~) + sum_l w_l(t) C_l                  x~ ~ t(x~ | x), the augmentation
        C_l = E KL(q_l(. | z_>l, x~) || q_l(. | z_>l, x))             z_>l ~ q(. | x~); mean over the batch, nats

    A weight of 0, `Constant(0.0)`, is the control: the same augmentation without the term.

    C_l is a KL in closed form where q has one with itself: Gaussians, bits, classes. Other levels, those whose
    posterior is a flow among them, have log q(z | x~) - log q(z | x) at the sample, of the same expectation; under a
    flow the second density takes its inverse. Levels that are a function of x (`Known`) contribute nothing, and are
    each image's own in both posteriors.

    The base is called for x with the key of this step, so that its metrics are those of x without the term, and for x~
    with another. Statistics of batch norm and the base's state follow x alone, whose images are those that are
    evaluated; both calls start from the same state. Every pass normalises by its own batch. One step takes three
    passes of the model, and one more for a base that makes passes of its own, as `ImportanceWeighted` does.

    Attributes:
      base: objective of x and of x~, by default the negative ELBO.
      augment: random changes, applied one after the other; () leaves x~ = x, and the term is 0.
      weight: schedule w(t), one number for all levels or one a level, top first.

    Metrics: the base's, at x; `consistency`, sum_l C_l, and `consistency/LEVEL`, C_l; `augmented_elbo`, the base's
    `elbo` at x~; `consistency_weight`, or `consistency_weight/LEVEL`. If a batch is computed in parts, all are means
    over the parts.
    Source: Sinha & Dieng (2021); 1e-3 is the weight of their code.
    Raises ValueError at a model's first trace for an augmentation that changes shape or dtype, a number of weights that
    differs from that of levels, a level whose posterior has no density, naming it, and a model whose levels are all
    functions of x; before training, by `check`, for an augmentation whose values the likelihood does not allow.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> objective = hv.objectives.Consistency(augment=(), weight=hv.objectives.Constant(0.1))
        >>> arguments = {}, hv.Batch(x), jax.random.key(0), jnp.array(0), ()
        >>> forward = lambda *_, **__: (trace, {})  # in place of a model's pass
        >>> _, metrics, _, _ = objective(forward, *arguments)
        >>> print(metrics["consistency"])  # x~ = x has the same posteriors
        0.0
    """

    base: Objective = NegativeELBO()
    augment: tuple[Augmentation, ...] = (Affine(),)
    weight: Schedule = Constant(1e-3)

    def check(self, model: Model, x: np.ndarray) -> None:
        """Raises ValueError for an augmentation that changes x's shape, or whose values the likelihood refuses.

        Likewise for data with missing values, which an augmentation would spread.
        """
        refuse_missing("Consistency", model)
        self.base.check(model, x)
        likelihood = model.likelihood
        check_augmentations(self.augment, x, None if likelihood is None else likelihood.check)

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """Computes the loss from one x~ an example, and one sample of every latent for each of the two."""
        loss, metrics, after, updates = self.base(forward, variables, batch, key, step, state)
        augment_key, other_key = split(jax.random.fold_in(key, _OWN))
        other = dataclasses.replace(batch, x=augmented(self.augment, batch.x, augment_key))
        found = traced(forward, variables, other, other_key)
        again = recalling(forward, variables, other, other_key, found)
        other_loss, other_metrics, *_ = self.base(again, variables, other, other_key, step, state)

        at_other = found[0]
        given = tuple(None if isinstance(level.q, Known) else level.z for level in at_other.unstack())
        # the same key, so that dropout and networks that draw do the same in both: the term is of x~ against x alone
        at_x, _ = traced(forward, variables, batch, other_key, latents=given)
        nats, names = divergences(at_other, at_x).mean(1), at_other.names
        weight = self.weight(step)
        term = (spread(jnp.asarray(weight), len(names), "weight", nats.dtype) * nats).sum()
        metrics = {
            **metrics,
            "consistency": nats.sum(),
            **named("consistency", nats, names),
            "augmented_elbo": other_metrics["elbo"],
            **named("consistency_weight", jnp.asarray(weight, nats.dtype), names),
        }
        return loss + other_loss + term, metrics, after, updates


def divergences(one: Trace, other: Trace) -> Array:
    """KL(q_one || q_other) of each latent at the same latents, `[L, B]`, nats, top first; 0 for `Known` levels.

    In closed form where there is one, else log q_one - log q_other at the sample.

    Args:
      one: a trace whose latents were drawn from its own posteriors.
      other: the trace of other examples, at the latents of the first (`latents=`).
    Raises ValueError, naming the level, for a posterior without a density; and for levels that are all known.
    """
    if all(isinstance(level.q, Known) for level in one.levels):
        raise ValueError(
            f"Consistency compares posteriors, but every level of this model is a function of x: {', '.join(one.names)}"
            ". Take a model with latents."
        )
    return jnp.concatenate([jnp.atleast_2d(_divergence(a, b)) for a, b in zip(one.levels, other.levels, strict=True)])


def _divergence(one: Level, other: Level) -> Array:
    """Of one level, `[B]` (`[n, B]` for a run)."""
    if not (isinstance(one.q, Latent) and isinstance(other.q, Latent)):
        raise ValueError(
            f"Consistency compares posteriors, but level {one.name!r} has no density of its own: its q is a "
            f"{type(one.q).__name__}, which has no log_prob."
        )
    if isinstance(one.q, Known):
        return jnp.zeros_like(one.log_q)
    closed = None if one.flow else kl(one.q, other.q)
    if closed is None:
        return one.log_q - other.log_q
    return jax.vmap(sum_event)(closed) if one.stacked else sum_event(closed)
