"""Derivatives of batch normalisation are those of its formula."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.networks import BatchNorm

X = 3.0 + jax.random.normal(jax.random.key(0), (5, 2, 3))
LAYER = BatchNorm()
VARIABLES = LAYER.init(jax.random.key(1), X, train=True)


def layer(x: Array) -> Array:
    """One number of the layer's outputs, in training."""
    y, _ = LAYER.apply(VARIABLES, x, train=True, mutable=["batch_stats"])
    return jnp.sin(y).sum()


def formula(x: Array) -> Array:
    """The same of (x - mean)/sqrt(var + epsilon), with scale 1 and bias 0."""
    mean, var = x.mean((0, 1), keepdims=True), x.var((0, 1), keepdims=True)
    return jnp.sin((x - mean) / jnp.sqrt(var + LAYER.epsilon)).sum()


def test_first_and_second_derivatives() -> None:
    """The derivative that leaves out the mean, whose part is zero, is right, and so is the derivative of it."""
    np.testing.assert_allclose(layer(X), formula(X), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(layer)(X), jax.grad(formula)(X), atol=1e-12)
    np.testing.assert_allclose(jax.jacfwd(layer)(X), jax.grad(formula)(X), atol=1e-12)
    np.testing.assert_allclose(jax.hessian(layer)(X), jax.hessian(formula)(X), atol=1e-11)
