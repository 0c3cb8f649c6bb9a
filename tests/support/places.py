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
# Flag, and the first and the last jaxlib that was seen to have it: XLA ends a process at a flag that it does not know.
_FLAGS = (
    ("--xla_cpu_use_fusion_emitters=false", (0, 7), (0, 10)),
    ("--xla_cpu_parallel_codegen_split_count=1", (0, 7), (0, 12)),
    ("--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE", (0, 10), (0, 12)),
)
XLA_FLAGS = " ".join(flag for flag, first, last in _FLAGS if first <= JAXLIB <= last)
"""Flags with which the tests compile: tiny models spend their time in compilation, and run as fast either way.

No MLIR for every fusion (an NVAE of the contract takes 1.4 s of processor time instead of 3.3 s), no splitting of a
program between threads, and the preset for fast compilation (together a third less: a gradient of BIVA takes 1.9 to 2.4
s instead of 3.0 to 3.4).
"""


def script(path: Path) -> ModuleType:
    """Imports a script from its file, as a module that `import` does not find."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
