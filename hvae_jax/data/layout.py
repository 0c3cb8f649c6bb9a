"""Which files of a folder are read, and which split and class each is of: all by their relative paths."""

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hvae_jax.data.splits import accepted, by_split, looks_like_split, split_of
from hvae_jax.runtime.errors import shown

_SUFFIXES = "avif bmp gif jfif jpeg jpg jp2 pbm pgm png pnm ppm tga tif tiff webp"
SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
_PICTURES = "arw cr2 cr3 dcm dng emf eps exr hdr heic heif hif ico j2k jpe jxl nef orf psd raf rw2 svg wmf xcf"
PICTURES = frozenset(f".{suffix}" for suffix in _PICTURES.split())
"""Suffixes of pictures that are not read."""
_NAMED = 5
"""Largest number of folders that a message names."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What lies at the paths that a command is given: pictures, or one file of arrays.

    Attributes:
      names: of the pictures: relative to their folder, or as given; () for an .npz.
      folder: the folder of the pictures, where that was given.
      npz: the one file of arrays.
    """

    names: tuple[str, ...] = ()
    folder: Path | None = None
    npz: Path | None = None

    @property
    def pictures(self) -> list[Path]:
        """The files of the names."""
        return [Path(name).expanduser() if self.folder is None else self.folder / name for name in self.names]


def found_at(paths: Sequence[str]) -> Found | None:
    """Pictures, one folder of them, or one .npz at paths; None if the one path can only be the name of a data set.

    Raises FileNotFoundError for a path where nothing is, and ValueError for a folder without pictures, several paths
    that are not all pictures, and one file that is neither a picture nor an .npz.
    """
    first = Path(paths[0]).expanduser()
    if len(paths) == 1 and not first.exists():
        if first.suffix or "/" in paths[0]:
            raise FileNotFoundError(f"There is no file or folder {shown(first)}.")
        return None
    if len(paths) == 1 and first.is_dir():
        names, _ = files(first)
        if not names:
            raise ValueError(f"{shown(first)} holds no images: no file in it ends in {', '.join(sorted(SUFFIXES))}.")
        return Found(tuple(names), folder=first)
    if len(paths) == 1 and first.suffix == ".npz":
        return Found(npz=first)
    found = Found(tuple(paths))
    for path in found.pictures:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {shown(path)}; give pictures, or one folder or .npz alone.")
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{shown(path)} is no picture; give pictures, or one folder or .npz alone.")
    return found


def files(root: Path) -> tuple[list[str], Counter[str]]:
    """Relative paths of images, with `/` and sorted, and the number of other files by suffix; none that is hidden.

    Links to folders are followed, to each real folder once. Raises ValueError for a folder that cannot be listed.
    """
    found: list[str] = []
    others: Counter[str] = Counter()
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_unlisted):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(folder).relative_to(root)
        paths = [inside / name for name in names if not name.startswith(".")]
        found += [path.as_posix() for path in paths if path.suffix.lower() in SUFFIXES]
        others.update(path.suffix.lower() for path in paths if path.suffix.lower() not in SUFFIXES)
    return sorted(found), others


def _unlisted(error: OSError) -> None:
    where = shown(error.filename or "")
    raise ValueError(
        f"The folder {where} cannot be listed ({error.strerror}). Make it readable, or move it."
    ) from error


def split_folders(root: Path, names: list[str]) -> dict[str, str]:
    """The top folder of each split, by split; none if there are no splits.

    Raises ValueError where a folder looks like a split and is none that can be used: by its name, beside another of the
    same split, without a train folder, below another folder, or if train is beside folders that are no splits.
    """
    tops = sorted({name.partition("/")[0] for name in names if "/" in name})
    found = by_split(tops, shown(root))
    beside = [top for top in tops if top not in found.values()]
    alike = [top for top in beside if looks_like_split(top)]
    if alike:
        raise ValueError(
            f"{shown(root)} holds {_listed(alike)}, which looks like a split under another name. Rename it: a split is "
            f"train, validation or test; {accepted()}."
        )
    if found and "train" not in found:
        raise ValueError(
            f"{shown(root)} holds {_listed(list(found.values()))}, but no train folder: all its images would be "
            "trained on. Put those to train on into train/, or give another folder."
        )
    if beside and list(found) == ["train"]:
        raise ValueError(
            f"{shown(root)} holds {shown(found['train'])} and {_listed(beside)}. If that is a class named "
            f"{shown(found['train'])}, put all classes into one folder, train; if it is a split, put the others into "
            "validation or test."
        )
    if not found:
        _refuse_inner_splits(root, names)
    return found


def _refuse_inner_splits(root: Path, names: list[str]) -> None:
    """Raises ValueError if folders of splits lie below others."""
    found: dict[str, str] = {}
    for folders in {tuple(name.split("/")[:-1]) for name in names}:
        for depth, folder in enumerate(folders):
            if depth and (split := split_of(folder)):
                path = "/".join(folders[: depth + 1])
                found[split] = min(path, found.get(split, path))
    if len(found) > 1 and "train" in found:
        raise ValueError(
            f"{shown(root)} has its splits below other folders, such as {_listed(sorted(found.values()))}: all would "
            "be trained on. Give the folder that holds train, or put the splits at the top."
        )


def parts(names: list[str], folders: dict[str, str]) -> tuple[dict[str, list[int]], str]:
    """Positions of the names by split, and a note on how they were split.

    Args:
      names: relative paths.
      folders: what `split_folders` returned.
    Raises ValueError if too few are left to train on.
    """
    split_at = {folder: split for split, folder in folders.items()}
    found: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for i, name in enumerate(names):
        found[split_at[name.partition("/")[0]] if folders else "train"].append(i)
    train, note = found["train"], ""
    needed = 1 if found["validation"] else 2
    if len(train) < needed:
        raise ValueError(
            f"Images to train on: {len(train)}, where at least {needed} are needed; one of them may have to validate."
        )
    if not found["validation"]:
        by_hash = sorted(train, key=lambda i: hashlib.sha256(os.fsencode(names[i])).digest())
        held = set(by_hash[: max(1, len(train) // 10)])
        note = f", validation = a tenth of the train images ({len(held):,}), by hash of their names"
        found |= {"train": [i for i in train if i not in held], "validation": sorted(held)}
    return {part: where for part, where in found.items() if where}, note


def labels(found: dict[str, list[int]], names: list[str], has_splits: bool) -> dict[str, np.ndarray | None]:
    """The class of each image by split; None if train has fewer than two classes, or an image has none."""

    def class_of(name: str) -> str:
        folders = name.split("/")[:-1]
        return next(iter(folders[1:] if has_splits else folders), "")

    classes = {part: [class_of(names[i]) for i in where] for part, where in found.items()}
    number = {name: i for i, name in enumerate(sorted({name for part in classes.values() for name in part}))}
    if "" in number or len(set(classes["train"])) < 2:
        return dict.fromkeys(found)
    return {part: np.array([number[name] for name in of_each], np.int32) for part, of_each in classes.items()}


def counted(others: Counter[str]) -> str:
    """Numbers of files by suffix, in words."""
    ordered = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    most = [f"{count:,} {shown(suffix) or 'without suffix'}" for suffix, count in ordered[:_NAMED]]
    rest = sum(count for _, count in ordered[_NAMED:])
    return ", ".join([*most, f"{rest:,} others"] if rest else most)


def _listed(folders: list[str]) -> str:
    named = ", ".join(shown(folder) for folder in folders[:_NAMED])
    return f"{named} and {len(folders) - _NAMED:,} more" if len(folders) > _NAMED else named
