"""A trained run as a model in the box: `hvae_jax/weights/NAME/`, which comes with the package.

    python experiments/recipes/top_down.py --folder runs/top_down
    python experiments/studies/box.py runs/top_down digits_topdown --recipe "hvae train top_down"

Writes settings, weights (bfloat16, 1.5 MB at most) and a card with the recipe, the commit that is checked out, data
hash, seed, licence, and the bounds of the weights as they are stored, measured on the run's last split. Says the size
of the whole box, of which 8 MB are allowed.
"""

import dataclasses
import subprocess
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hvae_jax.experiment import box
from hvae_jax.experiment.exits import errors_said
from hvae_jax.experiment.packing import pack
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache

MOST_IN_ALL = 8_000_000
"""Largest size of the box, bytes."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the script.

    Attributes:
      run: the run folder.
      name: name of the model: lower-case letters, digits and underscores.
      recipe: command that trained the run.
      weights: dtype of the stored parameters.
      licence: licence of the weights.
      commit: commit of the library that trained it; the one that is checked out by default.
      draws: K of the importance-weighted bound on the card; the run's by default.
      into: folder of the packed ones; the box of the package by default.
      overwrite: replace a model of that name.
    """

    run: Annotated[Path, tyro.conf.Positional]
    name: Annotated[str, tyro.conf.Positional]
    recipe: str
    weights: Literal["float32", "bfloat16"] = "bfloat16"
    licence: str = "Apache-2.0"
    commit: str | None = None
    draws: int | None = None
    into: Path | None = None
    overwrite: bool = False


def checked_out() -> str:
    """The commit that is checked out; "" without git."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def main(settings: Settings) -> None:
    folder = pack(
        settings.run,
        settings.name,
        settings.into,
        weights=settings.weights,
        recipe=settings.recipe,
        commit=checked_out() if settings.commit is None else settings.commit,
        licence=settings.licence,
        draws=settings.draws,
        overwrite=settings.overwrite,
    )
    print(box.read_card(folder))
    size, whole = (sum(f.stat().st_size for f in at.rglob("*") if f.is_file()) for at in (folder, folder.parent))
    print(f"{folder}: {size:,} bytes; {whole:,} bytes in all, of {MOST_IN_ALL:,} allowed")
    if whole > MOST_IN_ALL:
        raise ValueError(f"{folder.parent} has become too large: take bfloat16, or a smaller model.")


if __name__ == "__main__":
    with errors_said():
        use_compilation_cache()
        keep_freed_memory()
        main(tyro.cli(Settings, description=__doc__))
