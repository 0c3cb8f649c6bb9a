"""Conclusions from the numbers of a diagnosis, in sentences."""

from typing import Any


def words(report: dict[str, Any]) -> list[str]:
    """The conclusions from a report's numbers, a sentence each: collapse first.

    Args:
      report: as `diagnosis.diagnose` makes it.
    """
    said: list[str] = []
    names, total = report["levels"], report["rate"]["value"]
    for name, rate, units in zip(names, report["rates"], report["units"], strict=True):
        share = rate["value"] / total if total > 0 else 0.0
        if rate["value"] < max(0.1, 4 * rate["error"]) or share < 0.005:
            said.append(
                f"{name} has collapsed: its rate is {rate['value']:.2f} nats, {share:.1%} of the total. Its posterior "
                "is its prior, and the decoder does without it."
            )
        elif units["used"] is not None and units["used"]["value"] < units["units"] / 2:
            said.append(
                f"{name} uses {units['used']['value']} of its {units['units']} units: the others carry less than "
                "0.01 nats each."
            )
        if units["moving"] is not None and units["active"]["value"] > 2 * max(units["moving"]["value"], 1):
            said.append(
                f"In {name} {units['active']['value']} units are active by Burda's count, but only "
                f"{units['moving']['value']} move against their prior: the others follow the levels above."
            )
    if not said:
        said.append("No level has collapsed: each says something of x, by most of its units.")

    seen = report["information"]
    last = seen["lower"][-1]
    if last is not None:
        ceiling, n = seen["ceiling"], report["examples"]
        if last["value"] > ceiling - 0.2:
            said.append(
                f"The latents tell all {n:,} examples apart: the estimate of I(x; z), {last['value']:.2f} nats, is at "
                f"its ceiling log N = {ceiling:.2f}, so that the information may be any number from there to the rate, "
                f"{total:.2f}."
            )
        else:
            spent = seen["to_prior_lower"][-1]["value"]
            said.append(
                f"Of the rate of {total:.2f} nats, {last['value']:.2f} +- {last['error']:.2f} are information on x, "
                f"and at least {max(spent, 0.0):.2f} go into an aggregated posterior that is not the prior."
            )
    gap = report["gap"]
    said.append(
        f"The posterior is loose by {gap['value']:.2f} +- {gap['error']:.2f} nats or more: that is what "
        f"{report['iw_bound']['k']} importance-weighted draws gain on the ELBO."
    )
    apart = report["told_apart"]["samples"]
    verdict = "cannot be told from data" if apart["value"] < 0.5 + 3 * apart["error"] else "can be told from data"
    said.append(f"Samples {verdict} by the nearest neighbour, right {apart['value']:.0%} of the time (50% is chance).")
    if report["probes"] is not None:
        best = max(range(len(names)), key=lambda i: report["probes"][i]["value"])
        probe = report["probes"][best]
        said.append(
            f"Labels are read off {names[best]} best: a linear probe is right {probe['value']:.1%} +- "
            f"{probe['error']:.1%} of the time (always saying the most frequent one: {probe['chance']:.1%})."
        )
    return said
