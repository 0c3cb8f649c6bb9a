"""Labels of a run: which of them training needs, and a run of CaGeM with every command on its folder."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import hvae_jax as hv
from hvae_jax.cli import main as cli
from hvae_jax.cli import sample
from hvae_jax.data import Dataset, Split, few_labels, integer
from hvae_jax.experiment import Data, Evaluation, Experiment, Training, run
from hvae_jax.experiment.checks import check_fits, check_labels
from hvae_jax.models import CaGeM, TopDownVAE
from hvae_jax.objectives import Enumerated, NegativeELBO
from hvae_jax.report.labels import probes
from hvae_jax.training.mesh import data_mesh

run_module = importlib.import_module("hvae_jax.experiment.run")  # as an attribute of its package it is the function

X = np.zeros((12, 4), np.uint8)
Y = np.arange(12, dtype=np.int32) % 3


def dataset(y: np.ndarray | None = Y, classes: int = 3) -> Dataset:
    """Twelve examples."""
    split = Split(X, None if y is None else y % classes)
    return Dataset("toy", {"train": split, "validation": split}, integer(17), "made up")


CLASSES = TopDownVAE(latents=(2, 2), hidden=4, classes=3)
CAGEM = CaGeM(clusters=3, latents=(2, 2), hidden=4)


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (lambda: check_fits(CLASSES, few_labels(dataset(), 1)), "classes=3 and is conditioned.* 9 of the 12.*CaGeM"),
        (lambda: check_fits(CLASSES, dataset(None)), "classes=3, but toy has no labels in its train split"),
        (lambda: check_labels(CAGEM, Enumerated(), dataset(None)), r"alpha=1.*toy has no label.*alpha to 0"),
        (lambda: check_labels(CAGEM, Enumerated(), few_labels(dataset(), 0)), "toy has no label in its train split"),
        (lambda: check_labels(CLASSES, Enumerated(), dataset()), "a latent, but TopDownVAE has none: take CaGeM"),
        (lambda: check_labels(CaGeM(clusters=1001), Enumerated(), dataset()), "at most 1,000 are enumerated"),
        (lambda: check_labels(CaGeM(clusters=2), Enumerated(), dataset()), "clusters=2, but toy has the label 2"),
        (lambda: check_labels(CaGeM(clusters=2), NegativeELBO(), dataset()), "set model.clusters to 3 or more"),
    ],
)
def test_what_is_said_before_training(check: Callable[[], None], said: str) -> None:
    """Labels missing where a class is asked for, classes that the model does not have or that are too many."""
    with pytest.raises(ValueError, match=said):
        check()


def test_a_users_missing_labels(tmp_path: Path) -> None:
    """-1 in an .npz hides a label where classes are inferred or not looked at; a model of classes refuses it."""
    y = np.where(np.arange(60) < 20, np.arange(60) % 3, -1)
    np.savez(tmp_path / "few.npz", x_train=np.zeros((60, 4), np.uint8), y_train=y, num_values=17)
    found = hv.data.load(str(tmp_path / "few.npz"))
    assert found.classes == 3 and len(found.splits["train"].labelled) < 20
    check_labels(CAGEM, Enumerated(), found)
    check_fits(CAGEM, found)
    with pytest.raises(ValueError, match=r"classes=3 and is conditioned .* have no label: label them all, .* CaGeM"):
        check_fits(CLASSES, found)
    unknown = Split(X, np.full(12, -1, np.int32))
    assert probes(CAGEM, {}, Split(X, Y), unknown, [], jax.random.key(0)) is None  # nothing to test a probe on


def test_what_is_fine() -> None:
    """No labels with alpha=0, more clusters than labels, and samples of y in place of the sum."""
    check_labels(CAGEM, Enumerated(alpha=0.0), dataset(None))
    check_labels(CAGEM, Enumerated(), few_labels(dataset(), 1))
    check_labels(CaGeM(clusters=30), Enumerated(), dataset())
    check_labels(CaGeM(clusters=5000), NegativeELBO(), dataset())
    check_labels(CaGeM(clusters=2), Enumerated(alpha=0.0), few_labels(dataset(), 0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps on a few digits, most of whose labels are hidden."""
    where = tmp_path_factory.mktemp("cagem")
    digits, rows = hv.data.digits().splits["train"], slice(0, 60)
    few: dict[str, Any] = {"x_train": digits.x[rows], "y_train": digits.y[rows], "num_values": 17}
    np.savez(where / "few.npz", x_validation=digits.x[60:80], y_validation=digits.y[60:80], **few)
    experiment = Experiment(
        "tiny",
        CaGeM(latents=(2, 3), hidden=8),
        Data(str(where / "few.npz"), labels=2, label_share=0.5),
        Enumerated(),
        training=Training(batch_size=16, steps=6),
        evaluation=Evaluation(draws=2, other_draws=2),
    )
    devices = pytest.MonkeyPatch()
    devices.setattr(run_module, "data_mesh", lambda count=None: data_mesh(count or 1))
    run(experiment, where / "run")
    devices.undo()
    return where / "run"


@pytest.mark.slow
def test_a_run_measures_its_classes(folder: Path) -> None:
    """Metrics of the objective; in result.json information, classes in use and accuracies of each split."""
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert {"rate/z2", "rate/y", "rate/z1", "marginal", "class_entropy", "class_log_q"} <= set(row)
    assert 0.3 < row["labelled"] < 0.7  # 20 of 60 examples, repeated to be about half
    found = json.loads((folder / "result.json").read_text())["classes"]
    assert set(found) == {"train", "validation"}
    for numbers in found.values():
        assert set(numbers) == {"information", "used", "labelled", "accuracy", "clustering"}
        assert 0 <= numbers["accuracy"] <= numbers["clustering"] <= 1 and 1 <= numbers["used"] <= 10


@pytest.mark.slow
def test_commands_on_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each works, and the report says what the class is worth; a picture of one class has its label in the title."""
    titles: list[str] = []
    draw = sample.charts.save_grids

    def save_grids(path: Path, panels: dict[str, np.ndarray], *shown: Any) -> None:
        titles.extend(panels)
        draw(path, panels, *shown)

    monkeypatch.setattr(sample.charts, "save_grids", save_grids)
    for arguments in (
        ["show"],
        ["evaluate", "--draws", "2"],
        ["reconstruct", "--keep-top", "1"],
        ["reconstruct", "--by-level"],
        ["sample", "--n", "4"],
        ["sample", "--n", "4", "--label", "3"],
        ["sample", "--n", "4", "--label", "3", "--out", str(folder / "three.npz")],
    ):
        cli.main([arguments[0], str(folder), *arguments[1:]])
    said = capsys.readouterr().out
    assert "validation classes: I(x; y)" in said and "matched one to one" in said and "of 20 labelled" in said
    assert titles[-2:] == ["temperature 1", "label 3, temperature 1"]
    with np.load(folder / "three.npz") as made:
        assert made["x"].shape == (4, 8, 8, 1) and made["y"].tolist() == [3] * 4
    cli.main(["diagnose", str(folder), "--seconds", "1"])
    said = capsys.readouterr().out
    assert "y is one of 10 classes, which tells" in said and "warning" not in said
    page = (folder / "report.html").read_text()
    assert '<h2 id="classes">Classes</h2>' in page and "Samples by class" in page
    report = json.loads((folder / "report.json").read_text())
    assert report["classes"][0]["level"] == "y" and report["probes"]["examples"] == 20
