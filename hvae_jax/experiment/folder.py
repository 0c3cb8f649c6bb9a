"""The folder of a run: the checks before anything is written there."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from hvae_jax.experiment import settings
from hvae_jax.experiment.contents import check_kinds, check_ours
from hvae_jax.experiment.layout import check_layout
from hvae_jax.experiment.records import Experiment
from hvae_jax.runtime.files import check_path, write_whole
from hvae_jax.runtime.json_files import read_json
from hvae_jax.training.state import TrainState

# Settings that change no number, or only its rounding: a run goes on when they differ. So does the size of what is
# measured at once, which changes the noise of the result and nothing that is trained: memory may be short only then.
_NO_NUMBER = (
    "feed",
    "devices",
    "data.directory",
    "evaluation.chunk:",
    "evaluation.size:",
    *(f"training.{name}:" for name in ("save_seconds", "save_every", "keep", "pictures_every")),
    "model.kept:",
)

# Settings that older runs do not have. At its preset's own length `schedule_steps` stretches nothing, and another
# length is a difference of its own.
_LATER = ("training.schedule_steps: not there",)


def check(folder: Path, experiment: Experiment, *, resume: bool, overwrite: bool) -> None:
    """Makes the folder if it does not exist, and checks that what it holds is this experiment's run or may become it.

    Nothing that lies there is touched.

    Raises ValueError, naming the settings that differ, if it holds a run with other settings; for a run of another
    layout; for checkpoints without settings; for what no run of ours wrote, as `check_ours` does. Raises OSError if it
    cannot be made or written.
    """
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other: going on, or starting over?")
    check_path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, but the folder of a run is wanted. Give another with --folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "write_test", "")
        (folder / "write_test").unlink()
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error.strerror}). Give another with --folder.") from error
    check_ours(folder)
    if overwrite:
        return
    check_kinds(folder)
    old = _settings_in(folder, resume)
    check_layout(old, folder)
    if resume or old is None:
        return
    if changed := changes(old, experiment):
        raise ValueError(
            f"{folder} holds a run with other settings:\n  "
            + "\n  ".join(changed)
            + "\n--resume goes on from its last state under the new ones, --overwrite starts over, --folder takes "
            "another folder."
        )


def changes(old: Any, experiment: Experiment) -> list[str]:
    """The settings with which a run could not go on as it began, a line each.

    Args:
      old: settings.json, parsed.
    """
    differing = settings.differences(old, settings.to_json(experiment))
    return [line for line in differing if not line.startswith((*_NO_NUMBER, *_LATER))]


def _settings_in(folder: Path, resume: bool) -> Any:
    """settings.json, parsed; None if there is none, or if it is unreadable and the run is resumed under new ones.

    Raises ValueError, unless the run is resumed, for checkpoints without settings and for a file that cannot be read.
    """
    path = folder / "settings.json"
    if not path.exists():
        if not resume and any(saved.name.isdigit() for saved in (folder / "checkpoints").glob("*")):
            raise ValueError(
                f"{folder} holds checkpoints but no settings.json. Put that file back, or take another folder with "
                "--folder."
            )
        return None
    try:
        return read_json(path)
    except ValueError as error:
        if resume:
            return None
        raise ValueError(f"{error} --resume writes the settings anew, --overwrite starts over.") from error


def check_space(folder: Path, state: TrainState, keep: int = 2) -> None:
    """Raises OSError if the disk cannot hold `keep` + 2 checkpoints of a run with this (abstract) state."""
    # A new checkpoint is written before the oldest is deleted; the other one is a margin.
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
    """A warning if a folder will be lost with the machine or its memory; None if nothing suggests that.

    Colab's own disk is lost with the session, mounted Google Drive is not. On Kaggle only /kaggle/working is kept: by
    a saved version, or in a session whose settings have persistence of files turned on. Memory file systems
    (tmpfs, ramfs) are lost at the next start. A container's own layer is not recognised.

    Args:
      environment: environment variables; None takes the process's.
      mounts: text in the format of /proc/mounts; None reads that file, if there is one.
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
    """The type of the file system that a folder lies on, "" if unknown: that of the deepest mount above it.

    Of several mounts on one point the last one counts.
    """
    found, depth = "", -1
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(fields[1].replace("\\040", " "))
        if folder.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = fields[2], len(point.parts)
    return found
