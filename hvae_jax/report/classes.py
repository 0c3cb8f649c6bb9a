"""Sections of the page on labels, and on levels that are a class."""

from collections.abc import Mapping
from html import escape
from typing import Any

from hvae_jax.report.markup import DASH, number, table, terms
from hvae_jax.report.sections import left_out, spread
from hvae_jax.report.words import accuracy


def classes(report: Mapping[str, Any]) -> list[str]:
    """The section on levels of one class an example; nothing for a model without any."""
    found = report.get("classes", ())
    if not found:
        return []
    head = ("level", "classes", "in use", "rate", "I(x; y)", "entropy of q(y | x)", "right as labels", "matched")
    meanings = {
        "in use": "the number of equally frequent classes whose entropy is that of the mean of q(y | x).",
        "I(x; y)": (
            "the KL of q(y | x) from its mean over the examples, at most the logarithm of the number of classes; nats."
        ),
        "right as labels": (
            "how often the likeliest class is the label itself; it can be where labels were seen in training."
        ),
        "matched": "the same under the best one-to-one map of classes to labels.",
    }
    rows = []
    for one in found:
        rate = number(report["rates"][report["levels"].index(one["level"])])
        right = (accuracy(one[name]) if one[name] is not None else DASH for name in ("accuracy", "clustering"))
        nats = (rate, number(one["information"]), f"{one['entropy']:.2f}")
        rows.append([escape(one["level"]), str(one["classes"]), f"{one['used']:.1f}", *nats, *right])
    return ['<h2 id="classes">Classes</h2>', table(head, rows), terms(meanings)]


def labels(report: Mapping[str, Any]) -> list[str]:
    """The section on labels; nothing for data without them."""
    found = report["probes"]
    if found is None:
        return []
    head = ("level", "probe of samples", "takes at least, nats", "rate with all above, nats", "probe of means")
    chosen = spread(len(report["levels"]))
    rows = []
    for i in chosen:
        level = found["levels"][i]
        rate = number(report["cumulative_rates"][i])
        read = accuracy(level["sampled"]), f"{level['needs']:.2f}", rate, accuracy(level["means"])
        rows.append([escape(report["levels"][i]), *read])
    meanings = {
        "probe of samples": (
            f"right answers of a linear probe (logistic regression), fitted to {found['draws']} draws of the latents "
            f"of {found['examples']:,} training examples. Always giving the most frequent label: "
            f"{found['levels'][0]['sampled']['chance']:.1%}."
        ),
        "takes at least": (
            "the nats on the label that this accuracy takes by Fano's inequality; the rate of the level and all above "
            "it has to provide them."
        ),
        "probe of means": (
            "the same of posterior means. They are functions of x without noise, which may give the label away however "
            "few nats the level carries: only the probe of samples is about what a level transmits."
        ),
    }
    large = max(level["units"] for level in found["levels"])
    if large < max(level["units"] for level in report["units"]):
        meanings["large levels"] = f"of each at most the {large:,} units with the highest KL are read."
    return ['<h2 id="labels">Labels</h2>', table(head, rows), left_out(report, chosen), terms(meanings)]
