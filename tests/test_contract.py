"""Every model of tests/support/cases.py keeps every promise of tests/support/contract.py."""

import functools
from collections.abc import Callable

import pytest
from support.cases import CASES, Case
from support.contract import PROMISES, Row, every_row, jit_equals_eager, sharded_is_the_same, weights_sum_to_one

row_of = functools.cache(Row)

# Rows of which every promise is quick, one for each way of making a latent, for the other versions of JAX too. Of the
# others the slow tests show all; what is quick is `test_every_row`.
LEGS = ("top_down_2", "bottom_up_vae", "bottom_up", "scanned_normalised", "flow", "categorical_top", "observed")


def marks(one: Case, promise: Callable[[Row], None]) -> list[pytest.MarkDecorator]:
    """Op by op and on eight devices is quick in the first row alone."""
    if one.name not in LEGS or (promise in (jit_equals_eager, sharded_is_the_same) and one.name != LEGS[0]):
        return [pytest.mark.slow]
    return [pytest.mark.leg]


def pairs() -> list:
    """Each case with each promise that applies to it; a case stays in one process, compiled once."""
    return [
        pytest.param(one, promise, id=f"{one.name}-{promise.__name__}", marks=marks(one, promise))
        for one in CASES
        for promise in PROMISES
        if not (promise is weights_sum_to_one and one.every_x is None)
    ]


@pytest.mark.parametrize(("case", "promise"), pairs())
def test_contract(case: Case, promise: Callable[[Row], None]) -> None:
    """The promise's own docstring says what is proved."""
    promise(row_of(case))


@pytest.mark.parametrize("case", [pytest.param(one, id=one.name) for one in CASES])
def test_every_row(case: Case) -> None:
    """Shapes, finite numbers, mean rate = mean log-ratio, mean weights 1: of all rows, by one program each."""
    every_row(case)
