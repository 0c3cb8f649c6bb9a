"""Many short trainings of small models, measured alike: what the figures of this folder are drawn from."""

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

import hvae_jax as hv
from hvae_jax.data import Dataset
from hvae_jax.diagnostics import Usage, information, linear_probe, standard_error, usage
from hvae_jax.experiment import Data, settings
from hvae_jax.models import HVAE
from hvae_jax.objectives import Objective
from hvae_jax.runtime import doctor
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.training import Adamax, Plan, data_mesh, init_state, make_dispatch, make_step
from hvae_jax.training.feeds import Resident

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much each model is trained and measured.

    Attributes:
      steps: of training, by Adamax at 1e-3, the same for all; batch_size: examples of each.
      hidden: width of the dense networks; width and layers: of the PixelCNN.
      draws: K of the importance-weighted bound.
      examples: of the test split that are measured.
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
    """One model and what it is trained on; `name` tells it from the others in the table."""

    name: Row
    model: HVAE
    objective: Objective


def train(
    model: HVAE, objective: Objective, effort: Effort, dataset: Dataset, programs: dict[str, Any], seed: int
) -> Any:
    """Variables after the last step."""
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
    """The numbers of one run, each with its standard error; rates are right whatever estimator was trained on."""
    model = model.measured
    test, train = dataset.splits["test"].take(slice(effort.examples)), dataset.splits["train"].take(slice(2000))
    if "usage" not in programs:
        programs["usage"] = jax.jit(lambda v, x, k: usage(model, v, x, k, draws=8))
    keys = jax.random.split(jax.random.key(100), 4)
    bounds = jax.device_get(hv.importance(model, variables, test.x, keys[0], effort.draws, 10))
    used: Usage = jax.device_get(programs["usage"](variables, test.x, keys[1]))
    seen = information(model, variables, test.x, keys[2], min(100, len(test)))
    numbers: dict[str, Any] = {
        "iw_bound": _number(bounds.bound),
        "elbo": _number(bounds.elbo),
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
        learned: Usage = jax.device_get(programs["usage"](variables, train.x, keys[3]))
        together = [np.concatenate(u.posterior_means, axis=1) for u in (learned, used)]
        numbers["probe"] = dataclasses.asdict(linear_probe(together[0], train.y, together[1], test.y))
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
    """All trials with all seeds, in their order: those that the table at `path` has not, trained and added to it.

    Args:
      trials: of the data; the seeds of one share its compiled programs.
      workers: trials side by side, in threads: small convolutions leave cores idle.
      wanted: settings that the table was made with; other ones are refused.
    Raises ValueError for a table that was made with other settings.
    """
    use_compilation_cache()
    keep_freed_memory()
    print(doctor.line(), flush=True)
    dataset = data.load()
    print(dataset.describe(), flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = json.loads(settings.dumps(wanted))
    saved = json.loads(path.read_text()) if path.exists() else {"settings": wanted, "rows": []}
    if saved["settings"] != wanted:
        raise ValueError(f"{path} was made with other settings: choose another --folder, or delete it.")
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
            with alone:
                rows.append(row)
                settings.write_whole(path, settings.dumps({"settings": wanted, "rows": rows}))
                numbers = ", ".join(f"{name} {row[name]['value']:.2f}" for name in ("rate", "top_rate", "distortion"))
                known = ", ".join(str(value) for value in trial.name.values())
                fit = -row["iw_bound"]["value"]
                print(f"{known}, seed {seed}: -IW {fit:.2f}, {numbers}, {row['seconds']:.0f} s", flush=True)

    every = trials(dataset)
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(all_seeds, trial) for trial in every]:
            done.result()
    print(f"{time.perf_counter() - start:.0f} s; the table is {path}", flush=True)
    return [row for trial in every for seed in seeds for row in some(rows, **trial.name, seed=seed)], dataset


def some(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """Rows with these entries."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def seen(field: int) -> str:
    """What a decoder of that receptive field sees, in words."""
    return "no other pixel" if field == 0 else ("all pixels before" if field < 0 else f"{field} pixels back")


def tidy(axis: Any) -> None:
    """Light grid, no frame."""
    axis.grid(color="#e6e5e0", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors="#52514e", labelsize=8)


def save(figure: Any, path: Path) -> None:
    """As .png and as .svg."""
    for ending in (".png", ".svg"):
        figure.savefig(path.with_suffix(ending), dpi=150)
