"""What the page shows: the verdict first, every number in a cell with its head, one mark for each level."""

import html
import io
import re
import shlex
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hvae_jax.report import markup, pictures, plots, sections
from hvae_jax.report.page import page
from hvae_jax.report.remedies import remedies
from hvae_jax.report.words import words


def number(value: float, error: float = 0.1) -> dict[str, float]:
    """An estimate."""
    return {"value": value, "error": error}


def report_of(levels: int, collapsed: int = 0) -> dict[str, Any]:
    """A report of so many levels, half of them vectors and half of them maps, of which the top ones have collapsed."""
    names = [f"z{levels - i}" for i in range(levels)]
    verdicts = ["collapsed"] * collapsed + ["used"] * (levels - collapsed)
    rates = [number(0.001, 0.0001) if one == "collapsed" else number(2.0) for one in verdicts]
    count = {kind: number(2, 0.0) for kind in ("active", "used", "carrying", "moving")}
    unit = {"units": 4, "order": [0, 1, 2, 3], "rates": [1.0, 0.9, 0.1, 0.0], **count}
    sides = [1] * (levels // 2) + [8] * (levels - levels // 2)
    made: dict[str, Any] = {
        "data": "toy",
        "split": "test",
        "examples": 30,
        "parameters": 1234,
        "levels": names,
        "sides": sides,
        "effort": {"examples": 30, "draws": 2, "k": 4, "latents": 10, "probed": 30, "depths": 3},
        "elbo": number(-90.0),
        "iw_bound": number(-88.0) | {"k": 4},
        "gap": number(2.0),
        "bits_per_dim": 1.9,
        "effective_sample_size": number(2.0),
        "distortion": number(80.0),
        "rate": number(10.0),
        "rates": rates,
        "cumulative_rates": rates,
        "distances": rates,
        "losses": rates,
        "verdicts": verdicts,
        "observed": [],
        "units": [dict(unit) for _ in names],
        "classes": [],
        "discrete": [None] * levels,
        "rates_by_side": [{"side": side, "levels": levels // 2, "rate": number(5.0)} for side in (1, 8)],
        "model": {"receptive_field": None, "observed": []},
        "information": {"ceiling": 3.4} | dict.fromkeys(("lower", "upper", "to_prior_lower", "to_prior_upper"), rates),
        "bounds_above": [{"k": k, "bound": number(-90.0 - k), "ratio": number(1.0 * k)} for k in (0, 1)],
        "training": {"examples": 30, "draws": 2, "elbo": number(-80.0), "gap": number(10.0, 0.2)},
        "told_apart": {"samples": number(0.6, 0.01), "latents": [number(0.5, 0.01)] * levels},
        "probes": None,
    }
    made["remedies"] = remedies(made)
    made["words"] = words(made)
    return made


@pytest.mark.parametrize(("levels", "collapsed"), [(1, 0), (5, 0), (5, 2)])
def test_the_verdict_comes_first(levels: int, collapsed: int) -> None:
    """The first sentence of the words, above every number: what is so, and from which numbers."""
    report = report_of(levels, collapsed)
    text = page("a run", report)
    said, numbers = report["words"][0].split(": ")
    assert f"<strong>{said}.</strong>" in text and f"{numbers[1:]}</span>" in text
    assert text.index(said) < text.index("ELBO</dt>") < text.index('id="levels"') < text.index('id="units"')
    assert "1,234 parameters" in text and "overfitting" in text and "--seed 0" in text and "+-" not in text


def test_a_collapsed_level_leads_to_what_may_help() -> None:
    """By a link on the page; each remedy has its setting and the page that measured it."""
    report = report_of(3, 1)
    text = page("a run", report)
    assert '<a href="#remedies"><span class="chip bad">collapsed</span></a>' in text and 'id="remedies"' in text
    assert [one["levels"] for one in report["remedies"]] == [["z3"]] * len(report["remedies"])
    for one in report["remedies"]:
        assert one["page"] is None or f"See <code>{one['page']}</code>" in text
    assert "remedies" not in page("a run", report_of(3))


def test_the_command_can_be_pasted() -> None:
    """Names of splits and files are quoted where the shell needs it."""
    report = report_of(2) | {"split": "my test"}
    report["bounds_above"][0]["auroc"] = number(0.5) | {"data": "other data.npz"}
    report["bounds_above"][1]["auroc"] = number(0.5) | {"data": "other data.npz"}
    text = html.unescape(page("a run", report))
    (command,) = re.findall("<code>(hvae diagnose .*?)</code>", text)
    words_of = shlex.split(command)
    assert words_of[words_of.index("--split") + 1] == "my test"
    assert words_of[words_of.index("--other") + 1] == "other data.npz"


def test_every_cell_says_what_it_is() -> None:
    """On a narrow screen the head of a table is hidden, and its cells have it beside them."""
    text = page("a run", report_of(3))
    cells = re.findall(r"<td[^>]*>", text)
    assert len(cells) > 30 and all('data-label="' in cell for cell in cells)


@pytest.mark.parametrize(("levels", "named"), [(8, 8), (9, 2), (40, 2)])
def test_every_level_is_in_the_legend(levels: int, named: int) -> None:
    """One by one up to eight; of more, the ends of a scale of as many colours."""
    colours = plots.colours(levels)
    assert len(set(colours)) == levels
    plot = plots.units_plot(report_of(levels))
    assert all(colour in plot for colour in colours)
    legend = plot[plot.index('class="key"') :]
    assert len(set(re.findall(r"\bz\d+\b", legend))) == named


def test_a_deep_model_shows_resolutions_and_folds_its_levels() -> None:
    """Columns of all levels and rates by resolution; a table of all is folded, others say what they leave out."""
    deep = "".join(sections.levels(report_of(40, 3)))
    assert deep.count('<span style="height:') == 37 and deep.count('<span class="bad" style="height:') == 3
    assert "8&times;8" in deep and "<details><summary>All 40 levels</summary>" in deep
    few = "".join(sections.levels(report_of(5)))
    assert "<details>" not in few and 'class="columns"' not in few
    assert "12 of 40 levels" in page("a run", report_of(40)) and sections.spread(40)[::11] == [0, 39]


def test_bars_stay_on_their_track() -> None:
    """Whatever the value and its error are."""
    for value in (number(-1.0), number(0.0, float("nan")), number(3.0, 9.0)):
        for place, width in re.findall(r"left:([\d.]+)%;width:([\d.]+)%", markup.bar(value, 2.0, "rate")):
            assert float(place) >= 0.0 and float(place) + float(width) <= 100.0
    assert markup.bar(None, 2.0, "rate") == ""


def opened(png: bytes) -> np.ndarray:
    """The pixels of a PNG."""
    return np.asarray(Image.open(io.BytesIO(png)))


def test_margins_are_transparent_and_changes_have_a_sign() -> None:
    """A column against the one before: blue where pixels fall, orange where they rise, nothing where they stay."""
    x = np.zeros((2, 3, 4, 4, 1))
    x[:, 1] = 1.0
    x[:, 2, :2] = 1.0
    grid = opened(pictures.grid_png(x, (0.0, 1.0)))
    assert grid.shape[-1] == 4 and set(np.unique(grid[..., 3])) == {0, 255} and not grid[0, :, 3].any()
    png, most = pictures.changes_png(x, (0.0, 2.0)) or (b"", 0.0)
    assert most == 0.5
    change = opened(png)
    high, wide = change.shape[:2]
    at = {"rise": (high // 4, wide // 4), "stay": (high // 8, 3 * wide // 4), "fall": (3 * high // 8, 3 * wide // 4)}
    rise, stay, fall = (change[place] for place in at.values())
    assert rise[0] > rise[2] and rise[3] == 255 and fall[2] > fall[0] and fall[3] == 255 and stay[3] == 0
    assert pictures.changes_png(np.zeros((2, 3, 4, 4, 1)), (0.0, 1.0)) is None
    assert pictures.changes_png(np.zeros((2, 3, 5)), (0.0, 1.0)) is None  # rows of a table
