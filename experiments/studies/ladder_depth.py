"""Does depth collapse? Rates and used units of a five-level Ladder VAE and of a five-level bottom-up VAE.

    python experiments/studies/ladder_depth.py  # static MNIST
    python experiments/studies/ladder_depth.py --data.name digits --epochs 100

The question of Soenderby et al. (2016), figures 3 to 5: a VAE whose five levels are inferred bottom-up leaves its
upper levels unused, even with batch norm and warm-up; the Ladder VAE, whose posteriors include the top-down prior,
does not. Both models have latents of 64-32-16-8-4 and batch norm, and are trained with and without warm-up, by Adam at
1e-3 with batches of 256. A unit is used if its mean KL exceeds 0.01 nats. Burda's active units would also count units
that carry no information, since the prior of a lower level varies with the levels above it.

Writes depth.png (and .svg), depth.json with every number, and a run folder for each model. An interrupted study
resumes.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from sweep import save, tidy

from hvae_jax.experiment import Data, Evaluation, Experiment, Training
from hvae_jax.experiment.exits import errors_said
from hvae_jax.experiment.settings import dumps
from hvae_jax.experiment.sweep import Trial, run_all
from hvae_jax.likelihoods import Likelihood, for_data
from hvae_jax.models import HVAE, BottomUpVAE, LadderVAE
from hvae_jax.objectives import Linear, Regularised
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.files import write_whole
from hvae_jax.training import AdamW

LATENTS = (4, 8, 16, 32, 64)
COLOURS = {
    "bottom-up": "#9cc3ea",
    "bottom-up, warm-up": "#2a78d6",
    "ladder": "#f4b08c",
    "ladder, warm-up": "#d6562a",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the study.

    Attributes:
      data: the data set.
      epochs: number of epochs of each model; the warm-up takes the first third.
      draws: K of the importance-weighted bound on the test split.
      seed: seed of each run.
      folder: folder of the runs, the figure and the numbers.
    """

    data: Data = Data("binarized_mnist")
    epochs: int = 20
    draws: int = 50
    seed: int = 0
    folder: Path = Path("runs/ladder_depth")


def models(likelihood: Likelihood) -> dict[str, HVAE]:
    """The two models, with the same latents."""
    return {
        "bottom-up": BottomUpVAE(latents=LATENTS, likelihood=likelihood),
        "ladder": LadderVAE(latents=LATENTS, likelihood=likelihood),
    }


def trials(chosen: Settings) -> list[Trial]:
    """Both models, with and without warm-up."""
    dataset = chosen.data.load()
    steps = chosen.epochs * -(-len(dataset.train) // 256)
    found = []
    for name, model in models(for_data(dataset)).items():
        for warm_up in (None, Linear(0, steps / 3)):
            full = name if warm_up is None else f"{name}, warm-up"
            folder = full.replace(", ", "_")
            experiment = Experiment(
                name=folder,
                data=chosen.data,
                model=model,
                objective=Regularised() if warm_up is None else Regularised(warm_up=warm_up),
                optimiser=AdamW(learning_rate=1e-3, eps=1e-4),
                training=Training(batch_size=256, epochs=chosen.epochs, select="last", pictures_every=None),
                evaluation=Evaluation(draws=chosen.draws, other_draws=2, train_examples=1000),
                seed=chosen.seed,
            )
            found.append(Trial(folder, {"model": full}, experiment))
    return found


def trained(chosen: Settings) -> dict[str, Any]:
    """The `result.json` of each run.

    Raises ValueError, after all others have run, if a run failed: the figure compares all four.
    """
    rows = run_all(trials(chosen), chosen.folder)
    if failed := [row.trial.values["model"] for row in rows if row.error is not None]:
        raise ValueError(f"{', '.join(failed)} failed, and the figure needs every run: start the study again.")
    return {
        row.trial.values["model"]: json.loads((chosen.folder / row.trial.name / "result.json").read_text())
        for row in rows
    }


def draw(results: dict[str, Any], path: Path) -> None:
    """Draws bars of rates and of used units: one group per level, z1 on the left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    levels = [f"z{i + 1}" for i in range(len(LATENTS))]
    for axis, (measure, label) in zip(
        figure.subplots(1, 2), (("rates", "rate, nats"), ("used_units", "used units")), strict=True
    ):
        for i, (name, colour) in enumerate(COLOURS.items()):
            values = [results[name][measure]["test"][level] for level in levels]
            positions = np.arange(len(levels)) + 0.2 * (i - 1.5)
            axis.bar(positions, values, 0.18, color=colour, label=name)
            for position, value in zip(positions, values, strict=True):
                text = f"{value:.1f}" if measure == "rates" else f"{value:d}"
                axis.annotate(text, (position, value), (0, 2), textcoords="offset points", ha="center", fontsize=6)
        sizes = [f"{level}\n({size})" for level, size in zip(levels, reversed(LATENTS), strict=True)]
        axis.set_xticks(range(len(levels)), sizes if measure == "used_units" else levels)
        axis.set_ylabel(label)
        tidy(axis)
    figure.axes[0].legend(frameon=False, fontsize=8)
    save(figure, path)


def main(chosen: Settings) -> None:
    """Trains the models that have no result yet, draws the figure, and prints a table."""
    use_compilation_cache()
    keep_freed_memory()
    results = trained(chosen)
    kept = ("elbo", "iw_bound", "k", "rates", "rates_error", "active_units", "used_units", "moving_units", "seconds")
    write_whole(chosen.folder / "depth.json", dumps({n: {k: r[k] for k in kept} for n, r in results.items()}))
    draw(results, chosen.folder / "depth.png")
    print(f"\n| | -ELBO | -IW-{chosen.draws} | rates z1 to z5, nats | used units | active units (Burda) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, result in results.items():
        rates = " ".join(f"{rate:.1f}" for rate in reversed(result["rates"]["test"].values()))
        units = [" ".join(map(str, reversed(result[k]["test"].values()))) for k in ("used_units", "active_units")]
        print(
            f"| {name} | {-result['elbo']['test']:.2f} | {-result['iw_bound']['test']:.2f} | {rates} | {units[0]} |",
            end="",
        )
        print(f" {units[1]} |")
    print(f"\ndepth.png is in {chosen.folder}/")


if __name__ == "__main__":
    with errors_said():
        main(tyro.cli(Settings, description=__doc__))
