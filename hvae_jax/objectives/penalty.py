"""A penalty on what a trace says, and decorrelated features, which is one."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.distributions import BernoulliLatent, Known, OneHotCategorical
from hvae_jax.objectives.around import Around
from hvae_jax.objectives.per_level import check_numbers
from hvae_jax.objectives.protocol import Batch, Forward, NegativeELBO, Objective, recalling, traced
from hvae_jax.objectives.schedules import Constant, Schedule
from hvae_jax.records import checked
from hvae_jax.trace import Level, Trace

MOST_UNITS = 4_096
"""Largest number of units of a level whose covariance is computed: it has as many rows and columns."""


@runtime_checkable
class TraceFunction(Protocol):
    """A number that a trace of a batch has: a frozen record.

    `name` is a method, because the command line cannot test a setting against a Protocol with properties.
    """

    def name(self) -> str:
        """Name in metrics."""
        ...

    def __call__(self, trace: Trace) -> Array:
        """The number, `[]`: nothing in the loss scales it but the weight."""
        ...


@dataclasses.dataclass(frozen=True)
@checked
class Covariance:
    """sum over levels of sum_{i != j} C_ij^2 - entropy sum_i H_i, C the covariance over the batch of m = E_q z.

    C = mean_B (m - mean_B m)(m - mean_B m)^T, over all units of a level, a feature map flattened. m is the mean of the
    record q: given the levels that this one is inferred from. For bits and classes it is their probabilities; pairs of
    classes of one variable are left out, because they sum to 1. H_i is the entropy of a discrete variable over the
    batch, that of the mean probabilities; nats. It is largest if all values are equally frequent.

    The penalty depends on the scale of the means. Below the top, where priors are learned, means may be of any size,
    and a large weight makes them small before it makes them uncorrelated. The top level has a prior of a fixed scale in
    most models.

    Attributes:
      levels: names of the levels, such as ("z1",); () takes all but those that are a function of x.
      entropy: weight of the entropies beside the covariances.

    Source: Tomczak (2016), "Learning Informative Features from Restricted Boltzmann Machines", whose penalty makes
    hidden units have a high entropy and pairwise no correlation. Carried over from there, where the units are bits of
    one layer: it is not the paper's formula.
    Raises ValueError for a negative entropy; at a model's first trace for a level that does not exist (with the names
    of those that do), has no density of its own or, under a flow, no known mean, has more than `MOST_UNITS` units, and
    for an entropy without a discrete level.

    Example:
        >>> q, p = hv.Normal(jnp.array([[1.0, 1.0], [-1.0, -1.0]]), jnp.zeros((2, 2))), hv.Normal.standard((2, 2))
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(jnp.zeros(2), (level,), hv.Bernoulli()(jnp.zeros((2, 4, 1))))
        >>> print(hv.objectives.Covariance()(trace).round(3))  # C_12^2 + C_21^2 = 1 + 1
        2.0
    """

    levels: tuple[str, ...] = ()
    entropy: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, "entropy", low=0.0)

    def name(self) -> str:
        """Name in metrics."""
        return "covariance"

    def __call__(self, trace: Trace) -> Array:
        """The sum, `[]`."""
        chosen = self._chosen(trace)
        total = sum((off_diagonal(level) for level in chosen), jnp.zeros(()))
        if self.entropy:
            discrete = [level for level in chosen if _is_discrete(level)]
            if not discrete:
                raise ValueError(
                    f"Covariance(entropy={self.entropy}): none of {', '.join(level.name for level in chosen)} is "
                    "discrete, so that there is no entropy to raise. Set it to 0."
                )
            total = total - self.entropy * sum((marginal_entropy(level) for level in discrete), jnp.zeros(()))
        return total

    def _chosen(self, trace: Trace) -> list[Level]:
        """The levels, one for each latent of a run, once they can be served."""
        every = {level.name: level for level in trace.unstack()}
        if unknown := [name for name in self.levels if name not in every]:
            raise ValueError(
                f"Covariance(levels={self.levels}): the model has no level {unknown[0]!r}; it has {', '.join(every)}."
            )
        chosen = [every[name] for name in self.levels] or [x for x in every.values() if not isinstance(x.q, Known)]
        for level in chosen:
            if isinstance(level.q, Known):
                raise ValueError(f"Covariance: level {level.name!r} has no density of its own, it is a function of x.")
            if level.flow:
                raise ValueError(
                    f"Covariance: the posterior of level {level.name!r} is a flow, whose mean has no closed form. "
                    "Name other levels, or take a posterior without a flow."
                )
        if not chosen:
            raise ValueError(f"Covariance: every level is a function of x: {', '.join(every)}.")
        return chosen


def off_diagonal(level: Level) -> Array:
    """sum_{i != j} C_ij^2 of a level's units, `[]`; pairs of classes of one variable left out.

    Raises ValueError, naming the level, for more than `MOST_UNITS` units.
    """
    means = level.q.mean
    m = means.reshape(means.shape[0], -1)  # [B, D]
    m = m.astype(jnp.promote_types(m.dtype, jnp.float32))
    count = m.shape[1]
    if count > MOST_UNITS:
        raise ValueError(
            f"Covariance: level {level.name!r} has {count:,} units, whose covariance would have {count**2:,} numbers: "
            f"at most {MOST_UNITS:,} units are taken. Name other levels."
        )
    centred = m - m.mean(0, keepdims=True)
    covariance = jnp.einsum("bi,bj->ij", centred, centred, precision="highest") / m.shape[0]
    variable = np.arange(count) // (means.shape[-1] if isinstance(level.p, OneHotCategorical) else 1)
    return jnp.where(variable[:, None] == variable[None, :], 0.0, covariance**2).sum()


def marginal_entropy(level: Level) -> Array:
    """Sum over a discrete level's variables of the entropy of their mean probabilities over the batch, `[]`, nats."""
    p = level.q.mean.astype(jnp.promote_types(level.q.mean.dtype, jnp.float32)).mean(0)
    entropy = _minus_x_log_x(p).sum()
    return entropy if isinstance(level.p, OneHotCategorical) else entropy + _minus_x_log_x(1.0 - p).sum()


def _is_discrete(level: Level) -> bool:
    # by p: the posterior of classes of which some are known is a record of its own
    return isinstance(level.p, OneHotCategorical | BernoulliLatent)


def _minus_x_log_x(p: Array) -> Array:
    """-p log p, 0 at 0 and below, with a finite derivative everywhere."""
    least = float(jnp.finfo(p.dtype).tiny)
    return -p * jnp.log(jnp.maximum(p, least))


@dataclasses.dataclass(frozen=True)
@checked
class Penalty(Around):
    """loss = base loss + w(t) f(trace), f a function of the trace of x.

    The trace is the base's own if the base makes one pass of x, else a further one with the same key. Batch statistics
    in f are of the whole batch under `jit`, whatever the devices. If a batch is computed in parts (microbatches), or on
    each device by itself, f is computed of each part, and the mean is taken.

    Attributes:
      base: objective that the term is added to.
      function: f, a record with a name; `Covariance`, for one.
      weight: schedule w(t).

    Metrics: the base's; f, without its weight, under its name; `NAME_weight`.
    Raises ValueError at a model's first trace if f is no single number or has the name of one of the base's metrics,
    and as f does.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> objective = hv.objectives.Penalty(weight=hv.objectives.Constant(0.1))
        >>> forward = lambda *_, **__: (trace, {})  # in place of a model's pass
        >>> _, metrics, _, _ = objective(forward, {}, hv.Batch(x), jax.random.key(0), jnp.array(0), ())
        >>> print(metrics["covariance"], metrics["covariance_weight"].round(3))  # one example does not vary
        0.0 0.1
    """

    base: Objective = NegativeELBO()
    function: TraceFunction = Covariance()
    weight: Schedule = Constant(1.0)

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """Computes the loss from one sample of every latent."""
        found = traced(forward, variables, batch, key)
        again = recalling(forward, variables, batch, key, found)
        loss, metrics, after, updates = self.base(again, variables, batch, key, step, state)
        value, name = self.function(found[0]), self.function.name()
        if value.shape:
            raise ValueError(f"Penalty: {self.function} has to be one number, but has shape {value.shape}.")
        if name in metrics:
            raise ValueError(f"Penalty: {self.function} is named {name!r}, as one of the base's metrics is.")
        value = value.astype(loss.dtype)
        weight = jnp.asarray(self.weight(step), loss.dtype)
        return loss + weight * value, {**metrics, name: value, f"{name}_weight": weight}, after, updates


@dataclasses.dataclass(frozen=True)
@checked
class Decorrelated(Around):
    """loss = base loss + w(t) (sum_l sum_{i != j} C_ij^2 - entropy sum_i H_i): units that do not repeat each other.

    `Penalty` with `Covariance`, which has the formula, its source and its errors.

    Attributes:
      base: objective that the term is added to.
      weight: schedule w(t).
      levels: names of the levels; () takes all but those that are a function of x.
      entropy: weight of the entropy of discrete units beside the covariances.

    Metrics: the base's; `covariance`, the bracket, and `covariance_weight`.
    Source: Tomczak (2016), carried over.
    Raises ValueError as `Covariance` does.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> objective = hv.objectives.Decorrelated(levels=("z",))
        >>> forward = lambda *_, **__: (trace, {})  # in place of a model's pass
        >>> loss, *_ = objective(forward, {}, hv.Batch(x), jax.random.key(0), jnp.array(0), ())
        >>> print(loss.round(3))  # 3.773, and no covariance over one example
        3.773
    """

    base: Objective = NegativeELBO()
    weight: Schedule = Constant(1.0)
    levels: tuple[str, ...] = ()
    entropy: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, "entropy", low=0.0)

    @property
    def penalty(self) -> Penalty:
        """The penalty that this is."""
        return Penalty(self.base, Covariance(self.levels, self.entropy), self.weight)

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """As the penalty."""
        return self.penalty(forward, variables, batch, key, step, state)
