"""Pictures of one's own as examples of a model: size, channels and values, and what is no picture. Nothing compiles."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hvae_jax.data import from_folder
from hvae_jax.experiment import Data, Experiment
from hvae_jax.experiment.own import Given, given_examples, own_pictures
from hvae_jax.likelihoods import (
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    DiscretisedLogistic,
    Gaussian,
    Likelihood,
    Missing,
)
from hvae_jax.models import TopDownVAE

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (4, 4)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (6, 9, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder with pictures of several sizes and modes."""
    monkeypatch.chdir(tmp_path)
    Path("mine/more").mkdir(parents=True)
    Image.fromarray(GREY).save("mine/a.png")
    Image.fromarray(COLOUR).save("mine/b.png")
    Image.fromarray(np.dstack([COLOUR, COLOUR[..., 0]])).save("mine/more/clear.png")
    Image.fromarray(GREY > 100).save("mine/more/one_bit.png")
    Path("mine/notes.txt").write_text("no picture")


GREY17 = Categorical(17)


def fitted(*paths: str, likelihood: Likelihood = GREY17, event: tuple[int, ...] = (4, 4, 1), **choices: Any) -> Given:
    """The pictures as a model of this likelihood and event takes them."""
    data = Data(**{"name": "digits"} | choices.pop("data", {}))
    experiment = Experiment("toy", TopDownVAE(latents=(2,), likelihood=likelihood), data)
    return own_pictures(experiment, event, paths, **choices)


def test_a_folder_is_one_split_of_the_models_shape() -> None:
    """As a folder of training pictures is resized and cropped; grey of 0 to 16; one line says so."""
    given = fitted("mine")
    assert list(given.dataset.splits) == ["own"]
    assert given.names == ("a.png", "b.png", "more/clear.png", "more/one_bit.png")
    x = given.only.x
    assert x.shape == (4, 4, 4, 1) and x.dtype == np.uint8 and x.max() <= 16
    np.testing.assert_array_equal(x[0, ..., 0], np.rint(GREY * (16 / 255)))
    trained = from_folder("mine/more", size=4)  # all that are not of the size, in colour
    own = fitted("mine/more", likelihood=Categorical(256), event=(4, 4, 3)).only.x
    np.testing.assert_array_equal(np.concatenate([split.x for split in trained.splits.values()]), own)
    assert given.dataset.protocol == (
        "4 pictures of mine, fitted to 4x4x1: 2 resized, 2 cropped to the centre, 2 made grey, 0..255 scaled to 0..16"
    )
    assert given.value_range == (0.0, 16.0)


@pytest.mark.parametrize(
    ("likelihood", "data", "expected", "words"),
    [
        (Categorical(256), {}, GREY, "values as they are"),
        (DiscretisedLogistic(values=32), {"bits": 5}, GREY >> 3, "the top 5 bits"),
        (Bernoulli(), {"binarise": "threshold"}, GREY > 127, "binarised at one half"),
        (Bernoulli(), {}, GREY > 127, "binarised at one half"),
        (Gaussian(), {}, np.rint(GREY * (16 / 255)), "0..255 scaled to 0..16"),  # the digits are whole numbers
        (ContinuousBernoulli(), {}, GREY / np.float32(255), "0..255 scaled to 0..1"),
        (Missing(Beta(margin=0.01)), {}, GREY / np.float32(255), "0..255 scaled to 0..1"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_values(likelihood: Likelihood, data: dict[str, Any], expected: np.ndarray, words: str) -> None:
    """Those of the model's likelihood and, if it has no bounds, of its data."""
    given = fitted("mine/a.png", likelihood=likelihood, data=data)
    np.testing.assert_array_equal(given.only.x[0, ..., 0], expected)
    assert words in given.dataset.protocol and given.dataset.protocol.startswith("one picture of mine/a.png")


def test_draws_and_reals(tmp_path: Path) -> None:
    """Binarised by one draw that is the same each time; reals over the range of the data."""
    one, again = (fitted("mine", likelihood=Bernoulli(), data={"binarise": "dynamic"}) for _ in range(2))
    np.testing.assert_array_equal(one.only.x, again.only.x)
    assert set(np.unique(one.only.x)) == {0, 1} and "one draw, the same each time" in one.dataset.protocol
    np.savez("reals.npz", x_train=np.linspace(-1, 3, 320, dtype=np.float32).reshape(20, 4, 4, 1))
    given = fitted("mine/a.png", likelihood=Gaussian(), data={"name": str(tmp_path / "reals.npz")})
    low, high = np.load("reals.npz")["x_train"].min(), given.only.x.max()
    assert given.only.x.dtype == np.float32 and low <= given.only.x.min() < high <= 3


def test_shapes_and_channels() -> None:
    """Colour for a model of colour, flat vectors, other ratios of the sides, and inverted grey."""
    colour = fitted("mine/a.png", "mine/b.png", likelihood=Categorical(256), event=(4, 4, 3))
    np.testing.assert_array_equal(colour.only.x[0], np.repeat(GREY[..., None], 3, axis=-1))
    assert "1 made colour" in colour.dataset.protocol and colour.names == ("mine/a.png", "mine/b.png")
    flat = fitted("mine/a.png", likelihood=Categorical(256), event=(16,), invert=True)
    np.testing.assert_array_equal(flat.only.x[0], 255 - GREY.ravel())
    assert "inverted" in flat.dataset.protocol
    assert fitted("mine/b.png", likelihood=Categorical(256), event=(2, 6, 3)).only.x.shape == (1, 2, 6, 3)


def test_arrays() -> None:
    """Examples of the model's shape and values are taken as they are, other bytes are pictures; labels are kept."""
    x = RNG.integers(0, 17, (5, 4, 4, 1))
    np.savez("fits.npz", x=x, y=np.arange(5))
    given = fitted("fits.npz")
    np.testing.assert_array_equal(given.only.x, x)
    np.testing.assert_array_equal(given.only.y, np.arange(5))
    assert "as it is" in given.dataset.protocol
    np.savez("bytes.npz", GREY[None].repeat(3, 0))
    np.testing.assert_array_equal(fitted("bytes.npz").only.x, fitted("mine/a.png").only.x.repeat(3, 0))
    np.savez("large.npz", x=COLOUR[None])
    np.testing.assert_array_equal(fitted("large.npz").only.x, fitted("mine/b.png").only.x)
    clear = np.asarray(Image.open("mine/more/clear.png"))
    assert clear.shape[-1] == 4
    np.savez("clear.npz", x=clear[None])
    for event in ((4, 4, 1), (4, 4, 3)):  # laid on white, as a file is
        np.testing.assert_array_equal(
            fitted("clear.npz", event=event).only.x, fitted("mine/more/clear.png", event=event).only.x
        )


def test_missing_values_of_an_array() -> None:
    """NaN is taken as it is by a model of data with missing values, and by no other."""
    x = np.full((2, 4, 4, 1), 3.0, np.float32)
    x[0, 1] = np.nan
    np.savez("holes.npz", x=x)
    given = fitted("holes.npz", data={"hidden": 0.5})
    np.testing.assert_array_equal(given.only.x, x)
    assert given.dataset.missing and given.dataset.seen_dimensions("own") == 14.0
    with pytest.raises(ValueError, match=r"holes\.npz has shape"):
        fitted("holes.npz")


def test_a_model_with_classes() -> None:
    """Labels come with an .npz; a picture alone has none."""
    model = TopDownVAE(latents=(2,), likelihood=Categorical(17), classes=3)
    experiment = Experiment("toy", model, Data("digits"))
    with pytest.raises(ValueError, match="conditioned on a class, and mine has no labels"):
        given_examples(experiment, (4, 4, 1), ("mine",))
    assert own_pictures(experiment, (4, 4, 1), ("mine",)).only.y is None
    np.savez("labelled.npz", x=RNG.integers(0, 17, (2, 4, 4, 1)), y=[0, 2])
    assert list(given_examples(experiment, (4, 4, 1), ("labelled.npz",)).only.y) == [0, 2]
    np.savez("beyond.npz", x=RNG.integers(0, 17, (2, 4, 4, 1)), y=[0, 3])
    with pytest.raises(ValueError, match=r"has the label 3 in its own split"):
        given_examples(experiment, (4, 4, 1), ("beyond.npz",))


def test_a_data_set() -> None:
    """Its splits, and the first examples of each; a split that is not there is named with those that are."""
    experiment = Experiment("toy", TopDownVAE(latents=(2,), likelihood=Categorical(17)), Data("digits"))
    given = given_examples(experiment, (8, 8, 1), splits=("test", "train"), examples=3)
    assert {name: len(split) for name, split in given.dataset.splits.items()} == {"train": 3, "test": 3}
    assert given.dataset.event == (8, 8, 1) and given.names == ()
    with pytest.raises(ValueError, match=r"no split 'dev'; it has \['train', 'validation', 'test'\]"):
        given_examples(experiment, (8, 8, 1), splits=("dev",))
    with pytest.raises(ValueError, match=r"no split 'test'; it has \['own'\]"):
        given_examples(experiment, (8, 8, 1), ("mine",), splits=("test",))
    with pytest.raises(ValueError, match=r"\(8, 8, 1\), which do not fit: the model's are \(4, 4, 1\)"):
        given_examples(experiment, (4, 4, 1), ("digits",))
    with pytest.raises(ValueError, match=r"Unknown data set 'digist'\. Did you mean 'digits'"):
        given_examples(experiment, (4, 4, 1), ("digist",))


@pytest.mark.parametrize(
    ("paths", "event", "words"),
    [
        (("none.png",), (4, 4, 1), r"no file or folder none\.png"),
        (("mine/notes.txt",), (4, 4, 1), "is no picture"),
        (("bad.png",), (4, 4, 1), r"bad\.png is no image that Pillow can read"),
        (("deep.png",), (4, 4, 1), r"deep\.png has 16 bits a channel"),
        (("moving.gif",), (4, 4, 1), "holds 2 frames"),
        (("empty",), (4, 4, 1), "holds no images"),
        (("mine/a.png", "none.png"), (4, 4, 1), r"no file none\.png"),
        (("mine/a.png",), (5,), r"shape \(5,\), which is no picture"),
        (("two.npz",), (4, 4, 1), r"holds \['a', 'b'\]: name the array of examples x"),
        (("halves.npz",), (4, 4, 1), r"dtype float64. Examples of the model are \(4, 4, 1\) of values 0 to 16"),
        (("labels.npz",), (4, 4, 1), "y in labels.npz has shape"),
        (("digits",), (4, 4, 1), "no picture, folder of pictures or .npz digits"),
        ((), (4, 4, 1), "no picture, folder of pictures or .npz given"),
    ],
    ids=lambda one: one[0] if isinstance(one, tuple) and one and isinstance(one[0], str) else None,
)
def test_what_is_no_picture(paths: tuple[str, ...], event: tuple[int, ...], words: str) -> None:
    """One line, which names the file."""
    Path("bad.png").write_text("no picture")
    Image.fromarray(GREY.astype(np.uint16)).save("deep.png")
    Image.fromarray(GREY).save("moving.gif", save_all=True, append_images=[Image.fromarray(255 - GREY)])
    Path("empty").mkdir()
    np.savez("two.npz", a=GREY, b=GREY)
    np.savez("halves.npz", x=np.full((2, 4, 4, 1), 0.5))
    np.savez("labels.npz", x=np.zeros((2, 4, 4, 1), np.uint8), y=np.zeros(3, int))
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        fitted(*paths, event=event)
    assert "\n" not in str(error.value)
