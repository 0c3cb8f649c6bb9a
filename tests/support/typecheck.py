"""The type checker of the import hook: beartype on functions, nothing on the fields of records."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks every function but `__init__`, which dataclasses generate from the annotations of their fields.

    vmap, scan, eval_shape, tree.map and shardings build records whose leaves are tracers of other shapes,
    ShapeDtypeStructs, None or NamedShardings, so a check of fields annotated `Array` would refuse what JAX itself does.
    """
    return function if function.__name__ == "__init__" else beartype(function)
