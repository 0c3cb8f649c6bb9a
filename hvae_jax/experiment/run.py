"""A run: an experiment trained, measured and drawn into a folder."""

import contextlib
import hashlib
import importlib.util
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax

from hvae_jax.data.augment import Augment
from hvae_jax.experiment import checks, settings, tables
from hvae_jax.experiment import folder as run_folder
from hvae_jax.experiment.records import Experiment
from hvae_jax.report import sketch as pictures_of
from hvae_jax.runtime import meters
from hvae_jax.runtime.cluster import is_first
from hvae_jax.training.checkpoint import Checkpoints
from hvae_jax.training.feeds import Examples
from hvae_jax.training.loop import Machine, Outcome, Watching, train
from hvae_jax.training.mesh import agree, check_divides, data_mesh, host_copy
from hvae_jax.training.signals import interrupting
from hvae_jax.training.sinks import JsonLines, Reporter, Sink, TensorBoard, Tracker, read_metrics
from hvae_jax.training.state import TrainState, initial_state


def run(
    experiment: Experiment,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    profile: bool = False,
    tracker: str | None = None,
) -> Outcome:
    """Trains, measures and draws; leaves everything in `folder`, and goes on where an earlier run of it ended.

    In a run of several processes all of them call this alike, with the same folder on a disk that all of them see.

    Raises ValueError for settings that do not fit the data or a folder that holds other ones, OSError where the
    folder cannot be written, DivergedError as `train` does.
    """
    dataset = experiment.data.load()
    say(dataset.describe())
    checks.check_fits(experiment.model, dataset)
    mesh = data_mesh(experiment.devices.count)
    check_divides(experiment.training.batch_size, mesh, experiment.training.microbatch)
    content = dataset.content_hash
    _check_alike(content)
    mebibytes = -agree(-(meters.total_device_memory() // 2**20))[0]  # the least of all processes
    machine = Machine(mesh, experiment.feed, mebibytes * 2**20, experiment.devices.fsdp)
    train_data, validation = (
        split.for_classes(experiment.model.classes) for split in (dataset.train, dataset.splits["validation"])
    )
    state = abstract_state(experiment, train_data)

    def prepare() -> None:
        run_folder.check(folder, experiment, resume=resume, overwrite=overwrite)
        run_folder.check_space(folder, state, experiment.training.keep)
        if tracker is not None and importlib.util.find_spec(tracker) is None:
            raise ImportError(f"{tracker} is not installed: pip install 'hvae-jax[{tracker}]'")
        if overwrite:
            run_folder.clear(folder)
        if warning := run_folder.outlives_machine(folder):
            say(f"warning: {warning}")

    _first_alone(prepare)
    sketch = pictures_of.Sketch(experiment.model, dataset, experiment.seed, folder)
    profiler = meters.Profiler(folder / "profile") if profile and is_first() else None

    def reporter_at(step: int, last_step: int) -> Reporter:
        sinks: list[Sink] = []
        if is_first():
            settings.save(folder / "settings.json", experiment)  # not before the checkpoint has turned out to fit
            if step < last_step:
                (folder / "result.json").unlink(missing_ok=True)
            sinks = [JsonLines(folder / "metrics.jsonl", step), TensorBoard(folder / "tensorboard", step)]
            if tracker is not None:
                sinks.append(Tracker(tracker, "hvae_jax", experiment.name, settings.to_json(experiment), folder))
        say(f"{f'at step {step}, ' if step else ''}training to step {last_step:,} at most; {folder}/")
        return Reporter(sinks, last_step, step, batch_size=experiment.training.batch_size, silent=not is_first())

    checkpoints = Checkpoints(folder / "checkpoints", experiment.training.keep)
    try:
        outcome = train(
            experiment.model,
            experiment.objective,
            experiment.optimiser.build(),
            train_data,
            validation,
            experiment.training,
            jax.random.key(experiment.seed),
            machine,
            checkpoints,
            Watching(reporter_at, folder / "metrics.jsonl", sketch, profiler),
            None if dataset.augment == Augment() else dataset.augment,
            content,
            resume,
            _identity(experiment, content),
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
    if not outcome.interrupted:
        best = host_copy(outcome.best)  # by all processes, in the order of their other programs
        # Side by side, since the pictures wait for Python and the numbers for the device.
        with interrupting(), ThreadPoolExecutor(1) as beside:
            drawing = (sketch, best, outcome.progress.best_step, folder)
            pictures = beside.submit(pictures_of.draw, *drawing) if is_first() else None
            result = tables.measure(experiment, dataset, outcome, mesh)
            if is_first():
                result["remarks"] = experiment.objective.conclude(read_metrics(folder / "metrics.jsonl"))
                settings.write_whole(folder / "result.json", settings.dumps(result))
            if pictures is not None:
                pictures.result()
        say(tables.summary(result, folder))
        for sentence in result.get("remarks", ()):
            say(f"warning: {sentence}")
    return outcome


def abstract_state(experiment: Experiment, examples: Examples) -> TrainState:
    """Shapes and dtypes of the training state, nothing computed."""
    one = examples.take(slice(1))
    optimiser, ema = experiment.optimiser.build(), experiment.training.ema is not None
    model, objective, key = experiment.model, experiment.objective, jax.random.key(0)
    return jax.eval_shape(lambda: initial_state(model, objective, optimiser, key, one.x, one.y, ema))


def say(line: str) -> None:
    """Prints, on the first process of a run."""
    if is_first():
        print(line, flush=True)


def _identity(experiment: Experiment, content: str) -> str:
    """Of what a validation's number refers to: model, objective and data."""
    named = [settings.to_json(getattr(experiment, name)) for name in ("model", "objective")]
    return hashlib.sha256(json.dumps([*named, content]).encode()).hexdigest()[:16]


def _check_alike(content: str) -> None:
    """Raises ValueError, on every process, where the processes of a run have different data."""
    number = int(content[:7], 16)
    high, low = agree(number, -number)
    if high != -low:
        raise ValueError(
            f"The processes of this run have different data (this one's hash is {content}): each needs the same files, "
            "wherever --data.name and --data.directory point on its machine."
        )


def _first_alone(action: Callable[[], None]) -> None:
    """Does something on the first process alone; what that raises, the others hear of."""
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
