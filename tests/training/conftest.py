"""Checkpoints that several files of tests read."""

import shutil
from pathlib import Path

import pytest
from support.checkpoints import WANTED, save

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
