"""`HVAEFeatures`: scikit-learn's own checks, pipelines, grid search, pickles, and what is refused."""

import functools
import pickle
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator
from support.contract import plausible_variables

import hvae_jax as hv
from hvae_jax.experiment import Experiment
from hvae_jax.experiment.box import Card
from hvae_jax.experiment.pretrained import Pretrained

MODEL = hv.models.TopDownVAE(latents=(2, 3), hidden=4, likelihood=hv.Gaussian())
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 3)), np.arange(40) % 2


@functools.cache
def trained(features: int) -> Pretrained:
    """A model of vectors of so many features."""
    variables = plausible_variables(MODEL, jnp.zeros((2, features)), None)
    return Pretrained(MODEL, variables, Card("toy", event=(features,)), Experiment("toy", MODEL))


def codes() -> dict[str, np.ndarray]:
    """The means of the 40 examples."""
    return trained(3).encode(X.astype(np.float32), size=32)


class OfAnyWidth(hv.sklearn.HVAEFeatures):
    """The transformer with a model of as many features as X has, as scikit-learn's checks need it."""

    def _opened(self, features: int) -> Pretrained:
        return trained(features)


def test_the_checks_of_scikit_learn() -> None:
    """All pass; the one on array API is skipped by scikit-learn itself."""
    done = check_estimator(OfAnyWidth(batch_size=32), on_fail=None, on_skip=None)
    assert len(done) > 40
    assert {one["check_name"] for one in done if one["status"] != "passed"} <= {"check_array_api_input"}


@pytest.mark.slow
def test_a_model_has_one_number_of_features() -> None:
    """Checks that make X of another width than the model's are the only ones that fail, and say so."""
    done = check_estimator(hv.sklearn.HVAEFeatures(trained(3), batch_size=32), on_fail=None, on_skip=None)
    failed = [one for one in done if one["status"] == "failed"]
    assert 0 < len(failed) < len(done)
    for one in failed:
        reasons, error = [], one["exception"]
        while error is not None:
            reasons.append(str(error))
            error = error.__cause__ or error.__context__
        assert any("features, but toy takes 3 (3)" in reason for reason in reasons), (one["check_name"], reasons)


def test_features_are_the_codes_of_the_levels() -> None:
    """Side by side, top first, whatever the order that levels are named in; names and pickles too."""
    transformer = hv.sklearn.HVAEFeatures(trained(3), levels=["z1", "z2"], batch_size=32)
    features = transformer.fit_transform(X)
    np.testing.assert_allclose(features, np.concatenate([codes()["z2"], codes()["z1"]], axis=1), rtol=1e-5)
    assert list(transformer.get_feature_names_out()) == ["z2_0", "z2_1", "z1_0", "z1_1", "z1_2"]
    again = pickle.loads(pickle.dumps(transformer))
    np.testing.assert_array_equal(again.transform(X[:5]), transformer.transform(X[:5]))
    drawn = clone(transformer).set_params(what="sample", levels=["z2"]).fit(X)
    np.testing.assert_array_equal(drawn.transform(X), drawn.transform(X))
    assert (drawn.set_params(random_state=1).transform(X) != drawn.set_params(random_state=0).transform(X)).any()


def test_pipeline_and_grid_search() -> None:
    """Clones of one model share what is compiled."""
    pipeline = make_pipeline(hv.sklearn.HVAEFeatures(trained(3), batch_size=32), LogisticRegression())
    grid = {"hvaefeatures__levels": [["z2"], ["z1"], None]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, Y)
    assert len(search.cv_results_["mean_test_score"]) == 3
    assert search.best_estimator_[0].pretrained_ is trained(3)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"levels": ["z3"]}, "no level 'z3'. Its levels, top first: z2, z1"),
        ({"levels": "z2"}, "sequence of names"),
        ({"what": "variance"}, "mean, sample or noise"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"model": "no_such_model"}, "no_such_model does not exist"),
    ],
)
def test_refusals(choices: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        hv.sklearn.HVAEFeatures(**{"model": trained(3)} | choices).fit(X)
