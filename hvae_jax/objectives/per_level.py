"""Settings that are one number for all levels, or one for each, top first."""

import math
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

PerLevel = float | tuple[float, ...]


def check_numbers(owner: Any, *names: str, low: float | None = None) -> None:
    """Raises ValueError if a setting of `owner` is not finite or is below `low`."""
    for name in names:
        given = getattr(owner, name)
        values = given if isinstance(given, tuple) else (given,)
        if not values or not all(math.isfinite(v) and (low is None or v >= low) for v in values):
            least = "" if low is None else f" of {low:g} or more"
            many = " (one, or one a level, top first)" if isinstance(given, tuple) else ""
            raise ValueError(f"{type(owner).__name__}({name}={given!r}): it has to be a finite number{least}{many}.")


def spread(values: Array, num_levels: int, what: str, dtype: DTypeLike) -> Array:
    """Broadcasts `[]` or `[L]` to `[L]`, in the dtype of the array it will multiply.

    Raises ValueError, with `what` as its subject, if the number of values differs from the number of levels.
    """
    if values.ndim and values.shape != (num_levels,):
        raise ValueError(
            f"{what} has {values.shape[0]} values, but the model has {num_levels} levels: give one number for all "
            "levels, or one for each, top first."
        )
    return jnp.broadcast_to(values.astype(dtype), (num_levels,))


def named(name: str, values: Array, names: tuple[str, ...]) -> dict[str, Array]:
    """Makes scalar metrics: {name: value} from one number, {name/level: value} from one number per level."""
    if not values.ndim:
        return {name: values}
    return {f"{name}/{level}": values[i] for i, level in enumerate(names)}
