"""What each level is worth: rates, bounds and units of one set of draws, and what the ELBO loses without a level."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from hvae_jax.diagnostics.usage import Usage, usage_of
from hvae_jax.distributions import FromNoise, Known
from hvae_jax.objectives import elbo, log_weight
from hvae_jax.runtime.annotations import ArrayLike
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
    """Average over `draws` traces of x, one of them in memory at a time.

    Draw i has the key `fold_in(key, i)`, as in `usage` and `importance`: with the same key and number of draws they
    return the same numbers, up to rounding.
    Source: Burda et al. (2015), equation 8, for the bound; Kong (1992) for the effective sample size.
    Raises ValueError for fewer than one draw.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> found = hv.diagnostics.measured(model, variables, x, jax.random.key(2), draws=4)
        >>> bool(jnp.allclose(found.elbo, found.usage.log_px - found.usage.rates.sum(0), atol=1e-3))
        True
    """
    if draws < 1:
        raise ValueError(f"measured(draws={draws}): 1 or more are needed.")

    @jax.jit  # traced once for its shapes and for the scan
    def one(index: Array) -> tuple[tuple[Usage, Array, Array], Array]:
        trace = model.apply(variables, x, jax.random.fold_in(key, index), y=y)
        return (usage_of(trace), elbo(trace), 0.5 * trace.ratios**2), log_weight(trace)

    def add(total: Any, index: Array) -> tuple[Any, Array]:
        values, log_w = one(index)
        return jax.tree.map(jnp.add, total, values), log_w

    # A scan and not a vmap over the draws, so that one trace is in memory at a time.
    shapes = jax.eval_shape(one, jnp.int32(0))[0]
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
    levels below are all drawn from their priors, this is about one level. Below 0 the bound is better without the
    level. The noise is small where q and p are `FromNoise`: prior and posterior sample have the same noise, so that the
    loss is exactly 0 where q = p. Elsewhere, as at a discrete level, the two are independent samples.

    A level that is `Known`, a function of x, is drawn from its prior like any other: what the ELBO loses then is what
    d(x) tells the levels below.

    NaN for a level whose z passes a flow, or whose levels above depend on it (bottom-up inference): there its place in
    the joint q(z | x) cannot be taken by the prior alone.
    Raises ValueError for fewer than one draw.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> hv.diagnostics.loss_without(model, variables, x, jax.random.key(2), draws=4).shape
        (2, 3)
    """
    if draws < 1:
        raise ValueError(f"loss_without(draws={draws}): 1 or more are needed.")
    x = jnp.asarray(x)
    shapes = jax.eval_shape(lambda: model.apply(variables, x, key, y=y).unstack())
    made = tuple(isinstance(level.q, FromNoise) and isinstance(level.p, FromNoise) for level in shapes)
    # levels whose sample is no function of noise: theirs from the prior is given as a latent
    known = tuple(isinstance(level.q, Known) for level in shapes)
    other = tuple(not noisy and not fixed for noisy, fixed in zip(made, known, strict=True))

    def descend(noise: Any, key: Array, latents: Any = None) -> Trace:
        return model.apply(variables, x, key, y=y, noise=noise, latents=latents)

    def of_draw(index: Array) -> Array:
        drawn = jax.random.fold_in(key, index)
        noise = tuple(
            jax.random.normal(jax.random.fold_in(drawn, i), level.z.shape, level.z.dtype) if ok else None
            for i, (level, ok) in enumerate(zip(shapes, made, strict=True))
        )

        @jax.jit  # traced once for its shapes and for the scan
        def inferred(noise: tuple[Array | None, ...]) -> _Descent:
            return _Descent.of(descend(noise, drawn), noise)

        def without(whole: _Descent, at: Array) -> tuple[_Descent, Array]:
            # Which level is data, so that one descent is compiled for all of them and for the whole one, at = -1.
            chosen = tuple(
                None if eps is None or moved is None else jnp.where(at == i, moved, eps)
                for i, (eps, moved) in enumerate(zip(noise, whole.other_noise, strict=True))
            )
            found = inferred(chosen)
            whole = jax.tree.map(lambda new, old: jnp.where(at < 0, new, old), found, whole)
            return whole, _lost(whole, found, whole.other_z, at)

        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(inferred, noise))
        kept, lost = jax.lax.scan(without, blank, jnp.arange(-1, len(shapes)))
        lost = lost[1:]
        if not any(other) and not any(known):
            return lost
        whole = descend(noise, drawn)
        levels, other_z = whole.unstack(), kept.other_z
        for i in (i for i, needed in enumerate(other) if needed):
            # With the same key the levels above keep their samples, and those below are inferred with the same noise.
            z = levels[i].p.sample(jax.random.fold_in(drawn, len(levels) + i))
            found = _Descent.of(descend(noise, drawn, (*(None,) * i, z)), noise)
            lost = lost.at[i].set(_lost(kept, found, (*other_z[:i], z, *other_z[i + 1 :]), jnp.int32(i)))
        for i in (i for i, fixed in enumerate(known) if fixed):
            # A level that is known has no noise: z of its prior is given, and so are the levels above, whose posteriors
            # are functions of x.
            z = levels[i].p.sample(jax.random.fold_in(drawn, len(levels) + i))
            latents = (*whole.latents[:i], z.astype(levels[i].z.dtype))
            below = (*(None,) * (i + 1), *noise[i + 1 :])
            trace = model.apply(variables, x, drawn, y=y, latents=latents, noise=below)
            bound = trace.log_px - whole.rates[:i].sum(0) - trace.rates[i + 1 :].sum(0)
            lost = lost.at[i].set(elbo(whole) - bound)
        return lost

    return jax.lax.map(of_draw, jnp.arange(draws)).mean(0)


class _Descent(NamedTuple):
    """What two descents are compared by: one with all levels inferred, and one in which a level has z of its prior.

    Attributes:
      elbo: `[B]`; nats.
      rates: of each level, `[L, B]`; nats.
      z, log_q: of each level, top first.
      other_z: z of each level from its prior, with the noise of its z; z itself where one of q and p is no `FromNoise`.
      other_noise: the noise from which the posterior makes `other_z`, or None.
    """

    elbo: Array
    rates: Array
    z: tuple[Array, ...]
    log_q: tuple[Array, ...]
    other_z: tuple[Array, ...]
    other_noise: tuple[Array | None, ...]

    @classmethod
    def of(cls, trace: Trace, noise: tuple[Array | None, ...]) -> "_Descent":
        """Of a trace whose levels have this noise; None for those that are no function of noise."""
        levels = trace.unstack()
        other_z = tuple(
            level.z if eps is None else level.p.from_noise(eps) for level, eps in zip(levels, noise, strict=True)
        )
        other_noise = tuple(
            None if eps is None else level.q.to_noise(z) for level, z, eps in zip(levels, other_z, noise, strict=True)
        )
        z, log_q = (tuple(getattr(level, name) for level in levels) for name in ("z", "log_q"))
        return cls(elbo(trace), trace.rates, z, log_q, other_z, other_noise)


def _lost(whole: _Descent, found: _Descent, other_z: tuple[Array, ...], at: Array) -> Array:
    """ELBO lost from `whole` to `found`, whose level `at` has the z of its prior, `[B]`; NaN if it has not.

    Without the level's own rate, which is 0 where z comes from the prior.
    """
    lost = whole.elbo - found.elbo - found.rates[at]
    return jnp.where(_as_meant(whole, found, other_z, at), lost, jnp.nan)


def _as_meant(whole: _Descent, found: _Descent, other_z: tuple[Array, ...], at: Array) -> Array:
    """Whether the levels above `at` have kept their z and q, and that level has the z of its prior, bool `[]`."""
    held, close = [jnp.array(True)], {"rtol": 1e-3, "atol": 1e-3}
    for i, z in enumerate(other_z):
        kept = jnp.allclose(whole.z[i], found.z[i], **close) & jnp.allclose(whole.log_q[i], found.log_q[i], **close)
        held.append(jnp.where(i < at, kept, jnp.where(i == at, jnp.allclose(found.z[i], z, **close), True)))
    return jnp.stack(held).all()
