"""`hvae inpaint` and `hvae reconstruct --draws`: pictures, arrays, masks of each kind, and refusals."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from support.contract import plausible_variables

from hvae_jax.cli import inpaint, reconstruct
from hvae_jax.cli import main as command_line
from hvae_jax.cli.inpaint import Inpaint
from hvae_jax.cli.reconstruct import Reconstruct
from hvae_jax.cli.script import main as script
from hvae_jax.experiment import Data, Evaluation, Experiment, Training
from hvae_jax.experiment.box import Card
from hvae_jax.experiment.reopen import Stored
from hvae_jax.likelihoods import Categorical, Missing
from hvae_jax.models import TopDownVAE
from hvae_jax.training.checkpoint import Progress

MODEL = TopDownVAE((2, 2), hidden=5, likelihood=Missing(Categorical(9)))
X = np.random.default_rng(0).integers(0, 9, (3, 4, 6, 1)).astype(np.float32)
X[2, 0, 0] = np.nan


@pytest.fixture(scope="module")
def stored() -> Stored:
    """A run that was never trained, on data of which one value is missing."""
    experiment = Experiment("toy", MODEL, Data("toy.npz", missing="nan"))
    variables = plausible_variables(MODEL, jnp.asarray(X), None)
    return Stored(experiment, variables, Progress(), Card("toy", event=X.shape[1:]))


@pytest.fixture(autouse=True)
def here(stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of that run, with its data."""
    monkeypatch.chdir(tmp_path)
    np.savez("toy.npz", x_train=X, x_validation=X, x_test=X, num_values=9)
    for command in (inpaint, reconstruct):
        monkeypatch.setattr(command, "open_stored", lambda *_, **__: stored)


def test_pictures_and_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    """Masks by name, as a picture and as arrays; what is seen stays; acceptance is printed; one program serves all."""
    hole = np.zeros((4, 6), np.uint8)
    hole[1:3, 1:4] = 255
    Image.fromarray(hole).save("hole.png")
    np.savez("hole.npz", missing=hole > 0)
    np.savez("seen.npz", seen=np.broadcast_to((hole == 0)[..., None], X.shape))
    for mask in ("box", "hole.png", "hole.npz", "seen.npz", "half", "missing"):
        Inpaint(Path(), mask, steps=9, out=Path("out.npz"))()
        found = dict(np.load("out.npz"))
        seen = found["seen"]
        assert not seen[2, 0, 0].any()  # the data itself lacks it
        if mask not in ("half", "missing"):
            np.testing.assert_array_equal(seen[:2, ..., 0], np.broadcast_to(hole == 0, (2, 4, 6)))
        for filling in found["fillings"]:
            np.testing.assert_array_equal(filling[seen], X[seen])
            assert np.isin(filling, range(9)).all()
        assert found["acceptance"].shape == (3,) and not found["deviation"][seen].any()
    said = capsys.readouterr().out
    assert "out.npz: 26% of 3 images filled in by 9 steps of metropolis" in said
    assert said.count("accepted of the proposals: ") == 6
    Inpaint(Path(), steps=9)()
    assert Image.open("inpainted_box.png").size[0] > 300
    again = np.load("out.npz")["fillings"]
    Inpaint(Path(), "missing", steps=9, out=Path("again.npz"))()
    np.testing.assert_array_equal(np.load("again.npz")["fillings"], again)


def test_own_arrays() -> None:
    """With --mask missing, NaN in a user's .npz is filled in, by a model of any data; another shape is refused."""
    whole = np.nan_to_num(X, nan=3.0).astype(np.float64)
    lacking = np.where(np.arange(6)[:, None] < 3, whole, np.nan)
    np.savez("own.npz", x_train=whole, x_test=lacking, num_values=9)
    Inpaint(Path(), "missing", steps=9, data=("own.npz",), out=Path("out.npz"))()
    found = np.load("out.npz")
    np.testing.assert_array_equal(found["seen"], ~np.isnan(lacking))
    np.testing.assert_array_equal(found["fillings"][..., :3, :], np.broadcast_to(whole[..., :3, :], (3, 3, 4, 3, 1)))
    np.savez("own.npz", x_train=whole[:, 1:])
    with pytest.raises(ValueError, match=r"holds examples of shape \(3, 6, 1\), but the model's are \(4, 6, 1\)"):
        Inpaint(Path(), "missing", steps=9, data=("own.npz",))()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"mask": "boxes"}, "--mask boxes is neither box, half nor missing, nor a file"),
        ({"mask": "no.npz"}, "there is no file no.npz"),
        ({"mask": "two.npz"}, "holds seen, missing, but needs one array"),
        ({"mask": "other.npz"}, r"shape \(3, 3\), but x has shape \(3, 4, 6, 1\)"),
        ({"mask": "full.npz", "n": 2}, "hides nothing of these images"),
        ({"mask": "none.npz", "n": 2}, "nothing is seen of these images"),
        ({"mask": "missing", "n": 2}, "Nothing of these images of .* is missing"),
        ({"mask": "text.txt"}, "a mask is a picture, or an .npz"),
        ({"mask": "text.png"}, "text.png: "),
        ({"split": "tset"}, "no split 'tset'"),
        ({"n": 0}, "it takes an image or more"),
        ({"steps": 5}, "and 6 steps"),
        ({"out": Path("x.txt")}, "has to end in .png, for a picture, or .npz"),
    ],
)
def test_refused(choices: dict[str, Any], message: str) -> None:
    """One line, and nothing is written."""
    np.savez("two.npz", seen=np.ones((4, 6)), missing=np.ones((4, 6)))
    np.savez("other.npz", seen=np.ones((3, 3)))
    np.savez("full.npz", seen=np.ones((4, 6)))
    np.savez("none.npz", seen=np.zeros((4, 6)))
    Path("text.txt").write_text("no mask")
    Path("text.png").write_text("no picture")
    before = sorted(Path().iterdir())
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Inpaint(Path(), **choices)()
    assert sorted(Path().iterdir()) == before


def test_reconstruct_over_draws() -> None:
    """A picture with mean and deviation; fewer than two draws, or draws beside --by-level, are refused."""
    Reconstruct(Path(), draws=3)()
    assert Path("reconstructions_top2_of_3_draws.png").exists()
    with pytest.raises(ValueError, match="--draws is 1, but it has to be 2 or more"):
        Reconstruct(Path(), draws=1)()
    with pytest.raises(ValueError, match="leave --keep-top, --temperature, --draws out"):
        Reconstruct(Path(), draws=3, by_level=True)()


@pytest.mark.slow
def test_training_with_missing_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line: 30% hidden, microbatches on two devices, IWAE; then every command on the folder."""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    from hvae_jax.objectives import ImportanceWeighted

    plain = TopDownVAE((2, 3), hidden=8, likelihood=Categorical(17))
    experiment = Experiment(
        "lacks",
        plain,
        Data("digits"),
        objective=ImportanceWeighted(2),
        training=Training(batch_size=64, steps=20),
        evaluation=Evaluation(draws=3, other_draws=2, size=100, train_examples=100),
    )
    flags = ["--data.hidden", "0.3", "--microbatch", "32", "--devices.count", "2", "--feed.kind", "streamed"]
    script(experiment, flags)
    result = json.loads(Path("runs/lacks/result.json").read_text())
    for part in ("train", "validation", "test"):
        bits, nats = result["bits_per_dim"][part]["elbo"], result["elbo"][part]
        assert np.isfinite(bits) and abs(-nats / np.log(2) / bits / (64 if part == "test" else 64 * 0.7) - 1) < 0.02
    for arguments in (
        ["evaluate", "runs/lacks", "--draws", "3", "--splits", "validation"],
        ["reconstruct", "runs/lacks", "--draws", "3", "--split", "train"],
        ["inpaint", "runs/lacks", "--mask", "missing", "--split", "train", "--steps", "20"],
        ["diagnose", "runs/lacks", "--effort.examples", "20", "--effort.k", "4", "--effort.latents", "5"],
        ["sample", "runs/lacks", "--n", "4"],
    ):
        command_line.main(arguments)
    assert Path("runs/lacks/inpainted_missing.png").exists() and Path("runs/lacks/report.html").exists()
