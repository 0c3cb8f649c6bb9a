"""A recipe over several seeds, and the table of its numbers with mean and standard deviation.

    python experiments/studies/seeds.py      # the article's experiment, two minutes on two cores
    python experiments/studies/seeds.py vae  # another recipe, its first preset
    python experiments/studies/seeds.py bottom_up --preset digits_printed  # trained on the formula the article prints

Each seed has a run folder of its own, FOLDER/seed_N, and resumes if it was interrupted; FOLDER/seeds.json has the
rows. A run trained on `PrintedELBO` has two numbers per level: the rate, and the KL of the printed formula.
"""

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from hvae_jax.experiment import Experiment, run
from hvae_jax.experiment.exits import errors_said
from hvae_jax.experiment.reopen import open_run
from hvae_jax.objectives import Batch, PrintedELBO
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.trace import level_names

RECIPES = Path(__file__).parents[1] / "recipes"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to run, with which seeds, and where.

    Attributes:
      recipe: name of a file in experiments/recipes, without its ending.
      preset: name of one of its presets; None takes the first.
      seeds: seeds, one run each.
      folder: folder of the run folders and the table; None takes runs/RECIPE_PRESET_seeds.
    """

    recipe: Annotated[str, tyro.conf.Positional] = "top_down"
    preset: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    folder: Path | None = None


def experiment_of(recipe: str, preset: str | None) -> Experiment:
    """The recipe's experiment. Raises ValueError, listing the known names, for an unknown recipe or preset."""
    recipes = sorted(path.stem for path in RECIPES.glob("*.py"))
    if recipe not in recipes:
        raise ValueError(f"There is no recipe {recipe!r}; there are {', '.join(recipes)}.")
    spec = importlib.util.spec_from_file_location(recipe, RECIPES / f"{recipe}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    presets: dict[str, Experiment] = module.presets
    preset = preset or next(iter(presets))
    if preset not in presets:
        raise ValueError(f"{recipe} has no preset {preset!r}; it has {', '.join(presets)}.")
    return presets[preset]


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
    """The printed formula on the test split, a mean over draws, nats; {} for a run trained on another objective."""
    found = open_run(folder)
    model, objective = found.experiment.model, found.experiment.objective
    if not isinstance(objective, PrintedELBO):
        return {}
    test = found.dataset.splits["test"].for_classes(model.classes)
    batch = Batch(jnp.asarray(test.x), None if test.y is None else jnp.asarray(test.y))

    def forward(variables: Any, x: Any, key: jax.Array, **choices: Any) -> tuple[Any, Any]:
        return model.apply(variables, x, key, **choices), {}

    def metrics(key: jax.Array) -> dict[str, jax.Array]:
        return objective(forward, found.variables, batch, key, jnp.int32(0), ())[1]

    keys = jax.random.split(jax.random.key(1), found.experiment.evaluation.other_draws)
    drawn: dict[str, jax.Array] = jax.jit(lambda keys: jax.lax.map(metrics, keys))(keys)
    means = {name: float(values.mean()) for name, values in drawn.items()}
    levels = level_names(model, batch)
    kls = {f"printed KL {level}": means[f"printed_rate/{level}"] for level in levels}
    return {"printed test -ELBO": -means["printed_elbo"], **kls}


def main(settings: Settings) -> None:
    """Runs the seeds that have no result yet, and prints the table as Markdown."""
    use_compilation_cache()
    keep_freed_memory()
    experiment = experiment_of(settings.recipe, settings.preset)
    whole = settings.folder or Path("runs") / f"{experiment.name}_seeds"
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
    deviations = values.std(0, ddof=1) if len(values) > 1 else np.full(len(names), np.nan)
    cells = [f"{mean:.2f} ± {sd:.2f}" for mean, sd in zip(values.mean(0), deviations, strict=True)]
    print("| mean ± sd | " + " | ".join(cells) + " |")
    (whole / "seeds.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    with errors_said():
        main(tyro.cli(Settings, description=__doc__))
