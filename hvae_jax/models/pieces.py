"""Pieces of a forward pass that models share: a Gaussian from a layer, a learned Gaussian at the top, a check of x."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.distributions import Normal
from hvae_jax.networks.computing import widen
from hvae_jax.networks.scale_head import ScaleHead

_LOG_VAR = ScaleHead()


@runtime_checkable
class ForImages(Protocol):
    """A model with a setting for the shape of its images."""

    @property
    def image(self) -> tuple[int, ...] | None:
        """`(H, W, C)` of one x."""
        ...


def check_image(model: ForImages, x: Array) -> None:
    """Raise ValueError unless x is a batch of the model's images, `[B, *model.image]`."""
    if x.shape[1:] != model.image:
        remedy = "Give x[None], a batch of one." if x.shape == model.image else "Reshape x, or set image."
        raise ValueError(
            f"x has shape {tuple(x.shape)}, that is examples of {tuple(x.shape[1:])}, but "
            f"{type(model).__name__}(image={model.image}) takes examples of {model.image}. {remedy}"
        )


def gaussian(h: Array, head: ScaleHead = _LOG_VAR, clamp: tuple[float, float] | None = None) -> Normal:
    """Return the diagonal Gaussian parametrised by a layer's output, in float32 at least.

    Args:
      h: `[..., 2 d]`, the means and then the d numbers that `head` turns into scales.
      clamp: bounds of the log variance, or of the log standard deviation if `head` is "log_std" or "softplus_std"; None
        for no bounds.
    """
    # widened before the split: exp of a bfloat16 log variance has three digits
    mean, a = jnp.split(widen(h), 2, axis=-1)
    return Normal(mean, head.log_std(a, clamp))


def learned_top_prior(
    param: Callable[..., Array], shape: tuple[int, ...], n: int, clamp: tuple[float, float] | None = None
) -> Normal:
    """Return p(z_L) for n examples, `[n, *shape]`, with a learned mean and log variance for each element.

    Args:
      param: the `param` method of the model. The parameter "top_prior", `[*shape[:-1], 2 * shape[-1]]`, starts at zero,
        so that p(z_L) starts as N(0, I).
      shape: shape of one z_L, channels last.
      clamp: bounds of the log variance; None for no bounds.
    """
    # mean and log variance in one parameter, as a layer would give them: at zero they are N(0, I)
    both = param("top_prior", nn.initializers.zeros, (*shape[:-1], 2 * shape[-1]), jnp.float32)
    return gaussian(jnp.broadcast_to(both[None], (n, *both.shape)), clamp=clamp)
