"""Numbers in sentences."""

import pytest

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
        (0.5, float("nan"), "0.50 ± nan"),
    ],
)
def test_estimates_have_the_digits_of_their_error(value: float, error: float, said: str) -> None:
    """Two digits, up to four where the error is small."""
    assert estimate({"value": value, "error": error}) == said


def test_accuracies() -> None:
    """In percent, with one sign for the error."""
    assert accuracy({"value": 0.934, "error": 0.0123}) == "93.4% ± 1.2%"
