"""Types with a name, so that help() shows `ArrayLike` and not the eight types that it stands for."""

import jax.typing
from typing_extensions import TypeAliasType

ArrayLike = TypeAliasType("ArrayLike", jax.typing.ArrayLike)
"""What JAX makes an array of: an array of JAX or NumPy, or a number. See `jax.typing.ArrayLike`."""
