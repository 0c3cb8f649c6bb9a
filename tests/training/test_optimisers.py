"""Settings of the optimisers: what no step could be finite with is refused."""

from typing import Any

import pytest

from hvae_jax.training import Adamax, AdamW

WRONG = [
    *(("learning_rate", value) for value in (float("nan"), float("inf"), -1e-3, 1e300)),
    *((name, value) for name in ("b1", "b2") for value in (float("nan"), -0.1, 1.0, 1e20, 1.0 - 1e-9)),
    *(("eps", value) for value in (float("nan"), 0.0, -1e-8, 1e-60, float("inf"))),
]


@pytest.mark.parametrize("optimiser", [Adamax, AdamW])
@pytest.mark.parametrize(("name", "value"), WRONG)
def test_numbers_that_cannot_be(optimiser: Any, name: str, value: float) -> None:
    """The record, the field and its value are named, with what it has to be."""
    with pytest.raises(ValueError, match=rf"{optimiser.__name__}\({name}=.*\): (in float32 )?it has to be a "):
        optimiser(**{name: value})


@pytest.mark.parametrize("value", [float("nan"), -0.1, float("inf")])
def test_a_weight_decay_that_cannot_be(value: float) -> None:
    with pytest.raises(ValueError, match=r"AdamW\(weight_decay=.*\): (in float32 )?it has to be a "):
        AdamW(weight_decay=value)


def test_numbers_at_the_edge() -> None:
    """A learning rate of 0 trains nothing, which may be wanted; decays of 0 forget everything."""
    AdamW(learning_rate=0.0, b1=0.0, b2=0.0, eps=1e-30, weight_decay=0.0).build()
    Adamax(learning_rate=1e30, b1=0.99999, b2=0.99999).build()
