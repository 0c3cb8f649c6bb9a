"""Arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

Run = Annotated[Path, tyro.conf.Positional]
Import = Annotated[tuple[str, ...], tyro.conf.arg(name="import")]


def columns(n: int) -> int:
    """Number of columns of a grid of n pictures that is about as wide as it is high."""
    return max(1, int(np.ceil(np.sqrt(n))))


def check_out(path: Path | None, flag: str = "--out") -> None:
    """Checks that a file can have this path, before anything is computed for it; None is no path to check.

    Raises ValueError for a folder, and if the folder that the file would lie in does not exist.
    """
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{flag} {path} is a folder: give the name of a file, such as {path / 'NAME'}.")
    if not path.parent.is_dir():
        raise ValueError(f"{flag} {path}: there is no folder {path.parent}.")
