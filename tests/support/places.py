"""Paths that several test files use, and the scripts behind them."""

import importlib.metadata
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
JAXLIB = tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2])
XLA_FLAGS = "--xla_cpu_use_fusion_emitters=false" if JAXLIB < (0, 11) else ""
"""Flag with which the tests compile, where XLA has it (0.12 ends the process at a flag that it does not know).

Without it XLA's CPU backend lowers every fusion through MLIR, and an NVAE of the contract takes 3.3 s of processor time
to compile instead of 1.4 s; tiny models run as fast either way.
"""


def script(path: Path) -> ModuleType:
    """Imports a script from its file, as a module that `import` does not find."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
