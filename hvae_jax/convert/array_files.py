"""Arrays by name from PyTorch, safetensors, .npz and Flax msgpack files. Nothing in a file is ever executed."""

import dataclasses
import hashlib
import importlib
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from hvae_jax.runtime.errors import first_line

WhichWeights = Literal["ema", "plain"]

# names that checkpoints of several parts give to the averaged and to the trained weights
_ENTRIES: Mapping[str, tuple[str, ...]] = {
    "ema": ("ema_model_state_dict", "ema_state_dict", "ema_params"),
    "plain": ("model_state_dict", "state_dict", "params"),
}
_FIRST_SAFE = (2, 6)  # earlier versions of PyTorch run code in spite of `weights_only` (CVE-2025-32434)


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
    too old, and ValueError if the file has another format, is damaged, holds anything but arrays (naming it), or lacks
    the weights that are asked for.
    """
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder, but one file is wanted. A PyTorch checkpoint is a zip that has to stay packed."
        )
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    kind, metadata = _kind(path), {}
    match kind:
        case "safetensors":
            tree, metadata = _safetensors(path)
        case "npz":
            tree = _npz(path)
        case "msgpack":
            tree = _msgpack(path)
        case _:
            tree = _torch(path)
    entry, tree = _chosen(path, tree, weights)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ArrayFile(dict(_arrays(path, entry, tree)), kind, entry, metadata, sha256)


def _kind(path: Path) -> str:
    """The format, from the first bytes."""
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise ValueError(f"{path} is empty.")
    if head.startswith(b"PK"):
        try:
            names = zipfile.ZipFile(path).namelist()
        except zipfile.BadZipFile as error:
            raise _damaged(path, "PyTorch file or .npz", error) from error
        return "npz" if any(name.endswith(".npy") for name in names) else "PyTorch"
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return "safetensors"
    # A pickle begins with 0x80 and its version. So does a msgpack of no names, but no version follows.
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "PyTorch"
    if 0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF):
        return "msgpack"
    raise ValueError(f"{path} is no file of weights: neither PyTorch, safetensors, .npz nor a Flax checkpoint.")


def _damaged(path: Path, kind: str, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged or ends early: as a {kind} it cannot be read ({first_line(error)}).")


def _torch(path: Path) -> Any:
    """The content of a PyTorch file: with `weights_only` its reader makes tensors and plain containers only."""
    try:
        torch: Any = importlib.import_module("torch")  # not a dependency: type checkers do not find it
    except ImportError as error:
        raise ImportError(
            f"{path} is a PyTorch file, and PyTorch is not installed: pip install 'hvae-jax[torch]'. safetensors and "
            ".npz files are read without it."
        ) from error
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _FIRST_SAFE:
        raise ImportError(
            f"PyTorch {torch.__version__} cannot keep a pickle from running code: pip install 'hvae-jax[torch]' brings "
            "2.6 or newer."
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # PyTorch advises how to read the file unsafely
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search("truncated|ran out of input", str(error), re.IGNORECASE):
            raise ValueError(f"{path} is damaged or ends early: as a PyTorch file it cannot be read.") from error
        named = re.search(r"GLOBAL (\S+)|[Uu]nsupported (?:global|class):?\s*(?:GLOBAL )?(\S+)", str(error))
        if named is None:
            raise ValueError(
                f"{path} is damaged, or a pickle that PyTorch's safe reader does not read. Nothing of it was executed, "
                "and nothing is read from it: save a state dict by torch.save."
            ) from error
        raise ValueError(
            f"{path} holds more than arrays: its pickle asks for {named[1] or named[2]}. Nothing of it was executed, "
            "and nothing is read from it. If you trust who wrote it, load it in PyTorch yourself and save the state "
            "dict alone."
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(path, "PyTorch file", error) from error


def _safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError) as error:
        raise _damaged(path, "safetensors file", error) from error


def _npz(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            try:
                arrays[name] = file[name]
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
                raise _damaged(path, ".npz", error) from error
            except ValueError as error:
                raise ValueError(
                    f"{name} in {path} has object dtype, which would have to be unpickled, and unpickling runs code."
                ) from error
    return arrays


def _msgpack(path: Path) -> Any:
    """The content of a Flax checkpoint: numbers, text, arrays and containers."""
    from flax.serialization import msgpack_restore

    try:
        return msgpack_restore(path.read_bytes())
    except Exception as error:  # msgpack's layers raise errors of many types
        raise _damaged(path, "Flax checkpoint", error) from error


def _chosen(path: Path, tree: Any, weights: WhichWeights | None) -> tuple[str | None, Mapping[str, Any]]:
    """(name, content) of the part of a checkpoint that is asked for; (None, everything) for a file of weights alone."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{path} holds a {type(tree).__name__}, not arrays by name.")
    if set(tree) == {"state", "param_groups"}:
        raise ValueError(f"{path} holds the state of an optimiser (state, param_groups), and no weights.")
    found = {
        which: entry
        for which, entries in _ENTRIES.items()
        for entry in reversed(entries)
        if isinstance(tree.get(entry), Mapping) and tree[entry]
    }
    if weights is not None and weights not in found:
        has = f"has {', '.join(found.values())}" if found else "holds one set of weights and does not say which"
        raise ValueError(f"--weights {weights}: there are none in {path}, which {has}. Leave --weights out.")
    if not found:
        return None, tree
    entry = found[weights or ("ema" if "ema" in found else "plain")]
    return entry, tree[entry]


def _arrays(path: Path, entry: str | None, tree: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays by name, nested names joined by ".". Raises ValueError if there is anything else, naming it."""
    flat = list(_flat("", tree))
    odd = [f"{name} ({type(value).__name__})" for name, value in flat if not hasattr(value, "shape")]
    if odd or not flat:
        where = f"{path}, {entry}," if entry else f"{path}"
        found = f"{', '.join(odd[:8])}{f' and {len(odd) - 8} more' if len(odd) > 8 else ''}" if odd else "nothing"
        raise ValueError(f"{where} holds {found} where arrays by name should be.")
    for name, value in flat:
        yield name, np.asarray(value) if isinstance(value, np.ndarray | np.generic) else _of_tensor(path, name, value)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), inner)
    else:
        yield prefix, value


def _of_tensor(path: Path, name: str, tensor: Any) -> np.ndarray:
    """A tensor as a NumPy array; bfloat16 by the dtype of `ml_dtypes`, since NumPy has none."""
    torch: Any = importlib.import_module("torch")
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise ValueError(f"{name} in {path} is sparse or quantised: save it as a plain tensor.")
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
