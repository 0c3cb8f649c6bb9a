"""The directive `room`: all public names of a room of the package, with the first line of each, then each in full.

    .. room:: hvae_jax.experiment
       :without: Feeding Training

leaves the names out that another page has. A room is a module or a folder; its public names are those that it defines,
or that its `__init__` lists: classes, functions, and values such as `data.NAMES`. The option `:files:` adds the
docstrings of the files of a folder. References in docstrings are resolved by a name's last part, as far as it is the
name of one thing.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from prose import to_rst
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode


def names_of(module: types.ModuleType) -> list[str]:
    """The public names of a room, in its own order."""
    defined = []
    for name, value in vars(module).items():
        home = getattr(value, "__module__", None)
        if name.startswith("_") or isinstance(value, types.ModuleType):
            continue
        own = home == module.__name__ or (
            hasattr(module, "__path__") and isinstance(home, str) and home.startswith("hvae_jax.")
        )
        if own and (inspect.isclass(value) or callable(value)):
            defined.append(name)
    return defined


def values_of(module: types.ModuleType) -> Iterator[str]:
    """Whole names, in the files that define them, of the values that a room's `__init__` lists."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hvae_jax."):
            for alias in node.names:
                value = getattr(module, alias.name)
                if alias.asname == alias.name and not callable(value) and not isinstance(value, types.ModuleType):
                    yield f"{node.module}.{alias.name}"


def first_line(value: Any) -> str:
    """The first sentence of a docstring."""
    text = inspect.getdoc(value) or ""
    return text.partition("\n\n")[0].partition("\n")[0]


class Room(SphinxDirective):
    """Documents a room."""

    required_arguments = 1
    option_spec = {"without": str, "files": directives.flag}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """Parses the generated reStructuredText in place."""
        path = self.arguments[0]
        module = importlib.import_module(path)
        elsewhere = set(self.options.get("without", "").split())
        names = [name for name in names_of(module) if name not in elsewhere]
        lines = [f".. py:module:: {path}", "", *to_rst(inspect.getdoc(module).split("\n")), ""]
        kinds = {"Classes": [], "Functions": []}
        for name in names:
            kinds["Classes" if inspect.isclass(getattr(module, name)) else "Functions"].append(name)
        for kind, some in kinds.items():
            if all(kinds.values()):
                lines += [f".. rubric:: {kind}", ""]
            lines += [".. rst-class:: names", ""]
            for name in some:
                lines += [f":py:obj:`~{path}.{name}`", f"    {_escaped(first_line(getattr(module, name)))}"]
            lines += [""]
        homes = dict.fromkeys(getattr(module, name).__module__ for name in names)
        for home in homes:
            if home != path:
                lines += _of_file(home, path)
            for name in names:
                if getattr(module, name).__module__ == home:
                    lines += _in_full(f"{path}.{name}", inspect.isclass(getattr(module, name)))
        values = list(values_of(module))
        if values:
            lines += ["values", "------", ""]
            lines += [line for value in values for line in (f".. autodata:: {value}", "   :no-value:", "")]
        if "files" in self.options:
            for file in pkgutil.iter_modules(module.__path__):
                lines += _of_file(f"{path}.{file.name}", path)
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _of_file(home: str, room: str) -> list[str]:
    """The heading and the text of one file of a room: its formulas and sources, which the objects' own refer to."""
    title = home.removeprefix(f"{room}.")
    title = title if title != home else home.removeprefix("hvae_jax.")
    doc = inspect.getdoc(importlib.import_module(home)) or ""
    return [title, "-" * len(title), "", *to_rst(doc.split("\n")), ""]


def _in_full(name: str, is_class: bool) -> list[str]:
    """autodoc's directive for one object."""
    if not is_class:
        return [f".. autofunction:: {name}", ""]
    return [f".. autoclass:: {name}", "   :members:", "   :special-members: __call__", ""]


def _escaped(text: str) -> str:
    return " ".join(to_rst([text])).strip() or "."


def _resolve(app: Sphinx, env: BuildEnvironment, node: Any, content: nodes.Element) -> nodes.Element | None:
    """A reference by the last part of a name that only one documented thing has."""
    if node.get("refdomain") != "py":
        return None
    found = _found(env, node["reftarget"], node.get("py:module"))
    if found is None:
        return None
    entry = env.domains["py"].objects[found]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, found)


def _found(env: BuildEnvironment, name: str, near: str | None = None) -> str | None:
    """The whole name of the one documented thing whose name ends so; those of the module `near` come first."""
    wanted = name.removeprefix("hv.").removeprefix("hvae_jax.")
    found = [full for full in env.domains["py"].objects if full == wanted or full.endswith(f".{wanted}")]
    if len(found) > 1:
        close = [full for full in found if near and full.startswith(f"{near}.")]
        found = close if len(close) == 1 else [full for full in found if full.count(".") == 2] or found
    return found[0] if len(found) == 1 else None


def _link_names(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Makes links of names in pages: `models.TopDownVAE`, `kl_residual`, `hv.elbo(trace)`."""
    for literal in list(doctree.findall(nodes.literal)):
        name = re.fullmatch(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(\(.*\))?", literal.astext())
        linked = isinstance(literal.parent, nodes.reference | nodes.title)
        if linked or name is None or not re.search(r"[._A-Z]", name[1]):
            continue
        found = _found(app.env, name[1])
        if found is not None and app.env.domains["py"].objects[found].docname != docname:
            entry = app.env.domains["py"].objects[found]
            link = make_refnode(app.builder, docname, entry.docname, entry.node_id, literal.deepcopy(), found)
            literal.replace_self(link)


def _skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out what other libraries add to records: `replace` of Flax, methods of NamedTuples."""
    function = inspect.unwrap(obj.fget if isinstance(obj, property) and obj.fget else obj)
    if type(obj).__name__ == "_tuplegetter":  # a field of a NamedTuple, which the record's docstring describes
        return True
    home = getattr(function, "__module__", None)
    if home is not None and not str(home).startswith("hvae_jax") and (callable(obj) or isinstance(obj, property)):
        return True
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directive and the references."""
    app.add_directive("room", Room)
    app.connect("missing-reference", _resolve)
    app.connect("autodoc-skip-member", _skip)
    app.connect("doctree-resolved", _link_names)
    return {"parallel_read_safe": True}
