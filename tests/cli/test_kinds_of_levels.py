"""Every command of `hvae` on runs whose levels are no plain Gaussians: linear, discrete, classes, observed, greedy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiers import tiers

import hvae_jax as hv
from hvae_jax.cli import main as command_line
from hvae_jax.experiment import Data, Evaluation, Experiment, Training, run
from hvae_jax.models import HVAE, CaGeM, DenseNetworks, GreedyVAE, LinearVAE, SelfSupervisedVAE, TopDownVAE

MODELS: dict[str, HVAE] = {
    "linear": LinearVAE((2, 3)),
    "discrete": TopDownVAE(latents=(2, 3), levels=("categorical", "bernoulli"), categories=4, hidden=8),
    "class": CaGeM(latents=(2, 3), hidden=8),
    "observed": SelfSupervisedVAE(latents=(2, 3), networks=DenseNetworks(8)),
    "greedy": GreedyVAE(modules=1, width=4),
    "clips": GreedyVAE(image=(8, 8, 1), frames=2, modules=1, width=4),  # the halves of a digit, from left to right
}
SAID = {
    "discrete": ("z2 is discrete", "z1 is discrete"),
    "class": ("y is one of 10 classes",),
    "observed": ("y is observed",),
    "clips": ("past is observed",),
}
"""Beginnings of sentences of the report that are said of this kind alone."""


@pytest.mark.parametrize("kind", tiers(MODELS, slow=3))
def test_every_command(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training, then show, evaluate, sample, reconstruct and diagnose; the report has a verdict on each level."""
    x, y = hv.data.digits().splits["train"].x, hv.data.digits().splits["train"].y
    few = {f"x_{name}": x[rows] for name, rows in (("train", slice(64)), ("validation", slice(64, 80)))}
    np.savez(tmp_path / "few.npz", **few, x_test=x[80:110], y_train=y[:64], y_validation=y[64:80], y_test=y[80:110])
    experiment = Experiment(
        "tiny",
        MODELS[kind],
        Data(str(tmp_path / "few.npz")),
        training=Training(batch_size=32, epochs=2),
        evaluation=Evaluation(draws=3, other_draws=2),
    )
    folder = str(tmp_path / "run")
    run(experiment, Path(folder))
    for arguments in (
        ["show", folder],
        ["evaluate", folder, "--draws", "3", "--splits", "test"],
        ["sample", folder, "--n", "4", "--temperature", "0.8"],
        ["reconstruct", folder, "--keep-top", "1"],
        ["reconstruct", folder, "--by-level"],
        ["diagnose", folder, "--effort.examples", "20", "--effort.k", "4", "--effort.latents", "5"],
    ):
        command_line.main(arguments)
    report: dict[str, Any] = json.loads((tmp_path / "run" / "report.json").read_text())
    assert len(report["verdicts"]) == len(report["levels"]) == MODELS[kind].num_levels
    assert (None in report["losses"]) == (kind == "class")  # z1 and y are inferred from below
    assert (tmp_path / "run" / "report.html").exists()
    out = capsys.readouterr().out
    for other, sentences in SAID.items():
        assert all((sentence in out) == (kind == other) for sentence in sentences)


def test_families_on_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`--model.levels` takes one family a level; another name is refused, listing the known ones."""
    from hvae_jax.cli import script

    class Stop(Exception):
        """Ends the command before a run."""

    chosen = []

    def stop(experiment: Experiment, *_: Any, **__: Any) -> None:
        chosen.append(experiment)
        raise Stop

    monkeypatch.setattr(script, "run", stop)
    preset = {"digits": Experiment("top_down_digits", TopDownVAE(), Data("digits"))}
    flags = ["--model.levels", "categorical", "bernoulli", "--model.categories", "5", "--model.estimator", "gumbel"]
    with pytest.raises(Stop):
        script.main(preset, flags)
    model = chosen[0].model
    assert (model.levels, model.categories, model.estimator) == (("categorical", "bernoulli"), 5, "gumbel")
    with pytest.raises(SystemExit):
        script.main(preset, ["--model.levels", "normal", "poisson"])
    assert "bernoulli" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main(preset, ["--model.levels", "bernoulli"])
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())  # the message is wrapped, in a frame or not
    assert "1 families, but latents=(8, 16) need 2" in said
