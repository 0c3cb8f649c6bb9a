"""What an objective is, what it is handed, and the plainest one."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from flax import struct
from jax import Array

from hvae_jax.distributions import has_closed_kl
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
    """What training minimises: a frozen record. `metrics` always has the bare `elbo`, `log_px` and `rates` [L].

    Objectives inherit from it for the sake of what has a default; `__call__` is what they write.
    """

    def init(self, variables: Any) -> Any:
        """The objective's own state, a pytree of arrays made from the model's fresh variables; () where it has none.

        It is saved with the run, handed to every call and replaced by what the call gives back.
        """
        return ()

    def trains(self, path: str) -> bool:
        """Whether the parameter at this path, "down4/prior/kernel", is trained. All are, unless an objective says so.

        The others, and the statistics below the same paths, stay as they are, bit for bit.
        """
        return True

    def conclude(self, rows: Sequence[dict[str, float | int]]) -> tuple[str, ...]:
        """What has to be said of a run that has ended, in sentences, from the rows of its metrics.jsonl."""
        return ()

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """(loss, metrics, state, updates) of one batch; `updates` is what `forward` gave."""
        ...


def bare_metrics(trace: Trace) -> dict[str, Array]:
    """Batch means in nats: `elbo`, `log_px`, and `rates` per level, top first. Never scaled, never regularised."""
    return {"elbo": elbo(trace).mean(), "log_px": log_likelihood(trace).mean(), "rates": trace.rates.mean(1)}


def check_closed(owner: str, trace: Trace, instead: str) -> None:
    """Raises ValueError, naming the level, if the KL of some level's q and p has no closed form.

    Args:
      owner: what needs the closed form.
      instead: what to use, as the end of a sentence.
    """
    for level in trace.levels:
        if not has_closed_kl(level.q, level.p):
            raise ValueError(
                f"{owner} needs the KL of every level in closed form, but level {level.name!r} has none: its q is a "
                f"{type(level.q).__name__} and its p a {type(level.p).__name__}. {instead}"
            )


@dataclasses.dataclass(frozen=True)
class NegativeELBO(Objective):
    """loss = -mean elbo: the article's objective."""

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """One descent, one sample of every latent."""
        trace, updates = forward(variables, batch.x, key, y=batch.y)
        metrics = bare_metrics(trace)
        return -metrics["elbo"], metrics, state, updates
