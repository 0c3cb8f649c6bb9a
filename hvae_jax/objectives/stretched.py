"""Schedules stretched in time: those of a record, written for one length of training, for another one."""

import dataclasses
from typing import Any

from flax import linen as nn

from hvae_jax.objectives.balance import GammaBalance
from hvae_jax.objectives.geco import GECO
from hvae_jax.objectives.schedules import Cosine, Cyclical, Exponential, Linear, Tripling


def stretched(record: Any, factor: float) -> Any:
    """The record with every schedule v(t) in it, at any depth, replaced by v(t / factor); as it is for a factor of 1.

    Lengths in whole steps are rounded, to 1 at least: those of `Tripling`, `GammaBalance` and the delay of `GECO`. A
    schedule of one's own is left as it is, unless it has a method `stretched(factor)`.

    Args:
      record: an objective, an optimiser, a schedule, or a tuple of such.
      factor: length of the training over the length that the schedules were written for, above 0.
    Raises ValueError for a factor that is not above 0.

    Example:
        >>> hv.objectives.stretched(hv.objectives.Linear(0, 100), 0.5).end
        50.0
    """
    if not factor > 0:
        raise ValueError(f"stretched(factor={factor}): it has to be above 0.")
    if factor == 1:
        return record
    if isinstance(record, tuple):
        return tuple(stretched(item, factor) for item in record)
    if not dataclasses.is_dataclass(record) or isinstance(record, type | nn.Module):
        return record
    match record:
        case Linear() | Cosine() | Cyclical():
            changes: dict[str, Any] = {"start": _times(record.start, factor), "end": _times(record.end, factor)}
        case Tripling():
            changes = {"steps": _whole(record.steps, factor)}
        case Exponential():
            changes = {"rate": record.rate ** (1 / factor)}
        case GammaBalance():
            changes = {"steps": _whole(record.steps, factor)}
        case _ if hasattr(record, "stretched"):
            return record.stretched(factor)
        case _:
            fields = [field.name for field in dataclasses.fields(record) if field.init]
            changes = {name: stretched(getattr(record, name), factor) for name in fields}
            if isinstance(record, GECO):
                changes["delay"] = _whole(record.delay, factor)
    return dataclasses.replace(record, **changes)


def _times(steps: Any, factor: float) -> Any:
    """Steps, one number or one for each level, times the factor."""
    return tuple(factor * step for step in steps) if isinstance(steps, tuple) else factor * steps


def _whole(steps: int, factor: float) -> int:
    return max(1, round(factor * steps)) if steps else 0
