"""What is missing of x, drawn from p(x_missing | x_seen) by a Markov chain over the latents and the missing elements.

    x_missing ~ p(x_missing | x_seen, z)                                        exact, by the likelihood
    z' ~ q(z | x)     x = (x_seen, x_missing)                                   the encoder as a proposal

"metropolis" (Mattei & Frellsen, 2018) accepts z' with probability

    min(1, [p(x | z') p(z') q(z | x)] / [p(x | z) p(z) q(z' | x)]) = min(1, w(x, z') / w(x, z)),

both under the same x, so that p(x_missing, z | x_seen) is the chain's stationary distribution: the draws are exact in
the limit, whatever q is. "pseudo_gibbs" (Rezende et al., 2014) always accepts. Its stationary distribution is that one
only if q(z | x) = p(z | x).

log w is that of a `Trace`, so that every model with such a trace can be filled in, whatever its levels are.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Key

from hvae_jax.filling.masks import as_seen
from hvae_jax.likelihoods.seen import fill, possible_value
from hvae_jax.objectives.bounds import check_draws, log_weight
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.runtime.prng import check_key, exact_under_vmap
from hvae_jax.trace import Model, Trace

METHODS = ("metropolis", "pseudo_gibbs")


@struct.dataclass
class Imputed:
    """Fillings of x, and what the chain was like.

    Attributes:
      fillings: whole x at equal distances along the chain, the last one at its end, `[keep, B, *event]`, float; what is
        seen is as it was given.
      mean: mean of x over all steps after the warm-up, `[B, *event]`; where x is missing, an estimate of
        E[x_missing | x_seen].
      deviation: standard deviation of x over the same steps, `[B, *event]`; 0 where x is seen.
      acceptance: share of the proposals that were accepted after the warm-up, by example, `[B]`; 1 with "pseudo_gibbs".
      latents: latents of the last step, top first.
    """

    fillings: Array
    mean: Array
    deviation: Array
    acceptance: Array
    latents: tuple[Array, ...]


def impute(
    model: Model,
    variables: Any,
    x: ArrayLike,
    seen: ArrayLike | None,
    key: Key[Array, ""],
    steps: int = 500,
    method: str = "metropolis",
    *,
    y: ArrayLike | None = None,
    warmup: int | None = None,
    keep: int = 3,
) -> Imputed:
    """Fill in what is missing of x, each example by a Markov chain of its own.

        x_missing ~ p(x_missing | x_seen, z)                            exact, by the likelihood
        z' ~ q(z | x)                                                   x with its present filling

    "metropolis" accepts z' with probability min(1, w(x, z')/w(x, z)), w = p(x | z) p(z)/q(z | x), so that the chain's
    stationary distribution is p(x_missing, z | x_seen), whatever q is. "pseudo_gibbs" always accepts, which is right
    only if q(z | x) = p(z | x).

    A chain starts at latents inferred from x with a constant in place of what is missing. From there Metropolis steps
    may be refused for long, so that the first `warmup` steps accept every proposal. An example of which nothing is seen
    starts at a draw of the prior and is never warmed up, so that all its fillings are draws of the model's p(x). An
    example that is seen whole stays as it is.

    Successive fillings are not independent: the lower the acceptance, the longer a chain stays where it is. Chains of
    the same x with other keys, or x repeated along the batch, are independent.

    Args:
      model, variables: a model and its variables; it runs in evaluation mode.
      x: `[B, *event]`; values that are not seen are not read, and may be NaN.
      seen: which elements are seen, as `as_seen` takes it: by element or by pixel, for each example or for all; None
        takes what is not NaN.
      key: random key of the whole chain.
      steps: length of a chain, warm-up included.
      method: "metropolis" or "pseudo_gibbs", see above.
      y: labels `[B]`, for a model with classes, and of a model that infers a class, those that are known (-1: none).
      warmup: number of steps before the draws that count; None takes a tenth.
      keep: number of fillings that are returned.
    Source: Rezende et al. (2014), section F; Mattei & Frellsen (2018), algorithm 1.
    Raises ValueError, with what is accepted, for a mask of another shape, a mask under which everything is seen, a seen
    value that the likelihood does not have, a mask under which the likelihood has no closed form
    (`Likelihood.check_seen`), a model with levels that are functions of x, another number of labels than of examples,
    and numbers of steps that do not fit each other.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> x = x.at[:, 3].set(jnp.nan)  # the last of four elements is missing
        >>> filled = hv.impute(model, variables, x, None, jax.random.key(2), steps=20, keep=2)
        >>> filled.fillings.shape, bool(jnp.isfinite(filled.fillings).all()), bool((filled.deviation[:, :3] == 0).all())
        ((2, 3, 4), True, True)
    """
    check_key("impute", key)
    check_draws("impute", steps=steps, keep=keep)
    if method not in METHODS:
        raise ValueError(f"impute(method={method!r}): it has to be one of {', '.join(METHODS)}.")
    warmup = steps // 10 if warmup is None else warmup
    if not isinstance(warmup, int | np.integer) or not 0 <= warmup <= steps - keep:
        raise ValueError(
            f"impute(steps={steps}, warmup={warmup}, keep={keep}): of {steps} steps, {keep} have to be left after the "
            "warm-up."
        )
    values, mask = _checked(model, x, seen)
    labels = None if y is None else jnp.asarray(y)
    if labels is not None and labels.shape != values.shape[:1]:
        raise ValueError(
            f"impute: y has shape {labels.shape}, but a label for each of {len(values)} examples is needed."
        )
    static = {"method": method, "steps": int(steps), "warmup": int(warmup), "keep": int(keep)}
    return _impute(model, variables, jnp.asarray(values), jnp.asarray(mask), key, labels, **static)


def _checked(model: Model, x: ArrayLike, seen: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """x as floats, with a possible value where it is not seen, and the mask `[B, *event]`; raises as `impute` does."""
    if model.observed:
        raise ValueError(
            f"{type(model).__name__} has levels that are functions of x ({', '.join(model.observed)}), which are not "
            "known where x is not: it cannot fill x in."
        )
    array = np.asarray(x)
    if array.dtype.kind not in "biuf" or array.ndim < 2 or not array.size:
        raise ValueError(f"impute: x has shape {array.shape} and dtype {array.dtype}; numbers [B, *event] are needed.")
    values = array.astype(np.promote_types(array.dtype if array.dtype.kind == "f" else np.float32, np.float32))
    known = ~np.isnan(values)
    mask = known if seen is None else as_seen(seen, array.shape)
    if (mask & ~known).any():
        raise ValueError(
            f"impute: x is NaN at {int((mask & ~known).sum())} elements that the mask calls seen. Without a mask, "
            "all that is not NaN is seen."
        )
    if mask.all():
        raise ValueError("Everything is seen: there is nothing to fill in.")
    family = model.likelihood
    values = np.where(mask, values, values.dtype.type(possible_value(family)))
    if family is not None:
        family.check(values)
        family.check_seen(mask, "The mask")
    return values, mask


@struct.dataclass
class _Chain:
    """The state of one chain, and what is kept of its past; arrays of an example are a batch of one.

    Attributes:
      latents: top first.
      key: of the pass that drew the latents. A network that draws random numbers draws the same ones again from it, so
        that they belong to the latents.
      x: `[1, *event]`, drawn given the latents.
      accepted: number of proposals accepted after the warm-up.
      mean, squares: running mean, and sum of squared deviations, `[1, *event]`.
      fillings: `[keep, 1, *event]`.
    """

    latents: tuple[Array, ...]
    key: Array
    x: Array
    accepted: Array
    mean: Array
    squares: Array
    fillings: Array


def _run(
    model: Model,
    variables: Any,
    x: Array,
    seen: Array,
    key: Array,
    y: Array | None,
    *,
    method: str,
    steps: int,
    warmup: int,
    keep: int,
) -> Imputed:
    """Body of `impute`, jitted below: a chain for each example, with the key folded with its number."""
    count = steps - warmup
    # the step of each filling that is kept; before it, later steps overwrite its place
    at = jnp.asarray([warmup + -(-count * (k + 1) // keep) - 1 for k in range(keep)])

    def chain_of(x: Array, seen: Array, key: Array, y: Array | None) -> _Chain:
        x, seen = x[None], seen[None]
        y = None if y is None else y[None]

        def infer(x: Array, key: Array, latents: tuple[Array, ...] | None = None) -> Trace:
            return model.apply(variables, x, key, y=y, latents=latents)

        def step(chain: _Chain, t: Array) -> tuple[_Chain, None]:
            key_pass, key_fill, key_accept = jax.random.split(jax.random.fold_in(key, t), 3)
            proposed = infer(chain.x, key_pass)
            if method == "pseudo_gibbs":
                accept = jnp.bool_(True)
                latents, key_of = proposed.latents, key_pass
                drawn = fill(proposed.x_dist, x, seen, key_fill)
            else:
                current = infer(chain.x, chain.key, chain.latents)
                ratio = log_weight(proposed)[0] - log_weight(current)[0]
                accept = jnp.log(jax.random.uniform(key_accept, dtype=ratio.dtype)) < ratio  # never where it is NaN
                accept |= (t < warmup) & seen.any()
                latents = jax.tree.map(lambda a, b: jnp.where(accept, a, b), proposed.latents, chain.latents)
                key_of = jnp.where(accept, key_pass, chain.key)
                ways = [fill(trace.x_dist, x, seen, key_fill) for trace in (proposed, current)]
                drawn = jnp.where(accept, ways[0], ways[1])
            number = jnp.maximum(t - warmup + 1, 1).astype(drawn.dtype)
            counts = t >= warmup
            change = drawn - chain.mean
            mean = jnp.where(counts, chain.mean + change / number, chain.mean)
            squares = jnp.where(counts, chain.squares + change * (drawn - mean), chain.squares)
            slot = jnp.searchsorted(at, t)
            fillings = jax.lax.dynamic_update_index_in_dim(chain.fillings, drawn, slot, 0)
            accepted = chain.accepted + (counts & accept)
            return _Chain(latents, key_of, drawn, accepted, mean, squares, fillings), None

        key_start, key_first = jax.random.split(jax.random.fold_in(key, steps))
        latents = _start(model, variables, x, seen, key_start, y)
        first = fill(infer(x, key_start, latents).x_dist, x, seen, key_first)
        nothing = jnp.zeros_like(first)
        blank = jnp.zeros((keep, *first.shape), first.dtype)
        begin = _Chain(latents, key_start, first, jnp.int32(0), nothing, nothing, blank)
        return jax.lax.scan(step, begin, jnp.arange(steps))[0]

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(x.shape[0]))
    if exact_under_vmap(key):
        chains = jax.vmap(chain_of)(x, seen, keys, y)
    else:
        chains = jax.lax.map(lambda one: chain_of(*one), (x, seen, keys, y))
    mean, squares, latents = jax.tree.map(lambda a: a[:, 0], (chains.mean, chains.squares, chains.latents))
    # of what is seen, rounding would leave a little
    mean, squares = jnp.where(seen, x, mean), jnp.where(seen, 0.0, squares)
    fillings = jnp.moveaxis(chains.fillings[:, :, 0], 1, 0)
    return Imputed(fillings, mean, jnp.sqrt(squares / count), chains.accepted / count, latents)


_impute = jax.jit(_run, static_argnames=("model", "method", "steps", "warmup", "keep"))


def _start(model: Model, variables: Any, x: Array, seen: Array, key: Array, y: Array | None) -> tuple[Array, ...]:
    """The first latents: a draw of the prior if nothing is seen, else inferred from x with a constant in it."""
    inferred = model.apply(variables, x, key, y=y).latents
    # a class that is among the latents cannot be known in a draw of the prior
    if y is not None and not model.classes:
        return inferred
    drawn = model.apply(variables, key, 1, y=y, method="decode").latents
    return jax.tree.map(lambda a, b: jnp.where(seen.any(), a, b), inferred, drawn)
