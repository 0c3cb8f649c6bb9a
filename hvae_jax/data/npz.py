"""The user's own arrays in an .npz."""

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from hvae_jax.data.dataset import BINARY, REAL, Dataset, Kind, Split, integer
from hvae_jax.data.prepare import split_off


def from_npz(path: str | os.PathLike[str]) -> Dataset:
    """The data set in a user's .npz.

    The file holds `x_train` `[N, ...]` and may hold `x_validation`, `x_test`, and labels `y_train`, `y_validation`,
    `y_test`. Without `x_validation`, the last tenth of the train examples is the validation split.

    The kind of the values: booleans, and whole numbers that are all 0 or 1, are binary. Other whole numbers are
    integers, with 256 values for uint8 data above 127 and the largest value plus one otherwise; an array `num_values`
    in the file overrides that. Floats are real.

    Raises FileNotFoundError for a path that does not exist; ValueError for a file that is no .npz or lacks `x_train`,
    and for an array that is empty, of object dtype (nothing is unpickled), not finite, negative though whole, or of
    another shape than the train examples.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}. Give the path of an .npz with an array x_train.")
    try:
        file = np.load(path, allow_pickle=False)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an .npz ({error}). Write it with numpy.savez.") from error
    if isinstance(file, np.ndarray):
        raise ValueError(f"{path} is a single .npy array. Write it with numpy.savez(path, x_train=...).")
    with file:
        names = file.files
        arrays = {name: _read(file, name, path) for name in names if name.startswith(("x_", "y_", "num_values"))}
    if "x_train" not in arrays:
        raise ValueError(
            f"{path} holds {names or 'no arrays'}, but x_train is needed (x_validation, x_test, y_train, "
            "y_validation and y_test are optional)."
        )
    num_values = arrays.pop("num_values", None)
    for name, array in arrays.items():
        _check_array(name, array, arrays["x_train"], arrays.get(f"x{name[1:]}"), path)

    splits = {
        part: Split(arrays[f"x_{part}"], arrays.get(f"y_{part}"))
        for part in ("train", "validation", "test")
        if f"x_{part}" in arrays
    }
    protocol = f"arrays of {path.name}"
    if "validation" not in splits:
        count = max(1, len(splits["train"]) // 10)
        if len(splits["train"]) < 2:
            raise ValueError(f"x_train in {path} has one example: at least two are needed, one to validate on.")
        splits = split_off(splits, count)
        protocol += f", validation = last {count:,} train examples"
    if num_values is not None and (num_values.size != 1 or not np.issubdtype(num_values.dtype, np.integer)):
        what = f"shape {num_values.shape} and dtype {num_values.dtype}"
        raise ValueError(f"num_values in {path} has {what}: it has to be one whole number.")
    kind = _kind([split.x for split in splits.values()], None if num_values is None else int(num_values), path)
    as_stored = {part: Split(_compact(split.x, kind), split.y) for part, split in splits.items()}
    return Dataset(str(path), as_stored, kind, protocol)


def _read(file: np.lib.npyio.NpzFile, name: str, path: Path) -> np.ndarray:
    try:
        return file[name]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{name} in {path} is damaged ({error}). Write the file anew.") from error
    except ValueError as error:
        raise ValueError(
            f"{name} in {path} has object dtype, which would have to be unpickled, and unpickling runs code. Save "
            "it as a plain array of numbers, with every example of the same shape."
        ) from error


def _check_array(name: str, array: np.ndarray, train: np.ndarray, partner: np.ndarray | None, path: Path) -> None:
    where = f"{name} in {path}"
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"{where} has shape {array.shape}: there is nothing in it to learn from.")
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise ValueError(f"{where} has dtype {array.dtype}, but whole or real numbers are needed.")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))
        raise ValueError(
            f"{where} holds {array[tuple(bad[0])]} at index {tuple(int(i) for i in bad[0])} and {len(bad)} values "
            "that are not finite in all. Remove or fill them first."
        )
    if name.startswith("y_"):
        if partner is None or array.shape != (len(partner),) or not np.issubdtype(array.dtype, np.integer):
            wanted = "no x of that name" if partner is None else f"{len(partner)} examples"
            raise ValueError(
                f"{where} has shape {array.shape} and dtype {array.dtype}, and there are {wanted}: labels are one "
                "whole number an example."
            )
        if array.min() < 0:
            raise ValueError(f"{where} holds the label {array.min()}: labels count from 0.")
    elif array.ndim < 2 or array.shape[1:] != train.shape[1:]:
        raise ValueError(
            f"{where} has shape {array.shape}, but [N, ...] is needed, with examples of the shape of x_train's "
            f"({train.shape[1:]})."
        )


def _kind(arrays: list[np.ndarray], num_values: int | None, path: Path) -> Kind:
    dtype = arrays[0].dtype
    if any(np.issubdtype(x.dtype, np.floating) != np.issubdtype(dtype, np.floating) for x in arrays):
        raise ValueError(f"{path} holds whole numbers in one split and floats in another: save all of one kind.")
    if np.issubdtype(dtype, np.floating):
        return REAL
    low, high = min(int(x.min()) for x in arrays), max(int(x.max()) for x in arrays)
    if low < 0:
        raise ValueError(f"{path} holds the whole number {low}: integer data counts from 0. Shift it, or save floats.")
    if num_values is None:
        num_values = 256 if dtype == np.uint8 and high > 127 else high + 1
    if high >= num_values:
        raise ValueError(f"{path} says num_values={num_values}, but holds the value {high}.")
    return BINARY if num_values <= 2 else integer(num_values)


def _compact(x: np.ndarray, kind: Kind) -> np.ndarray:
    """x in the smallest dtype that holds its values: uint8 for up to 256, int32 for more, float32 for real ones."""
    if kind.name == "real":
        return x.astype(np.float32)
    return x.astype(np.uint8 if kind.num_values <= 256 else np.int32)
