"""Meters of what a run costs: seconds of compilation, memory, and a profiler's trace of some dispatches."""

import dataclasses
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.monitoring

_COMPILED = "/jax/core/compile/backend_compile_duration"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Programs that JAX compiled in this process.

    Attributes:
      seconds: seconds in XLA or reading programs from the cache, summed over threads, without tracing and lowering.
      programs: number of programs.
      cache_hits: number of them that came from the compilation cache on disk.
    """

    seconds: float = 0.0
    programs: int = 0
    cache_hits: int = 0

    def __add__(self, other: "Compiled") -> "Compiled":
        seconds, programs = self.seconds + other.seconds, self.programs + other.programs
        return Compiled(seconds, programs, self.cache_hits + other.cache_hits)

    def __sub__(self, earlier: "Compiled") -> "Compiled":
        seconds, programs = self.seconds - earlier.seconds, self.programs - earlier.programs
        return Compiled(seconds, programs, self.cache_hits - earlier.cache_hits)


class _Count:
    """The counter of a process; there is one, since listeners of jax.monitoring stay until the process ends."""

    def __init__(self) -> None:
        self._lock, self._listening = threading.Lock(), False
        self.total = Compiled()

    def listen(self) -> None:
        """Starts counting; later calls do nothing."""
        with self._lock:
            if not self._listening:
                jax.monitoring.register_event_duration_secs_listener(self._duration)
                jax.monitoring.register_event_listener(self._event)
                self._listening = True

    def _duration(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED:
            self._add(Compiled(duration_secs, programs=1))

    def _event(self, event: str, **_: str | int) -> None:
        if event == _CACHE_HIT:
            self._add(Compiled(cache_hits=1))

    def _add(self, more: Compiled) -> None:
        with self._lock:  # pictures compile beside the numbers
            self.total = self.total + more


_COUNT = _Count()


def compiled() -> Compiled:
    """The programs compiled since the first call, which starts the count: call it early, take differences later."""
    _COUNT.listen()
    return _COUNT.total


def peak_memory() -> dict[str, int | None]:
    """Peak memory so far, bytes; None where the system does not say.

    Returns: `peak_device_bytes`, the largest over this process's devices, None on a CPU, whose arrays are in the
    process's memory; `peak_process_bytes`, the process's resident size.
    """
    peaks = device_statistic("peak_bytes_in_use")
    return {"peak_device_bytes": max(peaks, default=None), "peak_process_bytes": _peak_resident()}


def _peak_resident() -> int | None:
    # On Linux a process inherits getrusage's peak from the one that started it; VmHWM is its own.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def host_memory(root: Path = Path("/")) -> int:
    """Memory of this machine, or the limit of its container if that is lower, bytes; 2 GiB if neither is known.

    Args:
      root: root of the file system in which the container's limits are read.
    """
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        found = 2 * 2**30
    limits = [found]
    for limit in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):  # cgroups 2 and 1
        try:
            text = (root / limit).read_text().strip()
        except OSError:
            continue
        limits += [int(text)] if text.isdigit() and int(text) > 0 else []
    return min(limits)


def total_device_memory() -> int:
    """Memory that JAX may use on each of this process's devices, bytes: the minimum; CPU devices share the host's."""
    return min(device_statistic("bytes_limit"), default=host_memory() // jax.local_device_count())


def device_statistic(statistic: str) -> list[int]:
    """A memory statistic of each of this process's devices that has one; CPUs have none."""
    found = [(device.memory_stats() or {}).get(statistic) for device in jax.local_devices()]
    return [value for value in found if value is not None]


class Profiler:
    """A JAX trace of `count` dispatches, for xprof, TensorBoard or ui.perfetto.dev.

    Python calls are not traced: they would fill the file.

    Args:
      folder: folder of the trace, which goes to plugins/profile/TIME/ in it.
      first: first dispatch that is traced, from 0; 1 leaves out the one that compiles.
      count: number of dispatches.
    Raises ValueError for a negative `first` or a `count` below 1, and RuntimeError, from JAX, if another trace runs.
    """

    def __init__(self, folder: Path, first: int = 1, count: int = 3) -> None:
        if first < 0 or count < 1:
            raise ValueError(f"first is {first} and count {count}, but they have to be 0 or more and 1 or more.")
        self._folder, self._first, self._last = folder, first, first + count
        self._seen, self._running = 0, False

    @contextmanager
    def dispatch(self) -> Iterator[None]:
        """A context for one dispatch and the wait for its results, since what still runs afterwards is cut off."""
        if self._seen == self._first:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(str(self._folder), profiler_options=options)
            self._running = True
        with jax.profiler.StepTraceAnnotation("dispatch", step_num=self._seen):
            yield
        self._seen += 1
        if self._seen == self._last:
            self.close()

    def close(self) -> None:
        """Writes the trace if it is still running; a second call does nothing."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()

    @property
    def traced(self) -> int:
        """Number of dispatches traced so far; 0 after a run that was too short."""
        return max(0, min(self._seen, self._last) - self._first)
