"""Where data sets come from: embedded digits, TFDS by name, a user's own .npz. `load` takes the name of any."""

import difflib
import importlib.util
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hvae_jax.data.dataset import BINARY, REAL, Dataset, Kind, Split, integer

_TFDS = "tfds:"


def load(name: str, directory: str | None = None) -> Dataset:
    """Loads a data set by name.

    Args:
      name: "digits"; "tfds:NAME" for a TFDS image data set that is prepared in `directory`, such as "tfds:mnist" or
        "tfds:binarized_mnist"; or the path of an .npz.
      directory: TFDS's data_dir; None is TFDS's own default.
    Raises ValueError for an unknown name (with the nearest) and for arrays that will not do; FileNotFoundError for a
    path that is not there, or TFDS data that is not prepared (with the command that prepares it).
    """
    if name == "digits":
        return digits()
    if name.startswith(_TFDS):
        return from_tfds(name.removeprefix(_TFDS), directory)
    if name.endswith(".npz"):
        return from_npz(name)
    known = ["digits", "tfds:mnist", "tfds:binarized_mnist"]
    near = difflib.get_close_matches(name, [*known, "mnist", "binarized_mnist"], n=1, cutoff=0.5)
    hint = f" Did you mean {near[0] if near[0] in known else _TFDS + near[0]!r}?" if near else ""
    raise ValueError(
        f"Unknown data set {name!r}.{hint} Known are 'digits', 'tfds:NAME' for any image data set of TFDS, and the "
        "path of an .npz file."
    )


def digits() -> Dataset:
    """The 1,797 handwritten 8x8 digits that scikit-learn ships, values 0..16, `[N, 8, 8, 1]` uint8.

    Split as in the article, in the file's order: 1,000 train, 350 validation, 447 test. The writers of the test
    digits are not those of the train digits.
    """
    table = _digits_table()
    x = table[:, :-1].reshape(-1, 8, 8, 1).astype(np.uint8)
    y = table[:, -1].astype(np.int32)
    parts = {"train": slice(0, 1000), "validation": slice(1000, 1350), "test": slice(1350, None)}
    splits = {part: Split(x[where], y[where]) for part, where in parts.items()}
    return Dataset("digits", splits, integer(17), "8x8 digits of scikit-learn, unshuffled 1000/350/447 as the article")


def _digits_table() -> np.ndarray:
    """`[1797, 65]`: 64 pixels and the label, from scikit-learn's file itself: importing scikit-learn takes a second."""
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise ImportError("scikit-learn ships the digits: pip install scikit-learn.")
    path = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if path.exists():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    raw: Any = load_digits()
    return np.column_stack([raw.data, raw.target])


# ---- .npz


def from_npz(path: str | os.PathLike[str]) -> Dataset:
    """A user's own arrays.

    The file holds `x_train` `[N, ...]` and may hold `x_validation`, `x_test`, and labels `y_train`, `y_validation`,
    `y_test`. Without `x_validation` the last tenth of the train examples becomes it. The kind of value: booleans and
    whole numbers of 0 and 1 alone are binary; other whole numbers are integers, 256 values for uint8 data that goes
    above 127 and the largest value plus one otherwise (an array `num_values` in the file overrides that); floats are
    real.

    Raises FileNotFoundError for a path that is not there, and ValueError for a file that is no .npz, lacks `x_train`,
    or has an array that is empty, of object dtype (it is never unpickled), not finite, negative where whole, or of
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
        splits, note = _split_off(splits, max(1, len(splits["train"]) // 10), path)
        protocol += note
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


def _split_off(splits: dict[str, Split], count: int, path: Path) -> tuple[dict[str, Split], str]:
    """Makes the last `count` train examples the validation split."""
    train = splits["train"]
    if len(train) < 2:
        raise ValueError(f"x_train in {path} has one example: at least two are needed, one of them to validate on.")
    cut = len(train) - count
    parts = [Split(train.x[where], None if train.y is None else train.y[where]) for where in np.s_[:cut, cut:]]
    rest = {part: split for part, split in splits.items() if part == "test"}
    return {"train": parts[0], "validation": parts[1], **rest}, f", validation = last {count:,} train examples"


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
    """The smallest dtype that holds the values: uint8 up to 256 of them, int32 above, float32 for real ones."""
    if kind.name == "real":
        return x.astype(np.float32)
    return x.astype(np.uint8 if kind.num_values <= 256 else np.int32)


# ---- TFDS


def from_tfds(name: str, directory: str | None = None) -> Dataset:
    """An image data set that TFDS has prepared as ArrayRecord; reading it needs no TensorFlow.

    Splits are TFDS's. Without a validation split the last sixth of train becomes it, at most 10,000 (MNIST: 50,000
    train, 10,000 validation, 10,000 test, as in the literature). Binary where every value is 0 or 1, as in
    binarized_mnist (Larochelle's static binarisation); else integers 0..255.

    Raises ValueError for a name TFDS does not know or a data set without images; FileNotFoundError where it is not
    prepared, with the command that prepares it.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError("TFDS is needed for tfds: data sets: pip install tensorflow-datasets.") from error

    try:
        builder = tfds.builder(name, data_dir=directory)
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name, _builders(tfds.list_builders), n=3, cutoff=0.6)
        hint = f" Did you mean {' or '.join(_TFDS + n for n in near)}?" if near else ""
        raise ValueError(f"TFDS has no data set {name!r}.{hint}") from error
    if "image" not in (builder.info.features or {}):
        raise ValueError(f"tfds:{name} has the features {list(builder.info.features or {})}, but no 'image'.")
    try:
        parts = [part for part in ("train", "validation", "test") if part in builder.info.splits] or ["train", "test"]
        splits = {part: _decode(builder.as_data_source(split=part)) for part in parts}
    except (NotImplementedError, AssertionError, FileNotFoundError) as error:
        where = directory or str(tfds.core.constants.DATA_DIR)
        raise FileNotFoundError(
            f"tfds:{name} is not prepared as ArrayRecord in {where}. Prepare it once, on a machine with a network:\n"
            "  pip install tensorflow tensorflow-datasets\n"
            f"  tfds build {name} --data_dir {where} --file_format array_record\n"
            "or give the folder that holds it as --data.directory."
        ) from error
    if "train" not in splits:
        raise ValueError(f"tfds:{name} has the splits {list(builder.info.splits)}, but no 'train'.")
    protocol = f"TFDS {builder.info.full_name}"
    if "validation" not in splits:
        splits, note = _split_off(splits, max(1, min(10_000, len(splits["train"]) // 6)), Path(name))
        protocol += note
    kind = BINARY if all(split.x.max() <= 1 for split in splits.values()) else integer(256)
    return Dataset(_TFDS + name, splits, kind, protocol)


def _decode(source: Any) -> Split:
    """Every record of a TFDS data source as arrays."""
    records = [source[i] for i in range(len(source))]
    x = np.stack([record["image"] for record in records]).astype(np.uint8)
    y = np.asarray([record["label"] for record in records], np.int32) if "label" in records[0] else None
    return Split(x, y)


def _builders(list_builders: Callable[..., list[str]]) -> list[str]:
    """TFDS's own data sets, without asking the network for the community's."""
    try:
        return list_builders(with_community_datasets=False)
    except Exception:
        return []
