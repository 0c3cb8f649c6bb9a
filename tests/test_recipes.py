"""The scripts of experiments/: settings on their command lines, and a sweep that goes on where it stopped."""

import dataclasses
import importlib
import json
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax.cli import script as experiments
from hvae_jax.data import Split
from hvae_jax.experiment import Data, Experiment, abstract_state
from hvae_jax.models import VAE
from hvae_jax.training.metrics import level_names

SCRIPTS = Path(__file__).parents[1] / "experiments"

# What each preset's model has: the published figure, or the sum of its layers' sizes.
PARAMETERS = {
    "mnist_ladder": {"small": 109_313, "published": 3_209_153, "published6": 6_008_705, "paper": 1_859_424},
    "omniglot_ladder": {"small": 661_680, "paper": 1_859_424},
    "mnist_iaf": {"small": 247_842, "plain": 164_066},
    "cifar10_iaf": {"small": 292_775, "paper": 38_638_887, "two_resolutions": 38_638_887},
    "mnist_biva": {"small": 1_587_026, "paper": 31_550_946},
    "cifar10_biva": {"small": 861_608, "paper": 102_948_560},
    "vdvae": {"digits": 36_891, "mnist": 99_425, "cifar10_small": 292_648, "cifar10": 39_145_700},
    "efficient_vdvae": {"digits": 57_073, "mnist": 69_919_585, "cifar10_c1": 18_124_020},
}


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


@pytest.mark.parametrize(
    ("script", "preset"),
    [
        pytest.param(script, preset, marks=[pytest.mark.slow] if count > 5_000_000 else [])
        for script, presets in PARAMETERS.items()
        for preset, count in presets.items()
    ],
)
def test_presets(script: str, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes, and that a state and the names of the levels follow from shapes alone."""
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module(script)
    assert module.experiment is next(iter(module.presets.values()))
    assert module.experiment.model.num_levels < 20
    assert len({experiment.name for experiment in module.presets.values()}) == len(module.presets)
    experiment = module.presets[preset]
    x = np.zeros((2, *getattr(experiment.model, "image", (28, 28, 1))), np.uint8)
    data = Split(x)
    params = abstract_state(experiment, data).params
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[script][preset]
    assert len(level_names(experiment.model, data)) == experiment.model.num_levels


def test_a_preset_by_its_name(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The first one unless another is named; other flags change what it says; an unknown one is refused."""
    chosen = []
    monkeypatch.setattr(experiments, "run", lambda experiment, *_, **__: chosen.append(experiment) or Stopped())
    one, two = (Experiment(name=name, model=VAE(), data=Data("digits")) for name in ("one", "two"))
    for arguments in ([], ["--preset", "b"], ["--seed", "3", "--preset=b"]):
        experiments.main({"a": one, "b": two}, arguments)
    assert [(e.name, e.seed) for e in chosen] == [("one", 0), ("two", 0), ("two", 3)]
    with pytest.raises(SystemExit) as stopped:
        experiments.main({"a": one, "b": two}, ["--preset", "c"])
    assert stopped.value.code == 2 and "choose from" in capsys.readouterr().err


@dataclasses.dataclass
class Stopped:
    """The outcome of a run that did nothing."""

    interrupted: int = 0
    state: Any = dataclasses.field(default_factory=lambda: types.SimpleNamespace(step=0))


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
