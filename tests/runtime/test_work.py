"""Work counted on a jaxpr."""

import jax
import jax.numpy as jnp
import pytest

from hvae_jax.runtime.work import CONVOLUTION, ELEMENT, PRODUCT, core_seconds


def test_products_convolutions_and_elements() -> None:
    """Each by its own formula; arguments may be shapes."""
    a, b = jax.ShapeDtypeStruct((2, 3), jnp.float32), jax.ShapeDtypeStruct((3, 5), jnp.float32)
    assert core_seconds(jnp.matmul, a, b) == pytest.approx(2 * PRODUCT * 2 * 5 * 3)
    x, k = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 7), jnp.float32)

    def convolve(x: jax.Array, k: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert core_seconds(convolve, x, k) == pytest.approx(2 * CONVOLUTION * 2 * 8 * 8 * 7 * 27)
    assert core_seconds(jnp.sin, a) == pytest.approx(ELEMENT * 6)


def test_a_scan_counts_every_iteration_and_a_conditional_one_branch() -> None:
    """Inside jit as well; XLA's own count would take the body once."""
    a = jax.ShapeDtypeStruct((4,), jnp.float32)
    one = core_seconds(jnp.sin, a)
    scanned = jax.jit(lambda a: jax.lax.scan(lambda c, _: (jnp.sin(c), None), a, length=7)[0])
    assert core_seconds(scanned, a) == pytest.approx(7 * one)
    chosen = core_seconds(lambda p, a: jax.lax.cond(p, lambda a: jnp.sin(jnp.sin(a)), jnp.cos, a), True, a)
    assert 2 * one <= chosen < 3 * one
