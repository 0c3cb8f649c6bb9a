"""The descent through the levels: one function, `draw`, infers a latent, draws it from its prior or takes a given one.

A model's forward pass calls `picks(...)` once, then `draw` for each level from the top down. A latent whose posterior
is known before its prior (bottom-up inference, flows) is first drawn by `propose` on the bottom-up path, and passed to
`draw` on the top-down path.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from hvae_jax.distributions import Either, FromNoise, Latent, kl, sum_event
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.trace import Level


class Flow(NamedTuple):
    """An invertible map of a latent, whose log-determinant is a sum over elements.

    Attributes:
      forward: function of z0 that returns (z, log |dz/dz0|), `[B, ...]` each, the second elementwise.
      inverse: function of z that returns (z0, log |dz/dz0|), in the same shapes.

    Example:
        >>> log_det = lambda z: jnp.log(2.0) * jnp.ones_like(z)
        >>> double = hv.descent.Flow(lambda z0: (2 * z0, log_det(z0)), lambda z: (z / 2, log_det(z)))
        >>> print(*(part.round(3) for part in double.forward(jnp.ones((1, 2)))))
        [[2. 2.]] [[0.693 0.693]]
    """

    forward: Callable[[Array], tuple[Array, Array]]
    inverse: Callable[[Array], tuple[Array, Array]]


@struct.dataclass
class Pick:
    """How one latent, or a scanned run of n, is chosen. Fields of None are static and cost nothing.

    Attributes:
      temperature: temperature of the prior if z is drawn from it, `[]` (`[n]`); 1 is the prior itself, 0 its mode.
      infer: whether z is drawn from its posterior instead of its prior, bool `[]` (`[n]`); None infers. A level without
        a posterior is drawn from its prior.
      given: value of z, `[B, ...]` (`[n, B, ...]`); None draws it.
      is_given: which levels of a run are given, bool `[n]`; None outside runs, where `given` alone decides.
      noise: standard normal noise that z is computed from, `[B, ...]` (`[n, B, ...]`); under a flow, the noise of its
        base. None draws it from the key.
      has_noise: which levels of a run have noise, bool `[n]`; None outside runs, where `noise` alone decides.
      posterior_temperature: temperature of the posterior if z is drawn from it, `[]` (`[n]`); 0 takes its mode, which
        is the mean of a Gaussian. None is 1, the posterior itself.

    Example:
        >>> pick = hv.descent.Pick(temperature=jnp.array(0.0))
        >>> level = hv.descent.draw(jax.random.key(0), hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), None, pick)
        >>> print(level.z)  # the mode of the prior
        [[1. 1.]]
    """

    temperature: Array
    infer: Array | None = None
    given: Array | None = None
    is_given: Array | None = None
    noise: Array | None = None
    has_noise: Array | None = None
    posterior_temperature: Array | None = None

    def infers(self, key: Array, posterior: Latent, name: str) -> Array:
        """Samples the posterior at its temperature; raises ValueError as `sample` does."""
        temperature = 1.0 if self.posterior_temperature is None else self.posterior_temperature
        return self.sample(key, posterior, temperature, name)

    def sample(self, key: Array, dist: Latent, temperature: Array | float, name: str) -> Array:
        """Samples `dist`, from the noise if there is some, else from the key.

        Raises ValueError if the noise has another shape or `dist` is no `FromNoise`.
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

    def place(self, z: Array, name: str) -> Array:
        """Returns z, or the given value in its place.

        The given value is never cast: tests of parity in float64 need all its digits.
        Raises ValueError, naming the level, if its shape is not that of z.
        """
        if self.given is None:
            return z
        if self.given.shape != z.shape:
            raise ValueError(
                f"The latent given for level {name!r} has shape {self.given.shape}, but the level needs {z.shape}."
            )
        return self.given if self.is_given is None else jnp.where(self.is_given, self.given, z)


def picks(
    num_levels: int,
    latents: Sequence[ArrayLike | None] | None = None,
    temperature: ArrayLike | Sequence[float] = 1.0,
    keep_top: ArrayLike | None = None,
    noise: Sequence[ArrayLike | None] | None = None,
    posterior_temperature: ArrayLike | Sequence[float] | None = None,
) -> tuple[Pick, ...]:
    """Make one `Pick` per level, top first.

    Args:
      num_levels: number of levels L.
      latents: given latents, one entry per level from the top, None where not given; may be shorter than L. Which
        entries are given is static.
      temperature: temperature of the priors, one number or `[L]`, top first; may be traced.
      keep_top: number of levels from the top that are inferred, the others come from their prior; may be traced. None
        infers all.
      noise: standard normal noise, one entry per level from the top, None for noise from the key; may be shorter than
        L.
      posterior_temperature: temperature of the posteriors, one number or `[L]`, top first; may be traced. None is 1.

    Raises ValueError for more latents or noises than levels, both for one level, a wrong number of temperatures, a
    temperature below 0 or not finite, or a keep_top outside 0..L; values of traced arguments are not checked.

    Example:
        >>> [bool(pick.infer) for pick in hv.descent.picks(3, keep_top=1)]
        [True, False, False]
    """
    given, noises = _padded(latents, num_levels, "latents"), _padded(noise, num_levels, "noises")
    for level, (z, eps) in enumerate(zip(given, noises, strict=True)):
        if z is not None and eps is not None:
            raise ValueError(f"Level {level} from the top was given a latent and noise: one of the two decides it.")
    temperatures = _temperatures(temperature, num_levels, "temperature")
    inferring = None
    if posterior_temperature is not None:
        inferring = _temperatures(posterior_temperature, num_levels, "posterior_temperature")
    check_keep_top(keep_top, num_levels, "levels")
    return tuple(
        Pick(
            temperature=temperatures[level],
            infer=None if keep_top is None else level < jnp.asarray(keep_top),
            given=None if given[level] is None else jnp.asarray(given[level]),
            noise=None if noises[level] is None else jnp.asarray(noises[level]),
            posterior_temperature=None if inferring is None else inferring[level],
        )
        for level in range(num_levels)
    )


def _temperatures(values: ArrayLike | Sequence[float], num_levels: int, what: str) -> Array:
    """One temperature a level, `[L]`. Raises ValueError as `picks` does."""
    temperatures = jnp.asarray(values, float)
    if temperatures.ndim > 1 or (temperatures.ndim == 1 and temperatures.shape[0] != num_levels):
        raise ValueError(
            f"{what} has shape {temperatures.shape}: one number, or one for each of the {num_levels} levels."
        )
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values)):
        wrong = [float(t) for t in np.ravel(np.asarray(values, float)) if not 0 <= t < np.inf]
        if wrong:
            raise ValueError(f"A {what} is {wrong[0]}, but it must be 0 (the mode) or more, and finite.")
    return jnp.broadcast_to(temperatures, (num_levels,))


def check_keep_top(keep_top: ArrayLike | None, most: int, unit: str) -> None:
    """Check that keep_top is a whole number from 0 to `most`, or None; of a traced one only that it is a whole number.

    A traced value beyond the ends keeps all levels or none, because an error cannot depend on it.

    Args:
      unit: what is counted, for the error: "levels".

    Raises ValueError for a keep_top that is no whole number or lies outside, True and False included.

    Example:
        >>> hv.descent.check_keep_top(4, most=3, unit="levels")
        Traceback (most recent call last):
        ValueError: keep_top is 4, but the model has 3 levels: it has to be from 0 to 3, a whole number.
    """
    if keep_top is None:
        return
    traced = isinstance(keep_top, jax.core.Tracer)
    kept = keep_top if traced else np.asarray(keep_top)
    if kept.shape or kept.dtype.kind not in "iu" or not (traced or 0 <= kept <= most):
        raise ValueError(
            f"keep_top is {keep_top}, but the model has {most} {unit}: it has to be from 0 to {most}, a whole number."
        )


def _padded(values: Sequence[ArrayLike | None] | None, num_levels: int, what: str) -> tuple[ArrayLike | None, ...]:
    """Pads the values with None to one per level. Raises ValueError for more values than levels."""
    found = tuple(values) if values is not None else ()
    if len(found) > num_levels:
        raise ValueError(f"{len(found)} {what} were given, but the model has {num_levels} levels.")
    return found + (None,) * (num_levels - len(found))


def temperature_by_side(sides: Sequence[int], temperatures: Mapping[int, float]) -> np.ndarray:
    """Expand one temperature per resolution to one per level, `[L]`, for the argument `temperature=`.

    Args:
      sides: height of each level's feature map, top first: `trace.sides`, or `trace.level_sides(model, data)`.
      temperatures: temperature of each side, such as {1: 1.0, 4: 0.9, 8: 0.8}.

    Raises ValueError if a side has no temperature, a temperature belongs to no side, is below 0 or is not finite.

    Example:
        >>> print(hv.temperature_by_side((1, 4, 8, 8), {1: 1.0, 4: 0.9, 8: 0.8}))
        [1.  0.9 0.8 0.8]
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
    """Stack the picks of a run into one, every array with a leading axis n, to be scanned along with the keys.

    Example:
        >>> print(hv.descent.stack(hv.descent.picks(3, temperature=[1.0, 0.5, 0.0])).temperature)
        [1.  0.5 0. ]
    """
    # `keep_top` sets `infer` of every level or of none, so the lists below are complete or empty.
    infers = [pick.infer for pick in run if pick.infer is not None]
    inferring = [pick.posterior_temperature for pick in run if pick.posterior_temperature is not None]
    given, is_given = _with_mask([pick.given for pick in run])
    noise, has_noise = _with_mask([pick.noise for pick in run])
    return Pick(
        temperature=jnp.stack([pick.temperature for pick in run]),
        infer=jnp.stack(infers) if infers else None,
        given=given,
        is_given=is_given,
        noise=noise,
        has_noise=has_noise,
        posterior_temperature=jnp.stack(inferring) if inferring else None,
    )


def _with_mask(values: Sequence[Array | None]) -> tuple[Array | None, Array | None]:
    """Stacks the values, zeros in place of None, and a mask of those that are not None; (None, None) if all are."""
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
      z: the sample, after the flow if there is one, `[B, ...]`.
      q: record that it was drawn from; under a flow, the base.
      log_q: log density of z, with the flow's log-determinant, nats: elementwise, or `[B]` for a joint density.
      flow: whether there is a flow.
    """

    z: Array
    q: Any
    log_q: Array
    flow: bool = struct.field(pytree_node=False, default=False)


def propose(key: Array, q: Latent, pick: Pick, flow: Flow | None = None, *, name: str = "z") -> Drawn:
    """Draw z ~ q (through the flow), or take the given value, on the bottom-up path.

    log q(z) = log q(z0) - log |dz/dz0|. If z is given, z0 comes from the flow's inverse.
    Source: Kingma et al. (2016), equation 5, for the density under a flow.
    Raises ValueError as `draw` does, and for a flow that changes the shape of z or has a log-determinant of another
    shape than a density.

    Example:
        >>> q, pick = hv.Normal.standard((1, 2)), hv.descent.Pick(jnp.ones(()), given=jnp.zeros((1, 2)))
        >>> print(hv.descent.propose(jax.random.key(0), q, pick).log_q.round(3))  # -log(2 pi)/2 at 0
        [[-0.919 -0.919]]
    """
    z0 = pick.infers(key, q, name)
    if flow is None:
        z = pick.place(z0, name)
        return Drawn(z, q, _density(q, z, name))
    z, log_det = _mapped(flow.forward, z0, name)
    if pick.given is not None:
        # The given z has another z0 and log-determinant than the one drawn.
        z = pick.place(z, name)
        z0, log_det = _mapped(flow.inverse, z, name)
    return Drawn(z, q, _difference(_density(q, z0, name), log_det), flow=True)


def draw(
    key: Array, prior: Latent, posterior: Latent | Drawn | None, pick: Pick, *, name: str = "z", side: int = 1
) -> Level:
    """Make one latent: the only place where z is chosen and its KL computed.

    The type of `posterior` decides which KL is right. A distribution was made by the descent itself, so the prior
    cannot depend on this level's sample and the KL is the closed form, if the pair has one (`distributions.kl`). A
    `Drawn` came before its prior, which depends on it: there the ELBO's term is log q - log p at the sample, and the
    closed form would be no bound. The same term, right in both directions, is used for pairs without a closed form.
    None draws from the prior.

    Args:
      key: consumed.
      prior: p(z | above).
      posterior: distribution to infer z from, a latent that was already drawn, or None.
      pick: choice between posterior, prior and a given value.
      name, side: name of the level and height of its feature map, for the trace.
    Source: the article's top-down VAE; Kingma et al. (2016), equation 3, for the bottom-up term.
    Raises ValueError for a given value or noise of another shape, noise for a distribution that is no `FromNoise`, or a
    log_prob whose shape is neither z's nor a leading part of it.

    Example:
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))
        >>> pick = hv.descent.Pick(temperature=jnp.ones(()))
        >>> inferred, sampled = (hv.descent.draw(jax.random.key(0), p, posterior, pick) for posterior in (q, None))
        >>> print(inferred.rate, sampled.rate)  # two units of 1/2 nat; 0 from the prior
        [1.] [0.]
    """
    if posterior is None:
        return _from_prior(key, prior, pick, name, side)
    if isinstance(posterior, Drawn):
        q, z, log_q = posterior.q, posterior.z, posterior.log_q
        log_p = _density(prior, z, name)
        divergence = _difference(log_q, log_p)
    else:
        q, z = posterior, pick.place(pick.infers(key, posterior, name), name)
        log_q, log_p = _density(q, z, name), _density(prior, z, name)
        closed = kl(q, prior)
        divergence = _difference(log_q, log_p) if closed is None else closed
    flow = isinstance(posterior, Drawn) and posterior.flow
    inferred = Level(z, q, prior, divergence, sum_event(log_q), sum_event(log_p), name, side, flow=flow)
    if pick.infer is None:
        return inferred
    # `infer` is traced, so both are computed. They may share the key: one of the two samples is thrown away.
    sampled = dataclasses.replace(_from_prior(key, prior, pick, name, side), flow=flow)
    everywhere = jnp.ones(inferred.log_p.shape, bool)
    return _choose(pick.infer, dataclasses.replace(inferred, inferred=everywhere), sampled)


def _from_prior(key: Array, prior: Latent, pick: Pick, name: str, side: int) -> Level:
    """Draws a level from its prior, with kl 0 and log q = log p: any mix of such and inferred levels gives a bound."""
    z = pick.place(pick.sample(key, prior, pick.temperature, name), name)
    elementwise = _density(prior, z, name)
    log_p = sum_event(elementwise)
    nowhere = jnp.zeros(log_p.shape, bool)
    return Level(z, prior, prior, jnp.zeros_like(elementwise), log_p, log_p, name, side, inferred=nowhere)


def _choose(infer: Array, inferred: Level, sampled: Level) -> Level:
    """Selects `inferred` if the traced `infer` is true, else `sampled`, array by array.

    Records q and p of different kinds have no arrays in common to select from: q is then an `Either` of both.
    """
    q = inferred.q
    if jax.tree.structure(q) != jax.tree.structure(sampled.q) or _shapes(q) != _shapes(sampled.q):
        q = Either(infer, q, sampled.q)
        inferred, sampled = (dataclasses.replace(level, q=q) for level in (inferred, sampled))
    # The KLs differ in shape if one is elementwise and the other is that of a joint density: both become `[B]`.
    if inferred.kl.shape != sampled.kl.shape:
        inferred, sampled = (dataclasses.replace(one, kl=sum_event(one.kl)) for one in (inferred, sampled))
    return jax.tree.map(lambda a, b: jnp.where(infer, a, b), inferred, sampled)


def _shapes(record: Latent) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(record)]


def _density(dist: Latent, z: Array, name: str) -> Array:
    """Computes log_prob of z, and checks its shape."""
    return _fitting(dist.log_prob(z), z, f"Level {name!r}: log_prob of {type(dist).__name__}")


def _mapped(flow: Callable[[Array], tuple[Array, Array]], z: Array, name: str) -> tuple[Array, Array]:
    """The other variable of a flow and log |dz/dz0|, with their shapes checked."""
    other, log_det = flow(z)
    if other.shape != z.shape:
        raise ValueError(f"Level {name!r}: a flow has to keep the shape of z, but turned {z.shape} into {other.shape}.")
    return other, _fitting(log_det, z, f"Level {name!r}: the flow's log-determinant")


def _fitting(values: Array, z: Array, what: str) -> Array:
    """Checks that values are elementwise, in the shape of z, or lack some of its last axes, and returns them.

    Another shape would be broadcast without an error if batch and latents happen to have the same size.
    """
    if not values.ndim or values.shape != z.shape[: values.ndim]:
        raise ValueError(
            f"{what} has shape {values.shape} for z of shape {z.shape}; it has to be elementwise, {z.shape}, or one "
            f"number an example, {z.shape[:1]}."
        )
    return values


def _difference(a: Array, b: Array) -> Array:
    """a - b: elementwise if both have the same shape, else per example, `[B]`."""
    return a - b if a.shape == b.shape else sum_event(a) - sum_event(b)
