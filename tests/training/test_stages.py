"""Stages: what they train, what they cost, what they refuse; and that a run killed in one goes on bit for bit."""

from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.cases import integers

from hvae_jax.data import Split
from hvae_jax.likelihoods import Categorical
from hvae_jax.models import HVAE, GreedyVAE, LinearVAE, TopDownVAE
from hvae_jax.objectives import Batch, NegativeELBO
from hvae_jax.runtime.trees import leaves_by_path
from hvae_jax.training import (
    Feeding,
    Machine,
    Provenance,
    Stage,
    Task,
    Training,
    Watching,
    data_mesh,
    init_state,
    make_step,
    train,
)
from hvae_jax.training.checkpoint import Checkpoints
from hvae_jax.training.loop import Outcome
from hvae_jax.training.sinks import Reporter
from hvae_jax.training.stages import check_stages, joined, matches, optimiser_in, parted, trains_in

KEY = jax.random.key(0)
X = integers(3, 8)
MODEL = TopDownVAE((2, 2), hidden=6, likelihood=Categorical(3))


@pytest.mark.parametrize(
    "stage", [Stage(5), Stage(500, ("module2", "past"), ("*/bias",), 2), Stage(1, frozen=("a/b",)), Stage(2, modules=3)]
)
def test_a_stage_is_a_word(stage: Stage) -> None:
    """What a stage prints is what it is read from."""
    assert Stage.parse(str(stage)) == stage


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("many", "no whole number"),
        ("5:modules=x", "no whole number"),
        ("5:trained=a", "trains=, frozen= and modules="),
        ("5:trains", "trains=, frozen= and modules="),
        ("5:modules=1:modules=2", "once each"),
        ("0", "1 step or more"),
        ("5:trains=", "no pattern"),
        ("5:modules=0", "1 or more, or None"),
    ],
)
def test_what_is_no_stage(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Stage.parse(text)


def test_patterns() -> None:
    """A path, what lies below it, wildcards; frozen wins."""
    assert matches("a/b", "a/b") and matches("a/b/c", "a/b") and not matches("a/bc", "a/b")
    assert matches("a/b/kernel", "*/kernel") and matches("module3/x", "module?") and not matches("x/a/b", "a")
    stage = Stage(1, ("a", "b"), ("*/bias",))
    assert [stage.includes(path) for path in ("a/kernel", "b/bias", "c/kernel")] == [True, False, False]
    assert Stage(1, frozen=("a",)).includes("b/bias") and not Stage(1, frozen=("a",)).includes("a/bias")


def test_parts_make_the_whole() -> None:
    tree = {"a": {"x": 1, "y": 2}, "b": {"z": {"x": 3}}, "c": 4}
    trained, frozen = parted(tree, lambda path: path.endswith("x"))
    assert trained == {"a": {"x": 1}, "b": {"z": {"x": 3}}} and frozen == {"a": {"y": 2}, "c": 4}
    assert joined(trained, frozen) == tree == joined(frozen, trained)
    with pytest.raises(ValueError, match="nested dicts"):
        parted(jnp.zeros(3), lambda path: True)


class NotTrained(NegativeELBO):
    """Trains nothing below some path."""

    def trains(self, path: str) -> bool:
        """All but px."""
        return not path.startswith("px/")


@pytest.mark.parametrize(
    ("stages", "why"),
    [
        ((Stage(1, ("delta3",)),), "Stage 1 .*no parameter's path matches 'delta3'. Did you mean 'delta"),
        ((Stage(1), Stage(1, frozen=("redout",))), "Stage 2 .*'redout'. Did you mean 'readout'"),
        ((Stage(1, ("zzzz",)),), "matches 'zzzz'. Paths begin with"),
        ((Stage(1, ("px",), ("px",)),), "trains nothing: `frozen` matches every path"),
        ((Stage(1, frozen=("*",)),), "trains nothing: `frozen` matches every path"),
        ((Stage(1, ("px",)),), "trains nothing: NotTrained does not train"),
        ((Stage(1, modules=1),), r"Stage 1 \(1:modules=1\): TopDownVAE is not made of modules"),
    ],
)
def test_stages_that_do_not_fit(stages: tuple[Stage, ...], why: str) -> None:
    """Said with the stage's number, and the nearest path."""
    with pytest.raises(ValueError, match=why):
        check_stages(stages, MODEL, NotTrained(), X, None, KEY)


def test_modules_that_do_not_run() -> None:
    greedy, x = GreedyVAE((4, 4, 1), modules=2, width=2, latents=1), np.zeros((1, 4, 4, 1), np.uint8)
    check_stages((Stage(1, ("module1",), modules=1), Stage(1, ("module2",))), greedy, NegativeELBO(), x, None, KEY)
    with pytest.raises(ValueError, match=r"with modules=1 none of its parameters runs, .* module2/"):
        check_stages((Stage(1, ("module2",), modules=1),), greedy, NegativeELBO(), x, None, KEY)
    with pytest.raises(ValueError, match=r"Stage 1 .*: GreedyVAE\(modules=2\) cannot run with modules=3: 1 to 2"):
        check_stages((Stage(1, modules=3),), greedy, NegativeELBO(), x, None, KEY)


def test_a_run_that_ends_before_its_last_stage() -> None:
    stages = (Stage(10), Stage(10))
    assert Training(stages=stages).plan(64).last_step == 20
    assert Training(stages=stages, steps=15).plan(64).last_step == 15
    with pytest.raises(ValueError, match="the 1 stages before the last take 10 steps"):
        Training(stages=stages, steps=10).plan(64)
    with pytest.raises(ValueError, match="in stage 3, but there are 2 stages"):
        Training(stages=stages).stage(2)
    assert Training().stage(0) is None


STAGE = Stage(1, ("delta*", "r2", "prior1"), ("*/bias",))


@pytest.mark.slow
def test_what_is_frozen_keeps_every_bit_and_costs_nothing() -> None:
    """Parameters, averages and statistics, under weight decay; the others move as with an objective that freezes."""

    class Frozen(NegativeELBO):
        def trains(self, path: str) -> bool:
            return STAGE.includes(path)

    optimiser, objective = optax.adamw(0.05), NegativeELBO()
    own = optimiser_in(optimiser, STAGE, objective)
    first = init_state(MODEL, objective, own, KEY, X, ema=True)
    step = jax.jit(make_step(MODEL, objective, optimiser, ema_decay=0.9, trains=trains_in(STAGE, objective)))
    whole = init_state(MODEL, Frozen(), optimiser, KEY, X, ema=True)
    step_of_whole = jax.jit(make_step(MODEL, Frozen(), optimiser, ema_decay=0.9))
    after, other = first, whole
    for i in range(3):
        key = jax.random.fold_in(KEY, i)
        after, metrics = step(after, Batch(X), key)
        other, others = step_of_whole(other, Batch(X), key)
        np.testing.assert_allclose(metrics["grad_norm"], others["grad_norm"], rtol=1e-5)
    kept = moved = 0
    for part in ("params", "ema", "statistics", "ema_statistics"):
        tree, before, wanted = (getattr(state, part) for state in (after, first, other))
        if part.endswith("statistics"):
            tree, before, wanted = (each["batch_stats"] for each in (tree, before, wanted))
        for path, new in leaves_by_path(tree).items():
            assert np.array_equal(new, leaves_by_path(before)[path]) != STAGE.includes(path), (part, path)
            kept, moved = kept + (not STAGE.includes(path)), moved + STAGE.includes(path)
        chex.assert_trees_all_close(tree, wanted, rtol=1e-5, atol=1e-6)
    assert kept > 10 and moved > 10
    trained = sum(leaf.size for path, leaf in leaves_by_path(first.params).items() if STAGE.includes(path))
    assert sum(leaf.size for leaf in jax.tree.leaves(first.opt_state)) == 2 * trained + 1  # two moments and the count


@pytest.mark.slow
def test_memory_of_a_stage() -> None:
    """XLA's own figures: a stage of a greedy model takes less than joint training, in state and in the step."""
    model, x = GreedyVAE((8, 8, 1), modules=2, width=8, latents=2), np.zeros((32, 8, 8, 1), np.uint8)
    objective, optimiser = NegativeELBO(), optax.adam(1e-3)

    def memory(stage: Stage | None) -> tuple[int, int]:
        own = optimiser_in(optimiser, stage, objective)
        state = jax.eval_shape(lambda: init_state(model, objective, own, KEY, x))
        running = model if stage is None else stage.model(model)
        step = jax.jit(make_step(running, objective, optimiser, trains=trains_in(stage, objective)), donate_argnums=0)
        found: Any = step.lower(state, Batch(jnp.asarray(x)), KEY).compile().memory_analysis()
        return found.argument_size_in_bytes, found.temp_size_in_bytes

    joint = memory(None)
    for stage in (Stage(1, ("module1",), modules=1), Stage(1, ("module2",))):
        state, temporary = memory(stage)
        assert state < 0.85 * joint[0] and temporary < joint[1], (stage, state, temporary, joint)


# ---- runs

REALS = np.random.default_rng(0).normal(size=(21, 3)).astype(np.float32)  # three steps an epoch: 8, 8, 5
IMAGES = np.random.default_rng(0).integers(0, 3, (21, 4, 4, 1)).astype(np.uint8)
GREEDY = GreedyVAE((4, 4, 1), modules=2, width=2, latents=1, blocks=1, likelihood=Categorical(3))
OF_GREEDY = (Stage(4, ("module1",), modules=1), Stage(4, ("module2",)))
LINEAR = LinearVAE((2, 2), "shifted")
STAGES = (Stage(4, ("kernel_x", "bias_x", "off_*")), Stage(4, ("kernel1", "bias1")))


class Quiet(Reporter):
    """A reporter that remembers rows and lines, and may raise at a step, as a kill does."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.rows: list[dict[str, float]] = []
        self.lines: list[str] = []
        self.kill_at = kill_at

    def write(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    def advance(self, step: int, **_: str) -> None:
        if step == self.kill_at:
            raise KeyboardInterrupt

    def say(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, sentence: str, step: int) -> None:
        self.lines.append(sentence)

    def close(self) -> None: ...


def trained(
    folder: Path, said: Any = None, feed: str = "resident", model: HVAE = LINEAR, x: np.ndarray = REALS, **options: Any
) -> tuple[Outcome, Quiet]:
    """A run of a small model in two stages."""
    plain: dict[str, Any] = {"batch_size": 8, "per_dispatch": 2, "pictures_every": None, "save_every": 1, "ema": 0.5}
    settings = Training(**{**plain, "stages": STAGES, "validate_every": 2, **options})
    said = said or Quiet()
    task = Task(model, NegativeELBO(), optax.adam(0.01), Split(x), Split(x[:5]))
    checkpoints = Checkpoints(folder / "checkpoints", settings.keep)
    try:
        machine = Machine(data_mesh(1), Feeding(feed))
        outcome = train(task, settings, KEY, machine, checkpoints, Watching(lambda *_: said), Provenance())
    finally:
        checkpoints.close()
    return outcome, said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Quiet]:
    """An uninterrupted run."""
    return trained(tmp_path_factory.mktemp("runs"))


def test_stages_in_turn(whole: tuple[Outcome, Quiet]) -> None:
    """Each to its step, validated there; the optimiser has the moments of the stage's own parameters."""
    outcome, said = whole
    assert [(row["step"], row["stage"]) for row in said.rows] == [(2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (8, 2)]
    assert [row["step"] for row in said.rows if "validation/elbo" in row] == [2, 4, 6, 8]
    assert [line[:12] for line in said.lines if line.startswith("stage")] == ["stage 1 of 2", "stage 2 of 2"]
    assert outcome.progress.finished and (outcome.progress.stage, outcome.progress.stage_start) == (1, 4)
    own = [leaf for path, leaf in leaves_by_path(outcome.state.params).items() if STAGES[1].includes(path)]
    assert sum(leaf.size for leaf in jax.tree.leaves(outcome.state.opt_state)) == 2 * sum(leaf.size for leaf in own) + 1


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [3, 4, 6])
def test_a_killed_run_goes_on_bit_for_bit(whole: tuple[Outcome, Quiet], kill_at: int, tmp_path: Path) -> None:
    """Killed in stage 1, at its end and in stage 2: state, best variables and score are those of the whole run."""
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, Quiet(kill_at))
    outcome, _ = trained(tmp_path)
    chex.assert_trees_all_equal(outcome.state, whole[0].state, strict=True)
    chex.assert_trees_all_equal(outcome.best, whole[0].best, strict=True)
    for name in ("best_elbo", "best_step", "stage", "stage_start"):
        assert getattr(outcome.progress, name) == getattr(whole[0].progress, name)


@pytest.mark.slow
def test_what_a_stage_begins_with(tmp_path: Path) -> None:
    """What stage 1 ended with, averaged, is what stage 2 keeps bit by bit, in parameters and in averages."""
    first, _ = trained(tmp_path / "first", steps=5, select="last")
    end, _ = trained(tmp_path / "end", stages=STAGES[:1], select="last")
    for tree in (first.state.params, first.state.ema):
        for path, leaf in leaves_by_path(end.best["params"]).items():
            assert np.array_equal(leaves_by_path(tree)[path], leaf) != STAGES[1].includes(path), path


def test_patience_ends_a_stage(tmp_path: Path) -> None:
    """The next one begins there, with a patience of its own."""
    bounds = iter([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0])

    def validate(*_: Any) -> tuple[float, np.ndarray]:
        return next(bounds), np.zeros(2, np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Machine, "validate", lambda *_: validate)
        outcome, said = trained(tmp_path, validate_every=1, per_dispatch=1, patience=1)
    assert [(row["step"], row["stage"]) for row in said.rows] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]
    assert outcome.progress.stage_start == 3 and outcome.progress.best_step == 1


@pytest.mark.slow
def test_a_killed_greedy_run(tmp_path: Path) -> None:
    """The same with modules that are left out of a stage's step; those of the first stage stay bit by bit."""
    greedy: dict[str, Any] = {"model": GREEDY, "x": IMAGES, "stages": OF_GREEDY}
    one, _ = trained(tmp_path / "one", **greedy)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "two", Quiet(6), **greedy)
    two, _ = trained(tmp_path / "two", **greedy)
    chex.assert_trees_all_equal(one.state, two.state, strict=True)
    first, _ = trained(tmp_path / "first", **greedy | {"stages": OF_GREEDY[:1]})
    for name in ("encoder", "posterior", "decoder", "readout"):
        chex.assert_trees_all_equal(one.state.params["module1"][name], first.best["params"]["module1"][name])


@pytest.mark.slow
def test_streamed_stages(whole: tuple[Outcome, Quiet], tmp_path: Path) -> None:
    """The same batches, also where a stage begins within a dispatch."""
    outcome, _ = trained(tmp_path, feed="streamed")
    chex.assert_trees_all_close(outcome.state.params, whole[0].state.params, rtol=1e-5)


@pytest.mark.slow
def test_other_stages_are_refused(tmp_path: Path) -> None:
    """A run in its second stage does not go on with one stage."""
    trained(tmp_path)
    with pytest.raises(ValueError, match="in stage 2, but there are 1 stages"):
        trained(tmp_path, stages=STAGES[:1])
