"""Models in the box: packing, loading by name, folder and file, and what is damaged or not there."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from support.small_weights import Said, equal, what_fails
from support.trained import EVENT, MODEL, exported

import hvae_jax as hv
from hvae_jax.cli.main import main
from hvae_jax.experiment import box
from hvae_jax.experiment.packing import pack
from hvae_jax.experiment.reopen import open_run, outputs
from hvae_jax.runtime.trees import leaves_by_path

said = pytest.fixture(what_fails)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an exported file, its data, and a box of two models; its tiny_model was measured."""
    folder = tmp_path_factory.mktemp("made")
    file = exported(folder)
    pack(file, "tiny_model", folder / "box", recipe="hvae train tiny", commit="abc", draws=0)
    pack(file, "plain", folder / "box", weights="float32", draws=0)
    return folder


@pytest.fixture(autouse=True)
def boxed(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder, and the box of the module."""
    monkeypatch.setattr(box, "BOX", made / "box")
    monkeypatch.chdir(tmp_path)


def test_a_packed_model_is_what_was_packed(made: Path) -> None:
    """Bit for bit in float32; rounded to 8 bits in bfloat16."""
    file, plain, rounded = (hv.load(name) for name in (made / "tiny.safetensors", "plain", "tiny_model"))
    equal(plain.variables, file.variables)
    for name, leaf in leaves_by_path(file.variables).items():
        found = np.asarray(leaves_by_path(rounded.variables)[name])
        assert found.dtype == leaf.dtype == np.float32
        assert (found != leaf).any() == name.startswith("params/")  # batch statistics are kept
        np.testing.assert_allclose(found, leaf, rtol=2**-8)
    assert rounded.model == plain.model == MODEL and rounded.event == EVENT
    card = rounded.card
    assert (card.recipe, card.commit, card.licence) == ("hvae train tiny", "abc", "Apache-2.0")
    params = jax.tree.leaves(file.variables["params"])
    assert card.weights == "bfloat16" and card.parameters == sum(leaf.size for leaf in params)
    assert "Trained by `hvae train tiny`, commit abc." in str(card) and plain.card.numbers == {}
    assert {path.name for path in (made / "box" / "plain").iterdir()} == set(box.FILES)


@pytest.mark.slow
def test_the_numbers_of_a_card_are_those_of_its_weights(made: Path, tmp_path: Path) -> None:
    """Measured once more, as they are stored."""
    rounded = hv.load(pack(made / "tiny.safetensors", "measured", tmp_path))
    card = rounded.card
    assert card.data["examples"]["test"] == 8
    measured = rounded.score(np.load(made / "data.npz")["x_test"], draws=card.numbers["k"])
    assert card.numbers["split"] == "test" and card.numbers["examples"] == 8
    assert measured["elbo"].mean() == pytest.approx(card.numbers["elbo"], abs=3.0)  # three draws, of another key
    assert "On 8 examples of the test split: -ELBO" in str(card) and f"hash {card.data['hash']}" in str(card)


def test_a_name_a_folder_and_a_file_are_the_same_to_commands(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures go to the current folder, never into the package."""
    before = sorted(path.name for path in (made / "box").rglob("*"))
    main(["sample", "tiny_model", "--n", "2"])
    assert (tmp_path / "tiny_model_samples_t1.png").exists()
    for run in ("plain", str(made / "box" / "plain"), str(made / "tiny.safetensors")):
        main(["sample", run, "--n", "2", "--out", "x.npz"])
        x = np.load("x.npz")["x"]
        assert x.shape == (2, *EVENT)
    main(["export", "tiny_model"])
    equal(hv.load("tiny_model_tiny.safetensors").variables, hv.load("tiny_model").variables)
    capsys.readouterr()
    main(["show", "tiny_model"])
    assert "Trained by `hvae train tiny`" in capsys.readouterr().out
    main(["show", str(made / "tiny.safetensors")])
    assert capsys.readouterr().out.startswith("# tiny")
    assert sorted(path.name for path in (made / "box").rglob("*")) == before
    assert open_run(Path("plain")).dataset.event == EVENT


def test_what_lies_in_the_current_folder_comes_first(made: Path, tmp_path: Path) -> None:
    """A run of the name of a model in the box is that run, and its pictures go there; an empty folder is not."""
    (tmp_path / "plain").mkdir()
    assert hv.load("plain").card.name == "plain" and outputs(Path("plain"), "a.png") == Path("plain_a.png")
    shutil.copy(made / "box" / "tiny_model" / "settings.json", tmp_path / "plain")
    assert box.resolved(Path("plain")) == Path("plain") and outputs(Path("plain"), "a.png") == Path("plain/a.png")
    with pytest.raises(FileNotFoundError, match="has no checkpoints"):
        hv.load("plain")


def test_unknown_names(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tiny_modle", "tiny-model"):
        with pytest.raises(
            FileNotFoundError, match=r"Did you mean tiny_model\? Models in the box: plain, tiny_model\."
        ):
            hv.load(name)
    error = said("sample", "zzz")
    assert "zzz does not exist. Models in the box: plain, tiny_model." in error and "mean" not in error
    monkeypatch.setattr(box, "BOX", Path("nothing"))
    with pytest.raises(FileNotFoundError, match=r"plain does not exist\.$"):
        hv.load("plain")


def test_what_is_not_packed(made: Path, tmp_path: Path) -> None:
    """Nothing is written."""
    file = made / "tiny.safetensors"
    for name, choices, words in (
        ("Tiny", {}, "lower-case letters"),
        ("plain", {"into": made / "box"}, "is there already"),
        ("large", {"most_bytes": 100}, "at most 100 are allowed"),
    ):
        with pytest.raises(ValueError, match=words):
            pack(file, name, **{"into": tmp_path} | choices)
    assert not list(tmp_path.iterdir())
    (tmp_path / "own.safetensors").write_bytes((made / "box" / "plain" / box.WEIGHTS).read_bytes())
    with pytest.raises(ValueError, match="was not written by `hvae export`"):
        hv.load("own.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"event": [4, 4]}, "cannot read|does not fit its settings|no model can be made"),
        ({"event": "x"}, "it has to be the shape of one x"),
        ({"seed": "x"}, "seed"),
        ({"numbers": {"split": "test"}}, "numbers.examples is None, but it has to be a whole number"),
        ({"sha256": "0" * 64}, "is not the file that card.json was written for"),
        (None, "card.json is empty"),
    ],
)
def test_damaged_cards(change: dict | None, words: str, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(made / "box" / "plain", folder)
    card = json.loads((folder / box.CARD).read_text())
    (folder / box.CARD).write_text("" if change is None else json.dumps(card | change))
    with pytest.raises(ValueError, match=words):
        hv.load(folder)


def test_names_that_are_imported_when_they_are_asked_for() -> None:
    assert {"load", "Pretrained", "sklearn", "models"} <= set(dir(hv))
    with pytest.raises(AttributeError, match="module 'hvae_jax' has no attribute 'laod'"):
        _ = hv.laod
