"""A run as its folder has it: settings, data and best variables; or a file of `hvae export`, or a model in the box."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hvae_jax.convert.array_files import read_arrays
from hvae_jax.data.dataset import Dataset, Split
from hvae_jax.experiment import box, hub, settings
from hvae_jax.experiment.checks import check_fits
from hvae_jax.experiment.exported import described, fitting, is_exported
from hvae_jax.experiment.records import Experiment
from hvae_jax.experiment.run import abstract_state
from hvae_jax.experiment.schema import check_result
from hvae_jax.runtime.files import check_path
from hvae_jax.runtime.json_files import read_json
from hvae_jax.training.checkpoint import Checkpoints, Progress
from hvae_jax.training.mesh import data_mesh
from hvae_jax.training.state import TrainState

_IMPORT = "Files of weights become one by `hvae import`."


@dataclasses.dataclass(frozen=True)
class OpenedRun:
    """A run read from its folder, whether it is finished or still training.

    Attributes:
      experiment: its settings.
      dataset: its data, or the data set that was asked for in its place.
      variables: those of the best validation so far.
      progress: what it has reached.
    """

    experiment: Experiment
    dataset: Dataset
    variables: Any
    progress: Progress


@dataclasses.dataclass(frozen=True)
class Stored:
    """What is stored of a run, without its data.

    Attributes:
      experiment: its settings.
      variables: those of the best validation so far.
      progress: what it has reached.
      card: what is known of the model.
    """

    experiment: Experiment
    variables: Any
    progress: Progress
    card: box.Card


def read_experiment(folder: Path, modules: Sequence[str] = ()) -> Experiment:
    """The settings of a run folder, of a file of `hvae export`, or of a model in the box, by its name.

    Args:
      modules: modules beside hvae_jax that the settings may name.
    Raises FileNotFoundError for a folder without a run, ValueError for settings that are no experiment's or of another
    layout.
    """
    check_path(folder)
    folder = box.resolved(folder)
    if _is_weights(folder) and (stored := _without_data(folder, modules)) is not None:
        return stored.experiment
    path = folder / "settings.json"
    if not path.exists():
        raise no_run(folder)
    experiment = settings.load(path, modules)
    if not isinstance(experiment, Experiment):
        raise ValueError(f"{path} describes a {type(experiment).__name__}, not an Experiment.")
    return experiment


def no_run(folder: Path) -> FileNotFoundError:
    """The error for a path that is no folder of a run: what it is, and where runs are near it."""
    if folder.is_file():
        hint = _IMPORT
        if (folder.parent / "settings.json").exists():
            hint = f"Give the folder that it is in: {folder.parent}."
        return FileNotFoundError(f"{folder} is a file, but the folder of a run is needed. {hint}")
    what = "holds no run: there is no settings.json in it" if folder.exists() else "does not exist"
    near = folder if folder.exists() else folder.parent
    runs = sorted(path.parent.name for path in near.glob("*/settings.json"))
    some = f" Runs in {near}: {', '.join(runs[:5])}{', ...' if len(runs) > 5 else ''}." if runs else ""
    boxed = f" {box.in_the_box(folder.name)}".rstrip() if len(folder.parts) == 1 else ""
    return FileNotFoundError(f"{folder} {what}.{some}{boxed}")


def outputs(run: Path, name: str) -> Path:
    """Path of a file that a command makes of a run: in its folder or, for packed and exported ones, in the current one.

    There the name of the run is put in front: "digits_topdown_samples_t1.png".
    """
    if hub.address_of(run) is not None:
        return Path(f"{run.name.partition('@')[0]}_{name}")
    folder = box.resolved(run)
    if folder.is_dir() and not box.is_packed(folder):
        return run / name
    own = folder.stem if folder.is_file() else run.name or folder.resolve().name
    return Path(f"{own}_{name}")


def card_of(
    experiment: Experiment, variables: Any, event: tuple[int, ...], result: dict[str, Any], progress: Progress
) -> box.Card:
    """The card of a run, from its settings, variables, the shape of one x, result.json and what it has reached."""
    numbers: dict[str, Any] = {}
    data = result.get("data", {})
    split = list(result.get("elbo", {None: None}))[-1]
    if split is not None and result["elbo"][split] is not None and result["iw_bound"][split] is not None:
        numbers = {name: result[name][split] for name in ("elbo", "iw_bound", "k")}
        numbers |= {"split": split, "examples": result.get("examples", {}).get(split, 0)}
    return box.Card(
        experiment.name,
        event=event,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        seed=experiment.seed,
        data=data,
        numbers=numbers,
        result=result,
        progress=dict(vars(progress)),
    )


def open_run(
    folder: Path, modules: Sequence[str] = (), data: str | None = None, directory: str | None = None
) -> OpenedRun:
    """Settings, data and best variables of a run folder.

    Args:
      modules: modules beside hvae_jax that the settings may name.
      data, directory: another data set in place of the run's, prepared as the run's was.
    Raises FileNotFoundError for a folder without a run or without a checkpoint, ValueError for settings, data or
    checkpoints that do not fit.
    """
    folder = box.resolved(folder)
    experiment = read_experiment(folder, modules)
    dataset = experiment.data.load() if data is None else experiment.data.of_other(data, directory)
    if data is not None:
        check_fits(experiment.model, dataset)
    try:
        if (stored := _without_data(folder, modules)) is not None:
            return OpenedRun(experiment, dataset, stored.variables, stored.progress)
        variables, progress = best_variables(folder, experiment, dataset.splits["train"])
    except ValueError as error:
        if data is None:
            raise
        raise ValueError(f"{dataset.name} has examples of shape {dataset.event}, which do not fit: {error}") from error
    return OpenedRun(experiment, dataset, variables, progress)


def open_variables(folder: Path, modules: Sequence[str] = ()) -> tuple[Experiment, Any, Progress]:
    """Settings and best variables; the data is read only if the model does not say which shape an example has.

    Raises as `open_run` does.
    """
    stored = open_stored(folder, modules)
    return stored.experiment, stored.variables, stored.progress


def open_stored(run: Path, modules: Sequence[str] = ()) -> Stored:
    """All that is stored of a run but its data: of a run folder, a file of `hvae export`, or a model in the box.

    The data of a run folder is read only if the model does not say which shape an example has.
    Raises as `open_run` does.
    """
    folder = box.resolved(run)
    if (stored := _without_data(folder, modules)) is not None:
        return stored
    experiment = read_experiment(folder, modules)
    example = an_example(experiment)
    variables, progress = best_variables(folder, experiment, example)
    path = folder / "result.json"
    result = check_result(read_json(path), str(path)) if path.exists() else {}
    card = card_of(experiment, variables, tuple(example.x.shape[1:]), result, progress)
    return Stored(experiment, variables, progress, card)


def _is_weights(path: Path) -> bool:
    return path.suffix == ".safetensors" and path.is_file()


def _without_data(folder: Path, modules: Sequence[str]) -> Stored | None:
    """What a packed folder or an exported file has; None for a run folder."""
    if box.is_packed(folder):
        return Stored(*box.read_packed(folder, modules))
    if not _is_weights(folder):
        return None
    file = read_arrays(folder)
    if not is_exported(file):
        raise ValueError(f"{folder} was not written by `hvae export`. {_IMPORT}")
    experiment, event, progress, result = described(folder, file.metadata, modules)
    variables = fitting(folder, experiment.model, event, file.arrays)
    return Stored(experiment, variables, progress, card_of(experiment, variables, event, result, progress))


def best_variables(folder: Path, experiment: Experiment, examples: Split) -> tuple[Any, Progress]:
    """The variables of a run's best validation, and what the run has reached.

    Args:
      examples: of the run's shape; nothing else of them counts.
    Raises FileNotFoundError if nothing was saved yet, ValueError as `Checkpoints.restore` does.
    """
    nothing = FileNotFoundError(f"{folder} has no checkpoints: the run has not come to its first save.")
    # Checkpoints would make the folder, and reading makes nothing.
    if not (folder / "checkpoints").is_dir():
        raise nothing
    split = examples.for_classes(experiment.model.classes)
    first = abstract_state(experiment, split)

    def in_stage(progress: Progress) -> TrainState:
        return abstract_state(experiment, split, progress.stage) if progress.stage else first

    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    try:
        restored = checkpoints.restore(in_stage, first.variables, data_mesh())
    finally:
        checkpoints.close()
    if restored is None:
        raise nothing
    return restored[1], restored[2]


def an_example(experiment: Experiment) -> Split:
    """One example as the model takes it: zeros if the model says of which shape, otherwise the first of the data."""
    model = experiment.model
    if model.image is None:
        return experiment.data.load().splits["train"].take(slice(1))
    labels = np.zeros(1, np.int32) if model.classes else None
    return Split(np.zeros((1, *model.image), np.float32), labels)
