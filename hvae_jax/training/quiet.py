"""Orbax and TensorStore kept quiet: what they print beside the error that they raise, which we word ourselves."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_closed_loops() -> Iterator[None]:
    """Suppresses the tracebacks of TensorStore's threads, which report to event loops that Orbax has closed.

    Orbax closes them when a write or a read fails, and each thread then prints a traceback.
    """
    with _without(lambda unraisable: str(unraisable.exc_value) == "Event loop is closed"):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Suppresses what Orbax's logs, tasks and threads say of a failure that the block catches."""
    levels = {name: logging.getLogger(name).level for name in ("absl", "asyncio")}
    with _without(lambda _: True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        for name in levels:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def _without(unwanted: Callable[[Any], bool]) -> Iterator[None]:
    """Suppresses what Python says of those exceptions that it can raise nowhere."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not unwanted(unraisable):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        if sys.unraisablehook is hook:
            sys.unraisablehook = before
