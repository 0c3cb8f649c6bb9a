"""Small presets of the public codes, their weights, and the message of a failing command: for import and export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from hvae_jax.cli.main import main
from hvae_jax.convert import efficient_vdvae, vdvae
from hvae_jax.convert.converter import Preset
from hvae_jax.likelihoods import LogisticMixture
from hvae_jax.models import VDVAE, down_stages, up_stages
from support.golden_weights import recorded
from support.state_dicts import EFFICIENT, of_vdvae

ENC, DEC = "8x1,8d2,4x1,4d4,1x1", "1x1,4m1,4x1,8m4,8x1"
Said = Callable[..., str]


def tiny() -> VDVAE:
    """The configuration of the recorded arrays, as a preset."""
    downs = down_stages(DEC, 16, latents=4)
    return VDVAE((8, 8, 3), up_stages(ENC, 16), downs, LogisticMixture(3), standardise=(120.63838, 64.16736))


def smallest() -> VDVAE:
    """Two levels, for tests that compile."""
    downs = down_stages("1x1,4m1", 4, latents=1)
    return VDVAE((4, 4, 3), up_stages("4d4,1x1", 4), downs, LogisticMixture(1), standardise=(128.0, 64.0))


def small_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds small presets, and changes to a folder with a small data file."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (12, 4, 4, 3)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x_train=x[:8], x_test=x[8:])
    monkeypatch.setitem(vdvae.PRESETS, "tiny", Preset(tiny, "recorded", "data.npz"))
    monkeypatch.setitem(vdvae.PRESETS, "smallest", Preset(smallest, "two levels", "data.npz"))
    monkeypatch.setitem(vdvae.PRESETS, "faces", Preset(tiny, "images without a name", None))
    for name, model in EFFICIENT.items():
        monkeypatch.setitem(efficient_vdvae.PRESETS, name, Preset(lambda m=model: m, "small", "data.npz"))
    monkeypatch.chdir(tmp_path)


def what_fails(capsys: pytest.CaptureFixture[str]) -> Said:
    """Makes a function that runs a failing command and returns its message."""

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 1
        return capsys.readouterr().err

    return run


def golden() -> dict[str, np.ndarray]:
    """The recorded weights, float64."""
    return recorded("vdvae_tiny", "param/")


def weights_of(model: VDVAE) -> dict[str, np.ndarray]:
    """Small random weights."""
    return {name: value / 8 for name, value in of_vdvae(model).items()}


def equal(a: Any, b: Any) -> None:
    """Asserts that two trees are the same, bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert one.dtype == other.dtype and np.asarray(one).tobytes() == np.asarray(other).tobytes()
