"""Masked convolutions: autoregressive networks, in which each element of a map depends only on those before it.

Elements are ordered by rows, then columns, then channels. A kernel covers the rows above and its own row; in its own
row, everything to the right of the centre is masked and, at the centre, the channels that the order forbids. Over a map
of C channels, the F units of a layer form C blocks of F/C, or each unit stands for a block of C/F channels. Unit u
depends on the channels up to its degree,

    floor(u C/F) where F >= C,        (u + 1) C/F - 1 where F < C.

A hidden unit reads units whose degree is at most its own; an output reads units of lower degree only.

Source: Kingma et al. (2016), section 4, and their code for the blocks at the centre (where rows and columns are in the
opposite order); Germain et al. (2015), "MADE", for degrees.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from hvae_jax.networks.computing import prepend_axes
from hvae_jax.networks.weight_norm import directions, first_gain_and_bias

# For each layer the kernel `[(size + 1)/2, size, inputs, outputs]`, masked and normalised, and the bias `[outputs]`.
Layers = tuple[tuple[Array, Array], ...]


def check_order(owner: str, channels: int, hidden: Sequence[int], size: int = 3) -> None:
    """Raise ValueError, naming `owner`, unless hidden layers of these widths can keep the order of the channels."""
    if not hidden or min(hidden) < 1 or channels < 1:
        raise ValueError(
            f"{owner}: {channels} channels and hidden layers of {tuple(hidden)}, but at least one layer is needed, and "
            "every number has to be 1 or more."
        )
    if size < 3 or size % 2 == 0:
        raise ValueError(f"{owner}: kernels of size {size}, but they have to be odd and 3 or more.")
    for width in hidden:
        if width % channels and channels % width:
            raise ValueError(
                f"{owner}: {channels} channels cannot be put in order through a hidden layer of {width}: one of the "
                f"two has to be a multiple of the other. Try {max(1, round(width / channels)) * channels}."
            )


def degrees(width: int, channels: int) -> np.ndarray:
    """Degrees of the units of a layer, `[width]`: the last of the C channels that each may depend on."""
    return np.arange(width) * channels // width if width >= channels else (np.arange(width) + 1) * channels // width - 1


def kernel_mask(size: int, inputs: np.ndarray, outputs: np.ndarray, *, strict: bool) -> np.ndarray:
    """1 where a weight is, 0 where the order forbids it: `[(size + 1)/2, size, inputs, outputs]`, float32.

    Args:
      inputs, outputs: degrees of the units.
      strict: whether an output reads lower degrees only at its own position; False lets it read its own degree too.
    """
    reach = size // 2
    mask = np.ones((reach + 1, size, len(inputs), len(outputs)), np.float32)
    mask[reach, reach + 1 :] = 0.0
    before = inputs[:, None] < outputs[None] if strict else inputs[:, None] <= outputs[None]
    mask[reach, reach] = before
    return mask


def causal_convolve(x: Float[Array, "b h w inputs"], kernel: Float[Array, "rows columns inputs outputs"]) -> Array:
    """A cross-correlation with the rows above and the row itself, zeros outside the map: `[b, h, w, outputs]`."""
    up, aside = kernel.shape[0] - 1, kernel.shape[1] // 2
    padding = ((0, 0, 0), (up, 0, 0), (aside, aside, 0), (0, 0, 0))
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    padded = jax.lax.pad(x, jnp.zeros((), dtype), padding)
    return jax.lax.conv_general_dilated(padded, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def apply_layers(
    layers: Sequence[tuple[Array, Array]],
    z: Float[Array, "b h w channels"],
    context: Float[Array, "b h w width"] | None,
) -> Array:
    """Outputs of the heads for each element of z, from the elements before it: `[b, h, w, heads * channels]`.

    ELU between layers; the context is added after the first.
    """
    h = z
    for i, (kernel, bias) in enumerate(layers):
        h = causal_convolve(jax.nn.elu(h) if i else h, kernel) + prepend_axes(bias, 4)
        if i == 0 and context is not None:
            h = h + context
    return h


class MaskedLayers(nn.Module):
    """The layers of an autoregressive network with weight norm, as `apply_layers` takes them.

    Directions are initialised as N(0, 0.05^2); gains and biases so that each output has mean 0 and standard deviation
    `scale` over the first batch.

    Attributes:
      hidden: widths of the hidden layers, each a multiple or a divisor of the number of channels of z.
      heads: number of outputs for each element of z.
      size: kernel size, an odd number.
      scale: standard deviation of the outputs of every layer on the first batch.

    Source: Salimans & Kingma (2016) for weight norm; Kingma et al. (2016), their code, for the scale of 0.1.
    Raises ValueError if a width cannot keep the order of the channels of z.
    """

    hidden: tuple[int, ...]
    heads: int
    size: int = 3
    scale: float = 0.1

    @nn.compact
    def __call__(self, z: Float[Array, "b h w channels"], context: Float[Array, "b h w width"] | None) -> Layers:
        """Kernels and biases. Their initial values depend on those of z and context; later only shapes matter."""
        channels = z.shape[-1]
        check_order("MaskedLayers", channels, self.hidden, self.size)
        widths = [degrees(width, channels) for width in self.hidden]
        # each head has one output per channel, in the order of the channels
        outputs = [*widths, np.tile(np.arange(channels), self.heads)]
        layers: list[tuple[Array, Array]] = []
        h, below = z, np.arange(channels)
        for i, above in enumerate(outputs):
            mask = kernel_mask(self.size, below, above, strict=i == len(self.hidden))
            direction = self.param(f"kernel_{i}", nn.initializers.normal(0.05), mask.shape, jnp.float32) * mask
            unit = directions(direction)
            gain, bias = jnp.ones(len(above)), jnp.zeros(len(above))
            if self.is_initializing():  # from the statistics of this layer at the outputs h of the layer below
                gain, bias = first_gain_and_bias(causal_convolve(h, unit), self.scale)
            gain = self.param(f"gain_{i}", lambda _, gain=gain: gain.astype(jnp.float32))
            bias = self.param(f"bias_{i}", lambda _, bias=bias: bias.astype(jnp.float32))
            layers.append((unit * prepend_axes(gain, 4), bias))
            if self.is_initializing():
                h = jax.nn.elu(apply_layers(layers[-1:], h, None if i else context))
            below = above
        return tuple(layers)
