"""A report as one HTML page that stands alone: verdict and fit first, then the levels, then all else."""

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from hvae_jax.report import sections
from hvae_jax.report.classes import classes, labels
from hvae_jax.report.markup import figure, note, table
from hvae_jax.report.pictures import Kind, Picture
from hvae_jax.report.style import STYLE

UNITS = "Nats per example unless stated otherwise; ± one standard error over the examples. Levels from the top down."


def page(title: str, report: Mapping[str, Any], pictures: Sequence[Picture] = ()) -> str:
    """The whole page: no script, and nothing is loaded from anywhere else.

    Args:
      title: the page's title.
      report: as `diagnosis.diagnose` returns it.
      pictures: as `walks.walk_pictures` returns them; () for none.
    """

    def shown(*kinds: Kind) -> str:
        return "".join(figure(one) for kind in kinds for one in pictures if one.kind == kind)

    def side_by_side(*kinds: Kind) -> str:
        found = shown(*kinds)
        return f'<div class="pair">{found}</div>' if found else ""

    said = [one for one in report["words"][1:] if not one.startswith("What may help ")]
    body = [
        f"<header><h1>{escape(title)}</h1>",
        f'<p class="facts">{_facts(report)}</p><p class="facts">{UNITS}</p></header>',
        sections.verdict(report),
        *sections.fit(report),
        "{contents}",
        '<h2 id="levels">What each level adds</h2>',
        side_by_side("levels", "changes"),
        *sections.levels(report),
        *_remedies(report),
        '<h2 id="words">In words</h2>',
        f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in said)}</ul>",
    ]
    if any(one.kind in ("samples", "data") for one in pictures):
        body += ['<h2 id="samples">Samples beside data</h2>', side_by_side("samples", "data"), shown("classes")]
    body += ['<h2 id="units">Units</h2>', *sections.units(report), side_by_side("walk", "circle")]
    body += ['<h2 id="information">Information</h2>', *sections.information(report)]
    body += ['<h2 id="above">What the upper levels alone know</h2>', *sections.above(report)]
    body += [*classes(report), *labels(report), *_how(report)]
    text = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + text.replace("{contents}", _contents(text), 1)
        + "\n</body></html>\n"
    )


def _facts(report: Mapping[str, Any]) -> str:
    """What was measured: data, size of the model, seeds."""
    facts = [
        f"{report['examples']:,} examples of {escape(report['data'])}, {escape(report['split'])} split",
        f"{len(report['levels'])} level{'s' * (len(report['levels']) > 1)}",
        f"{report['parameters']:,} parameters",
    ]
    if "best_step" in report:
        facts.append(f"best at step {report['best_step']:,}, training seed {report['training_seed']}")
    return " · ".join(facts)


def _contents(text: str) -> str:
    """Links to the sections of a page."""
    links = []
    for part in text.split('<h2 id="')[1:]:
        name, rest = part.split('">', 1)
        links.append(f'<a href="#{name}">{rest.split("</h2>", 1)[0]}</a>')
    return f"<nav>{''.join(links)}</nav>"


def _remedies(report: Mapping[str, Any]) -> list[str]:
    """What may help the levels that have collapsed; nothing if there is nothing to help."""
    found = report["remedies"]
    if not found:
        return []
    parts = ['<h2 id="remedies">What may help</h2>']
    every = {name for one in found for name in one["levels"]}
    for one in found:
        only = "" if set(one["levels"]) == every else f" (for {escape(', '.join(one['levels']))})"
        effect = "Its effect was not measured here."
        if one["measured"]:
            measured = one["measured"].replace(f" ({one['page'].rpartition('/')[2]})", "")
            effect = f"Measured: {escape(measured)}. See <code>{escape(one['page'])}</code>."
        parts.append(
            f'<div class="remedy"><p><strong>{escape(one["name"][0].upper() + one["name"][1:])}</strong> '
            f"{escape(one['does'])}{only}.</p><p>Set <code>{escape(one['how'])}</code></p><p>{effect}</p></div>"
        )
    parts.append(note("Effects were measured on other data, as the pages named say; nothing is promised for this one."))
    return parts


def _how(report: Mapping[str, Any]) -> list[str]:
    """The effort behind the numbers, and the command that gives them again."""
    effort, k = report["effort"], report["iw_bound"]["k"]
    meanings = {
        "examples": "examples of the split that are measured",
        "k": "draws of all latents behind ELBO, bound, rates, distortion and units",
        "draws": "draws behind losses without a level, bounds of upper levels and of training examples",
        "latents": "examples whose latents are compared with those of all others, for the information",
        "probed": "training examples that probes of labels are fitted to, at most",
        "depths": "largest number of depths for which the bound of the upper levels is measured",
    }
    rows = [[name, f"{effort[name]:,}", meaning] for name, meaning in meanings.items()]
    flags = " ".join(f"--effort.{name} {effort[name]}" for name in meanings)
    other = report["bounds_above"][0].get("auroc", {}).get("data")
    flags += f" --other {shlex.quote(other)}" if other else ""
    split = shlex.quote(report["split"])
    command = f"hvae diagnose RUN --split {split} --seed {report.get('seed', 0)} --seconds None {flags}"
    return [
        '<h2 id="how">How it was measured</h2>',
        note(
            f"ELBO, bound, rates, distortion and units are means over the same {k} draws of all latents, so that "
            "-ELBO = distortion + rate. The numbers come again with"
        ),
        f"<p><code>{escape(command)}</code></p>",
        table(("effort", "number", "what it is"), rows, ("", "", "text")),
        note("All numbers, and the words, are in the JSON beside this page, with the same names."),
    ]
