"""Strict JAX for every test: eight CPU devices, no silent rank promotion, types checked, our warnings are errors.

Tests in float64 run in a process of their own, which tests/test_x64.py starts: with JAX_ENABLE_X64=1 only tests/x64 is
collected, without it everything else.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import jaxtyping
import pytest
from support import typecheck
from support.places import CACHE

if "hvae_jax" in sys.modules:
    raise RuntimeError("hvae_jax was imported before tests/conftest.py: its types would go unchecked.")

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)  # of XLA: tiny models spend their time in compilation
# One cache of compiled programs for all test processes and the processes that they start: many tests compile the same.
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jaxtyping.install_import_hook(["hvae_jax"], f"{typecheck.__name__}.check")  # imported here, so that the package has it

hypothesis.settings.register_profile("suite", max_examples=30, deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


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
    """Adds --slow, which runs the tests marked slow too."""
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_configure(config: pytest.Config) -> None:
    """Makes warnings from hvae_jax errors."""
    config.addinivalue_line("filterwarnings", r"error:::hvae_jax(\..*)?$")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Runs a file's tests in one process, to share compilations and fixtures; each contract row is its own group."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            return test.partition("-")[0] if test.startswith("test_contract[") else file

    config.option.loadscopereorder = False  # the order of collection, the longest first
    return ByGroup(config, log)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Collects tests/x64 if and only if JAX_ENABLE_X64=1, and the other tests otherwise."""
    if collection_path.suffix != ".py":
        return None
    return True if ("x64" in collection_path.parts) != jax.config.jax_enable_x64 else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips slow tests unless --slow is given; puts the longest files first, so that no process waits at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
