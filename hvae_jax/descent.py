"""The one descent: how each latent comes to be. Inferred, drawn from its prior, or given, in one function, `draw`.

A model's forward pass asks for `picks(...)` once, and `draw`s its levels from the top down. Latents whose posterior
is known before their prior (bottom-up inference, flows) are first `propose`d on the way up, and handed to `draw` on
the way down.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jax.typing import ArrayLike

from hvae_jax.distributions import Normal, kl, sum_event
from hvae_jax.trace import Level

# A flow: forward(z0) -> (z, log |dz/dz0|), inverse(z) -> (z0, log |dz/dz0|), log-determinants elementwise [B, ...].
Flow = tuple[Callable[[Array], tuple[Array, Array]], Callable[[Array], tuple[Array, Array]]]


@struct.dataclass
class Pick:
    """How one latent, or a scanned run of n, comes to be. None is static and costs nothing.

    Attributes:
      temperature: `[]` (`[n]`), scales the prior's standard deviation where z is drawn from it.
      infer: bool `[]` (`[n]`): from the posterior where there is one, else from the prior. None: always infer.
      given: `[B, ...]` (`[n, B, ...]`), the value of z. None: not given.
      is_given: bool `[n]`, which of a run are given; None outside runs, where `given` itself says it.
    """

    temperature: Array
    infer: Array | None = None
    given: Array | None = None
    is_given: Array | None = None

    def place(self, z: Array) -> Array:
        """z, or the given value in its place. What was given is never cast: parity in float64 needs its digits."""
        if self.given is None:
            return z
        if self.given.shape != z.shape:
            raise ValueError(f"A given latent has shape {self.given.shape}, but the level needs {z.shape}.")
        return self.given if self.is_given is None else jnp.where(self.is_given, self.given, z)


def picks(
    num_levels: int,
    latents: Sequence[ArrayLike | None] | None = None,
    temperature: ArrayLike | Sequence[float] = 1.0,
    keep_top: ArrayLike | None = None,
) -> tuple[Pick, ...]:
    """One `Pick` a level, top first.

    Args:
      num_levels: L.
      latents: one entry a level from the top, None where not given; may be shorter than L. Which entries are given
        is static.
      temperature: one number, or `[L]`, top first. May be traced.
      keep_top: levels at or below this index come from the prior although x is known. May be traced; None is L.

    Raises ValueError for a wrong number of latents or temperatures, a temperature below 0 or not finite, or a
    keep_top outside 0..L (the last two unless they are traced).
    """
    given = tuple(latents) if latents is not None else ()
    if len(given) > num_levels:
        raise ValueError(f"{len(given)} latents were given, but the model has {num_levels} levels.")
    given += (None,) * (num_levels - len(given))
    temperatures = jnp.asarray(temperature, float)
    if temperatures.ndim > 1 or (temperatures.ndim == 1 and temperatures.shape[0] != num_levels):
        raise ValueError(
            f"temperature has shape {temperatures.shape}: one number, or one for each of the {num_levels} levels."
        )
    if not isinstance(temperature, jax.core.Tracer):
        wrong = [float(t) for t in np.ravel(np.asarray(temperature, float)) if not 0 <= t < np.inf]
        if wrong:
            raise ValueError(f"A temperature is {wrong[0]}, but it must be 0 (the mode) or more, and finite.")
    if keep_top is not None and not isinstance(keep_top, jax.core.Tracer):
        kept = np.asarray(keep_top)
        if kept.shape or kept.dtype.kind not in "iu" or not 0 <= kept <= num_levels:
            raise ValueError(
                f"keep_top is {keep_top}, but the model has {num_levels} levels: a whole number from 0 to {num_levels}."
            )
    temperatures = jnp.broadcast_to(temperatures, (num_levels,))
    return tuple(
        Pick(
            temperature=temperatures[level],
            infer=None if keep_top is None else level < jnp.asarray(keep_top),
            given=None if given[level] is None else jnp.asarray(given[level]),
        )
        for level in range(num_levels)
    )


def temperature_by_side(sides: Sequence[int], temperatures: Mapping[int, float]) -> np.ndarray:
    """One temperature a level, `[L]` as `temperature=` takes them, from one for each resolution.

    Args:
      sides: of each level's maps, top first: `model.level_sides`, or `trace.sides`.
      temperatures: by side, {1: 1.0, 4: 0.9, 8: 0.8}.

    Raises ValueError unless every side has one, and every one a side, and for a temperature below 0 or not finite.
    """
    if set(temperatures) != set(sides):
        raise ValueError(
            f"temperatures are given for the sides {sorted(temperatures)}, but the levels are at {sorted(set(sides))}: "
            "one for each of these."
        )
    for side, temperature in temperatures.items():
        if not 0 <= temperature < np.inf:
            raise ValueError(
                f"The temperature of side {side} is {temperature}, but it must be 0 (the mode) or more, and finite."
            )
    return np.array([temperatures[side] for side in sides], float)


def stack(run: Sequence[Pick]) -> Pick:
    """The picks of a run as one, every array with a leading axis, to be scanned along with the keys."""
    given = is_given = None
    infers = [pick.infer for pick in run if pick.infer is not None]
    known = [pick.given for pick in run if pick.given is not None]
    if known:
        filler = jnp.zeros_like(known[0])
        given = jnp.stack([filler if pick.given is None else pick.given for pick in run])
        is_given = jnp.array([pick.given is not None for pick in run])
    return Pick(
        temperature=jnp.stack([pick.temperature for pick in run]),
        infer=jnp.stack(infers) if infers else None,
        given=given,
        is_given=is_given,
    )


@struct.dataclass
class Drawn:
    """A latent that was drawn before its prior was known.

    Attributes:
      z: `[B, ...]`, after the flow if there is one.
      q: the record it was drawn from; under a flow, the base.
      log_q: `[B, ...]`, elementwise log density of z, with the flow's log-determinant.
    """

    z: Array
    q: Any
    log_q: Array


def propose(key: Array, q: Normal, pick: Pick, flow: Flow | None = None) -> Drawn:
    """Draws z ~ q (through the flow), or takes the given value, on the way up.

    log q(z) = log q(z0) - log |dz/dz0|. Where z is given its z0 is the flow's inverse.
    Source: Kingma et al. (2016), equation 5, for the density under a flow.
    """
    z0 = q.sample(key)
    if flow is None:
        z = pick.place(z0)
        return Drawn(z, q, q.log_prob(z))
    forward, inverse = flow
    z, log_det = forward(z0)
    if pick.given is not None:
        z = pick.place(z)
        z0, log_det = inverse(z)
    return Drawn(z, q, q.log_prob(z0) - log_det)


def draw(
    key: Array, prior: Normal, posterior: Normal | Drawn | None, pick: Pick, *, name: str = "z", side: int = 1
) -> Level:
    """Makes one latent: the only place where z is chosen and its KL is taken.

    The type of `posterior` picks the right KL. A `Normal` was made by the descent itself, so the prior cannot depend
    on this level's sample and the KL is analytic. A `Drawn` came before its prior, which depends on it: there the
    ELBO's term is log q - log p at the sample, and the analytic formula would be no bound. None draws from the prior.

    Args:
      key: consumed.
      prior: p(z | above).
      posterior: what z is inferred from, if anything.
      pick: inferred, from the prior, or given.
    Source: the article's top-down VAE; Kingma et al. (2016), equation 3, for the bottom-up term.
    """
    if posterior is None:
        return _from_prior(key, prior, pick, name, side)
    if isinstance(posterior, Drawn):
        q, z, log_q = posterior.q, posterior.z, posterior.log_q
        log_p = prior.log_prob(z)
        divergence = log_q - log_p
    else:
        q, z = posterior, pick.place(posterior.sample(key))
        log_q, log_p = q.log_prob(z), prior.log_prob(z)
        divergence = kl(q, prior)
    inferred = Level(z, q, prior, divergence, sum_event(log_q), sum_event(log_p), name, side)
    if pick.infer is None:
        return inferred
    sampled = _from_prior(key, prior, pick, name, side)
    return jax.tree.map(lambda a, b: jnp.where(pick.infer, a, b), inferred, sampled)


def _from_prior(key: Array, prior: Normal, pick: Pick, name: str, side: int) -> Level:
    """A level that claims nothing: kl 0 and log q = log p, so that any mix of choices is still a bound."""
    z = pick.place(prior.sample(key, pick.temperature))
    elementwise = prior.log_prob(z)
    log_p = sum_event(elementwise)
    return Level(z, prior, prior, jnp.zeros_like(elementwise), log_p, log_p, name, side)
