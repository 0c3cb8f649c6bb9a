"""The type checker of the import hook: beartype on functions, nothing on the fields of records."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks every function but `__init__`, which dataclasses generate from the annotations of their fields.

    vmap, scan, eval_shape, tree.map and shardings build records whose leaves are tracers of other shapes,
    ShapeDtypeStructs, None or NamedShardings, so a check of fields annotated `Array` would refuse what JAX itself does.
    """
    if function.__name__ == "__init__":
        return function
    # jaxtyping has a function made and checked for the arguments, and after the call a second one for the arguments
    # once more and the result, its last keyword: the result alone is new then, and sizes of axes are remembered.
    code = function.__code__
    keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    if keywords and keywords[-1].startswith("ret") and keywords[-1][3:].isdigit():
        function.__annotations__ = {
            name: annotation for name, annotation in function.__annotations__.items() if name == "return"
        }
    return beartype(function)
