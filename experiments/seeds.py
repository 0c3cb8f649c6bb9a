"""An experiment over several seeds, and the table of their numbers with mean and spread.

    python experiments/seeds.py --seeds 0 1 2 3 4           # the article's experiment, two minutes on two cores

Each seed has a run folder of its own, FOLDER/seed_N, and goes on if it was interrupted; FOLDER/seeds.json has the rows.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from digits_topdown import experiment

from hvae_jax.compilation import use_compilation_cache
from hvae_jax.experiment import errors_said, run


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which seeds, and where.

    Attributes:
      seeds: one run each.
      folder: holds the run folders and the table.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    folder: Path = Path("runs/digits_topdown_seeds")


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


def main(settings: Settings) -> None:
    """Runs what has not been run, and prints the table as Markdown."""
    use_compilation_cache()
    rows = {}
    for seed in settings.seeds:
        folder = settings.folder / f"seed_{seed}"
        run(dataclasses.replace(experiment, seed=seed), folder)
        rows[seed] = row(json.loads((folder / "result.json").read_text()))
    names = list(next(iter(rows.values())))
    print("\n| seed | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 1))
    for seed, numbers in rows.items():
        print(f"| {seed} | " + " | ".join(f"{numbers[name]:.2f}" for name in names) + " |")
    values = np.array([[numbers[name] for name in names] for numbers in rows.values()])
    spread = values.std(0, ddof=1) if len(values) > 1 else np.full(len(names), np.nan)
    cells = [f"{mean:.2f} ± {sd:.2f}" for mean, sd in zip(values.mean(0), spread, strict=True)]
    print("| mean ± sd | " + " | ".join(cells) + " |")
    (settings.folder / "seeds.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    with errors_said():
        main(tyro.cli(Settings, description=__doc__))
