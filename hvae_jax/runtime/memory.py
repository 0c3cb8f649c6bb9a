"""Memory: what is free, what a program takes, sizes that fit, and errors that say what to lower."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from hvae_jax.runtime.errors import first_line
from hvae_jax.runtime.meters import device_statistic, host_memory

SHARE = 0.5
"""Largest fraction of the free memory that a program is sized for: pictures are drawn beside it."""


class ExhaustedError(MemoryError):
    """There was not enough memory; the message says for what, and what to lower."""


def is_exhausted(error: BaseException) -> bool:
    """Whether an error of XLA's, NumPy's or Python's says that memory ran out."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return "RESOURCE_EXHAUSTED" in str(error)
    return isinstance(error, MemoryError)


@contextmanager
def memory_for(what: str, remedy: str) -> Iterator[None]:
    """Raises `ExhaustedError` in place of whatever says that memory ran out in the block.

    Args:
      what: what the memory was for, such as "measuring".
      remedy: sentence that says what to lower.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, ExhaustedError) or not is_exhausted(error):  # an inner block knows better
            raise
        raise ExhaustedError(f"not enough memory for {what} ({exhausted_line(error)}). {remedy}") from error


def exhausted_line(error: BaseException) -> str:
    """The first line of an error that says that memory ran out, without XLA's code and full stop."""
    return first_line(error).removeprefix("RESOURCE_EXHAUSTED: ").rstrip(". ")


def free_device_memory() -> int:
    """Memory that is free on each of this process's devices, bytes: the minimum; CPU devices share the host's."""
    limits, used = device_statistic("bytes_limit"), device_statistic("bytes_in_use")
    if limits and len(limits) == len(used):
        return min(limit - in_use for limit, in_use in zip(limits, used, strict=True))
    return free_host_memory() // jax.local_device_count()


def free_host_memory(root: Path = Path("/")) -> int:
    """Memory that this machine, or its container if that has less, can still give, bytes.

    Where the system does not say what is free, all of it counts as free.

    Args:
      root: root of the file system in which the system's figures are read.
    """
    free = host_memory(root)
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = min(free, int(line.split()[1]) * 1024)
    for group, limit, used, cache in _CGROUPS:
        folder = root / "sys/fs/cgroup" / group
        numbers = [line for name in (limit, used) for line in _lines(folder / name)[:1]]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            # Files that were read count as used, though they make room for programs.
            idle = [int(line.split()[1]) for line in _lines(folder / "memory.stat") if line.startswith(f"{cache} ")]
            free = min(free, int(numbers[0]) - int(numbers[1]) + sum(idle))
    return max(free, 0)


_CGROUPS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Folder and files of the limits of a container, in version 2 and in version 1 of cgroups."""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def program_memory(compiled: Any) -> int:
    """Memory that a compiled program takes beside its arguments, bytes on each device; 0 where XLA does not say."""
    found = compiled.memory_analysis()
    return 0 if found is None else found.temp_size_in_bytes + found.output_size_in_bytes


def fitting(largest: int, unit: int, needs: Callable[[int], int], budget: int) -> int:
    """The largest size, halved as often as it takes a program to fit into the budget; `unit` if nothing fits.

    Halves, so that small differences in free memory seldom give another size.

    Args:
      largest: size that is wanted, a multiple of `unit`.
      unit: smallest size; others are multiples of it.
      needs: memory of the program for a size, bytes; each call may compile one.
      budget: memory that the program may take, bytes.
    """
    size = largest
    while size > unit and (needed := needs(size)) > budget:
        # At best memory grows with the size: sizes that are too large even then are not compiled.
        most = size * budget / needed
        while size > max(unit, most):
            size = -(-size // (2 * unit)) * unit
    return size
