"""Checkpoints that cannot be written: one clear error, and those before are whole."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import assert_is, best_at, record, restore, save, state_at

from hvae_jax.training import checkpoint as module
from hvae_jax.training.causes import remedy
from hvae_jax.training.checkpoint import Checkpoints, NotSavedError, Progress

pytestmark = pytest.mark.leg


def test_a_save_that_fails_is_heard(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the step of the last whole one, at once or at the next save."""
    checkpoints = Checkpoints(copied)

    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("No space left on device")

    for method in ("save_checkpointables_async", "wait"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints._checkpointer(), method, full)
            with pytest.raises(NotSavedError, match=r"No space left on device.*The last one, of step 7, is whole"):
                checkpoints.save(8, state_at(8), best_at(8), record(8))
    checkpoints.close()
    assert_is(restore(copied), 7)


def test_a_disk_that_has_become_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is written."""
    checkpoints = Checkpoints(tmp_path)

    class Full:
        free = 1000

    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Full)
    with pytest.raises(OSError, match=r"takes 0\.0 MiB\. 0\.0 MiB are free there\. Make room"):
        save(checkpoints, 1)
    checkpoints.close()
    assert not list(tmp_path.iterdir())


def test_a_limit_that_the_system_sets(copied: Path) -> None:
    """A real write that fails in Orbax's own threads: one clear error, and the last whole checkpoint is as it was."""
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
import jax.numpy as jnp
from hvae_jax.training.causes import remedy
from hvae_jax.training.checkpoint import Checkpoints, NotSavedError, Progress
checkpoints = Checkpoints(Path({str(copied)!r}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
import numpy as np
noise = jnp.asarray(np.random.default_rng(0).normal(size=50_000))
try:
    checkpoints.save(9, {{"w": noise}}, {{"w": noise}}, Progress())
    checkpoints.wait()
except NotSavedError as error:
    print("said:", error, flush=True)
import os
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "said: A checkpoint could not be written" in done.stdout, done.stderr
    assert "The last one, of step 7, is whole" in done.stdout
    assert_is(restore(copied), 7)


# ---- what saving holds


def descriptors_and_threads() -> tuple[int, int]:
    """Those of this process."""
    return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not list a process's descriptors")
@pytest.mark.parametrize("saves", [12, pytest.param(50, marks=pytest.mark.slow)])
def test_saves_hold_no_descriptors_and_no_threads(saves: int, tmp_path: Path) -> None:
    """As many afterwards as after the first few: Orbax opens an event loop for each save, and somebody closes it."""
    checkpoints, arrays = Checkpoints(tmp_path), {"w": np.zeros(8, np.float32)}
    counts = []
    for step in range(1, saves + 1):
        checkpoints.save(step, arrays, arrays, Progress())
        checkpoints.wait()
        counts.append(descriptors_and_threads())
    checkpoints.close()
    # An event loop is a thread and three descriptors; TensorStore's pools grow to their size in the first saves.
    early, late = (np.max(some, axis=0) for some in (counts[: saves // 2], counts[-saves // 4 :]))
    assert (late <= early + 4).all(), counts


def test_a_folder_that_is_gone(copied: Path) -> None:
    """Noticed before Orbax makes it anew, with what to do; nothing is made where it was."""
    checkpoints = Checkpoints(copied)
    shutil.rmtree(copied)
    with pytest.raises(NotSavedError, match=r"the folder is gone.*Bring the folder back"):
        checkpoints.save(8, state_at(8), best_at(8), record(8))
    checkpoints.close()
    assert not copied.exists()


@pytest.mark.skipif(shutil.which("chattr") is None, reason="the one way to keep root from writing")
def test_a_folder_that_cannot_be_written(copied: Path) -> None:
    """Heard at once, with what to do, rather than after the twenty minutes of Orbax's patience."""
    checkpoints = Checkpoints(copied)
    if subprocess.run(["chattr", "+i", copied], capture_output=True).returncode:
        pytest.skip("no folder of this disk can be made read-only")
    try:
        with pytest.raises(NotSavedError, match=r"not permitted.*of step 7, is whole\. Give yourself the right"):
            save(checkpoints, 8)
    finally:
        subprocess.run(["chattr", "-i", copied], check=True)
    save(checkpoints, 9)
    checkpoints.close()
    assert_is(restore(copied), 9)


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.EMFILE, "Raise the limit on open files"),
        (errno.EROFS, "Make the disk writable"),
        (errno.EDQUOT, "Make room"),
    ],
)
@pytest.mark.parametrize("text", [False, True])
def test_the_remedy_fits_the_cause(number: int, what: str, text: bool, tmp_path: Path) -> None:
    """Whether the first error has a number or, as TensorStore's, only words."""
    first = ValueError(f"x: [OS error {number}: E {os.strerror(number)}]") if text else OSError(number, "it failed")
    error = RuntimeError("a layer above")
    error.__cause__ = first
    assert remedy(error, tmp_path).startswith(what)
