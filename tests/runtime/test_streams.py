"""Standard streams: closed ones, readers that are gone, and locales without the letters."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hvae_jax.runtime.streams import steady_streams

pytestmark = pytest.mark.leg


def test_a_reader_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a print, nor what is still buffered at the end, nor a file that is opened meanwhile suffers."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with steady_streams():
            print("one", flush=True)
            (tmp_path / "file").write_text("a file")
            print("two")
        assert sys.stdout is stream
    assert (tmp_path / "file").read_text() == "a file"


def test_streams_that_the_shell_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has None for them."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with steady_streams():
        print("nobody reads it", file=sys.stderr, flush=True)
        assert not sys.stderr.isatty() and not sys.stdout.isatty()
    assert sys.stdout is None and sys.stderr is None


def test_letters_that_the_locale_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with steady_streams():
        print("100 ± 1 in /tmp/für")
    assert written.getvalue() == b"100 \\xb1 1 in /tmp/f\\xfcr\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_is_still_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", buffering=1) as stream:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(OSError, match="No space left"), steady_streams():
            print("into a file")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what is buffered has to go somewhere


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [("2>&-", 1, ""), (">&- 2>&-", 1, ""), ("2>&1 | head -c 5", 0, "error")],
)
@pytest.mark.slow
def test_hvae_with_its_streams_closed(redirection: str, code: int, said: str, tmp_path: Path) -> None:
    """No traceback, and no file under the number of a standard stream."""
    program = "from hvae_jax.cli.main import main; main()"
    command = f"{sys.executable} -c '{program}' show {tmp_path} {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, said, "")
