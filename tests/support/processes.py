"""Runs as processes of their own: started, watched and ended as users and clouds do."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from hvae_jax.experiment import abstract_state
from hvae_jax.experiment.settings import load
from hvae_jax.training.checkpoint import Checkpoints
from hvae_jax.training.mesh import data_mesh
from support.places import CACHE, RECIPES, XLA_FLAGS

SCRIPT = RECIPES / "top_down.py"
CPU = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": XLA_FLAGS, "JAX_COMPILATION_CACHE_DIR": str(CACHE)}
CPU |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiled faster, as in the tests' own process
TINY = ["--model.hidden", "16", "--evaluation.draws", "2", "--evaluation.other-draws", "2", "--pictures-every", "None"]
# Epochs of three steps, a checkpoint after each: most of the run is saving.
EPOCHS = 15
RUN = [*TINY, "--batch-size", "16", "--epochs", str(EPOCHS), "--patience", "1000", "--save-every", "1"]


FEW = [*TINY, "--batch-size", "16", "--patience", "1000"]


def command(folder: Path, *arguments: str, script: Path = SCRIPT) -> list[str]:
    """The script's command line."""
    return [sys.executable, str(script), "--folder", str(folder), *arguments]


def start(folder: Path, *arguments: str, devices: int = 1, script: Path = SCRIPT) -> "subprocess.Popen[str]":
    """Starts it, with that many CPU devices; what it says goes to a file beside the folder."""
    where = folder.parent.parent if folder.parent.name == "disk" else folder.parent
    log = where / f"{folder.name}.{len(list(where.glob(f'{folder.name}.*.log')))}.log"
    environment = CPU | {"JAX_NUM_CPU_DEVICES": str(devices)}
    with log.open("w") as output:
        return subprocess.Popen(
            command(folder, *arguments, script=script),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
        )


def finish(folder: Path, *arguments: str, devices: int = 1, script: Path = SCRIPT) -> str:
    """Runs it to its end and returns what it said."""
    done = subprocess.run(
        command(folder, *arguments, script=script),
        capture_output=True,
        text=True,
        timeout=300,
        env=CPU | {"JAX_NUM_CPU_DEVICES": str(devices)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def wait_until(what: Callable[[], bool], processes: Sequence["subprocess.Popen[str]"], seconds: float = 200) -> None:
    """Until something holds, while the processes run."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        assert all(process.poll() is None for process in processes), "the process ended before"
        time.sleep(0.002)


def committed(folder: Path) -> list[int]:
    """Steps of whole checkpoints: Orbax renames a folder to its step once all of it is written."""
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit())


def saving(folder: Path) -> bool:
    """Whether a checkpoint is being written at this moment."""
    return any("tmp" in path.name for path in (folder / "checkpoints").glob("*"))


def parameters(folder: Path, modules: Sequence[str] = ()) -> list[np.ndarray]:
    """Every array of the newest checkpoint."""
    settings = load(folder / "settings.json", modules)
    state = abstract_state(settings, settings.data.load().train.for_classes(settings.model.classes))
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    restored = checkpoints.restore(state, state.variables, data_mesh(1))
    checkpoints.close()
    assert restored is not None
    return [np.asarray(leaf) for leaf in jax.tree.leaves(restored[:2])]


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def error_of(folder: Path, where: Path) -> str:
    """The line with the error that a run ended with."""
    lines = (where / f"{folder.name}.0.log").read_text().strip().splitlines()
    assert lines[-2].startswith("error: ") and lines[-1].startswith("(HVAE_TRACEBACK"), lines
    return lines[-2]
