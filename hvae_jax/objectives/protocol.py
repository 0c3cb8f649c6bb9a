"""What an objective is, what it is handed, and the plainest one."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

from flax import struct
from jax import Array

from hvae_jax.objectives.bounds import elbo, log_likelihood
from hvae_jax.trace import Trace


@struct.dataclass
class Batch:
    """Examples and, where there are any, their labels. `x`: `[B, *event]`; `y`: `[B]` or None."""

    x: Array
    y: Array | None = None


@runtime_checkable
class Forward(Protocol):
    """A model with its statistics: `(variables, x, key, **choices) -> (Trace, updates)`."""

    def __call__(self, variables: Any, x: Array, key: Array, **choices: Any) -> tuple[Trace, Any]:
        """One trace of x, and what the model's other collections become."""
        ...


@runtime_checkable
class Objective(Protocol):
    """What training minimises: a frozen record. `metrics` always has the bare `elbo`, `log_px` and `rates` [L]."""

    def init(self) -> Any:
        """The objective's own state: a pytree of arrays, () where there is none."""
        ...

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """(loss, metrics, state, updates) of one batch; `updates` is what `forward` gave."""
        ...


def bare_metrics(trace: Trace) -> dict[str, Array]:
    """Batch means in nats: `elbo`, `log_px`, and `rates` per level, top first. Never scaled, never regularised."""
    return {"elbo": elbo(trace).mean(), "log_px": log_likelihood(trace).mean(), "rates": trace.rates.mean(1)}


@dataclasses.dataclass(frozen=True)
class NegativeELBO:
    """loss = -mean elbo: the article's objective."""

    def init(self) -> tuple[()]:
        """No state."""
        return ()

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """One descent, one sample of every latent."""
        trace, updates = forward(variables, batch.x, key, y=batch.y)
        metrics = bare_metrics(trace)
        return -metrics["elbo"], metrics, state, updates
