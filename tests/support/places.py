"""Where things are that several test files use."""

import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "experiments" / "recipes"
CACHE = Path(tempfile.gettempdir()) / f"hvae_jax_tests_{os.getuid()}"
"""Of compiled programs; child processes share it."""
