"""A run as its folder has it: settings, data and best variables."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hvae_jax.data.dataset import Dataset, Split
from hvae_jax.experiment import settings
from hvae_jax.experiment.checks import check_fits
from hvae_jax.experiment.records import Experiment
from hvae_jax.experiment.run import abstract_state
from hvae_jax.runtime.files import check_path
from hvae_jax.training.checkpoint import Checkpoints, Progress
from hvae_jax.training.mesh import data_mesh


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


def read_experiment(folder: Path, modules: Sequence[str] = ()) -> Experiment:
    """The settings of a run folder.

    Args:
      modules: modules beside hvae_jax that the settings may name.
    Raises FileNotFoundError for a folder without a run, ValueError for settings that are no experiment's or of another
    layout.
    """
    check_path(folder)
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
        hint = "Files of weights become one by `hvae import`."
        if (folder.parent / "settings.json").exists():
            hint = f"Give the folder that it is in: {folder.parent}."
        return FileNotFoundError(f"{folder} is a file, but the folder of a run is needed. {hint}")
    what = "holds no run: there is no settings.json in it" if folder.exists() else "does not exist"
    near = folder if folder.exists() else folder.parent
    runs = sorted(path.parent.name for path in near.glob("*/settings.json"))
    some = f" Runs in {near}: {', '.join(runs[:5])}{', ...' if len(runs) > 5 else ''}." if runs else ""
    return FileNotFoundError(f"{folder} {what}.{some}")


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
    experiment = read_experiment(folder, modules)
    dataset = experiment.data.load() if data is None else experiment.data.of_other(data, directory)
    if data is not None:
        check_fits(experiment.model, dataset)
    try:
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
    experiment = read_experiment(folder, modules)
    return experiment, *best_variables(folder, experiment, an_example(experiment))


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
    state = abstract_state(experiment, examples.for_classes(experiment.model.classes))
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    try:
        restored = checkpoints.restore(state, state.variables, data_mesh())
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
