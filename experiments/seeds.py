"""An experiment over several seeds, and the table of their numbers with mean and spread.

    python experiments/seeds.py                                 # the article's experiment, two minutes on two cores
    python experiments/seeds.py --experiment digits_vae         # another script's

Each seed has a run folder of its own, FOLDER/seed_N, and goes on if it was interrupted; FOLDER/seeds.json has the rows.
"""

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from hvae_jax.experiment import Experiment, run
from hvae_jax.experiment.evaluation import evaluate
from hvae_jax.experiment.exits import errors_said
from hvae_jax.experiment.reopen import open_run
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which seeds, and where.

    Attributes:
      experiment: a script of this folder that has an `experiment`, without its ending.
      seeds: one run each.
      folder: holds the run folders and the table; runs/EXPERIMENT_seeds if it is not given.
    """

    experiment: str = "digits_topdown"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    folder: Path | None = None


def chosen(name: str) -> Experiment:
    """The script's experiment. Raises ValueError, with the names there are, where there is none."""
    scripts = {path.stem for path in Path(__file__).parent.glob("*.py") if "\nexperiment = " in path.read_text()}
    if name not in scripts:
        raise ValueError(f"There is no experiment {name!r} here; there are {', '.join(sorted(scripts))}.")
    return importlib.import_module(name).experiment


def row(result: dict[str, Any]) -> dict[str, float]:
    """The numbers of the article's table, nats."""
    rates = result["rates"]["test"]
    return {
        "epochs": result["epochs"],
        "best epoch": result["best_epoch"],
        "best validation -ELBO": -result["best_validation_elbo"],
        "test -ELBO": -result["elbo"]["test"],
        f"test IW-{result['k']['test']}": -result["iw_bound"]["test"],
        "distortion": result["distortion"]["test"],
        **{f"KL {level}": rate for level, rate in rates.items()},
    }


def by_the_printed_formula(folder: Path) -> dict[str, float]:
    """Of a run that was trained on the article's printed formula: what that says of it, on the test split."""
    found = open_run(folder)
    model = found.experiment.model
    if model.measured == model:
        return {}
    draws = {"test": found.experiment.evaluation.other_draws}
    numbers = evaluate(model, found.variables, found.dataset, jax.random.key(1), draws, usage_draws=16)
    rates = {f"printed KL {level}": rate for level, rate in numbers["rates"]["test"].items()}
    return {"printed test -ELBO": -numbers["elbo"]["test"], **rates}


def main(settings: Settings) -> None:
    """Runs what has not been run, and prints the table as Markdown."""
    use_compilation_cache()
    keep_freed_memory()
    experiment = chosen(settings.experiment)
    whole = settings.folder or Path("runs") / f"{settings.experiment}_seeds"
    rows = {}
    for seed in settings.seeds:
        folder = whole / f"seed_{seed}"
        run(dataclasses.replace(experiment, seed=seed), folder)
        rows[seed] = row(json.loads((folder / "result.json").read_text())) | by_the_printed_formula(folder)
    names = list(next(iter(rows.values())))
    print("\n| seed | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 1))
    for seed, numbers in rows.items():
        print(f"| {seed} | " + " | ".join(f"{numbers[name]:.2f}" for name in names) + " |")
    values = np.array([[numbers[name] for name in names] for numbers in rows.values()])
    spread = values.std(0, ddof=1) if len(values) > 1 else np.full(len(names), np.nan)
    cells = [f"{mean:.2f} ± {sd:.2f}" for mean, sd in zip(values.mean(0), spread, strict=True)]
    print("| mean ± sd | " + " | ".join(cells) + " |")
    (whole / "seeds.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    with errors_said():
        main(tyro.cli(Settings, description=__doc__))
