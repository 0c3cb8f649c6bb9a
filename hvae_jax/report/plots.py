"""Plots of the page, drawn by the browser: they take the width, the letters and the colours of what is around them."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from hvae_jax.report.markup import key, note
from hvae_jax.report.words import estimate

SERIES = ("#2a78d6", "#1baf7a", "#d98200", "#8b6fe0", "#e34948", "#3f9a3f", "#d9609a", "#c8632b")
"""Colours of as many levels, seen on white and on black."""

TOP, BOTTOM = (42, 120, 214), (226, 88, 34)
"""Ends of the scale of colours of more levels, from the top level to the lowest."""

LEAST_KL = 1e-4
"""Lowest KL of a unit that is drawn, nats; units below it lie on the lower edge."""

_LINEAR = 40  # largest number of units that are drawn at equal distances; more are by their logarithms
_POINTS = 60  # largest number of points of a line: units beyond are left out at equal distances in log rank


def colours(count: int) -> list[str]:
    """A colour for each of so many levels, top first: distinct ones, or of many levels a scale."""
    if count <= len(SERIES):
        return list(SERIES[:count])
    found = []
    for i in range(count):
        t = i / (count - 1)
        red, green, blue = (round(a + t * (b - a)) for a, b in zip(TOP, BOTTOM, strict=True))
        found.append(f"#{red:02x}{green:02x}{blue:02x}")
    return found


def levels_plot(report: Mapping[str, Any]) -> str:
    """The rate of each of many levels as columns, top first, in groups of one resolution; HTML."""
    rates, verdicts, sides = report["rates"], report["verdicts"], report["sides"]
    most = max(rate["value"] for rate in rates)
    groups, under = [], []
    for side in dict.fromkeys(sides):
        chosen = [i for i, one in enumerate(sides) if one == side]
        columns = []
        for i in chosen:
            height = 100.0 * max(rates[i]["value"], 0.0) / most if most > 0 else 0.0
            name = escape(f"{report['levels'][i]}: {estimate(rates[i])} nats, {verdicts[i]}", quote=True)
            kind = ' class="bad"' if verdicts[i] == "collapsed" else ""
            columns.append(f'<span{kind} style="height:{height:.1f}%" title="{name}"></span>')
        grow = f'style="flex:{len(chosen)} 1 0"'
        groups.append(f"<div {grow}>{''.join(columns)}</div>")
        under.append(f"<div {grow}>{resolution(side, sides)}</div>")
    best = max(range(len(rates)), key=lambda i: rates[i]["value"])
    axis = (
        f"Rate of each level, the top level first, by resolution; the highest is {escape(report['levels'][best])}, "
        f"{estimate(rates[best])} nats."
    )
    marks = [('style="background:var(--rate)"', "rate")]
    if "collapsed" in verdicts:
        marks.append(('style="background:var(--bad)"', "collapsed"))
    drawn = f'<div class="columns">{"".join(groups)}</div><div class="sides">{"".join(under)}</div>'
    return note(axis) + drawn + key(marks)


def resolution(side: int, sides: Sequence[int]) -> str:
    """The resolution of a level, from the height of its feature map and those of all levels; HTML."""
    return f"{side}&times;{side}" if max(sides) > 1 else "vector"


def units_plot(report: Mapping[str, Any]) -> str:
    """The KL of each unit, highest first, a line for each level, thin beyond the units that carry 95% of it; HTML.

    Levels that have collapsed are grey. Levels that are observed are left out.
    """
    observed = report["observed"]
    shown = [i for i, name in enumerate(report["levels"]) if name not in observed]
    alive = [i for i in shown if report["verdicts"][i] != "collapsed"]
    if not shown:
        return ""
    colour = dict(zip(alive, colours(len(alive)), strict=True))
    most = max(max(report["units"][i]["rates"], default=0.0) for i in shown)
    high = max(-1, math.ceil(math.log10(max(most, LEAST_KL))))
    low, longest = math.log10(LEAST_KL), max(len(report["units"][i]["rates"]) for i in shown)
    few = longest <= _LINEAR

    def down(kl: float) -> float:
        return 100.0 * (high - math.log10(max(kl, LEAST_KL))) / (high - low)

    def along(rank: int) -> float:
        return 100.0 * ((rank - 1) / max(longest - 1, 1) if few else math.log10(rank) / math.log10(longest))

    lines = [f'<path class="line" d="M0 {down(10.0**p):.2f}H100"/>' for p in range(int(low), high + 1)]
    lines.append(f'<path class="limit" d="M0 {down(0.01):.2f}H100"/>')
    for i in [*(i for i in shown if i not in alive), *alive]:
        level = report["units"][i]
        carrying = level["carrying"]["value"] if level["carrying"] is not None else len(level["rates"])
        stroke = colour.get(i, "var(--rest)")
        for ranks, width in ((_ranks(1, carrying), 2.5), (_ranks(max(carrying, 1), len(level["rates"])), 1)):
            points = " ".join(f"{along(rank):.2f},{down(level['rates'][rank - 1]):.2f}" for rank in ranks)
            if points:
                lines.append(
                    f'<polyline points="{points}" style="stroke:{stroke};stroke-width:{width};stroke-linecap:round"/>'
                )
    left = "".join(f'<span style="top:{down(10.0**p):.1f}%">{10.0**p:g}</span>' for p in range(int(low), high + 1))
    ticks = (
        sorted({1, longest, *range(5, longest - 1, 5)}) if few else [10**p for p in range(int(math.log10(longest)) + 1)]
    )
    below = "".join(f'<span style="left:{along(rank):.1f}%">{rank:,}</span>' for rank in ticks)
    drawn = (
        f'<div class="plot"><div class="y">{left}</div><svg viewBox="0 0 100 100" preserveAspectRatio="none" '
        f'role="img" aria-label="KL of each unit by level">{"".join(lines)}</svg><div class="x">{below}</div>'
        '<div class="name">unit of the level, highest KL first</div></div>'
    )
    return note("KL of each unit, nats (the dotted line: 0.01).") + drawn + _key_of_levels(report, shown, alive, colour)


def _key_of_levels(
    report: Mapping[str, Any], shown: Sequence[int], alive: Sequence[int], colour: Mapping[int, str]
) -> str:
    """Which level each colour is: one by one, or the ends of the scale."""
    names = report["levels"]
    if len(alive) <= len(SERIES):
        marks = [(f'style="background:{colour[i]}"', escape(names[i])) for i in alive]
    else:
        scale = f'class="wide" style="background:linear-gradient(90deg,{colour[alive[0]]},{colour[alive[-1]]})"'
        marks = [(scale, f"{len(alive)} levels, from {escape(names[alive[0]])} down to {escape(names[alive[-1]])}")]
    if len(alive) < len(shown):
        marks.append(('style="background:var(--rest)"', "collapsed"))
    marks.append(('style="height:3px"', "units that carry 95% of the level's KL; the others are thin"))
    return key(marks)


def _ranks(first: int, last: int) -> list[int]:
    """Ranks from first to last, all of a few, and at equal distances of their logarithms of many."""
    if last < first:
        return []
    if last - first < _POINTS:
        return list(range(first, last + 1))
    step = (last / first) ** (1 / _POINTS)
    return sorted({round(first * step**i) for i in range(_POINTS + 1)})
