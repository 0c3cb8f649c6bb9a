"""`hvae compress` and `hvae decompress`: pictures and arrays there and back, and refusals that write nothing."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from support.contract import plausible_variables

from hvae_jax.cli import compress, decompress
from hvae_jax.cli.compress import Compress
from hvae_jax.cli.decompress import Decompress
from hvae_jax.codec import Encoded, read_container
from hvae_jax.data import Dataset
from hvae_jax.data.dataset import Split, integer
from hvae_jax.experiment import Data, Experiment
from hvae_jax.likelihoods import Bernoulli, LogisticMixture, Missing
from hvae_jax.models import VAE
from hvae_jax.training.checkpoint import Progress

MODEL = VAE(latents=2, hidden=5, depth=1, likelihood=LogisticMixture(2))
X = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 3)).astype(np.uint8)
NAMES = ("a.png", "b.bmp", "more/a.png", "more/c.png", "z.png")


@pytest.fixture(scope="module")
def variables() -> Any:
    """The model's variables."""
    return plausible_variables(MODEL, jnp.asarray(X), None)


@pytest.fixture(autouse=True)
def run(variables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with pictures, which stands for that of a run."""
    monkeypatch.chdir(tmp_path)
    for command in (compress, decompress):
        monkeypatch.setattr(command, "open_variables", lambda *_: (Experiment("toy", MODEL), variables, Progress()))
    Path("pictures/more").mkdir(parents=True)
    for name, x in zip(NAMES, X, strict=True):
        Image.fromarray(x).save(f"pictures/{name}")
    np.savez("arrays.npz", x=X.astype(np.int32))


def compressed(*sources: str, **choices: Any) -> Path:
    """The file of a run of the command."""
    Compress(Path(), sources, streams=2, **choices)()
    return Path("images.hvae")


def test_pictures_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder to a folder of the same names, to an .npz; arrays keep their dtype; a few files."""
    file = compressed("pictures")
    said = capsys.readouterr().out
    assert (
        "5 pictures of pictures, 5 images in " in said and " net, " in said and " by the ELBO of the same draws" in said
    )
    Decompress(Path(), file, Path("back"))()
    for name, x in zip(NAMES, X, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(Path("back", name).with_suffix(".png"))), x)
    Decompress(Path(), file, Path("back.npz"))()
    np.testing.assert_array_equal(np.load("back.npz")["x"], X)
    container = read_container(file.read_bytes())
    assert container.names == NAMES and container.shape == X.shape
    assert "initial bits, those of its first 2 images: --initial 1 makes" not in said
    assert "initial bits, those of its first 2 images: --initial 1 makes" in compress._summary(
        Encoded(container, net_bits=64, initial_bits=96, bound=np.zeros(5)), 99, "pictures"
    )

    Decompress(Path(), compressed("arrays.npz", examples=3, unverified=True), Path("back.npz"))()
    x = np.load("back.npz")["x"]
    np.testing.assert_array_equal(x, X[:3])
    assert x.dtype == np.int32

    file = compressed("pictures/z.png", "pictures/b.bmp")
    Decompress(Path(), file, Path("two"))()
    assert sorted(path.name for path in Path("two").iterdir()) == ["b.png", "z.png"]
    with pytest.raises(ValueError, match="two is there already: give a new folder"):
        Decompress(Path(), file, Path("two"))()


def test_the_runs_own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last split by default, and pictures named by numbers."""
    splits = {"train": Split(X[:1]), "validation": Split(X[1:2]), "test": Split(X[2:])}
    monkeypatch.setattr(Data, "load", lambda self: Dataset("toy", splits, integer(256), "made up"))
    Decompress(Path(), compressed(unverified=True), Path("back"))()
    assert sorted(path.name for path in Path("back").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    with pytest.raises(ValueError, match=r"has no split 'tset'; it has \['train', 'validation', 'test'\]"):
        compressed(split="tset")


@pytest.mark.parametrize(
    ("sources", "choices", "said"),
    [
        (("nothing/",), {}, "There is no file or folder nothing"),
        (("empty",), {}, "holds no images"),
        (("two.npz",), {}, r"holds \['a', 'b'\], but none of \['x', 'x_test'\]"),
        (("bright.npz",), {}, "300 at index"),
        (("grey.npz",), {}, "takes the colours of a pixel on a last axis of 3"),
        (("sizes",), {}, "one size is needed"),
        (("arrays.npz", "pictures/a.png"), {}, "is no picture"),
        (("pictures/a.png", "pictures/more/a.png"), {}, "have the same name"),
        (("pictures",), {"out": Path("none/x.hvae")}, "there is no folder none"),
        (("pictures",), {"examples": 0}, "--examples is 0"),
        (("pictures",), {"prior_bits": 40}, "prior_bits is 40"),
    ],
    ids=str,
)
def test_what_is_not_compressed(sources: tuple[str, ...], choices: dict, said: str) -> None:
    """One line, and nothing is written."""
    Path("empty").mkdir()
    np.savez("two.npz", a=X, b=X)
    np.savez("bright.npz", np.full((2, 3, 4, 3), 300))
    np.savez("grey.npz", np.zeros((2, 3, 4, 1), np.uint8))
    Path("sizes").mkdir()
    for size in (3, 4):
        Image.fromarray(X[0, :, :size]).save(f"sizes/{size}.png")
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        compressed(*sources, **choices)
    assert not list(Path().glob("*.hvae*"))


def test_what_is_not_decompressed(variables: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is cut, changed or foreign, or of another model: one line, and nothing is written."""
    file = compressed("pictures", unverified=True)
    data = file.read_bytes()
    changed = bytearray(data)
    changed[-3] ^= 1
    container = read_container(data)
    for content, said in (
        (data[:-1], "is cut short"),
        (bytes(changed), "is damaged"),
        (b"PNG", r"is no \.hvae file"),
        (dataclasses.replace(container, made_by={"jax": "0"}).to_bytes(), "written with hvae-jax None, but here"),
        (dataclasses.replace(container, names=("../a", *NAMES[1:])).to_bytes(), r"names an image '../a'"),
        (dataclasses.replace(container, dtype="int32").to_bytes(), r"no pictures of 8 bits: give --out NAME\.npz"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=said) as error:
            Decompress(Path(), file)()
        assert "\n" not in str(error.value)
    file.write_bytes(data)
    other = Experiment("toy", MODEL.clone(clamp=(-6.0, 2.0)))
    monkeypatch.setattr(decompress, "open_variables", lambda *_: (other, variables, Progress()))
    with pytest.raises(ValueError, match="of another model: the settings"):
        Decompress(Path(), file)()
    with pytest.raises(FileNotFoundError, match=r"no file none\.hvae"):
        Decompress(Path(), Path("none.hvae"))()
    assert not Path("images").exists() and not list(Path().glob("*.partial"))


def test_a_run_with_missing_values(variables: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole images come back, through a floating .npz too; missing values are one line, and nothing is written."""
    experiment = Experiment("toy", MODEL, Data("toy", hidden=0.5))
    assert isinstance(experiment.model.likelihood, Missing)
    for command in (compress, decompress):
        monkeypatch.setattr(command, "open_variables", lambda *_: (experiment, variables, Progress()))
    whole = X.astype(np.float32)
    np.savez("whole.npz", x=whole)
    Decompress(Path(), compressed("whole.npz", unverified=True), Path("back.npz"))()
    np.testing.assert_array_equal(np.load("back.npz")["x"], whole)
    Path("images.hvae").unlink()
    whole[2, 0] = np.nan
    np.savez("some.npz", x=whole)
    with pytest.raises(ValueError, match=r"^x has missing values, NaN, in 1 of 5 images") as error:
        compressed("some.npz")
    assert "\n" not in str(error.value) and not list(Path().glob("*.hvae*"))


def test_a_model_of_other_values(variables: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Experiment("toy", MODEL.clone(likelihood=Bernoulli()))
    monkeypatch.setattr(compress, "open_variables", lambda *_: (other, variables, Progress()))
    with pytest.raises(ValueError, match=r"allows values in \[0, 1\] only"):
        compressed("pictures")
