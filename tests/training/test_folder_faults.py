"""Folders that go, disks that change, processes that share one: a running process ends in words, or is refused."""

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.processes import CPU, FEW, RUN, command, committed, error_of, finish, start, wait_until


@pytest.mark.slow
def test_a_folder_that_vanishes(arrays: list[str], tmp_path: Path) -> None:
    """The run ends within one save, and makes nothing anew where the folder was; moved back, the run goes on."""
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    long = [*FEW, "--epochs", "20000", "--save-seconds", "1"]
    process = start(folder, *long, *arrays)
    wait_until(lambda: bool(committed(folder)), [process])
    folder.rename(elsewhere)
    gone = time.monotonic()
    assert process.wait(timeout=120) == 1
    assert time.monotonic() - gone < 60  # a second to the save; the rest is this machine's
    assert "Bring the folder back, or mount its disk" in error_of(folder, tmp_path)
    assert not list(folder.glob("checkpoints/*"))
    shutil.rmtree(folder, ignore_errors=True)
    elsewhere.rename(folder)
    last = committed(folder)[-1]
    assert f"at step {last}," in finish(folder, *FEW, "--epochs", str(last // 3 + 2), "--resume", *arrays)


@pytest.mark.slow
def test_a_disk_that_is_unmounted(disk: Path, arrays: list[str], tmp_path: Path) -> None:
    """The run ends within one save with words on what happened; what is below the mount point is no checkpoint."""
    folder = disk / "run"
    process = start(folder, *FEW, "--epochs", "20000", "--save-seconds", "1", *arrays)
    wait_until(lambda: bool(committed(folder)), [process])
    subprocess.run(["umount", "-l", disk], check=True)
    try:
        assert process.wait(timeout=120) == 1
        assert "Bring the folder back, or mount its disk" in error_of(folder, tmp_path)
        assert not committed(folder)
    finally:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)  # for the fixture to unmount


@pytest.mark.slow
def test_a_folder_that_becomes_read_only(arrays: list[str], tmp_path: Path) -> None:
    """The run ends within one save with words on what to do, and goes on once that is done."""
    folder = tmp_path / "run"
    process = start(folder, *FEW, "--epochs", "20000", "--save-seconds", "1", *arrays)
    wait_until(lambda: bool(committed(folder)), [process])
    # Modes do not keep root from writing, this flag does; not every disk has it.
    if not shutil.which("chattr") or subprocess.run(["chattr", "+i", folder / "checkpoints"]).returncode:
        process.kill()
        pytest.skip("no folder can be made read-only here")
    try:
        assert process.wait(timeout=120) == 1
    finally:
        subprocess.run(["chattr", "-i", folder / "checkpoints"], check=True)
    assert "Give yourself the right to write there" in error_of(folder, tmp_path)
    last = committed(folder)[-1]
    assert f"at step {last}," in finish(folder, *FEW, "--epochs", str(last // 3 + 2), "--resume", *arrays)


@pytest.mark.slow
def test_few_descriptors(arrays: list[str], tmp_path: Path) -> None:
    """A run that saves often needs no more of them with time."""
    folder = tmp_path / "run"
    limited = f"ulimit -n 160; exec {' '.join(command(folder, *RUN, '--epochs', '60', *arrays))}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=300, env=CPU)
    assert done.returncode == 0, done.stderr
    assert committed(folder)[-1] == 180


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("learning-rate", "1e30", "Training diverged: "),
        ("learning-rate", "nan", "it has to be a number"),
        ("b1", "1e20", "it has to be a decay"),
    ],
)
def test_numbers_that_cannot_train(flag: str, value: str, says: str, arrays: list[str], tmp_path: Path) -> None:
    """However few steps: exit code 1 or, where the command line itself is at fault, 2; and no result."""
    folder = tmp_path / "run"
    arguments = [*FEW, "--steps", "1", f"--optimiser.{flag}", value, *arrays]
    done = subprocess.run(command(folder, *arguments), capture_output=True, text=True, timeout=300, env=CPU)
    assert done.returncode in (1, 2), done.stderr
    assert says in " ".join((done.stdout + done.stderr).replace("\u2502", " ").split())
    assert not (folder / "result.json").exists()


@pytest.mark.slow
def test_two_runs_in_one_folder(arrays: list[str], tmp_path: Path) -> None:
    """The second is refused and named the first, whether it would go on or start over; the first is as it was."""
    folder = tmp_path / "run"
    long = [*FEW, "--epochs", "20000", "--save-every", "30", *arrays]
    process = start(folder, *long)
    wait_until(lambda: bool(committed(folder)), [process])
    for more in ([], ["--overwrite"]):
        second = subprocess.run(command(folder, *long, *more), capture_output=True, text=True, timeout=300, env=CPU)
        assert second.returncode == 1
        assert f"is in use by process {process.pid} on" in second.stderr, second.stderr
    last = committed(folder)[-1]
    wait_until(lambda: committed(folder)[-1] > last, [process])
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 75
    assert not list(folder.glob("run.lock*"))
