"""What a sentence of ours quotes: an error's message, the name of a file; and whether an error is such a sentence."""

import os
import traceback
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters; the name of its type if there is no message."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def shown(name: str | os.PathLike[str]) -> str:
    """A file's name as text that every terminal can print: bytes beyond UTF-8 and control characters as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def raised_here(error: BaseException) -> bool:
    """Whether an error was raised by a line of this package, and so says what a user can do about it."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(_PACKAGE)
