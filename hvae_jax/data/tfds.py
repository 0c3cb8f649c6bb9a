"""Data sets that TFDS has prepared as ArrayRecord, read where they lie, without TensorFlow."""

import dataclasses
import difflib
import functools
import io
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hvae_jax.data.dataset import BINARY, Dataset, Kind, Split, integer
from hvae_jax.data.images import CentreSquare
from hvae_jax.data.prepare import split_off
from hvae_jax.data.rows import LazyRows, blocks, for_each, hashed, in_memory, sampled_hash
from hvae_jax.data.splits import SEED, by_split, check_labels, drawn, split_of, warn_of_labels

PREFIX = "tfds:"
_PARTS = ("train", "validation", "test")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def from_tfds(
    name: str, directory: str | None = None, *, size: int | None = None, in_memory_bytes: int = 2**30
) -> Dataset:
    """Any image data set of TFDS that is prepared as ArrayRecord; reading it needs no TensorFlow.

    Splits and the order of examples are TFDS's; splits may have the other names in `splits.NAMES`. Without a validation
    split, the last sixth of train, at most 10,000 examples, is the validation split; as many are drawn with a fixed
    seed where TFDS has not shuffled the examples. Labels are whole numbers named "label"; a split whose labels are all
    -1, as TFDS marks missing ones, has none. Values are binary if every one is 0 or 1, else integers 0..255. With
    `size`, the shorter side of each image is resized to it and the centre cropped, as for a folder of images. A split
    that exceeds `in_memory_bytes` is read on access, and has no labels.

    Raises ValueError for a name that TFDS does not know, and for data without 8-bit images or with images that differ
    in size; FileNotFoundError, with the command that prepares it, if it is not prepared.
    """
    fit = None if size is None else CentreSquare(size)
    rows = open_tfds(name, directory, _PARTS, fit, None if size is None else (size, size))
    splits = {part: read_split(source, in_memory_bytes) for part, source in rows.items()}
    protocol = f"TFDS {rows['train'].full_name}"
    if size is not None:
        protocol += f", shorter side resized to {size}, centre cropped"
    if "validation" not in splits:
        count = len(splits["train"])
        held = max(1, min(10_000, count // 6))
        in_order = rows["train"].source.dataset_info.disable_shuffling  # as they came, perhaps sorted by class
        splits = split_off(splits, drawn(count, held) if in_order else held)
        how = f"{held:,} train examples drawn with seed {SEED}" if in_order else f"last {held:,} train examples"
        protocol += f", validation = {how}"
    splits = {part: Split(in_memory(split.x, in_memory_bytes), split.y) for part, split in splits.items()}
    warn_of_labels(PREFIX + name, splits)
    return Dataset(PREFIX + name, splits, _kind(splits), protocol)


def open_tfds(
    name: str,
    directory: str | None,
    parts: Sequence[str],
    fit: Callable[[Any], Any] | None = None,
    fitted: tuple[int, int] | None = None,
    channels: int | None = None,
) -> "dict[str, TfdsRows]":
    """The rows of those of `parts` that the data set has, by name.

    Args:
      name: as `tfds.builder` takes it.
      directory: a data_dir of TFDS, or the folder that it lies in.
      parts: names of splits.
      fit: applied to each PIL image; None leaves it.
      fitted: (height, width) of an image after `fit`; None is the data set's.
      channels: number of channels; None is the data set's.
    Raises as `from_tfds` does.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError("TFDS is needed for tfds: data sets: pip install tensorflow-datasets.") from error

    directory = _data_dir(name, directory)
    try:
        builder = tfds.builder(name, data_dir=directory)
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name, _builders(tfds.list_builders), n=3, cutoff=0.6)
        hint = f" Did you mean {' or '.join(PREFIX + n for n in near)}?" if near else ""
        raise ValueError(f"TFDS has no data set {name!r}.{hint}") from error
    event = _event(name, builder.info.features or {}, fitted, channels)
    try:
        found = _named(list(builder.info.splits), parts, PREFIX + name)
        rows = {part: TfdsRows(builder.as_data_source(split=own), own, event, fit) for part, own in found.items()}
    except (NotImplementedError, AssertionError, FileNotFoundError) as error:
        raise _not_prepared(name, directory or str(tfds.core.constants.DATA_DIR)) from error
    if "train" not in rows:
        raise ValueError(f"tfds:{name} has the splits {list(builder.info.splits)}, but no 'train'.")
    return rows


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsRows(LazyRows):
    """Images of one split of a TFDS data source, decoded by PIL on access.

    Attributes:
      source: what `as_data_source` returned.
      split: name of the split.
      event: (height, width, channels) of an image after `fit`.
      fit: applied to each PIL image: a frozen record, whose repr is hashed and so has to say all of it; None leaves it.
    """

    source: Any
    split: str
    event: tuple[int, int, int]
    fit: Callable[[Any], Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, *event)`."""
        return (len(self.source), *self.event)

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        return np.dtype(np.uint8)

    @property
    def full_name(self) -> str:
        """The data set's name with its version, such as mnist/3.0.1."""
        return self.source.dataset_info.full_name

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of its files' names and sizes and of pieces of their contents."""
        folder = Path(self.source.dataset_info.data_dir)
        files = sorted(folder.glob(f"*-{self.split}.array_record*"))
        return hashed([self.full_name, self.split, repr(self.event), repr(self.fit), sampled_hash(files)])

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The examples with these row numbers, `[n, *event]`."""
        return self.examples(numbers)[0]

    def examples(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Images `[n, H, W, C]` and their labels, int64 `[n]`, or None."""
        import tensorflow_datasets as tfds

        info, decoders = self.source.dataset_info, {"image": tfds.decode.SkipDecoding()}
        x = np.empty((len(numbers), *self.event), np.uint8)
        y = np.empty(len(numbers), np.int64) if _has_labels(info.features) else None
        for i, record in enumerate(self._records([int(number) for number in numbers])):
            example = info.features.deserialize_example_np(record, decoders=decoders)
            x[i] = self._decoded(example["image"], int(numbers[i]))
            if y is not None:
                y[i] = example["label"]
        return x, y

    def _records(self, numbers: list[int]) -> Sequence[Any]:
        raw = self.source.data_source
        try:
            return raw.__getitems__(numbers) if numbers else []  # many times faster than one by one
        except TypeError:  # of tfds.testing.mock_data, whose __getitems__ lacks an argument
            return [raw[number] for number in numbers]

    def _decoded(self, image: Any, number: int) -> np.ndarray:
        """The array of an encoded image, or of an array such as tfds.testing.mock_data makes up.

        Raises ValueError for an image of another size.
        """
        from PIL import Image

        if isinstance(image, np.ndarray):
            if self.fit is None:
                return image
            picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        else:
            picture = Image.open(io.BytesIO(image))
        if self.fit is not None:
            picture = self.fit(picture)
        mode = _MODES[self.event[2]]
        picture = picture if picture.mode == mode else picture.convert(mode)
        if (picture.height, picture.width) != self.event[:2]:
            raise ValueError(
                f"Image {number} of the {self.split} split of {self.full_name} has {picture.height} x {picture.width} "
                f"pixels, not {self.event[0]} x {self.event[1]}. Give --data.size, to which all are brought."
            )
        return np.asarray(picture).reshape(self.event)


def read_split(rows: TfdsRows, limit: int) -> Split:
    """The split in memory with its labels, if it takes at most `limit` bytes; else read on access, without labels."""
    split = Split(rows)
    if split.nbytes > limit:
        return split
    return _examples(rows, np.arange(len(rows)))


def original_order(name: str, directory: str | None) -> dict[str, Split]:
    """The splits of a prepared data set in memory, in the order in which its builder numbered the examples.

    TFDS writes examples in the order of a hash of their numbers.
    """
    from tensorflow_datasets.core import hashing

    splits = {}
    for part, rows in open_tfds(name, directory, _PARTS).items():
        hasher = hashing.Hasher(part)
        place = np.empty(len(rows), np.int64)
        place[sorted(range(len(rows)), key=hasher.hash_key)] = np.arange(len(rows))
        stored = _examples(rows, np.arange(len(rows)))
        splits[part] = stored.take(place)
    return splits


def is_prepared(name: str, directory: str | None) -> bool:
    """Whether `directory`, or a folder in it, holds a copy that TFDS has prepared."""
    where = _data_dir(name, directory)
    return where is not None and _holds(Path(where), name)


def _data_dir(name: str, directory: str | None) -> str | None:
    """The directory, or the one folder in it that holds the data set, where the directory itself does not.

    Raises ValueError if several do.
    """
    if directory is None:
        return None
    given = Path(directory).expanduser()
    name = name.partition(":")[0]  # without a version
    inner = [] if _holds(given, name) else [folder for folder in sorted(given.glob("*")) if _holds(folder, name)]
    if len(inner) > 1:
        raise ValueError(
            f"{given} holds no {name}, but {' and '.join(folder.name for folder in inner)} in it do. Give one of them "
            "as --data.directory."
        )
    return str(inner[0]) if inner else directory


def _holds(folder: Path, name: str) -> bool:
    return any((folder / name).glob("**/dataset_info.json"))


def _named(known: list[str], parts: Sequence[str], where: str) -> dict[str, str]:
    """The names of the splits `parts` in a data set: their own, or else another that such a split may have."""
    if not known:  # of tfds.testing.mock_data, which says nothing of splits
        return {part: part for part in parts}
    others = by_split([name for name in known if split_of(name) not in known], where)
    return {part: part if part in known else others[part] for part in parts if part in known or part in others}


def _has_labels(features: Any) -> bool:
    """Whether there is one whole number named "label"; some data sets have text, a float or a box of that name."""
    if "label" not in features:
        return False
    label = features["label"]
    return label.shape == () and np.issubdtype(label.np_dtype, np.integer)


def _examples(rows: TfdsRows, numbers: np.ndarray) -> Split:
    """The examples with these row numbers, read by several threads."""
    parts = for_each(lambda block: rows.examples(numbers[block.start : block.stop]), blocks(len(numbers)))
    x = np.concatenate([x for x, _ in parts])
    if parts[0][1] is None:
        return Split(x)
    y = np.concatenate([labels for _, labels in parts])
    return Split(x, None if (y == -1).all() else check_labels(f"The {rows.split} split of {rows.full_name}", y, len(x)))


def _event(name: str, features: Any, fitted: tuple[int, int] | None, channels: int | None) -> tuple[int, int, int]:
    """(height, width, channels) of the images. Raises ValueError if they are not of 8 bits or differ in size."""
    if "image" not in features:
        raise ValueError(f"tfds:{name} has the features {list(features)}, but no 'image'.")
    image = features["image"]
    if len(image.shape) != 3 or np.dtype(image.np_dtype) != np.uint8:
        raise ValueError(
            f"tfds:{name} has images of shape {image.shape} and dtype {np.dtype(image.np_dtype)}, but [H, W, C] of "
            "8 bits are needed."
        )
    height, width = image.shape[:2] if fitted is None else fitted
    if height is None or width is None:
        raise ValueError(f"tfds:{name} has images that differ in size. Give --data.size, to which all are brought.")
    count = channels or image.shape[2] or 3
    if count not in _MODES:
        raise ValueError(f"tfds:{name} has images of {count} channels, but 1, 3 or 4 are needed.")
    return height, width, count


def _kind(splits: dict[str, Split]) -> Kind:
    """Binary if no value exceeds 1, else integers 0..255."""
    # Natural images have a larger value in their first rows; binary ones are read through.
    below = all(
        split.x[block.start : block.stop].max() <= 1 for split in splits.values() for block in blocks(len(split))
    )
    return BINARY if below else integer(256)


def _not_prepared(name: str, where: str) -> FileNotFoundError:
    # `tfds build` would be shorter, but that of TFDS 4.9.10 does not start without Apache Beam
    builder = f"tfds.builder({name!r}, data_dir={where!r}, file_format='array_record')"
    program = f"import tensorflow_datasets as tfds; {builder}.download_and_prepare()"
    quoted = shlex.quote(program) if set(program) & set('"$`\\') else f'"{program}"'
    return FileNotFoundError(
        f"tfds:{name} is not prepared as ArrayRecord in {where}. Prepare it once, on a machine with a network:\n"
        "  pip install tensorflow tensorflow-datasets importlib_resources scipy\n"
        f"  python -c {quoted}\n"
        "or give the folder that holds it as --data.directory."
    )


def _builders(list_builders: Callable[..., list[str]]) -> list[str]:
    """Names of TFDS's own data sets; for the community's it would ask the network."""
    try:
        return list_builders(with_community_datasets=False)
    except Exception:
        return []
