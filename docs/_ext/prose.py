"""Docstrings as the package writes them, turned into reStructuredText.

The package's docstrings are plain text: formulas in indented blocks, names in single backticks, the sections of
Google's convention. Here indented blocks become literal ones, names become references, and signs that reStructuredText
would take for markup are escaped.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

SECTIONS = {"Args:", "Attributes:", "Returns:", "Yields:", "Raises:", "Example:", "Examples:", "Note:"}
_LIST = re.compile(r"([-*]|\d+\.) ")
_NAME = re.compile(r"[A-Za-z_][\w.]*$")
_ENDS_IN_UNDERSCORE = re.compile(r"(?<=\w)_(?!\w)")


def inline(text: str) -> str:
    """One line with its code as roles, and everything else escaped."""
    parts = re.split(r"(``.+?``|`[^`]+`)", text)
    for i, part in enumerate(parts):
        if part.startswith("``"):
            continue
        if part.startswith("`") and part.endswith("`") and len(part) > 2:
            parts[i] = part if _NAME.match(part[1:-1]) else f"`{part}`"
            # a role ends at a word's end alone: `Level`s
            if i + 1 < len(parts) and parts[i + 1][:1].isalnum():
                parts[i] += "\\ "
            if i and parts[i - 1][-1:].isalnum():
                parts[i] = "\\ " + parts[i]
        else:
            part = part.replace("\\", "\\\\").replace("*", r"\*").replace("|", r"\|").replace("`", r"\`")
            parts[i] = _ENDS_IN_UNDERSCORE.sub(r"\\_", part)
    return "".join(parts)


def paragraphs(lines: list[str]) -> Iterator[list[str]]:
    """The lines between blank ones, cut where the indentation leaves or reaches 0."""
    piece: list[str] = []
    for line in lines:
        breaks = piece and bool(line[:1].isspace()) != bool(piece[-1][:1].isspace())
        # lines that continue an item of a list are part of it
        if breaks and line[:1].isspace() and _LIST.match(piece[0]):
            breaks = False
        if not line.strip() or breaks:
            if piece:
                yield piece
            piece = []
        if line.strip():
            piece.append(line)
    if piece:
        yield piece


def _is_python(lines: list[str]) -> bool:
    """Whether a block is code: it parses, and calls something or imports."""
    text = textwrap.dedent("\n".join(lines))
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Import | ast.ImportFrom | ast.Assign) for node in nodes) and "." in text


def to_rst(lines: list[str]) -> list[str]:
    """A docstring, dedented, as reStructuredText; sections are left to napoleon."""
    out: list[str] = []
    section = None
    for piece in paragraphs(lines):
        indented = piece[0][:1].isspace()
        if not indented:
            section = None
        if piece[0].lstrip().startswith(">>>"):
            out += [*(piece if not indented or section else [line.strip() for line in piece]), ""]
            continue
        if indented and section is None:
            out += [".. code-block:: python" if _is_python(piece) else ".. code-block:: text", "", *piece, ""]
            continue
        if not indented and piece[-1].strip() in SECTIONS:
            section = piece[-1].strip()
            if piece[:-1]:
                out += [*(inline(line) for line in piece[:-1]), ""]
            out.append(section)
            continue
        if any(_LIST.match(line) for line in piece[1:]) and not _LIST.match(piece[0]) and not indented:
            first = next(i for i, line in enumerate(piece) if _LIST.match(line))
            out += [*(inline(line) for line in piece[:first]), ""]
            piece = piece[first:]
        if _LIST.match(piece[0]):
            marks = [m.group(0) if (m := _LIST.match(line)) else "" for line in piece]
            out += [mark + inline(line[len(mark) :]) for mark, line in zip(marks, piece, strict=True)]
        else:
            out += [inline(line) for line in piece]
        out.append("")
    return out


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the conversion before napoleon's."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    return {"parallel_read_safe": True}
