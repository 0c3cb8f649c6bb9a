"""Every model of tests/cases.py keeps every promise of tests/contract.py."""

import functools
from collections.abc import Callable

import pytest
from support.cases import CASES, Case
from support.contract import PROMISES, Row, jit_equals_eager, shapes_and_finite, sharded_is_the_same, weights_sum_to_one

row_of = functools.cache(Row)

# One way of making a latent each, for the other versions of JAX.
LEGS = ("top_down_2", "bottom_up_vae", "bottom_up", "scanned", "flow")


# Of these another row is the like, which is quick: all of what they promise is among the slow tests.
LIKE_ANOTHER = (
    *("top_down_3", "three_levels_see_x", "bottom_up_vae_conv", "cancelled_biases", "ladder_separate", "resnet_vae"),
    *("biva_conv", "gated_vae", "replaced", "vdvae"),
)


# These take longest: of them one promise is quick.
LONG = (
    *("biva", "ladder_conv", "gated_ladder", "resnet_vae_flow", "efficient_vdvae", "vdvae_classes"),
    *("vae_conv", "pixelcnn"),
)


def marks(one: Case, promise: Callable[[Row], None]) -> list[pytest.MarkDecorator]:
    """For some rows the quick subset, for the others none op by op or on eight devices."""
    if one.name in LEGS:
        return [pytest.mark.leg]
    if one.name in LIKE_ANOTHER or (one.name in LONG and promise is not shapes_and_finite):
        return [pytest.mark.slow]
    return [pytest.mark.slow] if promise in (jit_equals_eager, sharded_is_the_same) else []


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
