"""A schedule over training for rho, the smoothing of a model's networks."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array

from hvae_jax.networks.smoothed import COLLECTION
from hvae_jax.objectives.around import Around
from hvae_jax.objectives.protocol import Batch, Forward, NegativeELBO, Objective
from hvae_jax.objectives.schedules import Constant, Linear, Schedule
from hvae_jax.records import checked
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.trace import Trace


@dataclasses.dataclass(frozen=True)
@checked
class ScheduledSmoothing(Around):
    """The base's loss of the model at rho(t) in place of the rho of its setting (`networks.smoothed`).

    Validation, results and samples are of the model at its own rho: let the schedule end there, and choose no best
    variables before it has. A `Constant` trains as the same number in the model's setting does, bit for bit.

    Attributes:
      base: objective that is trained on.
      rho: schedule of rho, one number from 0 to 1; values beyond are clipped.

    Metrics: those of the base, at rho(t), and `rho`.
    Raises ValueError for a schedule whose settings `value`, `initial`, `final` or `floor` are several numbers or lie
    outside [0, 1]; and at the first trace for a model without the setting.

    Example:
        >>> objective = hv.objectives.ScheduledSmoothing(rho=hv.objectives.Linear(0, 100, initial=0.5))
        >>> print(objective.rho(jnp.array(50)))  # from 0.5 to 1, the plain model
        0.75
    """

    base: Objective = NegativeELBO()
    rho: Schedule = Linear(initial=0.5, final=1.0)

    def __post_init__(self) -> None:
        for name in ("value", "initial", "final", "floor"):
            given = getattr(self.rho, name, 0.0)
            if isinstance(given, tuple) or not 0.0 <= given <= 1.0:
                raise ValueError(
                    f"ScheduledSmoothing(rho={self.rho}): its {name} is {given}, and has to be one number from 0 to 1."
                )

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """Computes the base's loss at rho(t)."""
        # a constant stays a Python number, so that the program is that of the setting
        constant = self.rho.value if isinstance(self.rho, Constant) else None
        rho = constant if isinstance(constant, int | float) else jnp.clip(self.rho(step), 0.0, 1.0)
        loss, metrics, state, updates = self.base(smoothed_by(forward, rho), variables, batch, key, step, state)
        return loss, {**metrics, "rho": jnp.asarray(rho, float)}, state, updates


def smoothed_by(forward: Forward, rho: ArrayLike) -> Forward:
    """The forward pass of the model at another rho than that of its setting, which may be traced.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> forward = lambda variables, x, key: (trace, variables)  # in place of a model's pass, to see its variables
        >>> hv.objectives.smoothed_by(forward, 0.5)({"params": {}}, x, jax.random.key(0))[1]
        {'params': {}, 'smoothing': {'rho': 0.5}}
    """

    def at_rho(variables: Any, x: Array, key: Array, **choices: Any) -> tuple[Trace, Any]:
        return forward({**variables, COLLECTION: {"rho": rho}}, x, key, **choices)

    return at_rho
