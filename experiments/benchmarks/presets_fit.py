"""All presets on a TPU v5e and an H100: memory, operations, traffic, bound, and what it takes to fit.

    python experiments/benchmarks/presets_fit.py                         small presets first; goes on where it stopped
    python experiments/benchmarks/presets_fit.py --recipes vdvae nvae --seconds 1800
    python experiments/benchmarks/presets_fit.py --table                 the table of what there is, as Markdown

A training step of every preset, as `hvae train` would run it on that chip, with the settings that it chooses there. The
TPU's compiler is asked where libtpu is installed and the compilation ends within `--seconds`; other rows are estimates
from shapes, as those of the H100 are, and say so. A preset that does not fit gets a row for the smallest change that
does, estimated. Rows are appended to `--rows` as they come, and what is there is not done again.
"""

import dataclasses
import json
import math
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

os.environ["JAX_PLATFORMS"] = "cpu"  # shapes need no device

from hvae_jax import recipes
from hvae_jax.experiment import Experiment
from hvae_jax.experiment.fitting import changes, words
from hvae_jax.experiment.fitting.asked import Question, compiler_of
from hvae_jax.experiment.fitting.examples import example_of
from hvae_jax.experiment.fitting.judge import judged
from hvae_jax.experiment.fitting.verdict import Verdict, from_json, to_json
from hvae_jax.experiment.suited import suited
from hvae_jax.runtime.chips import CHIPS, Chip, chip_named


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the table.

    Attributes:
      recipes: recipes to look at; all by default.
      presets: presets of them; all by default.
      devices: chips.
      seconds: seconds after which a compilation is given up, and the row is an estimate; 0 compiles nothing.
      rows: file of the rows, a line of JSON each.
      table: print the table of the rows that there are, and do nothing else.
    """

    recipes: tuple[str, ...] = ()
    presets: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("v5e", "h100")
    seconds: float = 1800.0
    rows: Path = Path("runs/presets_fit.jsonl")
    table: bool = False


def asked_for(settings: Settings) -> Iterator[tuple[str, str, Experiment]]:
    """Recipe, preset and experiment of every row."""
    for recipe in settings.recipes or recipes.names():
        for preset, experiment in recipes.presets_of(recipe).items():
            if not settings.presets or preset in settings.presets:
                yield recipe, preset, experiment


def known(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Rows by recipe, preset and device; a compiled row replaces an estimate."""
    lines = path.read_text().splitlines() if path.exists() else []
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in map(json.loads, lines):
        key = row["recipe"], row["preset"], row["device"]
        if key not in found or row["verdict"]["by"] or not found[key]["verdict"]["by"]:
            found[key] = row
    return found


class Shapes(Question):
    """Estimates in this process, which traces an experiment once for all chips."""

    def ask(self, programs: Sequence[str], experiment: Experiment) -> Iterator[Verdict]:
        """The verdicts from shapes."""
        example = example_of(experiment)
        for program in programs:
            yield judged(program, experiment, example, self.chip, self.devices, compiles=False)


def verdict_on(experiment: Experiment, device: str, seconds: float) -> tuple[Verdict, str]:
    """The verdict on a training step, and a note: why it was not compiled, "" where it was."""
    chip = chip_named(device)
    shapes = Shapes(chip)
    if not seconds or chip.platform != "tpu" or not compiler_of(chip):
        return next(shapes.ask(["training"], experiment)), "estimate"
    try:
        return next(Question(chip, seconds=seconds).ask(["training"], experiment)), ""
    except subprocess.TimeoutExpired:
        note = f"estimate; not compiled in {seconds:,.0f} s"
    except RuntimeError:  # one preset that the compiler cannot take is no reason to lose the others
        note = "estimate; the compiler failed"
    return next(shapes.ask(["training"], experiment)), note


def row_of(recipe: str, preset: str, experiment: Experiment, device: str, seconds: float) -> dict[str, Any]:
    """A row of the table."""
    chip = chip_named(device)
    experiment, _ = suited(experiment, chip.platform, recipes.on_accelerators(recipe))
    verdict, note = verdict_on(experiment, device, seconds)
    change = ""
    if not verdict.fits(chip):
        tried = list(changes.smallest(experiment, Shapes(chip), verdict.memory))
        fits = bool(tried) and tried[-1].verdict.fits(chip)
        change = tried[-1].change.flags if fits else "more chips"
    return {
        "recipe": recipe,
        "preset": preset,
        "device": device,
        "batch": experiment.training.batch_size,
        "verdict": to_json(verdict),
        "note": note,
        "change": change,
    }


def markdown(rows: dict[tuple[str, str, str], dict[str, Any]]) -> str:
    """The table, a preset a line for each device."""
    lines = []
    for device in dict.fromkeys(key[2] for key in rows):
        chip = CHIPS[device]
        lines += [
            f"\n### {chip.title}\n",
            "| preset | batch | memory | fits | flops | moved | at best | limited by | compiled in |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for (recipe, preset, where), row in rows.items():
            if where != device:
                continue
            one = from_json(row["verdict"])
            seconds, reason = one.bound(chip, 1)
            pace = f"{1 / seconds:,.3g} steps/s" if math.isfinite(seconds) and seconds > 0 else "-"
            compiled = f"{one.compile_seconds:,.0f} s" if math.isfinite(one.compile_seconds) else row["note"]
            lines.append(
                f"| {recipe} {preset} | {row['batch']} | {words.gibibytes(one.memory)} | "
                f"{_fits(one, chip, row['change'])} | "
                f"{words.scaled(math.fsum(one.flops.values()), 'FLOP')} | {words.scaled(one.bytes, 'B')} | {pace} | "
                f"{reason} | {compiled} |"
            )
    return "\n".join(lines)


def _fits(verdict: Verdict, chip: Chip, change: str) -> str:
    """Whether a preset fits, or what makes it fit."""
    found = words.fitting(verdict, chip)
    return f"with {change}" if found == "no" and change != "more chips" else found


def main(settings: Settings) -> None:
    """Adds the rows that are missing, and prints the table."""
    settings.rows.parent.mkdir(parents=True, exist_ok=True)
    for recipe, preset, experiment in () if settings.table else asked_for(settings):
        for device in settings.devices:
            done = known(settings.rows).get((recipe, preset, device))
            wants_more = settings.seconds and done and done["note"] == "estimate" and compiler_of(chip_named(device))
            if done and not wants_more:
                continue
            start = time.perf_counter()
            row = row_of(recipe, preset, experiment, device, settings.seconds)
            with settings.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
            spent = time.perf_counter() - start
            print(f"{recipe} {preset} on {device}: {spent:,.0f} s, {row['note'] or 'compiled'}", flush=True)
    print(markdown(known(settings.rows)))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
