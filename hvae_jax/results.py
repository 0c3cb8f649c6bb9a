"""What goes between data, model and folder: do they fit, and a run's numbers, pictures and last lines."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from hvae_jax import doctor, meters, plots
from hvae_jax.compilation import jit_once
from hvae_jax.data.dataset import Dataset, Split
from hvae_jax.diagnostics import interpolate, level_by_level, traverse
from hvae_jax.evaluation import evaluate
from hvae_jax.likelihoods import Bernoulli, Categorical, DiscretisedLogistic, LogisticMixture, Quantised, for_data
from hvae_jax.trace import Model
from hvae_jax.training.loop import Outcome
from hvae_jax.training.mesh import host_copy
from hvae_jax.training.report import Reporter, read_metrics
from hvae_jax.training.rows import level_names


def check_fits(model: Model, dataset: Dataset) -> None:
    """Raises ValueError if the model's likelihood or its labels do not fit the data, with what would."""
    image, event = getattr(model, "image", None), dataset.event
    if image is not None and tuple(image) != event:
        raise ValueError(
            f"The model is for images of {_by(image)}, but those of {dataset.name} are {_by(event)}. Take another "
            "preset, or set model.image and what reaches it; --data.size scales some data sets."
        )
    likelihood = getattr(model, "likelihood", None)
    if likelihood is not None:
        for name, split in dataset.splits.items():
            some = split if isinstance(split.x, np.ndarray) else split.take(slice(256))  # the rest as it is read
            try:
                likelihood.check(some.x, f"{dataset.name}, {name} split,")
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


def _by(shape: Sequence[int]) -> str:
    """28x28x1."""
    return "x".join(map(str, shape))


def for_model(split: Split, model: Model) -> Split:
    """A split as the model takes it: labels only where it has classes."""
    return split if getattr(model, "classes", 0) else Split(split.x)


def measured(model: Model) -> tuple[Model, list[str]]:
    """The model by which a run is measured, and what has to be said of it where it was trained on another quantity."""
    by = getattr(model, "measured", model)
    return by, [] if by == model else [WRONG_ESTIMATOR]


WRONG_ESTIMATOR = (
    "Trained, validated and chosen by the printed formula, which is no bound (estimator='printed_not_the_elbo'); all "
    "numbers of ELBO and rates here are by the right one."
)


def measure(experiment: Any, dataset: Dataset, outcome: Outcome, mesh: Mesh) -> dict[str, Any]:
    """What goes into result.json: the best variables' numbers on every split, and how they came about."""
    wanted = experiment.evaluation
    last = list(dataset.splits)[-1]
    draws = {name: wanted.draws if name == last else wanted.other_draws for name in dataset.splits}
    key = jax.random.fold_in(jax.random.key(experiment.seed), 1)
    some, (model, notes) = dataset, measured(experiment.model)
    if wanted.train_examples is not None and len(dataset.splits["train"]) > wanted.train_examples:
        first = dataset.splits["train"].take(slice(wanted.train_examples))
        some = dataclasses.replace(dataset, splits={**dataset.splits, "train": first})
    numbers = evaluate(model, outcome.best, some, key, draws, wanted.chunk, wanted.size, mesh=mesh)
    progress, state = outcome.progress, outcome.state
    epoch_steps = experiment.training.plan(len(dataset.train)).epoch_steps
    return numbers | {
        "examples": {name: len(split) for name, split in some.splits.items()},
        **({"notes": notes} if notes else {}),
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


class Sketch:
    """Samples and reconstructions of a model as it is: the same examples and the same keys at every call.

    Called as `sketch(step, variables, reporter)` it leaves two grids in pictures/ of the run folder and hands them to
    the reporter's sinks: what training does at intervals.
    """

    def __init__(self, model: Model, dataset: Dataset, seed: int, folder: Path) -> None:
        """Takes the first 64 examples of the test split, or of validation."""
        split = for_model(dataset.splits.get("test", dataset.splits["validation"]).take(slice(64)), model)
        self.x, self._y, self._folder = split.x, split.y, folder
        self.value_range = image_range(dataset)
        self.levels = len(level_names(model, split))
        key = jax.random.fold_in(jax.random.key(seed), 2)
        self._key_samples, self._key_all, self._key_top = jax.random.split(key, 3)
        x, y, n = split.x, split.y, len(split)
        self._generate = jit_once(lambda v, k: model.apply(v, k, n, y=y, method="generate"))
        self._reconstruct = jit_once(lambda v, k, top: model.apply(v, x, k, y=y, keep_top=top, method="reconstruct"))

    def __call__(self, step: int, variables: Any, reporter: Reporter) -> None:
        """Draws and hands on; all processes of a run have to call it."""
        local = host_copy(variables)
        if jax.process_index() != 0:
            return
        self._folder.joinpath("pictures").mkdir(exist_ok=True)
        reconstructions = np.stack([self.x[:32], self.reconstructions(local)[:32]], axis=1)
        beside = reconstructions.reshape(-1, *self.x.shape[1:])
        for name, images in (("samples", self.samples(local)), ("reconstructions", beside)):
            picture = plots.grid_picture(images, 8, self.value_range)
            plots.save_picture(self._folder / "pictures" / f"{name}_{step:08d}.png", picture)
            reporter.image(name, picture, step)

    def samples(self, variables: Any) -> np.ndarray:
        """As many new examples as there are real ones here."""
        return np.asarray(self._generate(variables, self._key_samples))

    def reconstructions(self, variables: Any, keep_top: int | None = None) -> np.ndarray:
        """Means of the examples, all levels inferred or the top ones alone."""
        key = self._key_all if keep_top is None else self._key_top
        return np.asarray(self._reconstruct(variables, key, self.levels if keep_top is None else keep_top))


def draw(sketch: Sketch, variables: Any, best_step: int, folder: Path) -> None:
    """The four pictures, from a copy of the variables on this process: another thread may use the devices of all."""
    every = sketch.levels
    plots.save_grids(folder / "real.png", {"real": sketch.x}, 8, sketch.value_range)
    plots.save_grids(folder / "samples.png", {"samples": sketch.samples(variables)}, 8, sketch.value_range)
    panels = {
        "real": sketch.x,
        f"all {every} levels" if every > 1 else "reconstruction": sketch.reconstructions(variables),
    }
    if every > 1:
        panels["top level only"] = sketch.reconstructions(variables, 1)
    plots.save_grids(folder / "reconstructions.png", {k: v[:36] for k, v in panels.items()}, 6, sketch.value_range)
    plots.save_curve(folder / "curve.png", read_metrics(folder / "metrics.jsonl"), best_step)


def walk_pictures(
    model: Model, variables: Any, dataset: Dataset, report: dict[str, Any], key: jax.Array
) -> dict[str, bytes]:
    """Pictures for a report, caption to PNG: levels one by one, samples, a traversal of each level, interpolations.

    Of many levels, the traversals are of the eight with the highest rates.
    """
    split = for_model(dataset.splits[report["split"]].take(slice(8)), model)
    x, y, values = np.asarray(split.x), split.y, image_range(dataset)
    keys = jax.random.split(key, 4)

    def grid(rows: np.ndarray) -> bytes:
        """`[rows, columns, *event]`."""
        return plots.picture_bytes(plots.grid_picture(rows.reshape(-1, *x.shape[1:]), rows.shape[1], values))

    by_level = np.asarray(jit_once(lambda v: level_by_level(model, v, x, keys[0], y))(variables))
    names = report["levels"]
    caption = (
        f"Reconstructions from no level, from {names[0]}, and so on down to all {len(names)}; last, the image itself"
    )
    found = {caption: grid(np.concatenate([by_level, x[:, None].astype(by_level.dtype)], axis=1))}
    labels = None if y is None else np.resize(y, 64)
    drawn = jit_once(lambda v: model.apply(v, keys[1], 64, y=labels, method="generate"))(variables)
    found["Samples"] = grid(np.asarray(drawn).reshape(8, 8, *x.shape[1:]))
    steps = np.linspace(-2.5, 2.5, 9)
    dearest = sorted(range(len(names)), key=lambda i: -report["rates"][i]["value"])[:8]
    for level in sorted(dearest):
        unit = report["units"][level]["order"][0]
        walk = jit_once(lambda v, at=level, u=unit: traverse(model, v, x, keys[2], at, u, steps, y))
        caption = f"The dearest unit of {names[level]} (unit {unit}) from -2.5 to 2.5 standard deviations of its prior"
        found[caption] = grid(np.asarray(walk(variables)))
    ways = jit_once(lambda v: interpolate(model, v, x, np.roll(x, 1, axis=0), keys[3], 9, y=y))(variables)
    found["From one image to the next, along great circles in the noise of all levels"] = grid(np.asarray(ways))
    return found


def image_range(dataset: Dataset) -> tuple[float, float]:
    """What is drawn black and what white."""
    if dataset.kind.num_values:
        return 0.0, float(dataset.kind.num_values - 1)
    x = dataset.splits["train"].take(slice(1024)).x
    return float(x.min()), float(x.max())


def range_of_model(model: Any) -> tuple[float, float] | None:
    """The smallest and the largest value that a model's likelihood gives; None where it has none or sets no bounds."""
    match getattr(model, "likelihood", None):
        case Bernoulli():
            return 0.0, 1.0
        case Categorical(num_values=values) | LogisticMixture(values=values) | DiscretisedLogistic(values=values):
            return 0.0, values - 1.0
        case Quantised(of=family, step=step):
            return 0.0, family.values * step - 1.0
    return None


def summary(result: dict[str, Any], folder: Path) -> str:
    """The last lines of a run: its numbers, and where its files are."""
    head = (
        f"{result['steps']:,} steps ({result['epochs']:.0f} epochs) in {result['seconds']:.1f} s, "
        f"{result['steps_per_second']:.0f} steps/s; {result['select']} at epoch {result['best_epoch']:.0f}, "
        f"validation -ELBO {-result['best_validation_elbo']:.2f} (one draw)"
    )
    names = ("result.json", "curve.png", "samples.png", "reconstructions.png", "real.png")
    files = f"Everything is in {folder}/: {', '.join(name for name in names if (folder / name).exists())}, ..."
    return "\n".join((head, table(result), *result.get("notes", ()), files))


MANY_LEVELS = 8
"""More than these do not fit on a line."""


def table(numbers: dict[str, Any]) -> str:
    """Bounds, bits and rates by split, nats per example with the standard error over the split.

    Of many levels of maps it gives the rates by resolution; `level_table` has them all.
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


def read(path: Path) -> dict[str, Any]:
    """A result.json; what was not finite, and stands there as null, becomes nan."""

    def numbers(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: numbers(item) for name, item in value.items()}
        return float("nan") if value is None else value

    return numbers(json.loads(path.read_text()))


def data_record(dataset: Dataset) -> dict[str, Any]:
    """What a result says of its data."""
    return {
        "name": dataset.name,
        "hash": dataset.content_hash,
        "protocol": dataset.protocol,
        "kind": str(dataset.kind),
        "examples": {name: len(split) for name, split in dataset.splits.items()},
    }
