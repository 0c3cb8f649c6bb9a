"""A run's first state: from its last checkpoint, from imported variables, or from nothing."""

import dataclasses
from typing import Any, NamedTuple

import jax
from jax import Array

from hvae_jax.training.checkpoint import Checkpoints, Progress
from hvae_jax.training.description import OtherOptimiserError
from hvae_jax.training.machine import Machine
from hvae_jax.training.mesh import state_sharding
from hvae_jax.training.settings import Training
from hvae_jax.training.state import TrainState, copied, init_state, initial_state, state_from
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

    It is restored from the last checkpoint, if there is one. A checkpoint of step 0, which an import leaves, may be of
    another optimiser or objective: its variables are kept, and everything else is initialised.

    Args:
      key: of the model's initialisation and of the augmentation of the examples it looks at.
    Raises ValueError as `Checkpoints.restore` does.
    """
    # Some models look at the examples they are initialised on (weight norm, Glorot's with the data's marginals).
    x, y = task.first_examples(settings, key)
    averages = settings.ema is not None
    ingredients = (task.model, task.objective, task.optimiser, key, x, y, averages)
    wanted = jax.eval_shape(lambda: initial_state(*ingredients))
    mesh, fsdp = machine.mesh, machine.fsdp
    shardings = state_sharding(wanted, mesh, fsdp)
    data_hash = None if provenance.any_data else provenance.data_hash
    try:
        restored = checkpoints.restore(wanted, wanted.variables, mesh, fsdp, data_hash)
    except OtherOptimiserError:
        # Imported weights come with no optimiser's state that anyone would miss; those of a run that trained do.
        variables = checkpoints.untrained(wanted.variables, mesh, fsdp)
        if variables is None:
            raise
        make = jax.jit(lambda v: state_from(v, task.objective, task.optimiser, averages), out_shardings=shardings)
        return _fresh(make(variables), provenance)
    if restored is None:
        return _fresh(init_state(*ingredients, shardings=shardings), provenance)
    state, best, progress = restored
    if progress.identity != provenance.identity:
        # The state goes on, but what it scored on other data, or as another model, is no score to beat.
        start = _fresh(state, provenance)
        return start._replace(progress=dataclasses.replace(start.progress, seconds=progress.seconds))
    return Start(state, best, progress)


def _fresh(state: TrainState, provenance: Provenance) -> Start:
    """A start without a score to beat; the best variables are a copy, since the state's buffers are donated."""
    return Start(state, copied(state.variables), Progress(identity=provenance.identity))
