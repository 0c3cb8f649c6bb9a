"""The loop: step, report, validate, save, resume."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from hvae_jax.runtime.meters import Profiler
from hvae_jax.trace import level_names
from hvae_jax.training.begin import Start, begin, enter
from hvae_jax.training.checkpoint import Checkpoints, Progress
from hvae_jax.training.dispatch import Dispatch, make_dispatch
from hvae_jax.training.feeds import Feed, until
from hvae_jax.training.machine import Machine
from hvae_jax.training.mesh import agree, check_divides, state_sharding
from hvae_jax.training.metrics import Commentary, per_level, summarise
from hvae_jax.training.settings import Training, crossed
from hvae_jax.training.signals import stop_signals
from hvae_jax.training.sinks import Reporter, read_metrics
from hvae_jax.training.soundness import Soundness
from hvae_jax.training.stages import trains_in
from hvae_jax.training.state import TrainState, copied
from hvae_jax.training.step import make_step
from hvae_jax.training.task import Provenance, Task
from hvae_jax.training.validate import Validate


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of training.

    Attributes:
      state: the last state.
      best: variables of the best validation, or the last ones, as `Training.select` says.
      progress: what was reached.
      interrupted: number of the signal that ended the run early; None where none did.
      feed: how the train split got to the devices, "resident" or "streamed".
    """

    state: TrainState
    best: Any
    progress: Progress
    interrupted: int | None
    feed: str


class DivergedError(RuntimeError):
    """Too many steps in a row were not finite, or the parameters are not, or no validation was within reason."""


@dataclasses.dataclass(frozen=True)
class Watching:
    """The observers of a run while it trains.

    Attributes:
      reporter_at: `(first step, last step) -> Reporter`, called once it is known where the run starts; both steps are
        the same if it is finished.
      metrics: path of metrics.jsonl, from which a resumed run learns what went before; None for none.
      pictures: `(step, variables, reporter)`, called every `pictures_every` steps; None draws nothing.
      profiler: traces dispatches; None traces none.
    """

    reporter_at: Callable[[int, int], Reporter]
    metrics: Path | None = None
    pictures: Callable[[int, Any, Reporter], None] | None = None
    profiler: Profiler | None = None

    def rows_before(self, step: int) -> list[dict[str, float | int]]:
        """The rows of metrics.jsonl up to and including `step`."""
        if self.metrics is None or not self.metrics.exists():
            return []
        return [row for row in read_metrics(self.metrics) if row["step"] <= step]

    def dispatch(self) -> contextlib.AbstractContextManager[Any]:
        """A context for one dispatch."""
        return contextlib.nullcontext() if self.profiler is None else self.profiler.dispatch()


def train(
    task: Task,
    settings: Training,
    key: Array,
    machine: Machine,
    checkpoints: Checkpoints,
    watching: Watching,
    provenance: Provenance,
) -> Outcome:
    """Train until patience or steps run out, stage by stage, from the last checkpoint if there is one.

    The same settings, data and key on the same devices give the same parameters bit for bit, however often the run
    was interrupted. In a run of several processes every one calls this with the same arguments.

    Args:
      key: random key of initialisation, order of the examples, noise and validation.
      checkpoints: those of the run folder.
    Raises ValueError for a batch that does not divide over the devices or a checkpoint of another model or other
    data; DivergedError, as `Soundness.trouble` describes it, where what stays is sound.
    """
    check_divides(settings.batch_size, machine.mesh, settings.microbatch)
    init_key, order_key, step_key, validate_key = jax.random.split(key, 4)
    seed = tuple(int(word) for word in np.ravel(jax.random.key_data(order_key)))
    # NumPy orders the examples, by words of the key, since its generator never changes.
    feed = machine.feed(task.train, settings.plan(len(task.train.x), seed))
    validate = machine.validate(task.model, task.validation, settings.validation_size)
    run = _Run(
        task, settings, machine, checkpoints, watching, provenance.data_hash, feed, validate, step_key, validate_key
    )
    start = begin(task, settings, init_key, machine, checkpoints, provenance)
    while True:
        # A stage may have ended in an earlier sitting.
        while run.has_ended(start) and run.goes_on(start):
            start = enter(task, settings, machine, start)
        outcome = _train_stage(run, start)
        start = Start(outcome.state, outcome.best, outcome.progress)
        if outcome.interrupted or not run.goes_on(start):
            return outcome


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """What all stages of a run have in common; without stages it has one.

    Attributes:
      task, settings, machine, checkpoints, watching: as `train` takes them.
      data_hash: hash of the data.
      feed: batches, up to the last step of the run.
      validate: validates the whole model.
      step_key, validate_key: keys of the steps and of validation.
    """

    task: Task
    settings: Training
    machine: Machine
    checkpoints: Checkpoints
    watching: Watching
    data_hash: str | None
    feed: Feed
    validate: Validate
    step_key: Array
    validate_key: Array

    def last_step(self, progress: Progress) -> int:
        """The step at which the stage that a run is in ends at the latest."""
        last, stage = self.feed.plan.last_step, self.settings.stage(progress.stage)
        return last if stage is None else min(last, progress.stage_start + stage.steps)

    def has_ended(self, start: Start) -> bool:
        """Whether the stage is at its end, by its steps or by patience."""
        return start.progress.at(int(start.state.step), self.last_step(start.progress), self.settings.patience).finished

    def goes_on(self, start: Start) -> bool:
        """Whether another stage follows."""
        return start.progress.stage + 1 < len(self.settings.stages) and int(start.state.step) < self.feed.plan.last_step

    def entries(self, progress: Progress) -> dict[str, float | int]:
        """What a row says of the stage, counted from 1; nothing without stages."""
        return {"stage": progress.stage + 1} if self.settings.stages else {}


def _train_stage(run: _Run, start: Start) -> Outcome:
    """Trains to the end of a stage, which is saved. Arguments and errors as in `train`."""
    task, settings, machine, checkpoints, watching = run.task, run.settings, run.machine, run.checkpoints, run.watching
    state, best, progress = start
    feed, names = until(run.feed, run.last_step(progress)), level_names(task.model, task.train)
    plan, dispatch = feed.plan, _dispatch_of(task, settings, machine, state, progress)
    step = int(state.step)
    # A finished run that is given more steps goes on; one that is given fewer than it has taken is done.
    progress = progress.at(step, plan.last_step, settings.patience)
    reporter = watching.reporter_at(step, step if progress.finished else plan.last_step)
    rows = watching.rows_before(step)
    commentary, soundness = Commentary(reporter, names, settings.patience, rows), Soundness(step, rows)
    score = _scoring(run.validate, run.validate_key, soundness, reporter)
    if settings.stages and not progress.finished:
        reporter.say(f"stage {progress.stage + 1} of {len(settings.stages)}: {settings.stage(progress.stage)}")
    clock, saved, due, trouble, signalled = Clock(progress.seconds), time.perf_counter(), False, None, 0
    with stop_signals() as stop, contextlib.closing(reporter), contextlib.closing(feed.portions(step)) as portions:
        portion = (None, None) if progress.finished else next(portions)
        while not (progress.finished or trouble or signalled):
            length = plan.length(step)
            with clock.dispatch(length, plan.ends_epoch(step + length)), watching.dispatch():
                state, metrics = dispatch(state, feed.data, portion, run.step_key)
                portion = next(portions, (None, None))  # read while the devices compute
                metrics = jax.device_get(metrics)  # [steps, ...]; here the loop waits
            before, step = step, step + length
            row = summarise(metrics, names, step, plan) | run.entries(progress)
            soundness.trained(before, metrics)
            if step == plan.last_step or crossed(before, step, settings.validate_every or plan.epoch_steps):
                elbo, rates, sound = score(state, step)
                row |= {"validation/elbo": elbo, **per_level("validation/rate", names, rates)}
                progress = progress.validated(elbo if sound else -inf, step, settings.select)
                # A copy, because the next dispatch reuses the buffers of the state.
                best = copied(state.variables) if progress.best_step == step else best
            progress = progress.at(step, plan.last_step, settings.patience)
            progress = dataclasses.replace(progress, seconds=clock.seconds, steps_per_second=clock.steps_per_second)
            commentary.tell(row, metrics, progress, int(state.streak))
            if watching.pictures is not None and crossed(before, step, settings.pictures_every):
                watching.pictures(step, state.variables, reporter)

            # Every process saves or none does: one of them may have been signalled, or be a little later.
            late = time.perf_counter() - saved >= settings.save_seconds
            signalled, late = agree(stop.signal or 0, int(late))
            ends = progress.finished or bool(signalled)
            due = due or ends or bool(late) or crossed(before, step, settings.save_every)
            if due or int(state.streak) >= settings.max_streak:
                trouble = soundness.trouble(state, progress.finished, settings.max_streak)
                if trouble and "validation/elbo" not in row:
                    score(state, step)
                # A state that is doubted waits for better evidence: it would push out one that is good.
                if soundness.step == step if trouble else ends or not soundness.doubted:
                    place = plan.place(step) | {"hash": run.data_hash}
                    checkpoints.save(step, copied(state), best, progress, place)
                    saved, due = time.perf_counter(), False
        # Here, where a signal does not cut the last save off.
        checkpoints.wait()
    if trouble:
        raise _diverged(f"{trouble}, so it stopped at step {step:,}", commentary, state, soundness, checkpoints)
    return Outcome(state, best, progress, signalled or None, "resident" if feed.data is not None else "streamed")


def _scoring(
    validate: Validate, key: Array, soundness: Soundness, reporter: Reporter
) -> Callable[[TrainState, int], tuple[float, np.ndarray, bool]]:
    """The validation of a state at a step: ELBO, rates, and whether it is sound, with a warning if it is not."""

    def score(state: TrainState, step: int) -> tuple[float, np.ndarray, bool]:
        # Keyed by the step, so that a resumed run draws what an uninterrupted one does.
        elbo, rates = jax.device_get(validate(state.variables, jax.random.fold_in(key, step)))
        sound = soundness.validated(step, float(elbo), state)
        if not sound:
            reporter.warn(f"the validation ELBO of {float(elbo):.5g} nats is not within reason.", step)
        return float(elbo), rates, sound

    return score


def _diverged(
    what: str, commentary: Commentary, state: TrainState, soundness: Soundness, checkpoints: Checkpoints
) -> DivergedError:
    """The error of training that diverged; checkpoints that are not sound are moved aside."""
    if soundness.step == int(state.step):
        left = "The state is as it was before them, and is saved."
    else:
        moved = checkpoints.retract(soundness.step)
        steps = checkpoints.steps()
        left = (
            f"The last good checkpoint, of step {steps[-1]:,}, is kept." if steps else "No good state is left to keep."
        )
        if moved:
            left += f" What was saved after it is moved to {', '.join(f'diverged_{each}' for each in moved)}."
    cause = f" {commentary.cause}" if int(state.streak) else ""
    return DivergedError(
        f"Training diverged: {what}.{cause} {left} Try a smaller learning rate, a tighter clamp, or look for what is "
        "wrong with the data."
    )


def _dispatch_of(task: Task, settings: Training, machine: Machine, state: TrainState, progress: Progress) -> Dispatch:
    """The jitted dispatch of a task in its stage; the state that comes out is laid out as the one that goes in."""
    stage = settings.stage(progress.stage)
    step = make_step(
        task.model if stage is None else stage.model(task.model),
        task.objective,
        task.optimiser,
        ema_decay=settings.ema,
        microbatch=settings.microbatch,
        gradients=settings.gradients,
        trains=trains_in(stage, task.objective),
    )
    shardings = state_sharding(state, machine.mesh, machine.fsdp)
    return make_dispatch(step, machine.mesh, task.augment, shardings, settings.unroll)


class Clock:
    """Seconds of training in all, and steps per second of the dispatches that did not compile.

    Args:
      before: seconds that earlier sittings of the run took.
    """

    def __init__(self, before: float) -> None:
        self._start, self._before = time.perf_counter(), before
        self._seen: set[tuple[int, bool]] = set()
        self._steps, self._seconds = 0, 0.0

    @contextmanager
    def dispatch(self, length: int, ends_epoch: bool) -> Iterator[None]:
        """Times one dispatch; the first of each length, with and without an epoch's last batch, compiles."""
        start = time.perf_counter()
        yield
        # What is not counted compiles: a dispatch of another length, or with a partial batch, is another program.
        if (length, ends_epoch) in self._seen:
            self._steps, self._seconds = self._steps + length, self._seconds + time.perf_counter() - start
        self._seen.add((length, ends_epoch))

    @property
    def seconds(self) -> float:
        """Seconds since the run began, over all its sittings."""
        return self._before + time.perf_counter() - self._start

    @property
    def steps_per_second(self) -> float:
        """Steps per second; 0 before there is anything to measure."""
        return self._steps / self._seconds if self._seconds else 0.0
