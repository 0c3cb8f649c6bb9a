"""That a program's memory is kept from run to run, and given back when that is asked for."""

import os
import platform
import statistics
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, jax, jax.numpy as jnp
from hvae_jax.runtime.compilation import give_back_freed_memory, keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
program = jax.jit(lambda x: jnp.cumsum(x + jnp.arange(2**23, dtype=jnp.float32))[::-1][0])
assert program.lower(0.0).compile().memory_analysis().temp_size_in_bytes >= 2**25
for _ in range(12):
    if "give" in sys.argv:
        give_back_freed_memory()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(0.0).block_until_ready()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments: str) -> list[int]:
    """Pages that runs of a program with at least 32 MiB of intermediate values had to ask for; not those of the first.

    A run may need the system again although memory is kept: where something small was put into the block that the run
    before freed, the block is too small for the next one, which then has one of its own.
    """
    command = [sys.executable, "-c", FAULTS, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [int(line) for line in done.stdout.split()][1:]


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_freed_memory_is_kept() -> None:
    assert statistics.median(faults("keep")) < 1000
    assert min(faults()) > 4000  # else this test tells nothing: 32 MiB are 8,192 pages


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked for it")
def test_kept_memory_is_given_back() -> None:
    assert min(faults("keep", "give")) > 4000


def test_a_wish_in_the_environment_is_respected() -> None:
    code = """
import jax
from hvae_jax.runtime.compilation import keep_freed_memory
keep_freed_memory()
assert jax.config.values["jax_cpu_enable_async_dispatch"]
"""
    environment = os.environ | {"JAX_CPU_ENABLE_ASYNC_DISPATCH": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
