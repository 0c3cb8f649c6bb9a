"""`hvae sweep`: every combination once, whatever fails or is killed; the table and the picture."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import pretended

from hvae_jax import recipes
from hvae_jax.cli import main as cli
from hvae_jax.cli.sweep import trials_of
from hvae_jax.experiment import sweep

BASE = ["sweep", "top_down", "--folder", "out"]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pretended.Runs:
    stand_in = pretended.Runs()
    monkeypatch.setattr(sweep, "run", stand_in)
    monkeypatch.chdir(tmp_path)
    return stand_in


def error_of(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == code
    said = capsys.readouterr()
    return said.err if code == 2 else said.out + said.err


def test_every_combination_once(runs: pretended.Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """Means and deviations are those of the numbers; the same command trains nothing, more seeds train those."""
    command = [*BASE, "--over", "model.hidden", "3", "4", "--over", "seed", "0", "1", "--steps", "9"]
    cli.main(command)
    assert runs.asked == [f"hidden={hidden},seed={seed}" for hidden in (3, 4) for seed in (0, 1)]
    shown = capsys.readouterr().out
    saved = json.loads(Path("out/sweep.json").read_text())
    assert [row["settings"] for row in saved["rows"]][1] == {"model.hidden": 3, "seed": 1}
    for line, hidden in zip(saved["table"], (3, 4), strict=True):
        elbos = [100.0 + 10 * hidden - seed for seed in (0, 1)]
        assert line["settings"] == {"model.hidden": hidden} and line["runs"] == 2
        assert line["mean"]["test -ELBO"] == np.mean(elbos)
        assert line["deviation"]["test -ELBO"] == pytest.approx(np.std(elbos, ddof=1))
    assert "129.50 ± 0.71" in shown and "139.50 ± 0.71" in shown and "over seeds" in shown
    assert Path("out/sweep.png").read_bytes()[:4] == b"\x89PNG"
    settings = json.loads(Path("out/hidden=4,seed=1/settings.json").read_text())["fields"]
    assert settings["training"]["fields"]["steps"] == 9 and settings["seed"] == 1

    runs.asked.clear()
    cli.main([*command, "--over", "data.flip", "False"])
    assert len(runs.asked) == 4  # other names
    runs.asked.clear()
    cli.main([*BASE, "--over", "model.hidden", "3", "--over", "seed", "0", "1", "2", "--steps", "9"])
    assert runs.asked == ["hidden=3,seed=2"] and "2 of 3 runs in out are finished" in capsys.readouterr().out


def test_a_failing_run_is_said_and_the_others_go_on(runs: pretended.Runs, capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of([*BASE, "--over", "model.hidden", "13", "4"], 1, capsys)
    assert runs.asked == ["hidden=13", "hidden=4"]
    assert said.count("hidden=13 failed: 13 brings bad luck.") == 2 and "140.00" in said
    row, other = json.loads(Path("out/sweep.json").read_text())["rows"]
    assert row["error"] == "13 brings bad luck." and row["numbers"] is None and other["error"] is None


def test_an_interrupted_sweep_goes_on(runs: pretended.Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """With the run that was interrupted."""
    command = [*BASE, "--over", "model.hidden", "3", "15", "4"]
    for code, number in ((75, signal.SIGTERM), (130, signal.SIGINT)):
        runs.signal = number
        assert "The same command goes on" in error_of(command, code, capsys)
    assert runs.asked == ["hidden=3", "hidden=15", "hidden=15"]


def test_other_settings_in_the_folder(runs: pretended.Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """Are refused before any run, naming what differs, and overwritten on request."""
    cli.main([*BASE, "--over", "seed", "0"])
    said = error_of([*BASE, "--over", "seed", "1", "0", "--steps", "7"], 1, capsys)
    assert "training.steps: null -> 7" in said and "--overwrite" in said and runs.asked == ["seed=0"]
    cli.main([*BASE, "--over", "seed", "1", "0", "--steps", "7", "--overwrite"])
    assert runs.asked == ["seed=0", "seed=1", "seed=0"]


def test_a_run_from_before_a_setting_came(runs: pretended.Runs) -> None:
    """`schedule_steps` is no difference to settings that do not have it: nothing is stretched at a preset's length."""
    command = ["sweep", "vdvae", "--folder", "out", "--over", "seed", "0"]
    pretended.write(Path("out/seed=0"), recipes.experiment_of("vdvae"), -100.0)
    path = Path("out/seed=0/settings.json")
    saved = json.loads(path.read_text())
    assert saved["fields"]["training"]["fields"].pop("schedule_steps") == 3200
    path.write_text(json.dumps(saved))
    cli.main(command)
    assert not runs.asked


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "needs --over SETTING VALUE ..., such as --over seed 0 1 2."),
        (["--over", "model.hiden", "3"], "--model.hiden is no flag here. Did you mean --model.hidden?"),
        (["--over", "learning_rate", "3"], "Did you mean --optimiser.learning-rate?"),
        (["--over", "seed", "3", "x"], "'x'"),
        (["--over", "seed"], "--over seed needs values"),
        (["--over", "seed", "1", "1"], "--over seed 1 1: a value is given twice."),
        (["--over", "seed", "1", "--over", "seed", "2"], "--over seed is given twice"),
        (["--over", "seed", "1", "--report"], "--report is a flag of hvae train alone"),
        (["--over", "seed", "1", "--stpes", "2"], "Did you mean --steps?"),
        (["--over", "seed", "1", "--preset", "digit"], "no preset 'digit'. Did you mean digits?"),
        (["--over", "seed", "1", "--jobs", "two"], "--jobs"),
    ],
)
def test_bad_input(arguments: list[str], part: str, runs: pretended.Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert part in error_of([*BASE, *arguments], 2, capsys)
    assert not runs.asked and not Path("out").exists()


def test_no_job_and_no_recipe(runs: pretended.Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert "jobs is 0" in error_of([*BASE, "--over", "seed", "1", "--jobs", "0"], 1, capsys)
    assert "Did you mean vae?" in error_of(["sweep", "va", "--over", "seed", "1"], 2, capsys)
    assert "hvae sweep needs the name of a recipe" in error_of(["sweep", "--over", "seed", "1"], 2, capsys)


def test_values_of_every_kind() -> None:
    """Several numbers in quotes, truth values, names, and flags with dashes."""
    base = recipes.experiment_of("top_down")
    over = [["model.latents", "4 8", "2 3 4"], ["--data.flip", "True"], ["model.levels", "normal bernoulli"]]
    first, second = trials_of(base, over[:2])
    assert (first.experiment.model.latents, second.experiment.model.latents) == ((4, 8), (2, 3, 4))
    assert first.experiment.data.flip and first.values == {"model.latents": "4 8", "data.flip": "True"}
    assert len({first.name, second.name}) == 2 and " " not in first.name
    assert trials_of(base, over[2:])[0].experiment.model.levels == ("normal", "bernoulli")


FAST = ["--steps", "20", "--model.hidden", "4", "--evaluation.draws", "2", "--evaluation.other-draws", "2"]


@pytest.mark.slow
def test_side_by_side_and_killed(tmp_path: Path) -> None:
    """Two processes at a time; after a SIGTERM the same command finishes, with the numbers of runs in turn."""
    program = "from hvae_jax.cli.main import main; main()"
    command = [sys.executable, "-c", program, "sweep", "vae", "--over", "seed", "0", "1", *FAST, "--save-every", "1"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}

    def start(folder: str, jobs: int) -> Any:
        whole = [*command, "--folder", str(tmp_path / folder), "--jobs", str(jobs)]
        return subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)

    killed = start("side", 2)
    deadline = time.monotonic() + 200
    while not list((tmp_path / "side").glob("*/metrics.jsonl")):
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGTERM)
    said, _ = killed.communicate(timeout=200)
    assert killed.returncode == 75 and "The same command goes on" in said
    for folder, jobs in (("side", 2), ("turn", 1)):
        process = start(folder, jobs)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    tables = [json.loads((tmp_path / folder / "sweep.json").read_text())["rows"] for folder in ("side", "turn")]
    for one, other in zip(*tables, strict=True):
        assert one["numbers"]["test -ELBO"] == other["numbers"]["test -ELBO"]
