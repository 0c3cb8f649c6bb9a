"""What a trained model does with its latents, from traces: rates, distortion, active units. Nats, per level."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jax.typing import ArrayLike

from hvae_jax.trace import Model


@struct.dataclass
class Usage:
    """How much each level says about each example of a set.

    Attributes:
      rates: `[L, B]`, KL per level and example, nats, top first, mean over the draws.
      log_px: `[B]`, log p(x | z), mean over the draws; minus it is the distortion.
      posterior_means: one `[B, units]` a level, top first: the mean of q, averaged over the draws of the levels above.
    """

    rates: Array
    log_px: Array
    posterior_means: tuple[Array, ...]


def usage(model: Model, variables: Any, x: ArrayLike, key: Array, draws: int = 16, y: ArrayLike | None = None) -> Usage:
    """Averages `draws` traces of x; memory does not grow with the draws.

    Raises ValueError for fewer than one draw.
    """
    if draws < 1:
        raise ValueError(f"usage(draws={draws}): 1 or more are needed.")

    def one(index: Array) -> Usage:
        trace = model.apply(variables, x, jax.random.fold_in(key, index), y=y)
        means = tuple(level.q.mean.reshape(level.q.mean.shape[0], -1) for level in trace.unstack())
        return Usage(trace.rates, trace.log_px, means)

    def add(total: Usage, index: Array) -> tuple[Usage, None]:
        return jax.tree.map(jnp.add, total, one(index)), None

    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(lambda: one(jnp.int32(0))))
    total, _ = jax.lax.scan(add, zero, jnp.arange(draws))
    return jax.tree.map(lambda leaf: leaf / draws, total)


def active_units(posterior_means: Sequence[ArrayLike], threshold: float = 0.01) -> list[int]:
    """Units of each level, top first, whose posterior mean varies over the examples by more than `threshold`.

    A_u = Var_x(E_q[u | x]) > 0.01. In a top-down model a lower level's posterior mean also moves with the levels
    above it, so there the count says that something above is used, not that the unit itself is.
    Source: Burda et al. (2015), section 4.3.
    """
    return [int((np.asarray(means).var(axis=0) > threshold).sum()) for means in posterior_means]
