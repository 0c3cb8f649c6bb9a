"""The one descent: how each latent comes to be. Inferred, drawn from its prior, or given, in one function, `draw`.

A model's forward pass asks for `picks(...)` once, and `draw`s its levels from the top down. Latents whose posterior
is known before their prior (bottom-up inference, flows) are first `propose`d on the way up, and handed to `draw` on
the way down.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jax.typing import ArrayLike

from hvae_jax.distributions import Either, FromNoise, Latent, kl, sum_event
from hvae_jax.trace import Level


class Flow(NamedTuple):
    """An invertible map of a latent, whose log-determinant is a sum over elements.

    Attributes:
      forward: z0 to (z, log |dz/dz0|), `[B, ...]` each, the second elementwise.
      inverse: z to (z0, log |dz/dz0|), likewise.
    """

    forward: Callable[[Array], tuple[Array, Array]]
    inverse: Callable[[Array], tuple[Array, Array]]


@struct.dataclass
class Pick:
    """How one latent, or a scanned run of n, comes to be. None is static and costs nothing.

    Attributes:
      temperature: `[]` (`[n]`), of the prior where z is drawn from it: 1 as it is, 0 its mode.
      infer: bool `[]` (`[n]`): from the posterior where there is one, else from the prior. None: always infer.
      given: `[B, ...]` (`[n, B, ...]`), the value of z. None: not given.
      is_given: bool `[n]`, which of a run are given; None outside runs, where `given` itself says it.
      noise: `[B, ...]` (`[n, B, ...]`), the standard normal noise that z is made of; under a flow, what the flow's
        base is made of. None: from the key.
      has_noise: bool `[n]`, which of a run have noise; None outside runs.
    """

    temperature: Array
    infer: Array | None = None
    given: Array | None = None
    is_given: Array | None = None
    noise: Array | None = None
    has_noise: Array | None = None

    def sample(self, key: Array, dist: Latent, temperature: Array | float, name: str) -> Array:
        """A sample of `dist`, from the noise where there is some, else from the key.

        Raises ValueError for noise of another shape, or for a record that is not made of standard noise.
        """
        if self.noise is None:
            return dist.sample(key, temperature)
        if not isinstance(dist, FromNoise):
            raise ValueError(
                f"Noise was given for level {name!r}, but a sample of its {type(dist).__name__} is no function of "
                "standard normal noise: give the latent itself, by latents=."
            )
        if self.noise.shape != dist.mean.shape:
            raise ValueError(
                f"The noise for level {name!r} has shape {self.noise.shape}, but the level needs {dist.mean.shape}."
            )
        z = dist.from_noise(self.noise, temperature)
        return z if self.has_noise is None else jnp.where(self.has_noise, z, dist.sample(key, temperature))

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
    noise: Sequence[ArrayLike | None] | None = None,
) -> tuple[Pick, ...]:
    """One `Pick` a level, top first.

    Args:
      num_levels: L.
      latents: one entry a level from the top, None where not given; may be shorter than L. Which entries are given
        is static.
      temperature: one number, or `[L]`, top first. May be traced.
      keep_top: levels at or below this index come from the prior although x is known. May be traced; None is L.
      noise: one entry a level from the top, None for noise from the key; may be shorter than L.

    Raises ValueError for too many latents or noises, both for one level, a wrong number of temperatures, a temperature
    below 0 or not finite, or a keep_top outside 0..L (the last two unless they are traced).
    """
    given, noises = _padded(latents, num_levels, "latents"), _padded(noise, num_levels, "noises")
    for level, (z, eps) in enumerate(zip(given, noises, strict=True)):
        if z is not None and eps is not None:
            raise ValueError(f"Level {level} from the top was given a latent and noise: one of the two decides it.")
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
            noise=None if noises[level] is None else jnp.asarray(noises[level]),
        )
        for level in range(num_levels)
    )


def _padded(values: Sequence[ArrayLike | None] | None, num_levels: int, what: str) -> tuple[ArrayLike | None, ...]:
    """The values and None for the levels that have none. Raises ValueError for more values than levels."""
    found = tuple(values) if values is not None else ()
    if len(found) > num_levels:
        raise ValueError(f"{len(found)} {what} were given, but the model has {num_levels} levels.")
    return found + (None,) * (num_levels - len(found))


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
    infers = [pick.infer for pick in run if pick.infer is not None]
    given, is_given = _with_mask([pick.given for pick in run])
    noise, has_noise = _with_mask([pick.noise for pick in run])
    return Pick(
        temperature=jnp.stack([pick.temperature for pick in run]),
        infer=jnp.stack(infers) if infers else None,
        given=given,
        is_given=is_given,
        noise=noise,
        has_noise=has_noise,
    )


def _with_mask(values: Sequence[Array | None]) -> tuple[Array | None, Array | None]:
    """Values stacked, zeros where there is none, and which there are; None twice where there are none at all."""
    known = [value for value in values if value is not None]
    if not known:
        return None, None
    filler = jnp.zeros_like(known[0])
    stacked = jnp.stack([filler if value is None else value for value in values])
    return stacked, jnp.array([value is not None for value in values])


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


def propose(key: Array, q: Latent, pick: Pick, flow: Flow | None = None, *, name: str = "z") -> Drawn:
    """Draws z ~ q (through the flow), or takes the given value, on the way up.

    log q(z) = log q(z0) - log |dz/dz0|. Where z is given its z0 is the flow's inverse.
    Source: Kingma et al. (2016), equation 5, for the density under a flow.
    Raises ValueError as `draw` does.
    """
    z0 = pick.sample(key, q, 1.0, name)
    if flow is None:
        z = pick.place(z0)
        return Drawn(z, q, _density(q, z, name))
    z, log_det = flow.forward(z0)
    if pick.given is not None:
        z = pick.place(z)
        z0, log_det = flow.inverse(z)
    return Drawn(z, q, _difference(_density(q, z0, name), log_det))


def draw(
    key: Array, prior: Latent, posterior: Latent | Drawn | None, pick: Pick, *, name: str = "z", side: int = 1
) -> Level:
    """Makes one latent: the only place where z is chosen and its KL is taken.

    The type of `posterior` picks the right KL. A distribution was made by the descent itself, so the prior cannot
    depend on this level's sample and the KL is the one in closed form, where the pair has one (`distributions.kl`). A
    `Drawn` came before its prior, which depends on it: there the ELBO's term is log q - log p at the sample, and the
    closed form would be no bound. The same term, right in either direction, stands in for a closed form that is not
    there. None draws from the prior.

    Args:
      key: consumed.
      prior: p(z | above).
      posterior: what z is inferred from, if anything.
      pick: inferred, from the prior, or given.
    Source: the article's top-down VAE; Kingma et al. (2016), equation 3, for the bottom-up term.
    Raises ValueError, naming the level, for a given value or noise of another shape, noise for a distribution that is
    not made of noise, or a log_prob whose shape is neither z's nor a leading part of it.
    """
    if posterior is None:
        return _from_prior(key, prior, pick, name, side)
    if isinstance(posterior, Drawn):
        q, z, log_q = posterior.q, posterior.z, posterior.log_q
        log_p = _density(prior, z, name)
        divergence = _difference(log_q, log_p)
    else:
        q, z = posterior, pick.place(pick.sample(key, posterior, 1.0, name))
        log_q, log_p = _density(q, z, name), _density(prior, z, name)
        closed = kl(q, prior)
        divergence = _difference(log_q, log_p) if closed is None else closed
    inferred = Level(z, q, prior, divergence, sum_event(log_q), sum_event(log_p), name, side)
    if pick.infer is None:
        return inferred
    # The same key twice: one of the two samples is thrown away.
    sampled = _from_prior(key, prior, pick, name, side)
    return _choose(pick.infer, inferred, sampled)


def _from_prior(key: Array, prior: Latent, pick: Pick, name: str, side: int) -> Level:
    """A level that claims nothing: kl 0 and log q = log p, so that any mix of choices is still a bound."""
    z = pick.place(pick.sample(key, prior, pick.temperature, name))
    elementwise = _density(prior, z, name)
    log_p = sum_event(elementwise)
    return Level(z, prior, prior, jnp.zeros_like(elementwise), log_p, log_p, name, side)


def _choose(infer: Array, inferred: Level, sampled: Level) -> Level:
    """Array by array, `inferred` where the traced `infer` says so.

    Where q and p are records of different kinds there is nothing to choose between array by array: q is then an
    `Either` of both.
    """
    q = inferred.q
    if jax.tree.structure(q) != jax.tree.structure(sampled.q) or _shapes(q) != _shapes(sampled.q):
        q = Either(infer, q, sampled.q)
        inferred, sampled = (dataclasses.replace(level, q=q) for level in (inferred, sampled))
    if inferred.kl.shape != sampled.kl.shape:  # elementwise in closed form, and of a joint density
        inferred, sampled = (dataclasses.replace(one, kl=sum_event(one.kl)) for one in (inferred, sampled))
    return jax.tree.map(lambda a, b: jnp.where(infer, a, b), inferred, sampled)


def _shapes(record: Latent) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(record)]


def _density(dist: Latent, z: Array, name: str) -> Array:
    """log_prob of z, checked: its shape is z's, or z's without some of its last axes.

    Anything else would be broadcast where batch and latents happen to have the same size.
    """
    log_prob = dist.log_prob(z)
    if not log_prob.ndim or log_prob.shape != z.shape[: log_prob.ndim]:
        raise ValueError(
            f"Level {name!r}: log_prob of {type(dist).__name__} has shape {log_prob.shape} for z of shape {z.shape}; "
            f"it has to be elementwise, {z.shape}, or one number an example, {z.shape[:1]}."
        )
    return log_prob


def _difference(a: Array, b: Array) -> Array:
    """a - b: elementwise where both are, else per example, `[B]`."""
    return a - b if a.shape == b.shape else sum_event(a) - sum_event(b)
