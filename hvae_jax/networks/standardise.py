"""Data-dependent initialisation: standardises the output of every convolution on the first batch."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from hvae_jax.networks.conv import Conv
from hvae_jax.networks.resample import TransposedConv


def standardised(std: float = 0.1) -> Callable[..., Any]:
    """Return an interceptor for `nn.intercept_methods` around the forward pass that initialises a model.

    Every convolution is rescaled so that each channel of its output has mean 0 and standard deviation `std` over
    examples and pixels. With y the output and m, s a channel's mean and standard deviation,

        kernel <- kernel std/s          bias <- (bias - m) std/s          y <- (y - m) std/s

    so that the scale the kernels were initialised with cancels. The pass should be in training mode, so that the batch
    norms in between use the statistics of the batch.

    Source: Salimans & Kingma (2016), section 3, without weight norm; in addtt's Ladder VAE std is 0.1.
    """

    def intercept(next_call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        y = next_call(*args, **kwargs)
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, Conv | TransposedConv):
            return y
        mean = y.mean((0, 1, 2), keepdims=True)  # [1, 1, 1, C]
        gain = std / jnp.sqrt(y.var((0, 1, 2), keepdims=True) + 1e-5)
        kernel, bias = (module.get_variable("params", name) for name in ("kernel", "bias"))
        module.put_variable("params", "kernel", kernel * gain)
        module.put_variable("params", "bias", (bias - mean.ravel()) * gain.ravel())
        return (y - mean) * gain  # the output under the new parameters, for the layers that follow

    return intercept
