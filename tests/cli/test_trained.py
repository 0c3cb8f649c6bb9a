"""`hvae encode`, `score`, `interpolate`, and own pictures in `reconstruct` and `evaluate`; what they refuse."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support.small_weights import Said, what_fails
from support.trained import EVENT, X, Y, exported

import hvae_jax as hv
from hvae_jax.cli import score
from hvae_jax.cli.main import main
from hvae_jax.diagnostics import auroc
from hvae_jax.experiment.own import given_examples

said = pytest.fixture(what_fails)
RUN = "tiny.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an exported model, its data and two pictures."""
    folder = tmp_path_factory.mktemp("trained")
    exported(folder)
    (folder / "mine").mkdir()
    for name, size in (("a", (8, 8)), ("b", (5, 9))):
        pixels = np.random.default_rng(1).integers(0, 256, size).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "mine" / f"{name}.png")
    return folder


@pytest.fixture(autouse=True)
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In that folder."""
    monkeypatch.chdir(made)


def test_codes_by_split(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of `Pretrained.encode`, with labels and the order of the levels; pictures have names."""
    main(["encode", RUN, "--splits", "test", "train", "--size", "24"])
    assert "codes.npz: mean of z2 2, z1 3; 24 train, 8 test" in capsys.readouterr().out
    with np.load("codes.npz") as codes:
        assert list(codes["levels"]) == ["z2", "z1"]
        assert set(codes) == {
            "levels",
            *(f"{one}_{part}" for one in ("z2", "z1", "labels") for part in ("train", "test")),
        }
        np.testing.assert_array_equal(codes["labels_test"], Y[32:])
        expected = hv.load(RUN).encode(X[:24])
        np.testing.assert_allclose(codes["z1_train"], expected["z1"], rtol=1e-5)
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"size is {size}, but it has to be 1 or more"):
            hv.load(RUN).encode(X[:24], size=size)
    main(["encode", RUN, "--data", "mine", "--levels", "z1", "--what", "noise", "--out", "own.npz"])
    assert "2 pictures of mine, fitted to 4x4x1: 2 resized, 1 cropped" in capsys.readouterr().out
    with np.load("own.npz") as codes:
        assert codes["z1_own"].shape == (2, 3) and list(codes["names_own"]) == ["a.png", "b.png"]


def test_scores(capsys: pytest.CaptureFixture[str]) -> None:
    """A table with the AUROC of each score, a line or an entry for each example."""
    np.savez("features.npz", real=np.eye(6), generated=np.eye(6))
    small = ["--draws", "4", "--above-draws", "2"]
    main(["score", RUN, "--data", "mine", *small, "--features", "features.npz", "--out", "scores.npz"])
    out = capsys.readouterr().out
    assert "Sample quality on features.npz" in out and "6 real and 6 generated examples of 6 features" in out
    with np.load("scores.npz") as scores:
        assert scores["elbo_run"].shape == (8,) and scores["llr_1_data"].shape == (2,)
        area, error = auroc(-scores["elbo_run"], -scores["elbo_data"])
        assert f"{area:.3f} ± {error:.3f}" in out and f"{-scores['elbo_run'].mean():.2f} ± " in out
        names = ("elbo", "iw_bound", "llr_1")
        found = {side: {name: scores[f"{name}_{side}"] for name in names} for side in ("run", "data")}
    assert "test of " in out and "own of mine" in out and "-log p(x) <= (K=4)" in out and "LLR>1" in out
    trained = hv.load(RUN)
    own, other = given_examples(trained.experiment, EVENT, splits=("test",)), trained.pictures("mine")
    found["run"]["elbo"][1] = -np.inf
    score._write(Path("scores.jsonl"), {"run": own, "data": other}, found)
    lines = Path("scores.jsonl").read_text().splitlines()
    assert not any("Infinity" in line for line in lines), "no JSON"
    rows = [json.loads(line) for line in lines]
    assert rows[1]["elbo"] is None
    assert len(rows) == 10 and [row.get("name") for row in rows[-2:]] == ["a.png", "b.png"]
    for name, values in found["data"].items():
        np.testing.assert_allclose([row[name] for row in rows[-2:]], values, rtol=1e-6)


def test_interpolation(capsys: pytest.CaptureFixture[str]) -> None:
    """From one picture or example to another, on circles; its ends without noise are their reconstructions."""
    main(["interpolate", RUN, "--from", "mine/a.png", "--to", "3", "--steps", "3", "--out", "steps.npz"])
    assert "on great circles in the noise of z2, z1" in capsys.readouterr().out
    trained = hv.load(RUN)
    ends = np.concatenate([trained.pictures("mine/a.png").only.x, X[35:36]])
    x = np.load("steps.npz")["x"]
    assert x.shape == (3, *EVENT)
    expected = trained.reconstruct(ends, posterior_temperature=0.0)
    np.testing.assert_allclose(x[[0, -1]], expected, rtol=1e-4)
    np.testing.assert_array_equal(expected, trained.reconstruct(ends, posterior_temperature=0.0, key=jax.random.key(5)))


@pytest.mark.slow
def test_a_picture_of_an_interpolation() -> None:
    main(["interpolate", RUN, "--from", "0", "--to", "3", "--steps", "3", "--levels", "z1"])
    assert Path("tiny_interpolation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_own_pictures_are_reconstructed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["reconstruct", RUN, "--data", "mine/a.png", "mine/b.png", "--posterior-temperature", "0", "--invert"])
    out = capsys.readouterr().out
    assert "inverted" in out and Path("tiny_reconstructions_top2.png").exists()


@pytest.mark.slow
def test_own_pictures_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """One split, with the bounds of each picture."""
    main(["evaluate", RUN, "--data", "mine", "--draws", "3", "--each", "each.npz", "--out", "numbers.json"])
    assert "own" in capsys.readouterr().out
    numbers = json.loads(Path("numbers.json").read_text())
    with np.load("each.npz") as each:
        assert each["elbo_own"].mean() == pytest.approx(numbers["elbo"]["own"], rel=1e-5)
        assert list(each["names_own"]) == ["a.png", "b.png"]
    assert numbers["data"]["examples"] == {"own": 2}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("encode RUN --levels z3 --out x.npz", "no level 'z3'. Its levels, top first: z2, z1"),
        ("encode RUN --out none/x.npz", "there is no folder none"),
        ("encode RUN --size 0 --out x.npz", "--size is 0"),
        ("encode none --out x.npz", "none does not exist"),
        ("score RUN --out x.txt", "written as .npz or .jsonl"),
        ("score RUN --above 3 --out x.npz", "--above is 3, but the model has 2 levels"),
        ("score RUN --draws 0 --out x.npz", "--draws is 0"),
        ("score RUN --split dev --out x.npz", "no split 'dev'"),
        ("score RUN --examples 0 --out x.npz", "--examples is 0, but it has to be 1 or more"),
        ("score RUN --examples -1 --out x.npz", "--examples is -1, but it has to be 1 or more"),
        ("score RUN --features data.npz --out x.npz", "data.npz has no array 'real'"),
        ("score RUN --features no.npz --out x.npz", "There is no file no.npz"),
        ("interpolate RUN --from 0 --to 99 --out x.npz", "There is no example 99"),
        ("interpolate RUN --from mine --to 1 --out x.npz", "mine holds 2 pictures, but an end is one"),
        ("interpolate RUN --from 0 --to 1 --steps 1 --out x.npz", "--steps is 1"),
        ("interpolate RUN --from 0 --to 1 --label 1 --out x.npz", "was trained without labels"),
        ("interpolate RUN --from 0 --to 1 --posterior-temperature -1 --out x.npz", "--posterior-temperature is -1"),
    ],
)
def test_refusals(arguments: str, words: str, said: Said) -> None:
    """One line, and nothing is written."""
    error = said(*arguments.replace("RUN", RUN).split())
    assert words in error and error.count("\n") == 2  # with the line on HVAE_TRACEBACK
    assert not list(Path().glob("x.*"))
