"""An experiment: one frozen record of real objects, run by one function, with a typed command line over it."""

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import jax
import tyro
from flax import linen as nn

from hvae_jax import doctor, results, run_folder, settings
from hvae_jax.compilation import use_compilation_cache
from hvae_jax.data.dataset import Dataset
from hvae_jax.data.sources import load
from hvae_jax.objectives import Batch, NegativeELBO, Objective
from hvae_jax.training.checkpoint import Checkpoints
from hvae_jax.training.loop import DivergedError, Outcome, Training, train
from hvae_jax.training.mesh import check_divides, data_mesh
from hvae_jax.training.optimisers import Adamax, Optimiser
from hvae_jax.training.report import JsonLines, Reporter, Sink, TensorBoard
from hvae_jax.training.state import TrainState, initial_state


@dataclasses.dataclass(frozen=True)
class Data:
    """Which data set.

    Attributes:
      name: "digits", "tfds:NAME" (such as tfds:mnist, tfds:binarized_mnist), or the path of an .npz.
      directory: where TFDS data is prepared; None is TFDS's own default.
    """

    name: str = "digits"
    directory: str | None = None

    def load(self) -> Dataset:
        """Reads it."""
        return load(self.name, self.directory)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How the finished model is measured.

    Attributes:
      draws: K of the importance-weighted bound on the test split (validation, where there is none).
      other_draws: K on the other splits.
      chunk: draws held in memory at once.
      size: examples held in memory at once.
    """

    draws: int = 500
    other_draws: int = 50
    chunk: int = 10
    size: int = 450

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"evaluation.{field.name} is {getattr(self, field.name)}, but it has to be 1 or more.")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that decides a run's numbers.

    Attributes:
      name: of the run folder, runs/NAME, unless a folder is given.
      model: a model; its fields are its settings.
      data: which data set.
      objective: what is minimised.
      optimiser: how.
      training: how long, in what portions.
      evaluation: how the finished model is measured.
      seed: of everything random.
    """

    name: str
    model: nn.Module
    data: Data = Data()
    objective: Objective = NegativeELBO()
    optimiser: Optimiser = Adamax()
    training: Annotated[Training, tyro.conf.arg(name="")] = Training()
    evaluation: Evaluation = Evaluation()
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Command:
    """What a script's command line takes: the experiment's settings, and what to do with the run folder.

    Attributes:
      experiment: its settings.
      folder: the run folder; runs/NAME if it is not given.
      resume: go on in a folder that holds other settings, under the new ones.
      overwrite: start over, deleting what an earlier run left in the folder.
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    folder: Path | None = None
    resume: bool = False
    overwrite: bool = False


def main(experiment: Experiment, arguments: Sequence[str] | None = None, description: str | None = None) -> None:
    """The command line of an experiment script: parses, runs, and turns what went wrong into one clear line.

    Exit codes: 0 done, 1 an error that is said, 2 settings that do not parse, 128 + n ended by signal n.
    """
    with errors_said():
        command = tyro.cli(
            Command,
            args=arguments,
            default=Command(experiment),
            description=description,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        use_compilation_cache()
        print(doctor.line(), flush=True)
        folder = command.folder or Path("runs") / command.experiment.name
        outcome = run(command.experiment, folder, resume=command.resume, overwrite=command.overwrite)
    if outcome.interrupted:
        print(f"Interrupted at step {int(outcome.state.step)}; saved in {folder}. The same command goes on from there.")
        sys.exit(128 + outcome.interrupted)


def run(experiment: Experiment, folder: Path, *, resume: bool = False, overwrite: bool = False) -> Outcome:
    """Trains, measures and draws; leaves everything in `folder`, and goes on where an earlier run of it ended.

    Raises ValueError for settings that do not fit the data or a folder that holds other ones, OSError where the
    folder cannot be written, DivergedError as `train` does.
    """
    dataset = experiment.data.load()
    print(dataset.describe(), flush=True)
    results.check_fits(experiment.model, dataset)
    mesh = data_mesh()
    check_divides(experiment.training.batch_size, mesh)
    splits = {name: results.to_batch(split, experiment.model) for name, split in dataset.splits.items()}
    state = abstract_state(experiment, splits["train"])
    run_folder.check(folder, experiment, resume=resume, overwrite=overwrite)
    run_folder.check_space(folder, state)
    if overwrite:
        run_folder.clear(folder)

    def reporter_at(step: int, last_step: int) -> Reporter:
        settings.save(folder / "settings.json", experiment)  # not before the checkpoint has turned out to fit
        if step < last_step:
            (folder / "result.json").unlink(missing_ok=True)
        print(f"{f'at step {step}, ' if step else ''}training to step {last_step:,} at most; {folder}/", flush=True)
        sinks: list[Sink] = [JsonLines(folder / "metrics.jsonl", step), TensorBoard(folder / "tensorboard", step)]
        return Reporter(sinks, last_step, step)

    checkpoints = Checkpoints(folder / "checkpoints")
    try:
        outcome = train(
            experiment.model,
            experiment.objective,
            experiment.optimiser.build(),
            splits["train"],
            splits["validation"],
            experiment.training,
            jax.random.key(experiment.seed),
            mesh,
            checkpoints,
            reporter_at,
        )
    finally:
        checkpoints.close()
    if not outcome.interrupted:
        with ThreadPoolExecutor(1) as beside:  # the pictures wait for Python, the numbers for the device
            pictures = beside.submit(results.draw, experiment, dataset, outcome, folder)
            result = results.measure(experiment, dataset, outcome)
            settings.write_whole(folder / "result.json", settings.dumps(result))
            pictures.result()
        print(results.summary(result, folder))
    return outcome


def abstract_state(experiment: Experiment, data: Batch) -> TrainState:
    """Shapes and dtypes of the training state, nothing computed."""
    few = jax.tree.map(lambda a: a[:1], data)
    optimiser, ema = experiment.optimiser.build(), experiment.training.ema is not None
    model, objective, key = experiment.model, experiment.objective, jax.random.key(0)
    return jax.eval_shape(lambda: initial_state(model, objective, optimiser, key, few.x, few.y, ema))


@contextmanager
def errors_said() -> Iterator[None]:
    """Ends the program with one clear message where a user's setting, file or data is at fault."""
    try:
        yield
    except (ValueError, OSError, ImportError, DivergedError) as error:
        if os.environ.get("HVAE_TRACEBACK"):
            raise
        print(f"error: {error}\n(HVAE_TRACEBACK=1 shows where.)", file=sys.stderr)
        sys.exit(1)
