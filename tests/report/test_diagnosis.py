"""The report: what it holds, what it says in words, and the page it becomes."""

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import hvae_jax as hv
from hvae_jax.data import Dataset, Split, integer
from hvae_jax.diagnostics import fano
from hvae_jax.experiment import settings
from hvae_jax.models import VAE, TopDownVAE
from hvae_jax.report.diagnosis import Effort, diagnose, words
from hvae_jax.report.page import page
from hvae_jax.report.remedies import REMEDIES, facts
from hvae_jax.report.verdicts import verdict
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


@pytest.fixture(scope="module")
def alone(model: TopDownVAE, variables: Any) -> dict[str, Any]:
    """On the same examples without labels, and without other data."""
    return diagnose(model, variables, dataset(labels=False), KEY, effort=EFFORT)


@pytest.mark.slow
def test_levels_that_are_no_gaussians() -> None:
    """A joint KL has no units that could be counted, a mixture no walks; everything else is said as of any model."""
    model = TopDownVAE(latents=(2, 3), hidden=8, likelihood=hv.Categorical(3), top_prior=hv.models.MixturePrior(3))
    variables = jax.jit(model.init)(KEY, dataset().splits["train"].x, KEY)
    report = diagnose(model, variables, dataset(), KEY, effort=EFFORT)
    top, bottom = report["units"]
    assert top["used"] is None and top["moving"] is None and top["active"] is not None and top["units"] == 2
    assert bottom["used"] is not None and bottom["moving"] is not None
    assert None not in report["losses"] and report["discrete"] == [None, None]
    assert [level["units"] for level in report["probes"]["levels"]] == [2, 3]
    images = walk_pictures(model, variables, dataset(), report, KEY)
    assert [one.kind for one in images] == ["levels", "changes", "samples", "data"]
    assert "z2" in page("a mixture", report, images)


@pytest.mark.slow
def test_what_discrete_levels_are_worth() -> None:
    """Numbers and a sentence for each: what it holds, how much of that is used, what the ELBO loses without it."""
    model = TopDownVAE(
        latents=(2, 3), levels=("categorical", "bernoulli"), categories=4, hidden=8, likelihood=hv.Categorical(3)
    )
    variables = jax.jit(model.init)(KEY, dataset().splits["train"].x, KEY)
    report = diagnose(model, variables, dataset(), KEY, effort=EFFORT)
    top, bits = report["discrete"]
    assert (top["kind"], top["variables"], top["classes"]) == ("categorical", 2, 4)
    assert top["capacity"] == pytest.approx(2 * np.log(4)) and 1.0 <= top["perplexity"] <= 4.0
    assert (bits["kind"], bits["variables"], bits["classes"]) == ("bernoulli", 3, 2)
    assert bits["capacity"] == pytest.approx(3 * np.log(2)) and 1.0 <= bits["perplexity"] <= 2.0
    assert None not in report["losses"]
    share = f"{report['rates'][0]['value'] / top['capacity']:.0%}"
    assert any(f"z2 is discrete, 2 variables of 4 classes: its rate is {share} of" in said for said in report["words"])
    assert any("z1 is discrete, 3 bits" in said and "the ELBO loses" in said for said in report["words"])
    images = walk_pictures(model, variables, dataset(), report, KEY)
    assert "z2 is discrete" in page("bits", report, images)
    json.loads(settings.dumps(report))


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
    assert len(report["probes"]["levels"]) == len(report["told_apart"]["latents"]) == 2
    assert report["sides"] == [1, 1] and report["rates_by_side"] == [{"side": 1, "levels": 2, "rate": report["rate"]}]
    json.loads(settings.dumps(report))


def test_training_examples_beside_those_measured(model: TopDownVAE, variables: Any, report: dict[str, Any]) -> None:
    """Their ELBO is what the model has on them, the gap is the difference; there is none for the training split."""
    found = report["training"]
    assert found["examples"] == 30 and found["draws"] == 2
    assert found["gap"]["value"] == pytest.approx(found["elbo"]["value"] - report["elbo"]["value"])
    assert found["gap"]["error"] > max(found["elbo"]["error"], report["elbo"]["error"])
    x = dataset().splits["train"].x[:30]
    many = hv.diagnostics.bound_above(model, variables, x, KEY, 0, draws=64)
    assert found["elbo"]["value"] == pytest.approx(float(many.mean()), abs=3 * found["elbo"]["error"])
    assert report["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    said = next(one for one in report["words"] if "training examples are fitted" in one)
    assert said.startswith("30 training examples are fitted ")
    assert not any("training examples are fitted" in one for one in words(report | {"training": None}))


def test_without_labels_there_are_no_probes(alone: dict[str, Any]) -> None:
    """And neither the words nor the page speak of them."""
    assert alone["probes"] is None and not any("probe" in sentence for sentence in alone["words"])
    assert "linear probe" not in page("a run", alone) and 'id="labels"' not in page("a run", alone)


def test_one_estimate_a_quantity(report: dict[str, Any], alone: dict[str, Any]) -> None:
    """ELBO, rate plus distortion and L^{>0} are one number, L - L^{>1} the loss without z1; no bound crosses another.

    With other data beside it or not: the likelihood ratio has draws of its own, which the page does not show.
    """
    for found in (report, alone):
        assert found["elbo"]["value"] == pytest.approx(-found["distortion"]["value"] - found["rate"]["value"], rel=1e-5)
        whole, one_less = found["bounds_above"]
        assert whole["bound"] == found["elbo"] and whole["ratio"]["value"] == 0.0
        assert one_less["ratio"]["value"] == pytest.approx(found["losses"][-1]["value"], abs=1e-5)
        assert one_less["bound"]["value"] == pytest.approx(
            found["elbo"]["value"] - one_less["ratio"]["value"], rel=1e-5
        )
        seen = found["information"]
        for rate, low, high, spent in zip(
            found["cumulative_rates"], seen["lower"], seen["upper"], seen["to_prior_lower"], strict=True
        ):
            assert low["value"] <= seen["ceiling"] + 1e-6 and high["value"] <= rate["value"]
            assert low["value"] <= high["value"] and high["value"] + spent["value"] == pytest.approx(rate["value"])
    assert [entry["bound"] for entry in report["bounds_above"]] == [entry["bound"] for entry in alone["bounds_above"]]
    text = page("a run", alone)
    assert text.count(f">{alone['elbo']['value']:.2f} ") == 2 and "the same 4 draws" in text


def test_probes_keep_to_the_rate(report: dict[str, Any]) -> None:
    """What the accuracy on samples takes by Fano is within the rate, but for the error; the page has both columns."""
    for level, rate in zip(report["probes"]["levels"], report["cumulative_rates"], strict=True):
        sampled = level["sampled"]
        labels = np.arange(30) % 3
        assert level["needs"] == pytest.approx(fano(sampled["value"], labels))
        least = max(0.0, sampled["value"] - 3 * sampled["error"])
        assert fano(max(least, 1 / 3), labels) <= rate["value"] + 3 * rate["error"]
    text = page("a run", report)
    assert "probe of samples" in text and "probe of means" in text and "Fano" in text


NUMBERS = {
    "in use": {"value": 4.0, "error": 0.1},
    "nothing": {"value": 0.004, "error": 0.001},
    "near": {"value": 0.09, "error": 0.03},
    "above": {"value": 0.3, "error": 0.01},
}


@pytest.mark.parametrize(
    ("rate", "loss", "distance", "expected"),
    [
        ("in use", "in use", "in use", "used"),
        ("nothing", "nothing", "nothing", "collapsed"),
        ("nothing", "in use", "nothing", "used"),
        ("in use", "nothing", "in use", "spare"),
        ("near", "nothing", "nothing", "unclear"),
        ("nothing", "near", "nothing", "unclear"),
        ("above", "near", "above", "used"),
        ("nothing", None, "nothing", "collapsed"),
        ("nothing", None, "in use", "used"),  # a log-ratio of 0 by cancelling
        ("in use", None, "in use", "used"),
    ],
)
def test_verdicts(rate: str, loss: str | None, distance: str, expected: str) -> None:
    """By nats and their errors, and by what is lost; never by a share of the total."""
    numbers = [None if one is None else NUMBERS[one] for one in (rate, loss, distance)]
    assert verdict(*numbers) == expected


def fine(report: dict[str, Any]) -> dict[str, Any]:
    """The report of a model whose levels are all in use."""
    made = copy.deepcopy(report)
    for i, units in enumerate(made["units"]):
        made["rates"][i] |= {"value": 3.0 + i, "error": 0.1}
        made["losses"][i] = {"value": 5.0, "error": 0.2}
        for kind in ("active", "used", "carrying", "moving"):
            units[kind]["value"] = units["units"]
    made["verdicts"] = ["used", "used"]
    made["rate"] |= {"value": 7.0, "error": 0.1}
    made["information"]["lower"][-1] = {"value": 2.0, "error": 0.1}
    return made


def test_words(report: dict[str, Any]) -> None:
    """Collapse, idle units, Burda's count, the ceiling: each is said where it is so and not where it is not."""
    good = fine(report)
    assert words(good)[0] == (
        "No level has collapsed: the lowest rate is that of z2, 3.00 ± 0.10 nats, and the ELBO loses 5.00 ± 0.20 nats "
        "if it alone is drawn from its prior."
    )
    said = " ".join(words(good))
    assert "Of the rate of 7.00 ± 0.10 nats, at least 2.00 ± 0.10 are information" in said
    assert "units" not in said and "+-" not in said

    good["units"][1] |= {"carrying": {"value": 1, "error": 0.0}, "rates": [4.0, 0.015, 0.01]}
    assert "z1 uses few of its units: 1 of 3 carry 95% of its rate, each of the others 0.015 nats" in words(good)[1]
    good["units"][1] |= {"moving": {"value": 0, "error": 0.0}}
    assert any("3 units are active by Burda's count, but only 0 move" in sentence for sentence in words(good))
    good["information"]["lower"][-1] = {"value": good["information"]["ceiling"] - 0.1, "error": 0.0}
    assert any("tell all 30 examples apart" in sentence for sentence in words(good))
    good["verdicts"][0] = "collapsed"
    good["rates"][0] |= {"value": 0.0046, "error": 0.0004}
    good["losses"][0] = None
    assert words(good)[0] == "z2 has collapsed: its rate is 0.0046 ± 0.0004 nats."


def test_alike_levels_share_a_sentence(report: dict[str, Any]) -> None:
    """A deep model with many idle levels; 4 nats of 1,380 are no collapse."""
    deep, count = fine(report), 40
    dead = {"value": 0.001, "error": 0.0001}
    deep["levels"] = [f"z{count - i}" for i in range(count)]
    deep["rates"] = [dead] * 15 + [{"value": 4.0, "error": 0.2}] + [{"value": 55.0, "error": 1.0}] * 24
    deep["losses"] = [dead] * 15 + [{"value": 4.0, "error": 0.2}] * 25
    deep["rate"] = {"value": 1380.0, "error": 9.0}
    deep["units"] = [copy.deepcopy(deep["units"][1]) for _ in range(count)]
    for level in deep["units"]:
        level["carrying"]["value"], level["moving"]["value"] = 1, 1
    deep["verdicts"] = [verdict(rate, loss, rate) for rate, loss in zip(deep["rates"], deep["losses"], strict=True)]
    deep["probes"], deep["discrete"] = None, [None] * count
    said = words(deep)
    assert said[0] == (
        "15 of 40 levels (z40, z39, z38, z37, z36 and 10 more) have collapsed: their rates are 0.0010 ± 0.0001 to "
        "0.0010 ± 0.0001 nats, and the ELBO loses 0.0010 ± 0.0001 nats at most if one of them alone is drawn from its "
        "prior."
    )
    assert said[1].startswith("25 of 40 levels (z25, z24,") and "33% to 33% of the units" in said[1]
    assert said[2].startswith("In 40 of 40 levels")
    assert all(one.startswith("What may help 15 of 40 levels (z40") for one in said[7:]) and len(said) > 9


def remedies_of(report: dict[str, Any], **model: Any) -> list[str]:
    """Names of the remedies for a report whose z2 has collapsed, under other facts of its model."""
    made = fine(report)
    made["verdicts"][0] = "collapsed"
    made["model"] |= model
    said = [one for one in words(made) if one.startswith("What may help z2: ")]
    assert said == words(made)[-len(said) :]
    return [re.match(r"What may help z2: (.*?), which .* \(.*\)\. (?:Measured|Its effect)", one)[1] for one in said]


def test_remedies_suit_the_model(report: dict[str, Any]) -> None:
    """A smaller field where a decoder sees pixels; none for what x decides."""
    assert report["model"]["receptive_field"] is None and report["model"]["observed"] == []
    names = remedies_of(report)
    assert {"free bits", "KL warm-up", "GECO", "a target for the mutual information"} <= set(names)
    assert "a decoder that sees fewer pixels" not in names
    assert remedies_of(report, receptive_field=-1)[0] == "a decoder that sees fewer pixels"
    assert not any(one.startswith("What may help") for one in words(fine(report)))
    made = fine(report)
    made["verdicts"][0], made["model"]["observed"] = "collapsed", ["z2"]
    assert not any(one.startswith("What may help") for one in words(made))
    made["model"]["observed"], made["units"][0]["moving"] = [], None  # no function of Gaussian noise, such as a mixture
    assert not any("mutual information" in one for one in words(made))


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (VAE(likelihood=hv.PixelCNN(hv.Categorical(3), None)), -1),
        (VAE(likelihood=hv.PixelCNN(hv.Categorical(3), 2)), 2),
        (VAE(likelihood=hv.PixelCNN(hv.Categorical(3), 0)), None),
        (VAE(), None),
    ],
)
def test_what_remedies_ask_of_a_model(model: VAE, field: int | None) -> None:
    """The field of its decoder, as plain JSON has it."""
    assert facts(model)["receptive_field"] == field


def test_remedies_have_a_setting_and_a_page() -> None:
    """Each says how it is set; what was measured names its page of docs/results."""
    pages = Path(__file__).parents[2] / "docs" / "results"
    for one in REMEDIES:
        assert one.how.startswith(("--", "objective="))
        if one.measured is not None:
            (page_name,) = re.findall(r"\((\w+\.md)\)", one.measured)
            assert (pages / page_name).exists()


def test_the_best_probe_in_words(report: dict[str, Any]) -> None:
    """A level is named best only where it is; otherwise the two best, or none."""
    good = fine(report)
    for i, level in enumerate(good["probes"]["levels"]):
        level["sampled"] = {"value": 0.7 + 0.1 * i, "error": 0.02, "chance": 0.4}
    good["probes"]["best"] = 1
    assert words(good)[-1].startswith("Labels are read best off samples of z1: a linear probe is right 80.0% ± 2.0%")
    good["probes"]["best"] = None
    assert "No level's samples tell the labels clearly better" in words(good)[-1]
    for level in good["probes"]["levels"]:
        level["sampled"]["value"] = 0.42
    assert words(good)[-1].startswith(
        "No level's samples tell the labels: the best linear probe, of z2, is right 42.0%"
    )


class Tags(HTMLParser):
    """Notes what is opened and closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.sources: list[str] = []
        self.names: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens; notes what is there, what would be loaded or linked, and what can be linked."""
        self.seen.add(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        self.names += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        """Closes the last one opened."""
        assert self.open.pop() == tag


def test_the_page_needs_nothing_beside_itself(model: TopDownVAE, variables: Any, report: dict[str, Any]) -> None:
    """Well-formed, names escaped, every picture inside, no level left out."""
    images = walk_pictures(model, variables, dataset(), report, KEY)
    assert len(images) == 7 - report["verdicts"].count("collapsed") and all(
        one.png.startswith(b"\x89PNG") for one in images
    )
    text = page("a <run> & more", report, images)
    tags = Tags()
    tags.feed(text)
    loaded = [source for source in tags.sources if not source.startswith("#")]
    assert not tags.open and len(loaded) == len(images) and "script" not in tags.seen
    assert all(source.startswith("data:image/png;base64,") for source in loaded)
    assert all(source[1:] in tags.names for source in tags.sources if source.startswith("#"))
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
