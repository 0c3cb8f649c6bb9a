"""The autoregressive network of NVAE's flows: a shift of each element of a map from the elements before it.

    m = out(elu(h)),  h = elu(middle(elu(first(z) + context)))

`first` is a masked 3x3 convolution to six times the channels of z, `middle` a masked depthwise 5x5, `out` a masked 1x1
back, all with normalised weights (`cells.normalised`). Elements are ordered as in `masked.py`.

Source: Vahdat & Kautz (2020), section 3.2, and their published models, whose second elu after `middle` is kept.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from hvae_jax.networks.cells import first_log_norm, normalised
from hvae_jax.networks.computing import prepend_axes
from hvae_jax.networks.masked import degrees, kernel_mask
from hvae_jax.networks.mlp import uniform_fan_in
from hvae_jax.networks.resample import convolve, depthwise

EXPANSION = 6


class ShiftWeights(NamedTuple):
    """Masked and normalised kernels, and the bias of the last layer.

    Attributes:
      first: `[3, 3, C, 6 C]`.
      middle: `[5, 5, 1, 6 C]`.
      out: `[1, 1, 6 C, C]`.
      bias: `[C]`.
    """

    first: Array
    middle: Array
    out: Array
    bias: Array


def masks(channels: int) -> dict[str, np.ndarray]:
    """1 where a weight of each layer is, 0 where the order forbids it, in the shapes of `ShiftWeights`."""
    of_z, inside = degrees(channels, channels), degrees(EXPANSION * channels, channels)
    # The first layer alone excludes the element itself; behind it a unit may read its own degree.
    first = kernel_mask(3, of_z, inside, strict=True)
    middle = kernel_mask(5, inside[:1], inside[:1], strict=False).repeat(len(inside), axis=3)
    out = kernel_mask(1, inside, of_z, strict=False)
    # kernel_mask leaves out the rows below the centre, which no layer reads
    below = [((0, rows), (0, 0), (0, 0), (0, 0)) for rows in (1, 2, 0)]
    return {
        name: np.pad(mask, rows)
        for name, mask, rows in zip(("first", "middle", "out"), (first, middle, out), below, strict=True)
    }


class ShiftNetwork(nn.Module):
    """The weights of the network, as `shift` takes them.

    Attributes:
      channels: channels of z.
      epsilon: as in `CellStyle`.
    """

    channels: int
    epsilon: float = 0.0

    @nn.compact
    def __call__(self) -> ShiftWeights:
        weights = {}
        for name, mask in masks(self.channels).items():
            fan_in = math.prod(mask.shape[:3])
            init = uniform_fan_in(fan_in)
            # Masked when it is made too: no gradient reaches those entries, so that they stay 0.
            kernel = self.param(
                f"{name}_kernel", lambda key, shape, init=init, mask=mask: init(key, shape) * mask, mask.shape
            )
            kernel = kernel * mask
            # a flow begins close to the identity
            start = math.log(0.1) if name == "out" else 0.0
            log_norm = self.param(
                f"{name}_log_norm", lambda _, kernel=kernel, start=start: first_log_norm(kernel) + start
            )
            weights[name] = normalised(kernel, log_norm, self.epsilon)
        inputs = EXPANSION * self.channels
        bias = self.param("out_bias", uniform_fan_in(inputs), (self.channels,), jnp.float32)
        return ShiftWeights(**weights, bias=bias)


def shift(
    weights: ShiftWeights, z: Float[Array, "b h w channels"], context: Float[Array, "b h w inside"] | None
) -> Float[Array, "b h w channels"]:
    """m of each element of z."""
    h = convolve(z, weights.first)
    h = jax.nn.elu(h if context is None else h + context)
    h = jax.nn.elu(depthwise(h, weights.middle))
    return convolve(jax.nn.elu(h), weights.out) + prepend_axes(weights.bias, 4)
