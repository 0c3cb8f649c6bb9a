"""`Missing`: the bound of what is seen, against sums by hand; its gradient; and every model of the contract."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support import cases
from support.contract import plausible_variables

import hvae_jax as hv
from hvae_jax.likelihoods import Bernoulli, Beta, Categorical, Missing, PixelCNN
from hvae_jax.models import TopDownVAE
from hvae_jax.objectives import (
    GECO,
    Batch,
    Consistency,
    Distortion,
    ImportanceWeighted,
    MutualInformation,
    NegativeELBO,
)

KEY = jax.random.key(0)
PLAIN = TopDownVAE((2, 3), hidden=4, likelihood=Bernoulli())
MODEL = PLAIN.clone(likelihood=Missing(Bernoulli(), fill=0.25))
X = np.random.default_rng(0).integers(0, 2, (4, 6)).astype(np.float32)
SEEN = np.random.default_rng(1).uniform(size=X.shape) < 0.6
SEEN[3] = False  # of the last example nothing
LACKING = np.where(SEEN, X, np.nan).astype(np.float32)


@functools.cache
def variables() -> Any:
    """Variables of the plain model, which are those of the other."""
    return plausible_variables(PLAIN, jnp.asarray(X), None)


@functools.cache
def found() -> dict[str, Any]:
    """Traces of both models at the same key, and losses with gradients of the model with missing values."""

    def loss(params: Any, x: Array, objective: Any) -> tuple[Array, Any]:
        def forward(variables: Any, x: Array, key: Array, **choices: Any) -> Any:
            return MODEL.apply(variables, x, key, **choices), {}  # without batch norm's statistics of the batch

        value, metrics, _, _ = objective(forward, {**variables(), "params": params}, Batch(x), KEY, jnp.int32(0), ())
        return value, metrics

    @jax.jit
    def run(made: Any, lacking: Array, x: Array) -> dict[str, Any]:
        trace = MODEL.apply(made, lacking, KEY)
        other = PLAIN.apply(made, jnp.where(jnp.isnan(lacking), 0.25, lacking), KEY)
        grads = {
            type(objective).__name__: jax.value_and_grad(loss, has_aux=True)(made["params"], lacking, objective)
            for objective in (NegativeELBO(), ImportanceWeighted(3, "dreg"))
        }
        ways = [MODEL.apply(made, lacking, jax.random.fold_in(KEY, k)) for k in range(3)]
        return {
            "log_px": trace.log_px,
            "logits": trace.x_dist.of.logits,
            "rates": trace.rates,
            "rates of filled": other.rates,
            "log_px of whole": MODEL.apply(made, x, KEY).log_px,
            "plain log_px of whole": PLAIN.apply(made, x, KEY).log_px,
            "log_w": jnp.stack([hv.log_weight(way) for way in ways]),
            "grads": grads,
        }

    return jax.tree.map(np.asarray, run(variables(), jnp.asarray(LACKING), jnp.asarray(X)))


def test_the_bound_by_hand() -> None:
    """log p(x_seen | z) is the sum over the seen pixels; KLs are those of the filled x; of nothing seen it is 0."""
    logits = np.asarray(found()["logits"], np.float64)
    each = X * logits - np.log1p(np.exp(logits))
    expected = np.where(SEEN, each, 0.0).sum(1)
    np.testing.assert_allclose(found()["log_px"], expected, rtol=1e-5)
    assert found()["log_px"][3] == 0.0
    np.testing.assert_array_equal(found()["rates"], found()["rates of filled"])
    np.testing.assert_allclose(found()["log_px of whole"], found()["plain log_px of whole"], rtol=1e-6)
    (value, metrics), _ = found()["grads"]["NegativeELBO"]
    np.testing.assert_allclose(value, -(expected - found()["rates"].sum(0)).mean(), rtol=1e-5)
    (value, metrics), _ = found()["grads"]["ImportanceWeighted"]
    log_w = found()["log_w"].astype(np.float64)
    np.testing.assert_allclose(metrics["iwae"], np.log(np.exp(log_w).mean(0)).mean(), rtol=1e-5)


def test_gradients_are_finite() -> None:
    """NaN in x reaches no gradient, in either objective; and the gradient is not 0."""
    for _, grads in found()["grads"].values():
        leaves = jax.tree.leaves(grads)
        assert all(np.isfinite(leaf).all() for leaf in leaves)
        assert any(np.abs(leaf).max() > 1e-3 for leaf in leaves)


def test_values() -> None:
    """Seen values are checked, missing ones are not; whole numbers have none missing; the fill has its default."""
    family = Missing(Categorical(17))
    family.check(np.array([[1.0, np.nan]], np.float32))
    family.check(np.array([[1, 16]], np.uint8))
    with pytest.raises(ValueError, match=r"holds 17.0 at index \(0, 0\)"):
        family.check(np.array([[17.0, np.nan]], np.float32))
    x = jnp.array([[1.0, jnp.nan]])
    assert family.filled(x).tolist() == [[1.0, 8.0]]
    assert Missing(Categorical(17), 0.0).filled(x).tolist() == [[1.0, 0.0]]
    np.testing.assert_allclose(family.as_input(x), [[-0.875, 0.0]])
    assert family.filled(jnp.array([[3]])).dtype == jnp.int32
    with pytest.raises(ValueError, match="one of them is enough"):
        Missing(family)
    with pytest.raises(ValueError, match="has to be finite"):
        Missing(Bernoulli(), float("inf"))
    with pytest.raises(ValueError, match="PixelCNN takes the elements"):
        Missing(PixelCNN()).check(np.array([[np.nan, 1.0]], np.float32))
    Missing(PixelCNN()).check(np.array([[1.0, np.nan]], np.float32))
    # a density without mass at 0: what stands for the missing ones is of the base's range
    Missing(PixelCNN(Beta())).check(np.array([[0.5, np.nan]], np.float32))


@pytest.mark.parametrize(
    "objective", [GECO((Distortion(1.0),)), Consistency(), MutualInformation(1.0)], ids=lambda one: type(one).__name__
)
def test_objectives_that_read_x(objective: Any) -> None:
    """Objectives of more than bounds refuse a model of data with missing values, and take the plain one."""
    with pytest.raises(ValueError, match="reads x itself, which has missing values"):
        objective.check(MODEL, LACKING)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vdvae", "nvae", "biva", "ladder", "vae_conv"])
def test_models_score_whole_x_alike(name: str) -> None:
    """With `Missing` around its likelihood a model has the same log p(x | z) of x without NaN.

    Of x without its first half it is finite: nothing that a network reads is NaN.
    """
    case = cases.case(name)
    assert case.model.likelihood is not None
    masked = case.model.clone(likelihood=Missing(case.model.likelihood))
    whole = jnp.asarray(case.x, jnp.float32)
    lacking = whole.at[:, : whole.shape[1] // 2].set(jnp.nan)

    @jax.jit
    def run(variables: Any) -> tuple[Array, Array, Array]:
        both = [model.apply(variables, whole, KEY, y=case.y).log_px for model in (case.model, masked)]
        return both[0], both[1], hv.log_weight(masked.apply(variables, lacking, KEY, y=case.y))

    plain, found, weight = run(plausible_variables(case.model, case.x, case.y))
    np.testing.assert_allclose(found, plain, rtol=1e-4)
    assert np.isfinite(weight).all()
