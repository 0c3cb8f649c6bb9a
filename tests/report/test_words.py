"""Numbers in sentences."""

import pytest

from hvae_jax.report import words
from hvae_jax.report.words import accuracy, estimate


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (-96.553, 0.551, "-96.55 ± 0.55"),
        (1380.2, 12.0, "1380.20 ± 12.00"),
        (0.2622, 0.00179, "0.262 ± 0.002"),
        (0.00451, 0.00027, "0.0045 ± 0.0003"),
        (6e-5, 4e-6, "0.0001 ± 0.0001"),  # an error is never rounded to 0
        (0.0, 0.0, "0.00 ± 0.00"),
        (-2e-5, 3e-5, "0.0000 ± 0.0001"),  # no zero has a sign
        (0.5, float("nan"), "0.50 ± nan"),
    ],
)
def test_estimates_have_the_digits_of_their_error(value: float, error: float, said: str) -> None:
    """Two digits, up to four where the error is small."""
    assert estimate({"value": value, "error": error}) == said


def test_accuracies() -> None:
    """In percent, with one sign for the error."""
    assert accuracy({"value": 0.934, "error": 0.0123}) == "93.4% ± 1.2%"


@pytest.mark.parametrize(
    ("used", "loss", "said"),
    [
        (2, 4.0, ", 2 of 4 have a rate above 0.01 nats, on average 1.5 of 3 values are in use, and the ELBO loses "),
        (2, None, ", 2 of 4 have a rate above 0.01 nats, and on average 1.5 of 3 values are in use."),
        (0, 0.0, ", no variable has a rate above 0.01 nats, and the ELBO loses "),
        (0, None, ", and no variable has a rate above 0.01 nats."),
    ],
)
def test_what_a_discrete_level_is_worth(used: int, loss: float | None, said: str) -> None:
    """Of a level that tells nothing about x, the values in use are not said."""
    level = {"kind": "categorical", "variables": 4, "classes": 3, "capacity": 8.0, "used": used, "perplexity": 1.5}
    report = {
        "levels": ["z2", "z1"],
        "discrete": [level, None],
        "rates": [{"value": 2.0, "error": 0.1}] * 2,
        "losses": [None if loss is None else {"value": loss, "error": 0.1}] * 2,
    }
    (sentence,) = words._discrete(report)
    head = "z2 is discrete, 4 variables of 3 classes: its rate is 25% of the 8.00 nats that it can hold"
    assert sentence.startswith(head + said)
