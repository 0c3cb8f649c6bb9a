"""A folder of images as a data set, read where it lies."""

import dataclasses
import functools
import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hvae_jax.data.dataset import Dataset, Split, integer
from hvae_jax.data.images import BadImageError, CentreSquare, Header, read_header, read_image
from hvae_jax.data.layout import PICTURES, SUFFIXES, counted, files, labels, parts, split_folders
from hvae_jax.data.rows import LazyRows, blocks, for_each, hashed, in_memory
from hvae_jax.data.splits import warn_of_labels
from hvae_jax.runtime.errors import shown

BAD_FILES = ("refuse", "skip")
_NAMED = 5
"""Largest number of bad files that a message names."""


def from_folder(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    bad_files: str = "refuse",
    in_memory_bytes: int = 2**30,
) -> Dataset:
    """The images of a folder and its subfolders, `[N, H, W, C]` uint8 0..255.

    Files: all whose names end in one of `SUFFIXES`, except hidden ones, in the order of their relative paths. Others
    are passed over and counted, with a warning if they are pictures of another format, such as HEIC.

    Splits: the subfolders train, validation and test, whatever their case, or by the other names in `splits.NAMES`,
    such as training, val and dev; images beside them are left out with a warning. Folders that look like splits and
    cannot be used as such are refused. Without a validation folder, the tenth of the train images whose relative paths
    have the smallest SHA-256 is the validation split, which adding files barely changes. If every file of the splits
    lies in a subfolder, and train has two subfolders or more, these are the classes, labelled in the order of their
    names.

    Pixels: with `size`, the shorter side is resized to it (PIL's bicubic filter, antialiased) and the centre cropped;
    without it, all images must have one size. Images are rotated as their EXIF or XMP says, palettes become RGB,
    transparent pixels are laid on white. C is 1 if every file is stored as grey, otherwise 3 for all.

    Bad files are those that are empty, unreadable, cut short, animated, of more than 8 bits per channel, CMYK, or
    larger than Pillow opens safely. `bad_files="refuse"` raises, "skip" ignores them with a warning that names them.
    All headers are read at the start. Pixels are read too if all splits fit into `in_memory_bytes`, or to find the
    files to skip. With "refuse", a file of a larger folder that proves to be cut short raises when it is read.

    Raises FileNotFoundError for a path that is no folder, and ValueError, naming the files, for everything else.
    """
    if bad_files not in BAD_FILES:
        raise ValueError(f"bad_files={bad_files!r}: it has to be one of {' and '.join(BAD_FILES)}.")
    fit = None if size is None else CentreSquare(size)
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"There is no folder {root}. Give the path of a folder of images, or tfds:NAME for a data set of TFDS."
        )
    found, others = files(root)
    folders = split_folders(root, found)
    used = [name for name in found if name.partition("/")[0] in folders.values()] if folders else found
    if not used:
        passed = f" Passed over: {counted(others)}." if others else ""
        raise ValueError(f"{shown(root)} holds no images: no file in it ends in {', '.join(sorted(SUFFIXES))}.{passed}")
    _warn_of_the_rest(root, len(found) - len(used), others)

    bad = _Bad(root, bad_files)
    names, headers = bad.keep(used, functools.partial(_header, root))
    height, width = (size, size) if size is not None else _one_size(root, names, headers)
    channels = 1 if all(header.grey for header in headers) else 3
    event = (height, width, channels)
    pixels: list[np.ndarray] = []
    rows = ImageRows(str(root), tuple(names), event, fit)
    if len(names) * height * width * channels <= in_memory_bytes:
        names, pixels = bad.keep(names, rows.image)
    elif bad.skips:
        names, _ = bad.keep(names, rows.check)
    bad.warn()

    found_parts, note = parts(names, folders)
    y, splits = labels(found_parts, names, bool(folders)), {}
    for part, where in found_parts.items():
        rows = ImageRows(str(root), tuple(names[i] for i in where), event, fit)
        x = np.stack([pixels[i] for i in where]) if pixels else in_memory(rows, in_memory_bytes)
        splits[part] = Split(x, y[part])
    warn_of_labels(shown(root), splits)
    note += f", bad files skipped: {len(bad.reasons):,}" if bad.reasons else ""
    note += f", other files passed over: {counted(others)}" if others else ""
    done = "as stored" if size is None else f"shorter side resized to {size} (bicubic), centre cropped"
    return Dataset(shown(root), splits, integer(256), f"images of {shown(root.name)}, {done}{note}")


def _warn_of_the_rest(root: Path, beside: int, others: Counter[str]) -> None:
    """Warns of images beside the folders of the splits, and of pictures that are not read."""
    said = [f"images beside the folders of the splits ({beside:,})"] if beside else []
    unread = Counter({suffix: count for suffix, count in others.items() if suffix in PICTURES})
    said += [f"pictures of other formats ({counted(unread)}): convert them to PNG"] if unread else []
    if said:
        warnings.warn(f"Left out of {shown(root)}: {'; '.join(said)}.", stacklevel=3)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageRows(LazyRows):
    """Images that are decoded on access.

    Attributes:
      root: the folder.
      names: relative path of each row.
      event: (height, width, channels) of an image after `fit`.
      fit: applied to each PIL image; None leaves it.
    """

    root: str
    names: tuple[str, ...]
    event: tuple[int, int, int]
    fit: Callable[[Any], Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, *event)`."""
        return (len(self.names), *self.event)

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        return np.dtype(np.uint8)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the names and sizes of all files, and of the first 64 KiB of 256 of them, evenly spaced."""
        sizes = [str(Path(self.root, name).stat().st_size) for name in self.names]
        read = [self.names[i * len(self.names) // 256] for i in range(256)] if len(self.names) > 256 else self.names
        digest = hashlib.sha256()
        for name in read:
            with Path(self.root, name).open("rb") as file:
                digest.update(file.read(65_536))
        return hashed([*self.names, *sizes, digest.hexdigest(), repr(self.event), repr(self.fit)])

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The examples with these row numbers, `[n, *event]`."""
        x = np.empty((len(numbers), *self.event), np.uint8)
        for i, number in enumerate(numbers):
            x[i] = self._or_named(self.names[number])
        return x

    def image(self, name: str) -> np.ndarray:
        """One file's pixels. Raises BadImageError."""
        x = read_image(str(Path(self.root, name)), self.event[2], self.fit)
        if x.shape != self.event:
            raise BadImageError(f"has become {x.shape[0]} x {x.shape[1]} pixels, where its header said otherwise")
        return x

    def check(self, name: str) -> None:
        """Decodes one file. Raises BadImageError."""
        self.image(name)

    def _or_named(self, name: str) -> np.ndarray:
        try:
            return self.image(name)
        except (BadImageError, OSError) as error:
            raise ValueError(
                f"{shown(Path(self.root, name))} {error}. Its header was fine when the folder was read. Mend or remove "
                "it, or leave it out with --data.bad-files skip, which decodes every file at the start."
            ) from error


class _Bad:
    """The bad files of a folder: refused at once, or collected and warned of together.

    Attributes:
      root: the folder.
      skips: whether they are skipped.
      reasons: what is wrong with each, by name.
    """

    def __init__(self, root: Path, bad_files: str) -> None:
        self.root = root
        self.skips = bad_files == "skip"
        self.reasons: dict[str, str] = {}

    def keep(self, names: list[str], read: Callable[[str], Any]) -> tuple[list[str], list[Any]]:
        """The names that `read` accepts, and what it returns for them."""
        results = [
            result
            for block in for_each(lambda b: [_tried(read, names[i]) for i in b], blocks(len(names), 64))
            for result in block
        ]
        bad = {name: str(result) for name, result in zip(names, results, strict=True) if isinstance(result, Exception)}
        self.reasons |= bad
        if bad and not self.skips:
            raise ValueError(f"{self._said(bad)}\nMend or remove them, or leave them out with --data.bad-files skip.")
        if len(bad) == len(names):
            raise ValueError(f"No image of {shown(self.root)} will do. {self._said(bad)}")
        good = [(name, result) for name, result in zip(names, results, strict=True) if name not in bad]
        return [name for name, _ in good], [result for _, result in good]

    def warn(self) -> None:
        if self.reasons:
            warnings.warn(f"Left out: {self._said(self.reasons)}", stacklevel=3)

    def _said(self, reasons: dict[str, str]) -> str:
        named = "".join(f"\n  {shown(self.root / name)} {why}" for name, why in list(reasons.items())[:_NAMED])
        more = f"\n  and {len(reasons) - _NAMED:,} more" if len(reasons) > _NAMED else ""
        count = "one file is" if len(reasons) == 1 else f"{len(reasons):,} files are"
        return f"{count} no image of 8 bits per channel:{named}{more}"


def _tried(read: Callable[[str], Any], name: str) -> Any:
    try:
        return read(name)
    except BadImageError as error:
        return error
    except OSError as error:
        return BadImageError(f"cannot be read ({error.strerror or error})")


def _header(root: Path, name: str) -> Header:
    return read_header(str(root / name))


def _one_size(root: Path, names: list[str], headers: list[Header]) -> tuple[int, int]:
    """(height, width) of all images. Raises ValueError naming the first that differs."""
    first = headers[0]
    for name, header in zip(names, headers, strict=True):
        if (header.height, header.width) != (first.height, first.width):
            raise ValueError(
                f"{shown(root / names[0])} has {first.height} x {first.width} pixels and {shown(root / name)} has "
                f"{header.height} x {header.width}: one size is needed. With --data.size N each is resized and cropped "
                "to N x N."
            )
    return first.height, first.width
