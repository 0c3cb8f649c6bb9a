"""The public names of the package: what `import hvae_jax`, the rooms and the files of maths at the root export.

A name is exported where it is imported as itself, `from hvae_jax.trace import Trace as Trace`, where a file at the
root, or the `__init__` of a room, defines it without an underscore in front, and where the package imports it when it
is asked for.
"""

import ast
import functools
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hvae_jax

PACKAGE = Path(hvae_jax.__file__).parent


class Public(NamedTuple):
    """A public name, such as room "hvae_jax.objectives", name "elbo", and the function itself."""

    room: str
    name: str
    value: Any


@functools.cache
def public() -> tuple[Public, ...]:
    """Every public name once, in the innermost room that exports it; modules aside."""
    found: dict[tuple[str, str], Public] = {}
    for file in sorted({*PACKAGE.rglob("__init__.py"), *PACKAGE.glob("*.py")}, key=lambda file: -len(file.parts)):
        room = ".".join(("hvae_jax", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        module = importlib.import_module(room)
        for name in (*exported(file), *getattr(module, "_LATER", ())):
            value = getattr(module, name)
            if not inspect.ismodule(value):
                found.setdefault((getattr(value, "__module__", room), name), Public(room, name, value))
    return tuple(found.values())


def exported(file: Path) -> Iterator[str]:
    """The names that a file exports, modules aside."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module != "hvae_jax":
            yield from (alias.name for alias in node.names if alias.asname == alias.name)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name
