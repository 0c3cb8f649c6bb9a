"""Every frozen record of settings refuses a field of another type, naming the record, the field and what it takes."""

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
import pytest
from flax import linen as nn

import hvae_jax
from hvae_jax.likelihoods import Bernoulli, Categorical
from hvae_jax.models import TopDownVAE
from hvae_jax.records import checked

ROOMS = ("likelihoods", "objectives", "models", "training", "experiment", "data")


@dataclasses.dataclass(frozen=True)
@checked
class Example:
    whole: int = 1
    real: float = 1.0
    yes: bool = True
    text: str = ""
    choice: Literal["a", 1] = "a"
    maybe: int | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    sizes: tuple[int, ...] = ()
    function: Callable[[Any], Any] = abs
    record: Categorical = Categorical(2)
    later: "Bernoulli" = Bernoulli()
    anything: Any = None

    def __post_init__(self) -> None:
        assert self.whole < 100  # compared after the check, so that this is never a TypeError


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("whole", (0, -1, 10**30 % 97, np.int64(3))),
        ("real", (0, 1.5, -math.inf, np.float32(0.5), np.int8(2))),
        ("yes", (True, False)),
        ("choice", ("a", 1)),
        ("maybe", (None, 3)),
        ("pair", ((0, 1), [0.0, 2.0])),
        ("sizes", ((), (1,), [1, 2])),
        ("function", (jax.nn.relu, len)),
        ("anything", (object(), "x", math.nan)),
    ],
)
def test_values_of_the_annotated_type_are_accepted(field: str, values: tuple[Any, ...]) -> None:
    for value in values:
        record = Example(**{field: value})
        held = getattr(record, field)
        assert held == (tuple(value) if isinstance(value, list) else value) or held is value
        assert not isinstance(held, np.generic | list)
        hash(record)


@pytest.mark.parametrize(
    ("field", "values", "words"),
    [
        ("whole", (1.0, 2.5, True, "1", None, math.inf, (1,)), "a whole number"),
        ("real", ("1", math.nan, True, None, 1j, np.ones(2), 10**400), "a number"),
        ("yes", (1, 0, "True", None), "True or False"),
        ("text", (1, None, b"x"), "a string"),
        ("choice", ("b", True, 1.0, None), "'a' or 1"),
        ("maybe", ("x", 0.5), "a whole number or None"),
        ("pair", ((), (1.0,), (1.0, 2.0, 3.0), ("a", 1.0), 3, "ab"), "a tuple of 2, each item of which is a number"),
        ("sizes", (3, "8", (1.5,), {1}, np.ones(2)), "a tuple, each item of which is a whole number"),
        ("function", (3, "relu", None), "a function"),
        ("record", (3, None, Bernoulli(), Categorical), "of type Categorical"),
        ("later", (3, Categorical(2)), "of type Bernoulli"),
    ],
)
def test_values_of_another_type_are_refused(field: str, values: tuple[Any, ...], words: str) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"^Example\({field}=.*\): it has to be {words}"):
            Example(**{field: value})


def test_a_class_in_place_of_an_instance_gets_a_hint() -> None:
    with pytest.raises(ValueError, match=r"An instance is needed: Bernoulli\(\.\.\.\)\.$"):
        TopDownVAE(likelihood=Bernoulli)
    with pytest.raises(ValueError, match=r"TopDownVAE\(likelihood='bernoulli'\): it has to be of type Likelihood"):
        TopDownVAE(likelihood="bernoulli")


def test_an_error_stays_one_short_line() -> None:
    with pytest.raises(ValueError, match="it has to be a whole number") as caught:
        Example(whole="\n" * 10_000)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def settings_of(room: str) -> list[type]:
    """The frozen dataclasses and models that a room exports and a user makes: no arrays in them, and public names."""
    package = importlib.import_module(f"{hvae_jax.__name__}.{room}")
    exported = [value for name, value in vars(package).items() if not name.startswith("_") and isinstance(value, type)]
    return [
        kind
        for kind in exported
        if dataclasses.is_dataclass(kind)
        and not hasattr(kind, "replace")  # struct.dataclass: a pytree of arrays
        and (issubclass(kind, nn.Module) or kind.__dataclass_params__.frozen)
        and kind.__module__.startswith(hvae_jax.__name__)
    ]


NOT_SETTINGS = {
    *("HVAE", "Dataset", "Split", "Kind", "Batch", "Importance", "Plan", "Machine", "Task", "Provenance"),
    *("Watching", "OpenedRun", "Collapse"),
}


@pytest.mark.parametrize("room", ROOMS)
def test_every_record_of_settings_is_checked(room: str) -> None:
    kinds = [kind for kind in settings_of(room) if kind.__name__ not in NOT_SETTINGS]
    assert kinds
    for kind in kinds:
        fields = [field for field in dataclasses.fields(kind) if field.init]
        fields = [field for field in fields if not (issubclass(kind, nn.Module) and field.name in ("parent", "name"))]
        for field in [field for field in fields if field.type is not Any]:
            required = {other.name: None for other in fields if other.default is dataclasses.MISSING}
            with pytest.raises(ValueError, match=rf"{kind.__name__}\("):
                kind(**required | {field.name: object()})


def test_the_rooms_above_are_all_that_have_settings() -> None:
    """A new room is put into ROOMS if it has settings: the others hold maths, machines and commands."""
    rooms = {module.name for module in pkgutil.iter_modules(hvae_jax.__path__) if module.ispkg}
    without = {
        *("records", "runtime", "networks", "diagnostics", "codec", "filling", "convert", "metrics", "report"),
        *("recipes", "cli", "sklearn"),
    }
    assert rooms - without == set(ROOMS)
