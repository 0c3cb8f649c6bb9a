"""Readers of PyTorch, safetensors, .npz and Flax msgpack files. Nothing in a file is ever executed.

Sizes are held against the memory there is, and dtypes against those that weights have, before arrays are read.
"""

import argparse
import importlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from hvae_jax.runtime import npz
from hvae_jax.runtime.errors import first_line

_FIRST_SAFE = (2, 6)  # earlier versions of PyTorch run code in spite of `weights_only` (CVE-2025-32434)

# What a pickle may ask for beside PyTorch's own list. NVAE's checkpoints hold the settings of their training as a
# Namespace, a container without code of its own: making one sets attributes and calls nothing.
_CONTAINERS = (argparse.Namespace,)

_LONGEST_NAME = 500
FLOATS = tuple(np.dtype(kind) for kind in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))
"""Dtypes that weights may have."""
_BESIDE = tuple(np.dtype(kind) for kind in ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"))
"""Dtypes of counters and flags, which codes save beside their weights: where weights belong, they are refused."""
_NAMES = frozenset(
    {kind.name for kind in (*FLOATS, *_BESIDE)}
    | {"F16", "BF16", "F32", "F64", "BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64"}  # of safetensors
)


def check_name(path: Path, name: str) -> None:
    """Raises ValueError for a name of an array that cannot be printed, or not on a few lines: no code has such."""
    if not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ValueError(f"{path} holds the name {name[:80]!a}, which no code gives an array. It is damaged.")


def check_kind(path: Path, name: str, kind: np.dtype | str) -> None:
    """Checks that an array has a dtype of weights, or of the counters and flags beside them, in any byte order.

    Args:
      kind: NumPy's dtype, or the name that PyTorch or safetensors give it.
    Raises ValueError, with the remedy, for any other: float8 and float4 need scales that lie elsewhere, NumPy's files
    do not say which dtype of 2 bytes bfloat16 is, and complex numbers, text and records are no weights.
    """
    if isinstance(kind, str):
        if kind in _NAMES:
            return
        said, narrow = kind, kind.lower().startswith(("f8", "f4", "f6", "float8", "float4"))
    else:
        kind = kind.newbyteorder("=")
        if kind in FLOATS or kind in _BESIDE:
            return
        said, narrow = str(kind), kind.name.startswith(("float8", "float4", "float6"))
        if kind == np.dtype("V2"):
            raise ValueError(
                f"{name} in {path} has 2 bytes a number and no dtype: NumPy's files do not keep bfloat16. Save it as "
                "float32, or as a safetensors file."
            )
    why = (
        " Its numbers mean something with their scales only: multiply by them, and"
        if narrow
        else " Weights are floats:"
    )
    raise ValueError(f"{name} in {path} is {said}.{why} save it as float32.")


def kind_of(path: Path) -> str:
    """The format, from the first bytes."""
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise ValueError(f"{path} is empty.")
    if head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, ValueError, OSError, RuntimeError) as error:  # the last for later versions of zip
            raise damaged(path, "PyTorch file or .npz", error) from error
        if path.suffix == ".npz" or any(name.endswith(".npy") for name in names):
            return "npz"
        if any(f"/{name}".endswith("/data.pkl") for name in names):
            return "PyTorch"
        raise ValueError(f"{path} is a zip of other things than weights: neither an .npz nor a PyTorch file.")
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return "safetensors"
    # A pickle begins with 0x80 and its version. So does a msgpack of no names, but no version follows.
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "PyTorch"
    if 0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF):
        return "msgpack"
    raise ValueError(f"{path} is no file of weights: neither PyTorch, safetensors, .npz nor a Flax checkpoint.")


def damaged(path: Path, kind: str, error: Exception) -> ValueError:
    """The error of a file that its format's reader does not read."""
    return ValueError(f"{path} is damaged or ends early: as a {kind} it cannot be read ({first_line(error)}).")


def read_torch(path: Path) -> Any:
    """The content of a PyTorch file: with `weights_only` its reader makes tensors and plain containers only.

    Raises ImportError without PyTorch 2.6 or newer, and ValueError for a pickle that is damaged or asks for more.
    """
    try:
        torch: Any = importlib.import_module("torch")  # not a dependency: type checkers do not find it
    except ImportError as error:
        raise ImportError(
            f"{path} is a PyTorch file, and PyTorch is not installed: pip install 'torch>=2.6'. safetensors and "
            ".npz files are read without it."
        ) from error
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _FIRST_SAFE:
        raise ImportError(
            f"PyTorch {torch.__version__} cannot keep a pickle from running code: pip install 'torch>=2.6'."
        )
    _check_zip(path)
    try:
        # PyTorch's warnings advise how to read the file unsafely
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(list(_CONTAINERS)):
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
        raise damaged(path, "PyTorch file", error) from error


def _check_zip(path: Path) -> None:
    """Checks the sizes of a PyTorch file's entries, which a zip may compress, as those of an .npz are."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: (entry.file_size, entry.compress_size) for entry in archive.infolist()}
    byte = np.dtype(np.uint8)
    npz.check_sizes(path, {name: npz.ArrayHeader(byte, (full,), full, small) for name, (full, small) in sizes.items()})


def tensor_arrays(path: Path, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """PyTorch's tensors as arrays, bfloat16 by the dtype of `ml_dtypes`, since NumPy has none.

    Raises ValueError for sparse and quantised tensors and dtypes that NumPy does not have, naming the tensor; and for
    views that repeat a few numbers so often that they would not fit into memory.
    """
    torch: Any = importlib.import_module("torch")
    stored, byte = path.stat().st_size, np.dtype(np.uint8)
    headers = {}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ValueError(f"{name} in {path} is sparse or quantised: save it as a plain tensor.")
        check_kind(path, name, str(tensor.dtype).removeprefix("torch."))
        size = tensor.numel() * tensor.element_size()
        headers[name] = npz.ArrayHeader(byte, (size,), size, stored)
    npz.check_sizes(path, headers)
    arrays = {}
    for name, tensor in tensors.items():
        whole = tensor.detach().contiguous()
        if whole.dtype == torch.bfloat16:
            arrays[name] = whole.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        else:
            arrays[name] = whole.numpy()
    return arrays


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
            for name in names:
                check_name(path, name)
                check_kind(path, name, file.get_slice(name).get_dtype())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (SafetensorError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, "safetensors file", error) from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an .npz, whose headers, sizes and dtypes are checked before anything is read."""
    for name in npz.entry_names(path):
        check_name(path, name)
    headers = npz.array_headers(path)
    for name, header in headers.items():
        check_kind(path, name, header.dtype)
    npz.check_sizes(path, headers)
    return dict(npz.read_arrays(path, headers))


def read_msgpack(path: Path) -> Any:
    """The content of a Flax checkpoint: numbers, text, arrays and containers."""
    from flax.serialization import msgpack_restore

    try:
        return msgpack_restore(path.read_bytes())
    except Exception as error:  # msgpack's layers raise errors of many types
        raise damaged(path, "Flax checkpoint", error) from error
