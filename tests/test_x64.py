"""Runs tests/x64 in a process of its own, since JAX decides before its first array whether it computes in float64."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "which",
    [pytest.param("not slow", marks=pytest.mark.leg, id="quick"), pytest.param("slow", marks=pytest.mark.slow)],
)
def test_float64(which: str, pytestconfig: pytest.Config) -> None:
    """Every test in tests/x64 passes under JAX_ENABLE_X64=1; if one does not, its report is shown.

    On the other versions of JAX (.ci/run) it is those marked `leg`.
    """
    folder = Path(__file__).parent / "x64"
    if pytestconfig.getoption("markexpr") == "leg":
        which = "leg"
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
