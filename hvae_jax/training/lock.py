"""The lock of a run folder: one process at a time writes there."""

import hashlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAME = "run.lock"

BEAT_SECONDS = 10.0
"""Seconds between signs of life."""

SILENT_SECONDS = 60.0
"""Seconds without one after which a process that cannot be asked counts as gone; a busy network disk delays some."""


class FolderLock:
    """An advisory lock, a file with the host and the number of the process that holds it.

    What a process that was killed leaves behind is recognised: on the same machine by asking for the process, from
    another machine or container by the age of its last sign of life, on the clock of the disk. Commands that only read
    take no lock.

    Args:
      folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._held = folder / NAME, False
        self._mine = json.dumps(_this_process() | {"token": secrets.token_hex(8)}).encode()
        self._released = threading.Event()

    def take(self, say: Callable[[str], None] = print) -> None:
        """Takes the lock, which an existing folder needs.

        Args:
          say: takes a line of text, for a wait of up to SILENT_SECONDS.
        Raises ValueError, naming the process, if another one holds it.
        """
        self._take(self._path, say)
        self._held = True
        threading.Thread(target=self._beat, name="run_lock", daemon=True).start()

    def check(self) -> None:
        """Raises OSError if another process holds the lock by now, because this one was suspended for too long."""
        found = _look(self._path) if self._held else None
        if found is not None and found.content != self._mine:
            raise OSError(
                f"{self._path.parent} was taken over by {_named(_parsed(found.content))} while this process gave no "
                "sign of life. This one stops, and leaves the folder to it."
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock while the block runs; raises as `take` does."""
        self.take()
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Gives the lock back; does nothing if it is not held."""
        if self._held:
            self._held = False
            self._released.set()
            claim = _claim(self._path, self._mine)
            try:
                if self._create(claim):  # else another process takes over just now
                    if _content(self._path) == self._mine:
                        self._path.unlink()
                    claim.unlink()
            except OSError:  # the folder is gone
                pass

    def _take(self, path: Path, say: Callable[[str], None]) -> None:
        """Makes the file, or replaces that of a process that is gone; raises as `take` does.

        Who replaces it first takes its claim, a lock named after its content. The file is looked at again under the
        claim: a process that was late finds the lock of the one that was first, and leaves it alone.
        """
        waits = False
        first = _look(path)
        while not self._create(path):
            found = _look(path)
            if found is None:
                continue
            if first is None or found.content != first.content:
                first = found
            holder = _parsed(found.content)
            alive = _is_alive(holder)
            if alive is None:  # a process that cannot be asked: has it given a sign of life since we look?
                alive = True if found.beat != first.beat else None
            if alive:
                raise ValueError(
                    f"{path.parent} is in use by {_named(holder)}. Wait for its end or stop it, or give another "
                    "folder with --folder."
                )
            if alive is False or _age(found, path) > SILENT_SECONDS:
                claim = _claim(path, found.content)
                self._take(claim, say)  # of many that find it gone, one goes on
                if _content(path) == found.content:
                    claim.replace(path)
                    return
                claim.unlink()
                continue
            if not waits:
                say(f"{path} is held by {_named(holder)}; if it is silent for {SILENT_SECONDS:.0f} s it is gone")
            waits = True
            time.sleep(BEAT_SECONDS / 10)

    def _create(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._mine)
        return True

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            try:
                if self._path.read_bytes() == self._mine:
                    os.utime(self._path)
            except OSError:  # a disk that is away for a while
                continue


class _Found:
    """A lock that was found: its content, and the time of its last sign of life."""

    def __init__(self, content: bytes, beat: int) -> None:
        self.content, self.beat = content, beat


def _look(path: Path) -> _Found | None:
    """The lock as it is now; None if there is none."""
    try:
        with path.open("rb") as file:  # opened, since network disks answer from memory otherwise
            return _Found(file.read(), os.fstat(file.fileno()).st_mtime_ns)
    except FileNotFoundError:
        return None


def _content(path: Path) -> bytes | None:
    """What the lock says now; None if there is none."""
    found = _look(path)
    return None if found is None else found.content


def _claim(path: Path, content: bytes) -> Path:
    """The lock that a process takes before it replaces or removes the one with this content."""
    return path.with_name(f"{path.name}.{hashlib.sha256(content).hexdigest()[:8]}")


def _age(found: _Found, path: Path) -> float:
    """Seconds since the last sign of life, on the clock of the disk: hosts need not agree on the time."""
    probe = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    probe.touch()
    now = probe.stat().st_mtime_ns
    probe.unlink()
    return (now - found.beat) / 1e9


def _this_process() -> dict[str, Any]:
    """What this process can be recognised by."""
    return {"host": socket.gethostname(), "process": os.getpid(), "machine": _machine(), "started": _started("self")}


def _machine() -> list[str]:
    """What tells machines, their starts and their containers apart where processes can be asked for; [] elsewhere."""
    if sys.platform == "win32":
        return []
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    try:
        return [socket.gethostname(), boot.read_text().strip(), str(space.readlink())]
    except OSError:
        return [socket.gethostname()]


def _started(process: int | str) -> str:
    """The time at which a process started, since numbers of processes are used again; "" where nothing says so.

    "ended" for one that is dead, but whose parent has not asked how it ended.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "ended" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


def _is_alive(holder: dict[str, Any]) -> bool | None:
    """Whether the process that wrote a lock runs; None if it cannot be asked, being on another machine."""
    process = holder.get("process")
    if not isinstance(process, int) or not _machine() or holder.get("machine") != _machine():
        return None
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # no process has a number of more than 32 bits
        return False
    except PermissionError:  # it is another user's
        pass
    return _started(process) == holder.get("started")


def _parsed(content: bytes) -> dict[str, Any]:
    """The fields of a lock; {} for a file that is none, or not written yet."""
    try:
        fields = json.loads(content.decode())
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _named(holder: dict[str, Any]) -> str:
    host, process = (str(holder.get(name, "?")) for name in ("host", "process"))
    # A file of others: nothing of it may move a terminal's cursor.
    plain = "".join(character for character in host if character.isprintable())[:80]
    return f"process {process[:20]} on {plain}" if holder else "another process"
