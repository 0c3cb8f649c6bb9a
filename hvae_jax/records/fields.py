"""The check of every frozen record of settings: each field holds what its annotation says.

A class decorated with `checked` has its fields checked before its own `__post_init__` compares them; Flax modules call
`check_fields` in theirs. Annotations are read as follows; any other annotation accepts everything.

    int             a whole number, Python's or NumPy's, but no bool and no float (2.0 neither)
    float           a whole or real number, but no bool and no nan
    bool, str       True or False; a string
    Literal[...]    one of the values
    None, A | B     None; what A or B accepts
    tuple[...]      a tuple or a list, which becomes a tuple so that the record can be hashed
    Callable        what can be called
    a class         an instance of it, or of what a runtime-checkable Protocol describes
"""

import collections.abc
import dataclasses
import functools
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import numpy as np

T = TypeVar("T")

_MISFIT = object()
_LISTED = 20  # most subclasses of a type that an error names
_FLAX = ("parent", "name")  # fields that Flax adds to every module


def checked(cls: type[T]) -> type[T]:
    """Check the fields of a frozen dataclass against their annotations when a record is built (`check_fields`).

    The decorator stands below `dataclasses.dataclass`, whose `__init__` calls the check, and then the class's own
    `__post_init__`.

    Example:
        >>> from hvae_jax import records
        >>> hv.Categorical(17.5)
        Traceback (most recent call last):
        ValueError: Categorical(num_values=17.5): it has to be a whole number.
    """
    own = getattr(cls, "__post_init__", None)

    def __post_init__(self: Any) -> None:
        check_fields(self)
        if own is not None:
            own(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return cls


def check_fields(record: Any) -> None:
    """Check each field against its annotation; turn lists into tuples and NumPy's numbers into Python's.

    Raises ValueError with the record's class, the field, its value and what it has to be.

    Example:
        >>> from hvae_jax import records
        >>> records.check_fields(hv.Categorical(17))  # 17 is a whole number
    """
    for name, annotation in annotations(type(record)):
        given = getattr(record, name, None)
        fitting = _fit(given, annotation)
        if fitting is _MISFIT:
            shown = repr(given)
            shown = shown if len(shown) <= 100 else f"{shown[:100]}..."
            wanted = described(annotation)
            raise ValueError(
                f"{type(record).__name__}({name}={shown}): it has to be {wanted}.{_hint(given, annotation)}"
            )
        if fitting is not given:
            object.__setattr__(record, name, fitting)  # a frozen dataclass refuses a plain assignment


@functools.cache
def annotations(cls: type) -> tuple[tuple[str, Any], ...]:
    """The fields of a record's class with their annotations, those in quotes resolved where that is possible.

    Example:
        >>> from hvae_jax import records
        >>> records.annotations(hv.Categorical)
        (('num_values', <class 'int'>), ('min_probability', <class 'float'>))
    """
    try:
        resolved = typing.get_type_hints(cls)
    except (NameError, TypeError):
        resolved = {}  # a name that exists for type checkers alone
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    if {"parent", "name"} <= set(names):
        names = [name for name in names if name not in _FLAX]
    types_of = {field.name: field.type for field in dataclasses.fields(cls)}
    return tuple((name, resolved.get(name, types_of[name])) for name in names)


def fits(value: Any, annotation: Any) -> bool:
    """Whether a field with this annotation takes the value.

    Example:
        >>> from hvae_jax import records
        >>> records.fits(2, int), records.fits(2.0, int)
        (True, False)
    """
    return _fit(value, annotation) is not _MISFIT


def described(annotation: Any) -> str:
    """What a field with this annotation takes, in words: "a whole number or None".

    Example:
        >>> from hvae_jax import records
        >>> records.described(int | None)
        'a whole number or None'
    """
    return _or(_words(annotation))


def _fit(value: Any, annotation: Any) -> Any:
    """The value as the annotation has it, or _MISFIT."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if origin is typing.Annotated:
        return _fit(value, parts[0])
    if origin is Literal:
        # Types are compared as well, because 1 == True.
        return value if any(value is one or (type(value) is type(one) and value == one) for one in parts) else _MISFIT
    if origin in (Union, types.UnionType):
        return next((fit for part in parts if (fit := _fit(value, part)) is not _MISFIT), _MISFIT)
    if origin is tuple or annotation is tuple:
        return _fit_tuple(value, parts)
    if origin is collections.abc.Callable:
        return value if callable(value) else _MISFIT
    if annotation is None or annotation is type(None):
        return value if value is None else _MISFIT
    if annotation is int:
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        return (value if type(value) is int else int(value)) if whole else _MISFIT
    if annotation is float:
        if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
            return _MISFIT
        # nan is not equal to itself; a whole number may be too large for a float
        if value != value or (isinstance(value, int) and abs(value) > sys.float_info.max):
            return _MISFIT
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(annotation, type) and origin is None and _can_be_asked(annotation):
        return value if isinstance(value, annotation) else _MISFIT
    return value


def _fit_tuple(value: Any, parts: tuple[Any, ...]) -> Any:
    """The tuple or list as a tuple of fitting items, or _MISFIT."""
    if not isinstance(value, tuple | list):
        return _MISFIT
    if not parts:
        return tuple(value)
    if len(parts) == 2 and parts[1] is Ellipsis:
        items = parts[:1] * len(value)
    elif len(parts) == len(value):
        items = parts
    else:
        return _MISFIT
    fits = [_fit(item, part) for item, part in zip(value, items, strict=True)]
    if any(fit is _MISFIT for fit in fits):
        return _MISFIT
    same = isinstance(value, tuple) and all(fit is item for fit, item in zip(fits, value, strict=True))
    return value if same else tuple(fits)


def _hint(value: Any, annotation: Any) -> str:
    """How to write what was probably meant, or nothing."""
    if isinstance(value, type):
        return f" An instance is needed: {value.__name__}(...)."
    if get_origin(annotation) is tuple and _fit(value, get_args(annotation)[0]) is not _MISFIT:
        return f" For one item: ({value!r},)."
    return ""


def _can_be_asked(annotation: type) -> bool:
    """Whether isinstance answers for a class: a Protocol has to be runtime-checkable."""
    return not getattr(annotation, "_is_protocol", False) or getattr(annotation, "_is_runtime_protocol", False)


def _words(annotation: Any) -> list[str]:
    """What an annotation accepts, in words; a Union gives several."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _words(parts[0])
    if origin is Literal:
        return [repr(one) for one in parts]
    if origin in (Union, types.UnionType):
        return [word for part in parts for word in _words(part)]
    if origin is tuple:
        if len(parts) == 2 and parts[1] is Ellipsis:
            return [f"a tuple, each item of which is {_or(_words(parts[0]))}"]
        return [f"a tuple of {len(parts)}, each item of which is {_or(_unique(map(_words, parts)))}"]
    if origin is collections.abc.Callable:
        return ["a function"]
    plain: dict[Any, str] = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}
    plain |= {None: "None", type(None): "None", tuple: "a tuple"}
    if annotation in plain:
        return [plain[annotation]]
    name = getattr(annotation, "__name__", str(annotation))
    kinds = sorted(kind.__name__ for kind in getattr(annotation, "__subclasses__", list)())
    known = f" ({', '.join(kinds)})" if 0 < len(kinds) <= _LISTED else ""
    return [f"of type {name}{known}"]


def _unique(words: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(word for several in words for word in several))


def _or(words: list[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last
