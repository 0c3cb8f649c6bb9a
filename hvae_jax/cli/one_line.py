"""Errors of command lines that do not parse, which tyro draws as boxes: one line each, as all other errors are."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hvae_jax.cli.presets import refuse

_WIDE = "100000"  # columns; a terminal's own number would break the box's lines, paths and words in them too


@contextmanager
def one_line(arguments: Sequence[str] | None = None) -> Iterator[None]:
    """Shows what tyro refuses within a block as one line, and exits with its code, 2.

    If nothing is refused, what is written to standard error within the block is written after it, as it is.

    Args:
      arguments: the command line; None is that of the process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    columns = os.environ.get("COLUMNS")
    line, caught = None, io.StringIO()
    try:
        if not {"-h", "--help"} & set(given):
            os.environ["COLUMNS"] = _WIDE
        with contextlib.redirect_stderr(caught):
            yield
    except SystemExit as left:
        line = of_box(caught.getvalue()) if left.code == 2 else None
        if line is None:
            raise
    finally:
        os.environ.pop("COLUMNS", None)
        if columns is not None:
            os.environ["COLUMNS"] = columns
        if line is None:
            print(caught.getvalue(), end="", file=sys.stderr, flush=True)
    if line is not None:
        refuse(line)


def of_box(text: str) -> str | None:
    """What a box says, in one line that ends with the command that lists all arguments; None if there is no box.

    Its parts lie between rules: sentences, below them arguments (indented by 2 or 4), and below each (by 8) its
    command, which is kept, and its help, which is kept for what is missing. Where the encoding has no lines, a box is
    made of spaces and hyphens.
    """
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    pairs = zip(lines, [*lines[1:], ""], strict=True)
    start = next((i for i, (one, two) in enumerate(pairs) if one.startswith("╭") or re.fullmatch(" -+ ", two)), None)
    if start is None:
        return None
    title = lines[start].strip("╭╮─ ")
    parts: list[list[str]] = [[]]
    for line in lines[start + 1 :]:
        inside = line[2:-2].rstrip()
        if inside and not inside.strip("─- "):
            parts.append([])
        elif inside:
            parts[-1].append(inside)
    said = [_sentence(part, title == "Required options") for part in parts if part and "helptext" not in part[0]]
    help_of = re.findall(r"(\S.*) --help\b", "\n".join(line for part in parts for line in part))
    command = re.sub(r"^For full helptext, \w+ ", "", help_of[-1]) if help_of else "hvae"
    return f"{' '.join(said)} {command} --help lists all."


def _sentence(part: Sequence[str], explained: bool) -> str:
    """A part of a box as a sentence.

    Args:
      explained: whether the help of arguments is kept.
    """
    said, below = "", 0
    for line in part:
        words = re.sub(r"\s*\(required\)$|^Error parsing ", "", line.strip())
        depth = len(line) - len(line.lstrip())
        if depth >= 8:
            if where := re.fullmatch(r"(in .+) --help", words):
                said += f" ({where[1]})"
            elif explained and words:
                said += f" ({words.rstrip('.')})"
            continue
        if said:
            said += " " if said.endswith(":") or not (depth or below) else ", " if depth else ". "
        said, below = said + words, depth
    return said.rstrip(".") + "."
