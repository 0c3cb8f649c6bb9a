"""Compilation: levels of optimisation, the cache on disk; and the memory that compiled programs free on a CPU."""

import ctypes
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

FAST_CONVOLUTIONS = (0, 12)
"""Version of JAX whose convolutions on a CPU are nearly twice as fast as before, see `doctor.slow_convolutions`."""


def jit(function: Callable[..., Any], **options: Any) -> jax.stages.Wrapped:
    """`jax.jit` for a whole program of ours, compiled quickly on a CPU.

    On a CPU, LLVM's second level of optimisation makes training steps as fast as its third and compiles them in 3.6 s
    instead of 4.7 s (the article's model, two cores). On other backends, and under jax_disable_most_optimizations, it
    is plain `jax.jit`.
    """
    return jax.jit(function, compiler_options=_cpu_level(2), **options)


def jit_once(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` for a program that runs once or twice, where compiling takes longer than running.

    On a CPU the code is generated without optimisation: initialising the article's model took 1.2 s of compilation
    instead of 4.0 s. Elsewhere it is plain `jax.jit`.
    """
    return jax.jit(function, compiler_options=_cpu_level(0), **options)


def _cpu_level(level: int) -> dict[str, int] | None:
    if jax.default_backend() != "cpu" or jax.config.values["jax_disable_most_optimizations"]:
        return None
    return {"xla_backend_optimization_level": level}


def use_compilation_cache() -> None:
    """Caches compiled programs on disk, in JAX_COMPILATION_CACHE_DIR or the user's cache folder.

    Programs that compiled for 0.2 s and more are kept, unless the user has set JAX's own limit, by
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS or `jax.config`. Without a folder, or if it cannot be written, there is
    no cache: programs are compiled anew.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        try:
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hvae_jax" / "xla"
            cache.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # Python finds no home: no HOME, and no entry for the user
            return
        if not os.access(cache, os.W_OK):  # JAX would warn at every program
            return
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if _LIMIT.upper() not in os.environ and jax.config.values[_LIMIT] == _JAX_LIMIT:
        jax.config.update(_LIMIT, 0.2)


_LIMIT = "jax_persistent_cache_min_compile_time_secs"
_JAX_LIMIT = 1.0
"""JAX's default of the limit, seconds."""


def keep_freed_memory() -> None:
    """Keeps the memory that programs free in the process, which makes training on a CPU faster.

    XLA allocates a program's intermediate values when it starts and frees them when it ends. glibc returns large blocks
    to the system, which has to clear them, page by page, for the next run of the same program: a quarter of the time of
    a step of the very deep VAE in `experiments/benchmarks/public_codes.py`, with 260 MiB of them. Only the thread that
    called a program can keep them, so from here on JAX runs its CPU programs in that thread
    (`jax_cpu_enable_async_dispatch`). The process holds on to the most memory that it ever needed.

    To be called before the first computation; later, programs have threads of their own. It changes nothing without
    glibc, or if JAX_CPU_ENABLE_ASYNC_DISPATCH is set in the environment.
    """
    if platform.libc_ver()[0] != "glibc" or "JAX_CPU_ENABLE_ASYNC_DISPATCH" in os.environ:
        return
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)


def give_back_freed_memory() -> None:
    """Returns memory that is free in the process to the system, also what `keep_freed_memory` has kept until now.

    Compiling a very deep VAE leaves hundreds of mebibytes behind, in pieces that the next programs cannot use. It takes
    a few milliseconds; without glibc nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""`M_TRIM_THRESHOLD`, at -1 never reached, and `M_MMAP_MAX` of glibc's malloc.h."""
