"""Bounds by the upper levels alone, and the likelihood ratio that detects out-of-distribution data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.objectives import elbo, log_weight
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.trace import Model, Trace


def bound_above(
    model: Model,
    variables: Any,
    x: ArrayLike,
    key: Array,
    k: int | Array,
    draws: int = 16,
    y: ArrayLike | None = None,
    weighted: bool = False,
    temperature: float | Array = 1.0,
) -> Array:
    """L^{>k}, nats, `[B]`: the bound whose k lowest latents are drawn from their prior and the others inferred from x.

    k = 0 is the ELBO itself. In a model with stages of several levels, such as BIVA, k counts stages.

    Args:
      k: number of lowest levels drawn from their prior; may be traced, so that one compilation serves all.
      draws: number of draws to average over.
      weighted: whether to take the log of the mean importance weight instead of the mean of the log weights.
      temperature: temperature of the k lowest. At 0 they are at the mode of their prior, as in the paper's code: a
        score with less noise, but no bound, and often above log p(x).
    Source: Havtorn et al. (2021), equations 8 and 9.
    Raises ValueError for a k outside 0 to L, or no draws.

    Example:
        >>> model, x = hv.models.LinearVAE((2,), inference="exact"), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> bound = hv.diagnostics.bound_above(model, variables, x, jax.random.key(2), k=0, draws=4, weighted=True)
        >>> bool(np.allclose(bound, hv.models.ClosedForm(model, variables).log_px(x), atol=1e-3))  # q is the posterior
        True
    """
    sizes = model.levels_per_stage
    stages = len(sizes)
    if isinstance(k, int) and not 0 <= k <= stages:
        what = "levels" if max(sizes) == 1 else "stages"
        raise ValueError(f"bound_above(k={k}): the model has {stages} {what}, so 0 to {stages}.")
    if draws < 1:
        raise ValueError(f"bound_above(draws={draws}): 1 or more are needed.")
    # From stages to levels, `[L]`. The temperature of inferred levels is not used; 1 is as good as any.
    inferred = np.repeat(np.arange(stages), sizes) < stages - jnp.asarray(k)
    temperatures = jnp.where(inferred, 1.0, temperature)

    def one(index: Array) -> Array:
        drawn = jax.random.fold_in(key, index)
        trace: Trace = model.apply(variables, x, drawn, y=y, keep_top=stages - k, temperature=temperatures)
        return log_weight(trace) if weighted else elbo(trace)

    values = jax.lax.map(one, jnp.arange(draws))
    return jax.nn.logsumexp(values, axis=0) - jnp.log(float(draws)) if weighted else values.mean(0)


def likelihood_ratio(
    model: Model,
    variables: Any,
    x: ArrayLike,
    key: Array,
    k: int | Array,
    draws: int = 16,
    y: ArrayLike | None = None,
    weighted: bool = False,
    temperature: float | Array = 1.0,
) -> Array:
    """LLR^{>k} = L - L^{>k}, nats, `[B]`: the gain of the bound from inferring the k lowest levels.

    High values mark unusual x. Args and errors are those of `bound_above`.
    Source: Havtorn et al. (2021), equation 10.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> ratio = hv.diagnostics.likelihood_ratio(model, variables, x, jax.random.key(2), k=0, draws=4)
        >>> print(ratio)  # L^{>0} is the ELBO
        [0. 0. 0.]
    """
    whole = bound_above(model, variables, x, key, 0, draws, y, weighted)
    return whole - bound_above(model, variables, x, key, k, draws, y, weighted, temperature)


def auroc(inside: ArrayLike, outside: ArrayLike) -> tuple[float, float]:
    """Area under the ROC curve of a score that is higher for `outside`, and its standard error.

    Source: Hanley & McNeil (1982), equation 1.
    Raises ValueError for fewer than two scores on either side.

    Example:
        >>> hv.diagnostics.auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0]))  # every score outside is higher
        (1.0, 0.0)
    """
    a, b = np.asarray(inside), np.asarray(outside)
    if min(len(a), len(b)) < 2:
        raise ValueError(f"auroc compares two sets of 2 scores or more, but they have {len(a)} and {len(b)}.")
    from sklearn.metrics import roc_auc_score

    area = float(roc_auc_score(np.repeat([0, 1], [len(a), len(b)]), np.concatenate([a, b])))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (len(b) - 1) * (q1 - area**2) + (len(a) - 1) * (q2 - area**2)
    return area, float(np.sqrt(variance / (len(a) * len(b))))
