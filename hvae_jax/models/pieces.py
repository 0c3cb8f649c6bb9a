"""Pieces that models share: a Gaussian from a layer, and a learned Gaussian at the top."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.distributions import Normal, ScaleHead
from hvae_jax.networks.computing import widen

_LOG_VAR = ScaleHead()


def gaussian(h: Array, head: ScaleHead = _LOG_VAR, clamp: tuple[float, float] | None = None) -> Normal:
    """The diagonal Gaussian that a layer's output describes, in float32 at least.

    Args:
      h: `[..., 2 d]`, the mean and then the numbers that `head` makes a scale of.
      clamp: bounds of the log variance (or log standard deviation, as `head` has it); None for none.
    """
    mean, a = jnp.split(widen(h), 2, axis=-1)
    return Normal(mean, head.log_std(a, clamp))


def learned_top_prior(
    module: nn.Module, shape: tuple[int, ...], n: int, clamp: tuple[float, float] | None = None
) -> Normal:
    """p(z_L) with a learned mean and log variance for each element, which begins as N(0, I): `[n, *shape]`.

    Args:
      module: the model; the numbers are its parameter "top_prior", `[*shape[:-1], 2 * shape[-1]]`.
    """
    both = module.param("top_prior", nn.initializers.zeros, (*shape[:-1], 2 * shape[-1]), jnp.float32)
    return gaussian(jnp.broadcast_to(both[None], (n, *both.shape)), clamp=clamp)
