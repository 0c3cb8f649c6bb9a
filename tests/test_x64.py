"""Runs tests/x64 in a process of its own: whether JAX computes in float64 is decided before its first array."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "which",
    [pytest.param("not slow", marks=pytest.mark.leg, id="quick"), pytest.param("slow", marks=pytest.mark.slow)],
)
def test_float64(which: str) -> None:
    """Every test in tests/x64 passes under JAX_ENABLE_X64=1; their report is shown where one does not."""
    folder = Path(__file__).parent / "x64"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-q",
        "--slow",
        "-m",
        which,
        str(folder),
    ]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command,
        env=inherited | {"JAX_ENABLE_X64": "1"},
        cwd=folder.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
