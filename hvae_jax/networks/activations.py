"""Activations that `jax.nn` lacks or has with other constants."""

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
def _normal_cdf(x: Array) -> Array:
    """Phi(x), to an absolute error of 6e-8 in float32.

    It is computed by erf: erfc, which the tails would need, takes three times as long on CPUs. The derivative is
    written out because JAX 0.12.0 cannot differentiate erf inside a `jax.shard_map` that tracks varying axes.
    """
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


@_normal_cdf.defjvp
def _normal_cdf_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    return _normal_cdf(x), jnp.exp(-0.5 * x * x) * (dx / math.sqrt(2.0 * math.pi))


def exact_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * Phi(x) by the error function, not its tanh approximation; absolute error 1.2e-7 (1 + |x|) in float32.

    Only x is stored for the backward pass.

    Source: Hendrycks & Gimpel (2016), section 2; `torch.nn.functional.gelu`.
    """
    return jax.checkpoint(stored_gelu)(x)


def stored_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`exact_gelu` that leaves to its surroundings what the backward pass stores."""
    return x * _normal_cdf(x)


def leaky_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(x, 0.01 x)."""
    return jax.nn.leaky_relu(x, 0.01)


def identity(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x itself."""
    return x
