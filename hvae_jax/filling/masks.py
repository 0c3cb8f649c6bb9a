"""Masks: which elements of x are seen, as truth values."""

import numpy as np

from hvae_jax.runtime.annotations import ArrayLike


def as_seen(seen: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """A mask as bool `[B, *event]`.

    Args:
      seen: truth values, or the numbers 0 and 1: `[B, *event]` or `[*event]`, and for images `[H, W, C]` also one value
        a pixel, `[B, H, W]`, `[H, W]`, or with a last axis of 1.
      shape: shape of x, `(B, *event)`.
    Raises ValueError for another shape, naming those that fit, and for other values.

    Example:
        >>> hv.filling.as_seen(np.ones((8, 8)), (3, 8, 8, 1)).shape
        (3, 8, 8, 1)
    """
    mask = np.asarray(seen)
    if mask.dtype != bool:
        if mask.dtype.kind not in "iuf" or not np.isin(mask, (0, 1)).all():
            raise ValueError(
                f"The mask holds {mask.dtype} other than 0 and 1: give truth values, True where x is seen."
            )
        mask = mask.astype(bool)
    batch, event = shape[0], shape[1:]
    fits = [shape, event]
    if len(event) == 3:
        fits += [(batch, *event[:2], 1), (*event[:2], 1), (batch, *event[:2]), event[:2]]
    if mask.shape not in fits:
        names = ", ".join(str(fit) for fit in dict.fromkeys(fits))
        raise ValueError(f"The mask has shape {mask.shape}, but x has shape {shape}: a mask is one of {names}.")
    fit = fits.index(mask.shape)
    if fit >= 4:
        mask = mask[..., None]
    return np.broadcast_to(mask, shape).copy()


def box(event: tuple[int, ...]) -> np.ndarray:
    """The mask of one x without its middle: half the height and half the width, or half the length of a vector.

    An image of 8 x 8 lacks 4 x 4 pixels. Raises ValueError for a side of one element, which has no middle.

    Example:
        >>> int((~hv.filling.box((8, 8, 1))).sum())  # 4 x 4 pixels are missing
        16
    """
    seen = np.ones(event, bool)
    sides = event[: min(2, len(event))]
    if min(sides) < 2:
        raise ValueError(f"A box needs sides of 2 or more, but one x has shape {event}.")
    seen[tuple(slice(side // 4, side // 4 + max(1, side // 2)) for side in sides)] = False
    return seen


def half(event: tuple[int, ...]) -> np.ndarray:
    """The mask of one x without its lower half, or the latter half of a vector: all that is missing comes last.

    Raises ValueError for a height, or a length, of 1.

    Example:
        >>> hv.filling.half((4,)).tolist()
        [True, True, False, False]
    """
    if event[0] < 2:
        raise ValueError(f"A half needs 2 or more, but one x has shape {event}.")
    seen = np.ones(event, bool)
    seen[event[0] - event[0] // 2 :] = False
    return seen
