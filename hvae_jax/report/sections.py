"""Sections of the page: each a list of pieces of HTML, with every number explained beside it."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from hvae_jax.report.markup import DASH, KINDS, bar, chip, key, note, number, range_bar, table, terms, tiles
from hvae_jax.report.plots import levels_plot, resolution, units_plot
from hvae_jax.report.verdicts import COLLAPSED
from hvae_jax.report.words import accuracy

ROWS = 12
"""Largest number of levels that a section lists: of a deeper model's some are left out, or all are folded away."""

ABOVE = "L<sup>&gt;k</sup>"

VERDICTS = {
    "used": f"the rate or what is lost without the level is clearly above {COLLAPSED} nats, the loss if it is known.",
    "spare": f"the rate is above {COLLAPSED} nats, but nothing is lost without the level: those below make up for it.",
    "unclear": f"the errors leave open whether it is above {COLLAPSED} nats. More examples tell: --seconds 100.",
    "collapsed": f"both are clearly below {COLLAPSED} nats: the level tells next to nothing about x.",
}


def verdict(report: Mapping[str, Any]) -> str:
    """The first thing on the page: the verdict on all levels, and the numbers that it rests on."""
    worst = next(one for one in ("collapsed", "unclear", "spare", "used") if one in report["verdicts"])
    said, _, numbers = report["words"][0].partition(": ")
    return (
        f'<div class="headline {KINDS[worst]}"><strong>{escape(said)}.</strong>'
        f"<span>{escape(numbers[:1].upper() + numbers[1:])}</span></div>"
    )


def fit(report: Mapping[str, Any]) -> list[str]:
    """How well the model fits, in nats per example."""
    k, n, split = report["iw_bound"]["k"], f"{report['examples']:,}", escape(report["split"])
    entries = [
        ("ELBO", number(report["elbo"]), f"lower bound of log p(x); nats, mean over {n} {split} examples"),
        (
            f"log p(x), at least (K = {k})",
            number(report["iw_bound"]),
            f"the tighter, importance-weighted bound; {report['bits_per_dim']:.3f} bits per dimension",
        ),
        ("Gap between the two", number(report["gap"]), "at least by this the posterior is not the true one; nats"),
    ]
    found = report.get("training")
    if found is not None:
        train = f"how much better {found['examples']:,} training examples fit: overfitting, or splits that differ"
        entries.append((f"ELBO, train - {split}", number(found["gap"]), train))
    apart = report["told_apart"]["samples"]
    entries += [
        (
            "Distortion",
            number(report["distortion"]),
            "-log p(x | z): what the image costs once its latents are known; nats",
        ),
        ("Rate", number(report["rate"]), "KL of all levels together: what the latents cost; nats"),
        (
            "Samples told from data",
            accuracy(apart),
            "how often a nearest neighbour is right; 50%: it cannot tell",
        ),
        (
            "Effective draws",
            number(report["effective_sample_size"], 1),
            f"of the {k} importance-weighted ones; few: the bound is still loose",
        ),
    ]
    return [tiles(entries), _composition(report)]


def _composition(report: Mapping[str, Any]) -> str:
    """-ELBO as a strip of distortion and rates; nothing where it is no sum of positive parts."""
    rates, distortion = [rate["value"] for rate in report["rates"]], report["distortion"]["value"]
    whole = distortion + sum(rates)
    if distortion <= 0 or min(rates) < 0:
        return ""
    strip = f'<span style="width:{100 * distortion / whole:.2f}%"></span>'
    strip += "".join(
        f'<span class="rate" style="width:{100 * rate / whole:.2f}%" title="{escape(name, quote=True)}"></span>'
        for name, rate in zip(report["levels"], rates, strict=True)
    )
    share = sum(rates) / whole
    marks = key(
        [
            ('style="background:var(--rest)"', f"distortion, {1 - share:.0%}"),
            ('style="background:var(--rate)"', f"rates of the levels, top first, {share:.0%} in all"),
        ]
    )
    return f'{note(f"Where the nats go: -ELBO = distortion + rate = {whole:.2f}")}<div class="sum">{strip}</div>{marks}'


def levels(report: Mapping[str, Any]) -> list[str]:
    """What each level costs, and what is lost without it."""
    names = report["levels"]
    meanings = {
        "rate": "KL of the level's posterior from its prior: the nats that it costs, and at most tells about x.",
        "lost without it": (
            "what the ELBO loses if this level alone is drawn from its prior and the others are inferred, by "
            f"{report['effort']['draws']} draws; a dash where that is not defined (bottom-up inference, flows)."
        ),
        **{one: VERDICTS[one] for one in VERDICTS if one in report["verdicts"]},
    }
    if "collapsed" in report["verdicts"] and report["remedies"]:
        meanings["collapsed"] += ' <a href="#remedies">What may help</a>.'
    colours = {"rate": "rate", "loss": "lost without it"}
    marks = key((f'style="background:var(--{one})"', meaning) for one, meaning in colours.items())
    most = max(max(one["value"] for one in (*report["rates"], *report["losses"]) if one is not None), 1e-9)
    head = ("level", "", "rate, nats", "lost without it, nats", "verdict")
    rows = []
    for i, name in enumerate(names):
        rate, lost = report["rates"][i], report["losses"][i]
        what = "observed" if name in report["observed"] else resolution(report["sides"][i], report["sides"])
        what += f", {report['units'][i]['units']:,} units" if what != "observed" else ""
        drawn = bar(rate, most, "rate") + bar(lost, most, "loss")
        rows.append(
            [
                f"{escape(name)} <small>{what}</small>",
                drawn,
                number(rate),
                number(lost),
                chip(report["verdicts"][i]),
            ]
        )
    every = table(head, rows, ("", "bars", "", "", "chipped"), "levels")
    if len(names) <= ROWS:
        return [*_by_side(report), "<h3>Nats of each level</h3>", marks, every, terms(meanings)]
    folded = f"<details><summary>All {len(names)} levels</summary>{marks}{every}</details>"
    return ["<h3>Nats of each level</h3>", levels_plot(report), *_by_side(report), folded, terms(meanings)]


def _by_side(report: Mapping[str, Any]) -> list[str]:
    """Rates by resolution; nothing for a model that has one level of each."""
    found = report["rates_by_side"]
    if len(found) == len(report["levels"]) or len(found) < 2:
        return []
    whole = sum(one["rate"]["value"] for one in found)
    most = max(max(one["rate"]["value"] for one in found), 1e-9)
    rows = [
        [
            resolution(one["side"], report["sides"]),
            bar(one["rate"], most, "rate"),
            str(one["levels"]),
            number(one["rate"]),
            f"{one['rate']['value'] / whole:.0%}" if whole > 0 else DASH,
        ]
        for one in found
    ]
    head = ("resolution", "", "levels", "rate, nats", "part of the rate")
    return ["<h3>Nats of each resolution</h3>", table(head, rows, ("", "bars", "", "", ""))]


def units(report: Mapping[str, Any]) -> list[str]:
    """How many units of each level do something."""
    kinds = ("active", "used", "carrying", "moving")
    chosen = spread(len(report["levels"]))
    rows = []
    for i in chosen:
        level = report["units"][i]
        counts = (number(level[kind], 0) for kind in kinds)
        apart = accuracy(report["told_apart"]["latents"][i])
        rows.append([escape(report["levels"][i]), f"{level['units']:,}", *counts, apart])
    meanings = {
        "active": "the posterior mean varies by more than 0.01 over the examples (Burda et al., 2015).",
        "used": "the unit's own KL is above 0.01 nats.",
        "carrying": "the fewest units that have 95% of the level's KL.",
        "moving": (
            "the posterior's offset from the prior, in prior standard deviations, varies by more than 0.01. Units that "
            "merely follow the level above are active and do not move."
        ),
        "prior or posterior": (
            "how often a nearest neighbour tells which of the two a latent came from; 50% if the aggregated posterior "
            "is the prior."
        ),
    }
    if report["observed"]:
        meanings["a dash"] = "the elements of a level that is a function of x are no units and are not counted."
    head = ("level", "units", *kinds, "prior or posterior")
    return [units_plot(report), table(head, rows), left_out(report, chosen), terms(meanings)]


def information(report: Mapping[str, Any]) -> list[str]:
    """How much of the rates is information on x, and how much the aggregated posterior's distance from the prior."""
    seen, rates = report["information"], report["cumulative_rates"]
    ceiling, most = seen["ceiling"], max([seen["ceiling"], *(rate["value"] for rate in rates)])
    chosen = spread(len(report["levels"]))
    rows = []
    for i in chosen:
        low, high = (None if seen[kind][i] is None else seen[kind][i]["value"] for kind in ("lower", "upper"))
        drawn = range_bar(rates[i], low, high, ceiling, most)
        ranges = [
            DASH
            if seen[f"{kind}lower"][i] is None
            else f"<span>{number(seen[f'{kind}lower'][i])}</span> to <span>{number(seen[f'{kind}upper'][i])}</span>"
            for kind in ("", "to_prior_")
        ]
        name = escape(report["levels"][i]) + (" <small>and above</small>" if i else "")
        rows.append([name, drawn, number(rates[i]), *ranges])
    latents = f"{min(report['effort']['latents'], report['examples']):,}"
    meanings = {
        "rate": "of the level and all above it: information on x + KL(q(z) || p(z)).",
        "I(x; z)": (
            f"lies between two bounds, by one draw of the latents of {latents} examples, compared with "
            f"{report['examples']:,}. A dash: the level is inferred from those below it and has no density of its own."
        ),
        "KL(q(z) || p(z))": "the rest of the rate: the aggregated posterior is not the prior.",
        "log N": (
            f"{ceiling:.2f} nats for {report['examples']:,} examples: the lower bound cannot be above it, however "
            "large the information is."
        ),
    }
    marks = key(
        [
            ('style="background:var(--rate)"', "rate"),
            ('style="background:var(--info)"', "I(x; z), between its bounds"),
            ('class="ceiling"', f"log N = {ceiling:.2f}"),
        ]
    )
    head = ("levels", "", "rate, nats", "I(x; z), nats", "KL(q(z) || p(z)), nats")
    return [
        marks,
        table(head, rows, ("", "bars", "range", "range", "range")),
        left_out(report, chosen),
        terms(meanings),
    ]


def above(report: Mapping[str, Any]) -> list[str]:
    """What the ELBO loses if the lowest levels are drawn from their priors."""
    entries = report["bounds_above"]
    other = entries[0].get("auroc", {}).get("data")
    most = max(max(entry["ratio"]["value"] for entry in entries), 1e-9)
    head = ["levels drawn", "", f"{ABOVE}, nats", f"ELBO - {ABOVE}, nats"]
    meanings = {
        "levels drawn": "k, the number of lowest levels (of stages, in BIVA) that are drawn from their prior.",
        ABOVE: (
            "the bound when only the levels above are inferred (Havtorn et al., 2021), for k > 0 by "
            f"{report['effort']['draws']} draws."
        ),
        f"ELBO - {ABOVE}": "what the k lowest levels add to the bound; it is high for unusual data.",
    }
    if other:
        head.append(f"AUROC against {escape(other)}")
        meanings["AUROC"] = f"how well that tells {escape(other)} from this data, 0.5 is chance; for k = 0, the ELBO."
    rows = []
    for entry in entries:
        k = entry["k"]
        name = str(k) if k else "0 <small>the ELBO</small>"
        drawn = bar(entry["ratio"], most, "loss") if k else ""
        row = [name, drawn, number(entry["bound"]), number(entry["ratio"]) if k else DASH]
        if other:
            row.append(number(entry["auroc"], 3))
        rows.append(row)
    return [table(head, rows, ("", "bars", *[""] * (len(head) - 2))), terms(meanings)]


def spread(count: int) -> list[int]:
    """At most `ROWS` of so many levels, evenly spread, the top and the lowest one among them."""
    return np.unique(np.linspace(0, count - 1, min(count, ROWS)).round().astype(int)).tolist()


def left_out(report: Mapping[str, Any], chosen: Sequence[int]) -> str:
    """A note on the levels that a table leaves out; "" for none."""
    if len(chosen) == len(report["levels"]):
        return ""
    return note(f"{len(chosen)} of {len(report['levels'])} levels; the JSON beside this page has all.")
