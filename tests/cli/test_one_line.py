"""Boxes of tyro as one line: what is kept of them, and what is left alone."""

import dataclasses
import os
import sys
from typing import Literal

import pytest
import tyro

from hvae_jax.cli.one_line import of_box, one_line
from hvae_jax.cli.presets import refuse


@dataclasses.dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
      run: the run folder.
      count: how many.
      pair: two numbers.
      kind: which kind.
    """

    run: str
    count: int = 3
    pair: tuple[int, int] = (1, 2)
    kind: Literal["mean", "sample"] = "mean"


LONG = "x" * 150  # of a longer number Python leaves out the end


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "Missing from it: --run STR (the run folder). it --help lists all."),
        (["--run", "a", "--count", "three"], "--count: invalid literal for int() with base 10: 'three'."),
        (["--run", "a", "--count", LONG], f"base 10: '{LONG}'. it --help lists all."),
        (["--run", "a", "--pair", "1"], "Missing value for argument '--pair'. Expected 2 values. it --help lists all."),
        (["--run", "a", "--kind", "mode"], "invalid choice 'mode' for argument '--kind'. Expected one of ('mean',"),
        (
            ["--run", "a", "--knd", "mean"],
            "Unrecognized options: --knd, mean. Perhaps you meant: --kind {mean,",
        ),
    ],
)
def test_a_box_is_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever tyro refuses, with no word or path broken; the exit code stays."""
    with pytest.raises(SystemExit, match="2"), one_line(arguments):
        tyro.cli(Command, prog="it", args=arguments)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and line in error and error.count("\n") == 1


def test_boxes_of_lines_and_of_hyphens() -> None:
    """Which of the two it is depends on the encoding. Sentences below arguments begin anew; colours are left out."""
    box = """\x1b[31m╭─ Unrecognized options ─────────────────╮
│ Unrecognized or misplaced options:     │
│   --other (applied to hvae sample)     │
│   3 (applied to hvae sample)           │
│                                        │
│ Arguments are applied to the directly  │
│ preceding subcommand.                  │
│ ────────────────────────────────────── │
│ Perhaps you meant:                     │
│     --other INT                        │
│         another number. (required)     │
│         in hvae evaluate --help        │
│ ────────────────────────────────────── │
│ For full helptext, run hvae --help     │
╰────────────────────────────────────────╯\x1b[0m
"""
    wanted = (
        "Unrecognized or misplaced options: --other (applied to hvae sample), 3 (applied to hvae sample). Arguments "
        "are applied to the directly preceding subcommand. Perhaps you meant: --other INT (in hvae evaluate). hvae "
        "--help lists all."
    )
    assert of_box(box) == of_box(f"a warning\n{box}") == wanted
    _, *body, _ = box.splitlines()
    plain = [" Unrecognized options", f" {'-' * 40} ", *(line.replace("│", " ").replace("─", "-") for line in body), ""]
    assert of_box("\n".join(plain)) == wanted
    assert of_box("error: no box\n") is None


def test_everything_else_is_left_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Help keeps the terminal's width, warnings and other exits pass, and COLUMNS is as it was."""
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit, match="0"), one_line(["--help"]):
        tyro.cli(Command, prog="it", args=["--help"])
    usage, *shown = capsys.readouterr().out.splitlines()
    assert usage.startswith("usage: it") and max(map(len, shown)) <= 60
    with one_line([]):
        print("a warning", file=sys.stderr)
    assert capsys.readouterr().err == "a warning\n"
    with pytest.raises(SystemExit, match="2"), one_line([]):
        refuse("ours")
    assert capsys.readouterr().err == "error: ours\n" and os.environ["COLUMNS"] == "60"
