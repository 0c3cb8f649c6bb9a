"""Activations that jax.nn does not have, or has with other constants."""

import jax
from jax import Array
from jaxtyping import Float


def sigmoid_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * sigmoid(1.702 x), the sigmoid approximation of GELU.

    Source: Hendrycks & Gimpel (2016), section 2; the `GELU` of the article's code.
    """
    return x * jax.nn.sigmoid(1.702 * x)


def exact_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * Phi(x) with the error function, not its tanh approximation."""
    return jax.nn.gelu(x, approximate=False)


def leaky_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(x, 0.01 x)."""
    return jax.nn.leaky_relu(x, 0.01)


def identity(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x itself."""
    return x
