"""What a report says of an observed level, a function of x."""

from typing import Any

import numpy as np

from hvae_jax.diagnostics import Usage
from hvae_jax.likelihoods import Categorical
from hvae_jax.models import GreedyVAE
from hvae_jax.report import diagnosis, plots, words


def number(value: float) -> dict[str, float]:
    """An estimate."""
    return {"value": value, "error": 0.1}


def test_the_sentence_on_an_observed_level() -> None:
    """Its rate as a part of -ELBO, and what the ELBO loses without it; nothing for a model without such levels."""
    report: dict[str, Any] = {
        "levels": ["u", "y"],
        "observed": ["y"],
        "elbo": number(-100.0),
        "rates": [number(4.0), number(25.0)],
        "losses": [number(1.0), number(15.5)],
    }
    (said,) = words._observed(report)
    assert said == (
        "y is observed, a function of x: its rate is -log p of its own value, 25.00 ± 0.10 nats (25% of -ELBO), and "
        "the ELBO loses 15.50 ± 0.10 nats if it alone is drawn from its prior."
    )
    assert words._observed(report | {"losses": [None, None]})[0].endswith("(25% of -ELBO).")
    gain = {"value": -3.0, "error": 0.5}
    spare = report | {"losses": [gain, gain], "verdicts": ["spare", "spare"]}
    assert "more than it tells of x: the ELBO gains 3.00 ± 0.50 nats if" in words._observed(spare)[0]
    assert ["could be spared" in one for one in words._collapse(spare)] == [False, True]
    assert words._collapse(spare)[1].startswith("u could be spared")
    assert words._observed(report | {"observed": []}) == []


def test_its_elements_are_no_units() -> None:
    """They are not counted, so that no sentence calls them few, and are not drawn among the units."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(9, size)) ** 2 for size in (2, 3)]
    used = Usage(np.ones((2, 9)), np.ones(9), tuple(parts), tuple(parts), tuple(parts))
    units = diagnosis._units(used, [False, True])
    kinds = ("active", "used", "carrying", "moving")
    assert all(units[0][kind] is not None and units[1][kind] is None for kind in kinds)
    assert sorted(units[1]["order"]) == [0, 1, 2]
    report = {"levels": ["u", "y"], "observed": ["y"], "units": units, "verdicts": ["used", "used"]}
    assert not any("y" in sentence.split() for sentence in words._units(report))
    without = {**report, "levels": ["u"], "observed": [], "units": units[:1], "verdicts": ["used"]}
    assert plots.units_plot(report) == plots.units_plot(without)


def test_the_past_of_a_clip_is_observed() -> None:
    """Images have none."""
    family = Categorical(3)
    assert GreedyVAE((2, 4, 1), frames=2, modules=1, likelihood=family).observed == {"past": family}
    assert GreedyVAE((4, 4, 1), likelihood=family).observed == {}
