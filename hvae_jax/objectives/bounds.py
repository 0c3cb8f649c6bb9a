"""Bounds of log p(x): `elbo` and `log_weight` from one Trace, `importance` and `iwae` from any number of draws."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float, Key

from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.runtime.prng import check_key, exact_under_vmap
from hvae_jax.trace import Model, Trace


def elbo(trace: Trace) -> Float[Array, " batch"]:
    """log p(x | z) - sum_l rate_l, one value per example, nats: a one-sample lower bound of log p(x).

    Source: the article's ELBO; Kingma & Welling (2014), equation 3.
    Raises ValueError or TypeError as `log_likelihood` does.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> print(hv.elbo(trace).round(3))  # -2.773 - 1
        [-3.773]
    """
    return log_likelihood(trace) - trace.rates.sum(0)


def log_weight(trace: Trace) -> Float[Array, " batch"]:
    """log w = log p(x | z) + sum_l (log p_l - log q_l) at the sampled latents, per example, nats; E w = p(x).

    Source: Burda et al. (2015), equation 5.
    Raises ValueError or TypeError as `log_likelihood` does.

    Example:
        >>> model, x = hv.models.LinearVAE((2,), inference="exact"), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> draws = [hv.log_weight(model.apply(variables, x, jax.random.key(seed))) for seed in (2, 3)]
        >>> bool(jnp.allclose(*draws, atol=1e-3))  # where q is the posterior itself, every weight is p(x)
        True
    """
    return log_likelihood(trace) - trace.ratios.sum(0)


def log_likelihood(trace: Trace) -> Float[Array, " batch"]:
    """log p(x | z) of the trace, per example, nats.

    Raises TypeError for what is no Trace, such as the pair of a Trace and updates, and ValueError for a trace without x
    or a vmapped one.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> print(hv.objectives.log_likelihood(trace).round(3))
        [-2.773]
    """
    if not isinstance(trace, Trace):
        was = f"of type {type(trace).__name__}"
        if isinstance(trace, tuple) and trace and isinstance(trace[0], Trace):
            was = "a pair (trace, updates), as apply returns with mutable=: take the trace out of it"
        raise TypeError(f"A bound is computed from a Trace, model.apply(variables, x, key), but this is {was}.")
    if trace.log_px is None:
        raise ValueError("This trace has no x (it comes from decode): there is no bound of log p(x) in it.")
    if trace.log_px.ndim != 1:
        raise ValueError(
            f"log_px has shape {trace.log_px.shape}, but that of one trace is [B]: this looks like a vmapped Trace. "
            "Compute the bound inside the vmap, as in vmap(lambda key: elbo(model.apply(variables, x, key)))."
        )
    return trace.log_px


@struct.dataclass
class Importance:
    """Estimates of log p(x) from K importance-weighted draws, per example; every field `[B]`.

    Attributes:
      bound: IWAE bound, log (1/K) sum_k w_k; nats.
      elbo: mean of `elbo` over the draws, with closed-form KLs where they are right; nats.
      effective_sample_size: (sum w)^2 / sum w^2, between 1 and K.
      standard_error: standard error of `bound` by the delta method, sd(w) / (mean(w) sqrt(K)); nats; NaN for K = 1. It
        relies on the K draws alone: with a small effective sample size it is too small and the bound too low.
      elbo_standard_error: standard error of `elbo`; nats; NaN for K = 1.
    """

    bound: Array
    elbo: Array
    effective_sample_size: Array
    standard_error: Array
    elbo_standard_error: Array


def importance(
    model: Model,
    variables: Any,
    x: ArrayLike,
    key: Key[Array, ""],
    k: Array | np.integer | int = 500,
    chunk: int = 50,
    y: ArrayLike | None = None,
) -> Importance:
    """The IWAE bound with K draws, one value per example, in memory that does not grow with K.

    Draw i has the key `fold_in(key, i)` whatever k and chunk are, so that results do not depend on the chunk (beyond
    rounding) and a larger K continues a smaller one. With keys under which a vmap changes the numbers, as it does
    under JAX's "rbg" and "unsafe_rbg", the draws are therefore made one by one, and chunk has no effect.

    Args:
      model, variables: a model and its variables; it runs in evaluation mode.
      x, y: data, `[B, *event]`, and labels, `[B]`, for a model with classes.
      key: key that the draws' keys are folded from.
      k: number of draws K; may be traced, so that one compilation serves every K, but reverse-mode differentiation is
        then impossible.
      chunk: number of draws held in memory at once.
    Source: Burda et al. (2015), equation 8; effective sample size after Kong (1992).
    Raises ValueError if k or chunk is not a whole number of 1 or more; a traced k is not checked. Raises TypeError for
    arguments in another order.

    Example:
        >>> model, x = hv.models.LinearVAE((2,), inference="exact"), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> estimates = hv.importance(model, variables, x, jax.random.key(2), k=4, chunk=2)
        >>> print(estimates.effective_sample_size.round(2))  # q is the posterior itself: all weights are equal
        [4. 4. 4.]
    """
    _check_call(model, variables, key)
    check_draws("importance", chunk=chunk)
    if not exact_under_vmap(key):
        chunk = 1
    if not isinstance(k, jax.core.Tracer):
        check_draws("importance", k=k)
        if not isinstance(k, Array):
            return _importance_static(model, variables, x, key, int(k), min(chunk, int(k)), y)
    return _importance_traced(model, variables, x, key, k, chunk, y)


def _check_call(model: Any, variables: Any, key: Any) -> None:
    """Raises TypeError unless these are a model, variables and a key, as far as their types tell."""
    order = "the order is importance(model, variables, x, key, k)"
    if not isinstance(model, Model):
        raise TypeError(f"importance: the model is of type {type(model).__name__}, which is no model; {order}.")
    if not isinstance(variables, Mapping):
        raise TypeError(f"importance: the variables are of type {type(variables).__name__} and no dict; {order}.")
    check_key("importance", key)


def check_draws(owner: str, **numbers: Any) -> None:
    """Raises ValueError unless each of these is a whole number of 1 or more, naming `owner` and the number."""
    for name, number in numbers.items():
        kind = np.asarray(number)
        if kind.shape or kind.dtype.kind not in "iu" or kind < 1:
            raise ValueError(f"{owner}({name}={number}): it has to be a whole number of 1 or more.")


def _importance(
    model: Model, variables: Any, x: ArrayLike, key: Key[Array, ""], k: Array | int, chunk: int, y: ArrayLike | None
) -> Importance:
    """Body of `importance`, jitted below: without jit every call would compile its loop anew."""

    def draw_one(index: Array) -> tuple[Array, Array]:
        trace = model.apply(variables, x, jax.random.fold_in(key, index), y=y)
        # The last chunk may go beyond draw K: those draws get weight 0.
        counts = index < k
        return jnp.where(counts, log_weight(trace), -jnp.inf), jnp.where(counts, elbo(trace), 0.0)

    def fold(carry: tuple[Array, ...], draws: tuple[Array, Array]) -> tuple[tuple[Array, ...], None]:
        peak, total, squares, elbo_mean, elbo_squares, seen = carry
        log_w, one_elbo = draws
        new_peak = jnp.maximum(peak, log_w)
        # While all weights are 0, peak is -inf, and -inf - (-inf) would be NaN.
        safe = jnp.where(jnp.isneginf(new_peak), 0.0, new_peak)
        shrink, w = jnp.exp(peak - safe), jnp.exp(log_w - safe)
        # Welford's running mean and sum of squared deviations. A mean of -inf (x has probability 0) stays -inf.
        step = jnp.where((seen < k) & (one_elbo != elbo_mean), one_elbo - elbo_mean, 0.0)
        seen = seen + 1
        mean = elbo_mean + step / seen
        return (
            new_peak,
            total * shrink + w,
            squares * shrink**2 + w**2,
            mean,
            elbo_squares + step * (one_elbo - mean),
            seen,
        ), None

    def fold_chunk(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        # The draws of a chunk are made in parallel, `[chunk, B]`, but folded one by one, so that the order of the sum
        # does not depend on the chunk.
        return jax.lax.scan(fold, carry, make_chunk(i * chunk + jnp.arange(chunk)))[0]

    make_chunk = jax.vmap(draw_one) if exact_under_vmap(key) else partial(jax.lax.map, draw_one)

    # Shape and dtype of the log weights, without computing them.
    probe = jax.eval_shape(lambda: draw_one(jnp.int32(0)))[0]
    zeros = jnp.zeros(probe.shape, probe.dtype)
    carry = (jnp.full(probe.shape, -jnp.inf, probe.dtype), zeros, zeros, zeros, zeros, jnp.int32(0))
    carry = jax.lax.fori_loop(0, (k + chunk - 1) // chunk, fold_chunk, carry)
    peak, total, squares, elbo_mean, elbo_squares, _ = carry

    draws = jnp.asarray(k, probe.dtype)
    effective = total**2 / squares
    return Importance(
        bound=peak + jnp.log(total) - jnp.log(draws),
        elbo=elbo_mean,
        effective_sample_size=effective,
        # sd(w)^2 / mean(w)^2 = K/ESS - 1, made unbiased by K/(K - 1); 0/0, NaN, for K = 1
        standard_error=jnp.sqrt(jnp.maximum(draws / effective - 1.0, 0.0) / (draws - 1.0)),
        elbo_standard_error=jnp.sqrt(elbo_squares / ((draws - 1.0) * draws)),
    )


_importance_static = jax.jit(_importance, static_argnames=("model", "k", "chunk"))
_importance_traced = jax.jit(_importance, static_argnames=("model", "chunk"))


def iwae(
    model: Model,
    variables: Any,
    x: ArrayLike,
    key: Key[Array, ""],
    k: Array | np.integer | int = 500,
    chunk: int = 50,
    y: ArrayLike | None = None,
) -> Float[Array, " batch"]:
    """The IWAE bound log (1/K) sum_k w_k per example, nats: `importance(...).bound`, with the same arguments.

    Example:
        >>> model, x = hv.models.LinearVAE((2,), inference="exact"), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> bound = hv.iwae(model, variables, x, jax.random.key(2), k=4, chunk=2)
        >>> bool(np.allclose(bound, hv.models.ClosedForm(model, variables).log_px(x), atol=1e-3))  # log p(x)
        True
    """
    return importance(model, variables, x, key, k, chunk, y).bound
