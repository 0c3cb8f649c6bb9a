"""The lock of a run folder: a second process is refused, and what a dead one left keeps nobody out."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvae_jax.training import lock as module
from hvae_jax.training.lock import NAME, FolderLock

HERE = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are asked for in /proc")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life every 50 ms, missed after 0.4 s."""
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.4)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[FolderLock]:
    """A lock that this process holds."""
    lock = FolderLock(tmp_path)
    lock.take()
    yield lock
    lock.release()


def write(folder: Path, **changes: Any) -> None:
    """A lock as this process would write it, but for some fields."""
    (folder / NAME).write_text(json.dumps(module._this_process() | {"token": "x"} | changes))


@HERE
def test_a_second_process_is_refused(held: FolderLock, tmp_path: Path) -> None:
    """With the number of the first and its host; released, the folder is free and nothing stays."""
    with pytest.raises(ValueError, match=rf"is in use by process {os.getpid()} on .*--folder"):
        FolderLock(tmp_path).take()
    held.check()
    held.release()
    assert not list(tmp_path.iterdir())
    other = FolderLock(tmp_path)
    other.take()
    other.release()
    assert not list(tmp_path.iterdir())


@HERE
def test_a_process_that_is_gone_keeps_nobody_out(tmp_path: Path) -> None:
    """On this machine it is asked for; a process that has its number now is another one."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    theirs = {"process": child.pid, "started": module._started(child.pid)}
    write(tmp_path, **theirs)
    with pytest.raises(ValueError, match=f"is in use by process {child.pid}"):
        FolderLock(tmp_path).take()
    child.kill()
    while module._started(child.pid) != "ended":  # nobody has asked yet how it ended
        time.sleep(0.01)
    for changes in (theirs, theirs, {"started": "1"}, {"process": 10**30}):
        write(tmp_path, **changes)
        lock = FolderLock(tmp_path)
        lock.take()
        lock.release()
        child.wait()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, b"", b"\xff\x00", b"[]", b'{"process": "one"}'])
def test_a_silent_process_elsewhere_is_gone(content: bytes | None, quick: None, tmp_path: Path) -> None:
    """After a wait that is said; the same for a file that is no lock, which a process may be about to write."""
    write(tmp_path, machine=["elsewhere"], host="elsewhere\x1b[2J")
    if content is not None:
        (tmp_path / NAME).write_bytes(content)
    said: list[str] = []
    lock, start = FolderLock(tmp_path), time.monotonic()
    lock.take(said.append)
    assert time.monotonic() - start > 0.3
    assert len(said) == 1 and "it is gone" in said[0] and "\x1b" not in said[0]
    lock.release()


def test_an_old_lock_from_elsewhere_is_not_waited_for(tmp_path: Path) -> None:
    """Its last sign of life was two minutes ago."""
    write(tmp_path, machine=["elsewhere"])
    os.utime(tmp_path / NAME, (time.time() - 120, time.time() - 120))
    said: list[str] = []
    lock = FolderLock(tmp_path)
    lock.take(said.append)
    lock.release()
    assert not said


def test_a_process_elsewhere_that_gives_signs_of_life_is_respected(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it cannot be asked."""
    first = FolderLock(tmp_path)
    first.take()
    monkeypatch.setattr(module, "_machine", lambda: ["this", "other"])
    with pytest.raises(ValueError, match="is in use by process"):
        FolderLock(tmp_path).take(lambda _: None)
    first.release()


@pytest.mark.parametrize("attempt", range(20))
def test_one_of_many_takes_over(attempt: int, quick: None, tmp_path: Path) -> None:
    """They all find the same stale lock at once; each attempt is another order of their steps."""
    write(tmp_path, machine=["elsewhere"])
    os.utime(tmp_path / NAME, (0, 0))
    locks, taken = [FolderLock(tmp_path) for _ in range(8)], []

    def take(lock: FolderLock) -> None:
        try:
            lock.take(lambda _: None)
            taken.append(lock)
        except ValueError:
            pass

    threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (only,) = taken
    only.check()
    only.release()
    assert not list(tmp_path.iterdir())


def test_who_is_late_leaves_the_new_lock_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It found the old one stale, and was then suspended until another process had replaced it."""
    write(tmp_path, machine=["elsewhere"])
    os.utime(tmp_path / NAME, (0, 0))
    first, late = FolderLock(tmp_path), FolderLock(tmp_path)
    age = module._age

    def suspended(*arguments: Any) -> float:
        monkeypatch.setattr(module, "_age", age)
        first.take()
        return age(*arguments)

    monkeypatch.setattr(module, "_age", suspended)
    with pytest.raises(ValueError, match=f"is in use by process {os.getpid()}"):
        late.take()
    first.check()
    first.release()
    assert not list(tmp_path.iterdir())


def test_who_dies_while_it_takes_over_is_taken_over(tmp_path: Path) -> None:
    """Its claim to the stale lock is stale too."""
    write(tmp_path, machine=["elsewhere"])
    claim = module._claim(tmp_path / NAME, (tmp_path / NAME).read_bytes())
    claim.write_text(json.dumps(module._this_process() | {"started": "1"}))
    os.utime(tmp_path / NAME, (0, 0))
    lock = FolderLock(tmp_path)
    lock.take()
    lock.check()
    lock.release()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_taken_over_is_noticed(held: FolderLock, tmp_path: Path) -> None:
    """By a process that was suspended and wakes up: it stops before it writes."""
    write(tmp_path, host="elsewhere", process=7)
    with pytest.raises(OSError, match="was taken over by process 7 on elsewhere"):
        held.check()
    held.release()
    assert (tmp_path / NAME).exists(), "it is the other's"
