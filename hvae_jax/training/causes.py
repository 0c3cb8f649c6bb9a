"""The causes of what cannot be read or written, in words: the first one, below the layers of Orbax and TensorStore."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

_MAKE_ROOM = "Make room"
_REMEDIES = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: _MAKE_ROOM,
    errno.EMFILE: "Raise the limit on open files (ulimit -n 4096)",
    errno.ENFILE: "Close other programs, which have too many files open",
    errno.EROFS: "Make the disk writable again",
    errno.EACCES: "Give yourself the right to write there",
    errno.EPERM: "Give yourself the right to write there",
    errno.ENOENT: "Bring the folder back, or mount its disk",
    errno.ESTALE: "Mount the disk again",
    errno.ENOTCONN: "Mount the disk again",
    errno.EIO: "Mend the disk",
}
"""What a person has to do, by the number of the operating system's error."""


def cause(error: BaseException) -> str:
    """The first cause of an error, in a line: what the operating system or the file's reader said."""
    first = list(_chain(error))[-1]
    if isinstance(first, OSError) and first.strerror:
        return first.strerror if first.filename is None else f"{first.strerror}: {first.filename}"
    # TensorStore: CODE: Error reading "key" in ... at local file "path": what it is [tensorstore_spec=...]
    line = re.split(r" \[(?:tensorstore_spec|source locations)", str(first).strip(), maxsplit=1)[0]
    line = re.split(r'": (?=[A-Z])', next(iter(line.splitlines()), ""))[-1][:200].rstrip(". ")
    if not line:
        return type(first).__name__
    plain = isinstance(first, (OSError, ValueError)) or type(first) in (Exception, RuntimeError)
    return line if plain else f"{type(first).__name__}: {line}"


def remedy(error: BaseException | None, folder: Path) -> str:
    """What a person has to do before the same command can write to `folder` again."""
    for each in () if error is None else reversed(list(_chain(error))):
        if isinstance(each, OSError) and each.errno in _REMEDIES:
            return _REMEDIES[each.errno]
        for number, what in _REMEDIES.items():
            if os.strerror(number) in str(each):
                return what
    return "Make room or mend the disk" if folder.exists() else _REMEDIES[errno.ENOENT]


def room(folder: Path) -> str:
    """The free space of a folder's disk, in a sentence; "" if there is no folder to ask."""
    try:
        return f" {shutil.disk_usage(folder).free / 2**20:,.1f} MiB are free there."
    except OSError:
        return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on to the first one."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
