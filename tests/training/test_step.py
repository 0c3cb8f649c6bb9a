"""The training step: what a bad step leaves, averaged parameters, and devices that agree with one another."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec
from support.cases import equations, integers, reals
from support.toys import BottomUp, Flow

from hvae_jax.likelihoods import Categorical, Gaussian
from hvae_jax.models import TopDownVAE
from hvae_jax.objectives import Batch, Forward, NegativeELBO, Objective, bare_metrics
from hvae_jax.runtime.trees import leaves_by_path
from hvae_jax.training import Gradients, TrainState, data_mesh, init_state, make_step
from hvae_jax.training.checkpoint import Checkpoints, Progress
from hvae_jax.training.mesh import check_divides, replicated, split_rows
from hvae_jax.training.state import initial_state
from hvae_jax.training.step import accumulate

pytestmark = pytest.mark.leg

KEY = jax.random.key(3)
MODEL = TopDownVAE(latents=(2, 2), hidden=6, likelihood=Categorical(3))
X = jnp.asarray(np.random.default_rng(0).integers(0, 3, (32, 5)), jnp.uint8)


def assert_trees_equal(got: Any, expected: Any, **tolerance: float) -> None:
    """Leaf by leaf: to the bit, or to a tolerance."""
    compare = functools.partial(np.testing.assert_allclose, **tolerance) if tolerance else np.testing.assert_array_equal
    jax.tree.map(compare, got, expected)


@dataclasses.dataclass(frozen=True)
class Poisoned(Objective):
    """The negative ELBO with a state that counts its calls, gone wrong at steps 1, 3 and 5, each in its way."""

    def init(self, variables: Any) -> Array:
        """No calls yet."""
        return jnp.int32(0)

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """NaN in the data, then an infinite loss with a good gradient, then a good loss without a gradient."""
        trace, updates = forward(variables, jnp.where(step == 1, jnp.nan, batch.x), key, y=batch.y)
        squares = optax.tree.norm(variables["params"], squared=True)
        loss = -bare_metrics(trace)["elbo"] + jnp.where(step == 3, jnp.inf, 0.0)
        loss += jnp.sqrt(squares * jnp.where(step == 5, 0.0, 1.0))  # sqrt has no finite slope at 0
        return loss, bare_metrics(trace), state + 1, updates


@functools.cache
def poisoned() -> list[tuple[TrainState, dict[str, Array]]]:
    """A fresh state, and what seven steps make of it: (state, metrics) after each, average decay 0.2."""
    model, objective, optimiser = TopDownVAE((2,), hidden=5, likelihood=Gaussian()), Poisoned(), optax.adam(1e-2)
    batch = Batch(reals(3))
    state = init_state(model, objective, optimiser, KEY, batch.x, ema=True)
    step, history = jax.jit(make_step(model, objective, optimiser, ema_decay=0.2)), [(state, {})]
    for i in range(7):
        history.append(step(history[-1][0], batch, jax.random.fold_in(KEY, i)))
    return jax.device_get(history)


@pytest.mark.parametrize(("at", "way"), [(1, "data"), (3, "loss"), (5, "gradient")])
def test_a_bad_step_changes_nothing(at: int, way: str) -> None:
    """A loss or a gradient that is not finite leaves parameters, statistics, optimiser, objective and average as is.

    Only `step`, `skipped` and `streak` count on; the next good step goes on from where things were.
    """
    (before, good), (bad, metrics), (after, well) = poisoned()[at : at + 3]
    assert (good["skipped"], metrics["skipped"], well["skipped"]) == (0, 1, 0)
    assert np.isfinite(metrics["loss"]) == (way == "gradient")
    assert np.isfinite(metrics["grad_norm"]) == (way == "loss")
    counters = {"step": before.step + 1, "skipped": before.skipped + 1, "streak": np.int32(1)}
    assert_trees_equal(bad, before.replace(**counters))
    assert (after.step, after.skipped, after.streak) == (at + 2, bad.skipped, 0)
    assert after.objective_state == before.objective_state + 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    for part in ("params", "ema", "statistics", "ema_statistics", "opt_state"):
        leaves = (jax.tree.leaves(getattr(state, part)) for state in (bad, after))
        assert any((a != b).any() for a, b in zip(*leaves, strict=True))


def test_bad_steps_in_a_row() -> None:
    """The streak grows until a good step."""
    step = jax.jit(lambda state: make_step(Flow(), Infinite(), optax.sgd(0.1))(state, Batch(integers(2, 4)), KEY)[0])
    state = init_state(Flow(), NegativeELBO(), optax.sgd(0.1), KEY, integers(2, 4))
    streaks = []
    for _ in range(4):
        state = step(state)
        streaks.append((int(state.skipped), int(state.streak)))
    assert streaks == [(1, 1), (2, 2), (3, 3), (3, 0)]


@dataclasses.dataclass(frozen=True)
class Infinite(NegativeELBO):
    """The negative ELBO, infinite at the first three steps."""

    def __call__(self, *arguments: Any) -> tuple[Array, dict[str, Array], Any, Any]:
        """Plus infinity, or not."""
        loss, *rest = super().__call__(*arguments)
        return loss + jnp.where(arguments[4] < 3, jnp.inf, 0.0), *rest


def test_the_average_forgets_its_start() -> None:
    """Decay min(0.2, (1 + t)/(10 + t)) at update t, skipped steps not counted; evaluation uses the average.

    It covers parameters and batch statistics.
    """

    def read(state: TrainState) -> dict[str, Any]:
        return {"params": state.params, **state.statistics}

    history = poisoned()
    average, updates = read(history[0][0]), 0
    for state, metrics in history[1:]:
        if not metrics["skipped"]:
            decay = [1 / 10, 2 / 11, 0.2, 0.2][updates]
            average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, read(state))
            updates += 1
        assert_trees_equal(state.variables, average, rtol=1e-5, atol=1e-7)
        assert_trees_equal(state.variables, {"params": state.ema, **state.ema_statistics})
    assert updates == 4


def test_without_an_average() -> None:
    """Evaluation uses the parameters themselves; a model without statistics needs none."""
    model, x = Flow(), integers(2, 4)
    optimiser = optax.sgd(0.1)
    state = init_state(model, NegativeELBO(), optimiser, KEY, x)
    after, metrics = jax.jit(make_step(model, NegativeELBO(), optimiser))(state, Batch(x), KEY)
    assert after.ema is None
    assert after.statistics == {}
    assert set(after.variables) == {"params"}
    assert set(metrics) == {"loss", "elbo", "log_px", "rates", "grad_norm", "skipped"}
    assert metrics["loss"] == -metrics["elbo"]
    np.testing.assert_allclose(metrics["elbo"], metrics["log_px"] - metrics["rates"].sum(), rtol=1e-6)


RATE = 0.02


@functools.cache
def fresh() -> TrainState:
    """A state of MODEL."""
    return init_state(MODEL, NegativeELBO(), optax.sgd(RATE), KEY, X)


step_of_all = jax.jit(make_step(MODEL, NegativeELBO(), optax.sgd(RATE)))


@functools.cache
def twenty_steps(devices: int) -> list[tuple[TrainState, dict[str, Array]]]:
    """State and metrics after each of 20 steps with the batch split over a mesh of so many devices."""
    mesh = data_mesh(devices)
    state = jax.device_put(fresh(), replicated(mesh))
    batch = jax.device_put(Batch(X), NamedSharding(mesh, PartitionSpec("data")))
    assert len(batch.x.sharding.device_set) == devices
    history = []
    for i in range(20):
        state, metrics = step_of_all(state, batch, jax.random.fold_in(KEY, i))
        history.append(jax.device_get((state, metrics)))
    return history


def gradient_of(state: TrainState) -> Any:
    """What one step of SGD took away."""
    return jax.tree.map(lambda old, new: (old - new) / RATE, fresh().params, state.params)


def test_eight_devices_compute_the_step_of_one() -> None:
    """At the same state: loss, rates, batch statistics and gradient."""
    eight, one = twenty_steps(8)[0], twenty_steps(1)[0]
    assert_trees_equal(eight[1], one[1], rtol=1e-5, atol=1e-6)
    assert_trees_equal(eight[0].statistics, one[0].statistics, rtol=1e-5, atol=1e-6)
    assert_trees_equal(gradient_of(eight[0]), gradient_of(one[0]), rtol=1e-5, atol=1e-5)


def test_eight_devices_train_as_one() -> None:
    """Parameters after 20 steps of SGD agree to 1e-6."""
    eight, one = twenty_steps(8)[-1][0].params, twenty_steps(1)[-1][0].params
    moved = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (fresh().params, one)), strict=True))
    assert moved > 0.05
    assert_trees_equal(eight, one, rtol=0, atol=1e-6)


@jax.jit
def part_by_hand(x: Array, key: Array) -> tuple[Any, dict[str, Array], Any]:
    """Gradient, metrics and statistics of x alone, with a key of its own, at the fresh state."""
    state = fresh()

    def forward(variables: Any, x: Array, key: Array, **choices: Any) -> Any:
        return MODEL.apply(variables, x, key, train=True, mutable=["batch_stats"], **choices)

    def loss(params: Any) -> Any:
        variables = {"params": params, **state.statistics}
        value, metrics, _, updates = NegativeELBO()(forward, variables, Batch(x), key, state.step, ())
        return value, ({"loss": value, **metrics}, updates)

    gradient, (metrics, updates) = jax.grad(loss, has_aux=True)(state.params)
    return gradient, metrics, updates


Parts = list[tuple[Array, Array]]


def devices_parts() -> Parts:
    """What each of eight devices has: a batch of 4, and the key folded with its index."""
    return [(X[4 * i : 4 * i + 4], jax.random.fold_in(KEY, i)) for i in range(8)]


def assert_is_the_mean_of(parts: Parts, state: TrainState, metrics: dict[str, Array]) -> None:
    """Gradient, metrics and statistics are the means of the parts' own, weighted by their rows, in NumPy."""
    weights = np.array([len(x) for x, _ in parts], np.float64)
    answers = [jax.device_get(part_by_hand(*part)) for part in parts]
    gradient, expected, updates = jax.tree.map(lambda *leaves: np.average(leaves, 0, weights), *answers)
    assert_trees_equal(gradient_of(state), gradient, rtol=1e-4, atol=1e-5)
    assert_trees_equal(dict(state.statistics), updates, rtol=1e-5, atol=1e-6)
    assert_trees_equal({name: metrics[name] for name in expected}, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradient), rtol=1e-5)
    assert (state.step, metrics["skipped"]) == (1, 0)


step_of_one = make_step(MODEL, NegativeELBO(), optax.sgd(RATE), axis_name="data")


@functools.cache
def step_of_each() -> Any:
    """The step of one device, pmapped; the state has a leading axis of devices, the key has not."""
    return jax.pmap(step_of_one, axis_name="data", in_axes=(0, 0, None))


def sharded(step: Any) -> Any:
    """The step of one device under shard_map."""
    whole, split = PartitionSpec(), PartitionSpec("data")
    return jax.shard_map(step, mesh=data_mesh(8), in_specs=(whole, split, whole), out_specs=whole)


def on_each_device(tree: Any) -> Any:
    """A copy for each of eight devices."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * 8), tree)


@pytest.mark.slow
def test_pmap_averages_over_the_axis() -> None:
    """jax.pmap of the per-device step: every device ends with the same state, made of the averages."""
    states, metrics = step_of_each()(on_each_device(fresh()), Batch(X.reshape(8, 4, -1)), KEY)
    first = jax.tree.map(lambda leaf: leaf[0], (states, metrics))
    for i in range(1, 8):
        assert_trees_equal(jax.tree.map(lambda leaf, i=i: leaf[i], (states, metrics)), first)
    assert_is_the_mean_of(devices_parts(), *jax.device_get(first))


@pytest.mark.slow
def test_shard_map_averages_over_the_axis() -> None:
    """jax.shard_map of the per-device step, with its tracking of what varies over the axis."""
    step = jax.jit(sharded(step_of_one))
    assert_is_the_mean_of(devices_parts(), *jax.device_get(step(fresh(), Batch(X), KEY)))


def test_one_bad_device_makes_all_skip() -> None:
    """A value without probability in one device's share makes its loss infinite: no device takes the step."""
    x = X.at[5, 0].set(3)
    states, metrics = step_of_each()(on_each_device(fresh()), Batch(x.reshape(8, 4, -1)), KEY)
    assert (metrics["skipped"] == 1).all()
    assert_trees_equal(states.params, on_each_device(fresh().params))


@dataclasses.dataclass(frozen=True)
class Still(Objective):
    """The negative ELBO with every latent given, so without noise; its state counts calls and follows the ELBO."""

    def init(self, variables: Any) -> dict[str, Array]:
        """No calls, no ELBO yet."""
        return {"calls": jnp.int32(0), "elbo": jnp.float32(0.0)}

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """All latents are 1/2; the state is affine in the batch's mean."""
        latents = (jnp.full((len(batch.x), 2), 0.5),) * 2
        trace, updates = forward(variables, batch.x, key, latents=latents)
        metrics = bare_metrics(trace)
        state = {"calls": state["calls"] + 1, "elbo": 0.9 * state["elbo"] + 0.1 * metrics["elbo"]}
        return -metrics["elbo"], metrics, state, updates


@pytest.mark.parametrize("microbatch", [8, 1, 7])
def test_microbatches_make_the_whole_batchs_step(microbatch: int) -> None:
    """Without noise and batch statistics: the same gradient, metrics and state of the objective, whatever the parts."""
    model, x = BottomUp(), (X[:, :4] > 0).astype(jnp.uint8)
    state = init_state(model, Still(), optax.sgd(1.0), KEY, x)
    whole, parts = (
        jax.jit(make_step(model, Still(), optax.sgd(1.0), microbatch=size))(state, Batch(x), KEY)
        for size in (None, microbatch)
    )
    assert whole[1]["grad_norm"] > 0.1
    assert_trees_equal(parts, whole, rtol=2e-5, atol=1e-6)
    assert parts[0].objective_state["calls"] == 1


@pytest.mark.parametrize(
    ("rows", "microbatch", "parts"),
    [
        pytest.param(32, 8, [slice(j, 32, 4) for j in range(4)], marks=pytest.mark.slow),
        pytest.param(13, 5, [slice(0, 5), slice(5, 13, 2), slice(6, 13, 2)], marks=pytest.mark.slow),
    ],
)
def test_microbatches_are_averaged(rows: int, microbatch: int, parts: list[slice]) -> None:
    """Each has its own key and normalises by itself; the mean is weighted by rows, which differ by one at most."""
    x = X[:rows]
    keys = jax.random.split(KEY, len(parts))
    step = jax.jit(make_step(MODEL, NegativeELBO(), optax.sgd(RATE), microbatch=microbatch))
    by_hand = [(x[part], key) for part, key in zip(parts, keys, strict=True)]
    assert_is_the_mean_of(by_hand, *jax.device_get(step(fresh(), Batch(x), KEY)))


@pytest.mark.parametrize(
    ("rows", "microbatch", "sizes"), [(32, 8, {8}), (37, 8, {8, 7}), (17, 16, {9, 8}), (31, 16, {16, 15}), (3, 1, {1})]
)
def test_parts_are_almost_equal(rows: int, microbatch: int, sizes: set[int]) -> None:
    """No part is larger than the microbatch, none much smaller; labels go with their examples; no row is lost."""
    batch = Batch(jnp.arange(1.0, rows + 1.0)[:, None], jnp.arange(rows))
    seen = set()

    def gradient(batch: Batch, key: Array) -> tuple[Array, Array]:
        seen.add(len(batch.x))
        return (batch.x[:, 0] * batch.y).mean(), jax.random.key_data(key)

    parts, _ = jax.jit(lambda batch: accumulate(gradient, jnp.float32(0), batch, KEY, microbatch))(batch)
    np.testing.assert_allclose(parts, sum(i * (i + 1) for i in range(rows)) / rows, rtol=1e-6)
    assert seen == sizes


def test_one_bad_microbatch_skips_the_step() -> None:
    """A value without probability in one part: no update at all."""
    step = jax.jit(make_step(MODEL, NegativeELBO(), optax.sgd(RATE), microbatch=8))
    state, metrics = step(fresh(), Batch(X.at[5, 0].set(3)), KEY)
    assert_trees_equal(state, fresh().replace(step=1, skipped=1, streak=1))
    assert metrics["loss"] == np.inf


@pytest.mark.slow
def test_microbatches_on_eight_devices() -> None:
    """The step of one device; no example moves, only sums over the devices are taken."""
    step = jax.jit(make_step(MODEL, NegativeELBO(), optax.sgd(RATE), microbatch=8))
    answers = []
    for devices in (1, 8):
        mesh = data_mesh(devices)
        state = jax.device_put(fresh(), replicated(mesh))
        batch = jax.device_put(Batch(X), NamedSharding(mesh, PartitionSpec("data")))
        answers.append(jax.device_get(step(state, batch, KEY)))
    assert_trees_equal(answers[1], answers[0], rtol=1e-5, atol=1e-6)
    program = step.lower(state, batch, KEY).compile().as_text()
    assert "all-reduce" in program
    assert not any(moved in program for moved in ("all-gather", "all-to-all", "collective-permute"))


@pytest.mark.slow
def test_microbatches_of_each_device() -> None:
    """With an axis: each device accumulates its own, and the axis is averaged over once, after that."""
    one = make_step(MODEL, NegativeELBO(), optax.sgd(RATE), axis_name="data", microbatch=2)
    step = jax.jit(sharded(one))
    parts = [(x[j::2], part_key) for x, key in devices_parts() for j, part_key in enumerate(jax.random.split(key, 2))]
    assert_is_the_mean_of(parts, *jax.device_get(step(fresh(), Batch(X), KEY)))
    each = jax.pmap(one, axis_name="data", in_axes=(0, 0, None))
    states, metrics = each(on_each_device(fresh()), Batch(X.reshape(8, 4, -1)), KEY)
    assert_is_the_mean_of(parts, *jax.device_get(jax.tree.map(lambda leaf: leaf[7], (states, metrics))))
    everything = equations(jax.make_jaxpr(sharded(one))(fresh(), Batch(X), KEY))
    scans = [equation.params["jaxpr"] for equation in everything if equation.primitive.name == "scan"]
    inside = [equation.primitive.name for body in scans for equation in equations(body)]
    assert "dot_general" in inside
    assert not any(name.startswith(("psum", "pmean", "all_reduce")) for name in inside)


def test_a_batch_that_fits_is_computed_as_ever() -> None:
    """A microbatch of the batch's size, or more, is the very program without one."""
    steps = [make_step(MODEL, NegativeELBO(), optax.sgd(RATE), microbatch=size) for size in (None, 32, 100, 16)]
    programs = [jax.jit(step).lower(fresh(), Batch(X), KEY).as_text() for step in steps]
    assert programs[0] == programs[1] == programs[2] != programs[3]


@pytest.mark.slow
def test_microbatches_take_less_memory() -> None:
    """A wide model's step with an eighth of the batch at once needs less than a third of the memory."""
    model, x = TopDownVAE((4,), hidden=128, depth=3, likelihood=Categorical(3)), jnp.zeros((2048, 16), jnp.uint8)
    abstract = jax.eval_shape(lambda: initial_state(model, NegativeELBO(), optax.sgd(RATE), KEY, x))

    def memory(microbatch: int | None) -> int:
        step = jax.jit(make_step(model, NegativeELBO(), optax.sgd(RATE), microbatch=microbatch), donate_argnums=0)
        return step.lower(abstract, Batch(x), KEY).compile().memory_analysis().temp_size_in_bytes

    assert memory(256) < memory(None) / 3


def test_a_microbatch_has_examples() -> None:
    """0 is refused."""
    with pytest.raises(ValueError, match="microbatch is 0, but it has to be 1 or more"):
        make_step(MODEL, NegativeELBO(), optax.sgd(RATE), microbatch=0)


def test_rows_are_split_where_they_divide() -> None:
    """16 rows go two to a device; 10 stay whole on each, so that no padding reaches a mean."""
    mesh = data_mesh(8)
    split = jax.jit(lambda x: split_rows(x, mesh))
    assert split(jnp.zeros((16, 3))).sharding.spec == PartitionSpec("data")
    assert split(jnp.zeros((10, 3))).sharding.is_fully_replicated


def test_batches_have_to_divide() -> None:
    """The error names the sizes that would do."""
    check_divides(16, data_mesh(8))
    with pytest.raises(ValueError, match=r"batch of 20 .* 8 devices; 16 or 24"):
        check_divides(20, data_mesh(8))
    with pytest.raises(ValueError, match="8 devices; 8 would do"):
        check_divides(5, data_mesh(8))


# ---- what an objective trains, and what it remembers

POISON = 2  # the step whose data is not a number


@dataclasses.dataclass(frozen=True)
class Stage(NegativeELBO):
    """The negative ELBO of one stage of greedy training: paths with these prefixes are left alone."""

    frozen: tuple[str, ...] = ()

    def trains(self, path: str) -> bool:
        """All but the frozen."""
        return not path.startswith(self.frozen)

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """With a loss that is not finite once, and a gradient of what is frozen that never is."""
        loss, *rest = super().__call__(forward, variables, batch, key, step, state)
        leaves = leaves_by_path(variables["params"]).items()
        frozen = sum(jnp.square(leaf).sum() for path, leaf in leaves if not self.trains(path))
        return loss + jnp.sqrt(0.0 * frozen) + jnp.where(step == POISON, jnp.inf, 0.0), *rest


@pytest.mark.parametrize("microbatch", [pytest.param(value, marks=pytest.mark.slow) for value in (None, 8, 7)])
def test_what_is_not_trained_keeps_every_bit(microbatch: int | None) -> None:
    """Parameters, averages and statistics, under weight decay, moments from before, accumulation, a skipped step."""
    model, objective, optimiser = TopDownVAE((2, 2), hidden=6, likelihood=Categorical(3)), Stage(), optax.adamw(0.05)
    settings: dict[str, Any] = {"ema_decay": 0.9, "microbatch": microbatch, "gradients": Gradients(clip=1.0)}
    state = init_state(model, NegativeELBO(), optimiser, KEY, X, ema=True)
    state, _ = jax.jit(make_step(model, NegativeELBO(), optimiser, **settings))(state, Batch(X), KEY)
    before = jax.device_get(state)
    frozen = tuple(sorted({path.partition("/")[0] for path in leaves_by_path(before.params)})[::2])
    objective = Stage(frozen)
    step = jax.jit(make_step(model, objective, optimiser, **settings))
    for i in range(4):
        state, metrics = step(state, Batch(X), jax.random.fold_in(KEY, i))
        assert np.isfinite(metrics["grad_norm"]) and metrics["skipped"] == (state.step - 1 == POISON)
    after = jax.device_get(state)
    kept = moved = 0
    for part in ("params", "ema"):
        new = leaves_by_path(getattr(after, part))
        for path, old in leaves_by_path(getattr(before, part)).items():
            assert np.array_equal(old, new[path]) != objective.trains(path), (part, path)
            kept, moved = kept + (not objective.trains(path)), moved + objective.trains(path)
    assert kept > 5 and moved > 5
    for part in ("statistics", "ema_statistics"):
        new = leaves_by_path(getattr(after, part)["batch_stats"])
        for path, old in leaves_by_path(getattr(before, part)["batch_stats"]).items():
            assert np.array_equal(old, new[path]) != objective.trains(path), (part, path)
        assert {objective.trains(path) for path in new} == {True, False}


def test_what_is_not_trained_counts_towards_no_limit() -> None:
    """The norm is that of the others' gradient."""
    gradient = leaves_by_path(gradient_of(jax.device_get(step_of_all(fresh(), Batch(X), KEY)[0])))
    frozen = next(path for path in gradient if path.endswith("kernel"))
    step = jax.jit(make_step(MODEL, Only(frozen), optax.sgd(RATE)))
    norm = float(step(fresh(), Batch(X), KEY)[1]["grad_norm"])
    assert norm == pytest.approx(float(optax.tree.norm(gradient[frozen])), rel=1e-3)


@dataclasses.dataclass(frozen=True)
class Only(NegativeELBO):
    """The negative ELBO that trains one parameter."""

    path: str = ""

    def trains(self, path: str) -> bool:
        """That one."""
        return path == self.path


@dataclasses.dataclass(frozen=True)
class Spectral(NegativeELBO):
    """The negative ELBO plus the spectral norm of a kernel, by a power iteration whose vector is the state."""

    def kernel(self, variables: Any) -> Array:
        """The first square one."""
        leaves = leaves_by_path(variables["params"])
        return next(leaf for leaf in leaves.values() if leaf.ndim == 2 and leaf.shape[0] == leaf.shape[1])

    def init(self, variables: Any) -> dict[str, Array]:
        """Made from the parameters: the kernel's first row."""
        row = self.kernel(variables)[0]
        return {"u": row / jnp.linalg.norm(row), "calls": jnp.int32(0)}

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """One turn of the iteration, then u W v."""
        loss, metrics, _, updates = super().__call__(forward, variables, batch, key, step, state)
        kernel = self.kernel(variables)
        v = jax.lax.stop_gradient(kernel.T @ (kernel @ state["u"]))
        u = v / jnp.linalg.norm(v)
        norm = jnp.linalg.norm(kernel @ u)
        metrics = {**metrics, "spectral": norm}
        return loss + 0.01 * norm, metrics, {"u": u, "calls": state["calls"] + 1}, updates


@functools.cache
def spectral(microbatch: int | None) -> Any:
    """Its step, jitted."""
    return jax.jit(make_step(MODEL, Spectral(), optax.adam(1e-3), ema_decay=0.9, microbatch=microbatch))


def several(state: TrainState, first: int, last: int, microbatch: int | None) -> tuple[TrainState, dict[str, Array]]:
    """Steps of these numbers."""
    metrics: dict[str, Array] = {}
    for i in range(first, last):
        state, metrics = spectral(microbatch)(state, Batch(X), jax.random.fold_in(KEY, i))
    return state, metrics


@pytest.mark.slow
@pytest.mark.parametrize("microbatch", [None, 7])
def test_an_objective_may_remember_what_it_makes_of_the_parameters(microbatch: int | None, tmp_path: Path) -> None:
    """Its state moves once a step, whatever the parts; it is saved with the run, and comes back bit for bit."""
    state = init_state(MODEL, Spectral(), optax.adam(1e-3), KEY, X, ema=True)
    kernel = Spectral().kernel(state.variables)
    np.testing.assert_allclose(state.objective_state["u"], kernel[0] / np.linalg.norm(kernel[0]), rtol=1e-6)
    half, _ = several(state, 0, 15, microbatch)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(15, half, half.variables, Progress())
    checkpoints.wait()
    abstract = jax.eval_shape(lambda: initial_state(MODEL, Spectral(), optax.adam(1e-3), KEY, X, ema=True))
    restored = checkpoints.restore(abstract, abstract.variables, data_mesh(1))
    checkpoints.close()
    assert restored is not None
    straight, metrics = several(half, 15, 30, microbatch)
    again, _ = several(restored[0], 15, 30, microbatch)
    assert_trees_equal(again, straight)
    assert straight.objective_state["calls"] == 30
    largest = np.linalg.norm(np.asarray(Spectral().kernel({"params": straight.params})), 2)
    assert float(metrics["spectral"]) == pytest.approx(largest, rel=0.02)


@pytest.mark.slow
def test_parts_of_a_batch_make_the_same_state() -> None:
    """What is made of the parameters alone is the same for every part, and so is their mean."""
    state = init_state(MODEL, Spectral(), optax.adam(1e-3), KEY, X, ema=True)
    whole, parts = (several(state, 0, 1, microbatch)[0].objective_state for microbatch in (None, 7))
    np.testing.assert_allclose(parts["u"], whole["u"], rtol=1e-6)
    assert parts["calls"] == whole["calls"] == 1
