"""A run's numbers for people: result.json, and the tables that are printed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from hvae_jax.data.dataset import Dataset
from hvae_jax.experiment.evaluation import evaluate
from hvae_jax.experiment.records import Experiment
from hvae_jax.runtime import doctor, meters
from hvae_jax.training.loop import Outcome


def measure(experiment: Experiment, dataset: Dataset, outcome: Outcome, mesh: Mesh) -> dict[str, Any]:
    """The contents of result.json: the best variables' numbers on every split, and how they came about."""
    wanted = experiment.evaluation
    last = list(dataset.splits)[-1]
    draws = {name: wanted.draws if name == last else wanted.other_draws for name in dataset.splits}
    key = jax.random.fold_in(jax.random.key(experiment.seed), 1)
    some = dataset
    if wanted.train_examples is not None and len(dataset.splits["train"]) > wanted.train_examples:
        first = dataset.splits["train"].take(slice(wanted.train_examples))
        some = dataclasses.replace(dataset, splits={**dataset.splits, "train": first})
    numbers = evaluate(experiment.model, outcome.best, some, key, draws, wanted.chunk, wanted.size, mesh=mesh)
    progress, state = outcome.progress, outcome.state
    epoch_steps = experiment.training.plan(len(dataset.train)).epoch_steps
    return numbers | {
        "examples": {name: len(split) for name, split in some.splits.items()},
        "select": experiment.training.select,
        "best_validation_elbo": progress.best_elbo,
        "best_step": progress.best_step,
        "best_epoch": progress.best_step / epoch_steps,
        "steps": int(state.step),
        "epochs": int(state.step) / epoch_steps,
        "skipped_steps": int(state.skipped),
        "seconds": progress.seconds,
        "steps_per_second": progress.steps_per_second,
        "images_per_second": progress.steps_per_second * experiment.training.batch_size,
        "compilation": dataclasses.asdict(meters.compiled()),
        "memory": meters.peak_memory(),
        "feed": outcome.feed,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "seed": experiment.seed,
        "data": data_record(dataset),
        "versions": doctor.versions(),
        "device": doctor.devices() | {"used": mesh.size, "fsdp": experiment.devices.fsdp},
    }


def summary(result: dict[str, Any], folder: Path) -> str:
    """The last lines that a run prints: its numbers, and where its files are."""
    head = (
        f"{result['steps']:,} steps ({result['epochs']:.0f} epochs) in {result['seconds']:.1f} s, "
        f"{result['steps_per_second']:.0f} steps/s; {result['select']} at epoch {result['best_epoch']:.0f}, "
        f"validation -ELBO {-result['best_validation_elbo']:.2f} (one draw)"
    )
    names = ("result.json", "curve.png", "samples.png", "reconstructions.png", "real.png")
    files = f"Everything is in {folder}/: {', '.join(name for name in names if (folder / name).exists())}, ..."
    return "\n".join((head, table(result), files))


MANY_LEVELS = 8
"""Largest number of levels whose rates fit on a line."""


def table(numbers: dict[str, Any]) -> str:
    """Bounds, bits and rates by split: nats per example with the standard error over the split.

    The rates of more than `MANY_LEVELS` levels of maps are summed by resolution; `level_table` has every level.
    """
    few = len(next(iter(numbers["rates"].values()))) <= MANY_LEVELS or "rates_by_side" not in numbers
    what = "level (active units)" if few else "resolution"
    lines = [f"{'':12s}{'-ELBO':>17s}{'-log p(x) <=':>17s}{'bits/dim':>10s}   KL by {what}"]
    for split in numbers["elbo"]:
        error, rates, units = (numbers[name][split] for name in ("standard_error", "rates", "active_units"))
        levels = ", ".join(f"{name} {rate:.2f} ({units[name]})" for name, rate in rates.items())
        if not few:
            levels = ", ".join(f"{side} {rate:.2f}" for side, rate in numbers["rates_by_side"][split].items())
            levels += f" ({len(rates)} levels)"
        lines.append(
            f"{split:12s}{-numbers['elbo'][split]:10.2f} ± {error['elbo']:4.2f}"
            f"{-numbers['iw_bound'][split]:9.2f} (K={numbers['k'][split]:d})".ljust(46)
            + f"{numbers['bits_per_dim'][split]['iw_bound']:10.3f}   {levels}"
        )
    return "\n".join(lines)


def level_table(result: dict[str, Any]) -> str:
    """A line for each level, top first: rate by split, share of the total rate, active units."""
    splits = list(result["rates"])
    header = f"{'level':8s}" + "".join(f"{'KL ' + split:>16s}" for split in splits) + f"{'share':>8s}{'active':>8s}"
    last = splits[-1]
    total = sum(result["rates"][last].values()) or 1.0
    lines = [header]
    for level, rate in result["rates"][last].items():
        cells = "".join(f"{result['rates'][split][level]:16.2f}" for split in splits)
        lines.append(f"{level:8s}{cells}{rate / total:8.0%}{result['active_units'][last][level]:8d}")
    lines.append(f"nats per example; share of the total rate and active units on the {last} split")
    return "\n".join(lines)


def read(path: Path) -> dict[str, Any]:
    """The contents of a result.json, with nan for null, which stands for what was not finite."""

    def numbers(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: numbers(item) for name, item in value.items()}
        return float("nan") if value is None else value

    return numbers(json.loads(path.read_text()))


def data_record(dataset: Dataset) -> dict[str, Any]:
    """A result's record of its data."""
    return {
        "name": dataset.name,
        "hash": dataset.content_hash,
        "protocol": dataset.protocol,
        "kind": str(dataset.kind),
        "examples": {name: len(split) for name, split in dataset.splits.items()},
    }
