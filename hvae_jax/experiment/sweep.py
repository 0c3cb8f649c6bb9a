"""A sweep: runs that differ in a few settings, each in a folder of its own, and their table.

The run folders are the memory of a sweep: a run that is finished there is not trained again, and one that was killed
goes on. A run that fails is said and leaves the others alone.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hvae_jax.experiment import folder as run_folder
from hvae_jax.experiment import settings, tables
from hvae_jax.experiment.exits import errors_said
from hvae_jax.experiment.records import Experiment
from hvae_jax.experiment.run import run
from hvae_jax.experiment.several import Numbers, mean_and_deviation, numbers_of
from hvae_jax.report.sketch import FINAL_PICTURES
from hvae_jax.runtime.columns import aligned
from hvae_jax.runtime.compilation import give_back_freed_memory, keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.errors import first_line
from hvae_jax.runtime.json_files import read_json
from hvae_jax.runtime.streams import steady_streams
from hvae_jax.runtime.texts import say
from hvae_jax.training.signals import Interrupted, interrupting

_CHILD = "from hvae_jax.experiment.sweep import child; child()"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
      name: name of its folder, unique in the sweep.
      values: the settings that the sweep varies, with this run's values.
      experiment: its experiment.
    """

    name: str
    values: Mapping[str, Any]
    experiment: Experiment


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of a run.

    Attributes:
      trial: the run.
      numbers: of its result; None if it failed.
      error: why it failed; None if it did not.
    """

    trial: Trial
    numbers: Numbers | None
    error: str | None = None


def run_all(
    trials: Sequence[Trial],
    folder: Path,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    more: Callable[[Path], Numbers] | None = None,
) -> list[Row]:
    """Runs what is not finished in `folder`, and returns a row for every trial, in their order.

    Args:
      jobs: number of runs at a time. One runs in this process; more are processes of their own, whose output goes to
        NAME.log in `folder`.
      overwrite: train finished runs as well, anew.
      more: other numbers of a finished run's folder.
    Raises ValueError, before anything is written, if a folder holds a run with other settings, for jobs below 1 and for
    trials of equal names; `Interrupted` after a signal, when the runs that were under way have saved their state.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}, but it has to be 1 or more.")
    if len({trial.name for trial in trials}) < len(trials):
        raise ValueError(f"Two runs have the same name: {', '.join(trial.name for trial in trials)}.")
    for trial in () if overwrite else trials:
        _check(trial, folder / trial.name)
    waiting = [trial for trial in trials if overwrite or not finished(trial.experiment, folder / trial.name)]
    if done := len(trials) - len(waiting):
        say(f"{done} of {len(trials)} runs in {folder} are finished already.")
    folder.mkdir(parents=True, exist_ok=True)
    errors = (_in_turn if jobs == 1 else _side_by_side)(waiting, folder, jobs, overwrite)
    return [_row(trial, folder / trial.name, errors.get(trial.name), more) for trial in trials]


def finished(experiment: Experiment, folder: Path) -> bool:
    """Whether a folder holds the whole result of this experiment."""
    try:
        saved = read_json(folder / "settings.json")
        tables.read(folder / "result.json")
    except (OSError, ValueError):
        return False
    return not run_folder.changes(saved, experiment) and all((folder / name).exists() for name in FINAL_PICTURES)


def attempt(action: Callable[[], Any], what: str) -> str | None:
    """Runs an action; returns what went wrong, which is said, or None. `Interrupted` and Ctrl-C pass."""
    try:
        action()
    except Exception as error:
        if os.environ.get("HVAE_TRACEBACK"):
            raise
        line = str(error).strip() if isinstance(error, ValueError | OSError) else ""
        line = line or f"{type(error).__name__}: {first_line(error)}"
        say(f"{what} failed: {line}")
        return line
    return None


def _in_turn(trials: Sequence[Trial], folder: Path, _: int, overwrite: bool) -> dict[str, str]:
    """Runs trials in this process; returns the errors by name."""
    errors: dict[str, str] = {}
    for number, trial in enumerate(trials, 1):
        say(f"\n[{number}/{len(trials)}] {trial.name}")

        def one(trial: Trial = trial) -> None:
            outcome = run(trial.experiment, folder / trial.name, overwrite=overwrite)
            if outcome.interrupted:
                raise Interrupted(outcome.interrupted)

        if error := attempt(one, trial.name):
            errors[trial.name] = error
        give_back_freed_memory()
    return errors


def _side_by_side(trials: Sequence[Trial], folder: Path, jobs: int, overwrite: bool) -> dict[str, str]:
    """Runs trials in processes, at most `jobs` at a time; returns the errors by name."""
    errors: dict[str, str] = {}
    left, running = list(trials), dict[str, subprocess.Popen[str]]()
    try:
        with interrupting():
            while left or running:
                while left and len(running) < jobs:
                    trial = left.pop(0)
                    running[trial.name] = _start(trial, folder, overwrite)
                    say(f"{trial.name}: started, {len(left)} runs wait; {folder / trial.name}.log")
                for name, process in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[name]
                    if process.returncode:
                        errors[name] = _last_error(folder / f"{name}.log", process.returncode)
                    say(f"{name} failed: {errors[name]}" if process.returncode else f"{name}: done")
                time.sleep(0.1)
    finally:
        for process in running.values():
            with contextlib.suppress(OSError):
                process.terminate()  # saves, as `hvae train` does
        for process in running.values():
            process.wait()
    return errors


def _start(trial: Trial, folder: Path, overwrite: bool) -> "subprocess.Popen[str]":
    """A process that runs a trial, which it reads from its standard input."""
    asked = {"experiment": settings.to_json(trial.experiment), "folder": str(folder / trial.name)}
    with (folder / f"{trial.name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, text=True
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # what ended at once has said why in its log
        pipe.write(json.dumps(asked | {"overwrite": overwrite}))
    return process


@steady_streams()
def child() -> None:
    """Runs the experiment on standard input: the process behind a run of `_side_by_side`."""
    with errors_said():
        use_compilation_cache()
        keep_freed_memory()
        asked = json.loads(sys.stdin.read())
        experiment = settings.from_json(asked["experiment"])
        if run(experiment, Path(asked["folder"]), overwrite=asked["overwrite"]).interrupted:
            sys.exit(75)


def _last_error(log: Path, code: int) -> str:
    """The error that a log ends with, or the exit code of its process."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    return lines[-1].removeprefix("error: ") if lines else f"it ended with exit code {code}; see {log}"


def _check(trial: Trial, folder: Path) -> None:
    """Raises ValueError if a folder holds a run with other settings than the trial's."""
    path = folder / "settings.json"
    if path.exists() and (changed := run_folder.changes(read_json(path), trial.experiment)):
        raise ValueError(
            f"{folder} holds a run with other settings:\n  " + "\n  ".join(changed) + "\n--overwrite starts over, "
            "--folder takes another folder for the sweep."
        )


def _row(trial: Trial, folder: Path, error: str | None, more: Callable[[Path], Numbers] | None) -> Row:
    if error is not None:
        return Row(trial, None, error)
    numbers: Numbers = {}

    def read() -> None:
        numbers.update(numbers_of(tables.read(folder / "result.json")) | (more(folder) if more else {}))

    error = attempt(read, trial.name)
    return Row(trial, None if error else numbers, error)


def grouped(rows: Sequence[Row], over: str = "seed") -> list[tuple[dict[str, Any], list[Row]]]:
    """Rows that differ in `over` alone, with the values of the other settings; in their order."""
    groups: dict[str, tuple[dict[str, Any], list[Row]]] = {}
    for row in rows:
        values = {name: value for name, value in row.trial.values.items() if name != over}
        groups.setdefault(repr(values), (values, []))[1].append(row)
    return list(groups.values())


def table(rows: Sequence[Row], over: str = "seed") -> str:
    """A line for each value of the settings: mean ± deviation over seeds; then the runs that failed."""
    groups = [
        (values, [row.numbers for row in some if row.numbers is not None]) for values, some in grouped(rows, over)
    ]
    groups = [(values, numbers) for values, numbers in groups if numbers]
    lines = []
    if groups:
        settings_of = list(groups[0][0])
        summaries = [mean_and_deviation(numbers) for _, numbers in groups]
        names = list(dict.fromkeys(name for means, _ in summaries for name in means))
        cells = [[*settings_of, "runs", *names]]
        for (values, numbers), (means, deviations) in zip(groups, summaries, strict=True):
            of_names = [_cell(name, means, deviations) for name in names]
            cells.append([*(str(values[name]) for name in settings_of), str(len(numbers)), *of_names])
        lines = aligned(_upright(cells) if len(names) > len(cells) else cells)
        spread = any(len(numbers) > 1 for _, numbers in groups)
        lines.append(f"nats per example{f'; mean ± standard deviation over {over}s' if spread else ''}")
    lines += [f"{row.trial.name} failed: {row.error}" for row in rows if row.error is not None]
    return "\n".join(lines)


def to_json(rows: Sequence[Row], over: str = "seed") -> dict[str, Any]:
    """Rows and table, for `settings.dumps`."""
    summary = []
    for values, some in grouped(rows, over):
        means, deviations = mean_and_deviation([row.numbers for row in some if row.numbers is not None])
        summary.append({"settings": values, "runs": len(some), "mean": means, "deviation": deviations})
    each = [
        {"run": row.trial.name, "settings": dict(row.trial.values), "numbers": row.numbers, "error": row.error}
        for row in rows
    ]
    return {"rows": each, "table": summary}


def _cell(name: str, means: Numbers, deviations: Numbers) -> str:
    """Mean ± deviation of a number; "-" if no run has it. A single run has no deviation."""
    if name not in means:
        return "-"
    digits = 3 if name == "bits/dim" else 0 if name == "steps" or abs(means[name]) >= 1000 else 2
    spread = f" ± {deviations[name]:.{digits}f}" if np.isfinite(deviations[name]) else ""
    return f"{means[name]:.{digits}f}{spread}"


def _upright(cells: Sequence[Sequence[str]]) -> list[list[str]]:
    """The table with rows and columns exchanged, for more numbers than runs."""
    return [list(column) for column in zip(*cells, strict=True)]
