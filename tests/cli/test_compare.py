"""`hvae compare`: numbers, settings that differ, curves; runs that do not compare, and what is no run."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from support import pretended

from hvae_jax import recipes
from hvae_jax.cli import main as cli
from hvae_jax.experiment import box, settings
from hvae_jax.experiment.several import mean_and_deviation, numbers_of


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two finished runs and one that has only begun."""
    monkeypatch.chdir(tmp_path)
    one = recipes.experiment_of("top_down")
    two = recipes.experiment_of("top_down", "digits_vamp")
    pretended.write(Path("runs/one"), one, -100.0)
    pretended.write(Path("runs/two"), dataclasses.replace(two, seed=3), -98.0)
    Path("runs/begun").mkdir()
    settings.save(Path("runs/begun/settings.json"), one)


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        cli.main(["compare", *arguments])
    assert left.value.code in (1, 2)
    return capsys.readouterr().err


def test_numbers_settings_and_curves(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["compare", "runs/one", "runs/two", "runs/begun", "--json", "all.json"])
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("  ")[0]: line.split()[-3:] for line in lines if "  " in line}
    assert lines[0].split() == ["one", "two", "begun"]
    (elbo,) = [line for line in lines if line.startswith("test -ELBO")]
    assert elbo.split()[2:] == ["100.00", "±", "0.50", "98.00", "±", "0.50", "-"]
    (bound,) = [line for line in lines if line.startswith("-log p(x) <=")]
    assert "98.00 ± 0.40 (K=20)" in bound and "96.00 ± 0.40 (K=20)" in bound
    (bits,) = [line for line in lines if line.startswith("bits/dim")]
    assert bits.split()[1:] == ["2.400", "2.400", "-"]
    assert rows["model.top_prior"] == ["NormalPrior", "VampPrior", "NormalPrior"]
    assert rows["training.init_examples"] == ["None", "100", "None"] and rows["seed"] == ["0", "3", "0"]
    assert "name" not in rows and not any(line.startswith("warning") for line in lines)
    assert Path("compare.png").read_bytes()[:4] == b"\x89PNG"
    saved = json.loads(Path("all.json").read_text())
    assert saved[1]["result"]["elbo"]["test"] == -98.0 and not saved[2]["result"]
    assert saved[1]["settings"]["seed"] == "3"


def test_models_in_the_box(capsys: pytest.CaptureFixture[str]) -> None:
    """Beside a run; their numbers are those on their cards."""
    cli.main(["compare", "runs/one", "digits_topdown", "--json", "all.json"])
    (elbo,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("test -ELBO")]
    result = box.read_card(box.resolved(Path("digits_topdown"))).result
    assert elbo.split()[2:] == ["100.00", "±", "0.50", f"{-result['elbo']['test']:.2f}", "±", "0.58"]
    assert json.loads(Path("all.json").read_text())[1]["result"]["elbo"] == result["elbo"]


def test_what_does_not_compare_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Other data; bounds of other numbers of draws; no difference at all; another split."""
    one = recipes.experiment_of("top_down")
    other = {"name": "digits", "hash": "xyz", "protocol": "p", "kind": "k", "examples": {"test": 4}}
    pretended.write(Path("runs/other"), one, -90.0, data=other, k={"validation": 2, "test": 50})
    cli.main(["compare", "runs/one", "runs/other", "--split", "validation", "--out", "curves.png"])
    shown = capsys.readouterr().out
    assert "different data" in shown and "different numbers of draws" in shown and "no setting differs" in shown
    assert "validation -ELBO" in shown and Path("curves.png").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["runs/one"], "needs two or more different run folders"),
        (["runs/one", "runs/../runs/one"], "needs two or more different run folders"),
        (["runs/one", "runs/three"], "runs/three does not exist. Runs in runs: begun, one, two."),
        (["runs/one", "runs/two", "--split", "tset"], "no split 'tset'"),
        (["runs/one", "runs/two", "--out", "no/where.png"], "there is no folder no"),
    ],
)
def test_bad_input(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert part in error_of(arguments, capsys)
    assert not list(Path().glob("*.png"))


def test_numbers() -> None:
    """Of many levels by resolution; of an imported model without those of a training; over seeds."""
    result = pretended.result(-100.0)
    assert numbers_of(result)["KL z2"] == 5.0 and numbers_of(result)["best validation -ELBO"] == 101.0
    result["rates"]["test"] = {f"z{i}": 1.0 for i in range(9)}
    result["rates_by_side"] = {"test": {4: 3.0, 8: 6.0}}
    found = numbers_of(result)
    assert (found["KL 4x4"], found["KL 8x8"]) == (3.0, 6.0) and "KL z0" not in found
    del result["best_validation_elbo"]
    assert "seconds" not in numbers_of(result)
    means, deviations = mean_and_deviation([{"a": 1.0, "b": 2.0}, {"a": 3.0}])
    assert means == {"a": 2.0, "b": 2.0} and deviations["a"] == pytest.approx(2**0.5) and np.isnan(deviations["b"])
