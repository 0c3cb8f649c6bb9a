"""`hvae sweep`: a recipe for several values of its settings, and one table and one picture of all runs."""

import argparse
import dataclasses
import hashlib
import itertools
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import tyro

from hvae_jax import recipes
from hvae_jax.cli import flags, presets, script, short_flags, train
from hvae_jax.cli.one_line import one_line
from hvae_jax.experiment import Experiment, settings, sweep
from hvae_jax.experiment.exits import PREEMPTED, errors_said
from hvae_jax.experiment.several import validation_curve
from hvae_jax.report.runs_chart import save_sweep
from hvae_jax.runtime import doctor
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.files import write_whole
from hvae_jax.runtime.texts import say
from hvae_jax.training.signals import Interrupted

_HELP = """Trains a recipe once for every combination of the values given, and tabulates the results.

  hvae sweep top_down --over seed 0 1 2 3 4
  hvae sweep top_down --over optimiser.learning_rate 1e-3 3e-4 --over seed 0 1 2 --steps 500
  hvae sweep vae --preset digits --over model.latents 4 8 16 --jobs 2
  hvae sweep top_down --over model.latents "8 16" "4 8"    settings with several numbers: in quotes

All other flags are those of `hvae train RECIPE`, and hold for every run. Each run has a folder of its own in --folder.
The same command goes on after an interruption: finished runs are not trained again, and a killed one resumes. A run
that fails is said, and the others are run all the same. sweep.json has every run's numbers and the table: mean and
standard deviation over the seeds, if they are swept; sweep.png the same as a picture.
"""


def main(arguments: Sequence[str]) -> None:
    """Runs `hvae sweep` with these arguments.

    Exit codes: 0 if every run is done; 1 for an error, and if a run failed; 2 for arguments that do not parse; 75 and
    130 after a signal, as those of `script.main`.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs errors that we print ourselves
    parser = _parser()
    if not arguments or {"-h", "--help"} & set(arguments):
        parser.print_help()
        sys.exit(0 if arguments else 2)
    recipe = train.recipe_of(arguments, "sweep")
    own, others = parser.parse_known_args(arguments[1:])
    with errors_said():
        if not own.over:
            presets.refuse("hvae sweep needs --over SETTING VALUE ..., such as --over seed 0 1 2.")
        command = script.parse(
            recipes.presets_of(recipe), others, recipes.docstring_of(recipe), prog=f"hvae sweep {recipe}"
        )
        _check_flags(command)
        trials = trials_of(command.experiment, own.over)
        folder = command.folder or Path("runs") / f"{command.experiment.name}_sweep"
        use_compilation_cache()
        keep_freed_memory()
        say(doctor.line())
        say(f"{len(trials)} runs in {folder}: {', '.join(trial.name for trial in trials)}")
        try:
            rows = sweep.run_all(trials, folder, jobs=own.jobs, overwrite=command.overwrite)
        except (Interrupted, KeyboardInterrupt) as interrupted:
            _leave(getattr(interrupted, "number", signal.SIGINT))
        write_whole(folder / "sweep.json", settings.dumps(sweep.to_json(rows)))
        say("\n" + sweep.table(rows))
        done = [row for row in rows if row.numbers]
        if done:
            save_picture(folder / "sweep.png", done, folder)
        say(f"Everything is in {folder}/: sweep.json{', sweep.png' if done else ''}, and a folder for each run.")
    if len(done) < len(rows):
        sys.exit(1)


def trials_of(base: Experiment, over: Sequence[Sequence[str]]) -> list[sweep.Trial]:
    """A trial for every combination of values.

    Args:
      over: for each setting its flag, with or without dashes in front, and its values as words.

    Ends the process with exit code 2 for a setting that does not exist, naming the nearest, and for a value that does
    not parse.
    """
    names = [words[0].lstrip("-").replace("_", "-") for words in over]
    for name, words in zip(names, over, strict=True):
        if len(words) < 2:
            presets.refuse(f"--over {words[0]} needs values, such as --over {words[0]} 1 2 3.")
        if names.count(name) > 1:
            presets.refuse(f"--over {words[0]} is given twice: give all its values at once.")
        if len(set(words[1:])) < len(words) - 1:
            presets.refuse(f"--over {' '.join(words)}: a value is given twice.")
    last = [name.rpartition(".")[2] for name in names]
    short = [end if last.count(end) == 1 else name for name, end in zip(names, last, strict=True)]
    trials = []
    for words in itertools.product(*(words[1:] for words in over)):
        experiment = _experiment(base, [(name, word) for name, word in zip(names, words, strict=True)])
        values = {name.replace("-", "_"): _value(word) for name, word in zip(names, words, strict=True)}
        label = ",".join(f"{name.replace('-', '_')}={word}" for name, word in zip(short, words, strict=True))
        trials.append(sweep.Trial(_folder_name(label), values, experiment))
    return trials


def save_picture(path: Path, rows: Sequence[sweep.Row], folder: Path) -> None:
    """The picture of a sweep: -ELBO over the first setting that is no seed, and all validation curves."""
    over = list(rows[0].trial.values)
    first = next((name for name in over if name != "seed"), over[0])

    def label(row: sweep.Row, left_out: Sequence[str]) -> str:
        values = row.trial.values
        return ", ".join(f"{name.rpartition('.')[2]} {values[name]}" for name in values if name not in left_out)

    points: dict[str, list[tuple[Any, float]]] = {}
    curves: dict[str, list[Any]] = {}
    number = next(name for name in rows[0].numbers or {} if name.endswith("-ELBO"))
    for row in rows:
        value = row.trial.values[first]
        points.setdefault(label(row, (first, "seed")), []).append((value, (row.numbers or {})[number]))
        seeds_alone = over == ["seed"]
        curves.setdefault(label(row, () if seeds_alone else ("seed",)), []).append(
            validation_curve(folder / row.trial.name)
        )
    save_sweep(path, first, number, points, curves)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hvae sweep",
        usage="hvae sweep RECIPE --over SETTING VALUE ... [--over ...] [--jobs N] [--folder FOLDER] [settings]",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "--over", nargs="+", action="append", metavar="WORD", help="a setting, as a flag of the recipe, and its values"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; 1 by default")
    return parser


def _check_flags(command: script.Command) -> None:
    """Ends the process for flags of `hvae train` that a sweep has no use for."""
    for field in dataclasses.fields(command):
        kept = field.name in ("experiment", "folder", "overwrite")
        if not kept and getattr(command, field.name) != field.default:
            presets.refuse(f"--{field.name} is a flag of hvae train alone: a sweep is many runs.")


def _experiment(base: Experiment, values: Sequence[tuple[str, str]]) -> Experiment:
    """The experiment with these values, which are words."""
    arguments = []
    for name, word in values:
        arguments += [f"--{name}", *(word.split() if isinstance(_at(base, name), tuple) else [word])]
    short, arguments = short_flags.taken(arguments, "hvae train")
    base = short.applied(base)
    with one_line(arguments):
        experiment, left = tyro.cli(
            Experiment,
            prog="hvae train",
            args=arguments,
            default=base,
            config=(tyro.conf.FlagConversionOff,),  # a truth value is a value as any other: True, False
            return_unknown_args=True,
            registry=script.registry(),
        )
    if left:
        presets.refuse(flags.unknown(left, script.Command(base), base, {}))
    return short.of_folder(experiment)


def _at(record: Any, name: str) -> Any:
    """The value of the setting that a flag sets; None if there is none."""
    for part in name.replace("-", "_").split("."):
        if part in ("name", "parent"):
            return None
        record = getattr(record, part, None)
    return record


def _value(word: str) -> Any:
    """A word as a number, if it is one, for tables and axes."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _folder_name(label: str) -> str:
    """The label as a component of a path."""
    name = "".join(char if char.isalnum() or char in "=,.-+_" else "_" for char in label)
    if name != label or len(name) > 120:
        return f"{name[:100]}_{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return name


def _leave(number: int) -> NoReturn:
    say("Interrupted. The same command goes on from there: finished runs stay, and what was under way resumes.")
    sys.exit(128 + number if number == signal.SIGINT else PREEMPTED)
