"""Draws the figures of the documents again: those that take less than ten minutes on two quiet cores.

    python experiments/studies/figures.py                                    # all of them; make figures
    python experiments/studies/figures.py --names overview linear_collapse   # some

Each is made by the commands of its page, training included, in runs/figures, and copied to experiments/figures. A
command that fails ends the script with its exit code. docs/results/figures.md has the figures that take longer.
"""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import tyro

FIGURES = Path("experiments/figures")
RUNS = Path("runs/figures")


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
      commands: commands in their order, as words: hvae and its arguments, or a script of this folder and its own.
      made: the picture that they leave.
    """

    commands: tuple[str, ...]
    made: Path


TABLE = {
    "overview": Figure((f"overview.py --out {RUNS}/overview.png",), RUNS / "overview.png"),
    "linear_collapse": Figure(
        (f"linear_collapse.py --folder {RUNS}/linear_collapse",), RUNS / "linear_collapse" / "linear_collapse.png"
    ),
    "inpaint_digits": Figure(
        (
            f"hvae train top_down --folder {RUNS}/top_down",
            f"hvae inpaint {RUNS}/top_down --n 8 --steps 5000 --out {RUNS}/inpaint_digits.png",
        ),
        RUNS / "inpaint_digits.png",
    ),
    "self_supervised_digits": Figure(
        (
            f"hvae train self_supervised --folder {RUNS}/self_supervised",
            f"small_and_large.py {RUNS}/self_supervised --out {RUNS}/self_supervised_digits.png",
        ),
        RUNS / "self_supervised_digits.png",
    ),
    "codec_precision": Figure(
        (f"lossless.py --tasks digits --folder {RUNS}/lossless",), RUNS / "lossless" / "codec_precision.png"
    ),
    "nvae_spectral": Figure(
        (
            f"hvae train nvae --folder {RUNS}/nvae",
            f"spectral.py {RUNS}/nvae --folder {RUNS}/spectral",
        ),
        RUNS / "spectral" / "spectral.png",
    ),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Draws figures.

    Attributes:
      names: names of the figures; () for all.
    """

    names: tuple[str, ...] = ()


def words(command: str) -> list[str]:
    """The command with the interpreter that runs this script, and with the folder of the studies."""
    first, *rest = command.split()
    if first == "hvae":
        return [str(Path(sys.executable).parent / "hvae"), *rest]
    return [sys.executable, str(Path(__file__).parent / first), *rest]


def main(settings: Settings) -> None:
    """Runs the commands of each figure, then copies it."""
    unknown = sorted(set(settings.names) - set(TABLE))
    if unknown:
        sys.exit(f"There is no figure {unknown[0]}: {', '.join(TABLE)}.")
    RUNS.mkdir(parents=True, exist_ok=True)
    for name in settings.names or TABLE:
        for command in TABLE[name].commands:
            print(f"$ {command}", flush=True)
            done = subprocess.run(words(command), check=False)
            if done.returncode:
                sys.exit(done.returncode)
        shutil.copyfile(TABLE[name].made, FIGURES / f"{name}.png")
        print(f"{FIGURES}/{name}.png")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
