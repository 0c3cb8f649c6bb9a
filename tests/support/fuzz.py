"""Random settings, command-line words and damage to files, drawn from a seed; and the test of what an error may be."""

import copy
import json
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import hvae_jax

PACKAGE = str(Path(hvae_jax.__file__).parent)

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 10**9, -(10**9), 2**31, 2**63, 10**30),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -1.0, 1e-30, 1e30, -1e30, float("nan"), float("inf"), -float("inf")),
    *("", "x", "digits", "../x", "\x1b[31m", "None", "1", "a" * 10_000),
    *([], [1], [0], [-1], [2, 3], [1.5], ["a"], [None], [[1]], [1] * 50, {}, {"type": "x"}, {"fields": {}}),
    *({"function": "jax.nn:relu"}, {"function": "os:system"}, {"type": "hvae_jax.likelihoods:Bernoulli", "fields": {}}),
)
WORDS = (
    *("", "x", "0", "1", "-1", "1.5", "1e9", "1e30", "nan", "inf", "None", "True", "false", "[]", "1 2", "--", "-"),
    *("../x", "/", "é", "\x1b[31m", "a" * 300, "99999999999999999999"),
)


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in parsed JSON, records and lists included."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths_in(value[key], (*path, key))


def like(value: Any) -> tuple[Any, ...]:
    """Values of the same type, so that a check of types does not hide the checks behind it."""
    same = tuple(other for other in VALUES if type(other) is type(value))
    if isinstance(value, list) and value:
        changed = tuple([other, *value[1:]] for other in like(value[0]))
        return (*same, value[1:], [*value, value[0]], *changed)
    return same


def mutated(data: Any, rng: np.random.Generator, times: int = 1) -> tuple[Any, str]:
    """Parsed JSON with that many values replaced, removed or added, and what was done."""
    data, done = copy.deepcopy(data), []
    for _ in range(times):
        paths = list(paths_in(data))
        path = paths[rng.integers(len(paths))]
        parent = data
        for key in path[:-1]:
            parent = parent[key]
        pool = like(parent[path[-1]]) if rng.random() < 0.7 else VALUES
        value = pool[rng.integers(len(pool))]
        kind = rng.random()
        if kind < 0.9:
            parent[path[-1]] = value
            done.append(f"{path} = {value!r:.60}")
        elif kind < 0.95 and isinstance(parent, dict):
            del parent[path[-1]]
            done.append(f"{path} removed")
        elif isinstance(parent, dict):
            parent["unknown"] = value
            done.append(f"{path[:-1]} has unknown = {value!r:.60}")
    return data, "; ".join(done)


def damage(raw: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """A damaged file, and what was done to it."""
    place = int(rng.integers(len(raw))) if raw else 0
    match rng.integers(6):
        case 0:
            return raw[:place], f"cut at {place}"
        case 1:
            flipped = bytes([raw[place] ^ (1 << rng.integers(8))]) if raw else b""
            return raw[:place] + flipped + raw[place + 1 :], f"a bit flipped at {place}"
        case 2:
            return raw[:place] + bytes(64) + raw[place + 64 :], f"64 zeros at {place}"
        case 3:
            return rng.bytes(200), "random bytes"
        case 4:
            return raw[:place] + rng.bytes(16) + raw[place:], f"16 bytes inserted at {place}"
        case _:
            return b"", "emptied"


def damage_json(raw: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """A JSON file with one of its values changed, or damaged as any file."""
    if rng.random() < 0.3:
        return damage(raw, rng)
    data, done = mutated(json.loads(raw), rng)
    return json.dumps(data).encode(), done


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised by the library, as ValueError, TypeError or OSError, with one line for its user."""
    message = str(error)
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    short = 0 < len(message) < 2000
    return isinstance(error, ValueError | TypeError | OSError) and raised_in.startswith(PACKAGE) and short


def outcome(action: Callable[[], object], seconds: int = 120) -> BaseException | None:
    """What an action raises, or None; RuntimeError, which is no error of ours, if it takes longer."""

    def late(*_: object) -> None:
        raise RuntimeError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        action()
    except BaseException as error:
        return error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return None


def files_in(folder: Path) -> list[Path]:
    """Every file below a folder that is not empty, in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
