"""A report as one self-contained HTML page, pictures included, that fits any screen."""

import base64
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from hvae_jax.report.labels import UNITS
from hvae_jax.report.words import accuracy, estimate

STYLE = """
:root { color-scheme: light dark; --line: #d9d8d4; --soft: #f4f3ef; --ink: #22211f; --page: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --line: #45443f; --soft: #2a2926; --ink: #eceae4; --page: #1b1a18; }
  img { background: #ffffff; border-radius: 4px; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; border-bottom: 1px solid var(--line); }
p, li { max-width: 46rem; }
.note { font-size: .875rem; opacity: .8; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.words { background: var(--soft); padding: .75rem 1rem .75rem 2rem; border-radius: 6px; margin: 1rem 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { margin: 0; }
figcaption { font-size: .875rem; max-width: 40rem; }
img { max-width: 100%; height: auto; }
.pixels img { image-rendering: pixelated; }
"""

NATS = "Nats per example unless stated otherwise; &plusmn; one standard error. Levels from the top down."
DRAWS = (
    "ELBO, importance-weighted bound, rates, distortion and units are means over the same {k} draws of all latents; "
    "-ELBO = distortion + rate."
)
LEVELS = (
    "Lost without it: what the ELBO loses if this level alone is drawn from its prior and the others are inferred, by "
    "{draws} draws; a dash where that is not defined (bottom-up inference, flows). "
    "Verdict: collapsed, if both the rate and this loss are clearly below 0.1 nats; "
    "unclear, if the errors leave it open; spare, if only the loss is. Active: the posterior mean varies by more than "
    "0.01 over the examples (Burda et al., 2015). Used: a KL of its own above 0.01 nats. Carrying: the fewest units "
    "that have 95% of the level's KL. Moving: the posterior's offset from the prior, in prior standard deviations, "
    "varies by more than 0.01; where a level merely follows the one above, units are active and do not move. Prior or "
    "posterior: how often a nearest neighbour tells rightly which of the two a latent came from, 50% if the "
    "aggregated posterior is the prior. The elements of a level that is a function of x are no units and not counted."
)
LABELS = (
    "Right answers of logistic regressions, fitted to {draws} draws of {examples} training examples each. Only the "
    "probe of samples is about what a level transmits: by Fano's inequality its accuracy takes the nats beside it, "
    "which the rate of the level and all above it has to provide. The posterior mean is a function of x without noise, "
    "which may give the label away however few nats the level carries. Of a large level the {units} units with the "
    "highest KL are read. Always giving the most frequent label: {chance}."
)
CLASSES = (
    "I(x; y) is the KL of q(y | x) from its mean over the examples, at most the logarithm of the number of classes. In "
    "use: the number of equally frequent classes whose entropy is that of the mean. Right as labels: how often the "
    "likeliest class is the label itself, which labels in training make it; matched: the same under the best "
    "one-to-one map of classes to labels."
)
INFORMATION = (
    "I(x; z) of each level and all above it lies between the bounds, by one draw of the latents of the first {latents} "
    "examples, compared with {examples}. The lower bound cannot be above log N = {ceiling} nats, however large the "
    "information is; where an estimate is above the rate, the rate is shown. A dash: the level is inferred from those "
    "below it and has no density of its own. Rate = information + KL of the aggregated posterior from the prior."
)
ABOVE = (
    "L<sup>&gt;k</sup>: the bound with the k lowest levels drawn from their prior (Havtorn et al., 2021), for k &gt; 0 "
    "by {draws} draws. Its distance from the ELBO is high for unusual data."
)


def note(text: str) -> str:
    """A paragraph in small print; HTML."""
    return f'<p class="note">{text}</p>'


def number(value: Mapping[str, Any] | None, digits: int | None = None) -> str:
    """A value with its standard error, or a dash for None; HTML.

    Args:
      digits: digits after the point; None takes two, and more where the error is small.
    """
    if value is None:
        return "&ndash;"
    said = estimate(value) if digits is None else f"{value['value']:.{digits}f} ± {value['error']:.{digits}f}"
    return escape(said)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table whose cells are HTML; on a narrow screen it scrolls by itself."""
    first = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(title: str, png: bytes) -> str:
    """A figure with a PNG embedded and a caption; HTML."""
    data = base64.b64encode(png).decode("ascii")
    alt = escape(title, quote=True)
    return (
        f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"><figcaption>{escape(title)}</figcaption></figure>'
    )


def page(title: str, report: Mapping[str, Any], charts: Mapping[str, bytes], images: Mapping[str, bytes]) -> str:
    """The whole page.

    Args:
      title: the page's title.
      report: as `diagnosis.diagnose` returns it.
      charts: PNGs of curves and bars by caption.
      images: PNGs of data and samples by caption.
    """
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in report["words"])
    bits = f"{report['bits_per_dim']:.3f}"
    k = report["iw_bound"]["k"]
    numbers = [
        ("ELBO", number(report["elbo"])),
        (f"importance-weighted bound, K = {k}", number(report["iw_bound"])),
        ("bits per dimension, by that bound", bits),
        ("gap between the two", number(report["gap"])),
        ("effective sample size", number(report["effective_sample_size"], 1)),
        ("distortion, -log p(x | z)", number(report["distortion"])),
        ("rate, all levels", number(report["rate"])),
    ]
    apart, effort = report["told_apart"]["samples"], report["effort"]
    latents = f"{min(effort['latents'], report['examples']):,}"
    examples, ceiling = f"{report['examples']:,}", f"{report['information']['ceiling']:.2f}"
    looked_at = f"{examples} examples of {escape(report['data'])}, {escape(report['split'])} split"
    sections = [
        f"<h1>{escape(title)}</h1>",
        note(f"{looked_at}. {NATS} {DRAWS.format(k=k)}"),
        f'<ul class="words">{said}</ul>',
        "<h2>Fit</h2>",
        table(("", ""), numbers),
        "<h2>Levels</h2>",
        _levels(report),
        note(LEVELS.format(draws=effort["draws"])),
        *_classes(report),
        *_labels(report),
        "<h2>Information</h2>",
        _information(report),
        note(INFORMATION.format(examples=examples, ceiling=ceiling, latents=latents)),
        "<h2>What the upper levels alone know</h2>",
        _above(report),
        note(ABOVE.format(draws=effort["draws"])),
        f"<p>Nearest neighbours tell samples from data {accuracy(apart)} of the time (50% is chance).</p>",
        '<h2>Charts</h2><div class="pictures">',
        *(picture(caption, png) for caption, png in charts.items()),
        '</div><h2>Images</h2><div class="pictures pixels">',
        *(picture(caption, png) for caption, png in images.items()),
        "</div>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def _levels(report: Mapping[str, Any]) -> str:
    kinds = ("active", "used", "carrying", "moving")
    head = ["level", "rate", "with all above", "lost without it", "verdict", "units", *kinds, "prior or posterior"]
    rows = []
    for i, name in enumerate(report["levels"]):
        units = report["units"][i]
        rows.append(
            [
                escape(name),
                number(report["rates"][i]),
                number(report["cumulative_rates"][i]),
                number(report["losses"][i]),
                report["verdicts"][i],
                str(units["units"]),
                *(number(units[kind], 0) for kind in kinds),
                accuracy(report["told_apart"]["latents"][i]),
            ]
        )
    return table(head, rows)


def _classes(report: Mapping[str, Any]) -> list[str]:
    """The section on levels of one class an example; nothing for a model without any."""
    found = report.get("classes", ())
    if not found:
        return []
    head = ("level", "classes", "in use", "rate", "I(x; y)", "entropy of q(y | x)", "right as labels", "matched")
    rows = []
    for one in found:
        rate = number(report["rates"][report["levels"].index(one["level"])])
        right = (accuracy(one[name]) if one[name] is not None else "&ndash;" for name in ("accuracy", "clustering"))
        nats = (rate, number(one["information"]), f"{one['entropy']:.2f}")
        rows.append([escape(one["level"]), str(one["classes"]), f"{one['used']:.1f}", *nats, *right])
    return ["<h2>Classes</h2>", table(head, rows), note(CLASSES)]


def _labels(report: Mapping[str, Any]) -> list[str]:
    """The section on labels; nothing for data without them."""
    found = report["probes"]
    if found is None:
        return []
    head = ("level", "linear probe of samples", "takes at least", "rate with all above", "probe of posterior means")
    rows = []
    for i, (name, level) in enumerate(zip(report["levels"], found["levels"], strict=True)):
        rate = number(report["cumulative_rates"][i])
        read = accuracy(level["sampled"]), f"{level['needs']:.2f}", rate, accuracy(level["means"])
        rows.append([escape(name), *read])
    chance = f"{found['levels'][0]['sampled']['chance']:.1%}"
    said = LABELS.format(draws=found["draws"], examples=f"{found['examples']:,}", units=UNITS, chance=chance)
    return ["<h2>Labels</h2>", table(head, rows), note(said)]


def _information(report: Mapping[str, Any]) -> str:
    seen = report["information"]
    kinds = ("lower", "upper", "to_prior_lower", "to_prior_upper")
    head = ("level and all above", "I(x; z) at least", "at most", "KL(q(z) | p(z)) at least", "at most")
    rows = ([escape(name), *(number(seen[kind][i]) for kind in kinds)] for i, name in enumerate(report["levels"]))
    return table(head, rows)


def _above(report: Mapping[str, Any]) -> str:
    entries = report["bounds_above"]
    others = "auroc" in entries[0]
    head = ["k", "L<sup>&gt;k</sup>", "ELBO - L<sup>&gt;k</sup>"]
    if others:
        head.append(f"AUROC against {escape(entries[0]['auroc']['data'])}")
    rows = []
    for entry in entries:
        row = [str(entry["k"]), number(entry["bound"]), number(entry["ratio"]) if entry["k"] else "&ndash;"]
        if others:
            row.append(number(entry["auroc"], 3) + ("" if entry["k"] else " (by the ELBO)"))
        rows.append(row)
    return table(head, rows)
