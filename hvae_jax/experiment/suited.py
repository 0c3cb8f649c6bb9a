"""Settings of a model that suit the backend: how numbers are computed and stored there, not what is computed.

A model is the same on every backend. What suits an accelerator, a recipe says (`recipes.on_accelerators`): narrower
products, less memory traffic, short programs. It is chosen where a run begins, and kept for as long as the run lasts.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hvae_jax.experiment import settings
from hvae_jax.experiment.records import Experiment
from hvae_jax.models.base import HVAE

ACCELERATORS = {"tpu": "a TPU", "gpu": "a GPU", "cuda": "a GPU", "rocm": "a GPU"}
"""Backends that are accelerators, as JAX calls them."""


def given_in(arguments: Iterable[str]) -> frozenset[str]:
    """Names of the model's own settings that a command line has flags for: "dtype" of "--model.dtype None".

    Example:
        >>> from hvae_jax.experiment.suited import given_in
        >>> sorted(given_in(["--model.dtype=bfloat16", "--seed", "1", "--model.unroll", "4"]))
        ['dtype', 'unroll']
    """
    flags = (word.partition("=")[0] for word in arguments)
    return frozenset(flag.removeprefix("--model.").replace("-", "_") for flag in flags if flag.startswith("--model."))


def suited(
    experiment: Experiment,
    backend: str,
    wanted: Mapping[str, Any],
    given: Iterable[str] = (),
    folder: Path | None = None,
) -> tuple[Experiment, str | None]:
    """The experiment with what suits a backend, and a line on what changed and how to undo it; None if nothing did.

    A run that is in the folder already keeps what it began with, on every backend.

    Args:
      backend: name of the backend, "cpu", "tpu", "gpu".
      wanted: settings of the model on accelerators, by name; those that the model lacks do not count.
      given: names of settings that the user has given; they stay.
      folder: the run folder, which need not exist.
    """
    model, taken = experiment.model, frozenset(given)
    fields = _fields(model)
    old = {name: fields[name] for name in wanted if name in fields and name not in taken}
    began = None if folder is None else _began(folder, model)
    if began is not None:
        chosen, why = _fields(began), "as the run began"
    elif backend in ACCELERATORS:
        chosen, why = wanted, f"on {ACCELERATORS[backend]}"
    else:
        return experiment, None
    changed = {name: chosen[name] for name, value in old.items() if chosen[name] != value}
    if not changed:
        return experiment, None
    line = f"{why}: {_flags(changed)}"
    if began is None:
        line += f"; as elsewhere: {_flags({name: old[name] for name in changed})}"
    return dataclasses.replace(experiment, model=model.clone(**changed)), line


def _fields(record: Any) -> dict[str, Any]:
    """The settings of a model, by name."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _began(folder: Path, model: HVAE) -> HVAE | None:
    """The model of the run in a folder; None if there is none of this kind, or it cannot be read.

    What is wrong with the folder is said where the run is prepared.
    """
    try:
        found = settings.load(folder / "settings.json")
    except (OSError, ValueError):
        return None
    return found.model if isinstance(found, Experiment) and type(found.model) is type(model) else None


def _flags(values: Mapping[str, Any]) -> str:
    return " ".join(f"--model.{name} {value}" for name, value in values.items())
