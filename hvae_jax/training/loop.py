"""The loop: step, report, validate, save, resume."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from hvae_jax.objectives import Objective
from hvae_jax.trace import Model
from hvae_jax.training.checkpoint import Checkpoints, OtherOptimiserError, Progress
from hvae_jax.training.dispatch import make_dispatch
from hvae_jax.training.feeds import Examples, Feed, Feeding, Resident, Streamed
from hvae_jax.training.mesh import agree, check_divides, state_sharding
from hvae_jax.training.metrics import level_names, per_level, shown, summarise, why_skipped
from hvae_jax.training.plan import Plan
from hvae_jax.training.settings import Training, crossed
from hvae_jax.training.signals import stop_signals
from hvae_jax.training.sinks import Reporter, read_metrics
from hvae_jax.training.state import TrainState, init_state, initial_state, state_from
from hvae_jax.training.step import make_step
from hvae_jax.training.validate import Validate, make_validate
from hvae_jax.training.watch import Watch


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What training leaves.

    Attributes:
      state: the last one.
      best: variables of the best validation, or of the last one, as `Training.select` says.
      progress: see there.
      interrupted: the signal that ended the run early, or None.
      feed: how the train split came to the devices, "resident" or "streamed".
    """

    state: TrainState
    best: Any
    progress: Progress
    interrupted: int | None
    feed: str


class DivergedError(RuntimeError):
    """Too many steps in a row had a loss or gradients that were not finite."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a run computes on and how; none of it changes what is computed, but for rounding.

    Attributes:
      mesh: of all devices.
      feeding: how the data comes to them.
      memory: bytes on one device, which `feeding.share` refers to.
      fsdp: whether the state is split over the devices; see `state_sharding`.
    """

    mesh: Mesh
    feeding: Feeding = Feeding()
    memory: int = 2**30
    fsdp: bool = False

    def feed(self, data: Examples, plan: Plan) -> Feed:
        """Batches of the train split."""
        if self.feeding.streams(data.nbytes, self.memory):
            return Streamed(data.x, data.y, plan, self.mesh, self.feeding)
        return Resident(data.x, data.y, plan, self.mesh)

    def validate(self, model: Model, data: Examples, size: int) -> Validate:
        """Validation on a split."""
        streams = self.feeding.streams(data.nbytes, self.memory)
        return make_validate(model, data.x, data.y, size, self.mesh, self.feeding if streams else None)


@dataclasses.dataclass(frozen=True)
class Watching:
    """What looks on while a run trains.

    Attributes:
      reporter_at: `(first step, last step) -> Reporter`, called once it is known where the run starts.
      metrics: metrics.jsonl, which tells a resumed run what went before.
      pictures: `(step, variables, reporter)`, called every `pictures_every` steps; None draws nothing.
      profiler: a context for each dispatch, `profiler.dispatch()`; None for none.
    """

    reporter_at: Callable[[int, int], Reporter]
    metrics: Path | None = None
    pictures: Callable[[int, Any, Reporter], None] | None = None
    profiler: Any = None

    def rows_before(self, step: int) -> list[dict[str, float | int]]:
        """What was written up to `step`."""
        if self.metrics is None or not self.metrics.exists():
            return []
        return [row for row in read_metrics(self.metrics) if row["step"] <= step]

    def dispatch(self) -> contextlib.AbstractContextManager[Any]:
        """Around one dispatch."""
        return contextlib.nullcontext() if self.profiler is None else self.profiler.dispatch()


def train(
    model: Model,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    train_data: Examples,
    validation_data: Examples,
    settings: Training,
    key: Array,
    machine: Machine,
    checkpoints: Checkpoints,
    watching: Watching,
    augment: Callable[[Array, Array], Array] | None = None,
    data_hash: str | None = None,
    any_data: bool = False,
    identity: str | None = None,
) -> Outcome:
    """Trains until patience or steps run out, from the last checkpoint if there is one.

    The same settings, data and key on the same devices give the same parameters bit for bit, however often the run
    was interrupted. In a run of several processes all of them call this alike.

    Args:
      train_data, validation_data: whole splits.
      key: of initialisation, order, noise and validation.
      checkpoints: of the run folder.
      augment: `(x, key) -> x`, what training does to every batch anew.
      data_hash: of the data, kept with every checkpoint; one that was made on other data is refused.
      any_data: whether it is taken all the same.
      identity: of model, objective and data; where a checkpoint's is another, its best variables and what they scored
        are forgotten, since scores of different things do not compare.
    Variables of a checkpoint of step 0, such as imported ones, may be of another optimiser: this one begins anew.

    Raises ValueError for a batch that does not divide over the devices or a checkpoint of another model or other
    data, and DivergedError, the last good state saved, after `max_streak` skipped steps in a row.
    """
    mesh = machine.mesh
    check_divides(settings.batch_size, mesh, settings.microbatch)
    init_key, order_key, step_key, validate_key = jax.random.split(key, 4)
    seed = tuple(int(word) for word in np.ravel(jax.random.key_data(order_key)))
    feed = machine.feed(train_data, settings.plan(len(train_data.x), seed))
    plan = feed.plan
    names = level_names(model, train_data)

    few = train_data.take(slice(settings.init_examples or settings.batch_size))
    # Augmented as in training, and on the host again, so that in a run of several processes all have it alike.
    first = few.x if augment is None else np.asarray(augment(jnp.asarray(few.x), init_key))
    ingredients = (model, objective, optimiser, init_key, first, few.y, settings.ema is not None)
    wanted = jax.eval_shape(lambda: initial_state(*ingredients))
    shardings = state_sharding(wanted, mesh, machine.fsdp)
    step_of = make_step(
        model,
        objective,
        optimiser,
        ema_decay=settings.ema,
        microbatch=settings.microbatch,
        gradients=settings.gradients,
    )
    dispatch = make_dispatch(step_of, mesh, augment, shardings, settings.unroll)
    validate = machine.validate(model, validation_data, settings.validation_size)
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))

    variables = None
    try:
        restored = checkpoints.restore(wanted, wanted.variables, mesh, machine.fsdp, None if any_data else data_hash)
    except OtherOptimiserError:
        restored, variables = None, checkpoints.untrained(wanted.variables, mesh, machine.fsdp)
        if variables is None:
            raise
    if variables is not None:  # imported ones, by an optimiser that begins
        state = jax.jit(
            lambda v: state_from(v, objective, optimiser, settings.ema is not None), out_shardings=shardings
        )(variables)
        best, progress = copy(state.variables), Progress(identity=identity)
    elif restored is None:
        state = init_state(*ingredients, shardings=shardings)
        best, progress = copy(state.variables), Progress(identity=identity)
    else:
        state, best, progress = restored
        if progress.identity != identity:
            best = copy(state.variables)
            progress = dataclasses.replace(Progress(identity=identity), seconds=progress.seconds)
    step = int(state.step)
    # A run that is given more steps goes on; one that is given fewer than it has taken is done.
    over = step >= plan.last_step or progress.stale > settings.patience
    progress = dataclasses.replace(progress, finished=over)

    reporter = watching.reporter_at(step, plan.last_step)
    watch, latest = Watch(watching.rows_before(step)), {}
    clock, cause = Clock(progress.seconds), "It began before this sitting."
    with stop_signals() as stop, contextlib.closing(reporter), contextlib.closing(feed.portions(step)) as portions:
        portion = (None, None) if progress.finished else next(portions)
        signalled, saved = 0, time.perf_counter()
        while not progress.finished and not signalled:
            length = plan.length(step)
            with clock.dispatch(length, step % plan.epoch_steps + length == plan.epoch_steps), watching.dispatch():
                state, metrics = dispatch(state, feed.data, portion, step_key)
                portion = next(portions, (None, None))  # read while the devices compute
                metrics = jax.device_get(metrics)
            first, step = step, step + length
            row = summarise(metrics, names, step, plan)
            last = step == plan.last_step
            if last or (crossed(first, step, settings.validate_every or plan.epoch_steps)):
                elbo, rates = jax.device_get(validate(state.variables, jax.random.fold_in(validate_key, step)))
                row |= {"validation/elbo": float(elbo), **per_level("validation/rate", names, rates)}
                if elbo > progress.best_elbo or settings.select == "last":
                    best = copy(state.variables)
                    progress = dataclasses.replace(progress, best_elbo=float(elbo), best_step=step, stale=0)
                else:
                    progress = dataclasses.replace(progress, stale=progress.stale + 1)
            diverged = int(state.streak) >= settings.max_streak
            over = last or progress.stale > settings.patience
            progress = dataclasses.replace(
                progress, seconds=clock.seconds, steps_per_second=clock.steps_per_second, finished=over
            )

            reporter.write(row | {"seconds": clock.seconds, "steps_per_second": clock.steps_per_second})
            latest |= row
            reporter.advance(step, **shown(latest, names, progress, settings.patience))
            for sentence in watch(row):
                reporter.warn(sentence, step)
            not_finite = metrics["skipped"] > metrics.get("large", 0)  # of large ones `watch` speaks
            if not_finite.any():
                reporter.say(why_skipped(metrics, names, first, int(np.flatnonzero(not_finite)[0])))
                if 0 < int(state.streak) <= length:
                    cause = why_skipped(metrics, names, first, length - int(state.streak))
            if watching.pictures is not None and crossed(first, step, settings.pictures_every):
                watching.pictures(step, state.variables, reporter)
            late = time.perf_counter() - saved >= settings.save_seconds
            signalled, late = agree(stop.signal or 0, int(late))
            if over or diverged or signalled or late or crossed(first, step, settings.save_every):
                checkpoints.save(step, copy(state), best, progress, plan.place(step) | {"hash": data_hash})
                saved = time.perf_counter()
            if diverged:
                break
        checkpoints.wait()
    if int(state.streak) >= settings.max_streak:
        raise DivergedError(
            f"{int(state.streak)} steps in a row had a loss or gradients that were not finite, so training stopped at "
            f"step {step}. {cause} The state is as it was before them, and is saved. "
            "Try a smaller learning rate, a tighter clamp, or look for what is wrong with the data."
        )
    return Outcome(state, best, progress, signalled or None, "resident" if feed.data is not None else "streamed")


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
