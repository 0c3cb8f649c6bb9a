"""A run's first state: from its last checkpoint, from imported variables, or from nothing; a stage's first state."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hvae_jax.objectives.protocol import own_of, with_own
from hvae_jax.training.checkpoint import Checkpoints, Progress
from hvae_jax.training.description import OtherOptimiserError
from hvae_jax.training.gradients import NOTHING_USUAL
from hvae_jax.training.machine import Machine
from hvae_jax.training.mesh import state_sharding
from hvae_jax.training.settings import Training
from hvae_jax.training.stages import optimiser_in
from hvae_jax.training.state import TrainState, copied, init_state, initial_state, own_parameters, state_from
from hvae_jax.training.task import Provenance, Task


class Start(NamedTuple):
    """The start of training.

    Attributes:
      state: the state, laid out over the devices.
      best: variables of the best validation so far.
      progress: what was reached so far.
    """

    state: TrainState
    best: Any
    progress: Progress


def begin(
    task: Task, settings: Training, key: Array, machine: Machine, checkpoints: Checkpoints, provenance: Provenance
) -> Start:
    """The state that a run starts from.

    It is restored from the last checkpoint, if there is one, in the stage that it was saved in. A checkpoint of step 0,
    which an import leaves, may be of another optimiser or objective: its variables are kept, and everything else is
    initialised.

    Args:
      key: of the model's initialisation and of the augmentation of the examples it looks at.
    Raises ValueError as `Checkpoints.restore` does.
    """
    # Some models look at the examples they are initialised on (weight norm, Glorot's with the data's marginals).
    x, y = task.first_examples(settings, key)
    averages = settings.ema is not None
    optimiser = optimiser_in(task.optimiser, settings.stage(0), task.objective)
    ingredients = (task.model, task.objective, optimiser, key, x, y, averages)
    wanted = jax.eval_shape(lambda: initial_state(*ingredients))
    mesh, fsdp = machine.mesh, machine.fsdp
    shardings = state_sharding(wanted, mesh, fsdp)
    data_hash = None if provenance.any_data else provenance.data_hash
    try:
        in_stage = functools.partial(abstract_in, wanted, task, settings)
        restored = checkpoints.restore(in_stage, wanted.variables, mesh, fsdp, data_hash)
    except OtherOptimiserError:
        # Imported weights come with no optimiser's state that anyone would miss; those of a run that trained do.
        variables = checkpoints.untrained(wanted.variables, mesh, fsdp)
        if variables is None:
            raise

        def make(variables: Any) -> TrainState:
            own = own_parameters(task.model, task.objective, variables, key, x, y)
            return state_from(variables, task.objective, optimiser, averages, own)

        return _fresh(jax.jit(make, out_shardings=shardings)(variables), provenance)
    if restored is None:
        return _fresh(init_state(*ingredients, shardings=shardings), provenance)
    state, best, progress = restored
    if progress.identity != provenance.identity:
        # The state goes on, but what it scored on other data, or as another model, is no score to beat.
        start = _fresh(state, provenance)
        goes_on = {name: getattr(progress, name) for name in ("seconds", "stage", "stage_start")}
        return start._replace(progress=dataclasses.replace(start.progress, **goes_on))
    return Start(state, best, progress)


def abstract_in(first: TrainState, task: Task, settings: Training, progress: Progress) -> TrainState:
    """Shapes of the state in the stage of a checkpoint, of which the optimiser's alone differ from the first stage's.

    Raises ValueError if there is no such stage.
    """
    optimiser = optimiser_in(task.optimiser, settings.stage(progress.stage), task.objective)
    return dataclasses.replace(first, opt_state=jax.eval_shape(optimiser.init, first.params))


def enter(task: Task, settings: Training, machine: Machine, before: Start) -> Start:
    """The start of the stage after the one that `before` has ended.

    Parameters and statistics are the best ones so far, averaged if an average is kept; the optimiser is fresh, and the
    usual norm of gradients is forgotten, since it was that of other parameters. Steps, skipped steps, the objective's
    state and the score to beat go on.
    """
    number = before.progress.stage + 1
    optimiser = optimiser_in(task.optimiser, settings.stage(number), task.objective)

    def make(state: TrainState, best: Any) -> TrainState:
        statistics = dict(best)
        # the best variables are the model's; the objective's own parameters go on
        params = with_own(statistics.pop("params"), own_of(state.params))
        made = dataclasses.replace(
            state,
            params=params,
            statistics=statistics,
            opt_state=optimiser.init(params),
            ema=None if state.ema is None else params,
            ema_statistics={} if state.ema is None else statistics,
            streak=jnp.int32(0),
            usual_norm=jnp.float32(NOTHING_USUAL),
        )
        # in buffers of its own: the first dispatch donates them, and the best variables stay
        return jax.tree.map(jnp.copy, made)

    shardings = state_sharding(jax.eval_shape(make, before.state, before.best), machine.mesh, machine.fsdp)
    state = jax.jit(make, out_shardings=shardings)(before.state, before.best)
    progress = dataclasses.replace(
        before.progress, stale=0, finished=False, stage=number, stage_start=int(before.state.step)
    )
    return Start(state, before.best, progress)


def _fresh(state: TrainState, provenance: Provenance) -> Start:
    """A start without a score to beat; the best variables are a copy, since the state's buffers are donated."""
    return Start(state, copied(state.variables), Progress(identity=provenance.identity))
