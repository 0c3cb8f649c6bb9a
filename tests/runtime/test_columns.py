"""Tables whose columns are as wide as their contents."""

import pytest

from hvae_jax.experiment import tables
from hvae_jax.runtime.columns import aligned

pytestmark = pytest.mark.leg


def test_columns_are_as_wide_as_their_contents() -> None:
    assert aligned([["level", "KL"], ["z1", "1.00"], ["bottom_up12", "123456.00"]]) == [
        "level               KL",
        "z1                1.00",
        "bottom_up12  123456.00",
    ]


def test_numbers_of_any_size_stay_apart() -> None:
    """In the tables of a result; a split that nobody expected has room as well."""
    split, levels = "validation_of_fold_3", {"bottom_up12": 1234567.0, "z1": 1.0}
    result = {
        "elbo": {split: -123456789.0},
        "iw_bound": {split: -123456780.0},
        "standard_error": {split: {"elbo": 12345.0}},
        "k": {split: 50000},
        "bits_per_dim": {split: {"iw_bound": 123456.789}},
        "rates": {split: levels},
        "active_units": {split: dict.fromkeys(levels, 123456789)},
    }
    head, row, note = tables.table(result).splitlines()
    assert note == "nats per example, -ELBO ± its standard error; bits/dim of -log p(x); active units in brackets"
    cells = [split, "123456789.00 ± 12345.00", "123456780.00 (K=50000)", "123456.789"]
    assert row.split("  ")[:4] == cells and "-ELBO" in head
    result["standard_error"][split]["elbo"] = float("nan")  # of a split of one example
    assert "±" not in tables.table(result).splitlines()[1]
    name, rate, share, active = tables.level_table(result).splitlines()[1].split()
    assert (name, rate, share, active) == ("bottom_up12", "1234567.00", "100%", "123456789")
