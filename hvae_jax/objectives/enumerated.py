"""The ELBO of a model with a class among its latents, with the sum over its values in place of a sample.

Of an example x and a class c, one pass with y = c given has

    S(x, c) = log p(x | z) - sum over the other levels of rate_l + log p(c | .)

a bound of log p(x, c). With a label that is all; without it the classes are weighed by q(c | x):

    labelled     S(x, y)                                              <= log p(x, y)
    unlabelled   U(x) = sum_c q(c | x) (S(x, c) - log q(c | x))       <= log sum_c e^S(x, c)  <=  log p(x)

both on average over the latents that are inferred before the class. The first inequality is an equality where q(c | x)
is proportional to e^S(x, c).

Source: Kingma et al. (2014), "Semi-supervised Learning with Deep Generative Models", equations 6, 7 and 9.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from hvae_jax.distributions import OneHotCategorical
from hvae_jax.objectives.bounds import log_likelihood
from hvae_jax.objectives.per_level import check_numbers
from hvae_jax.objectives.protocol import Batch, Forward, Objective
from hvae_jax.objectives.schedules import Constant, Schedule
from hvae_jax.records import checked
from hvae_jax.trace import Trace

MOST_CLASSES = 1_000
"""Largest number of classes that are enumerated: the levels above the class are computed once for each."""


@struct.dataclass
class Classes:
    """One trace a class, reduced to nats; K classes, B examples, the class as the level at index `at`.

    Attributes:
      log_px: log p(x | z), `[K, B]`.
      rates: rate of each level but the class's, for which it is 0, `[K, L, B]`.
      log_q: log q(c | x), the log-weight of each trace, `[K, B]`.
      log_p: log p(c | .), `[K, B]`.
      at: index of the class's level, top first.
    """

    log_px: Array
    rates: Array
    log_q: Array
    log_p: Array
    at: int = struct.field(pytree_node=False)

    def joint(self, weight: Array | float = 1.0) -> Array:
        """S(x, c), `[K, B]`, nats; with another weight of all rates, -log p(c | .) among them, no bound."""
        return self.log_px - weight * (self.rates.sum(1) - self.log_p)

    def mean(self, values: Array) -> Array:
        """sum_c q(c | x) v_c, `[K, ..., B]` to `[..., B]`."""
        q = jnp.exp(self.log_q)
        return (q.reshape(q.shape[0], *(1,) * (values.ndim - 2), q.shape[1]) * values).sum(0)

    def elbo(self, weight: Array | float = 1.0) -> Array:
        """U(x), `[B]`, nats; with another weight of all rates, the class's among them, no bound."""
        return self.mean(self.joint(weight) - weight * self.log_q)

    @property
    def marginal(self) -> Array:
        """log sum_c e^S(x, c), `[B]`, nats: the bound of log p(x) by the classes' own posterior; U(x) or more."""
        return jax.nn.logsumexp(self.joint(), axis=0)

    def metrics(self) -> dict[str, Array]:
        """The bare metrics of U(x), whatever the labels are: `elbo`, `log_px`, and `rates`, `[L]`."""
        rates = self.rates.at[:, self.at].set(self.log_q - self.log_p)
        return {
            "elbo": self.elbo().mean(),
            "log_px": self.mean(self.log_px).mean(),
            "rates": self.mean(rates).mean(-1),
        }


def enumerate_classes(forward: Forward, variables: Any, x: Array, key: Array, level: str = "y") -> tuple[Classes, Any]:
    """Run the model once for each value of the class at `level`, with the same key, and return what the ELBO needs.

    Args:
      forward: as an objective gets it; it is given the class by `latents=`.
    Returns: the classes, and the updated collections, averaged over the classes.
    Raises ValueError for a level that does not exist or is no class, and for more than `MOST_CLASSES` values.

    Example:
        >>> model = hv.models.CaGeM(clusters=3, latents=(1, 1), hidden=2, likelihood=hv.Bernoulli())
        >>> x = jnp.ones((2, 4))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), x, jax.random.key(1))
        >>> forward = lambda *arguments, **choices: (model.apply(*arguments, **choices), {})
        >>> run = lambda variables: hv.objectives.enumerate_classes(forward, variables, x, jax.random.key(2))[0].joint()
        >>> jax.eval_shape(run, variables).shape  # S(x, c) of three classes and two examples
        (3, 2)
    """
    shapes, _ = jax.eval_shape(lambda: forward(variables, x, key))
    at, like = _class_of(shapes, level)
    count, dtype = like.shape[-1], like.dtype

    def of(c: Array) -> tuple[Classes, Any]:
        one_hot = jnp.broadcast_to(jax.nn.one_hot(c, count, dtype=dtype)[None], like.shape)
        given = tuple(one_hot if i == at else None for i in range(at + 1))
        trace, updates = forward(variables, x, key, latents=given)
        own = trace.unstack()[at]
        # The closed KL of the class's level, if it has one, is a mean over its values: here each is a trace of its own.
        rates = trace.rates.at[at].set(0.0)
        return Classes(log_likelihood(trace), rates, own.log_q, own.log_p, at), updates

    each, updates = jax.vmap(of)(jnp.arange(count))
    return each, jax.tree.map(lambda a: a.mean(0) if jnp.issubdtype(a.dtype, jnp.inexact) else a[-1], updates)


@dataclasses.dataclass(frozen=True)
@checked
class Enumerated(Objective):
    """loss = -mean_B (S(x, y) where there is a label, else U(x)) - alpha mean_labelled log q(y | x), nats.

        S(x, c) = log p(x | z) - sum over the other levels of rate_l + log p(c | .)        one pass with y = c given
        U(x) = sum_c q(c | x) (S(x, c) - log q(c | x))                                     <= log p(x)

    The sum over the classes is exact: no gradient passes through a sample of the class. Labels are those of the batch,
    -1 where there is none; without any the loss is -mean U(x). The last mean is over the labelled examples of the batch
    alone, so that alpha does not depend on how few they are; it is 0 for a batch without. If a batch is computed in
    parts, each has its own.

    Attributes:
      alpha: weight of log q(y | x). S(x, y) does not train the classifier, which is no part of it; only U(x) and this
        term do.
      warm_up: schedule w(t), factor of all rates, that of the class included; constant by default.
      level: name of the class's level.

    Metrics: the bare ones, of U(x) of all examples; `marginal`, the mean of log sum_c e^S(x, c), at least `elbo`;
    `class_entropy`, the mean entropy of q(c | x); `labelled`, the fraction of examples with a label; `class_log_q`, the
    mean of log q(y | x) over them.
    Source: Kingma et al. (2014), equations 8 and 9, whose alpha multiplies a sum over labelled examples. The paper of
    CaGeM has such a term too.
    Raises ValueError for a negative alpha, and at a model's first trace as `enumerate_classes` does.

    Example:
        >>> model = hv.models.CaGeM(clusters=3, latents=(1, 1), hidden=2, likelihood=hv.Bernoulli())
        >>> x = jnp.ones((2, 4))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), x, jax.random.key(1))
        >>> forward = lambda *arguments, **choices: (model.apply(*arguments, **choices), {})
        >>> arguments = hv.Batch(x, jnp.array([0, -1])), jax.random.key(2), jnp.array(0), ()
        >>> run = lambda variables: hv.objectives.Enumerated()(forward, variables, *arguments)[1]
        >>> sorted(jax.eval_shape(run, variables))
        ['class_entropy', 'class_log_q', 'elbo', 'labelled', 'log_px', 'marginal', 'rates']
    """

    alpha: float = 1.0
    warm_up: Schedule = Constant()
    level: str = "y"

    def __post_init__(self) -> None:
        check_numbers(self, "alpha", low=0.0)

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """Computes the loss from one sample of the other latents for each class."""
        found, updates = enumerate_classes(forward, variables, batch.x, key, self.level)
        weight = jnp.asarray(self.warm_up(step), found.log_px.dtype)
        bound = found.elbo(weight)
        y = jnp.full(bound.shape, -1) if batch.y is None else batch.y
        known = y >= 0
        label = jnp.maximum(y, 0)[None]  # a class to look up where there is no label, too: `where` drops it
        bound = jnp.where(known, jnp.take_along_axis(found.joint(weight), label, axis=0)[0], bound)
        log_q = jnp.where(known, jnp.take_along_axis(found.log_q, label, axis=0)[0], 0.0)
        class_log_q = log_q.sum() / jnp.maximum(known.sum(), 1)
        metrics = {
            **found.metrics(),
            "marginal": found.marginal.mean(),
            "class_entropy": -found.mean(found.log_q).mean(),
            "labelled": known.mean(dtype=bound.dtype),
            "class_log_q": class_log_q,
        }
        return -bound.mean() - self.alpha * class_log_q, metrics, state, updates


def _class_of(shapes: Trace, level: str) -> tuple[int, Any]:
    """The index of the class's level, and the shape and dtype of its z.

    Args:
      shapes: a trace of shapes and dtypes.

    Raises ValueError for a level that does not exist or is no class, and for more than `MOST_CLASSES` values.
    """
    names = shapes.names
    if level not in names:
        raise ValueError(f"Enumerated(level={level!r}): the model has no such level; it has {', '.join(names)}.")
    at = names.index(level)
    own = next((one for one in shapes.levels if one.name == level), None)  # None for a level of a scanned run
    if own is None or own.stacked or not isinstance(own.p, OneHotCategorical) or own.z.ndim != 2:
        what = "it is one of a scanned run" if own is None else f"p of {level!r} is a {type(own.p).__name__}"
        raise ValueError(
            f"Enumerated(level={level!r}): only a level of one class an example, a OneHotCategorical [B, K], is summed "
            f"over, but {what}."
        )
    check_count(own.z.shape[-1])
    return at, own.z


def check_count(classes: int) -> None:
    """Raises ValueError for more than `MOST_CLASSES` classes."""
    if classes > MOST_CLASSES:
        raise ValueError(
            f"Enumerated would compute the levels above the class {classes:,} times a step, once for each class: at "
            f"most {MOST_CLASSES:,} are enumerated. Take fewer classes, or train on NegativeELBO, which samples one."
        )
