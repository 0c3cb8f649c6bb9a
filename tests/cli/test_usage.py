"""Command lines that are wrong: one clear line each, which names the flag or the folder that was meant."""

from pathlib import Path

import pytest

from hvae_jax.cli import main as cli
from hvae_jax.cli.script import main
from hvae_jax.experiment import Experiment
from hvae_jax.models import SelfSupervisedVAE, TopDownVAE
from hvae_jax.models.top_priors import VampPrior
from hvae_jax.objectives import Regularised

pytestmark = pytest.mark.leg

PRESETS = {
    "plain": Experiment("plain", TopDownVAE(latents=(2,), hidden=4)),
    "vamp": Experiment("vamp", TopDownVAE(latents=(2,), hidden=4, top_prior=VampPrior(3))),
}
REGULARISED = Experiment("other", TopDownVAE(latents=(2,), hidden=4), objective=Regularised())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--learning-rate 0.1", "--learning-rate is no flag here. Did you mean --optimiser.learning-rate?"),
        ("--learing-rate 0.1", "Did you mean --optimiser.learning-rate?"),
        ("--model.hiden=3", "--model.hiden is no flag here. Did you mean --model.hidden?"),
        ("--batch 3", "Did you mean --batch-size?"),
        ("--objective.beta 4", "--objective.beta is no flag here. Did you mean --beta?"),
        ("--depht 4", "Did you mean --depth?"),
        ("--objective.k 4", "if the objective is ImportanceWeighted"),
        ("--pseudo-inputs 9", "--preset vamp has --model.top-prior.pseudo-inputs"),
        ("--lr 1", "--lr is no flag here. --help lists all."),
        ("stray", "stray: this command takes flags alone, such as --preset."),
    ],
)
def test_unknown_flags(arguments: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(PRESETS, arguments.split())
    error = capsys.readouterr().err
    assert line in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_flag_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    """And a line for each flag that is not."""
    with pytest.raises(SystemExit, match="2"):
        main(REGULARISED, ["--objective.bta", "4", "--stpes", "3"])
    first, second = capsys.readouterr().err.splitlines()
    assert "Did you mean --objective.beta?" in first and "Did you mean --steps?" in second


def test_a_tuple_of_records(capsys: pytest.CaptureFixture[str]) -> None:
    """Its parts have flags, the whole has none."""
    with pytest.raises(SystemExit, match="2"):
        main(Experiment("observed", SelfSupervisedVAE()), ["--model.reductions", "AveragePool"])
    error = capsys.readouterr().err
    assert "--model.reductions is no flag here. Did you mean --model.reductions.0.factor?" in error


@pytest.mark.parametrize("command", ["show", "sample", "evaluate", "export", "diagnose", "reconstruct"])
def test_what_is_no_run(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is not there or is another one, and a file; runs nearby are named."""
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "settings.json").write_text("{}")
    (tmp_path / "file").write_text("")
    for path, line in (
        ("runs/mien", f"{tmp_path}/runs/mien does not exist. Runs in {tmp_path}/runs: mine."),
        ("runs", f"{tmp_path}/runs holds no run: there is no settings.json in it. Runs in {tmp_path}/runs: mine."),
        ("file", f"{tmp_path}/file is a file, but the folder of a run is needed."),
        ("runs/mine/settings.json", f"Give the folder that it is in: {tmp_path}/runs/mine."),
    ):
        with pytest.raises(SystemExit, match="1"):
            cli.main([command, str(tmp_path / path)])
        assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["evaluate", "doctor"]),
        (["shw", "runs"], ["error: There is no command 'shw'. Did you mean show? There are train, sweep, "]),
        (["show"], ["the run folder"]),
    ],
)
def test_wrong_commands(arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    error = capsys.readouterr().err
    assert all(part in error for part in parts)
    assert error.startswith("error: ") and error.count("\n") == 1 and error.endswith(" --help lists all.\n")
