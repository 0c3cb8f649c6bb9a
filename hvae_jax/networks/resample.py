"""Changing the resolution of maps `[B, H, W, C]`: strided and transposed convolutions, doubling, padding, cropping.

Functions of arrays, with every padding said at the call, so that the conventions of other libraries can be met. Several
are written in a form that XLA's CPU backend is quick at; the numbers are milliseconds on one core.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Float, Num

from hvae_jax.networks.computing import ComputeDtype, Precision, widen
from hvae_jax.networks.mlp import uniform_fan_in

Padding = tuple[tuple[int, int], tuple[int, int]]
Exact = str | None  # of products: None is what `jax_default_matmul_precision` says


def convolve(
    x: Num[Array, "batch rows columns inputs"],
    kernel: Float[Array, "height width inputs outputs"],
    stride: int = 1,
    padding: Padding | None = None,
    dtype: ComputeDtype = None,
    precision: Precision = "default",
) -> Float[Array, "batch rows2 columns2 outputs"]:
    """A cross-correlation, out[i, j] = sum_ab x[stride i + a, stride j + b] kernel[a, b], zeros around x.

    A kernel of one pixel is a matrix product (16x16x64 pixels of 64 to 128 channels, 48 images, with gradients: 8 ms,
    and 21 as a convolution), and so is what looks at maps smaller than itself (3x3 at 2x2: 0.6 ms, and 4).

    Args:
      padding: zeros before and after, of rows and of columns; None is size // 2 on every side, which keeps the
        resolution of odd kernels at stride 1, and is PyTorch's `padding=size // 2` at any stride.
      dtype: what the product is computed in, and the output's; None for what x and the kernel promote to.
      precision: of the products on accelerators.
    """
    target = jnp.promote_types(x.dtype, kernel.dtype) if dtype is None else dtype
    x, kernel = x.astype(target), kernel.astype(target)
    height, width, _, _ = kernel.shape
    exact = None if precision == "default" else precision  # None: what jax_default_matmul_precision says
    if padding is None:
        padding = ((height // 2, height // 2), (width // 2, width // 2))
    if (height, width, stride) == (1, 1, 1) and padding == ((0, 0), (0, 0)):
        return jnp.tensordot(x, kernel[0, 0], 1, precision=exact)
    if stride == 1 and x.shape[1] < height and x.shape[2] < width:
        return _gathered(x, kernel, padding, exact)
    return _convolve(x, kernel, stride, padding, exact)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _convolve(x: Array, kernel: Array, stride: int, padding: Padding, precision: Exact) -> Array:
    """XLA's convolution. On a CPU its gradients are made of convolutions that XLA's CPU backend is quick at.

    It turns a convolution into its own order of axes in the outermost computation alone: a gradient in another order
    takes a hundred times as long inside a loop, such as a scan over blocks or steps. And the gradient of a kernel is a
    convolution whose kernel is the maps' gradient, as large as all maps are together, for which it falls out of the
    cache: 3x3, 64 channels, 48 images, on two cores, 35 GFLOP/s at 32x32 and 16x16 at once, 80 in blocks of examples.
    """
    return _plain(x, kernel, stride, padding, precision)


@functools.partial(_convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(
    stride: int, padding: Padding, precision: Exact, primals: tuple[Array, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Array]:
    """y' = x' * kernel + x * kernel', each in the form whose transpose, the gradient, is quick."""
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _convolve(x, kernel, stride, padding, precision)
    dy, settings = jnp.zeros_like(y), {"stride": stride, "padding": padding, "precision": precision}
    plain = functools.partial(_plain, **settings)
    if not isinstance(dx, SymbolicZero):
        quick = functools.partial(_linear_in_maps, **settings)
        dy += jax.lax.platform_dependent(dx, kernel, cpu=quick, default=plain)
    if not isinstance(dkernel, SymbolicZero):
        in_blocks = stride == 1 and math.prod(x.shape[:3]) > _BLOCK
        quick = functools.partial(_in_blocks if in_blocks else _linear_in_kernel, **settings)
        dy += jax.lax.platform_dependent(x, dkernel, cpu=quick, default=plain)
    return y, dy


def _plain(x: Array, kernel: Array, stride: int, padding: Padding, precision: Exact) -> Array:
    """As it is, `[B, H, W, C]` and `[height, width, inputs, outputs]`."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
    )


def _linear_in_maps(x: Array, kernel: Array, stride: int, padding: Padding, precision: Exact) -> Array:
    """`_plain`, whose transpose for x has its axes in `_plain`'s order."""
    kernel = kernel.swapaxes(2, 3)
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWOI", "NHWC"), precision=precision
    )


def _linear_in_kernel(x: Array, kernel: Array, stride: int, padding: Padding, precision: Exact) -> Array:
    """`_plain`, whose transpose for the kernel has its axes in `_plain`'s order."""
    x, kernel = x.transpose(3, 1, 2, 0), kernel.transpose(2, 0, 1, 3)
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("CHWN", "IHWO", "HWNC"), precision=precision
    )
    return y.transpose(2, 0, 1, 3)


# Places of x that one convolution may sum over for the gradient of a kernel, on a CPU.
_BLOCK = 4096


def _in_blocks(x: Array, kernel: Array, stride: int, padding: Padding, precision: Exact) -> Array:
    """`_linear_in_kernel` at stride 1, of a few examples at a time, which stand one above the other in a tall image.

    Padding rows stand between them, so that none sees the next, and what comes out of those rows is left away.
    """
    height, width, _, outputs = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    n, rows, columns, channels = x.shape
    size = max(1, _BLOCK // (rows * columns))
    parts = []
    for start in range(0, n, size):
        part = x[start : start + size]
        m = part.shape[0]
        tall = part.reshape(1, m * rows, columns, channels)
        out = _linear_in_kernel(tall, kernel, stride, ((0, 0), (0, 0)), precision)
        out = jnp.pad(out, ((0, 0), (0, height - 1), (0, 0), (0, 0)))
        parts.append(out.reshape(m, rows, columns - width + 1, outputs)[:, : rows - height + 1])
    return jnp.concatenate(parts)


def _gathered(x: Array, kernel: Array, padding: Padding, precision: Exact) -> Array:
    """The same for small maps: what each output sees side by side, then one product."""
    height, width, _, outputs = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    seen = [x[:, a : a + rows, b : b + columns] for a in range(height) for b in range(width)]
    return jnp.tensordot(jnp.concatenate(seen, axis=-1), kernel.reshape(-1, outputs), 1, precision=precision)


def convolve_transposed(
    x: Num[Array, "batch rows columns inputs"],
    kernel: Float[Array, "height width inputs outputs"],
    stride: int = 2,
    crop: tuple[int, int] = (1, 0),
    dtype: ComputeDtype = None,
) -> Float[Array, "batch rows2 columns2 outputs"]:
    """A transposed convolution that multiplies the resolution by its stride.

    full[stride i + a] += x[i] kernel[a] over rows and columns alike, then `crop` pixels less before and after. Each
    output whose position is r modulo the stride sees only every stride-th row of the kernel, so the whole is stride^2
    small convolutions of x whose outputs are interleaved: no product with the zeros that dilating x would put in (8x8
    to 16x16, 64 channels, 48 images, with gradients: 8 ms, and 173 dilated).

    Args:
      kernel: PyTorch's `[inputs, outputs, height, width]` with its axes moved, not flipped.
      crop: (before, after), with before + after = size - stride. PyTorch's `padding=p, output_padding=e` is (p, p - e):
        (1, 0) for its 3x3 of stride 2, padding 1, output_padding 1.
      dtype: as in `convolve`.

    Raises ValueError for a crop that leaves another size than stride times that of x.
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
    return jnp.stack(parts, axis=2).reshape(batch, stride * height, stride * width, kernel.shape[-1])


def _phases(size: int, stride: int, before: int) -> list[tuple[slice, tuple[int, int]]]:
    """For outputs stride * i + r, r = 0, 1, ...: which rows of the kernel they see, and the padding of x.

    Row a comes from x[i + (r + before - a)/stride]: a larger a from further up, hence the negative step.
    """
    phases = []
    for r in range(stride):
        first = (r + before) % stride
        last = first + (size - 1 - first) // stride * stride
        padding = (last - r - before) // stride, (r + before - first) // stride
        phases.append((slice(last, None, -stride), padding))
    return phases


def double_bilinear(x: Float[Array, "batch rows columns channels"]) -> Float[Array, "batch rows2 columns2 channels"]:
    """Twice the height and width: out[2i] = x[i-1]/4 + 3 x[i]/4, out[2i+1] = 3 x[i]/4 + x[i+1]/4, edges repeated.

    Bilinear interpolation with half-pixel centres, PyTorch's `align_corners=False`.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        before = jax.lax.slice_in_dim(x, 0, 1, axis=axis), jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)
        after = jax.lax.slice_in_dim(x, 1, size, axis=axis), jax.lax.slice_in_dim(x, size - 1, size, axis=axis)
        even = 0.75 * x + 0.25 * jnp.concatenate(before, axis=axis)
        odd = 0.75 * x + 0.25 * jnp.concatenate(after, axis=axis)
        shape = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
        x = jnp.stack([even, odd], axis=axis + 1).reshape(shape)
    return x


def enlarge(x: Num[Array, "batch rows columns channels"], factor: int) -> Num[Array, "batch rows2 columns2 channels"]:
    """`factor` times the height and width, each pixel factor^2 times: the nearest neighbour."""
    b, rows, columns, channels = x.shape
    tiled = jnp.broadcast_to(x[:, :, None, :, None, :], (b, rows, factor, columns, factor, channels))
    return tiled.reshape(b, factor * rows, factor * columns, channels)


def average_pool(
    x: Float[Array, "batch rows columns channels"], factor: int
) -> Float[Array, "batch rows2 columns2 channels"]:
    """Means over squares of factor x factor pixels, which divides height and width."""
    b, rows, columns, channels = x.shape
    return x.reshape(b, rows // factor, factor, columns // factor, factor, channels).mean((2, 4))


def padded_size(size: int, multiple: int) -> int:
    """The smallest multiple that is no smaller than size."""
    return -(-size // multiple) * multiple


def pad_to_multiple(x: Num[Array, "batch rows columns channels"], multiple: int) -> Num[Array, "batch ..."]:
    """Zeros around the maps up to the next multiple: half of them (rounded down) before, the rest after."""
    widths = [(total // 2, total - total // 2) for total in (-x.shape[1] % multiple, -x.shape[2] % multiple)]
    return jnp.pad(x, ((0, 0), *widths, (0, 0)))


def crop_to(x: Num[Array, "batch rows columns channels"], rows: int, columns: int) -> Num[Array, "batch ..."]:
    """The middle of the maps, what `pad_to_multiple` put zeros around.

    Raises ValueError for maps smaller than that.
    """
    if x.shape[1] < rows or x.shape[2] < columns:
        raise ValueError(f"Maps of {x.shape[1]}x{x.shape[2]} cannot be cropped to {rows}x{columns}.")
    top, left = (x.shape[1] - rows) // 2, (x.shape[2] - columns) // 2
    return x[:, top : top + rows, left : left + columns]


class TransposedConv(nn.Module):
    """A 3x3 transposed convolution of stride 2 with bias: `[B, H, W, C]` to `[B, 2H, 2W, features]`.

    PyTorch's ConvTranspose2d(3, stride=2, padding=1, output_padding=1) and its initialisation, U(-1/sqrt(fan_in),
    1/sqrt(fan_in)) with the fan_in = 9 * features that it takes of transposed kernels.

    Attributes:
      features: channels of the output.
      dtype: what the product is computed in, and the output's; None for what x and the kernel promote to. The bias is
        added in float32 all the same, as in `Linear`.
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
        return (widen(product) + bias[None, None, None]).astype(product.dtype)
