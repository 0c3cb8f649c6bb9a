"""The folder of a run: what may be in it, and what has to be true before anything is written there."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax

from hvae_jax import settings
from hvae_jax.training.state import TrainState

CONTENTS = (
    "settings.json",
    "metrics.jsonl",
    "result.json",
    "checkpoints",
    "tensorboard",
    "real.png",
    "samples.png",
    "reconstructions.png",
    "curve.png",
)


def check(folder: Path, experiment: Any, *, resume: bool, overwrite: bool) -> None:
    """Makes the folder if it is not there, and sees that what is in it may become, or is, this experiment's.

    Raises ValueError where it holds other settings, naming them, or checkpoints without settings; OSError where it
    cannot be made or written. Nothing that lies there is touched.
    """
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other: going on, or starting over?")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        settings.write_whole(folder / "write_test", "")
        (folder / "write_test").unlink()
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error.strerror}). Give another with --folder.") from error
    path = folder / "settings.json"
    if resume or overwrite:
        return
    if not path.exists():
        if any(saved.name.isdigit() for saved in (folder / "checkpoints").glob("*")):
            raise ValueError(f"{folder} holds checkpoints but no settings.json. --overwrite starts over there.")
        return
    try:
        old = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}). --overwrite starts over.") from error
    changed = settings.differences(old, settings.to_json(experiment))
    if changed:
        raise ValueError(
            f"{folder} holds a run with other settings:\n  "
            + "\n  ".join(changed)
            + "\n--resume goes on from its last state under the new ones, --overwrite starts over, --folder takes "
            "another folder."
        )


def clear(folder: Path) -> None:
    """Deletes what an earlier run left, its settings last, so that a crash in between leaves nothing to mistake."""
    for name in reversed(CONTENTS):
        target = folder / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def check_space(folder: Path, state: TrainState) -> None:
    """Raises OSError if the disk cannot hold the checkpoints of a run with this (abstract) state."""
    needed = 4 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state, state.variables)))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} is on a disk with {free / 2**20:,.0f} MiB free, but the checkpoints of this run need about "
            f"{needed / 2**20:,.0f} MiB. Make room, or give another folder with --folder."
        )
