"""A run: prepare, train, conclude, all of it in one folder."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from hvae_jax.data.augment import Augment
from hvae_jax.data.dataset import Dataset
from hvae_jax.experiment import checks, contents, settings, tables
from hvae_jax.experiment import folder as run_folder
from hvae_jax.experiment.records import Experiment
from hvae_jax.experiment.rehearsal import rehearse
from hvae_jax.objectives import Objective, stretched
from hvae_jax.report.sketch import FINAL_PICTURES, Sketch, save_final_pictures
from hvae_jax.runtime import meters, texts
from hvae_jax.runtime.cluster import is_first
from hvae_jax.runtime.errors import first_line, raised_here
from hvae_jax.runtime.files import write_whole
from hvae_jax.runtime.memory import memory_for
from hvae_jax.training.checkpoint import Checkpoints
from hvae_jax.training.feeds import Examples
from hvae_jax.training.lock import FolderLock
from hvae_jax.training.loop import Outcome, Watching, train
from hvae_jax.training.machine import Machine
from hvae_jax.training.mesh import agree, check_divides, data_mesh, host_copy
from hvae_jax.training.optimisers import Optimiser
from hvae_jax.training.signals import interrupting
from hvae_jax.training.sinks import JsonLines, Reporter, Sink, TensorBoard, Tracker, read_metrics
from hvae_jax.training.stages import check_stages, optimiser_in
from hvae_jax.training.state import TrainState, initial_state
from hvae_jax.training.task import Provenance, Task


def run(
    experiment: Experiment,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    profile: bool = False,
    tracker: str | None = None,
) -> Outcome:
    """Train, measure and draw; leave everything in `folder`, and go on where an earlier run ended there.

    Measuring and drawing are rehearsed before training. What still fails in a picture is a warning: the run has its
    result all the same. A run that is finished and measured keeps its result.

    In a run of several processes every one calls this with the same arguments, with a folder on a disk that all share.

    Args:
      resume: go on in a folder that holds other settings, or on other data.
      overwrite: delete what an earlier run left in the folder.
      profile: trace some dispatches into profile/ in the folder.
      tracker: "wandb" or "trackio", which get numbers and pictures too.
    Raises ValueError for settings that do not fit the data, a folder that holds other ones or that another process
    trains in, OSError if the folder cannot be written, DivergedError as `train` does.
    """
    lock = FolderLock(folder)
    try:
        prepared = prepare(experiment, folder, lock, resume=resume, overwrite=overwrite, tracker=tracker)
        outcome = _train(prepared, profile)
        if not outcome.interrupted:
            conclude(prepared, outcome)
    finally:
        lock.release()
    return outcome


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A run whose settings, data, devices and folder fit each other.

    Attributes:
      experiment: its settings.
      folder: the run folder.
      lock: its lock, which the first process holds.
      dataset: the data, read.
      task: what is trained.
      machine: what it is trained on.
      provenance: hashes of data and experiment.
      sketch: draws samples and reconstructions.
      tracker: "wandb", "trackio" or None.
    """

    experiment: Experiment
    folder: Path
    lock: FolderLock
    dataset: Dataset
    task: Task
    machine: Machine
    provenance: Provenance
    sketch: Sketch
    tracker: str | None

    def reporter_at(self, step: int, last_step: int) -> Reporter:
        """The progress line and the sinks of a run that starts at `step`."""
        sinks: list[Sink] = []
        if is_first():
            # Not written before the checkpoint has turned out to fit: until here a folder is as it was.
            settings.save(self.folder / "settings.json", self.experiment)
            if step < last_step:
                (self.folder / "result.json").unlink(missing_ok=True)
            sinks = [JsonLines(self.folder / "metrics.jsonl", step), TensorBoard(self.folder / "tensorboard", step)]
            if self.tracker is not None:
                config = settings.to_json(self.experiment)
                sinks.append(Tracker(self.tracker, "hvae_jax", self.experiment.name, config, self.folder))
        going_on = f"{f'at step {step:,}, ' if step else ''}training to step {last_step:,} at most"
        say(f"{going_on if step < last_step else f'finished at step {step:,}'}; {self.folder}/")
        batch_size = self.experiment.training.batch_size
        reporter = Reporter(sinks, last_step, step, batch_size=batch_size, silent=not is_first())
        if step < last_step:
            reporter.wait("compiling the training step ...")  # the first dispatch comes next
        return reporter


def prepare(
    experiment: Experiment,
    folder: Path,
    lock: FolderLock,
    *,
    resume: bool = False,
    overwrite: bool = False,
    tracker: str | None = None,
) -> Prepared:
    """Reads the data, and checks that model, data, devices and folder fit before anything is computed or written.

    Other args and errors are those of `run`.

    Args:
      lock: the folder's; the first process takes it, and the caller releases it.
    """
    checks.check_numbers(experiment)
    dataset = experiment.data.load()
    say(dataset.describe())
    checks.check_fits(experiment.model, dataset)
    checks.check_labels(experiment.model, experiment.objective, dataset)
    checks.check_objective(experiment.model, experiment.objective, dataset)
    mesh = data_mesh(experiment.devices.count)
    check_divides(experiment.training.batch_size, mesh, experiment.training.microbatch)
    content = dataset.content_hash
    _check_alike(content)
    mebibytes = -agree(-(meters.total_device_memory() // 2**20))[0]  # the least of all processes
    classes = experiment.model.classes
    # a class that is a latent is known where training has a label, and inferred everywhere else
    train_split = dataset.train.for_classes(classes or experiment.model.clusters)
    state = abstract_state(experiment, train_split)  # before anything else is made of the settings
    _check_stages(experiment, train_split)
    objective, optimiser = in_time(experiment, len(train_split.x))
    count = sum(leaf.size for leaf in jax.tree.leaves(state.variables["params"]))
    say(f"{type(experiment.model).__name__}: {experiment.model.num_levels} levels, {count:,} parameters")
    task = Task(
        experiment.model,
        objective,
        optimiser.build(),
        train_split,
        dataset.splits["validation"].for_classes(classes),
        None if dataset.augment == Augment() else dataset.augment,
    )
    split_over = mesh.size if experiment.devices.fsdp else 1
    checks.check_state_fits(state, mebibytes * 2**20, split_over)

    def prepare_folder() -> None:
        run_folder.check(folder, experiment, resume=resume, overwrite=overwrite)
        lock.take(say)
        contents.sweep(folder)
        run_folder.check_space(folder, state, experiment.training.keep)
        if tracker is not None and importlib.util.find_spec(tracker) is None:
            raise ImportError(f"{tracker} is not installed: pip install {tracker}")
        if overwrite:
            contents.clear(folder)
        contents.claim(folder)
        if warning := run_folder.outlives_machine(folder):
            say(f"warning: {warning}")

    sketch = Sketch(experiment.model, dataset, experiment.seed, folder)
    # A run that goes on was rehearsed when it began.
    if resume or overwrite or not (folder / "metrics.jsonl").exists():
        rehearse(experiment.model, state.variables, dataset, sketch)
    _first_alone(prepare_folder)
    return Prepared(
        experiment,
        folder,
        lock,
        dataset,
        task,
        Machine(mesh, experiment.feed, mebibytes * 2**20, experiment.devices.fsdp),
        Provenance(content, _identity(experiment, content), any_data=resume),
        sketch,
        tracker,
    )


_LESS = (
    "Give --microbatch, or lower --batch-size or the model's sizes (with --resume in the same folder); --feed.kind "
    "streamed leaves the data on the host."
)
"""Remedy for memory that runs out in training."""


def _train(prepared: Prepared, profile: bool) -> Outcome:
    """Trains a prepared run; checkpoints and profiler are closed whatever happens."""
    experiment, folder = prepared.experiment, prepared.folder
    profiler = meters.Profiler(folder / "profile") if profile and is_first() else None
    watching = Watching(prepared.reporter_at, folder / "metrics.jsonl", prepared.sketch, profiler)
    checkpoints = Checkpoints(folder / "checkpoints", experiment.training.keep, guard=prepared.lock.check)
    key = jax.random.key(experiment.seed)
    try:
        with memory_for("training", _LESS):
            outcome = train(
                prepared.task, experiment.training, key, prepared.machine, checkpoints, watching, prepared.provenance
            )
    except BaseException:
        if profiler is not None:
            profiler.close()
        if jax.process_count() == 1:  # of several, the others may be gone, and closing waits for them
            with contextlib.suppress(Exception):
                checkpoints.close()
        raise
    checkpoints.close()
    if profiler is not None:
        profiler.close()
        traced = f"a trace of {profiler.traced} dispatches is in {folder}/profile"
        say(traced if profiler.traced else "too short to trace")
    return outcome


def conclude(prepared: Prepared, outcome: Outcome) -> None:
    """Measures and draws what was trained: result.json, the final pictures, a summary and the objective's remarks.

    A result.json of this state stands, and pictures are drawn again only if one is missing. A picture, a remark or a
    summary that fails is a warning.
    """
    experiment, folder = prepared.experiment, prepared.folder
    kept = _result_of(prepared, outcome) if is_first() else None
    (measured,) = agree(int(kept is not None))
    drawn = measured and all((folder / name).exists() for name in FINAL_PICTURES)
    best = None if drawn else host_copy(outcome.best)  # by all processes, in the order of their other programs
    result: dict[str, Any] = kept or {}
    # Side by side, since the pictures wait for Python and the numbers for the device. The numbers wait for nothing.
    with interrupting(), ThreadPoolExecutor(1) as beside:
        drawing = (prepared.sketch, best, outcome.progress.best_step, folder)
        pictures = beside.submit(save_final_pictures, *drawing) if is_first() and not drawn else None
        if not measured:
            result = tables.measure(experiment, prepared.dataset, outcome, prepared.machine.mesh)
            if is_first():
                rows = folder / "metrics.jsonl"
                remarks = _or_warning("the objective", lambda: experiment.objective.conclude(read_metrics(rows)))
                result |= {"remarks": remarks or (), "measured": _measured(prepared)}
                write_whole(folder / "result.json", settings.dumps(result))
        if pictures is not None:
            _or_warning("the final pictures", pictures.result)
    if not is_first():
        return
    if measured:
        say(f"{folder}/result.json has the numbers of this state: nothing is measured again.")
    if summary := _or_warning("the summary", lambda: tables.summary(result, folder)):
        say(summary)
    for sentence in result["remarks"]:
        say(f"warning: {sentence}")


def _or_warning(what: str, action: Callable[[], Any]) -> Any:
    """What `action` returns; None, with a warning, if it fails."""
    try:
        return action()
    except Exception as error:
        say(f"warning: {what} failed ({type(error).__name__}: {first_line(error)}); nothing else is lost.")
        return None


def _measured(prepared: Prepared) -> str:
    """A hash of what the numbers of result.json refer to, beside the state that was measured."""
    wanted = prepared.experiment.evaluation
    named = [prepared.provenance.identity, wanted.draws, wanted.other_draws, wanted.train_examples]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]


def _result_of(prepared: Prepared, outcome: Outcome) -> dict[str, Any] | None:
    """The contents of result.json if they are of this state and these settings; None if not, or if there are none."""
    experiment, path = prepared.experiment, prepared.folder / "result.json"
    wanted = {
        "steps": int(outcome.state.step),
        "best_step": outcome.progress.best_step,
        "select": experiment.training.select,
        "seed": experiment.seed,
        "measured": _measured(prepared),
    }
    try:
        found = tables.read(path)
        return found if all(found.get(name) == value for name, value in wanted.items()) else None
    except (OSError, ValueError, AttributeError):  # missing, damaged, no object
        return None


def _check_stages(experiment: Experiment, examples: Examples) -> None:
    """Raises ValueError for stages that do not fit the model (`check_stages`), or that training never reaches."""
    one = examples.take(slice(1))
    experiment.training.plan(len(examples.x))
    check_stages(experiment.training.stages, experiment.model, experiment.objective, one.x, one.y, jax.random.key(0))


def abstract_state(experiment: Experiment, examples: Examples, stage: int = 0) -> TrainState:
    """Shapes and dtypes of an experiment's training state; nothing is computed.

    Args:
      stage: index of the stage of training, of whose parameters alone the optimiser has a state.
    Raises ValueError for a number that no machine could build, and for settings that cannot be made.
    """
    checks.check_numbers(experiment)
    one = examples.take(slice(1))
    ema, key = experiment.training.ema is not None, jax.random.key(0)
    model, objective = experiment.model, experiment.objective
    try:
        optimiser = optimiser_in(experiment.optimiser.build(), experiment.training.stage(stage), objective)
        return jax.eval_shape(lambda: initial_state(model, objective, optimiser, key, one.x, one.y, ema))
    except Exception as error:
        if isinstance(error, ValueError | TypeError) and raised_here(error):
            raise
        # Settings that no check of ours knows, such as an activation that is no function of arrays.
        raise ValueError(
            f"With these settings {type(model).__name__}, {type(objective).__name__} and "
            f"{type(experiment.optimiser).__name__} cannot be made for examples of shape {one.x.shape[1:]}: "
            f"{type(error).__name__}, {first_line(error)}"
        ) from error


def in_time(experiment: Experiment, examples: int) -> tuple[Objective, Optimiser]:
    """Objective and optimiser with schedules stretched to the run's length, which is said if it changes them.

    Args:
      examples: size of the train split.
    """
    written = experiment.training.schedule_steps
    last = experiment.training.plan(examples).last_step
    parts = experiment.objective, experiment.optimiser
    if written is None or written == last:
        return parts
    if (changed := stretched(parts, last / written)) != parts:
        say(f"schedules are stretched from {written:,} to {last:,} steps; --schedule-steps None leaves them")
    return changed


def say(line: str) -> None:
    """Prints a line on the first process of a run."""
    if is_first():
        texts.say(line)


def _identity(experiment: Experiment, content: str) -> str:
    """A hash of what a validation score refers to: model, objective and data."""
    named = [settings.to_json(getattr(experiment, name)) for name in ("model", "objective")]
    return hashlib.sha256(json.dumps([*named, content]).encode()).hexdigest()[:16]


def _check_alike(content: str) -> None:
    """Raises ValueError, on every process, if the processes of a run have different data."""
    number = int(content[:7], 16)
    high, low = agree(number, -number)
    if high != -low:
        raise ValueError(
            f"The processes of this run have different data (this one's hash is {content}): each needs the same files, "
            "wherever --data.name and --data.directory point on its machine."
        )


def _first_alone(action: Callable[[], None]) -> None:
    """Runs `action` on the first process. If it raises there, the other processes raise ValueError."""
    error: Exception | None = None
    if is_first():
        try:
            action()
        except Exception as caught:
            error = caught
    (failed,) = agree(int(error is not None))
    if error is not None:
        raise error
    if failed:
        raise ValueError("process 0 did not start; its message says why.")
