"""Files and folders written whole: neither a reader nor a crash ever sees half of one."""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to, and renames it to `path` once the block ends without an error.

    It may become a file or a folder. After an error `path` is as it was, and nothing lies beside it.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def check_path(path: Path) -> None:
    """Raises ValueError for a path that is no UTF-8, which the library behind checkpoints cannot open.

    In a locale without such letters, and without Python's UTF-8 mode, Python reads a path in UTF-8 as one that is none.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise ValueError(
            f"{shown} is no path in UTF-8 to Python, whose paths are {sys.getfilesystemencoding()} here. Set "
            "PYTHONUTF8=1 or LC_ALL=C.UTF-8, or give a folder without such letters."
        ) from None


def write_whole(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whatever the locale, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
