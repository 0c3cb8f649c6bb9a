"""Small models of published codes, their weights, and what a failing `hvae` says: for tests of import and export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from hvae_jax.cli import main as cli
from hvae_jax.convert import codes as registry
from hvae_jax.convert import vdvae as deep
from hvae_jax.convert.codes import PRESETS, Preset
from hvae_jax.likelihoods import LogisticMixture
from hvae_jax.models import VDVAE, down_stages, up_stages
from support.golden_weights import recorded
from support.state_dicts import EFFICIENT, arrays

ENC, DEC = "8x1,8d2,4x1,4d4,1x1", "1x1,4m1,4x1,8m4,8x1"
Said = Callable[..., str]


def tiny() -> VDVAE:
    """The recorded configuration, as presets are."""
    downs = down_stages(DEC, 16, latents=4)
    return VDVAE((8, 8, 3), up_stages(ENC, 16), downs, LogisticMixture(3), standardise=(120.63838, 64.16736))


def smallest() -> VDVAE:
    """Two levels, for what compiles."""
    downs = down_stages("1x1,4m1", 4, latents=1)
    return VDVAE((4, 4, 3), up_stages("4d4,1x1", 4), downs, LogisticMixture(1), standardise=(128.0, 64.0))


def small_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones, and a folder of its own to work in."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (12, 4, 4, 3)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x_train=x[:8], x_test=x[8:])
    known = {
        "vdvae": {
            "tiny": Preset(tiny, "data.npz"),
            "smallest": Preset(smallest, "data.npz"),
            "faces": Preset(tiny, None),
        },
        "efficient_vdvae": {name: Preset(lambda m=m: m, "data.npz") for name, m in EFFICIENT.items()},
    }
    for code, more in known.items():
        monkeypatch.setitem(registry.PRESETS, code, {**PRESETS[code], **more})  # type: ignore[index]
    monkeypatch.chdir(tmp_path)


def what_fails(capsys: pytest.CaptureFixture[str]) -> Said:
    """What a command that fails says."""

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        assert left.value.code == 1
        return capsys.readouterr().err

    return run


def golden() -> dict[str, np.ndarray]:
    """The recorded weights, float64."""
    return recorded("vdvae_tiny", "param/")


def weights_of(model: VDVAE) -> dict[str, np.ndarray]:
    """Drawn at random, small."""
    return {name: value / 8 for name, value in arrays(model, deep._entries(model)).items()}


def equal(a: Any, b: Any) -> None:
    """The same trees, bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert one.dtype == other.dtype and np.asarray(one).tobytes() == np.asarray(other).tobytes()
