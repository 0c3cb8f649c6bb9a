"""What each level is worth: rates, bounds and units of one set of draws, and what the ELBO loses without a level."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jax.typing import ArrayLike

from hvae_jax.diagnostics.usage import Usage, usage_of
from hvae_jax.distributions import FromNoise
from hvae_jax.objectives import elbo, log_weight
from hvae_jax.trace import Model, Trace


@struct.dataclass
class Measured:
    """Estimates from one set of K draws of all latents, per example, so that they agree with each other.

    Attributes:
      usage: rates, distortion and units: `usage.log_px - usage.rates.sum(0)` is `elbo`.
      elbo: mean of the ELBO, `[B]`; nats.
      bound: the IWAE bound of the K draws, `[B]`; nats.
      effective_sample_size: (sum w)^2 / sum w^2, between 1 and K, `[B]`.
      distance: half the mean square of log q - log p at the samples, `[L, B]`; nats. Close to the KL where that is
        small, and 0 only if q = p: unlike a rate that is a log-ratio, which may be 0 by cancelling.
    """

    usage: Usage
    elbo: Array
    bound: Array
    effective_sample_size: Array
    distance: Array


def measured(
    model: Model, variables: Any, x: ArrayLike, key: Array, draws: int = 200, y: ArrayLike | None = None
) -> Measured:
    """Averages over `draws` traces of x, one of them in memory at a time.

    Draw i has the key `fold_in(key, i)`, as in `usage` and `importance`: with the same key and number of draws they
    return the same numbers, up to rounding.
    Source: Burda et al. (2015), equation 8, for the bound; Kong (1992) for the effective sample size.
    Raises ValueError for fewer than one draw.
    """
    if draws < 1:
        raise ValueError(f"measured(draws={draws}): 1 or more are needed.")

    def one(index: Array) -> tuple[tuple[Usage, Array, Array], Array]:
        trace = model.apply(variables, x, jax.random.fold_in(key, index), y=y)
        return (usage_of(trace), elbo(trace), 0.5 * trace.ratios**2), log_weight(trace)

    def add(total: Any, index: Array) -> tuple[Any, Array]:
        values, log_w = one(index)
        return jax.tree.map(jnp.add, total, values), log_w

    # A scan and not a vmap over the draws, so that one trace is in memory at a time.
    shapes = jax.eval_shape(lambda: one(jnp.int32(0)))[0]
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, log_w = jax.lax.scan(add, zero, jnp.arange(draws))
    used, mean_elbo, distance = jax.tree.map(lambda leaf: leaf / draws, total)
    log_sum = jax.nn.logsumexp(log_w, axis=0)
    effective = jnp.exp(2.0 * log_sum - jax.nn.logsumexp(2.0 * log_w, axis=0))
    return Measured(used, mean_elbo, log_sum - jnp.log(float(draws)), effective, distance)


def loss_without(
    model: Model, variables: Any, x: ArrayLike, key: Array, draws: int = 16, y: ArrayLike | None = None
) -> Array:
    """ELBO lost, nats, `[L, B]`, if one level alone is drawn from its prior p(z_l | above) and all others are inferred.

    The levels below are inferred anew, given the other z_l, and may make up for it. Unlike L^{>k} - L^{>k-1}, whose
    levels below are all drawn from their priors, this is about one level, and its noise is small: prior and posterior
    sample have the same noise, so that it is exactly 0 where q = p. Below 0 the bound is better without the level.

    NaN for a level whose q or p is no `FromNoise`, whose z passes a flow, or whose levels above depend on it
    (bottom-up inference): there its place in the joint q(z | x) cannot be taken by the prior alone.
    Raises ValueError for fewer than one draw.
    """
    if draws < 1:
        raise ValueError(f"loss_without(draws={draws}): 1 or more are needed.")
    x = jnp.asarray(x)
    shapes = jax.eval_shape(lambda: model.apply(variables, x, key, y=y).unstack())
    made = tuple(isinstance(level.q, FromNoise) and isinstance(level.p, FromNoise) for level in shapes)

    def descend(noise: Any, key: Array) -> Trace:
        return model.apply(variables, x, key, y=y, noise=noise)

    def of_draw(index: Array) -> Array:
        drawn = jax.random.fold_in(key, index)
        noise = tuple(
            jax.random.normal(jax.random.fold_in(drawn, i), level.z.shape, level.z.dtype) if ok else None
            for i, (level, ok) in enumerate(zip(shapes, made, strict=True))
        )
        whole = descend(noise, drawn)
        levels = whole.unstack()
        # The z of each level from its prior, and the noise from which its posterior makes that z.
        other_z = tuple(
            level.p.from_noise(eps) if ok else level.z for level, eps, ok in zip(levels, noise, made, strict=True)
        )
        other_noise = tuple(
            level.q.to_noise(z) if ok else None for level, z, ok in zip(levels, other_z, made, strict=True)
        )

        def without(at: Array) -> Array:
            # Which level is data, so that the descent is compiled once for all of them.
            chosen = tuple(
                None if eps is None or other is None else jnp.where(at == i, other, eps)
                for i, (eps, other) in enumerate(zip(noise, other_noise, strict=True))
            )
            trace = descend(chosen, drawn)
            # Without the level's own rate, which is 0 where z comes from the prior.
            lost = elbo(whole) - elbo(trace) - trace.rates[at]
            return jnp.where(_as_meant(levels, trace, other_z, at), lost, jnp.nan)

        return jax.lax.map(without, jnp.arange(len(levels)))

    lost = jax.lax.map(of_draw, jnp.arange(draws)).mean(0)
    return jnp.where(jnp.array(made)[:, None], lost, jnp.nan)


def _as_meant(levels: Any, trace: Trace, other_z: tuple[Array, ...], at: Array) -> Array:
    """Whether the levels above `at` have kept their z and q, and that level has the z of its prior, bool `[]`."""
    held = [jnp.array(True)]
    for i, (before, after, z) in enumerate(zip(levels, trace.unstack(), other_z, strict=True)):
        close = {"rtol": 1e-3, "atol": 1e-3}
        kept = jnp.allclose(before.z, after.z, **close) & jnp.allclose(before.log_q, after.log_q, **close)
        held.append(jnp.where(i < at, kept, jnp.where(i == at, jnp.allclose(after.z, z, **close), True)))
    return jnp.stack(held).all()
