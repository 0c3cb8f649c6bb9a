"""What goes between data, model and folder: do they fit, and a run's numbers, pictures and last lines."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hvae_jax import doctor, plots
from hvae_jax.compilation import jit_once
from hvae_jax.data.dataset import Dataset, Split
from hvae_jax.evaluation import evaluate
from hvae_jax.likelihoods import for_data
from hvae_jax.objectives import Batch
from hvae_jax.trace import Model
from hvae_jax.training.loop import Outcome, level_names
from hvae_jax.training.report import read_metrics


def check_fits(model: Model, dataset: Dataset) -> None:
    """Raises ValueError if the model's likelihood or its labels do not fit the data, with what would."""
    likelihood = getattr(model, "likelihood", None)
    if likelihood is not None:
        for name, split in dataset.splits.items():
            try:
                likelihood.check(split.x, f"{dataset.name}, {name} split,")
            except ValueError as error:
                raise ValueError(f"{error} For this data set ({dataset.kind}), {for_data(dataset)} fits.") from None
    classes = getattr(model, "classes", 0)
    if not classes:
        return
    for name, split in dataset.splits.items():
        if split.y is None:
            raise ValueError(
                f"The model has classes={classes}, but {dataset.name} has no labels in its {name} split: set "
                "model.classes to 0, or add them."
            )
        if split.y.max() >= classes:
            raise ValueError(
                f"The model has classes={classes}, but {dataset.name} has the label {split.y.max()} in its {name} "
                f"split ({dataset.classes} labels in train): set model.classes to {int(split.y.max()) + 1} or more."
            )


def to_batch(split: Split, model: Model) -> Batch:
    """A split as the model takes it: labels only where it has classes."""
    labels = split.y if getattr(model, "classes", 0) else None
    return Batch(jnp.asarray(split.x), None if labels is None else jnp.asarray(labels))


def measure(experiment: Any, dataset: Dataset, outcome: Outcome) -> dict[str, Any]:
    """What goes into result.json: the best variables' numbers on every split, and how they came about."""
    wanted = experiment.evaluation
    last = list(dataset.splits)[-1]
    draws = {name: wanted.draws if name == last else wanted.other_draws for name in dataset.splits}
    key = jax.random.fold_in(jax.random.key(experiment.seed), 1)
    numbers = evaluate(experiment.model, outcome.best, dataset, key, draws, wanted.chunk, wanted.size)
    progress, state = outcome.progress, outcome.state
    epoch_steps = experiment.training.plan(len(dataset.splits["train"])).epoch_steps
    return numbers | {
        "best_validation_elbo": progress.best_elbo,
        "best_step": progress.best_step,
        "best_epoch": progress.best_step / epoch_steps,
        "steps": int(state.step),
        "epochs": int(state.step) / epoch_steps,
        "skipped_steps": int(state.skipped),
        "seconds": progress.seconds,
        "steps_per_second": progress.steps_per_second,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "seed": experiment.seed,
        "data": data_record(dataset),
        "versions": doctor.versions(),
        "device": doctor.devices(),
    }


def draw(experiment: Any, dataset: Dataset, outcome: Outcome, folder: Path) -> None:
    """The four pictures."""
    split = dataset.splits.get("test", dataset.splits["validation"])
    model, variables = experiment.model, outcome.best
    key = jax.random.fold_in(jax.random.key(experiment.seed), 2)
    key_samples, key_all, key_top = jax.random.split(key, 3)
    some = Split(split.x[:64], None if split.y is None else split.y[:64])
    batch, value_range = to_batch(some, model), image_range(dataset)
    samples = jit_once(lambda v, k: model.apply(v, k, len(some), y=batch.y, method="generate"))(variables, key_samples)
    reconstruct = jit_once(lambda v, k, top: model.apply(v, batch.x, k, y=batch.y, keep_top=top, method="reconstruct"))
    every = len(level_names(model, batch))
    plots.save_grids(folder / "real.png", {"real": some.x}, 8, value_range)
    plots.save_grids(folder / "samples.png", {"samples": np.asarray(samples)}, 8, value_range)
    panels = {
        "real": some.x,
        f"all {every} levels" if every > 1 else "reconstruction": np.asarray(reconstruct(variables, key_all, every)),
    }
    if every > 1:
        panels["top level only"] = np.asarray(reconstruct(variables, key_top, 1))
    plots.save_grids(folder / "reconstructions.png", {k: v[:36] for k, v in panels.items()}, 6, value_range)
    plots.save_curve(folder / "curve.png", read_metrics(folder / "metrics.jsonl"), outcome.progress.best_step)


def image_range(dataset: Dataset) -> tuple[float, float]:
    """What is drawn black and what white."""
    if dataset.kind.num_values:
        return 0.0, float(dataset.kind.num_values - 1)
    x = dataset.splits["train"].x
    return float(x.min()), float(x.max())


def summary(result: dict[str, Any], folder: Path) -> str:
    """The last lines of a run: its numbers, and where its files are."""
    head = (
        f"{result['steps']:,} steps ({result['epochs']:.0f} epochs) in {result['seconds']:.1f} s, "
        f"{result['steps_per_second']:.0f} steps/s; best at epoch {result['best_epoch']:.0f}, "
        f"validation -ELBO {-result['best_validation_elbo']:.2f} (one draw)"
    )
    files = f"Everything is in {folder}/: result.json, curve.png, samples.png, reconstructions.png, real.png, ..."
    return "\n".join((head, table(result), files))


def table(numbers: dict[str, Any]) -> str:
    """Bounds, bits and rates by split, nats per example with the standard error over the split."""
    lines = [f"{'':12s}{'-ELBO':>17s}{'-log p(x) <=':>17s}{'bits/dim':>10s}   KL by level (active units)"]
    for split in numbers["elbo"]:
        error, rates, units = (numbers[name][split] for name in ("standard_error", "rates", "active_units"))
        levels = ", ".join(f"{name} {rate:.2f} ({units[name]})" for name, rate in rates.items())
        lines.append(
            f"{split:12s}{-numbers['elbo'][split]:9.2f} +- {error['elbo']:4.2f}"
            f"{-numbers['iw_bound'][split]:9.2f} (K={numbers['k'][split]:d})".ljust(46)
            + f"{numbers['bits_per_dim'][split]['iw_bound']:10.3f}   {levels}"
        )
    return "\n".join(lines)


def level_table(result: dict[str, Any]) -> str:
    """One line a level, top first: rate by split, share of the total rate, active units."""
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


def data_record(dataset: Dataset) -> dict[str, Any]:
    """What a result says of its data."""
    return {
        "name": dataset.name,
        "hash": dataset.content_hash,
        "protocol": dataset.protocol,
        "kind": str(dataset.kind),
        "examples": {name: len(split) for name, split in dataset.splits.items()},
    }
