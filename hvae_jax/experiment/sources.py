"""Images that a command is given: files of pictures, a folder of them, an .npz, a data set, or the run's own split."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hvae_jax.data.images import BadImageError, read_image
from hvae_jax.data.layout import found_at
from hvae_jax.experiment.records import Experiment
from hvae_jax.runtime.errors import shown
from hvae_jax.runtime.npz import array_headers, check_sizes, read_arrays


@dataclasses.dataclass(frozen=True)
class Source:
    """Images with their names.

    Attributes:
      x: `[N, *event]`.
      names: of the files, relative to their folder, with `/`; () for images that are no files.
      described: what they are, in a few words.
    """

    x: np.ndarray
    names: tuple[str, ...]
    described: str


def read_source(
    experiment: Experiment,
    paths: Sequence[str],
    *,
    split: str | None = None,
    examples: int | None = None,
    directory: str | None = None,
) -> Source:
    """The images at paths, or of a data set.

    Args:
      paths: files of pictures, one folder of them, one .npz, or one name of a data set, which is prepared as the run's
        own is; none takes the run's own data.
      split: of a data set or an .npz with several; the last one by default.
      examples: number of images taken, the first ones; None takes all.
      directory: of prepared TFDS data; None takes the run's.
    Raises ValueError, with what would do, for paths of several kinds, a folder without pictures, pictures of several
    sizes or that cannot be read, an .npz without images and a split that is not there; FileNotFoundError.
    """
    if examples is not None and examples < 1:
        raise ValueError(f"--examples is {examples}, but it has to be 1 or more.")
    image = experiment.model.image
    channels = image[-1] if image is not None and len(image) == 3 else None
    found = _of_paths(paths, channels, split) if paths else None
    if found is None:
        name = paths[0] if paths else None
        data = experiment.data.load() if name is None else experiment.data.of_other(name, directory)
        wanted = split or list(data.splits)[-1]
        if wanted not in data.splits:
            raise ValueError(f"{data.name} has no split {wanted!r}; it has {list(data.splits)}.")
        x = np.asarray(data.splits[wanted].x[:examples])
        found = Source(x, (), f"{wanted} split of {data.name}")
    return dataclasses.replace(found, x=found.x[:examples], names=found.names[:examples])


def _of_paths(paths: Sequence[str], channels: int | None, split: str | None) -> Source | None:
    """The images at paths; None if the one path is the name of a data set."""
    found = found_at(paths)
    if found is None:
        return None
    if found.npz is not None:
        return _arrays(found.npz, split)
    if found.folder is not None:
        described = f"{len(found.names):,} pictures of {shown(found.folder)}"
        return Source(_pictures(found.pictures, channels), found.names, described)
    names = tuple(path.name for path in found.pictures)
    if len(set(names)) < len(names):
        raise ValueError("Two of the pictures have the same name: put them into folders, and give the folder of those.")
    return Source(_pictures(found.pictures, channels), names, f"{len(names):,} pictures")


def _pictures(paths: Sequence[Path], channels: int | None) -> np.ndarray:
    """Pictures of one size, `[N, H, W, C]` uint8. C is 1 or 3 as the model has it, or as the first picture has it."""
    from PIL import Image

    pictures: list[np.ndarray] = []
    for path in paths:
        try:
            if channels is None:
                with Image.open(path) as image:
                    channels = 1 if image.mode in ("1", "L") else 3
            pictures.append(read_image(str(path), channels))
        except (BadImageError, OSError) as error:
            raise ValueError(f"{shown(path)} {error}.") from error
        if pictures[-1].shape != pictures[0].shape:
            raise ValueError(
                f"{shown(path)} has {pictures[-1].shape[0]} x {pictures[-1].shape[1]} pixels, but {shown(paths[0])} "
                f"has {pictures[0].shape[0]} x {pictures[0].shape[1]}: one size is needed."
            )
    return np.stack(pictures)


def _arrays(path: Path, split: str | None) -> Source:
    """The images of an .npz: `x`, `x_SPLIT`, or its only array."""
    headers = array_headers(path)
    names = list(headers)
    wanted = [f"x_{split}"] if split else ["x", "x_test"]
    name = next((one for one in wanted if one in names), names[0] if len(names) == 1 and not split else None)
    if name is None:
        raise ValueError(f"{shown(path)} holds {names}, but none of {wanted}: name the array of images x.")
    chosen = {name: headers[name]}
    check_sizes(path, chosen)
    return Source(next(array for _, array in read_arrays(path, chosen)), (), f"{name} of {shown(path)}")
