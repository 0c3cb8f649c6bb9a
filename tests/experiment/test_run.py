"""A run from its command line: what it leaves, what it refuses, and how it goes on after an interruption."""

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import places
from support.processes import CPU
from support.tiers import tiers

import hvae_jax as hv
from hvae_jax import recipes
from hvae_jax.cli import main as cli
from hvae_jax.cli.script import main
from hvae_jax.experiment import Data, Evaluation, Experiment, abstract_state, run, tables
from hvae_jax.experiment.settings import load
from hvae_jax.objectives import Forward, NegativeELBO, Objective, PrintedELBO
from hvae_jax.training import DivergedError, Feeding, Training, TrainState
from hvae_jax.training.checkpoint import Checkpoints
from hvae_jax.training.mesh import data_mesh

run_module = importlib.import_module("hvae_jax.experiment.run")  # as an attribute of its package it is the function

SCRIPT = places.RECIPES / "top_down.py"
SMALL = ["--model.hidden", "16", "--evaluation.draws", "3", "--evaluation.other-draws", "2", "--save-every", "16"]


@pytest.fixture(autouse=True)
def few_devices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process take one device: eight of them on two cores only wait for each other."""
    if "all_devices" not in request.keywords:
        monkeypatch.setattr(run_module, "data_mesh", lambda count=None: data_mesh(count or 1))


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set of 40 digits as a user's .npz: two batches of 16 and one of 8 an epoch."""
    digits = hv.data.digits().splits["train"]
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x_train=digits.x[:40], x_validation=digits.x[40:60], y_train=digits.y[:40], num_values=17)
    return str(path)


def script(folder: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs the experiment's script as a user does, in `folder`'s parent."""
    command = [sys.executable, str(SCRIPT), *SMALL, "--folder", str(folder), *arguments]
    environment = CPU | {"JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, **options)


def newest(folder: Path, modules: Sequence[str] = ()) -> tuple[TrainState, Any]:
    """State and best variables of the newest checkpoint."""
    settings = load(folder / "settings.json", modules)
    state = abstract_state(settings, settings.data.load().splits["train"].for_classes(settings.model.classes))
    checkpoints = Checkpoints(folder / "checkpoints")
    restored = checkpoints.restore(state, state.variables, data_mesh(1))
    checkpoints.close()
    assert restored is not None
    return restored[:2]


def parameters(folder: Path) -> list[np.ndarray]:
    """Every array of the newest checkpoint."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(newest(folder))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs through the script's command line."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    done = script(folder, "--epochs", "3")
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()
    assert last[0].startswith("hvae_jax ")
    assert str(folder) in last[-1]
    return folder


@pytest.mark.leg
def test_what_a_run_leaves(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    for measure in ("elbo", "iw_bound", "k", "bits_per_dim", "rates", "active_units", "standard_error"):
        assert set(result[measure]) == {"train", "validation", "test"}, measure
    assert result["steps"] == 48 and result["k"] == {"train": 2, "validation": 2, "test": 3}
    assert result["bits_per_dim"]["test"]["elbo"] == pytest.approx(-result["elbo"]["test"] / 64 / np.log(2))
    assert list(result["rates"]["test"]) == ["z2", "z1"]
    assert all(0 <= n <= size for n, size in zip(result["active_units"]["test"].values(), (8, 16), strict=True))
    assert result["iw_bound"]["test"] >= result["elbo"]["test"] - 1.0
    for name in ("seconds", "steps_per_second", "parameters", "versions", "device", "data"):
        assert result[name], name
    for picture in ("real", "samples", "reconstructions", "curve"):
        assert (finished / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [16, 32, 48]
    assert all(np.isfinite(row["validation/elbo"]) and "rate/z2" in row for row in rows)
    assert list((finished / "tensorboard").glob("events*"))
    assert load(finished / "settings.json").model.hidden == 16


@pytest.mark.slow
def test_the_same_command_again_finds_it_done(finished: Path) -> None:
    before = parameters(finished)
    again = script(finished, "--epochs", "3")
    assert again.returncode == 0, again.stderr
    chex.assert_trees_all_equal(before, parameters(finished))


# ---- in this process, where it is quicker


def test_other_settings_are_refused_by_name(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = [*SMALL, "--folder", str(finished), "--epochs", "4", "--model.clamp", "-6", "2"]
    with pytest.raises(SystemExit, match="1"):
        main(recipes.presets_of("top_down"), other)
    said = capsys.readouterr().err
    for part in ("training.epochs: 3 -> 4", "model.clamp", "--resume", "--overwrite"):
        assert part in said
    assert "Traceback" not in said


@pytest.fixture
def small(arrays: str) -> Callable[..., Experiment]:
    """Makes runs of a second: two epochs of three steps."""

    def make(**changes: object) -> Experiment:
        settings = {
            "model": hv.models.TopDownVAE(latents=(2, 3), hidden=8),
            "data": Data(arrays),
            "training": Training(batch_size=16, epochs=2, save_every=3),
            "evaluation": Evaluation(draws=2, other_draws=2),
        }
        return Experiment("small", **{**settings, **changes})

    return make


def errors(experiment: Experiment, arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line says when it refuses."""
    with pytest.raises(SystemExit) as left:
        main(experiment, arguments)
    assert left.value.code not in (0, None)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--model.hiden", "3"], ["model.hidden"]),
        (["--model.hidden", "many"], ["many", "int"]),
        (["--steps", "0"], ["steps is 0"]),
        (["--model.hidden", "0"], ["hidden=0"]),
        (["--model.likelihood.num-values", "16"], ["16 at index", "0..15", "Categorical(17)"]),
        (["--data.name", "digts"], ["'digts'", "'digits'"]),
        (["--model.classes", "5"], ["classes=5", "label"]),
        (["--resume", "--overwrite"], ["exclude each other"]),
    ],
)
def test_wrong_settings_are_said_before_training(
    arguments: list[str],
    parts: list[str],
    small: Callable[..., Experiment],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = errors(small(), [*arguments, "--folder", str(tmp_path / "run")], capsys)
    for part in parts:
        assert part in message
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_likelihood_that_does_not_fit(
    small: Callable[..., Experiment], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = hv.models.TopDownVAE(latents=(2,), hidden=8, likelihood=hv.Bernoulli())
    message = errors(small(model=model), ["--folder", str(tmp_path)], capsys)
    assert "[0, 1]" in message and "Categorical(num_values=17" in message


def test_a_folder_that_cannot_be_written(
    small: Callable[..., Experiment], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in errors(small(), ["--folder", str(tmp_path / "file" / "run")], capsys)


def test_a_disk_that_is_too_small(
    small: Callable[..., Experiment],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hvae_jax.experiment import folder as run_folder

    class Full:
        free = 1000

    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda _: Full)
    assert "MiB free" in errors(small(), ["--folder", str(tmp_path / "run")], capsys)


@pytest.mark.slow
def test_resume_under_new_settings_and_overwrite(small: Callable[..., Experiment], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(small(), folder)
    longer = small(training=Training(batch_size=16, epochs=3, save_every=3))
    outcome = run(longer, folder, resume=True)
    assert int(outcome.state.step) == 9
    assert load(folder / "settings.json") == longer
    outcome = run(small(training=Training(batch_size=16, epochs=1)), folder, overwrite=True)
    assert int(outcome.state.step) == 3
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_a_checkpoint_of_another_model_names_the_first_leaf(
    small: Callable[..., Experiment], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    run(small(), folder)
    other = small(model=hv.models.TopDownVAE(latents=(2, 3), hidden=9))
    message = errors(other, ["--folder", str(folder), "--resume"], capsys)
    assert "another model" in message and "(8,)" in message and "(9,)" in message
    assert load(folder / "settings.json") == small()  # and nothing is lost
    assert (folder / "result.json").exists()


@pytest.mark.slow
def test_overwrite_deletes_nothing_before_the_new_run_is_found_to_fit(
    small: Callable[..., Experiment], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(small(), tmp_path)
    errors(small(), ["--folder", str(tmp_path), "--overwrite", "--model.likelihood.num-values", "3"], capsys)
    assert (tmp_path / "result.json").exists() and (tmp_path / "checkpoints" / "6").exists()


def test_labels_are_checked_in_every_split(
    small: Callable[..., Experiment], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = hv.data.digits().splits["train"].x[:8]
    path = tmp_path / "labels.npz"
    np.savez(path, x_train=x, x_validation=x, y_train=np.arange(8) % 3, num_values=17)
    labelled = small(model=hv.models.TopDownVAE(latents=(2,), hidden=8, classes=3), data=Data(str(path)))
    assert "no labels in its validation split" in errors(labelled, ["--folder", str(tmp_path / "run")], capsys)
    np.savez(path, x_train=x, x_validation=x, y_train=np.arange(8) % 3, y_validation=np.full(8, 9), num_values=17)
    assert "the label 9 in its validation split" in errors(labelled, ["--folder", str(tmp_path / "run")], capsys)


@pytest.mark.all_devices
def test_a_batch_that_does_not_divide_over_the_devices(
    small: Callable[..., Experiment], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = errors(small(), ["--batch-size", "12", "--folder", str(tmp_path / "run")], capsys)
    assert "batch of 12" in message and "8 devices" in message and "8 or 16" in message


@pytest.mark.exhaustive  # test_step.py and test_mesh.py compare single steps
@pytest.mark.all_devices
def test_all_devices_train_as_one_does(small: Callable[..., Experiment], tmp_path: Path) -> None:
    """The last batch of an epoch, 8 examples, divides over 8 devices here; an uneven one is computed by all alike."""
    outcomes = [run(small(), tmp_path / "eight")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "data_mesh", lambda count=None: data_mesh(count or 1))
        outcomes.append(run(small(), tmp_path / "one"))
    eight, one = (outcome.progress.best_elbo for outcome in outcomes)
    assert eight == pytest.approx(one, rel=1e-3)


def biggest(folder: Path) -> Path:
    """The array file of a checkpoint."""
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.slow
def test_a_damaged_checkpoint_falls_back_to_the_one_before(small: Callable[..., Experiment], tmp_path: Path) -> None:
    """A flipped bit; tests/test_checkpoint.py has the other kinds of damage."""
    folder = tmp_path / "run"
    before = jax.device_get(run(small(), folder).state)
    file = biggest(folder / "checkpoints" / "6")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="Checkpoint 6 .* cannot be read: going on from 3"):
        outcome = run(small(), folder)
    chex.assert_trees_all_equal(before, jax.device_get(outcome.state))
    assert (folder / "checkpoints" / "6").is_dir()  # saved anew


@dataclasses.dataclass(frozen=True)
class Explodes(Objective):
    """An objective whose loss is not a number from a step on, through a level or by itself."""

    at: int
    level: int | None = None

    def __call__(
        self, forward: Forward, variables: Any, batch: hv.Batch, key: jax.Array, step: jax.Array, state: Any
    ) -> tuple[jax.Array, dict[str, jax.Array], Any, Any]:
        """The negative ELBO until then."""
        loss, metrics, state, updates = hv.NegativeELBO()(forward, variables, batch, key, step, state)
        broken = jnp.where(step >= self.at, jnp.nan, 0.0)
        if self.level is not None:
            metrics = metrics | {"rates": metrics["rates"].at[self.level].add(broken)}
        return loss + broken, metrics, state, updates


@pytest.mark.parametrize(
    ("level", "cause"), tiers([(1, "the rate of z1 went first"), (None, "the loss itself")], slow=1)
)
def test_a_loss_that_is_not_finite_stops_with_the_good_state_saved(
    level: int | None, cause: str, small: Callable[..., Experiment], tmp_path: Path
) -> None:
    training = Training(batch_size=16, epochs=20, save_every=1000, max_streak=5)
    at = 3  # a dispatch's first step, so that the good run, which ends there, has run the very same program
    with pytest.raises(DivergedError, match=f"Step {at} .*{cause}.* is saved"):
        run(small(objective=Explodes(at, level), training=training), tmp_path / "run")
    good = run(small(objective=Explodes(1000, level), training=Training(batch_size=16, steps=at)), tmp_path / "good")
    saved = newest(tmp_path / "run", (__name__,))[0]
    chex.assert_trees_all_equal(jax.device_get(good.state.params), jax.device_get(saved.params))
    assert int(saved.skipped) == int(saved.streak) == int(saved.step) - at


@pytest.mark.slow
def test_skipped_steps_are_counted_and_training_goes_on(small: Callable[..., Experiment], tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Once(Explodes):
        def __call__(self, forward: Forward, variables: Any, batch: Any, key: Any, step: Any, state: Any) -> Any:
            loss, *rest = hv.NegativeELBO()(forward, variables, batch, key, step, state)
            return jnp.where(step == self.at, jnp.inf, loss), *rest

    outcome = run(small(objective=Once(2)), tmp_path / "run")
    assert int(outcome.state.skipped) == 1 and int(outcome.state.streak) == 0 and int(outcome.state.step) == 6
    assert json.loads((tmp_path / "run" / "result.json").read_text())["skipped_steps"] == 1


# ---- the console script


@pytest.mark.leg
def test_hvae_on_a_finished_run(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(finished)
    cli.main(["show", folder])
    shown = capsys.readouterr().out
    assert "z2" in shown and "active" in shown
    cli.main(["sample", folder, "--n", "5", "--temperature", "0.8", "--out", str(tmp_path / "s.png")])
    cli.main(["sample", folder, "--n", "5", "--temperature", "0.5", "0", "--out", str(tmp_path / "s.npz")])
    cli.main(["reconstruct", folder, "--keep-top", "1", "--out", str(tmp_path / "r.png")])
    cli.main(["sample", folder, "--n", "5", "--temperature-by-side", "1", "0.5", "--out", str(tmp_path / "b.npz")])
    cli.main(["reconstruct", folder, "--by-level", "--n", "3", "--out", str(tmp_path / "l.png")])
    assert (tmp_path / "l.png").read_bytes().startswith(b"\x89PNG") and np.load(tmp_path / "b.npz")["x"].max() <= 16
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert np.load(tmp_path / "s.npz")["x"].shape == (5, 8, 8, 1)
    capsys.readouterr()
    cli.main(["evaluate", folder, "--draws", "4", "--splits", "test", "--out", str(tmp_path / "e.json")])
    numbers = json.loads((tmp_path / "e.json").read_text())
    result = json.loads((finished / "result.json").read_text())
    assert numbers["elbo"]["test"] == pytest.approx(result["elbo"]["test"], abs=1.0)
    assert numbers["data"] == result["data"] and numbers["examples"] == {"test": 447}
    few = ["--draws", "2", "--splits", "test", "--examples", "20", "--out", str(tmp_path / "few.json")]
    cli.main(["evaluate", folder, *few, "--chunk", "1", "--size", "3"])
    found = json.loads((tmp_path / "few.json").read_text())
    assert found["examples"] == {"test": 20} and found["pieces"] == {"size": 8, "chunk": 1}  # one for each device
    capsys.readouterr()
    cli.main(["doctor"])
    assert "jaxlib" in capsys.readouterr().out


@pytest.mark.slow  # tests/report/test_diagnosis.py has the report, tests/cli/test_diagnose.py the command
def test_hvae_diagnoses_a_finished_run(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    effort = ["--effort.examples", "20", "--effort.draws", "2", "--effort.k", "4", "--effort.latents", "5"]
    cli.main(["diagnose", str(finished), *effort, "--out", str(tmp_path / "d.html")])
    assert "report" not in capsys.readouterr().out and (tmp_path / "d.html").read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "d.json").read_text())["levels"] == ["z2", "z1"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["show", "{tmp}"], ["no run", "settings.json"]),
        (["sample", "{tmp}"], ["no run", "settings.json"]),
        (["sample", "{run}", "--temperature", "-1"], ["-1", "0 (the mode)"]),
        (["sample", "{run}", "--temperature", "1", "1", "1"], ["2 levels"]),
        (["sample", "{run}", "--n", "0"], ["--n is 0"]),
        (["sample", "{run}", "--label", "3"], ["without labels"]),
        (["sample", "{run}", "--temperature-by-side", "1", "0.9", "4", "0.8"], ["sides [1, 4]", "at [1]"]),
        (["sample", "{run}", "--temperature-by-side", "1", "0.9", "--temperature", "0.5"], ["give one of them"]),
        (["reconstruct", "{run}", "--by-level", "--keep-top", "1"], ["leave --keep-top"]),
        (["reconstruct", "{run}", "--keep-top", "3"], ["--keep-top is 3", "2 levels"]),
        (["reconstruct", "{run}", "--split", "tset"], ["'tset'", "test"]),
        (["evaluate", "{run}", "--draws", "0"], ["--draws is 0"]),
        (["evaluate", "{run}", "--examples", "0"], ["--examples is 0"]),
        (["evaluate", "{run}", "--size", "0"], ["size is 0"]),
        (["evaluate", "{run}", "--splits", "dev"], ["'dev'"]),
        (["diagnose", "{run}", "--split", "dev"], ["'dev'"]),
        (["diagnose", "{run}", "--other", "mnits"], ["mnits", "mnist"]),
    ],
)
def test_hvae_says_what_is_wrong(
    arguments: list[str], parts: list[str], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([a.format(tmp=tmp_path, run=finished) for a in arguments])
    assert left.value.code == 1
    message = capsys.readouterr().err
    for part in parts:
        assert part in message


def test_hvae_evaluates_on_other_data(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = hv.data.digits().splits["test"]
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=digits.x[:20], x_test=digits.x[20:40])
    cli.main(["evaluate", str(finished), "--draws", "2", "--splits", "test", "--data", str(path)])
    assert "test" in capsys.readouterr().out
    np.savez(path, x_train=digits.x[:20, :4])
    with pytest.raises(SystemExit):
        cli.main(["evaluate", str(finished), "--draws", "2", "--splits", "validation", "--data", str(path)])
    assert "(4, 8, 1), which do not fit" in capsys.readouterr().err


@pytest.mark.slow
def test_a_users_own_arrays_train(small: Callable[..., Experiment], tmp_path: Path) -> None:
    """Flat real vectors from an .npz, under a Gaussian likelihood, with labels."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", x_train=rng.normal(size=(50, 6)), y_train=np.arange(50) % 3)
    model = hv.models.TopDownVAE(latents=(2,), hidden=8, likelihood=hv.Gaussian(), classes=3)
    outcome = run(small(model=model, data=Data(str(tmp_path / "mine.npz"))), tmp_path / "run")
    assert int(outcome.state.step) == 6
    assert (tmp_path / "run" / "reconstructions.png").exists()


@pytest.mark.slow
def test_the_best_of_other_data_is_forgotten(small: Callable[..., Experiment], tmp_path: Path) -> None:
    """--resume onto other data keeps the state, and measures anew: scores of different data do not compare."""
    x = np.random.default_rng(0).integers(0, 17, (60, 8, 8, 1)).astype(np.uint8)
    data, folder = tmp_path / "data.npz", tmp_path / "run"
    training = Training(batch_size=16, epochs=2)
    np.savez(data, x_train=x[:40] // 16, x_validation=x[40:] // 16, num_values=17)  # nearly all 0: easy
    easy = run(small(data=Data(str(data)), training=training), folder)
    np.savez(data, x_train=x[:40], x_validation=x[40:], num_values=17)
    longer = dataclasses.replace(training, epochs=4)
    with pytest.raises(ValueError, match="made on other data"):
        run(small(data=Data(str(data)), training=training), folder)
    hard = run(small(data=Data(str(data)), training=longer), folder, resume=True)
    assert hard.progress.best_step > easy.progress.best_step
    assert hard.progress.best_elbo < easy.progress.best_elbo


@pytest.mark.slow
def test_settings_that_change_no_number_are_not_asked_about(small: Callable[..., Experiment], tmp_path: Path) -> None:
    """Another feed, other intervals between saves: the run goes on, here to find itself done."""
    first = run(small(), tmp_path)
    other = small(feed=Feeding("streamed"), training=Training(batch_size=16, epochs=2, save_seconds=5.0))
    chex.assert_trees_all_equal(run(other, tmp_path).best, first.best)


@pytest.mark.slow
def test_interrupted_while_it_measures(
    small: Callable[..., Experiment],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGTERM after training: exit code 75, and the same command measures."""
    with monkeypatch.context() as patched:
        patched.setattr(tables, "measure", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit) as left:
            main(small(), ["--folder", str(tmp_path / "run")])
    assert left.value.code == 75
    assert "what was trained is saved" in capsys.readouterr().out
    main(small(), ["--folder", str(tmp_path / "run")])
    assert (tmp_path / "run" / "result.json").exists()


def test_show_says_nan_where_json_has_null(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads((finished / "result.json").read_text())
    result["best_validation_elbo"] = result["elbo"]["test"] = None
    (tmp_path / "result.json").write_text(json.dumps(result))
    cli.main(["show", str(tmp_path)])
    assert "validation -ELBO nan" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_on_the_printed_formula_is_measured_by_the_elbo(tmp_path: Path, arrays: str) -> None:
    """Its rows have both; validation, the choice of the best and the result know the ELBO alone."""
    model = hv.models.BottomUpVAE(latents=(2, 3), hidden=4)
    few = Evaluation(draws=2, other_draws=2)
    once = Training(batch_size=16, epochs=1)
    right = Experiment(name="printed", data=Data(arrays), model=model, training=once, evaluation=few)
    trial = dataclasses.replace(right, objective=PrintedELBO())
    outcome = run(trial, tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (row,) = (json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert row["printed_elbo"] == pytest.approx(-row["loss"]) != pytest.approx(row["elbo"])
    assert result["best_validation_elbo"] == pytest.approx(row["validation/elbo"])
    measured = tables.measure(right, trial.data.load(), outcome, data_mesh(1))
    assert measured["rates"] == result["rates"] and measured["elbo"] == result["elbo"]


@dataclasses.dataclass(frozen=True)
class Remarks(NegativeELBO):
    """The negative ELBO, with something to say at the end."""

    def conclude(self, rows: Sequence[dict[str, float | int]]) -> tuple[str, ...]:
        """How many rows there were."""
        return (f"{len(rows)} rows were written.",)


@pytest.mark.slow
def test_what_an_objective_has_to_say_at_the_end(
    small: Callable[..., Experiment], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stands in result.json and is printed last."""
    run(small(objective=Remarks()), tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["remarks"] == ["2 rows were written."]
    assert capsys.readouterr().out.strip().splitlines()[-1] == "warning: 2 rows were written."
