"""Files fetched once from the network by pooch, checked, and kept in a folder."""

import dataclasses
import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ATTEMPTS = 2
"""Attempts at each mirror."""


@dataclasses.dataclass(frozen=True)
class Remote:
    """Remote files and their addresses.

    Attributes:
      name: name of the data set, and of the folder that its files are kept in.
      mirrors: addresses to which a file's name is appended, in order of preference.
      checksums: checksum of each file by name: "sha256:" and its SHA-256, or "git:" and git's id of the content.
    """

    name: str
    mirrors: tuple[str, ...]
    checksums: Mapping[str, str]


def fetch(remote: Remote, directory: str | os.PathLike[str] | None = None) -> dict[str, Path]:
    """The remote's files by name; a file that already exists with the right checksum is not fetched again.

    Args:
      remote: what to fetch.
      directory: parent of the folder, of the remote's name, that files are kept in; None is pooch's cache,
        ~/.cache/hvae_jax on Linux. A file in `directory` itself is used as well.
    Raises FileNotFoundError if no mirror answers, ValueError if one sends another file; both name the addresses, what
    went wrong at each, and where to put the file by hand. No partial file is left behind. Raises ValueError if the
    folder would be in the home of a user who has none.
    """
    import pooch

    try:
        base = pooch.os_cache("hvae_jax") if directory is None else Path(directory).expanduser()
    except RuntimeError as error:  # no HOME, and no entry for the user
        raise ValueError(
            f"There is no home folder to keep {remote.name} in ({error}). Give a folder with --data.directory."
        ) from error
    found = {}
    for name, checksum in remote.checksums.items():
        kept = base / remote.name / name
        beside = base / name
        if beside.exists() and matches(beside, checksum):
            found[name] = beside
        elif kept.exists() and matches(kept, checksum):
            found[name] = kept
        else:
            found[name] = _fetched(remote, kept, checksum)
    return found


def matches(path: Path, checksum: str) -> bool:
    """Whether a file has this checksum."""
    return _digest(path, checksum) == checksum


def _fetched(remote: Remote, path: Path, checksum: str) -> Path:
    """Fetches one file, and replaces one that lies there."""
    import pooch
    from requests.exceptions import RequestException

    download: Any = _Checked(checksum)  # Any: pooch's own HTTPDownloader does not have the type it declares either
    known = checksum if checksum.startswith("sha256:") else None
    failures: list[str] = []
    is_other_file = False
    path.unlink(missing_ok=True)
    for url in (mirror + path.name for mirror in remote.mirrors):
        for _ in range(_ATTEMPTS):
            try:
                # pooch writes to a temporary file beside `path`, and moves it there when its checksum is right
                pooch.retrieve(url, known, path.name, path.parent, downloader=download)
                return path
            except ValueError as error:
                is_other_file = True
                failures.append(f"{url}: {error}")
            except RequestException as error:
                failures.append(f"{url}: {type(error).__name__}: {error}")
    tried = "\n  ".join(dict.fromkeys(failures))
    by_hand = f"Fetch it by hand on a machine with a network, and put it at\n  {path}"
    if is_other_file:
        raise ValueError(f"{path.name} of {remote.name} did not arrive as it should be:\n  {tried}\n{by_hand}")
    raise FileNotFoundError(f"{path.name} of {remote.name} could not be fetched:\n  {tried}\n{by_hand}")


class _Checked:
    """pooch's HTTP downloader with a check of git's checksums, which pooch does not know."""

    def __init__(self, checksum: str) -> None:
        self.checksum = checksum

    def __call__(self, url: str, output_file: Any, pooch_: Any) -> None:
        import pooch

        pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=65_536)(url, output_file, pooch_)
        got = _digest(Path(output_file), self.checksum)
        if got != self.checksum:
            raise ValueError(f"its checksum is {got}, where {self.checksum} is expected; it was removed")


def _digest(path: Path, checksum: str) -> str:
    """The file's checksum, of the same kind as `checksum`."""
    kind = checksum.partition(":")[0]
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return f"{kind}:{digest.hexdigest()}"
