"""Moving digits: how they move, that a row is a function of its number, and names that ask for them."""

import itertools
import pickle

import numpy as np
import pytest

from hvae_jax import data
from hvae_jax.data.clips import FASTEST, PUSHES, Clips, frames_of
from hvae_jax.data.spec import Data


@pytest.fixture(scope="module")
def dataset() -> data.Dataset:
    return data.moving_digits(5, 16, 0)


def test_strips_of_digits(dataset: data.Dataset) -> None:
    """In every frame there is the clip's digit, at the place of its course, and nothing else."""
    assert {part: len(split) for part, split in dataset.splits.items()} == {
        "train": 8000,
        "validation": 1000,
        "test": 1000,
    }
    assert dataset.event == (16, 80, 1) and dataset.kind == data.integer(17) and dataset.classes == 5
    clips, numbers = dataset.splits["test"].x, np.arange(40)
    which, places, _ = clips.course(numbers)
    strips = clips[numbers]
    assert strips.shape == (40, 16, 80, 1) and strips.dtype == np.uint8
    tests = data.digits().splits["test"].x[..., 0]
    for i in numbers:
        for frame, (row, column) in enumerate(places[i]):
            picture = strips[i, :, 16 * frame : 16 * frame + 16, 0]
            np.testing.assert_array_equal(picture[row : row + 8, column : column + 8], tests[which[i]])
            assert picture.sum() == tests[which[i]].sum()


def walked(place: tuple[int, int], speed: tuple[int, int], actions: np.ndarray) -> list[tuple[int, int]]:
    """Places of one digit on a square of 16, number by number."""
    at, by, places = list(place), list(speed), [place]
    for action in actions:
        for axis in range(2):
            by[axis] = max(-FASTEST, min(FASTEST, by[axis] + int(PUSHES[action][axis])))
            at[axis] += by[axis]
            if not 0 <= at[axis] <= 8:
                at[axis] = -at[axis] if at[axis] < 0 else 16 - at[axis]
                by[axis] = -by[axis]
        places.append((at[0], at[1]))
    return places


def test_the_motion(dataset: data.Dataset) -> None:
    """A first speed and the actions give all places; places and actions are drawn uniformly; y is the last action."""
    clips = dataset.splits["train"].x
    _, places, actions = clips.course(np.arange(len(clips)))
    np.testing.assert_array_equal(actions[:, -1], dataset.splits["train"].y)
    speeds = list(itertools.product(range(-FASTEST, FASTEST + 1), repeat=2))
    for i in range(100):
        course = [tuple(place) for place in places[i].tolist()]
        assert any(walked(course[0], speed, actions[i]) == course for speed in speeds), i
    for values, count in ((actions, 5), (places[:, 0], 9)):
        share = np.bincount(values.ravel(), minlength=count) / values.size
        assert len(share) == count
        assert np.abs(share - 1 / count).max() < 4 * np.sqrt((1 - 1 / count) / count / values.size)


def test_a_row_is_a_function_of_its_number(dataset: data.Dataset) -> None:
    """However it is read, in a copy too; another seed, split or length gives other clips, and another hash."""
    clips = dataset.splits["train"].x
    some = clips[[5, 900, 6, 7]]
    np.testing.assert_array_equal(some[2], clips[6])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clips))[4:9][1], some[0])
    np.testing.assert_array_equal(clips[-1], clips[len(clips) - 1])
    others = [data.moving_digits(5, 16, 1), data.moving_digits(5, 17, 0), data.moving_digits(4, 16, 0)]
    assert len({each.content_hash for each in (dataset, *others)}) == 4
    assert data.moving_digits(5, 16, 0).content_hash == dataset.content_hash
    assert (others[0].splits["train"].x[:20] != clips[:20]).any()
    assert isinstance(clips, Clips) and (dataset.splits["test"].x[:20] != clips[:20]).any()


def test_names() -> None:
    """The name may have the number of frames; the size is that of a frame; values are prepared as any others."""
    assert (frames_of("moving_digits"), frames_of("moving_digits:7"), frames_of("digits")) == (4, 7, None)
    loaded = Data("moving_digits:3", size=12, binarise="threshold").load()
    assert loaded.event == (12, 36, 1) and loaded.kind == data.BINARY
    assert set(np.unique(loaded.splits["test"].x[:50])) == {0, 1}
    assert Data().of_other("moving_digits").event == (16, 64, 1)


@pytest.mark.parametrize(
    ("name", "size", "why"),
    [
        ("moving_digits:many", None, "a whole number is needed"),
        ("moving_digits:1", None, r"moving_digits\(frames=1\)"),
        ("moving_digits", 8, r"moving_digits\(size=8\): it has to be from 9 to 128"),
        ("moving_digit", None, "Did you mean 'moving_digits'"),
    ],
)
def test_names_that_are_refused(name: str, size: int | None, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        data.load(name, size=size)
