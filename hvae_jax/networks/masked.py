"""Masked convolutions: networks in which each element of a map depends on those before it alone.

The order is that of rows, columns, channels. A kernel has the rows above and its own row, in which what lies to the
right is masked away and, at the place itself, what the order of channels forbids. The channels of a layer of F units
over a map of C channels come in C blocks of F/C, or F blocks of C/F channels share a unit: unit u knows of the
channels up to its degree,

    floor(u C/F) where F >= C,        (u + 1) C/F - 1 where F < C,

reads units of no higher degree than its own and, as an output, of a lower one only.

Source: Kingma et al. (2016), section 4, and their code for the blocks at the centre (there the order of rows and
columns is the opposite one); Germain et al. (2015), "MADE", for degrees.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from hvae_jax.networks.weight_norm import directions, first_gain_and_bias

# Of each layer the kernel `[(size + 1)/2, size, inputs, outputs]`, masked and normalised, and the bias.
Layers = tuple[tuple[Array, Array], ...]


def check_order(owner: str, channels: int, hidden: Sequence[int], size: int = 3) -> None:
    """Raises ValueError unless the channels can be put in order through hidden layers of these widths.

    `owner` is named in the error.
    """
    if not hidden or min(hidden) < 1 or channels < 1:
        raise ValueError(f"{owner}: a map of {channels} channels and hidden layers of {tuple(hidden)}: 1 or more each.")
    if size < 3 or size % 2 == 0:
        raise ValueError(f"{owner}: kernels of size {size}, but they have to be odd and 3 or more.")
    for width in hidden:
        if width % channels and channels % width:
            raise ValueError(
                f"{owner}: {channels} channels cannot be put in order through a hidden layer of {width}: one of the "
                f"two has to be a multiple of the other. Try {max(1, round(width / channels)) * channels}."
            )


def degrees(width: int, channels: int) -> np.ndarray:
    """The last of the C channels that each unit of a layer may know of, `[width]`."""
    return np.arange(width) * channels // width if width >= channels else (np.arange(width) + 1) * channels // width - 1


def kernel_mask(size: int, inputs: np.ndarray, outputs: np.ndarray, *, strict: bool) -> np.ndarray:
    """1 where a weight is, 0 where the order forbids it: `[(size + 1)/2, size, inputs, outputs]`, float32.

    Args:
      inputs, outputs: degrees of the units.
      strict: whether an output reads lower degrees only, at its own place, or its own degree too.
    """
    reach = size // 2
    mask = np.ones((reach + 1, size, len(inputs), len(outputs)), np.float32)
    mask[reach, reach + 1 :] = 0.0
    before = inputs[:, None] < outputs[None] if strict else inputs[:, None] <= outputs[None]
    mask[reach, reach] = before
    return mask


def convolve(x: Float[Array, "b h w inputs"], kernel: Float[Array, "rows columns inputs outputs"]) -> Array:
    """A cross-correlation with the rows above and the row itself, zeros beyond the map: `[b, h, w, outputs]`."""
    up, aside = kernel.shape[0] - 1, kernel.shape[1] // 2
    padding = ((0, 0, 0), (up, 0, 0), (aside, aside, 0), (0, 0, 0))
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    padded = jax.lax.pad(x, jnp.zeros((), dtype), padding)
    return jax.lax.conv_general_dilated(padded, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def evaluate(
    layers: Sequence[tuple[Array, Array]],
    z: Float[Array, "b h w channels"],
    context: Float[Array, "b h w width"] | None,
) -> Array:
    """What the heads say of each element of z from those before it, `[b, h, w, heads * channels]`.

    The context joins after the first layer; ELU between layers.
    """
    h = z
    for i, (kernel, bias) in enumerate(layers):
        h = convolve(jax.nn.elu(h) if i else h, kernel) + bias[None, None, None]
        if i == 0 and context is not None:
            h = h + context
    return h


class MaskedLayers(nn.Module):
    """The layers of an autoregressive network with weight norm, as `evaluate` takes them.

    Directions are N(0, 0.05^2); gains and biases are such that each output has mean 0 and standard deviation `scale`
    over the first batch.

    Attributes:
      hidden: widths of the hidden layers, each a multiple or a divisor of z's channels.
      heads: outputs for each element of z.
      size: of the kernels, odd.
      scale: standard deviation of every layer's outputs on the first batch.

    Source: Salimans & Kingma (2016) for weight norm; Kingma et al. (2016), their code, for the scale of 0.1.
    Raises ValueError for widths that z's channels do not divide.
    """

    hidden: tuple[int, ...]
    heads: int
    size: int = 3
    scale: float = 0.1

    @nn.compact
    def __call__(self, z: Float[Array, "b h w channels"], context: Float[Array, "b h w width"] | None) -> Layers:
        """z and context, as they are evaluated at, decide gains and biases at initialisation; later, sizes alone."""
        channels = z.shape[-1]
        check_order("MaskedLayers", channels, self.hidden, self.size)
        widths = [degrees(width, channels) for width in self.hidden]
        outputs = [*widths, np.tile(np.arange(channels), self.heads)]
        layers: list[tuple[Array, Array]] = []
        h, below = z, np.arange(channels)
        for i, above in enumerate(outputs):
            mask = kernel_mask(self.size, below, above, strict=i == len(self.hidden))
            direction = self.param(f"kernel_{i}", nn.initializers.normal(0.05), mask.shape, jnp.float32) * mask
            unit = directions(direction)
            gain, bias = jnp.ones(len(above)), jnp.zeros(len(above))
            if self.is_initializing():
                gain, bias = first_gain_and_bias(convolve(h, unit), self.scale)
            gain = self.param(f"gain_{i}", lambda _, gain=gain: gain.astype(jnp.float32))
            bias = self.param(f"bias_{i}", lambda _, bias=bias: bias.astype(jnp.float32))
            layers.append((unit * gain[None, None, None], bias))
            if self.is_initializing():
                h = jax.nn.elu(evaluate(layers[-1:], h, None if i else context))
            below = above
        return tuple(layers)
