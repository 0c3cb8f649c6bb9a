"""The loop: when it validates, saves, draws and warns, and that a run of every setting at once resumes bit for bit."""

import dataclasses
import importlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import optax
import pytest
from support.events import events

import hvae_jax as hv
from hvae_jax.data import Split
from hvae_jax.experiment import Data, Devices, Evaluation, Experiment, run, tables
from hvae_jax.models import LinearVAE
from hvae_jax.objectives import NegativeELBO
from hvae_jax.training import (
    Feeding,
    Machine,
    Provenance,
    Task,
    Training,
    Watching,
    begin,
    data_mesh,
    init_state,
    machine,
    mesh,
    metrics,
    train,
)
from hvae_jax.training.checkpoint import Checkpoints
from hvae_jax.training.loop import Outcome
from hvae_jax.training.sinks import JsonLines, Reporter

run_module = importlib.import_module("hvae_jax.experiment.run")  # as an attribute of its package it is the function

# ---- when things happen

X = np.random.default_rng(0).normal(size=(21, 3)).astype(np.float32)  # three steps an epoch: 8, 8, 5

RESIDENT, ANY = Feeding("resident"), Provenance()


class Noting(Checkpoints):
    """Checkpoints that note at which steps they are saved."""

    def save(self, step: int, *rest: Any) -> None:
        """Notes and saves."""
        self.saved = [*getattr(self, "saved", []), step]
        super().save(step, *rest)


@dataclasses.dataclass
class Said(Reporter):
    """A reporter that remembers; it may send this process a signal at a step."""

    kill_at: int | None = None
    kill_by: int = signal.SIGTERM
    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)
    lines: list[str] = dataclasses.field(default_factory=list)
    closed: int = 0

    def write(self, row: dict[str, float]) -> None:
        """A row."""
        self.rows.append(row)
        if row["step"] == self.kill_at:
            os.kill(os.getpid(), self.kill_by)

    def advance(self, step: int, **_: str) -> None:
        """Not kept."""

    def say(self, line: str) -> None:
        """A line."""
        self.lines.append(line)

    def warn(self, sentence: str, step: int) -> None:
        """A warning."""
        self.lines.append(f"{step}: {sentence}")

    def close(self) -> None:
        """Counted."""
        self.closed += 1


def trained(
    folder: Path,
    said: Said | None = None,
    feeding: Feeding = RESIDENT,
    augment: Any = None,
    provenance: Provenance = ANY,
    **options: Any,
) -> tuple[Outcome, Said, list[int], list[int]]:
    """A run of the smallest model: outcome, what it said, steps at which it saved and drew; options are settings'."""
    settings = Training(**{"batch_size": 8, "epochs": 2, "per_dispatch": 1, "pictures_every": None} | options)
    said, drawn = said or Said(), []
    task = Task(LinearVAE((2, 2), "shifted"), NegativeELBO(), optax.sgd(0.01), Split(X), Split(X[:5]), augment)
    watching = Watching(lambda *_: said, pictures=lambda step, *_: drawn.append(step))
    checkpoints, key = Noting(folder / "checkpoints", settings.keep), jax.random.key(0)
    try:
        where = Machine(data_mesh(1), feeding)
        outcome = train(task, settings, key, where, checkpoints, watching, provenance)
    finally:
        checkpoints.close()
    return outcome, said, getattr(checkpoints, "saved", []), drawn


def steps_with(said: Said, name: str) -> list[int]:
    """Steps of the rows that have an entry."""
    return [int(row["step"]) for row in said.rows if name in row]


@pytest.mark.slow
def test_by_default_an_epoch_ends_with_validation_and_a_run_with_a_save(tmp_path: Path) -> None:
    """Pictures are drawn at the end of a run alone if none are asked for."""
    outcome, said, saved, drawn = trained(tmp_path)
    assert steps_with(said, "loss") == [1, 2, 3, 4, 5, 6]
    assert steps_with(said, "validation/elbo") == steps_with(said, "validation/rate/z2") == [3, 6]
    assert (saved, drawn, said.closed) == ([6], [], 1)
    assert outcome.interrupted is None and outcome.progress.finished and outcome.feed == "resident"
    assert outcome.progress.best_elbo == max(row["validation/elbo"] for row in said.rows if "validation/elbo" in row)


@pytest.mark.parametrize(
    ("settings", "validated", "saves", "draws"),
    [
        ({"validate_every": 4, "save_every": 2, "pictures_every": 5}, [4, 6], [2, 4, 6], [5]),  # and at the last step
        (
            {"validate_every": 1, "per_dispatch": 2, "save_seconds": 0.0, "pictures_every": 2},
            [2, 3, 5, 6],
            [2, 3, 5, 6],
            [2, 5, 6],
        ),
    ],
)
def test_every_so_many_steps(
    settings: dict[str, Any], validated: list[int], saves: list[int], draws: list[int], tmp_path: Path
) -> None:
    """Rounded up to the end of a dispatch."""
    _, said, saved, drawn = trained(tmp_path, **settings)
    assert (steps_with(said, "validation/elbo"), saved, drawn) == (validated, saves, draws)


def test_patience(tmp_path: Path) -> None:
    """Counts validations, wherever they fall; a run whose patience is at an end is done."""
    worse = {"validate_every": 1, "patience": 2, "epochs": 100}

    def validate(*_: Any) -> tuple[float, np.ndarray]:
        return next(bounds), np.zeros(2, np.float32)

    bounds = iter([-5.0, -4.0, -6.0, -4.0, -7.0, -1.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Machine, "validate", lambda *_: validate)
        outcome, said, saved, _ = trained(tmp_path, **worse)
    assert len(said.rows) == 5 and saved == [5]
    assert (outcome.progress.best_elbo, outcome.progress.best_step) == (-4.0, 2)
    outcome, said, saved, _ = trained(tmp_path, **worse)
    assert not said.rows and int(outcome.state.step) == 5 and outcome.interrupted is None


def test_the_last_variables_can_be_kept(tmp_path: Path) -> None:
    """`select="last"`: whatever the ELBO says, and however long it has not improved."""
    bounds = iter([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0])

    def validate(*_: Any) -> tuple[float, np.ndarray]:
        return next(bounds), np.zeros(2, np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Machine, "validate", lambda *_: validate)
        outcome, said, *_ = trained(tmp_path, validate_every=1, patience=0, select="last")
    assert len(said.rows) == 6
    assert (outcome.progress.best_elbo, outcome.progress.best_step) == (-6.0, 6)
    jax.tree.map(np.testing.assert_array_equal, outcome.best, outcome.state.variables)


@pytest.mark.slow
def test_what_the_model_is_initialised_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many examples as are asked for, a batch by default, augmented as in training."""
    seen = []

    def noted(model: Any, objective: Any, optimiser: Any, key: Any, x: Any, *rest: Any, **options: Any) -> Any:
        seen.append(np.asarray(x))
        return init_state(model, objective, optimiser, key, x, *rest, **options)

    monkeypatch.setattr(begin, "init_state", noted)
    trained(tmp_path / "batch", steps=1)
    trained(tmp_path / "more", steps=1, init_examples=11)
    trained(tmp_path / "augmented", steps=1, augment=lambda x, key: -x)
    np.testing.assert_array_equal(seen[0], X[:8])
    np.testing.assert_array_equal(seen[1], X[:11])
    np.testing.assert_array_equal(seen[2], -X[:8])


def test_a_signal_ends_the_run_after_its_dispatch(tmp_path: Path) -> None:
    """What was computed is saved; afterwards signals do what they did before."""
    before = signal.getsignal(signal.SIGINT)
    outcome, said, saved, _ = trained(tmp_path, Said(kill_at=4, kill_by=signal.SIGINT))
    assert (outcome.interrupted, saved, said.closed) == (signal.SIGINT, [4], 1)
    assert not outcome.progress.finished and signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_more_steps_and_fewer(tmp_path: Path) -> None:
    """A finished run goes on where it is given more; one that has taken more than it is given now is done."""
    trained(tmp_path, steps=4)
    outcome, said, saved, _ = trained(tmp_path, steps=6)
    assert steps_with(said, "loss") == [5, 6] and saved == [6]
    trained(tmp_path / "cut", Said(kill_at=4), steps=6)
    outcome, said, saved, _ = trained(tmp_path / "cut", steps=3)
    assert int(outcome.state.step) == 4 and not said.rows and not saved and outcome.progress.finished


def test_what_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row goes to the watch, with what went before; its sentences go to the reporter."""
    seen: list[Any] = []

    class Nervous:
        def __init__(self, rows: Any) -> None:
            seen.append(list(rows))

        def __call__(self, row: dict[str, float]) -> list[str]:
            seen.append(row)
            return ["it is odd", "it is late"] if row["step"] == 3 else []

    monkeypatch.setattr(metrics, "Watch", Nervous)
    _, said, _, _ = trained(tmp_path)
    assert said.lines == ["3: it is odd", "3: it is late"]
    assert seen[0] == [] and [row["step"] for row in seen[1:]] == [1, 2, 3, 4, 5, 6]
    assert "validation/elbo" in seen[3] and "skipped" in seen[3]


def test_an_error_while_training_leaves_no_reader_behind(tmp_path: Path) -> None:
    """The reporter is closed, and streaming ends."""

    class Full(Said):
        def write(self, row: dict[str, float]) -> None:
            raise OSError("the disk is full")

    closed = []

    class Feed(machine.Streamed):
        def portions(self, step: int) -> Iterator[Any]:
            try:
                yield from super().portions(step)
            finally:
                closed.append(step)

    full = Full()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "Streamed", Feed)
        with pytest.raises(OSError, match="the disk is full") as caught:
            trained(tmp_path, full, feeding=Feeding("streamed"))
    assert closed == [0] and full.closed == 1 and caught.traceback


@pytest.mark.slow
def test_streamed_and_resident_train_alike(tmp_path: Path) -> None:
    """To rounding; either says which it was."""
    resident, rows, _, _ = trained(tmp_path / "resident")
    streamed, others, _, _ = trained(tmp_path / "streamed", feeding=Feeding("streamed"))
    assert (resident.feed, streamed.feed) == ("resident", "streamed")
    chex.assert_trees_all_close(jax.device_get(streamed.state), jax.device_get(resident.state), rtol=1e-6, atol=1e-7)
    for a, b in zip(rows.rows, others.rows, strict=True):
        assert a["elbo"] == pytest.approx(b["elbo"], rel=1e-5)


@pytest.mark.slow
def test_data_that_changed_is_refused(tmp_path: Path) -> None:
    """Unless any will do; its hash is then the one that counts."""
    one, two = Provenance("one"), Provenance("two")
    trained(tmp_path, steps=2, provenance=one)
    with pytest.raises(ValueError, match="its hash was one and is two"):
        trained(tmp_path, steps=3, provenance=two)
    trained(tmp_path, steps=3, provenance=dataclasses.replace(two, any_data=True))
    trained(tmp_path, steps=4, provenance=two)
    with pytest.raises(ValueError, match="its hash was two and is one"):
        trained(tmp_path, steps=5, provenance=one)


def test_a_score_of_something_else_is_no_score_to_beat(tmp_path: Path) -> None:
    """Of another identity the state goes on, and the best begins anew; the time that was spent stays."""
    first, *_ = trained(tmp_path, steps=3, provenance=Provenance(identity="one"))
    same, *_ = trained(tmp_path, steps=3, provenance=Provenance(identity="one"))
    other, said, *_ = trained(tmp_path, steps=6, provenance=Provenance(identity="two"))
    assert same.progress == first.progress and first.progress.best_step == 3
    assert steps_with(said, "loss") == [4, 5, 6] and other.progress.best_step == 6
    assert other.progress.identity == "two" and other.progress.seconds > first.progress.seconds


# ---- everything at once


@pytest.fixture(scope="module")
def pictures_of_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty grey images of 4x4, with labels: two batches of 16 and one of 8 an epoch."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "images.npz"
    x = rng.integers(0, 256, (60, 4, 4, 1)).astype(np.uint8)
    np.savez(path, x_train=x[:40], x_validation=x[40:], y_train=np.arange(40) % 3, y_validation=np.arange(20) % 3)
    return path


def everything(path: Path, **changes: Any) -> Experiment:
    """A run of four epochs, streamed, binarised anew and mirrored, in microbatches, averaged, split over devices."""
    training: dict[str, Any] = {
        "batch_size": 16,
        "epochs": 4,
        "ema": 0.9,
        "microbatch": 8,
        "per_dispatch": 2,
        "validate_every": 4,
        "save_every": 3,
        "pictures_every": 6,
    }
    return Experiment(
        "everything",
        hv.models.TopDownVAE(latents=(2,), hidden=8, likelihood=hv.Bernoulli(), classes=3),
        data=Data(str(path), binarise="dynamic", flip=True),
        training=Training(**training | changes),
        evaluation=Evaluation(draws=2, other_draws=1),
        feed=Feeding("streamed", threads=2, ahead=3),
        devices=Devices(fsdp=True),
    )


@pytest.fixture(autouse=True)
def small_arrays_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of 16 numbers and more."""
    monkeypatch.setattr(mesh, "SMALLEST", 16)


def on_devices(count: int, wanted: Experiment, folder: Path, measured: bool = True, **options: Any) -> Outcome:
    """A run on so many devices, whatever its settings say; its result and last pictures may be left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "data_mesh", lambda _=None: data_mesh(count))
        if not measured:
            patch.setattr(tables, "measure", lambda *_: {})
            patch.setattr(run_module, "save_final_pictures", lambda *_: None)
            patch.setattr(tables, "summary", lambda *_: "")
        return run(wanted, folder, **options)


@pytest.fixture(scope="module")
def straight(pictures_of_three: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The run that nothing interrupts, on two devices: its folder and its last state."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "SMALLEST", 16)
        outcome = on_devices(2, everything(pictures_of_three), folder)
    kernels = [leaf for leaf in jax.tree.leaves(outcome.state.params) if leaf.shape == (8, 8)]
    assert kernels and all(leaf.addressable_shards[0].data.size == 32 for leaf in kernels)
    return folder, jax.device_get((outcome.state, outcome.best))


@pytest.fixture(scope="module")
def cut(pictures_of_three: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, ended by SIGTERM after step 5, in the middle of its second epoch."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    write = JsonLines.write

    def and_kill(self: JsonLines, row: dict[str, float | int]) -> None:
        write(self, row)
        if row["step"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "SMALLEST", 16)
        patch.setattr(JsonLines, "write", and_kill)
        outcome = on_devices(2, everything(pictures_of_three), folder)
    assert outcome.interrupted == signal.SIGTERM and int(outcome.state.step) == 5
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["3", "5"]
    assert not (folder / "result.json").exists()
    return folder


def rows_of(folder: Path) -> list[dict[str, float]]:
    """metrics.jsonl, without what the clock says."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


def test_what_the_run_leaves(straight: tuple[Path, Any]) -> None:
    """Validations, pictures on disk and in TensorBoard, at the steps that were asked for."""
    folder, _ = straight
    rows = rows_of(folder)
    assert [row["step"] for row in rows] == [2, 3, 5, 6, 8, 9, 11, 12]
    assert [row["step"] for row in rows if "validation/elbo" in row] == [5, 8, 12]
    names = sorted(path.name for path in (folder / "pictures").iterdir())
    assert names == [f"{name}_{step:08d}.png" for name in ("reconstructions", "samples") for step in (6, 12)]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (folder / "pictures").iterdir())
    values = [
        (value.tag, event.step)
        for event in events(folder / "tensorboard")
        for value in event.summary.value
        if value.HasField("image")
    ]
    assert sorted(values) == [(name, step) for name in ("reconstructions", "samples") for step in (6, 12)]
    result = json.loads((folder / "result.json").read_text())
    assert result["feed"] == "streamed" and result["steps"] == 12
    assert result["device"]["fsdp"] and result["device"]["used"] == 2


def test_resumed_it_is_the_same_bit_for_bit(
    cut: Path, straight: tuple[Path, Any], pictures_of_three: Path, tmp_path: Path
) -> None:
    """State, average, best variables, every row and every number of the result."""
    folder = Path(shutil.copytree(cut, tmp_path / "run"))
    outcome = on_devices(2, everything(pictures_of_three), folder)
    chex.assert_trees_all_equal(jax.device_get((outcome.state, outcome.best)), straight[1])
    assert rows_of(folder) == rows_of(straight[0])
    numbers = [json.loads((path / "result.json").read_text()) for path in (folder, straight[0])]
    for name in ("elbo", "iw_bound", "rates", "best_validation_elbo", "best_step", "active_units"):
        assert numbers[0][name] == numbers[1][name]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_it_goes_on_with_other_devices(
    devices: int, cut: Path, straight: tuple[Path, Any], pictures_of_three: Path, tmp_path: Path
) -> None:
    """Fewer or more than it began with: the same rows, to rounding."""
    folder = Path(shutil.copytree(cut, tmp_path / "run"))
    outcome = on_devices(devices, everything(pictures_of_three), folder, measured=False)
    assert int(outcome.state.step) == 12
    for found, expected in zip(rows_of(folder), rows_of(straight[0]), strict=True):
        assert found.keys() == expected.keys()
        for name in ("loss", "elbo", "grad_norm", "rate/z1", "validation/elbo"):
            assert found.get(name, 0.0) == pytest.approx(expected.get(name, 0.0), rel=1e-3)


def test_other_data_under_the_same_name(cut: Path, pictures_of_three: Path, tmp_path: Path) -> None:
    """The file was changed since: refused with what to do, and taken with --resume."""
    folder = Path(shutil.copytree(cut, tmp_path / "run"))
    kept = pictures_of_three.read_bytes()
    try:
        with np.load(pictures_of_three) as file:
            arrays = dict(file)
        arrays["x_train"][0, 0, 0, 0] ^= 1
        np.savez(pictures_of_three, **arrays)
        with pytest.raises(ValueError, match=r"made on other data: its hash was \w+ and is \w+ now\. --resume"):
            on_devices(2, everything(pictures_of_three), folder)
        assert not (folder / "result.json").exists()
        outcome = on_devices(2, everything(pictures_of_three, steps=6), folder, measured=False, resume=True)
        assert int(outcome.state.step) == 6
    finally:
        pictures_of_three.write_bytes(kept)
