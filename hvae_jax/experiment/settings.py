"""Frozen records to JSON and back, without executing what a file says.

A record (a frozen dataclass or a Linen module) is written as {"type": "module:Name", "fields": {...}} without a
module's `parent` and `name`; a function as {"function": "module:name"}; a tuple as a list. Reading imports only
hvae_jax, jax.nn and the modules that the caller names, and builds only dataclasses that are defined there.
"""

import contextlib
import dataclasses
import difflib
import importlib
import json
import math
import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn

from hvae_jax.experiment.layout import LAYOUT, check_layout
from hvae_jax.experiment.schema import record_of, shown
from hvae_jax.runtime.files import write_whole
from hvae_jax.runtime.json_files import read_json

_OURS = "hvae_jax."
_FUNCTIONS = ("hvae_jax.networks.", "jax.nn.")  # activations and the like; no function there touches a file
_LEFT_OUT = ("parent", "name")


def to_json(value: Any) -> Any:
    """A record, with all records in it, in the form that `json.dumps` takes.

    Raises ValueError for a value that could not be read back: an array, a lambda, an object that is no dataclass.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        left_out = _LEFT_OUT if isinstance(value, nn.Module) else ()
        fields = [field.name for field in dataclasses.fields(value) if field.init and field.name not in left_out]
        return {"type": _address(type(value)), "fields": {name: to_json(getattr(value, name)) for name in fields}}
    if address := _function_address(value):
        return {"function": address}
    raise ValueError(
        f"{value!r} cannot be a setting: settings are numbers, strings, None, tuples, functions with a name and frozen "
        "dataclasses (Flax modules among them)."
    )


def from_json(data: Any, modules: Iterable[str] = (), at: str = "") -> Any:
    """The record that `to_json` wrote.

    Args:
      data: parsed JSON.
      modules: modules beside hvae_jax that may be imported, such as the user's own; they are looked for in the current
        folder too. A record that a script (`__main__`) defined is looked for in them too.
      at: path of the data in its file, for errors; "" for the whole.
    Raises ValueError, with the path of the setting, for a module that is not allowed, a name that does not exist or is
    no dataclass, an unknown field, with the nearest known one, and a value of another type than the field's.
    """
    allowed = tuple(modules)
    if isinstance(data, list):
        return tuple(from_json(item, allowed, f"{at}[{i}]") for i, item in enumerate(data))
    if not isinstance(data, dict):
        return data
    where = f"{at}: " if at else ""
    try:
        if set(data) == {"function"}:
            return _find(data["function"], allowed, function=True)
        if set(data) != {"type", "fields"}:
            raise ValueError(f"A record needs the keys 'type' and 'fields', but this has {shown(sorted(data))}.")
        record_type = _find(data["type"], allowed, function=False)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from error
    if not isinstance(data["fields"], dict):
        raise ValueError(
            f"{where}the fields of {data['type']} are {shown(data['fields'])}, but have to be an object of names and "
            "values."
        )
    known = [field.name for field in dataclasses.fields(record_type) if field.init]
    for name in data["fields"]:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{where}{data['type']} has no field {shown(name)}.{hint} It has {known}.")
    inner = f"{at}." if at else ""
    return record_of(
        record_type, {name: from_json(value, allowed, inner + name) for name, value in data["fields"].items()}, at
    )


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The differences between two records' JSON forms, a line for each setting: "model.hidden: 256 -> 64"."""
    both = isinstance(old, dict) and isinstance(new, dict) and old.get("type") == new.get("type")
    was, now = (old.get("fields", old), new.get("fields", new)) if both else (None, None)
    if not isinstance(was, dict) or not isinstance(now, dict):
        return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]
    lines = []
    for name in [*was, *(key for key in now if key not in was)]:
        inner = f"{path}.{name}" if path else name
        if name not in was or name not in now:
            lines.append(
                f"{inner}: {'not there' if name not in was else _short(was[name])} -> "
                f"{'not there' if name not in now else _short(now[name])}"
            )
        else:
            lines += differences(was[name], now[name], inner)
    return lines


def save(path: Path, record: Any) -> None:
    """Writes a record as JSON with the number of the layout, whole or not at all."""
    write_whole(path, json.dumps({"layout": LAYOUT} | to_json(record), indent=2) + "\n")


def load(path: Path, modules: Iterable[str] = ()) -> Any:
    """Reads a record that `save` wrote.

    Args:
      modules: as `from_json` takes them.
    Raises ValueError, naming the file, for what is no JSON, of another layout or not allowed, and for a value of
    another type than its field's, naming both; FileNotFoundError.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds {shown(data)}, but settings are an object with the keys 'type' and 'fields'.")
    check_layout(data, path.parent)  # before any name in it is looked up, since some may still resolve
    try:
        return from_json({name: value for name, value in data.items() if name != "layout"}, modules)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def dumps(numbers: Any) -> str:
    """Numbers as strict JSON, in which nan and infinities become null."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: finite(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(numbers), indent=2, allow_nan=False) + "\n"


def _address(thing: Any) -> str:
    """The address "module:Name" of a record or function, in the highest package that exports it: files may move."""
    parts = thing.__module__.split(".")
    for length in range(1, len(parts)):
        package = ".".join(parts[:length])
        if getattr(sys.modules.get(package), thing.__qualname__, None) is thing:
            return f"{package}:{thing.__qualname__}"
    return f"{thing.__module__}:{thing.__qualname__}"


def _function_address(value: Any) -> str | None:
    """The address of a function, or None if its module has none of that name.

    What `jax.jit` or `jax.custom_jvp` return counts as a function.
    """
    name = getattr(value, "__name__", None)
    if isinstance(value, type) or not callable(value) or not isinstance(name, str):
        return None
    if getattr(jax.nn, name, None) is value:
        return f"jax.nn:{name}"
    is_there = getattr(sys.modules.get(value.__module__), name, None) is value
    return _address(value) if is_there else None


def _short(value: Any) -> str:
    """A value on a line of `differences`: a record by its class alone."""
    kind = value.get("type") if isinstance(value, dict) else None
    return f"{kind.split(':')[-1]}(...)" if isinstance(kind, str) else json.dumps(value)


def _find(address: Any, allowed: tuple[str, ...], *, function: bool) -> Any:
    """The dataclass or function at "module:Name". Raises ValueError if it may not be imported or does not exist."""
    if not isinstance(address, str) or len(address) > 200:
        raise ValueError(f"{shown(address)} is no address, such as 'hvae_jax.models:TopDownVAE'.")
    module_name, _, name = address.partition(":")
    wanted = "function" if function else "dataclass"
    if module_name == "__main__":
        candidates = [*allowed, "__main__"]
    elif module_name in allowed or f"{module_name}.".startswith(_FUNCTIONS if function else _OURS):
        candidates = [module_name]
    else:
        ours = " or ".join(prefix.rstrip(".") for prefix in (_FUNCTIONS if function else (_OURS,)))
        raise ValueError(
            f"{address} is not of {ours}, and nothing else is imported "
            f"unasked. If you trust {module_name}, name it: --import {module_name}."
        )
    for candidate in candidates:
        thing = getattr(_import(candidate), name, None)
        if function:
            fits = _function_address(thing) == f"{candidate}:{name}"
        else:
            fits = isinstance(thing, type) and dataclasses.is_dataclass(thing)
            # Defined there or below: not a dataclass of another library that the module happens to import.
            fits = fits and f"{thing.__module__}.".startswith(f"{candidate}.")
        if fits:
            return thing
    where = " or ".join(candidates)
    hint = " It was defined in a script: name its module with --import." if module_name == "__main__" else ""
    raise ValueError(f"There is no {wanted} {name!r} defined in {where}.{hint}")


def _import(name: str) -> types.ModuleType:
    """A module; one that is not of the library is looked for in the current folder too, after everything else.

    The command `hvae` does not find modules there, as `python SCRIPT` and `python -m` do.
    """
    if name == "__main__":
        return sys.modules["__main__"]
    ours = f"{name}.".startswith((_OURS, "jax."))
    try:
        with contextlib.nullcontext() if ours else _current_folder():
            return importlib.import_module(name)
    except ImportError as error:
        here = "" if ours else f" It was looked for in {Path.cwd()} too."
        raise ValueError(f"The module {name} cannot be imported ({error}).{here}") from error


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
    """Lets modules be found in the current folder; last, so that nothing there takes the place of a library."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path[:] = [path for path in sys.path if path is not here]  # the module may have changed the others
