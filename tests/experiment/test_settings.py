"""settings.json: what goes out comes back, and nothing else is let in."""

import dataclasses
import json
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

import hvae_jax as hv
from hvae_jax.experiment import Data, Experiment, settings
from hvae_jax.experiment.layout import LAYOUT
from hvae_jax.networks import MLP
from hvae_jax.networks.activations import leaky_relu
from hvae_jax.training import Adamax, AdamW, Training


@dataclasses.dataclass(frozen=True)
class Mine:
    """A user's record, defined outside hvae_jax."""

    size: int = 3


EXPERIMENTS = [
    Experiment("a", hv.models.TopDownVAE()),
    Experiment(
        "b",
        hv.models.TopDownVAE(
            latents=(2, 3, 4),
            likelihood=hv.Bernoulli(1e-7),
            prior_clamp=None,
            classes=10,
            bottom_up=(None, None, MLP((8,), 5, last_activation=leaky_relu, normalise=False)),
            decoder=MLP((7,)),
        ),
        Data("x.npz"),
        optimiser=AdamW(2e-4, weight_decay=0.1),
        training=Training(steps=7, ema=0.9),
        seed=5,
    ),
]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_round_trip(experiment: Experiment, tmp_path: Path) -> None:
    """A record rebuilt from its file equals the one that was written, `parent` and `name` of modules left out."""
    path = tmp_path / "settings.json"
    settings.save(path, experiment)
    text = path.read_text()
    assert '"parent"' not in text
    assert settings.load(path) == experiment
    assert {"layout": LAYOUT} | settings.to_json(settings.load(path)) == json.loads(text)


def test_values_that_would_not_come_back_are_refused() -> None:
    for value in (jnp.zeros(3), lambda x: x, object()):
        with pytest.raises(ValueError, match="cannot be a setting"):
            settings.to_json(value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"type": "os:system", "fields": {}}, "--import os"),
        ({"type": "subprocess:Popen", "fields": {"args": "true"}}, "--import subprocess"),
        ({"type": "hvae_jaxx.models:TopDownVAE", "fields": {}}, "--import hvae_jaxx"),
        ({"type": "hvae_jax.experiment.settings:json", "fields": {}}, "no dataclass 'json'"),
        ({"type": "hvae_jax.cli.main:main", "fields": {}}, "no dataclass 'main'"),
        ({"type": "hvae_jax.experiment.run:Path", "fields": {}}, "no dataclass 'Path'"),
        ({"type": "hvae_jax.no_such_module:X", "fields": {}}, "cannot be imported"),
        ({"function": "os:system"}, "--import os"),
        ({"function": "hvae_jax.experiment.settings:load"}, "nothing else is imported"),
        ({"function": "hvae_jax.networks.activations:jax"}, "no function 'jax'"),
        ({"type": "hvae_jax.models.top_down:TopDownVAE", "fields": {"hiden": 3}}, "Did you mean 'hidden'"),
        ({"kind": "x"}, "'type' and 'fields'"),
    ],
)
def test_nothing_else_is_executed(data: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"layout": LAYOUT} | data))
    with pytest.raises(ValueError, match=message) as raised:
        settings.load(path)
    assert str(path) in str(raised.value)


def test_a_users_module_is_imported_only_when_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_models.py").write_text(
        "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass Theirs:\n    size: int = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = {"type": "their_models:Theirs", "fields": {"size": 4}}
    with pytest.raises(ValueError, match="--import their_models"):
        settings.from_json(data)
    assert "their_models" not in sys.modules
    assert settings.from_json(data, ["their_models"]).size == 4
    assert settings.from_json({"type": "__main__:Theirs", "fields": {}}, ["their_models"]).size == 1
    with pytest.raises(ValueError, match="defined in a script"):
        settings.from_json({"type": "__main__:Nowhere", "fields": {}}, ["their_models"])


def test_a_named_module_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found although the path has no current folder, after everything else, and the path stays as it was."""
    source = "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass Near:\n    size: int = 1\n"
    (tmp_path / "near_models.py").write_text(f"import near_beside\n{source}")
    (tmp_path / "near_beside.py").write_text("")
    (tmp_path / "colorsys.py").write_text("raise RuntimeError")  # the standard library's is found
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    before = list(sys.path)
    data = {"type": "near_models:Near", "fields": {"size": 4}}
    with pytest.raises(ValueError, match="--import near_models"):
        settings.from_json(data)
    assert settings.from_json(data, ["near_models"]).size == 4
    with pytest.raises(ValueError, match="no dataclass 'Near' defined in colorsys"):
        settings.from_json(data | {"type": "colorsys:Near"}, ["colorsys"])
    with pytest.raises(ValueError, match=f"no_such_module cannot be imported .* looked for in {tmp_path} too"):
        settings.from_json(data | {"type": "no_such_module:Near"}, ["no_such_module"])
    assert sys.path == before


def test_differences_name_the_setting() -> None:
    old, new = (settings.to_json(e) for e in EXPERIMENTS)
    lines = settings.differences(old, new)
    assert "model.latents: [8, 16] -> [2, 3, 4]" in lines
    assert "training.steps: null -> 7" in lines
    assert "optimiser: Adamax(...) -> AdamW(...)" in lines
    assert settings.differences(old, old) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    settings.save(path, Adamax())
    with pytest.raises(ValueError, match="cannot be a setting"):
        settings.save(path, lambda: None)
    assert settings.load(path) == Adamax()


def test_records_of_a_test_module_need_naming() -> None:
    data = settings.to_json(Mine(4))
    with pytest.raises(ValueError, match="--import"):
        settings.from_json(data)
    assert settings.from_json(data, [Mine.__module__]) == Mine(4)
