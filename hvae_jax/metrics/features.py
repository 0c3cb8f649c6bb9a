"""Features as the metrics take them, and checks of two sets of them."""

from collections.abc import Callable
from typing import Any

import numpy as np

Extractor = Callable[[np.ndarray], Any]
"""A function of examples `[n, *event]` that returns their features `[n, ...]`."""


def as_features(x: Any, extractor: Extractor | None = None, batch_size: int = 256, name: str = "x") -> np.ndarray:
    """Features of examples, `[N, D]` float64: x itself, flattened, or what the extractor makes of it in batches.

    Args:
      x: examples or features, `[N, ...]`; read by slices, so that it may lie on a disk.
      extractor: function from examples to features; None takes x as features.
      batch_size: number of examples that the extractor is given at once.
      name: name of x in errors.
    Raises ValueError for a batch_size below 1, an array without examples or of one axis, features that are not one row
    an example, that are no numbers, or not finite.

    Example:
        >>> hv.metrics.as_features(np.ones((3, 2, 2))).shape
        (3, 4)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but it has to be 1 or more.")
    if extractor is not None:
        x = _extracted(x, extractor, batch_size, name)
    x = np.asarray(x)
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {x.dtype}, but features are real numbers.")
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(
            f"{name} has shape {x.shape}, but features are [N, D], a row for each example; give one number for each as "
            "x[:, None]."
        )
    flat = x.reshape(len(x), -1).astype(np.float64)
    bad = ~np.isfinite(flat)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} holds {flat[row, column]} as feature {column} of example {row} ({int(bad.sum()):,} such values): "
            "features have to be finite."
        )
    return flat


def check_pair(real: np.ndarray, generated: np.ndarray, least: int) -> None:
    """Raises ValueError if two sets of features differ in their number, or one has fewer examples than needed."""
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"The real examples have {real.shape[1]:,} features each and the generated ones {generated.shape[1]:,}: "
            "take both from the same function."
        )
    for name, x in (("real", real), ("generated", generated)):
        if len(x) < least:
            raise ValueError(f"There are {len(x)} {name} examples, but {least} or more are needed.")


def _extracted(x: Any, extractor: Extractor, batch_size: int, name: str) -> np.ndarray:
    parts = []
    for start in range(0, len(x), batch_size):
        batch = np.asarray(x[start : start + batch_size])
        made = np.asarray(extractor(batch))
        if made.ndim < 1 or len(made) != len(batch):
            raise ValueError(
                f"The extractor made an array of shape {made.shape} of {len(batch)} examples of {name}: it has to be "
                "[n, D], a row for each."
            )
        parts.append(made.reshape(len(batch), -1))
    return np.concatenate(parts) if parts else np.zeros((0, 0))
