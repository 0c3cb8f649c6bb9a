"""A recipe over several seeds: the table of `hvae sweep`, with the numbers of the printed formula.

    python experiments/studies/seeds.py      # the article's experiment, two minutes on two cores
    python experiments/studies/seeds.py vae  # another recipe, its first preset
    python experiments/studies/seeds.py bottom_up --preset digits_printed  # trained on the formula the article prints

Each seed has a run folder of its own, FOLDER/seed=N, and resumes if it was interrupted; FOLDER/seeds.json has the
rows. A run trained on `PrintedELBO` has two numbers per level: the rate, and the KL of the printed formula.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import tyro

from hvae_jax.experiment import settings, sweep
from hvae_jax.experiment.exits import errors_said
from hvae_jax.experiment.reopen import open_run
from hvae_jax.objectives import Batch, PrintedELBO
from hvae_jax.recipes import experiment_of
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.files import write_whole
from hvae_jax.trace import level_names


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to run, with which seeds, and where.

    Attributes:
      recipe: name of a recipe.
      preset: name of one of its presets; None takes the first.
      seeds: seeds, one run each.
      folder: folder of the run folders and the table; None takes runs/RECIPE_PRESET_sweep, as `hvae sweep` does.
    """

    recipe: Annotated[str, tyro.conf.Positional] = "top_down"
    preset: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    folder: Path | None = None


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


def main(chosen: Settings) -> None:
    """Runs the seeds that have no result yet, and prints the table."""
    use_compilation_cache()
    keep_freed_memory()
    experiment = experiment_of(chosen.recipe, chosen.preset)
    whole = chosen.folder or Path("runs") / f"{experiment.name}_sweep"
    trials = [
        sweep.Trial(f"seed={seed}", {"seed": seed}, dataclasses.replace(experiment, seed=seed)) for seed in chosen.seeds
    ]
    rows = sweep.run_all(trials, whole, more=by_the_printed_formula)
    write_whole(whole / "seeds.json", settings.dumps(sweep.to_json(rows)))
    print("\n" + sweep.table(rows))


if __name__ == "__main__":
    with errors_said():
        main(tyro.cli(Settings, description=__doc__))
