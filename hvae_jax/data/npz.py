"""The user's own arrays in an .npz."""

import os
from pathlib import Path

import numpy as np

from hvae_jax.data.dataset import BINARY, REAL, Dataset, Kind, Split, integer
from hvae_jax.data.exact import as_float32, narrowed
from hvae_jax.data.missing import as_truth, lacking, masked, seen_kind
from hvae_jax.data.prepare import split_off
from hvae_jax.data.splits import NAMES, SEED, accepted, by_split, check_labels, drawn, warn_of_labels
from hvae_jax.runtime.npz import ArrayHeader, array_headers, check_sizes, entry_names, read_arrays

_NAMED = 8
"""Largest number of arrays that a message names."""


def from_npz(path: str | os.PathLike[str], missing: str | None = None) -> Dataset:
    """The data set in a user's .npz.

    The file holds `x_train` `[N, ...]` and may hold `x_validation`, `x_test`, and labels `y_train`, `y_validation`,
    `y_test`. Case does not matter, and splits may have the other names in `splits.NAMES`, such as `X_val`. Without a
    validation split, a tenth of the train examples, drawn with a fixed seed, is the validation split. Other arrays are
    ignored, unless their names begin with x_ or y_. A label of -1 stands for one that is not known.

    The kind of the values: booleans, and whole numbers that are all 0 or 1, are binary. Other whole numbers are
    integers, with 256 values for uint8 data above 127 and the largest value plus one otherwise; an array `num_values`
    in the file overrides that. Floats are real, and are rounded to float32.

    With missing="nan", NaN in an array of floats stands for a missing value; with "mask", arrays `seen_train`,
    `seen_validation` and `seen_test` say which elements are seen: truth values or 0 and 1, in the shape of x or, of
    images, without the channels; a split without one is seen whole. x is then float32 with NaN where it is missing. The
    kind is that of the seen values: floats that are all 0 or 1 are binary, and other floats are whole numbers if the
    file has `num_values`.

    Sizes, shapes and dtypes are read from headers, before any array. Labels become int32; every cast is exact, but for
    the rounding of floats.

    Raises FileNotFoundError for a path that does not exist; ValueError for a file that is no .npz or lacks `x_train`,
    whose names of splits are unknown or occur twice, or whose arrays exceed the free memory or the limits of
    `runtime.npz`; for masks of another shape, or that show nothing of a split; and for an array that is empty, of
    object dtype (nothing is unpickled), not finite, negative though whole, beyond int32 or float32,
    channel-first, or of another shape than the train examples.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/mine.npz", x_train=np.zeros((20, 4), np.uint8))
        ...     dataset = hv.data.from_npz(f"{folder}/mine.npz")
        >>> dataset.kind.name, len(dataset.splits["train"].x), len(dataset.splits["validation"].x)
        ('binary', 18, 2)
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}. Give the path of an .npz with an array x_train.")
    if missing not in (None, "nan", "mask"):
        raise ValueError(f"missing={missing!r}: it has to be 'nan' or 'mask', or be left out.")
    names = _named(path, entry_names(path), missing == "mask")
    headers = array_headers(path, names)
    for name, header in headers.items():
        _check_header(f"{name} in {path}", names[name], header)
    _check_shapes(path, {ours: (name, headers[name].shape) for name, ours in names.items()})
    check_sizes(path, headers)
    arrays = {
        names[name]: _used(f"{name} in {path}", names[name], array, missing)
        for name, array in read_arrays(path, headers)
    }
    num_values = arrays.pop("num_values", None)
    splits = {part: Split(arrays[f"x_{part}"], arrays.get(f"y_{part}")) for part in NAMES if f"x_{part}" in arrays}
    said = {part: f"x_{part} in {path}" for part in splits}
    if missing is not None:
        masks = {part: arrays[f"seen_{part}"] for part in splits if f"seen_{part}" in arrays}
        splits = {part: masked(said[part], split, masks.get(part)) for part, split in splits.items()}
    protocol = f"arrays of {path.name}"
    if "validation" not in splits:
        count = len(splits["train"])
        if count < 2:
            raise ValueError(f"x_train in {path} has one example: at least two are needed, one to validate on.")
        held = max(1, count // 10)
        splits = split_off(splits, drawn(count, held))
        protocol += f", validation = {held:,} of the train examples, drawn with seed {SEED}"
    warn_of_labels(str(path), splits)
    is_byte = headers[next(iter(names))].dtype == np.uint8
    given = None if num_values is None else num_values.item()
    if missing is not None:
        whole = headers[next(name for name, ours in names.items() if ours == "x_train")].dtype.kind != "f"
        kind = seen_kind(splits, whole, is_byte, given, str(path))
        return Dataset(str(path), splits, kind, f"{protocol}; {lacking(splits)}", missing=True)
    kind = _kind(splits, is_byte, given, path)
    dtype = np.float32 if kind == REAL else np.uint8 if kind.num_values <= 256 else np.int32
    as_stored = {part: Split(split.x.astype(dtype, copy=False), split.y) for part, split in splits.items()}
    return Dataset(str(path), as_stored, kind, protocol)


def _named(path: Path, names: list[str], masks: bool = False) -> dict[str, str]:
    """The arrays that are used, and our name of each.

    Raises ValueError for other names that begin with x_ or y_, for two of one split, and without `x_train`.
    """
    ours: dict[str, str] = {}
    for prefix in ("x_", "y_", "seen_") if masks else ("x_", "y_"):
        found = by_split(names, str(path), prefix)
        ours |= {name: prefix + split for split, name in found.items()}
        unknown = [name for name in names if name.casefold().startswith(prefix) and name not in ours]
        if unknown:
            raise ValueError(
                f"{path} holds {_listed(unknown)}, which is no split. The names are x_train, x_validation, x_test, "
                f"and the same with y_; {accepted()}. Rename it, or leave it out of the file."
            )
    if "x_train" not in ours.values():
        raise ValueError(
            f"{path} holds {_listed(names) or 'no arrays'}, but x_train is needed (x_validation, x_test, y_train, "
            "y_validation and y_test are optional)."
        )
    if masks and not any(one.startswith("seen_") for one in ours.values()):
        raise ValueError(
            f"{path} holds {_listed(names)}, but missing='mask' needs seen_train, seen_validation or seen_test: 1 "
            "where x is seen."
        )
    return ours | {name: name for name in names if name == "num_values"}


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _check_header(where: str, ours: str, header: ArrayHeader) -> None:
    if ours == "num_values":
        if header.dtype.kind not in "ui" or header.shape not in ((), (1,)):
            raise ValueError(f"{where} has shape {header.shape} and dtype {header.dtype}, not one whole number.")
    elif header.dtype.kind not in "biuf":
        # NumPy has no bfloat16, and stores that of ml_dtypes as two bytes without a meaning
        hint = " (bfloat16, perhaps: save it as float32)" if header.dtype == np.dtype("V2") else ""
        raise ValueError(f"{where} has dtype {header.dtype}{hint}, but whole or real numbers are needed.")
    elif not header.shape or 0 in header.shape:
        raise ValueError(f"{where} has shape {header.shape}: there is nothing in it to learn from.")


def _check_shapes(path: Path, arrays: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Holds shapes of x against those of `x_train`, and of y against those of x; by our names, with those in the file.

    Raises ValueError.
    """
    event = arrays["x_train"][1][1:]
    if _is_channel_first(event):
        raise ValueError(
            f"x_train in {path} has examples of shape {event}, which look like images with their {event[0]} channels "
            "first. Images are [H, W, C]: save x.transpose(0, 2, 3, 1)."
        )
    for ours, (name, shape) in arrays.items():
        if ours.startswith("x_") and (len(shape) < 2 or shape[1:] != event):
            raise ValueError(
                f"{name} in {path} has shape {shape}, but [N, ...] is needed, with examples of the shape of x_train's "
                f"({event})."
            )
        if ours.startswith("seen_"):
            of = arrays.get(f"x{ours[4:]}", ("", ()))[1]
            if shape not in (of, of[:-1] if len(of) == 4 else of):
                raise ValueError(
                    f"{name} in {path} has shape {shape}, but the mask of x of shape {of} has that shape, or one "
                    "value a pixel."
                )
        if ours.startswith("y_"):
            of = f"x{ours[1:]}"
            examples = f"there are {arrays[of][1][0]} examples" if of in arrays else "there is no x of that name"
            if of not in arrays or shape != arrays[of][1][:1]:
                raise ValueError(
                    f"{name} in {path} has shape {shape}, and {examples}: labels are one whole number an example."
                )


def _is_channel_first(event: tuple[int, ...]) -> bool:
    """Whether examples look like `[C, H, W]`: one, three or four channels of 8x8 pixels or more; square if one."""
    if len(event) != 3 or min(event[1:]) < 8:
        return False
    return event[0] in (3, 4) or (event[0] == 1 and event[1] == event[2])


def _used(where: str, ours: str, array: np.ndarray, missing: str | None = None) -> np.ndarray:
    """An array as it is used: float32, whole numbers in the smallest dtype that holds them, labels as int32."""
    if ours == "num_values":
        return array
    if ours.startswith("y_"):
        return check_labels(where, array, len(array))
    if ours.startswith("seen_"):
        return as_truth(where, array)
    return as_float32(where, array, missing is not None) if array.dtype.kind == "f" else narrowed(where, array)


def _kind(splits: dict[str, Split], is_byte: bool, num_values: int | None, path: Path) -> Kind:
    real = {part: split.x.dtype.kind == "f" for part, split in splits.items()}
    if len(set(real.values())) > 1:
        raise ValueError(f"{path} holds whole numbers in one split and floats in another: save all of one kind.")
    if real["train"]:
        return REAL
    high = max(int(split.x.max()) for split in splits.values())
    if num_values is None:
        num_values = 256 if is_byte and high > 127 else high + 1
    if high >= num_values:
        raise ValueError(f"{path} says num_values={num_values}, but holds the value {high}.")
    return BINARY if num_values <= 2 else integer(num_values)
