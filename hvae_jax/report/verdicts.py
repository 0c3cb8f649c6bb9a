"""Whether a level has collapsed: by its nats, their errors, and what the ELBO loses without it."""

from collections.abc import Mapping
from typing import Any, Literal

COLLAPSED = 0.1
"""Nats below which a level carries next to nothing. Not a share of the total rate: in a sum of thousands of nats a
level of one in a thousand still carries nats."""

ERRORS = 2.0
"""Standard errors by which an estimate has to lie on one side of COLLAPSED."""

Verdict = Literal["collapsed", "unclear", "spare", "used"]


def verdict(rate: Mapping[str, float], loss: Mapping[str, float] | None, distance: Mapping[str, float]) -> Verdict:
    """The verdict on one level.

    collapsed: rate and loss are both below COLLAPSED. used: one of them is above it, the loss as well if it is known.
    spare: the rate is above it, but not the loss: levels below make up for this one. unclear: the errors leave it open.

    Args:
      rate: rate of the level, nats, with its standard error.
      loss: ELBO lost if the level alone is drawn from its prior; None where that is not defined (`loss_without`).
      distance: `Measured.distance`, in place of a loss that is not defined: a rate that is a log-ratio may be 0
        although the posterior is not the prior.
    """
    harm = distance if loss is None else loss
    if _below(rate) and _below(harm):
        return "collapsed"
    if _above(rate) and loss is not None and _below(loss):
        return "spare"
    return "used" if _above(rate) or _above(harm) else "unclear"


def _below(number: Mapping[str, Any]) -> bool:
    return number["value"] + ERRORS * number["error"] < COLLAPSED


def _above(number: Mapping[str, Any]) -> bool:
    return number["value"] - ERRORS * number["error"] >= COLLAPSED
