"""Strict JAX for every test: eight CPU devices, no silent rank promotion, types checked, our warnings are errors.

float64 is a process of its own: with JAX_ENABLE_X64=1 only tests/x64 is collected, without it everything else is, and
tests/test_x64.py starts that process.
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

if "hvae_jax" in sys.modules:
    raise RuntimeError("hvae_jax was imported before tests/conftest.py: its types would go unchecked.")

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)  # of XLA: tiny models spend their time in compilation
jaxtyping.install_import_hook(["hvae_jax"], "typecheck.check")

hypothesis.settings.register_profile("suite", max_examples=30, deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    """--slow runs the tests marked slow too."""
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker and the filter; tests of one file or group share a process, and with it compilations."""
    config.addinivalue_line("markers", "xdist_group(name): tests that share a process under pytest-xdist")
    config.addinivalue_line("filterwarnings", r"error:::hvae_jax(\..*)?$")
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist = "loadgroup"
    if getattr(config, "workerinput", {}).get("grouped"):
        config.option.loadgroup = True


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tells each of pytest-xdist's workers, which read the command line anew, that tests come in groups."""
    node.workerinput["grouped"] = node.config.option.dist == "loadgroup"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Collects tests/x64 under JAX_ENABLE_X64=1 alone, and nothing else there."""
    if collection_path.suffix != ".py":
        return None
    return True if ("x64" in collection_path.parts) != jax.config.jax_enable_x64 else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips slow tests unless asked for, and puts each file into one group unless a test names its own.

    First of all plugins, since pytest-xdist reads the groups in the same hook.
    """
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
