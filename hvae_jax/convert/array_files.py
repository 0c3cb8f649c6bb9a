"""Arrays by name from PyTorch, safetensors, .npz and Flax msgpack files, and the part of a checkpoint that is read."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hvae_jax.convert import formats
from hvae_jax.runtime.meters import host_memory

WhichWeights = Literal["ema", "plain"]

# names that checkpoints of several parts give to the averaged and to the trained weights
_ENTRIES: Mapping[str, tuple[str, ...]] = {
    "ema": ("ema_model_state_dict", "ema_state_dict", "state_dict_ema", "model_ema", "ema_params"),
    "plain": ("model_state_dict", "state_dict", "model", "module", "params"),
}
_DEEPEST = 64


@dataclasses.dataclass(frozen=True)
class ArrayFile:
    """The content of a file of weights.

    Attributes:
      arrays: arrays by name, nested names joined by ".".
      kind: format of the file: "PyTorch", "safetensors", "npz" or "msgpack".
      entry: part of the checkpoint that the arrays are, such as "ema_model_state_dict"; None for a file of weights
        alone.
      metadata: text by name; empty except for safetensors files.
      sha256: checksum of the file, in hexadecimal.
    """

    arrays: Mapping[str, np.ndarray]
    kind: str
    entry: str | None
    metadata: Mapping[str, str]
    sha256: str


def read_arrays(path: Path, weights: WhichWeights | None = None) -> ArrayFile:
    """Read a file of weights, whose first bytes determine the format.

    Args:
      path: the file.
      weights: averaged ("ema") or plain weights of a checkpoint that may hold both; None takes the averaged ones if
        there are any.

    Raises FileNotFoundError if there is no such file, ImportError if a PyTorch file is given and PyTorch is missing or
    too old, and ValueError if the file has another format, is damaged, holds anything but arrays (naming it), holds
    arrays of a dtype that weights do not have or more than fits into memory, or lacks the weights that are asked for.
    """
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder, but one file is wanted. A PyTorch checkpoint is a zip that has to stay packed."
        )
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.stat().st_size > host_memory():
        raise ValueError(
            f"{path} has {path.stat().st_size / 2**20:,.0f} MiB, but this machine has {host_memory() / 2**20:,.0f} MiB "
            "of memory."
        )
    kind, metadata = formats.kind_of(path), {}
    match kind:
        case "safetensors":
            tree, metadata = formats.read_safetensors(path)
        case "npz":
            tree = formats.read_npz(path)
        case "msgpack":
            tree = formats.read_msgpack(path)
        case _:
            tree = formats.read_torch(path)
    entry, tree = _chosen(path, tree, weights)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ArrayFile(_arrays(path, entry, tree), kind, entry, metadata, sha256)


def _chosen(path: Path, tree: Any, weights: WhichWeights | None) -> tuple[str | None, Mapping[str, Any]]:
    """(name, content) of the part of a checkpoint that is asked for; (None, everything) for a file of weights alone.

    Parts may lie within parts, such as "state_dict.model": the name has all of them.
    """
    entries: list[str] = []
    seen: list[str] = []
    met = weights is None
    while True:
        if not isinstance(tree, Mapping):
            raise ValueError(f"{path} holds a {type(tree).__name__}, not arrays by name.")
        if set(tree) == {"state", "param_groups"}:
            raise ValueError(f"{path} holds the state of an optimiser (state, param_groups), and no weights.")
        found = {
            which: entry
            for which, names in _ENTRIES.items()
            for entry in reversed(names)
            if isinstance(tree.get(entry), Mapping) and tree[entry]
        }
        seen += found.values()
        if not found or (weights == "plain" and not met and "plain" not in found):
            break
        met = met or weights in found
        entry = found[weights] if weights in found else found["ema" if "ema" in found else "plain"]
        entries.append(entry)
        tree = tree[entry]
        if len(entries) > _DEEPEST:  # a pickle may hold a part that holds itself
            raise ValueError(f"{path} holds parts within parts, more than {_DEEPEST} deep, as no checkpoint does.")
    if not met:
        has = f"has {', '.join(seen)}" if seen else "holds one set of weights and does not say which"
        raise ValueError(f"--weights {weights}: there are none in {path}, which {has}. Leave --weights out.")
    return ".".join(entries) or None, tree


def _arrays(path: Path, entry: str | None, tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by name, nested names joined by ".", in the machine's byte order.

    Raises ValueError if there is anything else, naming it; for a name that is there twice or cannot be printed; and as
    `check_kind` does.
    """
    where = f"{path}, {entry}," if entry else f"{path}"
    flat = list(_flat(where, "", tree, 0))
    for name, _ in flat:
        formats.check_name(path, name)
    odd = [f"{name} ({type(value).__name__})" for name, value in flat if not hasattr(value, "shape")]
    if odd or not flat:
        found = f"{', '.join(odd[:8])}{f' and {len(odd) - 8} more' if len(odd) > 8 else ''}" if odd else "nothing"
        raise ValueError(f"{where} holds {found} where arrays by name should be.")
    made = dict(flat)
    if len(made) < len(flat):
        names = [name for name, _ in flat]
        raise ValueError(f"{where} holds {next(name for name in names if names.count(name) > 1)} twice.")
    tensors = {name: value for name, value in made.items() if not isinstance(value, np.ndarray | np.generic)}
    made |= formats.tensor_arrays(path, tensors) if tensors else {}
    return {name: _native(path, name, np.asarray(value)) for name, value in made.items()}


def _native(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """The array in the machine's byte order. Raises ValueError as `check_kind` does."""
    formats.check_kind(path, name, array.dtype)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _flat(where: str, prefix: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Values by names joined with "."; an error for names within names without end."""
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    if depth > _DEEPEST:
        raise ValueError(f"{where} holds names within names, more than {_DEEPEST} deep, as no code's weights do.")
    for name, inner in value.items():
        yield from _flat(where, f"{prefix}.{name}" if prefix else str(name), inner, depth + 1)
