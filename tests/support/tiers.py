"""Which suite a parameter's test belongs to: quick, slow (`--slow`, and CI) or exhaustive (`--exhaustive`)."""

from collections.abc import Iterable
from typing import Any

import pytest


def tiers(values: Iterable[Any], quick: int = 0, slow: int = 0) -> list[Any]:
    """Parameters of which the first `quick` are in the quick suite, the next `slow` slow, and the others exhaustive.

    A tuple is the values of several arguments.
    """
    marks = [()] * quick + [pytest.mark.slow] * slow
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=marks[i] if i < len(marks) else _LAST)
        for i, value in enumerate(values)
    ]


_LAST = pytest.mark.exhaustive
