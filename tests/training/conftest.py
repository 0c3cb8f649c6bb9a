"""Checkpoints, data and disks that several files of tests use."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import WANTED, save

import hvae_jax as hv
from hvae_jax.training import data_mesh
from hvae_jax.training.checkpoint import Checkpoints


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three saves of which two are kept: 4 and 7. Tests read it, and harm copies."""
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    checkpoints = Checkpoints(folder)
    assert checkpoints.restore(*WANTED, data_mesh(1)) is None
    save(checkpoints, 2, 4, 7)
    assert checkpoints.steps() == [4, 7]
    checkpoints.close()
    return folder


@pytest.fixture
def copied(two: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(two, tmp_path / "copy"))


@pytest.fixture(scope="session")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Forty digits as a user's own data."""
    digits = hv.data.digits().splits["train"]
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x_train=digits.x[:40], x_validation=digits.x[40:60], num_values=17)
    return ["--data.name", str(path)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB of our own; where this machine does not let us have one the test cannot run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a tmpfs here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)
