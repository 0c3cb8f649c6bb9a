"""Files written whole: neither a reader nor a crash ever sees half of one."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to, and renames it to `path` once the block ends without an error.

    After an error `path` is as it was, and nothing lies beside it.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whatever the locale, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
