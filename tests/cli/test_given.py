"""`hvae sample --given LEVEL=FILE`: super-resolution from arrays and from folders of pictures, and what is refused."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from hvae_jax.cli import sample as command
from hvae_jax.cli.sample import Sample
from hvae_jax.experiment import Experiment
from hvae_jax.likelihoods import Categorical
from hvae_jax.models import DenseNetworks, SelfSupervisedVAE, TopDownVAE
from hvae_jax.training.checkpoint import Progress

KEY = jax.random.key(0)
MODEL = SelfSupervisedVAE(
    image=(4, 4, 1), latents=(2, 3), networks=DenseNetworks(4, normalise=False), likelihood=Categorical(256)
)
Y = np.random.default_rng(0).integers(0, 256, (5, 2, 2, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def variables() -> Any:
    """The model's variables."""
    return jax.jit(MODEL.init)(KEY, jnp.zeros((2, 4, 4, 1), jnp.uint8), KEY)


@pytest.fixture(autouse=True)
def run(variables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with files, which stands for that of a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "open_variables", lambda *_: (Experiment("toy", MODEL), variables, Progress()))
    np.savez("small.npz", y=Y, more=np.zeros(3))
    np.savez("alone.npz", Y)
    Path("pictures").mkdir()
    for i, y in enumerate(Y):
        Image.fromarray(y[..., 0]).save(f"pictures/{i}.png")


def sampled(*given: str, **choices: Any) -> np.ndarray:
    """The x of a run of the command."""
    Sample(Path(), given=given, out=Path("x.npz"), **choices)()
    with np.load("x.npz") as arrays:
        return arrays["x"]


@pytest.mark.slow
def test_small_pictures_become_large_ones(variables: Any) -> None:
    """Files and folders give the same x, which are those of the model with this y; --n takes the first ones."""
    expected = np.asarray(
        jax.jit(lambda v, y: MODEL.apply(v, jax.random.key(0), 5, latents=(None, y), method="generate"))(variables, Y)
    )
    for path in ("small.npz", "alone.npz", "pictures"):
        np.testing.assert_array_equal(sampled(f"y={path}"), expected)
    assert sampled("y=small.npz", n=3).shape == (3, 4, 4, 1)
    assert (sampled("y=small.npz", seed=1) != expected).any()


def test_a_picture_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name says which level was given, and its panels which of them is x."""
    titles: list[str] = []
    draw = command.charts.save_grids

    def save_grids(path: Path, panels: dict[str, np.ndarray], *shown: Any) -> None:
        titles.extend(panels)
        draw(path, panels, *shown)

    monkeypatch.setattr(command.charts, "save_grids", save_grids)
    Sample(Path(), given=("y=small.npz",))()
    assert Path("samples_given_y_t1.png").stat().st_size > 1000
    assert titles == ["y, given", "x, temperature 1"]


def test_other_levels(variables: Any) -> None:
    """u and z too; with all given, x is a draw from p(x | y, z)."""
    u, z = np.ones((5, 2), np.float32), np.zeros((5, 3), np.float32)
    np.savez("latents.npz", u=u, z=z)
    given = sampled("z=latents.npz", "y=small.npz", "u=latents.npz")
    run = jax.jit(lambda v: MODEL.apply(v, jax.random.key(0), 5, latents=(u, Y, z), method="generate"))
    np.testing.assert_array_equal(given, run(variables))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("small.npz",), r"it has to be LEVEL=FILE\.npz"),
        (("x=small.npz",), "the model has no level 'x'; it has u, y, z"),
        (("y=none.npz",), "there is no such file"),
        (("y=text.txt",), r"has to be an \.npz"),
        (("y=text.npz",), r"text\.npz cannot be read as an \.npz"),
        (("y=short.npz",), r"short\.npz cannot be read as an \.npz"),
        (("y=two.npz",), r"it holds \['a', 'b'\]; name the array 'y'"),
        (("y=large.npz",), r"it holds \(5, 4, 4, 1\), but level y is \(2, 2, 1\)"),
        (
            ("y=bright.npz",),
            r"y=bright.npz holds 300 \(20 such values\), but level y takes the whole numbers 0..255",
        ),
        (("y=half.npz",), r"holds 0.5 \(20 such values\), but level y takes the whole numbers 0\.\.255"),
        (("y=nothing",), "no file in it ends in"),
        (("y=wide",), r"0\.png is \(2, 3, 1\), but level y is \(2, 2, 1\): resize it"),
        (("u=pictures",), r"level u is \(2,\), which is no picture"),
        (("u=nan.npz",), "not finite"),
        (("y=small.npz", "y=alone.npz"), "level y was given before"),
        (("y=small.npz", "u=nan.npz"), "not finite"),
        (("y=small.npz", "u=three.npz"), r"different numbers of examples, \{'y': 5, 'u': 3\}"),
    ],
    ids=lambda one: one[0] if isinstance(one, tuple) else None,
)
def test_refusals(given: tuple[str, ...], said: str) -> None:
    """Before anything is drawn."""
    Path("text.txt").write_text("1")
    Path("text.npz").write_text("no archive")
    Path("short.npz").write_bytes(Path("small.npz").read_bytes()[:100])
    np.savez("two.npz", a=Y, b=Y)
    np.savez("large.npz", np.zeros((5, 4, 4, 1)))
    np.savez("bright.npz", np.full((5, 2, 2, 1), 300))
    np.savez("half.npz", np.full((5, 2, 2, 1), 0.5))
    np.savez("nan.npz", np.full((5, 2), np.nan))
    np.savez("three.npz", np.zeros((3, 2)))
    Path("nothing").mkdir()
    Path("wide").mkdir()
    Image.fromarray(np.zeros((2, 3), np.uint8)).save("wide/0.png")
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        sampled(*given)


def test_a_model_of_classes(variables: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its levels are drawn from priors learned from the labels."""
    other = Experiment("toy", TopDownVAE(latents=(2,), classes=3))
    monkeypatch.setattr(command, "open_variables", lambda *_: (other, variables, Progress()))
    with pytest.raises(ValueError, match="a model of classes draws all of its levels"):
        sampled("z1=small.npz")
