"""What settings.json, result.json and the metadata of an export may hold, checked before any of it is used."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from hvae_jax.records import annotations, described, fits
from hvae_jax.runtime.errors import first_line

Number = float | None  # null stands for what was not finite


class Imported(TypedDict):
    """The entry of result.json on the file that a run was imported from."""

    code: str
    file: str
    kind: str
    sha256: str
    likelihood: str
    data: str
    preset: NotRequired[str]
    entry: NotRequired[str]
    options: NotRequired[dict[str, Any]]
    model: NotRequired[dict[str, Any]]


class ClassNumbers(TypedDict):
    """What is measured of a class among the latents, of one split."""

    information: Number
    used: Number
    accuracy: NotRequired[Number]
    clustering: NotRequired[Number]
    labelled: NotRequired[int]


class Measured(TypedDict):
    """The entries of result.json that tables print, of a run that was measured; most are by split."""

    elbo: dict[str, Number]
    iw_bound: dict[str, Number]
    k: dict[str, int]
    bits_per_dim: dict[str, dict[str, Number]]
    standard_error: dict[str, dict[str, Number]]
    rates: dict[str, dict[str, Number]]
    active_units: dict[str, dict[str, int]]
    rates_by_side: NotRequired[dict[str, dict[str, Number]]]
    classes: NotRequired[dict[str, ClassNumbers]]


class Trained(TypedDict):
    """The other entries of result.json that `hvae show` prints of a run that was measured."""

    steps: int
    epochs: Number
    seconds: Number
    steps_per_second: Number
    select: str
    best_epoch: Number
    best_validation_elbo: Number


def check_result(result: Any, what: str) -> dict[str, Any]:
    """Checks the content of a result.json as far as it is printed, and returns it.

    Args:
      result: the content, parsed.
      what: name of the file in errors.
    Raises ValueError naming the file, the place in it and what it has to be.
    """
    if not isinstance(result, dict):
        raise ValueError(f"{what} holds {shown(result)}, but a result is an object of names and values.")
    if "imported" in result:
        _check_known(result["imported"], Imported, f"{what}: imported")
    if "imported" in result or "parameters" in result:
        _check_typed(result.get("parameters"), int, f"{what}: parameters")
    if "elbo" in result:
        _check_known(result, Measured, what)
        _check_known(result, Trained, what)
        _check_tables(result, what)
    return result


def _check_known(data: Any, shape: Any, what: str) -> None:
    """Checks those keys of an object that a TypedDict has."""
    if not isinstance(data, dict):
        raise ValueError(f"{what} is {shown(data)}, but has to be an object of names and values.")
    _check_typed({name: data[name] for name in shape.__annotations__ if name in data}, shape, what)


def _check_tables(result: Mapping[str, Any], what: str) -> None:
    """Checks that all tables of a result have the same splits and, split by split, the same levels."""
    splits = set(result["elbo"])
    if not splits:
        raise ValueError(f"{what}: elbo has no splits.")
    for name in Measured.__annotations__:
        if name in result and set(result[name]) != splits:
            raise ValueError(f"{what}: {name} has the splits {sorted(result[name])}, but elbo has {sorted(splits)}.")
    last = list(result["rates"])[-1]
    for name in ("rates", "active_units"):
        for split, levels in result[name].items():
            if not levels or set(levels) != set(result["rates"][last]):
                raise ValueError(f"{what}: {name}.{split} has other levels than rates.{last}.")
    for name in ("bits_per_dim", "standard_error"):
        for split, bounds in result[name].items():
            if not {"elbo", "iw_bound"} <= set(bounds):
                raise ValueError(f"{what}: {name}.{split} has to have the entries elbo and iw_bound.")


def record_of(record_type: type, fields: Any, at: str) -> Any:
    """A record of these fields, whose types are checked before it is made.

    Args:
      fields: values by name, records among them made already.
      at: path of the record in the file, "" for the file's own.
    Raises ValueError naming the field, its value and what it has to be; for a field that is missing; and for whatever
    the record itself refuses.
    """
    kinds, known = dict(annotations(record_type)), [field for field in dataclasses.fields(record_type) if field.init]
    missing = [
        field.name
        for field in known
        if field.name not in fields
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{at or record_type.__name__} needs a value of {', '.join(missing)}.")
    for name, value in fields.items():
        if name in kinds and not fits(value, kinds[name]):
            inner = f"{at}.{name}" if at else name
            raise ValueError(f"{inner} is {shown(value)}, but it has to be {described(kinds[name])}.")
    try:
        return record_type(**fields)
    except Exception as error:  # whatever a record trips over, in checks of its own or of its base
        said = str(error) if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{at}: {said}" if at else said) from error


def shown(value: Any) -> str:
    """A value in an error, not longer than a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]} ... ({len(text):,} characters)"


def _check_typed(value: Any, kind: Any, what: str) -> None:
    """Raises ValueError, with the place inside, if a value is not of a type."""
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

    try:
        check_type(value, kind, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError as error:
        raise ValueError(f"{what}: {first_line(error).removesuffix(' of dict')}.") from error
