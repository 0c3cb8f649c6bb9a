"""What a program needs, from its jaxpr: exact operations, and memory and traffic by rules."""

import jax
import jax.numpy as jnp
import pytest
from jax import Array
from jax.typing import DTypeLike

from hvae_jax.runtime.estimate import OPERATION, estimated, flops, padding

pytestmark = pytest.mark.leg  # traced programs differ between versions of JAX

F = 4  # bytes of a float32


def shape(*sizes: int, dtype: DTypeLike = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def test_operations_of_products_and_loops() -> None:
    def layers(h: Array, w: Array) -> Array:
        return jax.lax.scan(lambda h, w: (h @ w, None), h, w)[0]

    assert flops(jax.make_jaxpr(layers)(shape(2, 4), shape(7, 4, 4)), "cpu") == {"float32": 7 * 2 * 2 * 4 * 4}


def test_operations_of_convolutions_leave_out_padding() -> None:
    """3x3 over 4x4: inner pixels have nine taps, edges six, corners four; and XLA counts the same."""

    def convolved(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    x, kernel = shape(2, 4, 4, 3), shape(3, 3, 3, 5)
    taps = 4 * 9 + 8 * 6 + 4 * 4
    assert flops(jax.make_jaxpr(convolved)(x, kernel), "cpu") == {"float32": 2.0 * 2 * taps * 3 * 5}
    costs = jax.jit(convolved).lower(x, kernel).compile().cost_analysis()
    assert costs["flops"] == pytest.approx(2.0 * 2 * taps * 3 * 5)


def test_a_platforms_own_branch_counts() -> None:
    def product(x: Array) -> Array:
        return jax.lax.platform_dependent(x, cpu=lambda x: x @ x @ x, default=lambda x: x @ x)

    traced = jax.make_jaxpr(product)(shape(4, 4))
    assert flops(traced, "tpu") == {"float32": 128} and flops(traced, "cpu") == {"float32": 256}


def test_rows_of_a_tpu() -> None:
    assert padding((256, 3), "tpu") == 1.0 and padding((3, 3, 64), "tpu") == 2.0 and padding((), "tpu") == 128.0
    assert padding((3, 3, 64), "cuda") == 1.0


def test_elementwise_operations_are_fused() -> None:
    """A chain of them is one pass: nothing is in memory but its ends."""
    n = 2**20
    found = estimated(jax.make_jaxpr(lambda x: jnp.exp(jnp.tanh(x) * 2.0) + 1.0)(shape(n)), "tpu")
    assert found.temporaries == 0 and found.bytes == 2 * F * n


def test_products_live_until_they_are_read() -> None:
    """Two of the three products are needed at once."""
    n = 512

    def chain(x: Array) -> Array:
        a = x @ x
        b = a @ a
        return (b @ b).sum()

    traced = jax.make_jaxpr(chain)(shape(n, n))
    assert estimated(traced, "cuda").temporaries == 2 * F * n * n
    assert estimated(traced, "tpu").temporaries == 0  # a megabyte each, which the core has room for
    large = jax.make_jaxpr(chain)(shape(8 * n, 8 * n))
    assert estimated(large, "tpu").temporaries == 2 * F * 64 * n * n


def test_what_follows_a_product_is_written_in_its_place() -> None:
    """On a TPU: bias and activation move nothing of their own, and neither does a cast to wider numbers."""
    n = 2**12

    def layer(x: Array, w: Array, b: Array) -> Array:
        h = jnp.tanh((x @ w).astype(jnp.bfloat16) + b[None])
        return (h @ w).astype(jnp.bfloat16)

    arguments = [shape(n, n, dtype=jnp.bfloat16), shape(n, n, dtype=jnp.bfloat16), shape(n, dtype=jnp.bfloat16)]
    traced = jax.make_jaxpr(layer)(*arguments)
    half = 2 * n * n  # bytes of a matrix: read x and w, write x w, read it and w, write h
    assert estimated(traced, "tpu").bytes == 6 * half + 2 * n

    def wide(x: Array, w: Array) -> Array:
        h = jnp.tanh(x * w).astype(jnp.float32)  # joined from two; read twice, as bfloat16
        return h.sum(0) + (h * h).sum(0)

    assert estimated(jax.make_jaxpr(wide)(*arguments[:2]), "tpu").bytes == 2 * half + half + 2 * half + 4 * n


def test_operations_without_a_result() -> None:
    """A print is an operation that makes nothing."""

    def printed(x: Array) -> Array:
        jax.debug.print("{}", x.sum())
        return x + 1.0

    assert estimated(jax.make_jaxpr(printed)(shape(4)), "tpu").program == 3 * OPERATION


def test_a_tpus_program_takes_memory() -> None:
    """In proportion to its operations, each turn of a loop being the same code."""

    def loss(x: Array) -> Array:
        return jax.lax.scan(lambda h, _: (jnp.tanh(h) * 2.0, None), x, None, length=50)[0]

    traced = jax.make_jaxpr(loss)(shape(4))
    assert estimated(traced, "tpu").program == 2 * OPERATION and estimated(traced, "cuda").program == 0


def test_what_a_loop_hands_on_is_stacked() -> None:
    """The backward pass of a scan reads what each turn kept."""
    n, turns = 64, 10

    def loss(w: Array, x: Array) -> Array:
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0].sum()

    found = estimated(jax.make_jaxpr(jax.grad(loss))(shape(turns, n, n), shape(n, n)), "cuda")
    assert 2 * turns * F * n * n <= found.temporaries <= 5 * turns * F * n * n


@pytest.mark.slow
def test_memory_is_near_that_of_a_compiler() -> None:
    """A convolutional network with its gradients, against XLA's CPU compiler."""

    def loss(kernels: list[Array], x: Array) -> Array:
        for kernel in kernels:
            x = jax.nn.relu(
                jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            )
        return (x**2).sum()

    arguments = [shape(3, 3, 16, 16) for _ in range(6)], shape(32, 16, 16, 16)
    found = estimated(jax.make_jaxpr(jax.grad(loss))(*arguments), "cpu")
    compiled = jax.jit(jax.grad(loss)).lower(*arguments).compile().memory_analysis().temp_size_in_bytes
    assert found.temporaries == pytest.approx(compiled, rel=0.5)
