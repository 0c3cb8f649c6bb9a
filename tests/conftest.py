"""Strict JAX for every test: eight CPU devices, no silent rank promotion, types checked, our warnings are errors.

Tests in float64 run in a process of their own, which tests/test_x64.py starts: with JAX_ENABLE_X64=1 only tests/x64 is
collected, without it everything else.
"""

import gc
import os
import sys
import time
from pathlib import Path
from typing import Any

from support.places import CACHE, XLA_FLAGS

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if XLA_FLAGS not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAGS}".strip()

import hypothesis
import jax
import jaxtyping
import pytest
from support import processor, typecheck

if "hvae_jax" in sys.modules:
    raise RuntimeError("hvae_jax was imported before tests/conftest.py: its types would go unchecked.")

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)  # of XLA: tiny models spend their time in compilation
jax.config.update("jax_include_full_tracebacks_in_locations", False)  # of each operation, in programs: 4% of the time
# One cache of compiled programs for all test processes and the processes that they start: many tests compile the same.
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jaxtyping.install_import_hook(["hvae_jax"], f"{typecheck.__name__}.check")  # imported here, so that the package has it

hypothesis.settings.register_profile("suite", max_examples=30, deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


BEGAN = time.monotonic()
LONGEST = (
    "test_faults",
    "test_gradient_estimators",
    "test_run",
    "test_loop",
    "test_x64",
    "test_notebooks",
    "test_objectives",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --slow, --exhaustive, --within and --processor-seconds."""
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")
    parser.addoption("--exhaustive", action="store_true", help="run the tests marked slow and exhaustive too")
    parser.addoption("--within", type=float, help="start no test after so many seconds, and say how many were left")
    parser.addoption("--processor-seconds", action="store_true", help="say where the processor time went")


def pytest_configure(config: pytest.Config) -> None:
    """Makes warnings from hvae_jax errors; counts processor time if asked to."""
    config.addinivalue_line("filterwarnings", r"error:::hvae_jax(\..*)?$")
    if config.getoption("--processor-seconds"):
        config.pluginmanager.register(processor.Recorder())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Runs a file's tests in one process, to share compilations; contract rows and notebooks go one by one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            if file.endswith("test_notebooks.py"):
                return nodeid
            return test.partition("-")[0] if test.startswith("test_contract[") else file

    config.option.loadscopereorder = False  # the order of collection, the longest first
    return ByGroup(config, log)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Collects tests/x64 if and only if JAX_ENABLE_X64=1, and the other tests otherwise."""
    if collection_path.suffix != ".py":
        return None
    return True if ("x64" in collection_path.parts) != jax.config.jax_enable_x64 else None


def pytest_collection_finish() -> None:
    """Spares the collector what lives as long as the process, and calls it less often.

    Tracing makes many objects, few of them in cycles: with Python's thresholds a tenth of its time went into looking.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips the tests of tiers that were not asked for; puts the longest files first, so that no process waits."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    exhaustive = config.getoption("--exhaustive")
    asked = {"slow": config.getoption("--slow") or exhaustive, "exhaustive": exhaustive}
    for item in items:
        for tier in (tier for tier, wanted in asked.items() if not wanted and item.get_closest_marker(tier)):
            item.add_marker(pytest.mark.skip(reason=f"{tier}: run with --{tier}"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test for which there is no time left."""
    within = item.config.getoption("--within")
    if within is not None and time.monotonic() - BEGAN > within:
        pytest.skip(f"{_NO_TIME} of {within:g} s")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many tests were not run for lack of time, as .ci/run repeats."""
    left = [report for report in terminalreporter.getreports("skipped") if _NO_TIME in str(report.longrepr)]
    if left:
        terminalreporter.write_line(f"{_NO_TIME}: {len(left)} tests were not run")


_NO_TIME = "OUT OF TIME"
