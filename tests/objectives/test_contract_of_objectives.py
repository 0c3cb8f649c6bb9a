"""What every objective that adds a term keeps: a row an objective, a function a promise.

The bare metrics are those of a model trained on the ELBO alone at the same state and key; a step works in parts, on
several devices and in bfloat16; state, averages and what the objective remembers come back from a checkpoint, bit for
bit.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tyro
from jax.sharding import NamedSharding, PartitionSpec

from hvae_jax.experiment import Experiment, settings
from hvae_jax.likelihoods import Categorical
from hvae_jax.models import HVAE, TopDownVAE
from hvae_jax.objectives import (
    GECO,
    Affine,
    Batch,
    Brightness,
    Consistency,
    Constant,
    Covariance,
    Decorrelated,
    Distortion,
    Flip,
    Linear,
    MutualInformation,
    NegativeELBO,
    Objective,
    Penalty,
    Regularised,
)
from hvae_jax.training import data_mesh, make_step
from hvae_jax.training.checkpoint import Checkpoints, Progress
from hvae_jax.training.mesh import replicated
from hvae_jax.training.state import own_parameters, state_from

KEY = jax.random.key(4)
X = jnp.asarray(np.random.default_rng(0).integers(0, 3, (16, 4, 4, 1)), jnp.uint8)
MODEL = TopDownVAE((2, 3), hidden=4, likelihood=Categorical(3))
BITS = TopDownVAE((2, 3), hidden=4, likelihood=Categorical(3), levels=("bernoulli", "normal"))
OPTIMISER = optax.adam(1e-2)


@dataclasses.dataclass(frozen=True)
class Row:
    """An objective, and the model it is tried on.

    Attributes:
      objective: the objective, with a weight that shows in the loss.
      model: a small model of images of three values.
      slow: whether the row is left out of the quick suite, because another one covers the same lines.
    """

    objective: Objective
    model: HVAE = MODEL
    slow: bool = False


ROWS = {
    "consistency": Row(Consistency(augment=(Affine(), Flip(), Brightness(high=2.0)), weight=Constant((0.5, 2.0)))),
    "consistency_geco": Row(Consistency(GECO((Distortion(0.5),)), weight=Linear(0, 10, initial=1.0)), slow=True),
    "decorrelated": Row(Decorrelated(weight=Constant(5.0)), slow=True),
    "decorrelated_bits": Row(Decorrelated(weight=Constant(5.0), levels=("z2",), entropy=0.5), BITS, slow=True),
    "mutual_information": Row(MutualInformation(1.0, levels=("z2",), hidden=4, depth=1), slow=True),
    "nested": Row(Penalty(Consistency(augment=(Affine(),), weight=Constant(1.0)), weight=Constant(5.0)), slow=True),
}

rows = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if row.slow else []) for name, row in ROWS.items()]
)


def step_of(row: Row, **choices: Any) -> Any:
    """The training step."""
    return make_step(row.model, row.objective, OPTIMISER, ema_decay=0.9, **choices)


@functools.cache
def variables(model: HVAE) -> Any:
    """Fresh variables: the same for every objective, so that they are compiled once."""
    return jax.jit(model.init)(KEY, X, KEY)


def fresh(model: HVAE, objective: Objective) -> Any:
    """A state at step 0."""
    own = jax.jit(lambda made: own_parameters(model, objective, made, KEY, X, None))(variables(model))
    return state_from(variables(model), objective, OPTIMISER, ema=True, own=own)


@functools.cache
def compiled(name: str) -> Any:
    """A row's step, and beside it the bare metrics of the negative ELBO at the same variables and key."""
    row = ROWS[name]
    step = step_of(row)

    @jax.jit
    def both(state: Any, batch: Batch, key: Any) -> Any:
        def forward(variables: Any, x: Any, key: Any, **choices: Any) -> Any:
            return row.model.apply(variables, x, key, train=True, mutable=list(state.statistics), **choices)

        variables = {"params": state.params, **state.statistics}
        bare = NegativeELBO()(forward, variables, batch, key, state.step, ())[1]
        return step(state, batch, key), bare

    return both


@functools.cache
def three_steps(name: str) -> list[Any]:
    """((state, metrics), bare metrics) after each of three steps."""
    state, history = fresh(ROWS[name].model, ROWS[name].objective), []
    for number in range(3):
        history.append(jax.device_get(compiled(name)(state, Batch(X), jax.random.fold_in(KEY, number))))
        state = history[-1][0][0]
    return history


def same(got: Any, expected: Any, **tolerance: float) -> None:
    """Two trees, leaf by leaf: to the bit, or to a tolerance."""
    compare = functools.partial(np.testing.assert_allclose, **tolerance) if tolerance else np.testing.assert_array_equal
    jax.tree.map(compare, got, expected)


@rows
def test_a_step(name: str) -> None:
    """Finite, taken, with the term in the loss; bare metrics as without it; parameters and their average move."""
    first = fresh(ROWS[name].model, ROWS[name].objective)
    before = jax.device_get(first)
    for (state, metrics), bare in three_steps(name):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
        assert metrics["skipped"] == 0 and abs(metrics["loss"] + metrics["elbo"]) > 1e-3
        same({part: metrics[part] for part in bare}, bare, rtol=1e-5, atol=1e-6)
        for part in ("params", "ema", "statistics", "ema_statistics"):
            leaves = (jax.tree.leaves(getattr(one, part)) for one in (before, state))
            assert any((a != b).any() for a, b in zip(*leaves, strict=True))
        before = state


@rows
def test_settings(name: str) -> None:
    """An experiment with the objective survives the way to JSON and back."""
    experiment = Experiment("x", ROWS[name].model, objective=ROWS[name].objective)
    assert settings.from_json(settings.to_json(experiment)) == experiment


@pytest.mark.parametrize(
    ("objective", "arguments", "expected"),
    [
        (
            Consistency(Regularised(), (Affine(), Flip())),
            "--weight.value 0.5 --base.beta 2 --augment.0.rotation 30 --augment.0.edges nearest --augment.1.vertical",
            Consistency(Regularised(2.0), (Affine(30.0, edges="nearest"), Flip(vertical=True)), weight=Constant(0.5)),
        ),
        (Decorrelated(), "--levels z1 --entropy 0.5", Decorrelated(levels=("z1",), entropy=0.5)),
        (
            Penalty(),
            "--function.levels z1 --weight.value 3",
            Penalty(NegativeELBO(), Covariance(("z1",)), Constant(3.0)),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_command_line(objective: Objective, arguments: str, expected: Objective) -> None:
    """Settings are flags by their names."""
    words = [f"--objective.{word[2:]}" if word.startswith("--") else word for word in arguments.split()]
    config = (tyro.conf.FlagCreatePairsOff,)
    got = tyro.cli(Experiment, args=words, default=Experiment("x", MODEL, objective=objective), config=config)
    assert got.objective == expected


@rows
def test_resumes(name: str, tmp_path: Path) -> None:
    """From a checkpoint after the first step the other two are the same, bit for bit."""
    row, (one, _, three) = ROWS[name], three_steps(name)
    checkpoints = Checkpoints(tmp_path)
    state = jax.tree.map(jnp.asarray, one[0][0])
    checkpoints.save(1, state, state.variables, Progress())
    checkpoints.wait()
    abstract = jax.eval_shape(lambda: fresh(row.model, row.objective))
    restored = checkpoints.restore(abstract, abstract.variables, data_mesh(1))
    checkpoints.close()
    assert restored is not None
    state, metrics = jax.device_get(restored[0]), None  # where the compiled program takes it from
    for number in (1, 2):
        (state, metrics), _ = compiled(name)(state, Batch(X), jax.random.fold_in(KEY, number))
    same((state, metrics), three[0])


@rows
def test_shapes_elsewhere(name: str) -> None:
    """In parts and in bfloat16 the step has the shapes and dtypes of state and metrics that it has otherwise."""
    row = ROWS[name]
    half = dataclasses.replace(row, model=row.model.clone(dtype="bfloat16"))
    state = jax.eval_shape(lambda: fresh(row.model, row.objective))
    got = jax.eval_shape(step_of(half, microbatch=8), state, Batch(X), KEY)
    assert shapes(got) == shapes(three_steps(name)[0][0])


def shapes(tree: Any) -> Any:
    """Shape and dtype of each leaf."""
    return jax.tree.map(lambda leaf: (np.shape(leaf), leaf.dtype), tree)


@pytest.mark.slow
@rows
def test_eight_devices(name: str) -> None:
    """A batch split over a mesh: the step of one device."""
    row, mesh = ROWS[name], data_mesh(8)
    state = jax.device_put(fresh(row.model, row.objective), replicated(mesh))
    batch = jax.device_put(Batch(X), NamedSharding(mesh, PartitionSpec("data")))
    (state, metrics), _ = compiled(name)(state, batch, jax.random.fold_in(KEY, 0))
    expected = three_steps(name)[0][0]
    same(jax.device_get(metrics), expected[1], rtol=1e-4, atol=1e-5)
    same(jax.device_get(state.statistics), expected[0].statistics, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@rows
def test_parts_and_precision(name: str) -> None:
    """Microbatches of eight examples and bfloat16: finite, taken, and near the whole step's ELBO."""
    row = ROWS[name]
    expected = three_steps(name)[0][0][1]
    half = dataclasses.replace(row, model=row.model.clone(dtype="bfloat16"))
    for step in (step_of(row, microbatch=8), step_of(half)):
        state, metrics = jax.device_get(
            jax.jit(step)(fresh(row.model, row.objective), Batch(X), jax.random.fold_in(KEY, 0))
        )
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
        assert metrics["skipped"] == 0
        np.testing.assert_allclose(metrics["elbo"], expected["elbo"], rtol=0.2)
