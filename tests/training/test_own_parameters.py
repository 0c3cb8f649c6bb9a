"""Parameters of the objective's own: trained, averaged, accumulated, saved and resumed with the model's."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support.cases import integers

from hvae_jax.data import Split
from hvae_jax.experiment import Experiment
from hvae_jax.experiment.exchange import _write_run
from hvae_jax.experiment.reopen import best_variables
from hvae_jax.likelihoods import Categorical
from hvae_jax.models import TopDownVAE
from hvae_jax.objectives import Batch, MutualInformation, NegativeELBO, SpectralRegularised
from hvae_jax.objectives.protocol import OWN, own_of, with_own, without_own
from hvae_jax.runtime.trees import leaves_by_path
from hvae_jax.training import Machine, Stage, Task, Training, TrainState, data_mesh, init_state, make_step
from hvae_jax.training.begin import Start, enter
from hvae_jax.training.checkpoint import Checkpoints, Progress
from hvae_jax.training.description import OtherOptimiserError
from hvae_jax.training.mesh import replicated
from hvae_jax.training.stages import trains_in
from hvae_jax.training.state import initial_state

KEY = jax.random.key(3)
MODEL = TopDownVAE(latents=(2,), hidden=4, likelihood=Categorical(3))
OBJECTIVE = MutualInformation(1.0, hidden=4, depth=1, gradient="score")
OPTIMISER = optax.adamw(0.05, weight_decay=0.1)
X = integers(3, 5)
SCALE = "objective/mutual_information/inputs"


@functools.cache
def fresh() -> TrainState:
    """A state with an average."""
    return init_state(MODEL, OBJECTIVE, OPTIMISER, KEY, X, ema=True)


step = jax.jit(make_step(MODEL, OBJECTIVE, OPTIMISER, ema_decay=0.9))


def several(state: TrainState, first: int, last: int) -> tuple[TrainState, dict[str, Any]]:
    """Steps of these numbers."""
    metrics: dict[str, Any] = {}
    for i in range(first, last):
        state, metrics = step(state, Batch(X), jax.random.fold_in(KEY, i))
    return jax.device_get((state, metrics))


@functools.cache
def half_way() -> tuple[TrainState, dict[str, Any]]:
    """After three steps."""
    return several(fresh(), 0, 3)


def test_they_are_trained_and_averaged() -> None:
    """r moves from its start and its average follows; the scale of its input keeps every bit, weight decay or not."""
    before, (after, metrics) = jax.device_get(fresh()), half_way()
    assert metrics["skipped"] == 0 and np.isfinite(metrics["mutual_information"])
    for part in ("params", "ema"):
        new = leaves_by_path(getattr(after, part))
        own = {path: leaf for path, leaf in leaves_by_path(getattr(before, part)).items() if path.startswith(OWN)}
        assert len(own) == 6
        for path, leaf in own.items():
            assert np.array_equal(new[path], leaf) == path.startswith(SCALE), path
    moments = [path for path in leaves_by_path(after.opt_state) if OWN in path]
    assert len(moments) == 12  # two for each


def test_evaluation_does_not_see_them() -> None:
    """The state's variables are the model's alone."""
    state, _ = half_way()
    assert OWN in state.params and OWN not in state.variables["params"]
    shapes = jax.eval_shape(lambda: MODEL.init(KEY, X, KEY))
    assert jax.tree.structure(state.variables) == jax.tree.structure(dict(shapes))
    plain = jax.eval_shape(lambda: initial_state(MODEL, NegativeELBO(), OPTIMISER, KEY, X))
    assert own_of(plain.params) == {} and without_own(plain.params) is plain.params


def test_a_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    """From a checkpoint, parameters, moments and averages of r among the rest."""
    state, _ = half_way()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, state, state.variables, Progress())
    checkpoints.wait()
    abstract = jax.eval_shape(lambda: initial_state(MODEL, OBJECTIVE, OPTIMISER, KEY, X, ema=True))
    restored = checkpoints.restore(abstract, abstract.variables, data_mesh(1))
    assert restored is not None
    jax.tree.map(np.testing.assert_array_equal, several(restored[0], 3, 5), several(state, 3, 5))
    other = jax.eval_shape(lambda: initial_state(MODEL, NegativeELBO(), OPTIMISER, KEY, X, ema=True))
    with pytest.raises(OtherOptimiserError, match="another optimiser or objective"):
        checkpoints.restore(other, other.variables, data_mesh(1))
    checkpoints.close()


def test_every_stage_trains_them() -> None:
    """A stage's patterns are those of the model; the next stage goes on with r where the last one left it."""
    trains = trains_in(Stage(1, ("px",)), OBJECTIVE)
    assert trains is not None
    paths = ("px/kernel", "delta/kernel", "objective/mutual_information/levels/z1/last/kernel", f"{SCALE}/std")
    assert [trains(path) for path in paths] == [True, False, True, False]
    state, _ = half_way()
    split = Split(np.asarray(X))
    stages = (Stage(1), Stage(1, frozen=("*",)))
    settings = Training(batch_size=8, stages=stages, ema=0.9)
    task = Task(MODEL, OBJECTIVE, OPTIMISER, split, split)
    best = jax.tree.map(lambda leaf: leaf + 1, state.variables)
    start = enter(task, settings, Machine(data_mesh(1)), Start(state, best, Progress()))
    for part in (start.state.params, start.state.ema):
        jax.tree.map(np.testing.assert_array_equal, own_of(part), own_of(state.params))
        jax.tree.map(np.testing.assert_array_equal, without_own(part), best["params"])
    for part in (start.state.statistics, start.state.ema_statistics):
        jax.tree.map(np.testing.assert_array_equal, part["batch_stats"], best["batch_stats"])
    moments = [path for path in leaves_by_path(start.state.opt_state) if not path.endswith("count")]
    assert len(moments) == 8 and all(OWN in path for path in moments)


def test_a_wrapper_passes_them_on() -> None:
    """Of the base of another objective; a model may not have parameters of that name."""
    wrapped = SpectralRegularised(OBJECTIVE)
    made = jax.eval_shape(lambda: wrapped.parameters(forward, MODEL.init(KEY, X, KEY), Batch(X), KEY))
    assert set(made) == {"mutual_information"}
    with pytest.raises(ValueError, match="parameters named 'objective'"):
        with_own({OWN: {}}, {"mutual_information": {}})


def forward(variables: Any, x: Any, key: Any, **choices: Any) -> Any:
    """The model's forward pass in evaluation mode."""
    return MODEL.apply(variables, x, key, **choices), {}


@pytest.mark.slow
def test_eight_devices_compute_the_step_of_one() -> None:
    """With the batch split over them; samples of the model are drawn for all together."""
    found = []
    for devices in (8, 1):
        mesh = data_mesh(devices)
        state = jax.device_put(of_sgd(), replicated(mesh))
        batch = jax.device_put(Batch(X), NamedSharding(mesh, PartitionSpec("data")))
        found.append(jax.device_get(jax.jit(sgd())(state, batch, KEY)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found[0], found[1])


@functools.cache
def of_sgd() -> TrainState:
    """A state of an optimiser without one."""
    return init_state(MODEL, OBJECTIVE, optax.sgd(0.1), KEY, X)


def sgd(**options: Any) -> Any:
    """A step whose change is the gradient; the optimiser has no state."""
    return make_step(MODEL, OBJECTIVE, optax.sgd(0.1), **options)


@pytest.mark.slow
def test_microbatches_are_averaged() -> None:
    """The update is the mean of those of the parts, each with its own samples of the model, in r as elsewhere."""
    state = of_sgd()
    whole, metrics = jax.jit(sgd(microbatch=4))(state, Batch(X), KEY)
    one = jax.jit(sgd())
    parts = [one(state, Batch(X[j::2]), key) for j, key in enumerate(jax.random.split(KEY))]
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *[part.params for part, _ in parts])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), whole.params, mean)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), own_of(mean), dict(own_of(state.params)))
    assert max(jax.tree.leaves(moved)) > 1e-4
    np.testing.assert_allclose(
        metrics["mutual_information"], np.mean([one["mutual_information"] for _, one in parts]), rtol=1e-4
    )


@pytest.mark.slow
def test_statistics_are_those_of_the_data() -> None:
    """Samples of the model leave no trace in batch norm's running statistics, nor in the bare metrics."""
    found = []
    for objective in (OBJECTIVE, NegativeELBO()):
        state = init_state(MODEL, objective, optax.sgd(0.1), KEY, X)
        after, metrics = jax.jit(make_step(MODEL, objective, optax.sgd(0.1)))(state, Batch(X), KEY)
        found.append((after.statistics, {name: metrics[name] for name in ("elbo", "log_px", "rates")}))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), *found)


@pytest.mark.slow
def test_bfloat16() -> None:
    """Networks in bfloat16: r, its parameters and the information stay float32."""
    model = MODEL.clone(dtype="bfloat16")
    state = init_state(model, OBJECTIVE, optax.sgd(0.1), KEY, X)
    after, metrics = jax.jit(make_step(model, OBJECTIVE, optax.sgd(0.1)))(state, Batch(X), KEY)
    assert metrics["skipped"] == 0 and metrics["mutual_information"].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(own_of(after.params))} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_an_imported_run_has_fresh_ones(tmp_path: Path) -> None:
    """They are made on samples of the model; the run's folder opens, and training begins from it."""
    experiment = Experiment("mi", MODEL, objective=OBJECTIVE)
    variables = jax.jit(MODEL.init)(KEY, X, KEY)
    _write_run(tmp_path, experiment, variables, Progress(best_step=7), {"imported": {}}, False)
    found, progress = best_variables(tmp_path, experiment, Split(np.asarray(X)))
    jax.tree.map(np.testing.assert_array_equal, found, dict(variables))
    assert progress.best_step == 7
    optimiser = experiment.optimiser.build()
    wanted = jax.eval_shape(lambda: initial_state(MODEL, OBJECTIVE, optimiser, KEY, X))
    restored = Checkpoints(tmp_path / "checkpoints", read_only=True).restore(wanted, wanted.variables, data_mesh(1))
    assert restored is not None
    assert float(own_of(restored[0].params)["mutual_information"]["inputs"]["std"]) > 0.1
