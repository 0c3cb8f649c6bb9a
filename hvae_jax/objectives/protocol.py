"""The objective protocol, the batch and forward pass it takes, and the simplest objective, the negative ELBO."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from flax import linen as nn
from flax import struct
from jax import Array

from hvae_jax.distributions import has_closed_kl
from hvae_jax.objectives.bounds import elbo, log_likelihood
from hvae_jax.records import checked
from hvae_jax.trace import Model, Trace

OWN = "objective"
"""Name, among the parameters, of those that belong to the objective and not to the model."""


@struct.dataclass
class Batch:
    """A batch of examples.

    Attributes:
      x: examples, `[B, *event]`.
      y: labels, `[B]`; None if the data has none.

    Example:
        >>> batch = hv.Batch(x=jnp.zeros((3, 8, 8, 1)), y=jnp.array([0, 1, 2]))
        >>> len(batch.x), len(batch.y)
        (3, 3)
    """

    x: Array
    y: Array | None = None


@runtime_checkable
class Forward(Protocol):
    """A forward pass that keeps track of batch statistics: `(variables, x, key, **choices) -> (Trace, updates)`.

    It is the model's `apply`, so that `(variables, key, n, method="decode", train=False, **choices)` samples the model;
    `generated` calls it.
    """

    def __call__(self, variables: Any, x: Any, key: Any, **choices: Any) -> tuple[Trace, Any]:
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

    def parameters(self, forward: Forward, variables: Any, batch: Batch, key: Array) -> dict[str, Any]:
        """Makes the objective's own parameters, nested dicts of arrays; {} for none.

        They are trained with the model's: every call finds them as `variables["params"]["objective"]`. Gradients,
        the optimiser, averages, devices and checkpoints treat them like parameters at the paths "objective/...". The
        model does not see them, and evaluation and exported weights do not have them. An objective around another one
        returns the other's as well.

        Args:
          variables: the model's fresh variables.
          batch: the first examples.
        """
        return {}

    def trains(self, path: str) -> bool:
        """Whether the parameter at this path, such as "down4/prior/kernel", is trained; all are by default.

        Parameters that are not trained, and the statistics below the same paths, stay the same bit for bit.
        """
        return True

    def conclude(self, rows: Sequence[dict[str, float | int]]) -> tuple[str, ...]:
        """Comments on a run that has ended, in sentences, from the rows of its metrics.jsonl; () by default."""
        return ()

    def check(self, model: Model, x: np.ndarray) -> None:
        """Raises ValueError for a model or examples that it does not serve; nothing by default.

        Called before training, with a few examples as the model sees them, `[N, *event]`.
        """
        return

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """Computes (loss, metrics, state, updates) of one batch; `updates` is what `forward` returned."""
        ...


def traced(forward: Forward, variables: Any, batch: Batch, key: Array, **choices: Any) -> tuple[Trace, Any]:
    """`forward` on a batch: its trace, and the updated collections other than the parameters.

    Args:
      choices: further arguments of the model, such as `latents`.
    Raises TypeError, saying what to pass, for a model instead of its forward pass and for x instead of a `Batch`.
    """
    if isinstance(forward, nn.Module):
        raise TypeError(
            f"An objective was called with {type(forward).__name__} itself: it takes a forward pass that returns "
            '(trace, updates), such as functools.partial(model.apply, train=True, mutable=["batch_stats"]).'
        )
    if not isinstance(batch, Batch):
        given = type(batch).__name__
        raise TypeError(f"An objective was called with a {given} as its batch: pass Batch(x) or Batch(x, y).")
    return forward(variables, batch.x, key, y=batch.y, **choices)


def generated(forward: Forward, variables: Any, batch: Batch, key: Array, **choices: Any) -> Trace:
    """A sample of the model's own joint distribution, p(z) p(x | z), for as many examples as the batch has.

    The model runs in evaluation mode, as for `hvae sample`: batch norm has the running statistics, so that the samples
    do not depend on each other. Statistics stay those of the data. Labels of the batch are passed on, unless the class
    is one of the model's latents.

    Args:
      choices: further arguments of the model's `decode`, such as `latents`.
    Returns: a trace without x; its `x_dist.sample(key)` draws x.
    """
    y = batch.y
    if y is not None and "y" in jax.eval_shape(lambda: traced(forward, variables, batch, key)[0]).names:
        y = None
    trace, _ = forward(variables, key, batch.x.shape[0], y=y, method="decode", train=False, **choices)
    return trace


def with_own(params: Any, own: Mapping[str, Any]) -> Any:
    """The model's parameters with those of the objective beside them, if it has any.

    Raises ValueError if the model has parameters of that name.
    """
    if not own:
        return params
    if OWN in params:
        raise ValueError(f"The model has parameters named {OWN!r}, the name of the objective's own: rename them.")
    return {**params, OWN: own}


def without_own(params: Any) -> Any:
    """The model's parameters alone."""
    if not isinstance(params, Mapping) or OWN not in params:
        return params
    return {name: leaf for name, leaf in params.items() if name != OWN}


def own_of(params: Any) -> Mapping[str, Any]:
    """The objective's own parameters; {} if it has none."""
    return params.get(OWN, {}) if isinstance(params, Mapping) else {}


def is_own(path: str) -> bool:
    """Whether a path is that of a parameter of the objective."""
    return path.startswith(f"{OWN}/")


def recalling(forward: Forward, variables: Any, batch: Batch, key: Array, found: tuple[Trace, Any]) -> Forward:
    """`forward`, with `found` in place of the pass that made it: `traced(forward, variables, batch, key)`.

    A base objective that makes this pass too then has the same trace, at no cost: a compiler merges two equal passes,
    but not their gradients. The arguments have to be the very same arrays, inside one program; a base that makes
    other passes, such as one for each of several draws, has them from `forward`.
    """
    made_from = (variables, batch.x, key)

    def recalled(variables: Any, x: Any, key: Any, **choices: Any) -> tuple[Trace, Any]:
        same = all(a is b for a, b in zip((variables, x, key), made_from, strict=True))
        if same and set(choices) == {"y"} and choices["y"] is batch.y:
            return found
        return forward(variables, x, key, **choices)

    return recalled


def bare_metrics(trace: Trace) -> dict[str, Array]:
    """Batch means in nats, never scaled or regularised: `elbo`, `log_px`, and `rates`, `[L]`, top first.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> metrics = hv.objectives.bare_metrics(trace)
        >>> print(*(metrics[name].round(3) for name in ("elbo", "log_px", "rates")))
        -3.773 -2.773 [1.]
    """
    return {"elbo": elbo(trace).mean(), "log_px": log_likelihood(trace).mean(), "rates": trace.rates.mean(1)}


def refuse_missing(owner: str, model: Model) -> None:
    """Raises ValueError, naming the objective, which reads all of x, for a model of data with missing values."""
    if model.likelihood is not None and model.likelihood.takes_missing:
        raise ValueError(
            f"{owner} reads x itself, which has missing values here. Take an objective of bounds alone, such as "
            "NegativeELBO or ImportanceWeighted."
        )


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
    """loss = -mean elbo: the article's objective.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> forward = lambda *_, **__: (trace, {})  # in place of a model's pass
        >>> loss, *_ = hv.NegativeELBO()(forward, {}, hv.Batch(x), jax.random.key(0), jnp.array(0), ())
        >>> print(loss.round(3))  # 2.773 + 1
        3.773
    """

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """Computes the loss from one sample of every latent."""
        trace, updates = traced(forward, variables, batch, key)
        metrics = bare_metrics(trace)
        return -metrics["elbo"], metrics, state, updates
