"""A run's numbers for people: result.json, and the tables that are printed."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from hvae_jax.data.dataset import Dataset
from hvae_jax.experiment.evaluation import evaluate
from hvae_jax.experiment.records import Experiment
from hvae_jax.experiment.schema import check_result
from hvae_jax.runtime import doctor, meters
from hvae_jax.runtime.columns import aligned
from hvae_jax.runtime.json_files import read_json
from hvae_jax.runtime.memory import memory_for
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
    with memory_for("measuring", "Lower --evaluation.size; what was trained is saved."):
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
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.variables["params"])),
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
    rows = [["", "-ELBO", "-log p(x) <=", "bits/dim", f"KL by {what}"]]
    for split in numbers["elbo"]:
        error, rates, units = (numbers[name][split] for name in ("standard_error", "rates", "active_units"))
        bound = f"{-numbers['iw_bound'][split]:.2f} (K={numbers['k'][split]:d})"
        bits = f"{numbers['bits_per_dim'][split]['iw_bound']:.3f}"
        levels = ", ".join(f"{name} {rate:.2f} ({units[name]})" for name, rate in rates.items())
        if not few:
            levels = ", ".join(f"{side} {rate:.2f}" for side, rate in numbers["rates_by_side"][split].items())
            levels += f" ({len(rates)} levels)"
        spread = f" ± {error['elbo']:.2f}" if math.isfinite(error["elbo"]) else ""  # NaN for a single example
        rows.append([split, f"{-numbers['elbo'][split]:.2f}{spread}", bound, bits, levels])
    units = "; active units in brackets" if few else ""
    note = f"nats per example, -ELBO ± its standard error; bits/dim of -log p(x){units}"
    return "\n".join((*aligned(rows, left=(0, 4)), *_classes(numbers), note))


def _classes(numbers: dict[str, Any]) -> list[str]:
    """A line for each split on the class among the latents; nothing for a model without one."""
    lines = []
    for split, found in numbers.get("classes", {}).items():
        line = f"{split} classes: I(x; y) {found['information']:.2f} nats, {found['used']:.1f} in use"
        if "accuracy" in found and "clustering" in found:
            # of a train split with few labels a high accuracy says little; older results have no such number
            of = f" of {found['labelled']:,} labelled" if "labelled" in found else ""
            line += f";{of} {found['accuracy']:.1%} are the label, {found['clustering']:.1%} matched one to one"
        lines.append(line)
    return lines


def level_table(result: dict[str, Any]) -> str:
    """A line for each level, top first: rate by split, share of the total rate, active units."""
    splits = list(result["rates"])
    rows = [["level", *(f"KL {split}" for split in splits), "share", "active"]]
    last = splits[-1]
    total = sum(result["rates"][last].values()) or 1.0
    for level, rate in result["rates"][last].items():
        cells = [f"{result['rates'][split][level]:.2f}" for split in splits]
        rows.append([level, *cells, f"{rate / total:.0%}", f"{result['active_units'][last][level]:d}"])
    note = f"nats per example; share of the total rate and active units on the {last} split"
    return "\n".join((*aligned(rows), note))


def read(path: Path) -> dict[str, Any]:
    """The contents of a result.json, with nan for null, which stands for what was not finite.

    Raises ValueError, as `read_json` and `check_result` do, for a file that is no result.
    """

    def numbers(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: numbers(item) for name, item in value.items()}
        return float("nan") if value is None else value

    return numbers(check_result(read_json(path), str(path)))


def data_record(dataset: Dataset) -> dict[str, Any]:
    """A result's record of its data."""
    return {
        "name": dataset.name,
        "hash": dataset.content_hash,
        "protocol": dataset.protocol,
        "kind": str(dataset.kind),
        "examples": {name: len(split) for name, split in dataset.splits.items()},
    }
