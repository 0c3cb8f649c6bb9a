"""Few labels: CaGeM beside linear probes that see the same labels, over numbers of labels and seeds.

    python experiments/studies/few_labels.py                       # digits: 15 CaGeMs and 3 top-down VAEs
    python experiments/studies/few_labels.py --preset mnist_small --labels 10 --seeds 0 --steps 1500

For each seed and number of labels a class: CaGeM's accuracy on the test split, by its likeliest class as the label and
under the best one-to-one map; its bounds; and the information of its class. Beside it logistic regressions, on pixels
and on the posterior means of a top-down VAE of the same sizes, trained without labels for as many steps. The seed draws
the labels too; 0 labels train without any. Everything runs for `steps` steps, and the last variables are measured.

All runs of a model are one program: a vmap of the training step over states, labels and keys, so that it is compiled
once. Each batch of a run has its share of labelled examples, drawn with replacement, as `data.label_share` has it on
average.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array
from seeds import experiment_of

from hvae_jax.data import MISSING, Dataset
from hvae_jax.data.few_labels import few_labels
from hvae_jax.diagnostics import (
    class_accuracy,
    class_use,
    clustering_accuracy,
    features,
    linear_probe,
    measured,
)
from hvae_jax.experiment import Experiment
from hvae_jax.experiment.exits import errors_said
from hvae_jax.models import HVAE, CaGeM, TopDownVAE
from hvae_jax.objectives import Batch, Enumerated, NegativeELBO, Objective
from hvae_jax.records import checked
from hvae_jax.runtime import doctor
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.files import write_whole
from hvae_jax.training import Adamax, initial_state, make_step

COLUMNS = ("accuracy", "clustering", "pixels", "top-down VAE", "-ELBO", "-IW", "I(x; y)", "KL y")
PERCENT = COLUMNS[:4]
PORTION = 50  # steps of one dispatch


@dataclasses.dataclass(frozen=True)
@checked
class Settings:
    """What to compare.

    Attributes:
      preset: preset of the recipe cagem.py, which has model, data, alpha, share and batch size.
      labels: numbers of labels a class.
      seeds: seeds, of training and of the labels that are kept.
      steps: steps of every run, a multiple of 50.
      hidden: width of every network; None takes the preset's.
      draws: draws of all latents behind bounds and classes.
      examples: number of test examples that are measured, the first ones.
      directory: as --data.directory.
      out: file of the rows; None takes runs/few_labels_PRESET.json.
    """

    preset: str = "digits"
    labels: tuple[int, ...] = (0, 1, 5, 10, 50)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 1000
    hidden: int | None = None
    draws: int = 50
    examples: int = 2000
    directory: str | None = None
    out: Path | None = None


def batches(y: np.ndarray, share: float | None, size: int, steps: int, seed: int) -> np.ndarray:
    """Row numbers, `[steps, size]`: all examples equally often but for the share of labelled ones in each batch."""
    rng = np.random.default_rng(seed)
    labelled = np.flatnonzero(y != MISSING)
    natural = len(labelled) / len(y)
    extra = 0 if share is None or not len(labelled) or share <= natural else round(size * (share - natural))
    epochs = -(-steps * (size - extra) // len(y))
    plain = np.concatenate([rng.permutation(len(y)) for _ in range(epochs)])[: steps * (size - extra)]
    more = rng.choice(labelled, (steps, extra)) if extra else np.zeros((steps, 0), int)
    return np.concatenate([plain.reshape(steps, -1), more], axis=1)


def train(
    model: HVAE, objective: Objective, x: np.ndarray, y: np.ndarray, rows: np.ndarray, seeds: np.ndarray, name: str
) -> Any:
    """Variables of R runs, stacked.

    Args:
      x: `[N, *event]`, the same for all runs.
      y: labels of each run, `[R, N]`.
      rows: row numbers of each run's batches, `[R, steps, B]`.
      seeds: seed of each run, `[R]`.
      name: name on the progress line.
    """
    optimiser = Adamax(learning_rate=1e-3).build()
    step, images = make_step(model, objective, optimiser), jnp.asarray(x)
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))

    def begin(key: Array) -> Any:
        return initial_state(model, objective, optimiser, key, images[: rows.shape[2]], None, False)

    @jax.jit
    def portion(states: Any, rows: Array) -> tuple[Any, dict[str, Array]]:
        def one(states: Any, rows: Array) -> tuple[Any, dict[str, Array]]:
            chosen = jnp.take_along_axis(jnp.asarray(y), rows, axis=1)
            mine = jax.vmap(jax.random.fold_in)(keys, states.step)
            return jax.vmap(step)(states, Batch(images[rows], chosen), mine)

        return jax.lax.scan(one, states, rows)

    states = jax.jit(jax.vmap(begin))(keys)
    for start in range(0, rows.shape[1], PORTION):
        states, metrics = portion(states, jnp.swapaxes(jnp.asarray(rows[:, start : start + PORTION]), 0, 1))
        elbo = np.asarray(metrics["elbo"]).mean()
        print(f"{name}: {start + PORTION:,} of {rows.shape[1]:,} steps, mean ELBO {elbo:.2f}", flush=True)
    return {"params": states.params, **states.statistics}


def measure(model: HVAE, variables: Any, x: np.ndarray, y: np.ndarray, draws: int) -> list[dict[str, float]]:
    """Numbers of each run on the test examples, with the same noise for all."""
    count = len(jax.tree.leaves(variables)[0])
    look = jax.jit(lambda v, x: measured(model, v, x, jax.random.key(100), draws))
    found = []
    for run in range(count):
        seen = jax.device_get(look(jax.tree.map(lambda a, i=run: a[i], variables), x))
        q = seen.usage.posterior_means[1]
        found.append(
            {
                "accuracy": class_accuracy(q, y).value,
                "clustering": clustering_accuracy(q, y).value,
                "-ELBO": -float(seen.elbo.mean()),
                "-IW": -float(seen.bound.mean()),
                "I(x; y)": class_use(q).information,
                "used": class_use(q).used,
                "KL y": float(seen.usage.rates[1].mean()),
            }
        )
    return found


def probes(experiment: Experiment, dataset: Dataset, settings: Settings, labels: dict[Any, np.ndarray]) -> Any:
    """Test accuracies by labels and seed of logistic regressions on pixels, and on a top-down VAE's posterior means."""
    if not any(settings.labels):
        return {}
    cagem = experiment.model
    assert isinstance(cagem, CaGeM)
    model = TopDownVAE(cagem.latents, cagem.hidden, cagem.depth, likelihood=cagem.likelihood)
    x, test, size = (
        dataset.splits["train"].x,
        dataset.splits["test"].take(slice(settings.examples)),
        len(settings.seeds),
    )
    none = np.full((size, len(x)), MISSING)
    rows = np.stack([batches(none[0], None, experiment.training.batch_size, settings.steps, s) for s in settings.seeds])
    made = train(model, Unlabelled(), x, none, rows, np.array(settings.seeds), "top-down VAE")
    read = jax.jit(lambda v, x: jnp.concatenate(features(model, v, x, jax.random.key(0)).means, axis=1))
    found = {}
    for run, seed in enumerate(settings.seeds):
        variables = jax.tree.map(lambda a, i=run: a[i], made)
        known = {key: np.flatnonzero(y != MISSING) for key, y in labels.items() if key[1] == seed and key[0]}
        if not known:
            continue
        every = np.unique(np.concatenate([*known.values(), np.zeros(0, int)]))  # rows that some probe learns from
        means, tested = np.asarray(read(variables, x[every])), np.asarray(read(variables, test.x))
        for key, used in known.items():
            at = np.searchsorted(every, used)
            flat = x[used].reshape(len(used), -1), test.x.reshape(len(test), -1)
            found[key] = {
                "pixels": linear_probe(flat[0], labels[key][used], flat[1], test.y).value,
                "top-down VAE": linear_probe(means[at], labels[key][used], tested, test.y).value,
            }
    return found


@dataclasses.dataclass(frozen=True)
@checked
class Unlabelled(Objective):
    """`NegativeELBO` of a model that is not given the labels of the batch."""

    def __call__(self, forward: Any, variables: Any, batch: Batch, key: Array, step: Array, state: Any) -> Any:
        """The loss without labels."""
        return NegativeELBO()(forward, variables, Batch(batch.x), key, step, state)


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and deviation over the seeds, a row for each number of labels."""
    lines = ["| labels a class | " + " | ".join(COLUMNS) + " |", "|" + " --- |" * (len(COLUMNS) + 1)]
    for labels in dict.fromkeys(row["labels"] for row in rows):
        cells = []
        for name in COLUMNS:
            values = np.array([row[name] for row in rows if row["labels"] == labels and name in row])
            scale, digits = (100, 1) if name in PERCENT else (1, 2)
            spread = f" ± {scale * values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{scale * values.mean():.{digits}f}{spread}" if len(values) else "")
        lines.append(f"| {labels} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(settings: Settings) -> None:
    """Trains and measures all runs, and prints the table as Markdown."""
    use_compilation_cache()
    keep_freed_memory()
    experiment = experiment_of("cagem", settings.preset)
    if settings.hidden is not None:
        experiment = dataclasses.replace(experiment, model=experiment.model.clone(hidden=settings.hidden))
    data, objective = experiment.data, experiment.objective
    assert isinstance(objective, Enumerated)
    if settings.steps % PORTION:
        raise ValueError(f"--steps is {settings.steps}, but it has to be a multiple of {PORTION}.")
    plain = dataclasses.replace(data, labels=None, label_share=None, directory=settings.directory)
    if plain.binarise == "dynamic":
        raise ValueError("The study draws no pixels anew: take a preset with static binarisation, or none.")
    print(doctor.line(), flush=True)
    dataset = plain.load()
    keys = [(count, seed) for count in settings.labels for seed in settings.seeds]
    labels = {key: np.asarray(few_labels(dataset, key[0], seed=key[1]).splits["train"].y) for key in keys}
    x, test = dataset.splits["train"].x, dataset.splits["test"].take(slice(settings.examples))
    beside = probes(experiment, dataset, settings, labels)
    size = experiment.training.batch_size
    rows = np.stack([batches(labels[key], data.label_share, size, settings.steps, key[1]) for key in keys])
    y, seeds = np.stack([labels[key] for key in keys]), np.array([seed for _, seed in keys])
    made = train(experiment.model, objective, x, y, rows, seeds, "CaGeM")
    found = measure(experiment.model, made, test.x, np.asarray(test.y), settings.draws)
    table_rows = [
        {"labels": key[0], "seed": key[1], **numbers, **beside.get(key, {})}
        for key, numbers in zip(keys, found, strict=True)
    ]
    out = settings.out or Path("runs") / f"few_labels_{settings.preset}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, json.dumps(table_rows, indent=2) + "\n")
    print("\n" + table(table_rows))


if __name__ == "__main__":
    with errors_said():
        main(tyro.cli(Settings, description=__doc__))
