"""Missing values in data: NaN or masks in an .npz, elements hidden at random, and an experiment's likelihood."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvae_jax.data.dataset import BINARY, REAL, Dataset, Split, integer
from hvae_jax.experiment import Data, Experiment
from hvae_jax.experiment.checks import check_fits
from hvae_jax.likelihoods import Categorical, Gaussian, Missing, PixelCNN
from hvae_jax.models import HVAE, LinearVAE, SelfSupervisedVAE, TopDownVAE

RNG = np.random.default_rng(0)
X = RNG.integers(0, 5, (20, 4, 4, 1)).astype(np.uint8)
SEEN = RNG.uniform(size=X.shape) < 0.7
LACKING = np.where(SEEN, X, np.nan)


def saved(path: Path, **arrays: Any) -> str:
    """The path of an .npz of these arrays."""
    np.savez(path / "some.npz", **arrays)
    return str(path / "some.npz")


def test_nan_is_missing_when_asked_for(tmp_path: Path) -> None:
    """NaN stays in float32; without the setting it is refused, with the setting named."""
    name = saved(tmp_path, x_train=LACKING, x_validation=LACKING[:5], x_test=X[:5].astype(float), num_values=5)
    data = Data(name, missing="nan").load()
    np.testing.assert_array_equal(data.train.x, LACKING.astype(np.float32))
    assert data.train.x.dtype == np.float32 and data.kind == integer(5) and data.missing
    assert f"missing: {1 - SEEN.mean():.1%} of train" in data.protocol
    np.testing.assert_allclose(data.seen_dimensions("train"), SEEN.sum() / 20)
    assert data.seen_dimensions("test") == data.dimensions == 16
    with pytest.raises(ValueError, match=r"nan at index .* set data.missing to nan"):
        Data(name).load()
    assert Data(name, missing="nan").of_other(name).missing


def test_masks_beside_x(tmp_path: Path) -> None:
    """seen_train takes truth values or 0 and 1, by element or pixel; what x holds where nothing is seen is not read."""
    for mask in (SEEN, SEEN[..., 0].astype(np.int64)):
        data = Data(saved(tmp_path, x_train=X, seen_train=mask), missing="mask").load()
        whole = np.concatenate([data.splits["train"].x, data.splits["validation"].x])
        assert np.isnan(whole).sum() == (~SEEN).sum() and data.kind == integer(5)
    data = Data(saved(tmp_path, x_train=X, x_validation=X, seen_train=SEEN), missing="mask").load()
    assert not np.isnan(data.splits["validation"].x).any()


@pytest.mark.parametrize(
    ("arrays", "kind"),
    [
        ({"x_train": np.where(SEEN, X > 2, np.nan)}, BINARY),
        ({"x_train": LACKING}, REAL),
        ({"x_train": LACKING - 0.5}, REAL),
        ({"x_train": np.where(SEEN, X, np.nan), "num_values": 9}, integer(9)),
    ],
)
def test_kinds(arrays: dict[str, Any], kind: Any, tmp_path: Path) -> None:
    """The kind is that of the seen values; floats are whole numbers only where the file says how many there are."""
    assert Data(saved(tmp_path, **arrays), missing="nan").load().kind == kind


@pytest.mark.parametrize(
    ("arrays", "settings", "message"),
    [
        ({"x_train": X}, {"missing": "mask"}, "needs seen_train, seen_validation or seen_test"),
        ({"x_train": X, "seen_train": SEEN[:3]}, {"missing": "mask"}, r"the mask of x of shape \(20, 4, 4, 1\)"),
        ({"x_train": X, "seen_train": SEEN * 2}, {"missing": "mask"}, "other values than 0 and 1"),
        ({"x_train": X, "seen_train": SEEN * 0}, {"missing": "mask"}, "nothing is seen, all values are missing"),
        ({"x_train": np.where(SEEN, np.inf, np.nan)}, {"missing": "nan"}, "holds inf"),
        ({"x_train": LACKING, "num_values": 3}, {"missing": "nan"}, "num_values=3, but holds the value"),
        ({"x_train": LACKING}, {"missing": "nan", "binarise": "static"}, "has no value to binarise"),
        ({"x_train": X}, {"hidden": 0.3, "binarise": "dynamic"}, "seen in part again and again"),
        ({"x_train": X}, {"hidden": 1.0}, "a fraction, 0 to below 1"),
        ({"x_train": X}, {"missing_fill": 1.0}, "nothing is missing"),
    ],
)
def test_refused(arrays: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A line that says what does not fit."""
    with pytest.raises(ValueError, match=message):
        Data(saved(tmp_path, **arrays), **settings).load()


def test_only_an_npz_lacks_values() -> None:
    """Data by name has no NaN to look for."""
    with pytest.raises(ValueError, match=r"is for an .npz; digits lacks nothing"):
        Data("digits", missing="nan").load()


def test_hidden_at_random() -> None:
    """A share of train and validation is hidden, by row and seed alone; test is whole; repeated rows lack the same."""
    whole, data = Data("digits").load(), Data("digits", hidden=0.3).load()
    for part in ("train", "validation"):
        x = data.splits[part].x
        lacks = np.isnan(x)
        assert abs(lacks.mean() - 0.3) < 4 * np.sqrt(0.21 / x.size)
        np.testing.assert_array_equal(x[~lacks], whole.splits[part].x[~lacks])
    np.testing.assert_array_equal(data.splits["test"].x, whole.splits["test"].x)
    assert np.isnan(data.splits["train"].x[:350] + data.splits["validation"].x).mean() > 0.45  # other draws
    again, other = Data("digits", hidden=0.3).load(), Data("digits", hidden=0.3, hidden_seed=1).load()
    assert again.content_hash == data.content_hash != other.content_hash
    few = Data("digits", hidden=0.3, labels=5, label_share=0.5).load()
    rows = few.train.x[len(whole.train.x) :]
    assert all(any(np.array_equal(row, one, equal_nan=True) for one in data.train.x) for row in rows[:5])
    assert not Data("digits", hidden=0.3).of_other("digits").missing


def test_an_experiment_scores_what_is_seen() -> None:
    """The likelihood becomes `Missing` where data may lack values, once, and stays where it does not."""
    plain = TopDownVAE((2, 2), likelihood=Categorical(17))
    made = Experiment("a", plain, Data("digits", hidden=0.3))
    assert made.model.likelihood == Missing(Categorical(17))
    assert dataclasses.replace(made, seed=1).model == made.model
    filled = dataclasses.replace(made, data=dataclasses.replace(made.data, missing_fill=0.0))
    assert filled.model.likelihood == Missing(Categorical(17), 0.0)
    assert Experiment("a", plain, Data("digits")).model is plain


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (LinearVAE((2, 2)), "LinearVAE has a likelihood of its own, which scores whole x alone"),
        (SelfSupervisedVAE(latents=(2, 3)), "levels that are functions of x"),
        (TopDownVAE((2, 2), likelihood=PixelCNN(Categorical(17))), "PixelCNN takes the elements of x one after"),
    ],
)
def test_models_without_a_bound_of_what_is_seen(model: HVAE, message: str) -> None:
    """They are refused by name, before anything is trained."""
    experiment = Experiment("a", model, Data("digits", hidden=0.3))
    with pytest.raises(ValueError, match=message):
        check_fits(experiment.model, experiment.data.load())


def test_real_values_fit() -> None:
    """A Gaussian takes reals with NaN, and a value that the likelihood cannot have is refused by its place."""
    x = np.where(SEEN, X, np.nan).astype(np.float32)
    splits = {"train": Split(x), "validation": Split(x)}
    data = Dataset("mine", splits, REAL, "made up", missing=True)
    check_fits(TopDownVAE((2, 2), likelihood=Missing(Gaussian())), data)
    with pytest.raises(ValueError, match=r"mine, train split, holds 4.0 .*Categorical\(4\)"):
        check_fits(TopDownVAE((2, 2), likelihood=Missing(Categorical(4))), data)
