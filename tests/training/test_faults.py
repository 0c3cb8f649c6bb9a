"""Runs that lose their process, their disk or their peers: real processes, started and ended as users and clouds do."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import chex
import numpy as np
import pytest
from support.processes import (
    CPU,
    EPOCHS,
    FEW,
    RUN,
    SCRIPT,
    command,
    committed,
    finish,
    free_port,
    parameters,
    saving,
    start,
    wait_until,
)
from support.tiers import tiers


@pytest.fixture(scope="module")
def straight(arrays: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    finish(folder, *RUN, *arrays)
    return folder


# ---- killed


def kill_and_resume(folder: Path, straight: Path, arrays: list[str], during_save: bool, delay: float) -> None:
    """SIGKILL, `delay` seconds after a step or in the middle of a save; then the same command until it is done."""
    process = start(folder, *RUN, *arrays)
    wait_until(lambda: len(committed(folder)) > 0, [process])
    time.sleep(delay)
    if during_save:
        wait_until(lambda: saving(folder), [process])
    process.kill()
    process.wait()
    left = committed(folder)
    assert left, "the last good checkpoint is gone"
    assert not (folder / "result.json").exists(), "it was done before it could be killed"
    said = finish(folder, *RUN, *arrays)
    assert f"at step {left[-1]}," in said
    chex.assert_trees_all_equal(parameters(folder), parameters(straight))
    rows = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == [3 * (i + 1) for i in range(EPOCHS)]


@pytest.mark.parametrize("during_save", tiers([True, False], slow=1))
def test_killed_at_any_moment_and_started_again(
    during_save: bool, straight: Path, arrays: list[str], tmp_path: Path
) -> None:
    """Parameters, averages and optimiser are those of the run that was never killed, bit for bit."""
    kill_and_resume(tmp_path / "run", straight, arrays, during_save, np.random.default_rng().uniform(0.0, 0.3))


@pytest.mark.exhaustive
@pytest.mark.parametrize("moment", range(10))
def test_killed_at_ten_more_moments(moment: int, straight: Path, arrays: list[str], tmp_path: Path) -> None:
    """Half of them during a save."""
    delay = np.random.default_rng().uniform(0.0, 1.0)
    kill_and_resume(tmp_path / "run", straight, arrays, moment % 2 == 0, delay)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),  # tests/training/test_loop.py has it in one process
        pytest.param(signal.SIGHUP, marks=pytest.mark.exhaustive),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.exhaustive),
    ],
)
def test_preempted(number: int, straight: Path, arrays: list[str], tmp_path: Path) -> None:
    """The state is saved at once though no save is due, and exit code 75 says so."""
    folder = tmp_path / "run"
    seldom = ["--save-every", "None"]
    process = start(folder, *RUN, *seldom, *arrays)
    metrics = folder / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 2, [process])
    assert not committed(folder)
    process.send_signal(number)
    assert process.wait(timeout=120) == 75
    assert len(committed(folder)) == 1
    log = next(tmp_path.glob("run.*.log")).read_text()
    assert "The same command goes on from there" in log
    finish(folder, *RUN, *seldom, *arrays)
    chex.assert_trees_all_equal(parameters(folder), parameters(straight))


# ---- what is on disk is not what was written


@pytest.mark.slow
def test_a_flipped_bit_and_a_truncated_file(straight: Path, arrays: list[str], tmp_path: Path) -> None:
    """The checkpoint before is used, and it is said; the run ends as if nothing had been."""
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    before, last = committed(folder)[-2:]
    largest = max((folder / "checkpoints" / str(last)).rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    said = finish(folder, *RUN, *arrays)
    assert f"going on from {before}" in said
    assert (folder / "checkpoints" / f"unreadable_{last}").exists()
    chex.assert_trees_all_equal(parameters(folder), parameters(straight))

    largest = max((folder / "checkpoints" / str(last)).rglob("*"), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.truncate(largest.stat().st_size // 2)
    said = finish(folder, *RUN, *arrays)
    assert f"going on from {before}" in said
    chex.assert_trees_all_equal(parameters(folder), parameters(straight))


def fill(disk: Path) -> None:
    """Takes all the room that is left."""
    with contextlib.suppress(OSError), (disk / "fill").open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)


@pytest.mark.slow
def test_a_full_disk(disk: Path, straight: Path, arrays: list[str], tmp_path: Path) -> None:
    """The run ends with one message on what is missing; with room again it goes on."""
    folder = disk / "run"
    process = start(folder, *RUN, *arrays)
    wait_until(lambda: bool(committed(folder)), [process])
    fill(disk)
    assert process.wait(timeout=120) == 1
    said = (tmp_path / "run.0.log").read_text().strip().splitlines()
    assert re.search(r"error: .* could not be written .* 0\.\d MiB are free", said[-2]), said
    (disk / "fill").unlink()
    finish(folder, *RUN, *arrays)
    chex.assert_trees_all_equal(parameters(folder), parameters(straight))


@pytest.mark.exhaustive  # test_a_full_disk is the same fault by other means
def test_a_quota(straight: Path, arrays: list[str], tmp_path: Path) -> None:
    """No file may grow above 40 kB: free space says nothing of that, and Orbax's own threads fail."""
    folder = tmp_path / "run"
    limited = f"ulimit -f 40; exec {' '.join(command(folder, *RUN, *arrays))}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=300, env=CPU)
    assert done.returncode == 1, done.stderr
    assert "error: A checkpoint could not be written" in done.stderr
    finish(folder, *RUN, *arrays)
    chex.assert_trees_all_equal(parameters(folder), parameters(straight))


# ---- several processes


def pair(
    folder: Path, arguments: Sequence[str], lost_timeout: int = 10, script: Path = SCRIPT
) -> list["subprocess.Popen[str]"]:
    """Two processes of two devices each."""
    port = free_port()
    return [
        start(
            folder,
            *arguments,
            "--cluster.coordinator",
            f"127.0.0.1:{port}",
            "--cluster.processes",
            "2",
            "--cluster.process",
            str(i),
            "--cluster.lost-timeout",
            str(lost_timeout),
            devices=2,
            script=script,
        )
        for i in range(2)
    ]


SGD = """
import dataclasses
import optax
from hvae_jax.cli.script import main
from hvae_jax.experiment import Evaluation, Experiment
from hvae_jax.models import TopDownVAE
from hvae_jax.training import Training

@dataclasses.dataclass(frozen=True)
class SGD:
    learning_rate: float = 1e-4

    def build(self):
        return optax.sgd(self.learning_rate)

experiment = Experiment(
    "sgd",
    TopDownVAE(latents=(2, 3), hidden=512),  # wide enough for FSDP to split its layers
    optimiser=SGD(),
    training=Training(batch_size=16, steps=20, patience=1000, pictures_every=None),
    evaluation=Evaluation(draws=2, other_draws=2),
)
if __name__ == "__main__":
    main(experiment)
"""


@pytest.fixture
def sgd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's own script with plain gradient descent: Adam and its kin turn rounding into steps."""
    script = tmp_path / "sgd_script.py"
    script.write_text(SGD)
    monkeypatch.syspath_prepend(tmp_path)
    yield script
    sys.modules.pop("sgd_script", None)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(["--feed.kind", "resident"], marks=pytest.mark.exhaustive, id="resident"),
        pytest.param(["--feed.kind", "streamed", "--devices.fsdp"], marks=pytest.mark.slow, id="streamed-fsdp"),
    ],
)
def test_two_processes_train_as_one(more: list[str], sgd: Path, arrays: list[str], tmp_path: Path) -> None:
    """Two processes of two devices each do what one process does with four: parameters after 20 steps to 1e-6.

    What remains is rounding, which training makes grow. At ten times the rate 20 steps bring it to 1e-6 to 8e-6 of a
    parameter, whether one process has 1, 2 or 4 devices or two have 2 each, and to 1e-12 with parameters in float64;
    two processes of one device each equal one of two devices bit for bit, as four of one equal two of two.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    finish(one, *more, *arrays, devices=4, script=sgd)
    processes = pair(two, [*more, *arrays], script=sgd)
    codes = [process.wait(timeout=200) for process in processes]
    logs = [path.read_text() for path in sorted(tmp_path.glob("two.*.log"))]
    assert codes == [0, 0], logs
    apart, together = (parameters(folder, modules=("sgd_script",)) for folder in (two, one))
    for ours, theirs in zip(apart, together, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    rows = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (one, two)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    for a, b in zip(*rows, strict=True):
        for name in ("loss", "elbo", "grad_norm", "rate/z2", "rate/z1", "validation/elbo"):
            assert a[name] == pytest.approx(b[name], rel=1e-5), name
    results = [json.loads((f / "result.json").read_text()) for f in (one, two)]
    assert results[0]["iw_bound"] == pytest.approx(results[1]["iw_bound"], rel=1e-5)
    assert results[1]["device"]["processes"] == 2 and results[1]["feed"] == more[1]
    assert sum("training to step" in log for log in logs) == 1, "only process 0 speaks"


@pytest.mark.parametrize("lost", tiers([0, 1], slow=1))
def test_one_of_two_is_lost(lost: int, arrays: list[str], tmp_path: Path) -> None:
    """The other ends within the stated time and says why; started again, both go on from the last checkpoint."""
    folder = tmp_path / "run"
    long = [*FEW, "--epochs", "20000", "--save-every", "30", *arrays]
    processes = pair(folder, long)
    wait_until(lambda: bool(committed(folder)), processes)
    processes[lost].kill()
    killed = time.monotonic()
    assert processes[1 - lost].wait(timeout=60) in (-signal.SIGABRT, 134)  # JAX's runtime ends it, or we do
    assert time.monotonic() - killed < 30  # lost_timeout is 10 s; the rest is this machine's
    said = (tmp_path / f"run.{1 - lost}.log").read_text()
    assert "another task died" in said or "another process of the run was lost" in said, said
    left = committed(folder)[-1]
    again = pair(folder, long)
    wait_until(lambda: committed(folder)[-1] > left, again)
    again[0].send_signal(signal.SIGTERM)  # one of them is asked to stop: both do, at the same step
    assert [process.wait(timeout=120) for process in again] == [75, 75]
    assert f"at step {left}," in (tmp_path / "run.2.log").read_text() + (tmp_path / "run.3.log").read_text()
