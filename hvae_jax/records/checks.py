"""Checks that every frozen record of settings shares: choices, sizes, tuples."""

import dataclasses
import types
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin


def check_choices(record: Any) -> None:
    """Checks each field that is annotated with a Literal against the values the Literal allows.

    A field annotated `Literal["a", "b"] | None` may be None too; other annotations are ignored. Call it in
    `__post_init__`.

    Raises ValueError, with the record's class, the field, its value and the allowed ones, for any other value.
    """
    for field in dataclasses.fields(record):
        allowed = _choices(field.type)
        given = getattr(record, field.name, None)
        # Types are compared as well, because 1 == True.
        if allowed and not any(given is one or (type(given) is type(one) and given == one) for one in allowed):
            *others, last = map(repr, allowed)
            listed = f"{', '.join(others)} or {last}" if others else last
            raise ValueError(f"{type(record).__name__}({field.name}={given!r}): it has to be {listed}.")


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Values that an annotation of Literals and None allows; () for any other annotation."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [(None,) if part is type(None) else _choices(part) for part in get_args(annotation)]
        # `Literal[...] | None` is a set of choices, `None | int` is not
        return tuple(value for part in parts for value in part) if all(parts) and parts != [(None,)] else ()
    return ()


def as_tuples(record: Any, *names: str) -> None:
    """Turns these fields of a frozen record, usually lists, into tuples, so that the record can be hashed.

    Raises ValueError for a field that is a string or not iterable.
    """
    for name in names:
        given = getattr(record, name)
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ValueError(f"{type(record).__name__}({name}={given!r}): a tuple, such as ({given!r},).")
        # A frozen dataclass refuses a plain assignment.
        object.__setattr__(record, name, tuple(given))


def check_sizes(record: Any, *names: str) -> None:
    """Checks that each of these fields, a size or a tuple of sizes, holds whole numbers of 1 or more.

    Raises ValueError for any other number, with all fields and their values, and for an empty tuple.
    """
    values = {name: getattr(record, name) for name in names}
    for name, value in values.items():
        if value == ():
            raise ValueError(f"{type(record).__name__}({name}=()): at least one level is needed, such as (8, 16).")
    if any(
        size < 1 or size != int(size)
        for value in values.values()
        for size in (value if isinstance(value, tuple) else (value,))
    ):
        given = ", ".join(f"{name}={value}" for name, value in values.items())
        raise ValueError(f"{type(record).__name__}({given}): every size has to be a whole number of 1 or more.")
