"""Examples that a command is given: the run's own data, another data set, or fitted pictures of one's own.

Pictures become examples of the model's size, channels and values, all of one split, `OWN`:

    size       the shorter side is resized (bicubic, antialiased) and the centre cropped, as by --data.size
    channels   colour becomes grey and grey becomes colour, transparent pixels are laid on white
    values     of 8 bits become the model's: as they are, scaled to fewer, binarised as the run's data is, or scaled to
               the range of real data
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hvae_jax.data.dataset import BINARY, REAL, Dataset, Kind, Split, integer
from hvae_jax.data.images import BadImageError, CentreSquare, Header, converted, read_header, read_image
from hvae_jax.data.layout import found_at, split_folders
from hvae_jax.data.prepare import binarised
from hvae_jax.data.spec import Data
from hvae_jax.data.splits import check_labels
from hvae_jax.experiment.checks import check_fits
from hvae_jax.experiment.records import Experiment
from hvae_jax.report.sketch import image_range
from hvae_jax.runtime.errors import shown
from hvae_jax.runtime.npz import array_headers, check_sizes, read_arrays

OWN = "own"
"""The one split of pictures of one's own."""


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """Examples as a model takes them.

    Attributes:
      dataset: the examples, with the splits that were asked for; `protocol` says what was done to them.
      names: of the files, relative to their folder; () for examples that are no files.
    """

    dataset: Dataset
    names: tuple[str, ...] = ()

    @property
    def only(self) -> Split:
        """The last split, or the only one."""
        return list(self.dataset.splits.values())[-1]

    @property
    def value_range(self) -> tuple[float, float]:
        """Values that are drawn black and white."""
        kind, x = self.dataset.kind, self.only.x
        return (0.0, kind.num_values - 1.0) if kind.num_values else (float(np.nanmin(x)), float(np.nanmax(x)))


def given_examples(
    experiment: Experiment,
    event: tuple[int, ...],
    data: Sequence[str] = (),
    *,
    splits: Sequence[str] = (),
    examples: int | None = None,
    directory: str | None = None,
    invert: bool = False,
) -> Given:
    """The examples that `--data` names.

    Args:
      event: shape of one x.
      data: nothing for the run's own data; the name of a data set, or a folder or an .npz with splits, prepared as the
        run's data is; or pictures, a folder of pictures or an .npz of one array `x`, which are fitted.
      splits: splits of a data set that are taken; () takes all.
      examples: number of examples of each split, its first ones; None takes all.
      directory: directory of prepared TFDS data.
      invert: whether black and white of pictures are exchanged, for a model of white on black.
    Raises ValueError, with what would do, for a split that is not there, examples that do not fit the model, pictures
    that cannot be read, and paths of several kinds; FileNotFoundError for a path that does not exist.
    """
    if examples is not None and examples < 1:
        raise ValueError(f"--examples is {examples}, but it has to be 1 or more.")
    found = _own(experiment, event, data, invert) if data else None
    if found is None:
        found = Given(experiment.data.load() if not data else _other(experiment.data, event, data[0], directory))
    dataset = found.dataset
    for name in splits:
        if name not in dataset.splits:
            raise ValueError(f"{dataset.name} has no split {name!r}; it has {list(dataset.splits)}.")
    chosen = {
        name: split if examples is None else split.take(slice(examples))
        for name, split in dataset.splits.items()
        if not splits or name in splits
    }
    dataset = dataclasses.replace(dataset, splits=chosen)
    if data:
        if dataset.event != event:
            raise ValueError(
                f"{dataset.name} has examples of shape {dataset.event}, which do not fit: the model's are {event}."
            )
        if experiment.model.classes and OWN in chosen and chosen[OWN].y is None:
            raise ValueError(
                f"The model is conditioned on a class, and {dataset.name} has no labels: give an .npz with x and y."
            )
        check_fits(experiment.model, dataset)
    return Given(dataset, found.names[:examples])


def own_pictures(
    experiment: Experiment, event: tuple[int, ...], paths: Sequence[str], *, invert: bool = False
) -> Given:
    """Pictures at paths as `given_examples` fits them, with labels or without; names of data sets are refused.

    Raises as it does.
    """
    found = _own(experiment, event, paths, invert) if paths else None
    if found is None:
        raise FileNotFoundError(f"There is no picture, folder of pictures or .npz {', '.join(paths) or 'given'}.")
    return found


def _other(data: Data, event: tuple[int, ...], name: str, directory: str | None) -> Dataset:
    """Another data set, prepared as the run's; a folder with splits is resized to the model's side, if that is one."""
    if Path(name).expanduser().is_dir() and len(event) == 3 and event[0] == event[1]:
        data = dataclasses.replace(data, size=event[0])
    return data.of_other(name, directory)


def _own(experiment: Experiment, event: tuple[int, ...], paths: Sequence[str], invert: bool) -> Given | None:
    """Pictures or arrays at paths; None for the name of a data set, and for a folder or an .npz with splits."""
    found = found_at(paths)
    if found is None:
        return None
    fit = _Fit(experiment, event, invert)
    if found.npz is not None:
        headers = array_headers(found.npz)
        named_splits = any(name.casefold().startswith("x_") for name in headers)
        return None if named_splits else fit.arrays(found.npz, list(headers))
    if found.folder is not None:
        names = list(found.names)
        return None if split_folders(found.folder, names) else fit.pictures(found.pictures, names, found.folder)
    pictures = found.pictures
    return fit.pictures(pictures, list(found.names), pictures[0] if len(pictures) == 1 else None)


class _Fit:
    """How pictures become examples of a model.

    Attributes:
      experiment: settings of the run.
      event: shape of one x.
      invert: whether black and white are exchanged.
      height, width, channels: of the picture that x is; 0 if x is none.
    """

    def __init__(self, experiment: Experiment, event: tuple[int, ...], invert: bool) -> None:
        self.experiment, self.event, self.invert = experiment, event, invert
        side = round(float(np.prod(event)) ** 0.5)
        shape = (0, 0, 0)
        if len(event) == 3 and event[-1] in (1, 3, 4):
            shape = event
        elif len(event) == 2:
            shape = (*event, 1)
        elif len(event) == 1 and side**2 == event[0]:
            shape = (side, side, 1)
        self.height, self.width, self.channels = shape

    def pictures(self, paths: Sequence[Path], names: Sequence[str], source: Path | None) -> Given:
        """Files as examples. Raises ValueError naming the file that is no picture."""
        where = shown(source) if source is not None else f"{shown(paths[0])} and {len(paths) - 1:,} more"
        self._check_pictures(where)
        found, headers = [], []
        for path in paths:
            try:
                headers.append(read_header(str(path)))
                found.append(read_image(str(path), self.channels, self._resized))
            except (BadImageError, OSError) as error:
                raise ValueError(f"{shown(path)} {error}.") from error
        return self._given(where, np.stack(found), None, headers, tuple(names))

    def arrays(self, path: Path, arrays: list[str]) -> Given:
        """The array `x` of an .npz, or its only one, with labels `y`: as it is if it fits, else bytes as pictures."""
        names = [name for name in arrays if name != "y"]
        name = "x" if "x" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise ValueError(f"{shown(path)} holds {arrays}: name the array of examples x, and their labels y.")
        headers = array_headers(path, [name, *(["y"] if "y" in arrays else [])])
        check_sizes(path, headers)
        read = dict(read_arrays(path, headers))
        x, y = read[name], read.get("y")
        if x.ndim < 2 or not len(x):
            raise ValueError(f"{name} in {shown(path)} has shape {x.shape}, but [N, ...] is needed.")
        labels = None if y is None else check_labels(f"y in {shown(path)}", y, len(x))
        where = shown(path)
        if x.shape[1:] == self.event and self._allowed(x):
            kind, _, _ = self._values(where)
            missing = x.dtype.kind == "f" and bool(np.isnan(x).any())
            return Given(Dataset(where, {OWN: Split(x, labels)}, kind, f"{name} of {where}, as it is", missing=missing))
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[-1] not in (1, 3, 4)):
            raise ValueError(
                f"{name} in {where} has shape {x.shape} and dtype {x.dtype}. Examples of the model are {self.event}"
                f"{self._wanted()}; bytes [N, H, W] or [N, H, W, C] of 0 to 255 are fitted as pictures are."
            )
        self._check_pictures(where)
        return self._given(where, *self._from_bytes(x, labels))

    def _from_bytes(
        self, x: np.ndarray, y: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None, list[Header], tuple[str, ...]]:
        """Bytes `[N, H, W(, C)]` as pictures of the model's size and channels."""
        from PIL import Image

        grey = x.ndim == 3 or x.shape[-1] == 1
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[self.channels]
        pictures = [Image.fromarray(one.reshape(one.shape[:2]) if grey else one) for one in x]
        fitted = [np.asarray(self._resized(converted(picture, mode))) for picture in pictures]
        shape = (len(x), self.height, self.width, self.channels)
        return np.stack(fitted).reshape(shape), y, [Header(x.shape[1], x.shape[2], grey)] * len(x), ()

    def _resized(self, image: Any) -> Any:
        """A PIL image of the model's height and width."""
        if self.height == self.width:
            return CentreSquare(self.height)(image)
        from PIL import Image, ImageOps

        return ImageOps.fit(image, (self.width, self.height), Image.Resampling.BICUBIC)

    def _given(
        self, where: str, x: np.ndarray, y: np.ndarray | None, headers: Sequence[Header], names: tuple[str, ...]
    ) -> Given:
        """Pictures `[N, H, W, C]` uint8 of the model's size as examples, with the line on what was done."""
        kind, turned, how = self._values(where)
        x = turned(255 - x if self.invert else x)
        sizes = [(header.height, header.width) for header in headers]
        resized = sum(min(size) != min(self.height, self.width) for size in sizes)
        cropped = sum(size[0] * self.width != size[1] * self.height for size in sizes)
        changed = sum(header.grey != (self.channels == 1) for header in headers)
        done = [
            *([f"{resized:,} resized"] if resized else []),
            *([f"{cropped:,} cropped to the centre"] if cropped else []),
            *([f"{changed:,} made {'grey' if self.channels == 1 else 'colour'}"] if changed else []),
            *(["inverted"] if self.invert else []),
            how,
        ]
        count = "one picture" if len(x) == 1 else f"{len(x):,} pictures"
        size = f"{self.height}x{self.width}x{self.channels}"
        said = f"{count} of {where}, fitted to {size}: {', '.join(done)}"
        return Given(Dataset(where, {OWN: Split(x.reshape(len(x), *self.event), y)}, kind, said), names)

    def _values(self, where: str) -> tuple[Kind, Callable[[np.ndarray], np.ndarray], str]:
        """The kind of the model's values, how bytes become them, and that in words."""
        kind, low, high = self._range()
        if kind == BINARY:
            how = self.experiment.data.binarise or "threshold"
            how = "static" if how == "dynamic" else how
            said = "binarised at one half" if how == "threshold" else "binarised by one draw, the same each time"
            return kind, lambda x: _binary(where, x, how), said
        if kind == REAL:
            return (
                kind,
                lambda x: (low + x / np.float32(255) * (high - low)).astype(np.float32),
                (f"0..255 scaled to {low:g}..{high:g}"),
            )
        values = kind.num_values
        if values == 256:
            return kind, lambda x: x, "values as they are"
        bits = self.experiment.data.bits
        if bits < 8 and values == 2**bits:
            return kind, lambda x: x >> (8 - bits), f"the top {bits} bits of each value"
        dtype = np.uint8 if values <= 256 else np.int32
        return kind, lambda x: np.rint(x * ((values - 1) / 255)).astype(dtype), f"0..255 scaled to 0..{values - 1}"

    def _range(self) -> tuple[Kind, float, float]:
        """The kind of the model's values with the smallest and largest: by its likelihood, else by the run's data."""
        likelihood = self.experiment.model.likelihood
        if likelihood is not None and likelihood.value_range is not None:
            low, high = likelihood.value_range
            whole = BINARY if high == 1 else integer(int(high) + 1)
            return whole if likelihood.discrete else REAL, low, high
        data = self.experiment.data.load()
        return data.kind, *image_range(data)

    def _allowed(self, x: np.ndarray) -> bool:
        """Whether the likelihood allows the values, NaN among them if it takes missing ones."""
        likelihood = self.experiment.model.likelihood
        if likelihood is None:
            return bool(np.isfinite(x).all())
        try:
            likelihood.check(x)
        except ValueError:
            return False
        return True

    def _wanted(self) -> str:
        likelihood = self.experiment.model.likelihood
        values = None if likelihood is None else likelihood.value_range
        return "" if values is None else f" of values {values[0]:g} to {values[1]:g}"

    def _check_pictures(self, where: str) -> None:
        """Raises ValueError if x is no picture."""
        if not self.channels:
            raise ValueError(
                f"{where}: examples of the model have shape {self.event}, which is no picture. Give an .npz with x."
            )


def _binary(where: str, x: np.ndarray, how: str) -> np.ndarray:
    """Grey bytes as 0 and 1, each channel as a grey picture would be; draws depend on the row alone."""
    flat = Dataset(where, {"test": Split(x.reshape(len(x), -1))}, integer(256), "")
    return np.asarray(binarised(flat, how).splits["test"].x[:]).reshape(x.shape)
