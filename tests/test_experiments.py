"""The scripts of experiments/: settings on their command lines, and a sweep that goes on where it stopped."""

import importlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

SCRIPTS = Path(__file__).parents[1] / "experiments"


@pytest.mark.parametrize("name", ["mnist_iwae", "mnist_iwae_two_level"])
def test_the_iwae_papers_networks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters by hand, weights and biases; every network begins as Glorot's."""
    monkeypatch.syspath_prepend(SCRIPTS)
    experiment = importlib.import_module(name).experiment
    x = jnp.zeros((2, 28, 28, 1), jnp.uint8)
    shapes = jax.eval_shape(experiment.model.init, jax.random.key(0), x, jax.random.key(1))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    one = 785 * 200 + 201 * 200 + 201 * 100 + 51 * 200 + 201 * 200 + 201 * 784
    up = 785 * 200 + 201 * 200 + 201 * 200 + 101 * 100 + 101 * 100 + 101 * 100
    down = 51 * 100 + 101 * 100 + 101 * 200 + 101 * 200 + 201 * 200 + 201 * 784
    assert count == (one if name == "mnist_iwae" else up + down)
    made = jax.jit(experiment.model.init)(jax.random.key(0), x, jax.random.key(1))["params"]
    biases = [leaf for path, leaf in jax.tree.leaves_with_path(made) if "bias" in jax.tree_util.keystr(path)]
    assert sum(bool(leaf.any()) for leaf in biases) == 1  # the readout's


@pytest.mark.slow
def test_a_sweep_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Every run once, whatever is asked for again; pictures and numbers; other settings are refused."""
    monkeypatch.syspath_prepend(SCRIPTS)
    curves, sweep = importlib.import_module("rate_distortion"), importlib.import_module("sweep")
    effort = sweep.Effort(steps=2, hidden=4, width=2, layers=1, draws=2, examples=20)
    chosen = curves.Settings(betas=(1.0, 2.0), fields=(0, -1), effort=effort, workers=1, folder=tmp_path)
    curves.main(chosen)
    rows = json.loads((tmp_path / "curves.json").read_text())["rows"]
    assert len(rows) == 2 * 3 + 2
    assert all(row["iw_bound"]["value"] >= row["elbo"]["value"] - 1e-3 for row in rows)
    for name in ("rate_distortion", "receptive_field"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG" and (tmp_path / f"{name}.svg").exists()
    capsys.readouterr()
    curves.main(chosen)
    assert "seed 0" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="made with other settings"):
        curves.main(curves.Settings(betas=(1.0, 3.0), fields=(0, -1), effort=effort, folder=tmp_path))
