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
