"""Files written whole: neither a reader nor a crash ever sees half of one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to, and renames it to `path` once the block ends without an error."""
    partial = path.with_name(path.name + ".partial")
    yield partial
    partial.replace(path)


def write_whole(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text)
