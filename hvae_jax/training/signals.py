"""Signals that end a run in good order: its dispatch is finished and its state saved."""

import dataclasses
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

URGENT = (signal.SIGINT, signal.SIGTERM)
"""Signals of which a second one ends the process at once."""

NOTICES = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""Signals by which a closed terminal and schedulers give notice, often with a SIGTERM on their heels."""


@dataclasses.dataclass
class Stop:
    """Whether the loop is to stop.

    Attributes:
      signal: number of the signal that asked for it; None while none did.
    """

    signal: int | None = None


class Interrupted(BaseException):
    """A signal came while nothing had to be finished first."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def interrupting() -> Iterator[None]:
    """Raises `Interrupted` in the block when one of URGENT or NOTICES comes."""
    # Python lets no other thread set handlers.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: Any) -> None:
        for each in NOTICES:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in _heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Lets the first of URGENT and NOTICES end the loop after the current dispatch.

    A second one of URGENT acts as it did before; more of NOTICES change nothing.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _heeded()}

    def ask(number: int, _: Any) -> None:
        stop.signal = stop.signal or number
        # At once as before: whoever presses Ctrl-C twice does not want to wait.
        for each in URGENT if number in URGENT else ():
            signal.signal(each, before[each])

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _heeded() -> list[int]:
    """The signals that are heeded: all, but notices that are ignored already, as under nohup."""
    return [*URGENT, *(number for number in NOTICES if signal.getsignal(number) is not signal.SIG_IGN)]
