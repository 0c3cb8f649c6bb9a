"""Flags that a command line does not have: the nearest ones, and where the setting is that was meant."""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flax import linen as nn

from hvae_jax import objectives
from hvae_jax.cli import short_flags
from hvae_jax.experiment.records import Experiment

_FLAT = ("experiment", "training")
"""Records whose settings are flags without a prefix."""


def unknown(arguments: Sequence[str], command: Any, experiment: Experiment, presets: Mapping[str, Experiment]) -> str:
    """A line on each argument that is no flag of a command, with the flag that was meant or where its setting is.

    Args:
      arguments: what tyro did not know: flags, with their values behind them.
      command: the record behind the command line.
      experiment: the experiment in it.
      presets: experiments that `--preset` takes, by name.
    """
    flags = [*(("preset",) if presets else ()), *short_flags.NAMES, *_flags(command)]
    named = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    if not named:
        return f"{' '.join(arguments)}: this command takes flags alone, such as --{flags[0]}. --help lists all."
    return "\n".join(f"{flag} is no flag here. {_meant(flag, flags, experiment, presets)}" for flag in named)


def _meant(flag: str, flags: Sequence[str], experiment: Experiment, presets: Mapping[str, Experiment]) -> str:
    name = flag.lstrip("-").replace("_", "-")
    last = name.rpartition(".")[2]
    flags = [known for known in flags if known != name]  # a tuple of records has flags of its parts alone
    ours = [known for known in flags if known.endswith(f".{name}") or known.startswith(f"{name}.")]
    if near := ours or _near(name, last, flags):
        return f"Did you mean {' or '.join(f'--{known}' for known in near[:3])}? --help lists all."
    ends = f".{last}"
    owned = [
        (kind.__name__, known)
        for kind in vars(objectives).values()
        if isinstance(kind, type) and objectives.Objective in kind.__mro__ and dataclasses.is_dataclass(kind)
        for known in _flags(kind)
        if f".{known}".endswith(ends)
    ]
    found = [
        f"--preset {preset} has --{known}; this experiment is made of other parts."
        for preset, other in presets.items()
        for known in _flags(other)
        # A setting of a model's part may have the name of an objective's, as beta has, and another meaning.
        if known.endswith(ends) and (known.startswith("objective.") or not owned)
    ]
    if found:
        return found[0]
    if owned:
        owner, known = min(owned, key=lambda one: one[1].count("."))  # the plainest
        return (
            f"--objective.{known} is there if the objective is {owner}, but this experiment's is "
            f"{type(experiment.objective).__name__}. The script chooses it: Experiment(..., objective={owner}())."
        )
    return "--help lists all."


def _near(name: str, last: str, flags: Sequence[str]) -> list[str]:
    """Flags whose whole name, or whose last part, is spelled much like the one that was given, or begins with it."""
    whole = difflib.get_close_matches(name, flags, n=3, cutoff=0.8)
    parts = difflib.get_close_matches(last, [known.rpartition(".")[2] for known in flags], n=2, cutoff=0.8)
    begins = [known for known in flags if len(last) > 2 and known.rpartition(".")[2].startswith(last)]
    return whole or [known for known in flags if known.rpartition(".")[2] in parts] or begins


def _flags(record: Any, prefix: str = "") -> Iterator[str]:
    """The flags of a record, or of a class's defaults, without dashes in front; "data.name" for a record's record."""
    left_out = ("parent", "name") if isinstance(record, nn.Module) else ()
    for field in dataclasses.fields(record):
        if not field.init or field.name in left_out:
            continue
        value = getattr(record, field.name, None)
        name = f"{prefix}{field.name.rstrip('_')}".replace("_", "-")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _flags(value, prefix if field.name in _FLAT else f"{name}.")
            continue
        yield name
        for i, item in enumerate(value) if isinstance(value, tuple) else ():
            if dataclasses.is_dataclass(item) and not hasattr(item, "parse"):  # a `Stage` is one word
                yield from _flags(item, f"{name}.{i}.")
