"""Paths that several test files use, and the scripts behind them."""

import importlib.util
import os
import tempfile
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "experiments" / "recipes"
STUDIES = ROOT / "experiments" / "studies"
CACHE = Path(tempfile.gettempdir()) / f"hvae_jax_tests_{os.getuid()}"
"""Compiled programs, shared with child processes."""


def script(path: Path) -> ModuleType:
    """Imports a script from its file, as a module that `import` does not find."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
