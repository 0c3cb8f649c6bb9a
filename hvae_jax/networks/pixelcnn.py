"""A gated PixelCNN without blind spot: its weights, one pass over a whole image, and generation pixel by pixel.

Two stacks of layers. The vertical stack ("down") sees the rows above, to both sides; the horizontal stack ("across")
sees the pixels to the left and, at each layer, the output of the vertical stack at the same pixel. A layer of reach r
sees r rows up with r columns to either side, and r columns to the left in its own row, so that the reaches of all
layers add up to the receptive field R: pixel (i, j) depends on all (i', j') with i - R <= i' < i, |j' - j| <= R or
i' = i, j - R <= j' < j, and on nothing else. Kernels cover only what may be seen, so that no multiplication is wasted
on masked weights.

Source: van den Oord et al. (2016b), "Conditional Image Generation with PixelCNN Decoders", section 2; the order of
colours within a pixel is that of van den Oord et al. (2016a), here by a head for each channel.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from hvae_jax.networks.computing import prepend_axes


def reaches(total: int, layers: int) -> tuple[int, ...]:
    """The reach of each layer: as equal as whole numbers allow, the larger ones first."""
    each, more = divmod(total, layers)
    return tuple(each + (layer < more) for layer in range(layers))


class PixelCNNWeights(nn.Module):
    """The parameters of a PixelCNN, as a dict for `one_pass` and `pixel_by_pixel`.

    Kernels are initialised as N(0, 1/fan_in) truncated at two standard deviations, biases as 0.

    Attributes:
      reach: R, the reach of all layers together; 0 lets a pixel see no other.
      layers: number of layers.
      width: channels of each layer.
      parameters: number of outputs for each channel of a pixel.
      colours: whether a channel sees those before it in the same pixel.
    """

    reach: int
    layers: int
    width: int
    parameters: int
    colours: bool

    @nn.compact
    def __call__(self, channels: int, context: int) -> dict[str, Array]:
        """The weights by name, for images of `channels` channels and a context of `context` numbers at each pixel."""
        gates, kernel = 2 * self.width, nn.initializers.lecun_normal()
        by_colour = nn.initializers.lecun_normal(batch_axis=0)
        weights: dict[str, Array] = {}

        def param(name: str, shape: tuple[int, ...], init: Callable[..., Array] = kernel) -> None:
            weights[name] = self.param(name, init, shape, jnp.float32)

        zeros = nn.initializers.zeros
        for layer, r in enumerate(reaches(self.reach, self.layers)):
            # Only the first layer reads the image, and must not see the pixel itself; later ones may see its features.
            inputs, own = (self.width, 1) if layer else (channels, 0)
            if self.reach:
                param(f"down_{layer}", (r + own, 2 * r + 1, inputs, gates))
                param(f"down_context_{layer}", (context, gates))
                param(f"down_bias_{layer}", (gates,), zeros)
                param(f"link_{layer}", (gates, gates))
            if r + own:
                param(f"across_{layer}", (1, r + own, inputs, gates))
            param(f"across_context_{layer}", (context, gates))
            param(f"across_bias_{layer}", (gates,), zeros)
            param(f"out_{layer}", (self.width, self.width))
            param(f"out_bias_{layer}", (self.width,), zeros)
        param("head", (channels, self.width, self.width), by_colour)
        param("head_bias", (channels, self.width), zeros)
        if self.colours and channels > 1:
            param("colours", (channels, channels, self.width), by_colour)
        param("last", (channels, self.width, self.parameters), by_colour)
        param("last_bias", (channels, self.parameters), zeros)
        return weights


def _gate(pre: Array) -> Array:
    """tanh(a) sigmoid(b), where a and b are the halves of the last axis: equation 2 of van den Oord et al. (2016b)."""
    a, b = jnp.split(pre, 2, axis=-1)
    return jnp.tanh(a) * jax.nn.sigmoid(b)


def _convolve(x: Array, kernel: Array, rows: tuple[int, int], columns: tuple[int, int]) -> Array:
    """A cross-correlation padded with (before, after) lines of zeros; -1 drops the last line."""
    # Padded separately: with a 1x1 kernel and negative padding in the convolution itself, the dropped line shows up in
    # the next row of the derivative of a vmapped convolution (jax 0.10.2, CPU).
    padded = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)))
    return jax.lax.conv_general_dilated(padded, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _plus(x: Array, bias: Array) -> Array:
    return x + prepend_axes(bias, x.ndim)


def _layers(weights: dict[str, Array]) -> int:
    """Number of layers."""
    return sum(name.startswith("out_bias_") for name in weights)


def one_pass(
    weights: dict[str, Array],
    x: Float[Array, "batch rows columns channels"],
    context: Float[Array, "batch rows columns context"],
) -> Float[Array, "batch rows columns channels parameters"]:
    """Parameters of the conditionals of all channels of all pixels, each given the channels before it, in one pass."""
    v = h = x  # features of the vertical and the horizontal stack, [batch, rows, columns, channels, then width]
    for layer in range(_layers(weights)):
        own = min(layer, 1)
        pre = _plus(context @ weights[f"across_context_{layer}"], weights[f"across_bias_{layer}"])
        if f"down_{layer}" in weights:
            kernel = weights[f"down_{layer}"]
            r = kernel.shape[1] // 2
            down = _convolve(v, kernel, (r, own - 1), (r, r))
            down += _plus(context @ weights[f"down_context_{layer}"], weights[f"down_bias_{layer}"])
            v, pre = _gate(down), pre + down @ weights[f"link_{layer}"]
        if f"across_{layer}" in weights:
            kernel = weights[f"across_{layer}"]
            pre += _convolve(h, kernel, (0, 0), (kernel.shape[1] - own, own - 1))
        found = _plus(_gate(pre) @ weights[f"out_{layer}"], weights[f"out_bias_{layer}"])
        h = h + found if layer else found
    pre = _plus(jnp.einsum("bijf,cfg->bijcg", jax.nn.relu(h), weights["head"]), weights["head_bias"])
    if "colours" in weights:
        # 1 for the channels before each one
        before = np.tri(x.shape[-1], k=-1, dtype=np.float32)[:, :, None]
        pre += jnp.einsum("bijd,cdg->bijcg", x, weights["colours"] * before)
    return _plus(jnp.einsum("bijcg,cgp->bijcp", jax.nn.relu(pre), weights["last"]), weights["last_bias"])


def pixel_by_pixel(
    weights: dict[str, Array],
    context: Float[Array, "batch rows columns context"],
    channels: int,
    choose: Callable[[Array, Array], tuple[Array, Array]],
) -> Array:
    """An image whose values are chosen in turn, each given those before: `[batch, rows, columns, channels]`.

    Each layer keeps its features of the rows above and the pixels to the left, as far as it reaches. So a row costs one
    pass of the vertical stack, and a pixel one pass of the horizontal stack at that pixel alone: the whole image costs
    about as much as `one_pass`, whatever its number of pixels.

    Args:
      choose: takes the parameters of a conditional, `[batch, parameters]`, and its index `[]`, which counts channels
        from the first channel of the first pixel; returns the value, and the value as the layers take it, `[batch]`
        each.
    """
    batch, rows, columns, _ = context.shape
    count, dtype = _layers(weights), context.dtype
    width = weights["out_0"].shape[0]
    widths = [channels, *[width] * (count - 1)]
    above = [weights[f"down_{n}"].shape[1] // 2 if f"down_{n}" in weights else 0 for n in range(count)]
    no_rows = tuple(jnp.zeros((batch, r, columns, f), dtype) for r, f in zip(above, widths, strict=True))
    no_pixels = tuple(jnp.zeros((batch, r, f), dtype) for r, f in zip(above, widths, strict=True))

    def pixel(left: tuple[Array, ...], at: tuple[Array, Any, Array]) -> tuple[tuple[Array, ...], tuple[Array, Array]]:
        """One pixel from the features of those to its left, `[batch, r, width]` in each layer."""
        here, linked, index = at
        h, seen = jnp.zeros((batch, width), dtype), []
        for n in range(count):
            pre = _plus(here @ weights[f"across_context_{n}"], weights[f"across_bias_{n}"])
            if linked is not None:
                pre += linked[n] @ weights[f"link_{n}"]
            if f"across_{n}" in weights:
                # [batch, r, width] to the left and, but in the first layer, the pixel itself
                window = jnp.concatenate([left[n], h[:, None]], axis=1) if n else left[n]
                pre += jnp.einsum("bki,kio->bo", window, weights[f"across_{n}"][0])
            found = _plus(_gate(pre) @ weights[f"out_{n}"], weights[f"out_bias_{n}"])
            seen.append(h)
            h = h + found
        values, taken = [], []
        for c in range(channels):
            pre = _plus(jax.nn.relu(h) @ weights["head"][c], weights["head_bias"][c])
            if "colours" in weights and c:
                pre += jnp.stack(taken, axis=-1) @ weights["colours"][c, :c]
            parameters = _plus(jax.nn.relu(pre) @ weights["last"][c], weights["last_bias"][c])
            value, as_input = choose(parameters, index * channels + c)
            values.append(value)
            taken.append(as_input.astype(dtype))
        seen[0] = jnp.stack(taken, axis=-1)  # the first layer reads the pixel itself, which is known only now
        left = tuple(jnp.concatenate([old, new[:, None]], axis=1)[:, 1:] for old, new in zip(left, seen, strict=True))
        return left, (jnp.stack(values, axis=-1), seen[0])

    def row(up: tuple[Array, ...], at: tuple[Array, Array]) -> tuple[tuple[Array, ...], Array]:
        """One row from the features of those above it, `[batch, r, columns, width]` in each layer."""
        here, indices = at
        v, seen, linked = None, [], []
        for n in range(count if any(above) else 0):
            # [batch, r, columns, width] above and, but in the first layer, the row itself
            window = up[n] if v is None else jnp.concatenate([up[n], v[:, None]], axis=1)
            down = _convolve(window, weights[f"down_{n}"], (0, 0), (above[n], above[n]))[:, 0]
            down += _plus(here @ weights[f"down_context_{n}"], weights[f"down_bias_{n}"])
            linked.append(down)
            seen.append(v)
            v = _gate(down)
        by_column = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (here, tuple(linked) or None))
        _, (values, taken) = jax.lax.scan(pixel, no_pixels, (*by_column, indices))
        if seen:
            seen[0] = jnp.moveaxis(taken, 0, 1)
            up = tuple(jnp.concatenate([old, new[:, None]], axis=1)[:, 1:] for old, new in zip(up, seen, strict=True))
        return up, values

    indices = jnp.arange(rows * columns).reshape(rows, columns)
    _, image = jax.lax.scan(row, no_rows, (jnp.moveaxis(context, 1, 0), indices))
    return jnp.moveaxis(image, 2, 0)  # [rows, columns, batch, channels] to [batch, rows, columns, channels]
