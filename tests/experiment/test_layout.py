"""Run folders of another layout: refused in one sentence, with the command that trains them anew."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import hvae_jax as hv
from hvae_jax import recipes
from hvae_jax.cli import main as cli
from hvae_jax.experiment import Experiment, run, settings
from hvae_jax.experiment.folder import check
from hvae_jax.experiment.layout import _RECIPES, LAYOUT
from hvae_jax.experiment.reopen import open_run, read_experiment

EXPERIMENT = Experiment("digits_topdown", hv.models.TopDownVAE(latents=(2, 3), hidden=8))
OLD = {
    "type": "hvae_jax.experiment:Experiment",
    "fields": {
        "name": "digits_two_level",
        "model": {
            "type": "hvae_jax.models.two_level:TwoLevelVAE",
            "fields": {"latents": [8, 16], "hidden": 256, "estimator": "log_ratio"},
        },
        "data": {"type": "hvae_jax.experiment:Data", "fields": {"name": "digits"}},
        "training": {"type": "hvae_jax.training:Training", "fields": {"batch_size": 64, "epochs": 1000}},
        "seed": 0,
    },
}


def folder_of(path: Path, data: dict[str, Any]) -> Path:
    """A run folder with these settings and an empty checkpoint."""
    (path / "checkpoints" / "3").mkdir(parents=True)
    (path / "settings.json").write_text(json.dumps(data))
    return path


def refusal(folder: Path, recipe: str, preset: str) -> str:
    """The whole message, as a pattern."""
    command = f"hvae train {recipe} --preset {preset} --folder {folder} --overwrite"
    return f"^{re.escape(str(folder))} was written by an earlier layout of hvae_jax.* {re.escape(command)}$"


def test_an_old_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By whatever opens it, by a run and by one that is to go on; nothing in it is touched."""
    folder = folder_of(tmp_path / "run", OLD)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    says = refusal(folder, "bottom_up", "digits")
    for opening in (read_experiment, open_run, lambda f: run(EXPERIMENT, f), lambda f: run(EXPERIMENT, f, resume=True)):
        with pytest.raises(ValueError, match=says):
            opening(folder)
    for arguments in (["evaluate"], ["sample"], ["reconstruct"], ["diagnose"], ["export"]):
        with pytest.raises(SystemExit):
            cli.main([*arguments, str(folder)])
        (said, _) = capsys.readouterr().err.strip().splitlines()
        assert re.match(says, said.removeprefix("error: "))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_old_folder_may_be_overwritten(tmp_path: Path) -> None:
    check(folder_of(tmp_path / "run", OLD), EXPERIMENT, resume=False, overwrite=True)


def test_names_that_still_resolve_make_no_difference(tmp_path: Path) -> None:
    """Without its number every layout is the first."""
    data = settings.to_json(EXPERIMENT)
    assert settings.from_json(data) == EXPERIMENT
    with pytest.raises(ValueError, match=refusal(tmp_path, "top_down", "digits")):
        settings.load(folder_of(tmp_path, data) / "settings.json")


@pytest.mark.parametrize(
    ("name", "folder", "command"),
    [
        ("vdvae_cifar10_small", "x", "hvae train vdvae --preset cifar10_small --folder"),
        ("efficient_vdvae_cifar10_c1", "x", "hvae train efficient_vdvae --preset cifar10_c1 --folder"),
        ("mnist_ladder_published6", "x", "hvae train ladder --preset mnist_published6 --folder"),
        ("mine", "mnist_iwae", "hvae train vae --preset mnist_iwae --folder"),
        ("mine", "my runs", "the run's own script and --folder '"),
        (None, "digits_vae", "hvae train vae --preset digits --folder"),
    ],
)
def test_the_command_follows_the_name(name: str | None, folder: str, command: str, tmp_path: Path) -> None:
    """The run's, else the folder's; a script of one's own is not guessed."""
    data = {"type": "hvae_jax.experiment:Experiment", "fields": {"name": name} if name else {}}
    with pytest.raises(ValueError, match=re.escape(command)):
        read_experiment(folder_of(tmp_path / folder, data))


def test_a_later_layout(tmp_path: Path) -> None:
    """Is not called an earlier one."""
    folder = folder_of(tmp_path, {"layout": LAYOUT + 1} | OLD)
    with pytest.raises(ValueError, match=f"later layout of hvae_jax .{LAYOUT + 1}; .* upgrade"):
        read_experiment(folder)


@pytest.mark.parametrize(("recipe", "preset"), sorted(set(_RECIPES.values())))
def test_the_commands_exist(recipe: str, preset: str) -> None:
    assert recipes.experiment_of(recipe, preset).name == f"{recipe}_{preset}"
