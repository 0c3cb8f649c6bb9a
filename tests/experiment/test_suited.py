"""Settings that suit the backend: chosen where a run begins, kept while it lasts, and left where they are given."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest

from hvae_jax import recipes
from hvae_jax.cli import script
from hvae_jax.cli import train as command
from hvae_jax.experiment import Experiment, settings
from hvae_jax.experiment.suited import given_in, suited

DIGITS = recipes.experiment_of("vdvae")
WANTED = recipes.on_accelerators("vdvae")


def chosen(experiment: Experiment) -> dict[str, Any]:
    return {name: getattr(experiment.model, name) for name in WANTED}


@pytest.mark.parametrize(("backend", "named"), [("tpu", "a TPU"), ("gpu", "a GPU")])
def test_on_an_accelerator(backend: str, named: str) -> None:
    """The model has what the recipe wants there, nothing else changes, and the line has flags for both ways."""
    found, line = suited(DIGITS, backend, WANTED)
    assert chosen(found) == WANTED
    assert dataclasses.replace(found, model=DIGITS.model) == DIGITS
    assert line == (
        f"on {named}: --model.dtype bfloat16 --model.kept products --model.unroll 1; "
        "as elsewhere: --model.dtype None --model.kept all --model.unroll 4"
    )


def test_where_nothing_changes() -> None:
    """On a CPU; for a recipe that wants nothing; for what the model lacks, has already or was given."""
    assert suited(DIGITS, "cpu", WANTED) == (DIGITS, None)
    assert suited(DIGITS, "tpu", {}) == (DIGITS, None)
    assert suited(DIGITS, "tpu", {"threads": 4, "unroll": 4}) == (DIGITS, None)
    assert suited(DIGITS, "tpu", WANTED, given=WANTED) == (DIGITS, None)
    found, line = suited(DIGITS, "tpu", WANTED, given=given_in(["--model.dtype", "None", "--model.unroll=4"]))
    assert chosen(found) == {"dtype": None, "kept": "products", "unroll": 4}
    assert line == "on a TPU: --model.kept products; as elsewhere: --model.kept all"


def test_a_run_keeps_what_it_began_with(tmp_path: Path) -> None:
    """On every backend, unless a flag says otherwise; not another model's, nor what cannot be read."""
    begun, _ = suited(DIGITS, "tpu", WANTED, folder=tmp_path)  # an empty folder
    settings.save(tmp_path / "settings.json", begun)
    for backend in ("cpu", "tpu"):
        assert suited(DIGITS, backend, WANTED, folder=tmp_path)[0] == begun
    assert suited(DIGITS, "cpu", WANTED, folder=tmp_path)[1] == (
        "as the run began: --model.dtype bfloat16 --model.kept products --model.unroll 1"
    )
    assert chosen(suited(DIGITS, "cpu", WANTED, given=["dtype"], folder=tmp_path)[0])["dtype"] is None
    settings.save(tmp_path / "settings.json", DIGITS)  # begun on a CPU, or before there was a choice
    assert suited(DIGITS, "tpu", WANTED, folder=tmp_path) == (DIGITS, None)
    settings.save(tmp_path / "settings.json", recipes.experiment_of("top_down"))
    assert chosen(suited(DIGITS, "tpu", WANTED, folder=tmp_path)[0]) == WANTED
    (tmp_path / "settings.json").write_text("{")
    assert suited(DIGITS, "cpu", WANTED, folder=tmp_path) == (DIGITS, None)


def test_train_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`hvae train` runs the suited experiment, says so, and leaves what the command line gives."""
    asked: list[Experiment] = []

    class Done:
        interrupted = None

    def run(experiment: Experiment, folder: Path, **_: Any) -> type[Done]:
        asked.append(experiment)
        settings.save(folder / "settings.json", experiment)
        return Done

    monkeypatch.setattr(script, "run", run)
    monkeypatch.setattr(script.doctor, "line", lambda: "a faked backend")
    monkeypatch.setattr(Done, "state", type("State", (), {"step": 0}), raising=False)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    command.main(["vdvae", "--folder", str(tmp_path), "--model.dtype", "None"])
    assert "on a TPU: --model.kept products --model.unroll 1; as elsewhere:" in capsys.readouterr().out
    assert chosen(asked[-1]) == {"dtype": None, "kept": "products", "unroll": 1}
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    command.main(["vdvae", "--folder", str(tmp_path)])
    assert asked[0] == asked[1]
    command.main(["vdvae", "--folder", str(tmp_path), "--overwrite"])
    assert asked[-1] == DIGITS


@pytest.mark.parametrize("recipe", recipes.names())
def test_recipes_want_settings_that_their_models_have(recipe: str) -> None:
    """A name that no model of the recipe had would be passed over in silence."""
    for experiment in recipes.presets_of(recipe).values():
        fields = {field.name for field in dataclasses.fields(experiment.model)}
        assert set(recipes.on_accelerators(recipe)) <= fields
        found, _ = suited(experiment, "gpu", recipes.on_accelerators(recipe))
        assert settings.from_json(settings.to_json(found)) == found
