"""Walks through latent space, in the noise of each level: interpolation, traversal, reconstruction level by level."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.distributions import FromNoise
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.trace import Model, Trace


def made_of_noise(model: Model, variables: Any, x: ArrayLike, y: ArrayLike | None = None) -> bool:
    """Whether every level's prior is a function of standard noise, so that walks are possible: from shapes alone.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> hv.diagnostics.made_of_noise(model, variables, x)
        True
    """
    found: list[bool] = []

    def look(variables: Any, x: Array, y: Array | None) -> None:
        found.extend(
            isinstance(level.p, FromNoise) for level in model.apply(variables, x, jax.random.key(0), y=y).levels
        )

    jax.eval_shape(look, variables, x, y)
    return all(found)


def noise_of(
    model: Model,
    variables: Any,
    x: ArrayLike,
    key: Array,
    y: ArrayLike | None = None,
    posterior_temperature: ArrayLike | None = None,
) -> tuple[Array, ...]:
    """Standard noise of latents drawn for x, one array a level: eps_l = (z_l - mean)/std under p(z_l | above).

    For latents of the prior itself it is N(0, I), whatever the model. At posterior_temperature 0 the latents are the
    modes of their posteriors.
    Raises ValueError, naming the level, for a prior whose samples are no function of standard normal noise.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> [noise.shape for noise in hv.diagnostics.noise_of(model, variables, x, jax.random.key(2))]
        [(3, 2), (3, 1)]
    """
    noise = []
    for level in model.apply(variables, x, key, y=y, posterior_temperature=posterior_temperature).unstack():
        if not isinstance(level.p, FromNoise):
            raise ValueError(
                f"Walks go through the noise of each level, but the prior of level {level.name!r}, a "
                f"{type(level.p).__name__}, is no function of standard normal noise."
            )
        noise.append(level.p.to_noise(level.z))
    return tuple(noise)


def from_noise(model: Model, variables: Any, noise: Sequence[Array], key: Array, y: ArrayLike | None = None) -> Trace:
    """Decode the latents with this noise, the inverse of `noise_of`, in one descent: a trace without x.

    Its `.latents` are the latents, its `.x_dist.mean` is E[x | z].

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> noise = jnp.zeros((3, 2)), jnp.zeros((3, 1))
        >>> trace = hv.diagnostics.from_noise(model, variables, noise, jax.random.key(2))
        >>> bool((trace.latents[0] == 0).all()), trace.x_dist.mean.shape  # the prior of z2 is N(0, I)
        (True, (3, 4))
    """
    return model.apply(variables, key, len(noise[0]), y=y, noise=tuple(noise), method="decode")


def interpolate(
    model: Model,
    variables: Any,
    x: ArrayLike,
    other: ArrayLike,
    key: Array,
    steps: int = 8,
    levels: Sequence[bool] | None = None,
    y: ArrayLike | None = None,
    posterior_temperature: ArrayLike | None = None,
) -> Array:
    """Interpolate from each x to another, `[B, steps, *event]`, along great circles in the noise of each level.

    On a great circle noise keeps its length; a straight line would pass through noise that is improbably short.

    Args:
      steps: number of images from end to end, both included.
      levels: which levels move, top first; the others keep the noise of x. None moves all.
      y: labels, the same for both ends.
      posterior_temperature: temperature of the posteriors of both ends; 0 takes their modes, None is 1.
    Source: White (2016), "Sampling Generative Networks", for the circles.
    Raises ValueError for fewer than two steps, if `levels` does not have one entry per level, and as `noise_of` does.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> hv.diagnostics.interpolate(model, variables, x, -x, jax.random.key(2), steps=5).shape
        (3, 5, 4)
    """
    if steps < 2:
        raise ValueError(f"interpolate(steps={steps}): 2 or more, the two ends.")
    key, key_other, key_draw = jax.random.split(key, 3)
    # Mapped over the two ends, so that inference is in the program once: [2, B, ...] each.
    ends = jnp.stack([jnp.asarray(x), jnp.asarray(other)]), jnp.stack([key, key_other])
    noise = jax.lax.map(lambda end: noise_of(model, variables, end[0], end[1], y, posterior_temperature), ends)
    first, last = [eps[0] for eps in noise], [eps[1] for eps in noise]
    moving = [True] * len(noise) if levels is None else list(levels)
    if len(moving) != len(noise):
        raise ValueError(f"interpolate(levels=...) has {len(moving)} entries, but the model has {len(noise)} levels.")

    def between(t: Array) -> list[Array]:
        return [on_circle(a, b, t) if moves else a for a, b, moves in zip(first, last, moving, strict=True)]

    return _decoded(model, variables, between, jnp.linspace(0.0, 1.0, steps), key_draw, y)


def _decoded(
    model: Model, variables: Any, noise_at: Callable[[Array], Sequence[Array]], values: Array, key: Array, y: Any
) -> Array:
    """E[x | z] with the noise at each of the values, `[B, len(values), *event]`.

    The descent is in the program once, mapped over the values as data, so that neither compilation nor memory grows
    with their number.
    """
    ways = jax.lax.map(lambda value: from_noise(model, variables, noise_at(value), key, y).x_dist.mean, values)
    return jnp.moveaxis(ways, 0, 1)


def on_circle(a: Array, b: Array, t: ArrayLike) -> Array:
    """Spherical interpolation of the noise of each example, t from 0 at a to 1 at b; all of one shape, `[B, ...]`.

    Source: White (2016), "Sampling Generative Networks".

    Example:
        >>> print(hv.diagnostics.on_circle(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]]), 0.5).round(3))
        [[0.707 0.707]]
    """
    flat_a, flat_b = a.reshape(len(a), -1), b.reshape(len(b), -1)  # [B, units]
    lengths = jnp.linalg.norm(flat_a, axis=1) * jnp.linalg.norm(flat_b, axis=1)
    # noise of modes is 0 in a level whose posterior is its prior: any angle will do
    cosine = (flat_a * flat_b).sum(1) / jnp.where(lengths > 0, lengths, 1.0)
    # Clipped, because at an angle of 0 or pi the circle is not determined and sin(angle), the divisor, is 0.
    angle = jnp.arccos(jnp.clip(cosine, -0.9999, 0.9999))[:, None]
    mixed = (jnp.sin((1 - t) * angle) * flat_a + jnp.sin(t * angle) * flat_b) / jnp.sin(angle)
    return mixed.reshape(a.shape)


def traverse(
    model: Model,
    variables: Any,
    x: ArrayLike,
    key: Array,
    level: int,
    unit: int,
    values: ArrayLike | Sequence[float],
    y: ArrayLike | None = None,
) -> Array:
    """E[x | z] as the noise of one unit takes each value and all other noise is fixed: `[B, len(values), *event]`.

    Args:
      level: index of the level from the top, the top is 0.
      unit: index of the unit in the flattened latent of the level.
      values: noise of the unit, in standard deviations of the prior.
    Raises ValueError for a level or unit that does not exist, and as `noise_of` does.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> choice = {"level": 0, "unit": 1, "values": [-2.0, 0.0, 2.0]}
        >>> hv.diagnostics.traverse(model, variables, x, jax.random.key(2), **choice).shape
        (3, 3, 4)
    """
    noise = noise_of(model, variables, x, key, y)
    if not 0 <= level < len(noise):
        raise ValueError(f"traverse(level={level}): the model has {len(noise)} levels, 0 to {len(noise) - 1}.")
    units = noise[level][0].size
    if not 0 <= unit < units:
        raise ValueError(f"traverse(unit={unit}): that level has {units} units, 0 to {units - 1}.")

    def at(value: Array) -> tuple[Array, ...]:
        moved = noise[level].reshape(len(noise[level]), -1).at[:, unit].set(value)
        return (*noise[:level], moved.reshape(noise[level].shape), *noise[level + 1 :])

    return _decoded(model, variables, at, jnp.asarray(np.asarray(values, float)), key, y)


def level_by_level(
    model: Model,
    variables: Any,
    x: ArrayLike,
    key: Array,
    y: ArrayLike | None = None,
    counts: ArrayLike | None = None,
    posterior_temperature: ArrayLike | None = None,
) -> Array:
    """Reconstructions from the top k levels, k = 0 to L, the rest at the mode of their prior: `[B, L + 1, *event]`.

    In a model with stages of several levels, such as BIVA, k counts stages.

    Args:
      counts: values of k, `[K]`, for `[B, K, *event]`; None takes all of them.
      posterior_temperature: temperature of the posteriors; 0 takes their modes, None is 1.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> hv.diagnostics.level_by_level(model, variables, x, jax.random.key(2)).shape  # k = 0, 1, 2
        (3, 3, 4)
    """
    cold = {"temperature": jnp.zeros(model.num_levels), "posterior_temperature": posterior_temperature}

    def one(k: Array) -> Array:
        return model.apply(variables, x, key, y=y, keep_top=k, **cold, method="reconstruct")

    every = jnp.arange(len(model.levels_per_stage) + 1) if counts is None else jnp.asarray(counts)
    return jnp.moveaxis(jax.lax.map(one, every), 0, 1)
