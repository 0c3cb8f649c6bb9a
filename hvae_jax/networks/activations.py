"""Activations that jax.nn does not have, or has with other constants."""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def sigmoid_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * sigmoid(1.702 x), the sigmoid approximation of GELU.

    Source: Hendrycks & Gimpel (2016), section 2; the `GELU` of the article's code.
    """
    return x * jax.nn.sigmoid(1.702 * x)


@jax.custom_jvp
def exact_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * Phi(x) with the error function, not its tanh approximation.

    Its derivative is written out because JAX 0.12.0 cannot differentiate the error function inside a `jax.shard_map`
    that tracks what varies over an axis.
    """
    return jax.nn.gelu(x, approximate=False)


@exact_gelu.defjvp
def _exact_gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    density = jnp.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return exact_gelu(x), (0.5 * jax.lax.erfc(-x / math.sqrt(2.0)) + x * density) * dx


def leaky_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(x, 0.01 x)."""
    return jax.nn.leaky_relu(x, 0.01)


def identity(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x itself."""
    return x
