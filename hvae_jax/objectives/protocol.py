"""The objective protocol, the batch and forward pass it takes, and the simplest objective, the negative ELBO."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from flax import struct
from jax import Array

from hvae_jax.distributions import has_closed_kl
from hvae_jax.objectives.bounds import elbo, log_likelihood
from hvae_jax.records import checked
from hvae_jax.trace import Trace


@struct.dataclass
class Batch:
    """A batch of examples.

    Attributes:
      x: examples, `[B, *event]`.
      y: labels, `[B]`; None if the data has none.
    """

    x: Array
    y: Array | None = None


@runtime_checkable
class Forward(Protocol):
    """A forward pass that keeps track of batch statistics: `(variables, x, key, **choices) -> (Trace, updates)`."""

    def __call__(self, variables: Any, x: Array, key: Array, **choices: Any) -> tuple[Trace, Any]:
        """Returns one trace of x and the updated collections other than the parameters."""
        ...


@runtime_checkable
class Objective(Protocol):
    """A loss to train on: a frozen record. Its metrics always have the bare `elbo`, `log_px` and `rates` (`[L]`).

    Objectives inherit the defaults from this class and implement `__call__`.
    """

    def init(self, variables: Any) -> Any:
        """Makes the objective's own state, a pytree of arrays, from the model's fresh variables; () for no state.

        The state is saved in checkpoints, passed to every call and replaced by the one that the call returns.
        """
        return ()

    def trains(self, path: str) -> bool:
        """Whether the parameter at this path, such as "down4/prior/kernel", is trained; all are by default.

        Parameters that are not trained, and the statistics below the same paths, stay the same bit for bit.
        """
        return True

    def conclude(self, rows: Sequence[dict[str, float | int]]) -> tuple[str, ...]:
        """Comments on a run that has ended, in sentences, from the rows of its metrics.jsonl; () by default."""
        return ()

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """Computes (loss, metrics, state, updates) of one batch; `updates` is what `forward` returned."""
        ...


def bare_metrics(trace: Trace) -> dict[str, Array]:
    """Batch means in nats, never scaled or regularised: `elbo`, `log_px`, and `rates`, `[L]`, top first."""
    return {"elbo": elbo(trace).mean(), "log_px": log_likelihood(trace).mean(), "rates": trace.rates.mean(1)}


def check_closed(owner: str, trace: Trace, instead: str) -> None:
    """Raises ValueError, naming the level, if the KL of some level's q and p has no closed form.

    Args:
      owner: name of the setting that needs the closed form.
      instead: sentence that says what to use instead.
    """
    for level in trace.levels:
        if not has_closed_kl(level.q, level.p):
            raise ValueError(
                f"{owner} needs the KL of every level in closed form, but level {level.name!r} has none: its q is a "
                f"{type(level.q).__name__} and its p a {type(level.p).__name__}. {instead}"
            )


@dataclasses.dataclass(frozen=True)
@checked
class NegativeELBO(Objective):
    """loss = -mean elbo: the article's objective."""

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """Computes the loss from one sample of every latent."""
        trace, updates = forward(variables, batch.x, key, y=batch.y)
        metrics = bare_metrics(trace)
        return -metrics["elbo"], metrics, state, updates
