"""Resampling of feature maps `[B, H, W, C]`: strided and transposed convolutions, upsampling, pooling, padding.

Every padding is explicit, so that the conventions of other libraries can be matched. Times are milliseconds on one CPU
core.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Num

from hvae_jax.networks import cpu_conv
from hvae_jax.networks.computing import ComputeDtype, Precision, prepend_axes, widen
from hvae_jax.networks.mlp import uniform_fan_in


def convolve(
    x: Num[Array, "batch rows columns inputs"],
    kernel: Float[Array, "height width inputs outputs"],
    stride: int = 1,
    padding: cpu_conv.Padding | None = None,
    dtype: ComputeDtype = None,
    precision: Precision = "default",
) -> Float[Array, "batch rows2 columns2 outputs"]:
    """A cross-correlation, out[i, j] = sum_ab x[stride i + a, stride j + b] kernel[a, b], zeros around x.

    Args:
      padding: number of zeros before and after, for rows and for columns. None is size // 2 on every side, PyTorch's
        `padding=size // 2`, which keeps the resolution of odd kernels at stride 1.
      dtype: dtype of the product and the output; None is what x and the kernel promote to.
      precision: precision of the products on accelerators.
    """
    target = jnp.promote_types(x.dtype, kernel.dtype) if dtype is None else dtype
    x, kernel = x.astype(target), kernel.astype(target)
    height, width, _, _ = kernel.shape
    exact = None if precision == "default" else precision  # None: what jax_default_matmul_precision says
    if padding is None:
        padding = ((height // 2, height // 2), (width // 2, width // 2))
    if (height, width, stride) == (1, 1, 1) and padding == ((0, 0), (0, 0)):
        # A matrix product: 8 ms with gradients for 48 images of 16x16 from 64 to 128 channels, 21 as a convolution.
        return jnp.tensordot(x, kernel[0, 0], 1, precision=exact)
    if stride == 1 and x.shape[1] < height and x.shape[2] < width:
        # Feature maps smaller than the kernel, likewise: 0.6 ms for 3x3 at 2x2, 4 as a convolution.
        return _gathered(x, kernel, padding, exact)
    return cpu_conv.convolve(x, kernel, stride, padding, exact)


def _gathered(x: Array, kernel: Array, padding: cpu_conv.Padding, precision: str | None) -> Array:
    """The convolution at stride 1 as a product of the inputs of each output with the kernel, for small feature maps."""
    height, width, _, outputs = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    seen = [x[:, a : a + rows, b : b + columns] for a in range(height) for b in range(width)]
    # [B, rows, columns, height * width * inputs] by [height * width * inputs, outputs]
    return jnp.tensordot(jnp.concatenate(seen, axis=-1), kernel.reshape(-1, outputs), 1, precision=precision)


def convolve_transposed(
    x: Num[Array, "batch rows columns inputs"],
    kernel: Float[Array, "height width inputs outputs"],
    stride: int = 2,
    crop: tuple[int, int] = (1, 0),
    dtype: ComputeDtype = None,
) -> Float[Array, "batch rows2 columns2 outputs"]:
    """A transposed convolution that multiplies the resolution by its stride.

    full[stride i + a] += x[i] kernel[a], for rows and columns alike; then `crop` pixels are cut off before and after.
    An output whose position is r modulo the stride sees only every stride-th row of the kernel. So it is computed as
    stride^2 small convolutions of x with interleaved outputs, without products with the zeros that dilating x would
    insert (8x8 to 16x16, 64 channels, 48 images, with gradients: 8 ms, dilated 173).

    Args:
      kernel: PyTorch's `[inputs, outputs, height, width]` with its axes moved, not flipped.
      crop: (before, after), with before + after = size - stride. PyTorch's `padding=p, output_padding=e` is (p, p - e):
        (1, 0) for its 3x3 of stride 2, padding 1, output_padding 1.
      dtype: as in `convolve`.

    Raises ValueError if a crop is negative or their sum is not size - stride.
    """
    for size in kernel.shape[:2]:
        if min(crop) < 0 or sum(crop) != size - stride:
            raise ValueError(
                f"convolve_transposed(crop={crop}) with a kernel of {kernel.shape[0]}x{kernel.shape[1]} and stride "
                f"{stride}: the two numbers, 0 or more, have to add up to size - stride = {size - stride}."
            )
    rows, columns = (_phases(size, stride, crop[0]) for size in kernel.shape[:2])
    parts = [
        jnp.stack([convolve(x, kernel[down][:, right], 1, (above, left), dtype) for right, left in columns], axis=3)
        for down, above in rows
    ]
    batch, height, width, _ = x.shape
    # [B, H, stride, W, stride, outputs]
    return jnp.stack(parts, axis=2).reshape(batch, stride * height, stride * width, kernel.shape[-1])


def _phases(size: int, stride: int, before: int) -> list[tuple[slice, tuple[int, int]]]:
    """For outputs stride * i + r, r = 0, 1, ...: the rows of the kernel that they see, and the padding of x.

    Row a reads x[i + (r + before - a)/stride]: a larger a reads further up, hence the negative step.
    """
    phases = []
    for r in range(stride):
        first = (r + before) % stride
        last = first + (size - 1 - first) // stride * stride
        padding = (last - r - before) // stride, (r + before - first) // stride
        phases.append((slice(last, None, -stride), padding))
    return phases


def double_bilinear(
    x: Float[Array, "batch rows columns channels"], *, align_corners: bool = False
) -> Float[Array, "batch rows2 columns2 channels"]:
    """Double height and width by bilinear interpolation; of n rows (and columns) become 2n.

    With half-pixel centres, out[2i] = x[i-1]/4 + 3 x[i]/4 and out[2i+1] = 3 x[i]/4 + x[i+1]/4, edges repeated. With
    `align_corners`, out[j] is x at position j (n - 1)/(2n - 1), so that corners stay corners:
    out[2i] = a x[i-1] + (1 - a) x[i], a = i/(2n - 1), and out[2i+1] = (1 - b) x[i] + b x[i+1], b = (n-1-i)/(2n - 1).
    Both are PyTorch's of that name.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        before = jax.lax.slice_in_dim(x, 0, 1, axis=axis), jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)
        after = jax.lax.slice_in_dim(x, 1, size, axis=axis), jax.lax.slice_in_dim(x, size - 1, size, axis=axis)
        a, b = _weights(size, axis, x.dtype) if align_corners else (0.25, 0.25)
        even = (1.0 - a) * x + a * jnp.concatenate(before, axis=axis)
        odd = (1.0 - b) * x + b * jnp.concatenate(after, axis=axis)
        shape = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
        x = jnp.stack([even, odd], axis=axis + 1).reshape(shape)
    return x


def _weights(size: int, axis: int, dtype: DTypeLike) -> tuple[np.ndarray, np.ndarray]:
    """The weights a and b of `double_bilinear(align_corners=True)`, with the size along one axis of four."""
    shape = tuple(size if i == axis else 1 for i in range(4))
    a = np.arange(size) / (2 * size - 1)
    return a.reshape(shape).astype(dtype), a[::-1].reshape(shape).astype(dtype)


def depthwise(
    x: Num[Array, "batch rows columns channels"],
    kernel: Float[Array, "height width 1 channels"],
    dtype: ComputeDtype = None,
) -> Float[Array, "batch rows columns channels"]:
    """A convolution of each channel with a kernel of its own, zero-padded by size // 2: the resolution stays."""
    target = jnp.promote_types(x.dtype, kernel.dtype) if dtype is None else dtype
    return cpu_conv.depthwise(x.astype(target), kernel.astype(target))


def enlarge(x: Num[Array, "batch rows columns channels"], factor: int) -> Num[Array, "batch rows2 columns2 channels"]:
    """Multiply height and width by `factor`: nearest-neighbour upsampling, each pixel factor^2 times.

    Followed by a convolution it leaves no checkerboard artifacts, unlike a strided transposed convolution.
    Source: Odena et al. (2016), "Deconvolution and Checkerboard Artifacts".
    """
    b, rows, columns, channels = x.shape
    # [B, H, factor, W, factor, C]
    tiled = jnp.broadcast_to(x[:, :, None, :, None, :], (b, rows, factor, columns, factor, channels))
    return tiled.reshape(b, factor * rows, factor * columns, channels)


def average_pool(
    x: Float[Array, "batch rows columns channels"], factor: int
) -> Float[Array, "batch rows2 columns2 channels"]:
    """Means over squares of factor x factor pixels; factor divides height and width."""
    b, rows, columns, channels = x.shape
    return x.reshape(b, rows // factor, factor, columns // factor, factor, channels).mean((2, 4))


def space_to_depth(
    x: Num[Array, "batch rows columns channels"],
) -> Num[Array, "batch rows2 columns2 channels4"]:
    """Move each square of 2x2 pixels into the channels, `[B, H, W, C]` to `[B, H/2, W/2, 4 C]`: no number changes.

    H and W are even. Channel 4 c + 2 i + j of the result is channel c of pixel (i, j) of the square.
    Source: the squeezing operation of RealNVP, Dinh et al. (2017), section 3.6.
    """
    b, rows, columns, channels = x.shape
    squares = x.reshape(b, rows // 2, 2, columns // 2, 2, channels)
    return squares.transpose(0, 1, 3, 5, 2, 4).reshape(b, rows // 2, columns // 2, 4 * channels)


def depth_to_space(
    x: Num[Array, "batch rows columns channels4"],
) -> Num[Array, "batch rows2 columns2 channels"]:
    """The inverse of `space_to_depth`: `[B, H, W, 4 C]` to `[B, 2 H, 2 W, C]`."""
    b, rows, columns, channels = x.shape
    squares = x.reshape(b, rows, columns, channels // 4, 2, 2)
    return squares.transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * rows, 2 * columns, channels // 4)


def padded_size(size: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least size."""
    return -(-size // multiple) * multiple


def pad_to_multiple(x: Num[Array, "batch rows columns channels"], multiple: int) -> Num[Array, "batch ..."]:
    """Pad feature maps with zeros up to the next multiple: half of them (rounded down) before, the rest after."""
    widths = [(total // 2, total - total // 2) for total in (-x.shape[1] % multiple, -x.shape[2] % multiple)]
    return jnp.pad(x, ((0, 0), *widths, (0, 0)))


def crop_to(x: Num[Array, "batch rows columns channels"], rows: int, columns: int) -> Num[Array, "batch ..."]:
    """Crop feature maps to their middle, the inverse of `pad_to_multiple`.

    Raises ValueError if they are smaller.
    """
    if x.shape[1] < rows or x.shape[2] < columns:
        raise ValueError(f"Maps of {x.shape[1]}x{x.shape[2]} cannot be cropped to {rows}x{columns}.")
    top, left = (x.shape[1] - rows) // 2, (x.shape[2] - columns) // 2
    return x[:, top : top + rows, left : left + columns]


class TransposedConv(nn.Module):
    """A 3x3 transposed convolution of stride 2 with bias: `[B, H, W, C]` to `[B, 2H, 2W, features]`.

    PyTorch's ConvTranspose2d(3, stride=2, padding=1, output_padding=1) with its initialisation, U(-1/sqrt(fan_in),
    1/sqrt(fan_in)), for which fan_in is 9 * features in a transposed kernel.

    Attributes:
      features: channels of the output.
      dtype: dtype of the product and the output, as in `Dense`.
    """

    features: int
    dtype: ComputeDtype = None

    @nn.compact
    def __call__(
        self, x: Num[Array, "batch rows columns inputs"]
    ) -> Float[Array, "batch rows2 columns2 {self.features}"]:
        init = uniform_fan_in(9 * self.features)
        kernel = self.param("kernel", init, (3, 3, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        product = convolve_transposed(x, kernel, dtype=self.dtype)
        return (widen(product) + prepend_axes(bias, 4)).astype(product.dtype)
