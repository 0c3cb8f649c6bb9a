"""What runs wrote in a folder: the list that is kept there, and the deletion of what is on it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from hvae_jax.runtime.files import write_whole
from hvae_jax.runtime.json_files import read_json
from hvae_jax.training.lock import NAME as LOCK

CONTENTS = (
    "settings.json",
    "metrics.jsonl",
    "metrics.rejected.jsonl",
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
"""Everything that a run may leave, its settings first."""

_FOLDERS = ("checkpoints", "tensorboard", "pictures", "profile", "wandb")

LIST = "hvae_jax.json"
"""File with the list of what runs wrote in its folder."""


def there(folder: Path) -> list[str]:
    """The names of `CONTENTS` that a folder has, whoever wrote them."""
    return [name for name in CONTENTS if os.path.lexists(folder / name)]


def check_ours(folder: Path) -> None:
    """Checks that all that a run would write over or delete in a folder is what runs wrote there.

    Raises ValueError naming what is not.
    """
    ours = _ours(folder)
    others = [name for name in there(folder) if name not in ours]
    if LIST not in ours and os.path.lexists(folder / LIST):
        others.append(LIST)
    if others:
        raise ValueError(
            f"{folder} holds {', '.join(others)}, which no run of hvae_jax wrote, and which a run would write over. "
            "Nothing was touched: give another folder with --folder, or move them away yourself."
        )


def check_kinds(folder: Path) -> None:
    """Raises ValueError for a file of `CONTENTS` that is a folder, and for a folder that is a file."""
    for name in there(folder):
        if (folder / name).exists() and (folder / name).is_dir() != (name in _FOLDERS):
            is_, wanted = ("a file", "folder") if name in _FOLDERS else ("a folder", "file")
            raise ValueError(f"{folder / name} is {is_}, but a {wanted} of that name is wanted. Move it away.")


def claim(folder: Path) -> None:
    """Writes the list of a folder that `check_ours` has passed: from now on `CONTENTS` are what runs write there.

    The lock is on it for its reader: `clear` leaves it to the process that holds it.
    """
    write_whole(folder / LIST, json.dumps({"written": [*CONTENTS, LOCK]}, indent=2) + "\n")


def clear(folder: Path) -> None:
    """Deletes what runs wrote, a folder with all that lies in it, and leaves everything else.

    The settings come last, so that no crash leaves checkpoints of unknown settings, and the list stays. Raises
    ValueError as `check_ours` does, before anything is deleted.
    """
    check_ours(folder)
    for name in reversed(there(folder)):
        target = folder / name
        if target.is_dir() and not target.is_symlink():  # what a link points to was not written here
            shutil.rmtree(target)
        else:
            target.unlink()


def sweep(folder: Path) -> None:
    """Deletes what writes of a process that was killed left half-written."""
    partial = [folder / f"{name}.partial" for name in ("write_test", LIST, *CONTENTS)]
    for path in [*partial, *folder.glob("pictures/*.partial")]:
        path.unlink(missing_ok=True)


def _ours(folder: Path) -> set[str]:
    """The names that runs wrote in a folder: those on its list that a run may write at all.

    Without a list, or with one that cannot be read, it is all of `CONTENTS` if the settings are an experiment's, of
    whatever layout, and nothing if they are not.
    """
    try:
        listed = read_json(folder / LIST)
    except (OSError, ValueError):
        return set(CONTENTS) | {LIST} if _is_run(folder) else set()
    written = listed.get("written") if isinstance(listed, dict) else None
    if isinstance(written, list):
        return {name for name in CONTENTS if name in written} | {LIST}
    return set()


def _is_run(folder: Path) -> bool:
    """Whether settings.json in a folder is that of an experiment."""
    try:
        data: Any = read_json(folder / "settings.json")
    except (OSError, ValueError):
        return False
    kind = data.get("type") if isinstance(data, dict) else None
    return isinstance(kind, str) and kind.startswith("hvae_jax.") and kind.endswith(":Experiment")
