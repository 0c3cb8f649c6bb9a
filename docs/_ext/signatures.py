"""Signatures as the source has them: `ArrayLike` stays that name, and a default the expression that was written."""

import ast
import dataclasses
import inspect
import textwrap
from typing import Any

from sphinx.application import Sphinx


def _node_of(obj: Any) -> Any:
    """The syntax tree of a function or class; None without a source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(obj))))
    except (OSError, TypeError, SyntaxError):
        return None
    return tree.body[0] if tree.body else None


def of_function(obj: Any, method: bool) -> tuple[str, str | None] | None:
    """The arguments in brackets, without self, and the annotation of what is returned."""
    node = _node_of(obj)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    args = node.args
    if method and (args.posonlyargs or args.args):
        (args.posonlyargs or args.args).pop(0)
    return f"({ast.unparse(args)})", None if node.returns is None else ast.unparse(node.returns)


def of_record(cls: type) -> str | None:
    """The fields of a record as arguments, those of its bases first."""
    fields: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("hvae_jax"):
            continue
        node = _node_of(base)
        for item in getattr(node, "body", ()):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and _is_field(item):
                fields[item.target.id] = _argument(item)
    known = {f.name for f in dataclasses.fields(cls) if f.init} if dataclasses.is_dataclass(cls) else set(fields)
    return f"({', '.join(text for name, text in fields.items() if name in known)})"


def _is_field(item: ast.AnnAssign) -> bool:
    return "ClassVar" not in ast.unparse(item.annotation) and not ast.unparse(item.target).startswith("_")


def _argument(item: ast.AnnAssign) -> str:
    text, value = f"{ast.unparse(item.target)}: {ast.unparse(item.annotation)}", item.value
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
        given = {word.arg: word.value for word in value.keywords}
        if "default_factory" in given:
            return f"{text} = {ast.unparse(given['default_factory'])}()"
        value = given.get("default")
    return text if value is None else f"{text} = {ast.unparse(value)}"


def _process(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None] | None:
    if inspect.isclass(obj):
        if getattr(obj, "_is_protocol", False):
            return "", None
        if dataclasses.is_dataclass(obj) or hasattr(obj, "_fields"):
            return of_record(obj), None
        obj = obj.__init__
        found = of_function(obj, method=True)
        return (found[0], None) if found else None
    if what in ("function", "method"):
        static = (inspect.getattr_static(obj, "__self__", None) is None) and what == "method"
        found = of_function(obj, method=static or inspect.ismethod(obj))
        return found or None
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the signatures."""
    app.connect("autodoc-process-signature", _process)
    return {"parallel_read_safe": True}
