"""Shapes of a model's variables, without computing anything."""

from typing import Any

import jax
import jax.numpy as jnp

from hvae_jax.models import HVAE

KEY = jax.random.key(0)


def shapes(model: HVAE) -> Any:
    """Shapes of the model's variables."""
    x = jnp.zeros((1, *model.image), jnp.uint8)  # type: ignore[attr-defined]
    return jax.eval_shape(model.init, KEY, x, KEY)


def size(model: HVAE) -> int:
    """Number of the model's parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(model)))
