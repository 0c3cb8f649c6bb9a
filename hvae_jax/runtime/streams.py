"""Standard streams that no program has to mind: there, open-ended, and able to write any text."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

_GONE = (errno.EPIPE, errno.EIO)  # a pipe whose reader has ended, a terminal that was closed


@contextmanager
def steady_streams() -> Iterator[None]:
    """Standard output and error for a block, whatever the shell made of them.

    - A stream that was closed (`2>&-`) writes to nowhere. Its number is taken too: the next file that is opened would
      get it, and whatever a library prints.
    - A pipe whose reader has ended (`| head -1`), or a terminal that was closed, ends no program: the rest of the
      output goes to nowhere.
    - A character that the encoding of the locale does not have is written as its escape.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:
        out, err = (
            stream or opened.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123
            for stream in cast(tuple[TextIO | None, TextIO | None], before)
        )
        steady = _Steady(out), _Steady(err)
        sys.stdout, sys.stderr = cast(tuple[TextIO, TextIO], steady)
        try:
            yield
        finally:
            for stream in steady:
                stream.flush()
            sys.stdout, sys.stderr = before


class _Steady:
    """A text stream that drops what cannot be delivered and escapes what cannot be encoded."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Sends to nowhere what follows, and what is still buffered, which Python flushes once more when it exits."""
        if error.errno not in _GONE:
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
