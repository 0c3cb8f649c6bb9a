"""An experiment: one frozen record of real objects, run by one function, with a typed command line over it."""

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import logging
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro
from flax import linen as nn

from hvae_jax import data, doctor, meters, results, run_folder, settings
from hvae_jax.cluster import Cluster, is_first
from hvae_jax.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.data.augment import Augment
from hvae_jax.data.dataset import Dataset
from hvae_jax.ending import PREEMPTED, errors_said, without_closed_loops
from hvae_jax.objectives import GECO, NegativeELBO, Objective
from hvae_jax.training.checkpoint import Checkpoints
from hvae_jax.training.feeds import Examples, Feeding
from hvae_jax.training.loop import Machine, Outcome, Watching, train
from hvae_jax.training.mesh import agree, check_divides, data_mesh, host_copy
from hvae_jax.training.optimisers import Adamax, Optimiser
from hvae_jax.training.report import JsonLines, Reporter, Sink, TensorBoard, Tracker, read_metrics
from hvae_jax.training.schedule import Training
from hvae_jax.training.signals import Interrupted, interrupting
from hvae_jax.training.state import TrainState, initial_state


@dataclasses.dataclass(frozen=True)
class Data:
    """Which data set, and how its values are prepared.

    Attributes:
      name: digits, mnist, fashion_mnist, cifar10, binarized_mnist, omniglot, omniglot_resized, svhn_cropped,
        imagenet32, imagenet64, downsampled_imagenet32, downsampled_imagenet64, celeb_a64, tfds:NAME, the path of an
        .npz or of a folder of images.
      directory: where TFDS data is prepared or downloads are kept; None is the usual place.
      binarise: binary values from grey ones: "dynamic" draws x ~ Bernoulli(x / max) anew at each training step and
        once, for good, in evaluation; "static" draws once; "threshold" cuts at half. None is as the data set has it.
      flip: mirror training images from left to right with probability 1/2.
      bits: of each pixel that are kept, 1 to 8.
      size: images of a folder or of tfds:NAME are resized and cropped to this height and width; None leaves them.
      bad_files: whether a file of a folder that will not do is refused or skipped.
    """

    name: str = "digits"
    directory: str | None = None
    binarise: Literal["dynamic", "static", "threshold"] | None = None
    flip: bool = False
    bits: int = 8
    size: int | None = None
    bad_files: Literal["refuse", "skip"] = "refuse"

    def load(self) -> Dataset:
        """Reads it, or opens it where it is too large for that."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return data.load(**options)

    def of_other(self, name: str, directory: str | None = None) -> Dataset:
        """Another data set, prepared as this one: without what it has no need of, being binary or of 8 bits already."""
        resized = self.size if name.startswith("tfds:") or Path(name).is_dir() else None
        plain = dataclasses.replace(
            self, name=name, directory=directory, size=resized, binarise=None, bits=8, flip=False
        ).load()
        bits = self.bits if plain.kind == data.integer(256) else 8
        return data.prepare(plain, binarise=None if plain.kind == data.BINARY else self.binarise, flip=False, bits=bits)


@dataclasses.dataclass(frozen=True)
class Devices:
    """What the run is spread over.

    Attributes:
      count: of devices, over all processes; None takes all there are.
      fsdp: split parameters, averages and the optimiser's state over the devices, for a model that does not fit on one.
    """

    count: int | None = None
    fsdp: bool = False


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How the finished model is measured.

    Attributes:
      draws: K of the importance-weighted bound on the test split (validation, where there is none).
      other_draws: K on the other splits.
      chunk: draws held in memory at once.
      size: examples held in memory at once.
      train_examples: how many of the train split are measured, its first ones; None takes all.
    """

    draws: int = 500
    other_draws: int = 50
    chunk: int = 10
    size: int = 450
    train_examples: int | None = 10_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise ValueError(f"evaluation.{field.name} is {value}, but it has to be 1 or more.")


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
      feed: how the data comes to the devices.
      devices: what the run is spread over.
      seed: of everything random.
    """

    name: str
    model: nn.Module
    data: Data = Data()
    objective: Objective = NegativeELBO()
    optimiser: Optimiser = Adamax()
    training: Annotated[Training, tyro.conf.arg(name="")] = Training()
    evaluation: Evaluation = Evaluation()
    feed: Feeding = Feeding()
    devices: Devices = Devices()
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Command:
    """What a script's command line takes: the experiment's settings, and what to do with the run folder.

    Attributes:
      experiment: its settings.
      folder: the run folder; runs/NAME if it is not given.
      resume: go on in a folder that holds other settings, or on other data, under the new ones.
      overwrite: start over, deleting what an earlier run left in the folder.
      profile: write a trace of three dispatches to profile/ in the run folder, for xprof or ui.perfetto.dev.
      tracker: send numbers and pictures to Weights & Biases or trackio too.
      cluster: the processes of a run on several machines.
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    folder: Path | None = None
    resume: bool = False
    overwrite: bool = False
    profile: bool = False
    tracker: Literal["wandb", "trackio"] | None = None
    cluster: Cluster = Cluster()


def main(
    experiment: Experiment | Mapping[str, Experiment],
    arguments: Sequence[str] | None = None,
    description: str | None = None,
) -> None:
    """The command line of an experiment script: parses, runs, and turns what went wrong into one clear line.

    Of several experiments by name, `--preset NAME` takes one, and the first without it; all other flags change what it
    says.

    Exit codes: 0 done, 1 an error that is said, 2 settings that do not parse, 75 ended by SIGTERM and saved (the same
    command goes on), 130 likewise by Ctrl-C, 134 another process of the run was lost.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # what Orbax logs of an error, the error itself says
    with without_closed_loops(), errors_said():
        if isinstance(experiment, Mapping):
            experiment, arguments = _preset(experiment, arguments)
        command = tyro.cli(
            Command,
            args=arguments,
            default=Command(experiment),
            description=description,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        meters.compiled()  # counts from here on
        several = command.cluster.start()
        use_compilation_cache()
        keep_freed_memory()
        if is_first():
            print(doctor.line(), flush=True)
        if several:
            here = f"process {jax.process_index()} of {jax.process_count()}, {jax.local_device_count()} devices"
            print(f"{here}; ends within {command.cluster.lost_timeout} s if another one is lost", flush=True)
        folder = command.folder or Path("runs") / command.experiment.name
        same = "The same command without --overwrite" if command.overwrite else "The same command"
        try:
            outcome = run(
                command.experiment,
                folder,
                resume=command.resume,
                overwrite=command.overwrite,
                profile=command.profile,
                tracker=command.tracker,
            )
            number = outcome.interrupted
            at = f"at step {int(outcome.state.step)}; saved in {folder}"
        except Interrupted as interrupted:
            number, at = interrupted.number, f"while measuring; what was trained is saved in {folder}"
    if number:
        say(f"Interrupted {at}. {same} goes on from there.")
        sys.exit(PREEMPTED if number == signal.SIGTERM else 128 + number)


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
    results.check_fits(experiment.model, dataset)
    mesh = data_mesh(experiment.devices.count)
    check_divides(experiment.training.batch_size, mesh, experiment.training.microbatch)
    content = dataset.content_hash
    _check_alike(content)
    mebibytes = -agree(-(meters.total_device_memory() // 2**20))[0]  # the least of all processes
    machine = Machine(mesh, experiment.feed, mebibytes * 2**20, experiment.devices.fsdp)
    train_data, validation = (
        results.for_model(split, experiment.model) for split in (dataset.train, dataset.splits["validation"])
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
    sketch = results.Sketch(experiment.model, dataset, experiment.seed, folder)
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
            pictures = beside.submit(results.draw, *drawing) if is_first() else None
            result = results.measure(experiment, dataset, outcome, mesh)
            if is_first():
                if isinstance(experiment.objective, GECO):
                    unmet = experiment.objective.unmet(read_metrics(folder / "metrics.jsonl"))
                    result["unmet_constraints"] = unmet
                settings.write_whole(folder / "result.json", settings.dumps(result))
            if pictures is not None:
                pictures.result()
        say(results.summary(result, folder))
        for sentence in result.get("unmet_constraints", ()):
            say(f"warning: {sentence}")
    return outcome


def _preset(presets: Mapping[str, Experiment], arguments: Sequence[str] | None) -> tuple[Experiment, Sequence[str]]:
    """The experiment that `--preset` names, and the arguments that are left."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=f"[--preset {'|'.join(presets)}] ...")
    parser.add_argument("--preset", choices=list(presets), default=next(iter(presets)))
    chosen, left = parser.parse_known_args(arguments)
    return presets[chosen.preset], left


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
