"""The flag `--preset`: its choice, and a line on each experiment that it takes."""

import argparse
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from hvae_jax.experiment import Experiment, settings
from hvae_jax.recipes import unknown

_FEW = 3
"""Largest number of settings by which a preset differs from another one that its line refers to."""


def chosen(
    presets: Mapping[str, Experiment], arguments: Sequence[str] | None, prog: str | None = None
) -> tuple[str, list[str]]:
    """The name that `--preset` gives, the first one without it, and the other arguments.

    Ends the process with exit code 2, and the nearest name, for an unknown one.
    """
    # Before tyro parses: the preset is the default of every other flag.
    parser = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False, usage="%(prog)s --preset NAME")
    parser.add_argument("--preset", default=next(iter(presets)))
    found, left = parser.parse_known_args(arguments)
    if found.preset not in presets:
        refuse(unknown("preset", found.preset, presets))
    return found.preset, left


def refuse(message: str) -> NoReturn:
    """Ends the process as for arguments that do not parse: one line, exit code 2."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def listing(presets: Mapping[str, Experiment], indent: str = "  ") -> str:
    """A line for each preset: its name, and what it is."""
    width = max(map(len, presets))
    return "\n".join(f"{indent}{name:{width}}  {line}" for name, line in about(presets).items())


def about(presets: Mapping[str, Experiment]) -> dict[str, str]:
    """What each preset is: model, data and length of training; or the few settings that differ from one before it."""
    lines: dict[str, str] = {}
    before: dict[str, Any] = {}
    for name, experiment in presets.items():
        plain = settings.to_json(experiment)
        plain["fields"].pop("name")
        few = [
            (len(found), other, found) for other, old in before.items() if len(found := _changes(old, plain)) <= _FEW
        ]
        lines[name] = f"{min(few)[1]}, but {', '.join(min(few)[2])}" if few else _facts(experiment)
        before[name] = plain
    return lines


def _facts(experiment: Experiment) -> str:
    model, training = experiment.model, experiment.training
    stages = sum(stage.steps for stage in training.stages)
    length = f"{training.epochs:,} epochs at most"
    if steps := stages or training.steps:
        length = f"{steps:,} steps"
    data = experiment.data
    changes = [data.binarise or "", f"{data.size}x{data.size}" if data.size else "", f"{data.bits} bits"]
    more = ", ".join(change for change in changes if change and change != "8 bits")
    levels = "1 level" if model.num_levels == 1 else f"{model.num_levels} levels"
    return f"{type(model).__name__}, {levels}; {data.name}{f' ({more})' if more else ''}; {length}"


def _changes(old: Any, new: Any) -> list[str]:
    """The settings that differ, as "model.top_prior VampPrior", "no model.flow"."""
    changes = []
    for line in settings.differences(old, new):
        path, _, values = line.partition(": ")
        value = values.rpartition(" -> ")[2].replace("(...)", "")
        with contextlib.suppress(ValueError):  # the name of a class is no JSON
            value = json.loads(value)
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            changes.append(f"other {path}")
            continue
        value = ",".join(map(str, value)) if isinstance(value, list) else value
        changes.append(f"no {path}" if value in ("", None) else f"{path} {value}")
    return changes
