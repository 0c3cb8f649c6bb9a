"""Short trainings of many small models, all measured alike: the data behind the figures of this folder's studies."""

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hvae_jax.data import Dataset
from hvae_jax.diagnostics import (
    Measured,
    accuracy_of,
    fano,
    features,
    information,
    linear_probe,
    measured,
    probe_right,
    standard_error,
)
from hvae_jax.experiment import Data, settings
from hvae_jax.experiment.sweep import attempt
from hvae_jax.models import HVAE
from hvae_jax.objectives import Objective
from hvae_jax.runtime import doctor
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.files import write_whole
from hvae_jax.training import Adamax, Plan, data_mesh, init_state, make_dispatch, make_step
from hvae_jax.training.feeds import Resident

Row = dict[str, Any]

MEASURES = 2
"""Number of the way that rows are measured: a table of another is not resumed. The first one probed posterior means."""


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long each model is trained, how large it is, and how it is measured.

    Attributes:
      steps: training steps, by Adamax at 1e-3.
      batch_size: examples per step.
      hidden: width of the dense networks.
      width: channels of the PixelCNN.
      layers: layers of the PixelCNN.
      draws: draws of all latents behind bounds, rates and distortion; K of the importance-weighted bound.
      examples: number of test examples measured.
    """

    steps: int = 1000
    batch_size: int = 64
    hidden: int = 128
    width: int = 16
    layers: int = 3
    draws: int = 50
    examples: int = 1000


@dataclasses.dataclass(frozen=True)
class Trial:
    """One model and its objective, for any seed.

    Attributes:
      name: entries of its rows that identify it in the table, such as {"field": 2}.
      model: the model.
      objective: the objective that it is trained on.
    """

    name: Row
    model: HVAE
    objective: Objective


def train(
    model: HVAE, objective: Objective, effort: Effort, dataset: Dataset, programs: dict[str, Any], seed: int
) -> Any:
    """Returns the variables after the last step.

    Args:
      programs: compiled programs of this model and objective, filled on the first call; other seeds reuse them.
    """
    split, optimiser, mesh = dataset.train, Adamax(learning_rate=1e-3).build(), data_mesh(1)
    key = jax.random.key(seed)
    if "dispatch" not in programs:
        programs["dispatch"] = make_dispatch(make_step(model, objective, optimiser), mesh, dataset.augment)
    state = init_state(model, objective, optimiser, key, split.take(slice(effort.batch_size)).x)
    plan = Plan(len(split), effort.batch_size, 1, effort.steps, (seed,))
    feed = Resident(split.x, None, plan, mesh)
    for portion in feed.portions(0):
        state, _ = programs["dispatch"](state, feed.data, portion, jax.random.fold_in(key, 1))
    return state.variables


def measure(model: HVAE, effort: Effort, dataset: Dataset, programs: dict[str, Any], variables: Any) -> dict[str, Any]:
    """Returns the numbers of one run, each with its standard error.

    `probe` is the accuracy of a linear probe of samples of all levels, with the nats that this takes at least by Fano's
    inequality; `probe_of_means` that of the posterior means, functions of x without noise, which says nothing of z.

    Args:
      programs: as in `train`.
    """
    test, train = dataset.splits["test"].take(slice(effort.examples)), dataset.splits["train"].take(slice(2000))
    if "measured" not in programs:
        programs["measured"] = jax.jit(lambda v, x, k: measured(model, v, x, k, effort.draws))
        programs["features"] = jax.jit(lambda v, x, k: features(model, v, x, k, draws=4))
    # The same keys for every run, so that numbers of two runs differ by their variables and not by their noise.
    keys = jax.random.split(jax.random.key(100), 4)
    found: Measured = jax.device_get(programs["measured"](variables, test.x, keys[0]))
    used = found.usage
    seen = information(model, variables, test.x, keys[2], min(100, len(test)))
    numbers: dict[str, Any] = {
        "iw_bound": _number(found.bound),
        "elbo": _number(found.elbo),
        "rate": _number(used.rates.sum(0)),
        "top_rate": _number(used.rates[0]),
        "distortion": _number(-used.log_px),
        "information": {
            "lower": float(seen.lower[-1]),
            "lower_error": float(seen.lower_error[-1]),
            "upper": float(seen.upper[-1]),
            "upper_error": float(seen.upper_error[-1]),
            "ceiling": seen.ceiling,
        },
    }
    if train.y is not None and test.y is not None:
        learned, read = (
            jax.device_get(programs["features"](variables, split.x, key))
            for split, key in ((train, keys[3]), (test, keys[1]))
        )
        # All levels together: [draws, N, units] of the samples, [N, units] of the posterior means.
        samples, means = (
            [np.concatenate(level, axis=-1) for level in levels]
            for levels in ((learned.sampled, read.sampled), (learned.means, read.means))
        )
        sampled = accuracy_of(probe_right(samples[0], train.y, samples[1], test.y), test.y)
        numbers["probe"] = dataclasses.asdict(sampled) | {"needs": fano(sampled.value, test.y)}
        numbers["probe_of_means"] = dataclasses.asdict(linear_probe(means[0], train.y, means[1], test.y))
    return numbers


def _number(values: Any) -> dict[str, float]:
    return {"value": float(np.mean(values)), "error": float(standard_error(values))}


def run(
    trials: Callable[[Dataset], Sequence[Trial]],
    data: Data,
    effort: Effort,
    seeds: Sequence[int],
    workers: int,
    path: Path,
    wanted: Row,
) -> tuple[list[Row], Dataset]:
    """Trains and measures every trial with every seed that the table at `path` lacks, and adds it there.

    Args:
      trials: makes the trials for a data set; the seeds of one trial share its compiled programs.
      workers: number of trials trained side by side, in threads, since small convolutions leave cores idle.
      wanted: settings of the study, kept in the table.

    Returns:
      The rows of all trials and seeds, in that order, and the data.

    Raises ValueError if the table was made with other settings, or measured another way.
    """
    use_compilation_cache()
    keep_freed_memory()
    print(doctor.line(), flush=True)
    dataset = data.load()
    print(dataset.describe(), flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = json.loads(settings.dumps(wanted | {"measures": MEASURES}))
    saved = json.loads(path.read_text()) if path.exists() else {"settings": wanted, "rows": []}
    if saved["settings"] != wanted:
        raise ValueError(
            f"{path} was made with other settings, or measured another way: choose another --folder, or delete it."
        )
    rows, start, alone = saved["rows"], time.perf_counter(), threading.Lock()

    def all_seeds(trial: Trial) -> None:
        programs: dict[str, Any] = {}
        for seed in seeds:
            if some(rows, **trial.name, seed=seed):
                continue
            begun = time.perf_counter()
            variables = train(trial.model, trial.objective, effort, dataset, programs, seed)
            row: Row = {**trial.name, "seed": seed, **measure(trial.model, effort, dataset, programs, variables)}
            row["seconds"] = time.perf_counter() - begun
            with alone:  # rows and file are shared by the threads of all trials
                rows.append(row)
                write_whole(path, settings.dumps({"settings": wanted, "rows": rows}))
                numbers = ", ".join(f"{name} {row[name]['value']:.2f}" for name in ("rate", "top_rate", "distortion"))
                known = ", ".join(str(value) for value in trial.name.values())
                fit = -row["iw_bound"]["value"]
                print(f"{known}, seed {seed}: -IW {fit:.2f}, {numbers}, {row['seconds']:.0f} s", flush=True)

    every = trials(dataset)
    with ThreadPoolExecutor(workers) as pool:
        named = [(lambda trial=trial: all_seeds(trial), ", ".join(map(str, trial.name.values()))) for trial in every]
        for done in [pool.submit(attempt, *one) for one in named]:
            done.result()  # what failed was said, and the other trials have their rows
    print(f"{time.perf_counter() - start:.0f} s; the table is {path}", flush=True)
    return [row for trial in every for seed in seeds for row in some(rows, **trial.name, seed=seed)], dataset


def some(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """Returns the rows that have these entries."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def seen(field: int) -> str:
    """The pixels that a decoder of this receptive field sees, in words; -1 stands for all earlier pixels."""
    return "no other pixel" if field == 0 else ("all pixels before" if field < 0 else f"{field} pixels back")


def tidy(axis: Any) -> None:
    """Gives an axis a light grid and no frame."""
    axis.grid(color="#e6e5e0", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors="#52514e", labelsize=8)


def save(figure: Any, path: Path) -> None:
    """Writes a figure as .png and as .svg."""
    for ending in (".png", ".svg"):
        figure.savefig(path.with_suffix(ending), dpi=150)
