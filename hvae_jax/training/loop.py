"""The loop: step, report, validate, save, resume."""

import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from hvae_jax.objectives import Batch, Objective
from hvae_jax.trace import Model
from hvae_jax.training.checkpoint import Checkpoints, Progress
from hvae_jax.training.dispatch import Plan, make_dispatch
from hvae_jax.training.mesh import check_divides, replicated
from hvae_jax.training.report import Reporter
from hvae_jax.training.state import TrainState, init_state, initial_state
from hvae_jax.training.step import make_step
from hvae_jax.training.validate import make_validate


@dataclasses.dataclass(frozen=True)
class Training:
    """How long to train, in what portions.

    Attributes:
      batch_size: examples a step; the last batch of an epoch has what is left.
      epochs: passes over the train split at most.
      steps: steps at most; None leaves it to `epochs`.
      patience: validations in a row without a better ELBO that are borne; one more ends training.
      ema: decay of averaged parameters, used in evaluation; None keeps none.
      per_dispatch: steps sent to the device at once, at most.
      save_every: steps from one checkpoint to the next, rounded up to the end of a dispatch.
      max_streak: skipped steps in a row that end the run.
      validation_size: examples validated at once.
    """

    batch_size: int = 64
    epochs: int = 1000
    steps: int | None = None
    patience: int = 20
    ema: float | None = None
    per_dispatch: int = 100
    save_every: int = 500
    max_streak: int = 100
    validation_size: int = 512

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "per_dispatch", "save_every", "max_streak", "validation_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it has to be 1 or more.")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps is {self.steps}, but it has to be 1 or more (or None, for as many as epochs say).")
        if self.patience < 0:
            raise ValueError(f"patience is {self.patience}, but it has to be 0 or more.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is {self.ema}, but a decay lies between 0 and 1, such as 0.999 (or None).")

    def plan(self, examples: int) -> Plan:
        """Which batches each dispatch takes."""
        epoch_steps = -(-examples // self.batch_size)
        last = self.epochs * epoch_steps
        return Plan(examples, self.batch_size, self.per_dispatch, last if self.steps is None else min(self.steps, last))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What training leaves.

    Attributes:
      state: the last one.
      best: variables of the best validation.
      progress: see there.
      interrupted: the signal that ended the run early, or None.
    """

    state: TrainState
    best: Any
    progress: Progress
    interrupted: int | None


class DivergedError(RuntimeError):
    """Too many steps in a row had a loss or gradients that were not finite."""


def train(
    model: Model,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    train_data: Batch,
    validation_data: Batch,
    settings: Training,
    key: Array,
    mesh: Mesh,
    checkpoints: Checkpoints,
    reporter_at: Any,
) -> Outcome:
    """Trains until patience or steps run out, from the last checkpoint if there is one.

    The same settings, data and key on the same devices give the same parameters bit for bit, however often the run
    was interrupted.

    Args:
      train_data, validation_data: whole splits.
      key: of initialisation, order, noise and validation.
      checkpoints: of the run folder.
      reporter_at: `(first step, last step) -> Reporter`, called once it is known where the run starts.
    Raises ValueError for a batch that does not divide over the devices or a checkpoint of another model, and
    DivergedError, the last good state saved, after `max_streak` skipped steps in a row.
    """
    check_divides(settings.batch_size, mesh)
    init_key, step_key, validate_key = jax.random.split(key, 3)
    everywhere = replicated(mesh)
    train_data, validation_data = jax.device_put((train_data, validation_data), everywhere)
    plan = settings.plan(train_data.x.shape[0])
    names = level_names(model, train_data)

    dispatch = make_dispatch(make_step(model, objective, optimiser, ema_decay=settings.ema), plan, mesh)
    validate = make_validate(model, validation_data, settings.validation_size, mesh)
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=everywhere)

    few = jax.tree.map(lambda a: a[: settings.batch_size], train_data)
    ingredients = (model, objective, optimiser, init_key, few.x, few.y, settings.ema is not None)
    wanted = jax.eval_shape(lambda: initial_state(*ingredients))
    restored = checkpoints.restore(wanted, wanted.variables, mesh)
    if restored is None:
        state = jax.device_put(init_state(*ingredients), everywhere)
        best, progress = copy(state.variables), Progress()
    else:
        state, best, progress = restored
    step = int(state.step)
    if step < plan.last_step and progress.stale <= settings.patience:
        progress = dataclasses.replace(progress, finished=False)  # a run that is given more steps goes on

    reporter: Reporter = reporter_at(step, plan.last_step)
    clock, cause = Clock(progress.seconds), "It began before this sitting."
    with stop_signals() as stop:
        while not progress.finished and not stop.signal:
            length = plan.length(step)
            with clock.dispatch(length, step % plan.epoch_steps + length == plan.epoch_steps):
                state, metrics = dispatch(state, train_data, step_key, step, length)
                metrics = jax.device_get(metrics)
            first, step = step, step + length
            row = summarise(metrics, names, step, plan)
            if step % plan.epoch_steps == 0 or step == plan.last_step:
                elbo, rates = jax.device_get(validate(state.variables, jax.random.fold_in(validate_key, step)))
                row |= {"validation/elbo": float(elbo), **per_level("validation/rate", names, rates)}
                if elbo > progress.best_elbo:
                    best = copy(state.variables)
                    progress = dataclasses.replace(progress, best_elbo=float(elbo), best_step=step, stale=0)
                else:
                    progress = dataclasses.replace(progress, stale=progress.stale + 1)
            diverged = int(state.streak) >= settings.max_streak
            over = step >= plan.last_step or progress.stale > settings.patience
            progress = dataclasses.replace(
                progress, seconds=clock.seconds, steps_per_second=clock.steps_per_second, finished=over
            )

            reporter.write(row | {"seconds": clock.seconds, "steps_per_second": clock.steps_per_second})
            reporter.advance(step, **shown(row, progress, settings))
            if metrics["skipped"].any():
                reporter.say(why_skipped(metrics, names, first, int(np.flatnonzero(metrics["skipped"])[0])))
                if 0 < int(state.streak) <= length:
                    cause = why_skipped(metrics, names, first, length - int(state.streak))
            if over or diverged or stop.signal or step // settings.save_every > first // settings.save_every:
                checkpoints.save(step, copy(state), best, progress)
            if diverged:
                break
    if stop.signal and step not in checkpoints.steps():
        checkpoints.save(step, copy(state), best, progress)
    checkpoints.wait()
    reporter.close()
    if int(state.streak) >= settings.max_streak:
        raise DivergedError(
            f"{int(state.streak)} steps in a row had a loss or gradients that were not finite, so training stopped at "
            f"step {step}. {cause} The state is as it was before them, and is saved. "
            "Try a smaller learning rate, a tighter clamp, or look for what is wrong with the data."
        )
    return Outcome(state, best, progress, stop.signal)


def level_names(model: Model, data: Batch) -> tuple[str, ...]:
    """Names of the model's levels, top first, from shapes alone."""
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), data)

    def trace_of(x: Array, y: Array | None) -> Any:
        key = jax.random.key(0)
        return model.apply(model.init(key, x, key, y=y), x, key, y=y)

    return jax.eval_shape(trace_of, one.x, one.y).names


def per_level(prefix: str, names: tuple[str, ...], rates: np.ndarray) -> dict[str, float | int]:
    """One entry a level."""
    return {f"{prefix}/{name}": float(rate) for name, rate in zip(names, rates, strict=True)}


def summarise(metrics: dict[str, np.ndarray], names: tuple[str, ...], step: int, plan: Plan) -> dict[str, float | int]:
    """The metrics of one dispatch as one row: means over its steps that were not skipped, nats."""
    taken = metrics["skipped"] == 0
    means = {
        name: float(v[taken].mean()) if taken.any() else float("nan") for name, v in metrics.items() if v.ndim == 1
    }
    rates = metrics["rates"][taken].mean(0) if taken.any() else np.full(len(names), np.nan)
    means["skipped"] = float(metrics["skipped"].sum())
    return {"step": step, "epoch": step / plan.epoch_steps, **means, **per_level("rate", names, rates)}


def shown(row: dict[str, float | int], progress: Progress, settings: Training) -> dict[str, str]:
    """What stands on the progress line."""
    return {
        "loss": f"{row['loss']:.2f}",
        "validation ELBO": f"{row.get('validation/elbo', float('nan')):.2f}",
        "best": f"{progress.best_elbo:.2f}",
        "patience": f"{progress.stale}/{settings.patience}",
    }


def why_skipped(metrics: dict[str, np.ndarray], names: tuple[str, ...], first: int, at: int) -> str:
    """Why step `at` of a dispatch was skipped: which level's rate went first, from the top."""
    broken = [name for name, rate in zip(names, metrics["rates"][at], strict=True) if not np.isfinite(rate)]
    if broken:
        cause = f"the rate of {broken[0]} went first"
    elif not np.isfinite(metrics["log_px"][at]):
        cause = "log p(x | z) went first, every rate was finite"
    elif not np.isfinite(metrics["loss"][at]):
        cause = "the loss itself, every rate was finite"
    else:
        cause = "the gradients, the loss and every rate were finite"
    count, total = int(metrics["skipped"].sum()), len(metrics["skipped"])
    return f"Step {first + at} was not finite ({cause}); {count} of the {total} updates of its dispatch were skipped."


class Clock:
    """Seconds in all, and steps per second of dispatches that did not compile."""

    def __init__(self, before: float) -> None:
        self._start, self._before = time.perf_counter(), before
        self._seen: set[tuple[int, bool]] = set()
        self._steps, self._seconds = 0, 0.0

    @contextmanager
    def dispatch(self, length: int, last: bool) -> Iterator[None]:
        """Times one dispatch; the first of each length, with and without an epoch's last batch, compiles."""
        start = time.perf_counter()
        yield
        if (length, last) in self._seen:
            self._steps, self._seconds = self._steps + length, self._seconds + time.perf_counter() - start
        self._seen.add((length, last))

    @property
    def seconds(self) -> float:
        """Since the run began, over all its sittings."""
        return self._before + time.perf_counter() - self._start

    @property
    def steps_per_second(self) -> float:
        """0 before there is anything to measure."""
        return self._steps / self._seconds if self._seconds else 0.0


@dataclasses.dataclass
class Stop:
    """Which signal asked the loop to stop, or None."""

    signal: int | None = None


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Lets the first SIGINT or SIGTERM end the loop after the dispatch it is in; a second one acts as ever."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: Any) -> None:
        stop.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
