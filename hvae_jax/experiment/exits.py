"""The end of a program: exit codes, and one clear line if something went wrong."""

import os
import sys
import traceback
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from hvae_jax.runtime import doctor
from hvae_jax.runtime.errors import first_line
from hvae_jax.runtime.memory import memory_for
from hvae_jax.runtime.texts import printable
from hvae_jax.training.checkpoint import NotSavedError
from hvae_jax.training.loop import DivergedError
from hvae_jax.training.quiet import without_closed_loops

PREEMPTED = 75
"""Exit code after SIGTERM, SIGHUP and SIGUSR1: saved, to be started again (EX_TEMPFAIL of sysexits.h)."""

LOST = 134
"""Exit code if another process of the run is gone, the one with which JAX's own runtime ends a process."""

_LESS = (
    "Lower what is computed at once: --batch-size or --microbatch in training, --evaluation.size in measuring, --n of "
    "what is drawn."
)
"""Remedy for memory that ran out where nothing nearer names one."""

_NO_HOME = "This user has no home folder (no HOME, no entry in passwd): give paths in full, without ~, or set HOME."


def _silence(*_: Any) -> None:
    """A hook that prints nothing."""


@contextmanager
def printable_only() -> Iterator[None]:
    """Shows warnings and tracebacks without control characters, since they name files and what is in them.

    Tracebacks are printed after the block, so that their hook stays if an error ends it.
    """
    before, hook = warnings.formatwarning, sys.excepthook

    def warning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        return printable(before(message, category, filename, lineno, line))

    def uncaught(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
        print(printable("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr, flush=True)

    warnings.formatwarning, sys.excepthook = warning, uncaught
    try:
        yield
        sys.excepthook = hook
    finally:
        warnings.formatwarning = before


@contextmanager
def errors_said() -> Iterator[None]:
    """Ends the program with one clear message if a setting, file, data or machine is at fault, or a peer is gone."""
    try:
        with printable_only(), without_closed_loops(), memory_for("this", _LESS):
            yield
    except jax.errors.JaxRuntimeError as error:
        if not jax.distributed.is_initialized() or jax.process_count() == 1:
            raise
        print(
            f"error: another process of the run was lost, or the way to it ({first_line(error)}). Start all of them "
            "again: they go on from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(LOST)
    except (ValueError, OSError, ImportError, MemoryError, DivergedError) as error:
        if os.environ.get("HVAE_TRACEBACK"):
            raise
        if isinstance(error, NotSavedError):  # Orbax's threads go on to complain, for thousands of lines
            sys.excepthook, sys.unraisablehook = _silence, _silence
            warnings.simplefilter("ignore")
        _say(error)
        if jax.distributed.is_initialized() and jax.process_count() > 1:
            os._exit(1)  # an orderly end would wait for the other processes, which wait for this one
        sys.exit(1)
    except (RuntimeError, AssertionError) as error:
        problem = _NO_HOME if "home directory" in str(error) else doctor.platform_problem()
        if problem is None or os.environ.get("HVAE_TRACEBACK"):
            raise
        _say(problem)
        sys.exit(1)


def _say(error: Exception | str) -> None:
    """Prints the line of an error."""
    print(printable(f"error: {error}\n(HVAE_TRACEBACK=1 shows where.)"), file=sys.stderr, flush=True)
