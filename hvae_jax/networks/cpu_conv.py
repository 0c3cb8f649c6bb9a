"""Convolutions in the forms that XLA's CPU backend computes fast; other backends get the plain convolution.

Everything here has the same values and derivatives as `plain`. Times are those of one core, rates those of two.
"""

import functools
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from hvae_jax.runtime.compilation import FAST_CONVOLUTIONS

Padding = tuple[tuple[int, int], tuple[int, int]]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def convolve(x: Array, kernel: Array, stride: int, padding: Padding, precision: str | None) -> Array:
    """XLA's convolution, with gradients made of convolutions that are fast on a CPU.

    XLA's CPU backend rewrites a convolution to its own order of axes only in the outermost computation: inside a loop,
    such as a scan over blocks or steps, a gradient in another order takes a hundred times as long. And the gradient of
    a kernel is a convolution whose kernel is the gradient of the output: as large as all feature maps together, it does
    not fit the cache. For 3x3, 64 channels and 48 images of 32x32 or 16x16 it runs at 35 GFLOP/s at once, and at 80 in
    blocks of examples. Of the two, JAX 0.12 has mended the second (`BLOCK`).

    Args:
      x: `[B, H, W, inputs]`.
      kernel: `[height, width, inputs, outputs]`.
      precision: None is what `jax_default_matmul_precision` says.
    """
    return plain(x, kernel, stride, padding, precision)


@functools.partial(convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(
    stride: int, padding: Padding, precision: str | None, primals: tuple[Array, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Array]:
    """y' = x' * kernel + x * kernel', each in the form whose transpose, the gradient, is fast."""
    (x, kernel), (dx, dkernel) = primals, tangents
    y = convolve(x, kernel, stride, padding, precision)
    dy, settings = jnp.zeros_like(y), {"stride": stride, "padding": padding, "precision": precision}
    elsewhere = functools.partial(plain, **settings)
    if not isinstance(dx, SymbolicZero):
        fast = functools.partial(_linear_in_maps, **settings)
        dy += jax.lax.platform_dependent(dx, kernel, cpu=fast, default=elsewhere)
    if not isinstance(dkernel, SymbolicZero):
        in_blocks = stride == 1 and math.prod(x.shape[:3]) > BLOCK
        fast = functools.partial(_in_blocks if in_blocks else _linear_in_kernel, **settings)
        dy += jax.lax.platform_dependent(x, dkernel, cpu=fast, default=elsewhere)
    return y, dy


def plain(x: Array, kernel: Array, stride: int, padding: Padding, precision: str | None) -> Array:
    """The convolution of `[B, H, W, inputs]` with `[height, width, inputs, outputs]` as XLA has it."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
    )


def _linear_in_maps(x: Array, kernel: Array, stride: int, padding: Padding, precision: str | None) -> Array:
    """`plain`, written so that its transpose for x has the axes in the order of `plain`."""
    kernel = kernel.swapaxes(2, 3)  # [height, width, outputs, inputs]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWOI", "NHWC"), precision=precision
    )


def _linear_in_kernel(x: Array, kernel: Array, stride: int, padding: Padding, precision: str | None) -> Array:
    """`plain`, written so that its transpose for the kernel has the axes in the order of `plain`."""
    x, kernel = x.transpose(3, 1, 2, 0), kernel.transpose(2, 0, 1, 3)  # [inputs, H, W, B], [inputs, h, w, outputs]
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("CHWN", "IHWO", "HWNC"), precision=precision
    )
    return y.transpose(2, 0, 1, 3)  # [H, W, B, outputs] to [B, H, W, outputs]


# Largest number of pixels of x, over all examples, that one convolution sums over for the gradient of a kernel. With
# JAX 0.12 it takes any number: in blocks of 4,096 a 3x3 convolution of 48 images of 28x28 takes 1.16 times as long with
# its gradients, and loops are as fast either way.
BLOCK = 4096 if jax.__version_info__ < FAST_CONVOLUTIONS else sys.maxsize


def _in_blocks(x: Array, kernel: Array, stride: int, padding: Padding, precision: str | None) -> Array:
    """`_linear_in_kernel` at stride 1, a few examples at a time, stacked into one tall image.

    Rows of padding stand between the examples, so that none sees the next; the outputs of those rows are dropped.
    """
    height, width, _, outputs = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    n, rows, columns, channels = x.shape
    size = max(1, BLOCK // (rows * columns))
    parts = []
    for start in range(0, n, size):
        part = x[start : start + size]
        m = part.shape[0]
        tall = part.reshape(1, m * rows, columns, channels)
        out = _linear_in_kernel(tall, kernel, stride, ((0, 0), (0, 0)), precision)
        # m * rows - height + 1 rows come out; padded to m * rows again, they can be split by example
        out = jnp.pad(out, ((0, 0), (0, height - 1), (0, 0), (0, 0)))
        parts.append(out.reshape(m, rows, columns - width + 1, outputs)[:, : rows - height + 1])
    return jnp.concatenate(parts)


def depthwise(x: Array, kernel: Array) -> Array:
    """The convolution of each channel of `[B, H, W, C]` with its own `[height, width, 1, C]`, zero-padded.

    XLA's CPU backend computes a convolution of C groups without its fast routines. There it is a sum of shifted
    products, which XLA makes one loop of.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=_shifted_products, default=_grouped)


def _grouped(x: Array, kernel: Array) -> Array:
    """The depthwise convolution as XLA has it."""
    height, width, _, channels = kernel.shape
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((height // 2, height // 2), (width // 2, width // 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


def _shifted_products(x: Array, kernel: Array) -> Array:
    """The depthwise convolution as a sum over the positions of the kernel."""
    height, width, _, _ = kernel.shape
    rows, columns = x.shape[1:3]
    up, aside = height // 2, width // 2
    padded = jnp.pad(x, ((0, 0), (up, up), (aside, aside), (0, 0)))
    total = jnp.zeros_like(x)
    for a in range(height):
        for b in range(width):
            total += padded[:, a : a + rows, b : b + columns] * kernel[a, b][None, None]  # [1, 1, 1, C]
    return total
