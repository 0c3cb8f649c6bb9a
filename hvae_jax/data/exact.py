"""Casts of examples to the dtypes that models take: each value is the same afterwards, or is refused by its place."""

import numpy as np

from hvae_jax.data.rows import blocks

_LARGEST = np.iinfo(np.int32).max


def narrowed(where: str, x: np.ndarray) -> np.ndarray:
    """Booleans and whole numbers as uint8 if all are below 256, otherwise as int32.

    Args:
      where: what x is, for errors.
      x: `[...]`, not empty.
    Raises ValueError, with value and index, for numbers outside 0..2^31 - 1.
    """
    low, high = x.min(), x.max()
    for value, bound in ((low, low < 0), (high, high > _LARGEST)):
        if bound:
            index = _first(x == value)
            raise ValueError(
                f"{where} holds the whole number {value}{_at(index)}: integer data counts from 0, up to {_LARGEST:,}. "
                "Shift or number it anew, or save floats."
            )
    return x.astype(np.uint8 if high < 256 else np.int32, copy=False)


def as_float32(where: str, x: np.ndarray, missing: bool = False) -> np.ndarray:
    """Floats `[N, ...]` rounded to float32.

    Args:
      missing: whether NaN stands for a missing value, and stays.
    Raises ValueError, with value, index and count, for values that are not finite, that become infinite, and that are
    rounded by more than float32's precision, since they are too small for it.
    """
    out = x if x.dtype == np.float32 else np.empty(x.shape, np.float32)
    tiny = np.finfo(np.float32).tiny
    count = 0
    first: tuple[int, ...] = ()
    for block in blocks(len(x)):
        rows = slice(block.start, block.stop)
        if out is not x:
            with np.errstate(over="ignore", under="ignore"):
                out[rows] = x[rows]
        bad = ~np.isfinite(out[rows])
        if missing:
            bad &= ~np.isnan(out[rows])
        if out is not x:
            bad |= (np.abs(out[rows]) < tiny) & (out[rows] != x[rows])
        if bad.any():
            if not count:
                row, *rest = _first(bad)
                first = (block.start + row, *rest)
            count += int(bad.sum())
    if not count:
        return out
    if np.isfinite(x[first]):
        said = f"beyond float32, in which models compute (this one would become {out[first]})"
        remedy = "Rescale x, or set what is negligible to 0."
    else:
        said, remedy = "not finite", "Remove or fill them first."
        if np.isnan(x[first]):
            remedy = "Remove or fill them first, or set data.missing to nan, which takes NaN for a missing value."
    raise ValueError(f"{where} holds {x[first]}{_at(first)}: values that are {said}, {count:,} in all. {remedy}")


def _first(bad: np.ndarray) -> tuple[int, ...]:
    """The index of the first True."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))


def _at(index: tuple[int, ...]) -> str:
    return f" at index {index}" if index else ""
