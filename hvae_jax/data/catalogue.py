"""Data sets by name."""

import difflib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from hvae_jax.data.cifar import cifar10
from hvae_jax.data.clips import MOVING, frames_of, moving_digits
from hvae_jax.data.count_table import COUNTS, count_table
from hvae_jax.data.dataset import Dataset
from hvae_jax.data.folder import BAD_FILES, from_folder
from hvae_jax.data.mnist_family import binarized_mnist, fashion_mnist, mnist
from hvae_jax.data.natural import celeb_a64, downsampled_imagenet, imagenet_resized, svhn_cropped
from hvae_jax.data.npz import from_npz
from hvae_jax.data.omniglot28 import omniglot, omniglot_resized
from hvae_jax.data.prepare import prepare
from hvae_jax.data.sklearn_digits import digits
from hvae_jax.data.tfds import PREFIX, from_tfds

# Fetched into memory.
FETCHED: Mapping[str, Callable[..., Dataset]] = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "binarized_mnist": binarized_mnist,
    "omniglot": omniglot,
    "cifar10": cifar10,
}
# Prepared by TFDS, and read where they lie if they are large.
PREPARED: Mapping[str, Callable[..., Dataset]] = {
    "omniglot_resized": omniglot_resized,
    "svhn_cropped": svhn_cropped,
    "imagenet32": functools.partial(imagenet_resized, 32),
    "imagenet64": functools.partial(imagenet_resized, 64),
    "downsampled_imagenet32": functools.partial(downsampled_imagenet, 32),
    "downsampled_imagenet64": functools.partial(downsampled_imagenet, 64),
    "celeb_a64": celeb_a64,
}
NAMES = ("digits", MOVING, COUNTS, *FETCHED, *PREPARED)
"""The names of the data sets that `load` knows, beside "tfds:NAME" and paths."""
_KNOWN = (
    f"Known are {', '.join(NAMES)}; 'moving_digits:6', with another number of frames; 'tfds:NAME' for any image data "
    "set of TFDS; and the path of an .npz file or of a folder of images."
)


def load(
    name: str,
    directory: str | None = None,
    *,
    binarise: str | None = None,
    flip: bool = False,
    bits: int = 8,
    size: int | None = None,
    bad_files: str = "refuse",
    in_memory_bytes: int = 2**30,
    missing: str | None = None,
) -> Dataset:
    """Load a data set by name.

    Args:
      name: one of `NAMES`, whose functions describe contents and splits; "tfds:NAME" for any other image data set of
        TFDS, such as "tfds:cars196"; the path of an .npz; or the path of a folder of images.
      directory: directory of fetched files, TFDS's data_dir, or the folder that it lies in; None is the default of
        pooch or TFDS.
      binarise: "dynamic", "static" or "threshold" (`prepare.binarised`); None leaves values as they are.
      flip: whether training mirrors images at random.
      bits: number of the 8 bits of a pixel that are kept.
      size: length that the shorter side of images of a folder or of "tfds:NAME" is resized to before the centre is
        cropped; None leaves them. Of moving_digits, height and width of a frame; None is 16.
      bad_files: "refuse" or "skip" unusable files of a folder.
      in_memory_bytes: size from which a split of TFDS or of a folder is read where it lies.
      missing: how an .npz says what is missing, "nan" or "mask" (`from_npz`); None refuses NaN.
    Raises ValueError for an unknown name (with the nearest), settings that do not fit the data, and unusable data;
    FileNotFoundError for a path that does not exist and, with what to do, for data that is not prepared or cannot be
    fetched.

    Example:
        >>> dataset = hv.data.load("digits", binarise="threshold")
        >>> dataset.kind.name, {name: len(split.x) for name, split in dataset.splits.items()}
        ('binary', {'train': 1000, 'validation': 350, 'test': 447})
    """
    if bad_files not in BAD_FILES:
        raise ValueError(f"bad_files={bad_files!r}: it has to be one of {' and '.join(BAD_FILES)}.")
    if directory is not None and not directory.strip():
        raise ValueError(
            f"directory={directory!r} names no directory. Leave it out, or give a dot for the current one."
        )
    if missing is not None and not name.endswith(".npz"):
        raise ValueError(f"missing={missing!r} is for an .npz; {name} lacks nothing. hidden=0.3 hides a share of it.")
    dataset = _load(name, directory, size, bad_files, in_memory_bytes, missing)
    return prepare(dataset, binarise=binarise, flip=flip, bits=bits)


def check_name(name: str) -> None:
    """Refuse what is neither the name of a data set nor a path: ValueError with the nearest name. Nothing is read.

    Example:
        >>> hv.data.check_name("digitz")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: Unknown data set 'digitz'. Did you mean 'digits'? ...
    """
    if not name.removeprefix(PREFIX).strip():
        raise ValueError(f"The data set's name is {name!r}, which names none. {_KNOWN}")
    if frames_of(name) is not None:
        return
    if name in NAMES or name.startswith(PREFIX) or name.endswith(".npz") or _is_path(name):
        return
    near = difflib.get_close_matches(name.removeprefix("tfds-"), NAMES, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"Unknown data set {name!r}.{hint} {_KNOWN}")


def check_size(name: str, size: int | None) -> None:
    """Refuse a size for data that has one of its own, a named set or an .npz: ValueError. Nothing is read.

    Example:
        >>> from hvae_jax.data.catalogue import check_size
        >>> check_size("mnist", 16)
        Traceback (most recent call last):
        ValueError: size=16 is for folders of images, tfds:NAME and clips; mnist has the size it has.
    """
    if size is not None and frames_of(name) is None and (name in NAMES or name.endswith(".npz")):
        raise ValueError(f"size={size} is for folders of images, tfds:NAME and clips; {name} has the size it has.")


def _load(
    name: str, directory: str | None, size: int | None, bad_files: str, limit: int, missing: str | None
) -> Dataset:
    check_name(name)
    if name.startswith(PREFIX):
        return from_tfds(name.removeprefix(PREFIX), directory, size=size, in_memory_bytes=limit)
    frames = frames_of(name)
    if frames is not None:
        return moving_digits(frames, 16 if size is None else size)
    if name not in NAMES and not name.endswith(".npz") and _is_path(name):
        return from_folder(name, size=size, bad_files=bad_files, in_memory_bytes=limit)
    check_size(name, size)
    if name == "digits":
        return digits()
    if name == COUNTS:
        return count_table()
    if name in FETCHED:
        return FETCHED[name](directory)
    if name in PREPARED:
        return PREPARED[name](directory, in_memory_bytes=limit)
    return from_npz(name, missing)


def _is_path(name: str) -> bool:
    return "/" in name or name.startswith(("~", ".")) or Path(name).is_dir()
