"""`hvae compare`: runs beside each other, their numbers, the settings that differ, and their curves."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from hvae_jax.cli.arguments import Import, check_out
from hvae_jax.experiment import box, settings, tables
from hvae_jax.experiment.reopen import open_stored, read_experiment
from hvae_jax.experiment.several import numbers_of, validation_curve
from hvae_jax.report.runs_chart import save_curves
from hvae_jax.runtime.columns import aligned
from hvae_jax.runtime.files import write_whole
from hvae_jax.runtime.texts import say

_WIDEST = 44
"""Largest number of characters of a setting's value in the table."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compares runs: their numbers with standard errors, the settings that differ, and their curves in one picture.

    Attributes:
      runs: two or more runs: folders, finished or not, exported files, or models in the box, whose numbers are those on
        their cards.
      split: split of the numbers; the last one (test, if there is one) by default.
      out: the picture of the validation curves; compare.png in the current folder by default.
      json: a JSON file for numbers and settings as well.
      import_: modules beside hvae_jax that settings.json may name.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    split: str | None = None
    out: Path = Path("compare.png")
    json: Path | None = None
    import_: Import = ()

    def __call__(self) -> None:
        """Runs the command."""
        check_out(self.out)
        check_out(self.json)
        if len(self.runs) < 2 or len({path.resolve() for path in self.runs}) < len(self.runs):
            given = " ".join(map(str, self.runs)) or "none"
            raise ValueError(f"hvae compare needs two or more different run folders, and was given {given}.")
        names = short_names(self.runs)
        plain = [settings.to_json(read_experiment(run, self.import_)) for run in self.runs]
        results = [_result(run, self.import_) for run in self.runs]
        differing = differences(plain)
        say("\n".join(numbers_table(names, results, self.split)))
        if differing:
            say("\nsettings that differ")
            say("\n".join(aligned([["", *names], *differing], left=range(len(names) + 1))))
        else:
            say("\nno setting differs")
        for line in warnings_of(names, results):
            say(f"warning: {line}")
        curves = {name: validation_curve(run) for name, run in zip(names, self.runs, strict=True)}
        if self.json is not None:
            found = [
                {"run": str(run), "result": result, "settings": {row[0]: row[i + 1] for row in differing}}
                for i, (run, result) in enumerate(zip(self.runs, results, strict=True))
            ]
            write_whole(self.json, settings.dumps(found))
        if not any(curves.values()):
            say("no run has a validation in a metrics.jsonl, so that there is no picture of curves")
            return
        save_curves(self.out, curves)
        say(f"\nThe validation curves are in {self.out}.")


def short_names(runs: Sequence[Path]) -> list[str]:
    """The paths without the folders that all have in common."""
    parents = {path.resolve().parent for path in runs}
    common = Path(os.path.commonpath(list(parents)))
    return [str(path.resolve().relative_to(common)) for path in runs]


def numbers_table(names: Sequence[str], results: Sequence[Mapping[str, Any]], split: str | None) -> list[str]:
    """Lines of the table of numbers: a column for each run, and "-" where a run has none.

    Raises ValueError for a split that a finished run has no numbers of.
    """
    columns = [_numbers(result, split) for result in results]
    rows = list(dict.fromkeys(name for column in columns for name in column))
    cells = [["", *names], *([row, *(column.get(row, "-") for column in columns)] for row in rows)]
    note = "nats per example ± standard error over the split; - where a run has no such number"
    return [*aligned(cells), note] if rows else [*aligned(cells), "no run is finished"]


def differences(plain: Sequence[Any]) -> list[list[str]]:
    """The settings that differ from run to run: a row for each, its name and the value of each run.

    Args:
      plain: the runs' settings in their JSON form.
    """
    first, *others = plain
    paths: dict[str, None] = {}
    for other in others:
        for line in settings.differences(first, other):
            paths[line.partition(": ")[0]] = None
    outermost = [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]
    rows = [[path, *(_value(one, path) for one in plain)] for path in outermost if path != "name"]
    return [row for row in rows if len(set(row[1:])) > 1]


def warnings_of(names: Sequence[str], results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What makes numbers of two runs no comparison: other data, and other numbers of draws."""
    lines = []
    hashes = {name: result["data"]["hash"] for name, result in zip(names, results, strict=True) if "data" in result}
    if len(set(hashes.values())) > 1:
        lines.append("the runs have different data, so that their nats do not compare.")
    draws = {name: str(result["k"]) for name, result in zip(names, results, strict=True) if "k" in result}
    if len(set(draws.values())) > 1:
        lines.append("the bounds on log p(x) have different numbers of draws; `hvae evaluate` measures with others.")
    return lines


def _result(run: Path, modules: Sequence[str]) -> dict[str, Any]:
    """The numbers of a run, of a stored model those on its card; {} for a run that is not finished."""
    folder = box.resolved(run)
    if box.is_packed(folder):
        return box.read_card(folder).result
    if folder.is_file():
        return open_stored(run, modules).card.result
    path = run / "result.json"
    return tables.read(path) if path.exists() else {}


def _numbers(result: Mapping[str, Any], split: str | None) -> dict[str, str]:
    if "elbo" not in result:
        return {}
    of = split or list(result["elbo"])[-1]
    found: dict[str, str] = {}
    numbers = numbers_of(result, split)
    errors = result["standard_error"][of]
    for name, value in numbers.items():
        if name == f"{of} -ELBO":
            found[name] = f"{value:,.2f} ± {errors['elbo']:.2f}"
        elif name.startswith("-log p"):  # with its K in the cell: runs may have measured with different ones
            found["-log p(x) <="] = f"{value:,.2f} ± {errors['iw_bound']:.2f} (K={result['k'][of]})"
        else:
            found[name] = f"{value:,.{3 if name == 'bits/dim' else 2}f}"
    if "steps" in found:
        found["steps"] = f"{result['steps']:,}"
    return found | ({"parameters": f"{result['parameters']:,}"} if "parameters" in result else {})


def _value(plain: Any, path: str) -> str:
    """The value of a setting, as text: a record by its class alone; "-" if there is no such setting."""
    for part in path.split("."):
        fields = plain.get("fields", plain) if isinstance(plain, dict) else {}
        if part not in fields:
            return "-"
        plain = fields[part]
    if isinstance(plain, dict):
        return str(plain.get("type", plain.get("function"))).rpartition(":")[2]
    if isinstance(plain, list):
        nested = any(isinstance(item, dict) for item in plain)
        plain = f"{len(plain)} records" if nested else " ".join(map(str, plain))
    text = str(plain)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."
