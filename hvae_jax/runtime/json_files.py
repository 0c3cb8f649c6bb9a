"""JSON read with limits: whatever is wrong with a text is one sentence, which names the file and the line."""

import json
from pathlib import Path
from typing import Any

LARGEST = 8 * 2**20
"""Largest size of a text, bytes; the settings and results of the deepest model take less than one percent of it."""
DEEPEST = 64
"""Most levels of lists and objects within each other."""


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises ValueError as `parse_json` does, and for a folder; FileNotFoundError if there is no such file.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, but a file of that name is wanted.")
    if path.stat().st_size > LARGEST:  # before it is read
        raise ValueError(f"{path} {_too_large(path.stat().st_size)}")
    return parse_json(path.read_bytes(), str(path))


def parse_json(text: str | bytes, what: str) -> Any:
    """The content of a JSON text. NaN and infinities are let through, as Python writes them.

    Args:
      text: the text; bytes are read as UTF-8.
      what: name of the text in errors, such as the file's.
    Raises ValueError for a text that is larger than `LARGEST`, no UTF-8, empty, cut short, no JSON, or nested deeper
    than `DEEPEST`, and for an object that has a key twice.
    """
    if len(text) > LARGEST:
        raise ValueError(f"{what} {_too_large(len(text))}")
    try:
        decoded = text if isinstance(text, str) else text.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is no text in UTF-8: byte {error.start} cannot be one. It is damaged.") from error
    if not decoded.strip():
        raise ValueError(f"{what} is empty.")
    try:
        content = json.loads(decoded, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        ends = error.pos >= len(decoded.rstrip()) or error.msg.startswith("Unterminated")
        raise ValueError(
            f"{what} {'ends early' if ends else 'is no JSON'}: line {error.lineno}, column {error.colno}: {error.msg}."
        ) from error
    except RecursionError as error:
        raise ValueError(f"{what} {_TOO_DEEP}") from error
    except ValueError as error:  # a key that is there twice, or a number of thousands of digits
        raise ValueError(f"{what} is no JSON: {error}.") from error
    if _depth(content) > DEEPEST:
        raise ValueError(f"{what} {_TOO_DEEP}")
    return content


_TOO_DEEP = f"is nested more than {DEEPEST} levels deep, which nothing of ours is."


def _too_large(size: int) -> str:
    return f"has {size / 2**20:.1f} MiB of text, but at most {LARGEST // 2**20} MiB are read."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object as a dict. Raises ValueError for a key that is there twice: each reader would take another one."""
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the key {twice!r} is there twice in one object")
    return made


def _depth(content: Any) -> int:
    """Levels of lists and dicts within each other, counted without recursion; it stops beyond `DEEPEST`."""
    depth, here = 0, [content]
    while here and depth <= DEEPEST:
        inner = [value for value in here if isinstance(value, dict | list)]
        here = [item for value in inner for item in (value.values() if isinstance(value, dict) else value)]
        depth += bool(inner)
    return depth
