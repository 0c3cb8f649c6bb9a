"""Checks of what a model is called with. They read types, shapes and concrete values, and cost nothing under jit."""

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors
from jax import Array

from hvae_jax.networks.smoothed import COLLECTION
from hvae_jax.runtime.prng import check_key, is_key

_TO_SAMPLE = 'New x come from model.apply(variables, key, n, method="generate").'


def as_x(x: Any) -> Array:
    """Return x, anything that is an array of numbers `[B, *event]`, as an array.

    Raises TypeError for a key, and for what is no array of real numbers; ValueError without examples or axes, and for
    numbers that the dtype JAX gives them cannot hold.
    """
    if is_key(x):
        raise TypeError(f"x is a random key. A model is called as model.apply(variables, x, key). {_TO_SAMPLE}")
    if not _numbers(x):
        hint = " Give its x and y apart: model.apply(variables, batch.x, key, y=batch.y)." if hasattr(x, "x") else ""
        raise TypeError(f"x is a {type(x).__name__}; it has to be an array of numbers [B, *event].{hint}")
    if isinstance(x, np.ndarray):
        _check_cast(x)
    array = jnp.asarray(x)
    if jnp.iscomplexobj(array):
        raise TypeError(f"x is an array of {array.dtype}; it has to hold real numbers.")
    if array.ndim < 2:
        raise ValueError(
            f"x has shape {array.shape}, but it has to be a batch of examples, [B, *event]. One example is a batch "
            "as x[None], and examples that are single numbers as x[:, None]."
        )
    if array.shape[0] == 0:
        raise ValueError(f"x has shape {array.shape}: there is no example in it.")
    return array


def _check_cast(x: np.ndarray) -> None:
    """Raise ValueError if JAX's cast of 64 bits to 32 would change a whole number or make an infinity."""
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    if dtype == x.dtype or x.dtype.kind not in "iuf":
        return
    with np.errstate(over="ignore"):
        cast = x.astype(dtype)
    bad = np.isfinite(x) & ~np.isfinite(cast) if x.dtype.kind == "f" else x != cast
    if bad.any():
        raise ValueError(
            f"x holds {x[bad][0].item()!r}, which is no {dtype}, the dtype that JAX gives it: scale x, or let JAX keep "
            "64 bits by jax_enable_x64."
        )


def as_count(n: Any) -> Any:
    """Return n, a number of examples, as an int; a symbolic size of `jax.export` stays as it is.

    Raises TypeError for what is no whole number, such as a key or a traced n, and ValueError below 1.
    """
    call = 'model.apply(variables, key, n, method="generate")'
    if is_key(n):
        raise TypeError(f"n is a random key; the order is {call}, or decode in place of generate.")
    if isinstance(n, jax.core.Tracer):
        raise TypeError("n, the number of examples, is traced: it sets shapes, so make it static (static_argnames).")
    if not isinstance(n, int | np.integer):
        # imported here, because only an export has such sizes
        from jax import export

        if export.is_symbolic_dim(n):
            return n
    try:
        count = operator.index(n)
    except TypeError as error:
        raise TypeError(f"n is {n!r}; it has to be a whole number of examples: {call}.") from error
    if isinstance(n, bool) or count < 1:
        raise ValueError(f"n is {n!r}; it has to be a whole number of 1 or more examples.")
    return count


def check_arguments(
    owner: str, key: Any, latents: Any, noise: Any, temperature: Any, posterior_temperature: Any = None
) -> None:
    """Raise TypeError for a key, latents, noise or a temperature of another type, naming the model, `owner`."""
    check_key(owner, key)
    _check_entries(latents, "latents")
    _check_entries(noise, "noise")
    for name, value in (("temperature", temperature), ("posterior_temperature", posterior_temperature)):
        if not _numbers(value) and not (value is None and name != "temperature"):
            raise TypeError(f"{name} is {value!r}; it has to be a number, or one for each level, top first.")


def _check_entries(values: Any, name: str) -> None:
    """Raise TypeError unless `latents` or `noise` is a tuple or list of arrays and None."""
    if values is None:
        return
    if not isinstance(values, tuple | list):
        is_array = isinstance(values, Array | np.ndarray)
        raise TypeError(
            f"{name} is {f'an array of shape {values.shape}' if is_array else f'a {type(values).__name__}'}; it has to "
            "be a tuple with one array for each level, top first, and None for a level that is not given, as "
            "trace.latents is."
        )
    for level, value in enumerate(values):
        if value is not None and not _numbers(value):
            raise TypeError(f"{name}[{level}] is {value!r}; it has to be an array or None.")


def _numbers(value: Any) -> bool:
    """Whether the value is a number, or an array or nested sequence of numbers, traced or not."""
    if isinstance(value, Array):
        return not is_key(value)
    if isinstance(value, tuple | list):
        return all(map(_numbers, value))
    dtype = np.asarray(value).dtype
    return jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)


def check_variables(model: Any, variables: Any) -> None:
    """Raise TypeError unless the variables are a dict of collections, each of which is a dict.

    Raises ValueError for a rho of smoothing in them that the model would not read.
    """
    remedy = 'pass what model.init returned, {"params": ..., ...}.'
    if not isinstance(variables, Mapping):
        raise TypeError(f"{type(model).__name__}: the variables are of type {type(variables).__name__}; {remedy}")
    for name, collection in variables.items():
        if not isinstance(collection, Mapping):
            raise TypeError(
                f"{type(model).__name__}: the variables hold no dict but a {type(collection).__name__} as {name!r}, as "
                f"parameters alone may; {remedy}"
            )
    if COLLECTION in variables and model.smoothing is None:
        raise ValueError(
            f"{type(model).__name__} was given a rho of smoothing, but does not have that setting: take TopDownVAE, "
            "BottomUpVAE or LinearVAE, or train without it."
        )


@contextmanager
def variables_explained(model: Any) -> Iterator[None]:
    """Turn Flax's errors about missing or immutable collections into a ValueError that says what to pass."""
    try:
        yield
    except errors.ModifyScopeVariableError as error:
        raise ValueError(
            f"{type(model).__name__} was called with train=True, which updates its batch statistics, but they may not "
            'change: trace, updates = model.apply(variables, x, key, train=True, mutable=["batch_stats"]).'
        ) from error
    except errors.ScopeCollectionNotFound as error:
        missing = next((name for name in ("params", "batch_stats") if f'"{name}"' in str(error)), "a collection")
        raise ValueError(
            f"The variables have no {missing!r}, which {type(model).__name__} needs: pass all that model.init "
            'returned, such as {"params": ..., "batch_stats": ...}, and not its parameters alone.'
        ) from error
