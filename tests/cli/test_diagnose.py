"""`hvae diagnose`: numbers and words come first, whatever becomes of the pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import hvae_jax as hv
from hvae_jax.cli import diagnose as command
from hvae_jax.data import Dataset, Split, integer
from hvae_jax.experiment import Experiment
from hvae_jax.experiment.reopen import OpenedRun
from hvae_jax.models import TopDownVAE
from hvae_jax.report.diagnosis import Effort
from hvae_jax.training.checkpoint import Progress

KEY = jax.random.key(0)
X = np.zeros((600, 2, 2, 1), np.uint8)
WORDS = ["z1 is in use."]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Effort]:
    """The efforts of the reports that are asked for; nothing is computed."""
    model = TopDownVAE(latents=(2,), hidden=8, likelihood=hv.Categorical(3))
    dataset = Dataset("toy", {"train": Split(X, None), "test": Split(X, None)}, integer(3), "made up")
    run = OpenedRun(Experiment("toy", model), dataset, jax.eval_shape(model.init, KEY, X[:2], KEY), Progress())
    asked: list[Effort] = []

    def diagnose(*arguments: Any) -> dict[str, Any]:
        asked.append(arguments[5])
        arguments[7]("information")
        return {"words": WORDS}

    monkeypatch.setattr(command, "open_run", lambda *arguments: run)
    monkeypatch.setattr(command, "diagnose", diagnose)
    return asked


def test_without_pictures_there_are_json_and_words(
    calls: list[Effort], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The budget and the parts are told where errors go."""
    command.Diagnose(tmp_path, seconds=0.0, pictures=False)()
    said = capsys.readouterr()
    assert said.out == f"- {WORDS[0]}\n{tmp_path / 'report.json'}\n"
    assert "s of passes on two cores" in said.err and "examples 40" in said.err and "] information" in said.err
    assert json.loads((tmp_path / "report.json").read_text())["run"] == "toy"
    assert not (tmp_path / "report.html").exists()
    command.Diagnose(tmp_path, seconds=None, pictures=False)()
    assert calls[1] == Effort() and calls[0].examples == 40
    assert "as asked for" in capsys.readouterr().err


def test_the_page_does_not_replace_the_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"report\.json is the page, .*: name it \.html"):
        command.Diagnose(tmp_path, out=tmp_path / "report.json")()


def test_a_picture_that_fails_is_a_warning(
    calls: list[Effort], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The numbers are there before it is tried."""

    def fail(*arguments: Any) -> Callable[..., None]:
        assert (tmp_path / "report.json").exists()
        raise RuntimeError("no ink\nat all")

    monkeypatch.setattr(command, "walk_pictures", fail)
    command.Diagnose(tmp_path)()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"- {WORDS[0]}"
    assert lines[1].startswith("warning: the pictures failed (RuntimeError: no ink), so that there is no page")
