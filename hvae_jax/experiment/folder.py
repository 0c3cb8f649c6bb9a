"""The folder of a run: what may be in it, and what has to be true before anything is written there."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from hvae_jax.experiment import settings
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
    "pictures",
    "profile",
    "tracker.json",
    "wandb",
)


# Settings that change no number, or only its rounding: a run goes on under others without being asked.
_NO_NUMBER = (
    "feed",
    "devices",
    "data.directory",
    *(f"training.{name}:" for name in ("save_seconds", "save_every", "keep", "pictures_every")),
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
    differing = settings.differences(old, settings.to_json(experiment))
    changed = [line for line in differing if not line.startswith(_NO_NUMBER)]
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


def check_space(folder: Path, state: TrainState, keep: int = 2) -> None:
    """Raises OSError if the disk cannot hold `keep` checkpoints of a run with this (abstract) state and two more."""
    needed = (keep + 2) * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state, state.variables)))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} is on a disk with {free / 2**20:,.0f} MiB free, but the checkpoints of this run need about "
            f"{needed / 2**20:,.0f} MiB. Make room, or give another folder with --folder."
        )


def outlives_machine(
    folder: Path, environment: Mapping[str, str] | None = None, mounts: str | None = None
) -> str | None:
    """What to say of a folder that is lost with the machine or its memory; None where nothing suggests that.

    Colab's own disk is lost with the session, mounted Google Drive is not. On Kaggle only /kaggle/working is kept: by
    a saved version, or in a session whose settings have persistence of files turned on. Memory file systems
    (tmpfs, ramfs) are lost at the next start. A container's own layer is not recognised.

    Args:
      environment: variables; None takes the process's.
      mounts: in the form of /proc/mounts; None reads that, where there is one.
    """
    if environment is None:
        colab = {"COLAB_RELEASE_TAG": ""} if "google.colab" in sys.modules else {}
        environment = {**colab, **os.environ}
    if mounts is None:
        table = Path("/proc/mounts")
        mounts = table.read_text() if table.exists() else ""
    folder = folder.expanduser().resolve()
    kind = _file_system(folder, mounts)
    if kind in ("tmpfs", "ramfs"):
        return (
            f"{folder} lies in memory ({kind}), so that the run and its checkpoints are lost when this machine "
            "restarts. Give a folder on a disk with --folder."
        )
    if "COLAB_RELEASE_TAG" in environment or "COLAB_GPU" in environment:
        if kind.startswith(("fuse", "nfs")):  # Drive, a bucket by gcsfuse, a network disk
            return None
        return (
            f"{folder} lies on Colab's own disk, which is lost with the session, the run and its checkpoints with it. "
            "Mount Drive (from google.colab import drive; drive.mount('/content/drive')) and give a folder below "
            "/content/drive/MyDrive with --folder; the same command then goes on after a lost session."
        )
    run_type = environment.get("KAGGLE_KERNEL_RUN_TYPE")
    if run_type is not None:
        if not folder.is_relative_to("/kaggle/working"):
            return f"{folder} is lost with the Kaggle session. Give a folder below /kaggle/working with --folder."
        if run_type == "Interactive":
            return (
                f"{folder} is lost with the Kaggle session, unless its settings have persistence of files turned on. "
                "A saved version (Save & Run All) keeps what is below /kaggle/working."
            )
    return None


def _file_system(folder: Path, mounts: str) -> str:
    """The type of the file system a folder lies on, "" if unknown: the deepest mount above it, the last one there."""
    found, depth = "", -1
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(fields[1].replace("\\040", " "))
        if folder.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = fields[2], len(point.parts)
    return found
