"""The programs of a run, traced on shapes: a training step, an evaluation, samples."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from hvae_jax.experiment.fitting.examples import Example
from hvae_jax.experiment.records import Experiment
from hvae_jax.experiment.run import abstract_state
from hvae_jax.objectives import Batch, importance
from hvae_jax.training.mesh import check_divides, replicated, rows_sharding, state_sharding
from hvae_jax.training.stages import optimiser_in, trains_in
from hvae_jax.training.state import TrainState
from hvae_jax.training.step import make_step

PROGRAMS = ("training", "evaluation", "sampling")
SAMPLES = 64
"""Samples that are drawn at once, as `hvae sample` does by default."""


@functools.lru_cache(maxsize=1)
def traced(program: str, experiment: Experiment, example: Example, mesh: Mesh) -> Any:
    """One of `PROGRAMS`, as `jax.jit(...).trace(...)` gives it; the last one is kept, for another chip.

    Raises ValueError for a batch or a microbatch that does not divide over the devices.
    """
    makers: dict[str, Callable[[Experiment, Example, Mesh], Any]] = {
        "training": training,
        "evaluation": evaluation,
        "sampling": sampling,
    }
    return makers[program](experiment, example, mesh)


def training(experiment: Experiment, example: Example, mesh: Mesh) -> Any:
    """One step of the first stage of training: forward, backward, optimiser, averages."""
    settings = experiment.training
    check_divides(settings.batch_size, mesh, settings.microbatch)
    stage, state = settings.stage(0), state_of(experiment, example)
    step = make_step(
        experiment.model if stage is None else stage.model(experiment.model),
        experiment.objective,
        optimiser_in(experiment.optimiser.build(), stage, experiment.objective),
        ema_decay=settings.ema,
        microbatch=settings.microbatch,
        gradients=settings.gradients,
        trains=trains_in(stage, experiment.objective),
    )
    layout, everywhere = state_sharding(state, mesh, experiment.devices.fsdp), replicated(mesh)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(layout, everywhere))
    rows = rows_sharding(settings.batch_size, mesh)
    return jitted.trace(_laid(state, layout), Batch(*example.abstract(settings.batch_size, rows)), _key(everywhere))


def evaluation(experiment: Experiment, example: Example, mesh: Mesh) -> Any:
    """The importance-weighted bound of as many examples and draws as `Evaluation` measures at once."""
    wanted, everywhere = experiment.evaluation, replicated(mesh)
    size = -(-wanted.size // mesh.size) * mesh.size
    variables = state_of(experiment, example).variables
    x, y = example.abstract(size, rows_sharding(size, mesh))
    y = y if experiment.model.classes else None
    chunk = min(wanted.chunk, wanted.draws)
    bound = jax.jit(partial(importance, experiment.model, k=chunk, chunk=chunk), out_shardings=everywhere)
    return bound.trace(_laid(variables, _every(variables, everywhere)), x, _key(everywhere), y=y)


def sampling(experiment: Experiment, example: Example, mesh: Mesh) -> Any:
    """`SAMPLES` samples from the prior, on one device."""
    model, everywhere = experiment.model, replicated(mesh)
    variables = state_of(experiment, example).variables
    y = jax.ShapeDtypeStruct((SAMPLES,), "int32", sharding=everywhere) if model.classes else None

    def generate(variables: Any, key: Any, y: Any) -> Any:
        return model.apply(variables, key, SAMPLES, y=y, method="generate")

    drawn = jax.jit(generate, out_shardings=everywhere)
    return drawn.trace(_laid(variables, _every(variables, everywhere)), _key(everywhere), y)


def state_of(experiment: Experiment, example: Example) -> TrainState:
    """Shapes and dtypes of the training state."""
    return abstract_state(experiment, example.blank())


def _key(sharding: Any) -> Any:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=sharding)


def _every(tree: Any, sharding: Any) -> Any:
    return jax.tree.map(lambda _: sharding, tree)


def _laid(tree: Any, shardings: Any) -> Any:
    """The same shapes, laid out."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree, shardings
    )
