"""What a program needs, from its jaxpr: exact operations, and memory and traffic by rules."""

import jax
import jax.numpy as jnp
import pytest
from jax import Array

from hvae_jax.runtime.estimate import estimated, flops, padding

F = 4  # bytes of a float32


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


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

    assert estimated(jax.make_jaxpr(chain)(shape(n, n)), "tpu").temporaries == 2 * F * n * n


def test_what_a_loop_hands_on_is_stacked() -> None:
    """The backward pass of a scan reads what each turn kept."""
    n, turns = 64, 10

    def loss(w: Array, x: Array) -> Array:
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0].sum()

    found = estimated(jax.make_jaxpr(jax.grad(loss))(shape(turns, n, n), shape(n, n)), "tpu")
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
