"""Codes of examples, the latents of chosen levels, and scores of single examples."""

import difflib
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from hvae_jax.diagnostics.anomaly import bound_above
from hvae_jax.distributions import FromNoise
from hvae_jax.objectives import importance
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.trace import Level, Model

What = Literal["mean", "sample", "noise"]
"""Kinds of codes."""


def check_levels(names: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The wanted names in the order of the levels, top first; None wants all.

    Raises ValueError for a name that is no level's, with the nearest one and all of them, and for none at all.
    """
    if wanted is None:
        return tuple(names)
    if isinstance(wanted, str) or not len(wanted):
        raise ValueError(f"levels={wanted!r}: it has to be a sequence of names, of {', '.join(names)}.")
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"The model has no level {name!r}.{hint} Its levels, top first: {', '.join(names)}.")
    return tuple(name for name in names if name in wanted)


def codes(
    model: Model,
    variables: Any,
    x: ArrayLike,
    key: Array,
    what: What = "mean",
    levels: Sequence[str] | None = None,
    y: ArrayLike | None = None,
    posterior_temperature: float | None = None,
) -> dict[str, Array]:
    """Codes of examples by level, top first, `[B, ...]` each.

    what      code of level l                                                   noise in the levels above, by default
    mean      E[z_l] under q(z_l | z_above, x); of a class, probabilities       none
    sample    z_l ~ q(z_l | z_above, x)                                         drawn
    noise     (z_l - m_p)/s_p, z_l as in sample, p the prior p(z_l | z_above)   drawn

    Without noise each level above is at the mode of its posterior, so that means are a function of x alone unless
    networks draw numbers of their own. With it, the mean of a level is that given one draw of the levels above.

    Args:
      key: random key for latents, and whatever else the model draws.
      levels: names of levels; None takes all.
      y: labels `[B]`, for a model with classes.
      posterior_temperature: temperature of the posteriors, 0 for no noise, 1 for the posteriors themselves; None takes
        0 for means and 1 otherwise.
    Raises ValueError for another `what`, an unknown level, the mean of a level under a flow at another temperature than
    0 (there it is the flow's value at the mean of its base), and the noise of a level whose prior is no function of
    standard normal noise.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> found = hv.diagnostics.codes(model, variables, x, jax.random.key(2))
        >>> {name: code.shape for name, code in found.items()}
        {'z2': (3, 2), 'z1': (3, 1)}
    """
    if what not in ("mean", "sample", "noise"):
        raise ValueError(f"codes(what={what!r}): it has to be one of mean, sample, noise.")
    temperature = float(what != "mean") if posterior_temperature is None else posterior_temperature
    trace = model.apply(variables, x, key, y=y, posterior_temperature=temperature)
    wanted = check_levels(trace.names, levels)
    return {level.name: _code(level, what, temperature) for level in trace.unstack() if level.name in wanted}


def _code(level: Level, what: str, temperature: float) -> Array:
    """The code of one level; raises ValueError as `codes` does."""
    if what == "sample":
        return level.z
    if what == "mean":
        if level.flow and temperature != 0:
            raise ValueError(
                f"Level {level.name!r} passes a flow, under which its mean is not known: take samples, or "
                "posterior_temperature=0, the flow's value at the mean of its base."
            )
        return level.z if level.flow else level.q.mean
    if not isinstance(level.p, FromNoise):
        raise ValueError(
            f"The prior of level {level.name!r}, a {type(level.p).__name__}, is no function of standard normal noise: "
            "take its mean or a sample."
        )
    return level.p.to_noise(level.z)


def example_scores(
    model: Model,
    variables: Any,
    x: ArrayLike,
    key: Array,
    draws: int = 100,
    above: Sequence[int] = (),
    above_draws: int = 16,
    chunk: int = 10,
    y: ArrayLike | None = None,
) -> dict[str, Array]:
    """Scores of each example, `[B]` each, nats: `elbo`, `iw_bound` and, for each k in `above`, `llr_K`.

    llr_k = L - L^{>k} of `likelihood_ratio`, with the k lowest levels (stages, in models that have them) drawn from
    their priors. Both of its bounds have the same key, so that they share the noise of the levels above.

    Args:
      draws: K of the importance-weighted bound; the ELBO is the mean over the same draws.
      above: values of k, 1 to L.
      above_draws: draws of each bound in llr_k.
      chunk: largest number of draws held in memory at once.
    Source: Burda et al. (2015), equation 8; Havtorn et al. (2021), equation 10.
    Raises ValueError as `importance` and `bound_above` do.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> scores = hv.diagnostics.example_scores(model, variables, x, jax.random.key(2), draws=4)
        >>> sorted(scores), bool((scores["iw_bound"] >= scores["elbo"] - 1e-3).all())
        (['elbo', 'iw_bound'], True)
    """
    bound_key, above_key = jax.random.split(key)
    bound = importance(model, variables, x, bound_key, draws, chunk, y)
    found = {"elbo": bound.elbo, "iw_bound": bound.bound}
    stages = len(model.levels_per_stage)
    for k in above:
        if not 1 <= k <= stages:
            raise ValueError(f"LLR^{{>k}} with k={k}: the model has {stages} levels to draw, so 1 to {stages}.")
    if not above:
        return found
    # one pass in the program, mapped over k as data
    bounds = jax.lax.map(
        lambda k: bound_above(model, variables, x, above_key, k, above_draws, y), jnp.asarray([0, *above])
    )
    return found | {f"llr_{k}": bounds[0] - bounds[1 + i] for i, k in enumerate(above)}
