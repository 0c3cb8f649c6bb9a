"""Casts of weights, which change no number but by rounding it."""

from typing import Any

import numpy as np

from hvae_jax.convert.formats import FLOATS


def cast_weights(name: str, array: Any, dtype: Any) -> np.ndarray:
    """Weights in another dtype of floats: the same numbers, or the nearest ones that the dtype has.

    A cast to as much range and precision, such as bfloat16 to float32, is exact. A cast to less, such as the usual one
    of float64 to float32, rounds each number to the nearest one, by 2^-24 of itself at most, and numbers below 1e-38 by
    less than 1e-45: no sum that a network computes in that precision shows it. What it must not do is make another
    array of it: a finite number that becomes infinite, or an array that is not zero and becomes zero. NaN and
    infinities stay what they are.

    Args:
      name: of the array, for errors.
      array: the weights, in whatever byte order.
      dtype: the dtype that is wanted.
    Raises ValueError, naming array, place and value, for numbers beyond the range of `dtype`, and for an array that
    holds anything but floats: the integers of quantised weights mean something with their scales only.
    """
    array, dtype = np.asarray(array), np.dtype(dtype)
    if array.dtype.newbyteorder("=") not in FLOATS:
        raise ValueError(
            f"{name} is {array.dtype}, but weights are floats. If they were quantised, multiply them by their scales, "
            "and save them as float32."
        )
    if np.can_cast(array.dtype, dtype, "safe"):
        return array.astype(dtype, copy=False)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        cast = array.astype(dtype)
    changed = np.isinf(cast) & np.isfinite(array)
    if not cast.any():
        changed |= array != 0
    if changed.any():
        place = tuple(int(i) for i in np.unravel_index(changed.argmax(), changed.shape))
        value = float(array[place])
        raise ValueError(
            f"{name}{list(place)} is {value:g}, which {dtype} does not have: it would become {float(cast[place]):g}. "
            "Scale the weights, or check how they were saved."
        )
    return cast
