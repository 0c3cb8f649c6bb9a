"""An estimate as plain JSON: its value and its standard error."""

import math
from typing import Any

import numpy as np

from hvae_jax.diagnostics import standard_error

Number = dict[str, float]  # {"value": ..., "error": its standard error}


def number(values: Any) -> Number:
    """The mean over the examples and its standard error."""
    return {"value": float(np.mean(values)), "error": float(standard_error(values))}


def difference(a: Number, b: Number) -> Number:
    """a - b of two independent estimates."""
    return {"value": a["value"] - b["value"], "error": math.hypot(a["error"], b["error"])}
