"""The report: what it holds, what it says in words, and the page it becomes."""

import copy
import json
import re
from html.parser import HTMLParser
from typing import Any

import jax
import numpy as np
import pytest

import hvae_jax as hv
from hvae_jax.data import Dataset, Split, integer
from hvae_jax.experiment import settings
from hvae_jax.models import TopDownVAE
from hvae_jax.report import charts
from hvae_jax.report.diagnosis import Effort, diagnose, words
from hvae_jax.report.page import page
from hvae_jax.report.walks import walk_pictures

KEY = jax.random.key(0)
EFFORT = Effort(examples=30, draws=2, k=4, latents=10, probed=30)


def dataset(name: str = "toy", labels: bool = True, seed: int = 0) -> Dataset:
    """Small images of three values."""
    rng = np.random.default_rng(seed)

    def split(n: int) -> Split:
        y = np.arange(n, dtype=np.int32) % 3 if labels else None
        return Split(rng.integers(0, 3, (n, 4, 4, 1)).astype(np.uint8), y)

    return Dataset(name, {"train": split(40), "validation": split(10), "test": split(30)}, integer(3), "made up")


@pytest.fixture(scope="module")
def model() -> TopDownVAE:
    """Of two levels."""
    return TopDownVAE(latents=(2, 3), hidden=8, likelihood=hv.Categorical(3))


@pytest.fixture(scope="module")
def variables(model: TopDownVAE) -> Any:
    """Untrained."""
    return jax.jit(model.init)(KEY, dataset().splits["train"].x, KEY)


@pytest.fixture(scope="module")
def report(model: TopDownVAE, variables: Any) -> dict[str, Any]:
    """On the test split, with other data beside it."""
    return diagnose(model, variables, dataset(), KEY, effort=EFFORT, other=dataset("strange", seed=9))


def test_levels_that_are_no_gaussians() -> None:
    """A joint KL has no units that could be counted, a mixture no walks; everything else is said as of any model."""
    model = TopDownVAE(latents=(2, 3), hidden=8, likelihood=hv.Categorical(3), top_prior=hv.models.MixturePrior(3))
    variables = jax.jit(model.init)(KEY, dataset().splits["train"].x, KEY)
    report = diagnose(model, variables, dataset(), KEY, effort=EFFORT)
    top, bottom = report["units"]
    assert top["used"] is None and top["moving"] is None and top["active"] is not None and top["units"] == 2
    assert bottom["used"] is not None and bottom["moving"] is not None
    images = walk_pictures(model, variables, dataset(), report, KEY)
    assert len(images) == 2
    charts_of = {"units": charts.units_chart(report), "plane": charts.plane_chart(report)}
    assert "z2" in page("a mixture", report, charts_of, images)


def test_its_numbers_agree_with_each_other(report: dict[str, Any]) -> None:
    """Every estimate has a standard error; what has to add up does."""
    assert report["levels"] == ["z2", "z1"] and report["split"] == "test" and report["examples"] == 30
    for name in ("elbo", "iw_bound", "gap", "distortion", "rate"):
        assert report[name]["error"] > 0.0
    assert report["gap"]["value"] == pytest.approx(report["iw_bound"]["value"] - report["elbo"]["value"], rel=1e-4)
    rates = [rate["value"] for rate in report["rates"]]
    assert report["rate"]["value"] == pytest.approx(sum(rates), rel=1e-5)
    assert report["cumulative_rates"][-1] == report["rate"] and report["cumulative_rates"][0] == report["rates"][0]
    for level, size, rate in zip(report["units"], (2, 3), rates, strict=True):
        assert level["units"] == size == len(level["rates"])
        assert sum(level["rates"]) == pytest.approx(rate, rel=1e-4)
        assert level["rates"] == sorted(level["rates"], reverse=True)
    assert report["information"]["ceiling"] == pytest.approx(np.log(30))
    assert [entry["k"] for entry in report["bounds_above"]] == [0, 1]
    assert all(0.0 <= entry["auroc"]["value"] <= 1.0 for entry in report["bounds_above"])
    assert len(report["probes"]) == len(report["told_apart"]["latents"]) == 2
    json.loads(settings.dumps(report))


def test_without_labels_there_are_no_probes(model: TopDownVAE, variables: Any) -> None:
    """And the words do not speak of them."""
    found = diagnose(model, variables, dataset(labels=False), KEY, effort=EFFORT)
    assert found["probes"] is None and not any("probe" in sentence for sentence in found["words"])


def test_words(report: dict[str, Any]) -> None:
    """Collapse, idle units, Burda's count, the ceiling: each is said where it is so and not where it is not."""
    said = " ".join(report["words"])
    assert "z1 has collapsed" in said or "z2 has collapsed" in said  # nothing was trained

    fine = copy.deepcopy(report)
    for rate, units in zip(fine["rates"], fine["units"], strict=True):
        rate |= {"value": 3.0, "error": 0.1}
        for kind in ("active", "used", "moving"):
            units[kind]["value"] = units["units"]
    fine["rate"]["value"] = 6.0
    fine["information"]["lower"][-1] = {"value": 2.0, "error": 0.1}
    assert words(fine)[0].startswith("No level has collapsed")
    assert "Of the rate of 6.00 nats, 2.00 +- 0.10 are information" in " ".join(words(fine))

    fine["units"][1]["used"]["value"] = 1
    assert "z1 uses 1 of its 3 units" in words(fine)[0]
    fine["units"][1] |= {"moving": {"value": 0, "error": 0.0}}
    assert any("3 units are active by Burda's count, but only 0 move" in sentence for sentence in words(fine))
    fine["information"]["lower"][-1] = {"value": fine["information"]["ceiling"] - 0.1, "error": 0.0}
    assert any("tell all 30 examples apart" in sentence for sentence in words(fine))
    fine["rates"][0] |= {"value": 0.05, "error": 0.01}
    assert words(fine)[0].startswith("z2 has collapsed: its rate is 0.05 nats")


class Tags(HTMLParser):
    """Notes what is opened and closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens; notes what would be loaded."""
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        """Closes the last one opened."""
        assert self.open.pop() == tag


def test_the_page_needs_nothing_beside_itself(model: TopDownVAE, variables: Any, report: dict[str, Any]) -> None:
    """Well-formed, names escaped, every picture inside, no level left out."""
    figures = {
        "information": charts.information_chart(report),
        "units": charts.units_chart(report),
        "plane": charts.plane_chart(report),
    }
    images = walk_pictures(model, variables, dataset(), report, KEY)
    assert len(images) == 5 and all(png.startswith(b"\x89PNG") for png in (*figures.values(), *images.values()))
    text = page("a <run> & more", report, figures, images)
    tags = Tags()
    tags.feed(text)
    assert not tags.open and len(tags.sources) == 8
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    assert "a &lt;run&gt; &amp; more" in text and "a <run>" not in text
    assert 'name="viewport"' in text and "http" not in re.sub(r"base64,[^\"]*", "", text)
    for name in ("z2", "z1", "AUROC against strange", "linear probe"):
        assert name in text


def test_what_is_refused(model: TopDownVAE, variables: Any) -> None:
    """A split that is not there, one example, no draws."""
    with pytest.raises(ValueError, match="no split 'dev'"):
        diagnose(model, variables, dataset(), KEY, split="dev", effort=EFFORT)
    with pytest.raises(ValueError, match="has 1 example"):
        diagnose(model, variables, dataset(), KEY, effort=Effort(examples=1))
    with pytest.raises(ValueError, match="draws is 0"):
        Effort(draws=0)
