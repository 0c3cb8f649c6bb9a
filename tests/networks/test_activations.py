"""Activations of this library against those of jax.nn."""

import jax
import jax.numpy as jnp
import numpy as np

from hvae_jax.experiment import settings
from hvae_jax.networks.activations import exact_gelu
from hvae_jax.networks.mlp import MLP


def test_exact_gelu_is_that_of_jax_with_its_derivatives() -> None:
    """Value and two derivatives agree from tail to tail, to two roundings of 1 + |x|."""
    x = jnp.linspace(-12.0, 12.0, 97)
    rounding = np.finfo(np.float32).eps / 2
    for order in range(3):
        ours, theirs = exact_gelu, lambda x: jax.nn.gelu(x, approximate=False)
        for _ in range(order):
            ours, theirs = jax.grad(ours), jax.grad(theirs)
        errors = np.abs(jax.vmap(ours)(x) - jax.vmap(theirs)(x)) / (1 + np.abs(x))
        assert errors.max() < 2 * rounding


def test_an_activation_travels_in_settings() -> None:
    """Settings hold an activation by its name, even an object with a custom derivative."""
    for activation in (exact_gelu, jax.nn.silu, jax.nn.relu, jax.nn.softplus):
        mlp = MLP((3, 2), activation=activation)
        assert settings.from_json(settings.to_json(mlp)) == mlp
