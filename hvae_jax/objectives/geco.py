"""GECO: the least rate under constraints, whose Lagrange multipliers are learned along with the model."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from hvae_jax.objectives.bounds import log_likelihood
from hvae_jax.objectives.per_level import check_numbers, named
from hvae_jax.objectives.protocol import Batch, Forward, Objective, bare_metrics, refuse_missing, traced
from hvae_jax.objectives.regularised import Regularised
from hvae_jax.records import checked
from hvae_jax.trace import Model, Trace


@runtime_checkable
class Constraint(Protocol):
    """A constraint, mean over the data of C <= 0: a frozen record.

    `name` is a method, because the command line cannot test a setting against a Protocol with properties.
    """

    def name(self) -> str:
        """Name in metrics."""
        ...

    def __call__(self, trace: Trace, x: Array) -> Array:
        """Computes C, `[B]`, summed over the event, from the trace of x, `[B, *event]`."""
        ...


@dataclasses.dataclass(frozen=True)
@checked
class Distortion:
    """C = -log p(x | z) - D target, with D the number of elements of x.

    With a multiplier of 1 the loss is the negative ELBO, up to a constant.

    Attributes:
      target: largest distortion allowed; nats per element of x.

    Source: Rezende & Viola (2018), section 4, with the likelihood as the constraint.
    Raises ValueError if the target is not finite.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> print(hv.objectives.Distortion(target=0.5)(trace, x).round(3))  # 2.773 - 4 * 0.5
        [0.773]
    """

    target: float

    def __post_init__(self) -> None:
        check_numbers(self, "target")

    def name(self) -> str:
        """Name in metrics."""
        return "distortion"

    def __call__(self, trace: Trace, x: Array) -> Array:
        """C, `[B]`, nats."""
        return -log_likelihood(trace) - math.prod(x.shape[1:]) * self.target


@dataclasses.dataclass(frozen=True)
@checked
class SquaredError:
    """C = sum over the elements of x of ((x - E[x | z])^2 - kappa^2).

    Attributes:
      kappa: largest root-mean-square error allowed; units of x.

    Source: Rezende & Viola (2018), table 1, the reconstruction error.
    Raises ValueError for a negative kappa, and at a model's first trace if its likelihood has no mean.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> print(hv.objectives.SquaredError(kappa=0.5)(trace, x).round(3))  # four of (1 - 1/2)^2 - 0.5^2
        [0.]
    """

    kappa: float

    def __post_init__(self) -> None:
        check_numbers(self, "kappa", low=0.0)

    def name(self) -> str:
        """Name in metrics."""
        return "squared_error"

    def __call__(self, trace: Trace, x: Array) -> Array:
        """C, `[B]`, squared units of x."""
        mean = trace.x_dist.mean
        if mean is None:
            raise ValueError("SquaredError: this likelihood has no mean. Take Distortion, which asks for none.")
        squares = (x.astype(mean.dtype) - mean) ** 2 - self.kappa**2
        return squares.reshape(len(x), -1).sum(1)


@struct.dataclass
class Multipliers:
    """State of `GECO` with C constraints.

    Attributes:
      u: lambda before its exponential or softplus, `[C]`.
      average: moving average of each constraint's batch mean, `[C]`.
      started: whether there is an average yet, bool `[]`.
    """

    u: Array
    average: Array
    started: Array


@dataclasses.dataclass(frozen=True)
@checked
class GECO(Objective):
    """loss = R + sum_c lambda_c C_c: the least rate at which every C_c is 0 or less in the mean.

    In the loss C_c has the value of its moving average A_c and the gradient of the batch mean. A_c starts as the first
    batch's mean; then A_c <- decay A_c + (1 - decay) mean_B C_c. After each step u_c <- u_c + clip(eta A_c / D), with D
    the number of elements of x, so that eta does not depend on it; lambda = exp(u) or softplus(u). With a lambda other
    than 1 the loss is no bound.

    Early in training, while reconstructions are poor, lambda grows more than needed and the rate then stays high for
    long: `bounds`, `max_change` and `delay` limit that. If a constraint cannot be met, lambda ends at its upper bound
    and `constraint` stays above 0.

    Attributes:
      constraints: one constraint or several, each name once.
      rate: definition of R: beta, warm-up, free bits and balance; the plain rate by default.
      eta: step size of u.
      decay: decay of the moving average per step.
      initial: initial lambda.
      bounds: lower and upper bound of lambda.
      max_change: largest change of u in one step; with "log", 0.1 is a factor of 1.1.
      delay: number of steps in which lambda stays at `initial`.
      multiplier: "log", lambda = exp(u), or "softplus", lambda = log(1 + exp(u)), which grows linearly.

    Metrics, as `name`, or `name/CONSTRAINT` with several constraints: `lambda`, as in this loss; `constraint`, the
    batch mean of C/D; `constraint_average`, A/D, both in the constraint's units per element of x.
    Source: Rezende & Viola (2018), algorithm 1; the clips after the GENESIS and Taming-VAEs (denproc) codes.
    Raises ValueError for no constraint, two constraints of one name, or a setting outside its range.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> objective = hv.GECO((hv.objectives.Distortion(target=0.5),))
        >>> arguments = {}, hv.Batch(x), jax.random.key(0), jnp.array(0), objective.init({})
        >>> forward = lambda *_, **__: (trace, {})  # in place of a model's pass
        >>> loss, metrics, _, _ = objective(forward, *arguments)
        >>> print(metrics["lambda"].round(3), metrics["constraint"].round(3))  # log 2 - 0.5 nats an element too many
        1.0 0.193
    """

    constraints: tuple[Constraint, ...]
    rate: Regularised = Regularised()
    eta: float = 0.01
    decay: float = 0.99
    initial: float = 1.0
    bounds: tuple[float, float] = (1e-3, 1e3)
    max_change: float = 0.1
    delay: int = 0
    multiplier: Literal["log", "softplus"] = "log"

    def __post_init__(self) -> None:
        names = [constraint.name() for constraint in self.constraints]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"GECO(constraints=...) has {names}: at least one, and each name once.")
        check_numbers(self, "eta", "max_change", "delay", low=0.0)
        if not 0 <= self.decay < 1:
            raise ValueError(f"GECO(decay={self.decay}): a decay is 0 or more and below 1, such as 0.99.")
        low, high = self.bounds
        if not 0 < low <= self.initial <= high < math.inf:
            raise ValueError(
                f"GECO(initial={self.initial}, bounds={self.bounds}): the bounds have to be above 0 and finite, the "
                "lower first, and the initial lambda between them."
            )

    def init(self, variables: Any) -> Multipliers:
        """Every lambda at `initial`, no average yet."""
        count = len(self.constraints)
        return Multipliers(
            u=jnp.full(count, self._inverse(self.initial), jnp.float32),
            average=jnp.zeros(count, jnp.float32),
            started=jnp.array(False),
        )

    def check(self, model: Model, x: np.ndarray) -> None:
        """Raises ValueError for data with missing values: constraints are of whole x."""
        refuse_missing("GECO", model)

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """Computes the loss from one sample of every latent, with the given state's lambda.

        The returned state has the multipliers of the next step.
        """
        trace, updates = traced(forward, variables, batch, key)
        rate, metrics = self.rate.rate(trace, step)
        means = jnp.stack([constraint(trace, batch.x).mean() for constraint in self.constraints])
        lambdas = (jnp.exp if self.multiplier == "log" else jax.nn.softplus)(state.u)

        here = jax.lax.stop_gradient(means).astype(state.average.dtype)
        average = jnp.where(state.started, self.decay * state.average + (1.0 - self.decay) * here, here)
        # Value of the average, gradient of the batch: `here` is `means` without gradient, so the two cancel in value.
        loss = rate + (lambdas * (means + (average - here))).sum()

        elements = math.prod(batch.x.shape[1:])
        change = jnp.clip(self.eta * average / elements, -self.max_change, self.max_change)
        low, high = map(self._inverse, self.bounds)
        moved = jnp.clip(state.u + jnp.where(step >= self.delay, change, 0.0), low, high)

        names = tuple(constraint.name() for constraint in self.constraints)
        for name, values in (
            ("lambda", lambdas),
            ("constraint", here / elements),
            ("constraint_average", average / elements),
        ):
            metrics |= named(name, values if len(names) > 1 else values[0], names)
        state = Multipliers(u=moved, average=average, started=jnp.ones_like(state.started))
        return loss, {**bare_metrics(trace), **metrics}, state, updates

    def conclude(self, rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        """Describes each constraint that was not met in a sentence, with the best value that was reached.

        Args:
          rows: metrics, in the order of steps. A constraint counts as met if its last moving average is 0 or less. The
            best value is that of the batch means, which do not lag as the average does.
        """
        said = []
        for constraint in self.constraints:
            several = f"/{constraint.name()}" if len(self.constraints) > 1 else ""
            name = f"constraint_average{several}"
            averages = [row[name] for row in rows if row.get(name) is not None]
            if not averages or averages[-1] <= 0.0:
                continue
            means = [row[f"constraint{several}"] for row in rows if row.get(f"constraint{several}") is not None]
            best, multiplier = min(means or averages), rows[-1].get(f"lambda{several}") or math.nan
            stuck = multiplier >= 0.99 * self.bounds[1]
            verdict = (
                f"lambda is at its bound of {self.bounds[1]:g}: data, model or training time did not allow more"
                if stuck
                else f"lambda is at {multiplier:.3g} and may still grow: train longer, or raise eta"
            )
            reached = best if best > 0.0 else averages[-1]
            goal, distortion = "more room", ""
            if isinstance(constraint, Distortion):
                goal = f"a target of {constraint.target + reached:.4g}"
                distortion = f", a distortion of {constraint.target + best:.4g}"
            said.append(
                f"{constraint} was not met: at the end it is {averages[-1]:.4g} an element too large, at best it was "
                f"{best:.4g}{distortion}{'' if best > 0 else ', which met it for a while'}; {verdict}. Otherwise give "
                f"it {goal}."
            )
        return tuple(said)

    def _inverse(self, value: float) -> float:
        """Computes u from lambda; for the softplus log(exp(v) - 1) = v + log(1 - exp(-v)), which does not overflow."""
        return math.log(value) if self.multiplier == "log" else value + math.log(-math.expm1(-value))
