"""Verdicts for a reader."""

import math
from collections.abc import Sequence

from hvae_jax.experiment.fitting.changes import Tried
from hvae_jax.experiment.fitting.verdict import Verdict
from hvae_jax.runtime.chips import GIB, RESERVED, Chip
from hvae_jax.runtime.columns import aligned

_REASON = {
    "products": "matrix products and convolutions",
    "memory": "memory traffic",
    "links": "what chips send each other",
}


def heading(name: str, batch: int, chip: Chip, devices: int, by: str) -> str:
    """The first line: what, where, and who says so."""
    article = "" if chip.platform == "cpu" else "one "  # "this machine's CPU"
    where = f"{article}{chip.title}" if devices == 1 else f"{devices} x {chip.title}"
    reserved = f", {RESERVED:.0%} of its memory, which JAX takes by default" if chip.platform == "cuda" else ""
    how = f"compiled by {by}" if by else "an estimate from shapes, no compiler was asked"
    return f"{name}, batches of {batch}, on {where} ({gibibytes(chip.usable)} to use{reserved}): {how}."


def table(verdicts: Sequence[Verdict], chip: Chip, devices: int) -> str:
    """A line a program: whether it fits, memory, operations, traffic, the bound, and what compiling took."""
    rows = [("", "fits", "memory", "flops", "moved", "at best", "limited by", "compiled in")]
    for one in verdicts:
        seconds, reason = one.bound(chip, devices)
        rows.append(
            (
                one.program,
                fitting(one, chip),
                gibibytes(one.memory),
                scaled(math.fsum(one.flops.values()), "FLOP"),
                scaled(one.bytes, "B"),
                _pace(one.program, seconds),
                _REASON.get(reason, "-"),
                _seconds(one.compile_seconds),
            )
        )
    return "\n".join(aligned(rows, left=(0, 1, 6)))


MARGIN = 1.2
"""How much more memory a program may take than its estimate says: docs/results/accelerators.md has what was seen."""


def fitting(verdict: Verdict, chip: Chip) -> str:
    """Whether a program fits: "yes", "no", or "perhaps" by an estimate that is near the limit."""
    if not verdict.fits(chip):
        return "no"
    return "yes" if verdict.by or MARGIN * verdict.memory <= chip.usable else "perhaps"


def remarks(verdicts: Sequence[Verdict], chip: Chip) -> list[str]:
    """Sentences on what may not or does not fit, collectives, and transfers to the host."""
    lines = []
    if any(fitting(one, chip) == "perhaps" for one in verdicts):
        lines.append("perhaps: the compiler may need a fifth more than the estimate.")
    for one in verdicts:
        if one.collectives:
            some = ", ".join(f"{count} {name}" for name, count in one.collectives.items())
            lines.append(f"{one.program}: {some} a call, {scaled(one.collective_bytes, 'B')}.")
        if one.counts.get("host transfers"):
            lines.append(f"{one.program}: {one.counts['host transfers']} transfers to the host a call.")
        if not one.fits(chip) and one.program == "evaluation":
            lines.append("evaluation: `hvae evaluate` and the end of a run take smaller pieces by themselves.")
        if not one.fits(chip) and one.program == "sampling":
            lines.append("sampling: draw fewer at once, --n.")
    return lines


def attempt(tried: Tried, chip: Chip, devices: int) -> str:
    """A line on a change that was tried."""
    seconds, _ = tried.verdict.bound(chip, devices)
    said = {"yes": "fits", "no": "does not fit", "perhaps": "perhaps fits"}[fitting(tried.verdict, chip)]
    pace = f", {_pace('training', seconds)} at best" if tried.verdict.fits(chip) and math.isfinite(seconds) else ""
    return f"  {tried.change.flags}: {said}, {gibibytes(tried.verdict.memory)}{pace}"


def gibibytes(count: float) -> str:
    """Bytes as "15.75 GiB", "120 MiB"."""
    if not math.isfinite(count):
        return "unknown"
    return f"{count / GIB:,.2f} GiB" if count >= GIB else f"{count / 2**20:,.0f} MiB"


def scaled(count: float, unit: str) -> str:
    """A number with its decimal prefix, "3.5 TFLOP"."""
    if not math.isfinite(count):
        return "-"
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:,.3g} {prefix}{unit}"
    return f"{count:,.0f} {unit}"


def _pace(program: str, seconds: float) -> str:
    if not math.isfinite(seconds) or seconds <= 0:
        return "-"
    return f"{1 / seconds:,.3g} steps/s" if program == "training" else _seconds(seconds)


def _seconds(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "-"
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:,.2g} s" if seconds >= 1 else f"{1e3 * seconds:,.3g} ms"
