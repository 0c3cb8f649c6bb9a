"""`hvae train`: recipes of the package by name, with the flags of a script; names that do not exist."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.places import RECIPES, script

from hvae_jax import recipes
from hvae_jax.cli import main as cli
from hvae_jax.cli import presets
from hvae_jax.cli import script as command_line
from hvae_jax.experiment import Experiment


@dataclasses.dataclass
class Ran:
    """What the command line asked for, in place of a run."""

    asked: list[tuple[Experiment, Path]] = dataclasses.field(default_factory=list)
    interrupted: int = 0
    state: Any = dataclasses.field(default_factory=lambda: type("State", (), {"step": 0}))

    def __call__(self, experiment: Experiment, folder: Path, **_: Any) -> "Ran":
        self.asked.append((experiment, folder))
        return self


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    stand_in = Ran()
    monkeypatch.setattr(command_line, "run", stand_in)
    return stand_in


def said(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The error that a command line ends with."""
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == code
    return capsys.readouterr().err


def test_a_script_and_the_command_ask_for_the_same_run(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without a preset and overrides."""
    for flags in ([], ["--preset", "digits_vamp", "--seed", "3", "--folder", "x", "--model.hidden", "9"]):
        cli.main(["train", "top_down", *flags])
        module = script(RECIPES / "top_down.py")
        command_line.main(module.recipe.presets, flags, module.recipe.__doc__)
        assert ran.asked[-1] == ran.asked[-2]
    (first, folder), *_, (last, elsewhere) = ran.asked
    assert first == recipes.experiment_of("top_down") and folder == Path("runs/top_down_digits")
    assert (last.seed, last.model.hidden, elsewhere) == (3, 9, Path("x"))


def test_the_list_has_every_preset_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "--list"])
    blocks = dict(block.split(": ", 1) for block in capsys.readouterr().out.strip().split("\n\n"))
    assert list(blocks) == list(recipes.names())
    for name, block in blocks.items():
        title, *lines = block.splitlines()
        assert title and [line.split()[0] for line in lines] == list(recipes.presets_of(name))
        assert all(len(line.split()) > 2 and len(line) < 200 and "{" not in line for line in lines)
    assert "digits_vamp                 digits, but model.top_prior VampPrior" in blocks["top_down"]
    assert "cifar10_small  VDVAE, 15 levels; cifar10; 7,000 steps" in blocks["vdvae"]
    cli.main(["train", "vae", "--list"])
    assert capsys.readouterr().out.strip() == f"vae: {blocks['vae']}".strip()


def test_help_without_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "--help"])
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in recipes.names()) and "--data.name FOLDER" in shown


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["topdown"], ["no recipe 'topdown'. Did you mean top_down? There are biva, bottom_up"]),
        (["zzz"], ["no recipe 'zzz'. There are biva"]),
        ([], ["needs the name of a recipe: biva"]),
        (["--preset", "digits"], ["needs the name of a recipe before --preset"]),
        (["mine.py"], ["mine.py (which does not exist) is no recipe", "python mine.py"]),
        (["vae", "--preset", "digit"], ["no preset 'digit'. Did you mean digits? There are digits, mnist_iwae"]),
        (["vae", "--model.hiden", "3"], ["Did you mean --model.hidden?"]),
        (["vae", "--model.hidden", "many"], ["many"]),
    ],
)
def test_what_does_not_exist(
    arguments: list[str], parts: list[str], ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    message = said(["train", *arguments], 2, capsys)
    assert all(part in message for part in parts) and not ran.asked


def test_recipes_are_imported_when_they_are_asked_for() -> None:
    """The names come from the folder; unknown ones are refused with the nearest."""
    assert "vdvae" in recipes.names() and len(recipes.names()) == len(list(RECIPES.glob("*.py")))
    with pytest.raises(ValueError, match=r"no recipe 'vdva'\. Did you mean vdvae"):
        recipes.presets_of("vdva")
    with pytest.raises(ValueError, match=r"no preset 'mnist' of vae\. Did you mean mnist_iwae"):
        recipes.experiment_of("vae", "mnist")


@pytest.mark.slow
def test_the_commands_load_no_recipe() -> None:
    import subprocess

    program = "import sys, hvae_jax.cli.main; print([m for m in sys.modules if m.startswith('hvae_jax.recipes.')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_lines_on_presets_of_ones_own() -> None:
    one = recipes.experiment_of("vae")
    two = dataclasses.replace(one, name="two", model=one.model.clone(prior_clamp=None, hidden=3))
    lines = presets.about({"one": one, "two": two})
    assert lines["one"] == "VAE, 1 level; digits; 1,000 epochs at most"
    assert lines["two"] == "one, but model.hidden 3, no model.prior_clamp"


@pytest.mark.slow
def test_pictures_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A folder of pictures in, a run with its result and its report out; the same command again finds it done."""
    rng = np.random.default_rng(0)
    (tmp_path / "mine").mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (9, 10), np.uint8)).save(tmp_path / "mine" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    command = ["train", "vae", "--data.name", "mine", "--data.size", "4", "--model.likelihood.num-values", "256"]
    command += ["--model.hidden", "8", "--model.latents", "2", "--steps", "4", "--evaluation.draws", "2"]
    command += ["--evaluation.other-draws", "2", "--batch-size", "16", "--name", "mine", "--report"]
    cli.main(command)
    out = capsys.readouterr().out
    assert "-ELBO" in out and "report.html" in out
    assert {"result.json", "samples.png", "report.html", "report.json"} <= {p.name for p in Path("runs/mine").iterdir()}
    cli.main(command[:-1])
    assert "nothing is measured again" in capsys.readouterr().out
