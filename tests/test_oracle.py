"""Importance-weighted bounds: against the closed form of a linear-Gaussian hierarchy, and against their definition."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import case, jitter

from hvae_jax.models import ClosedForm, LinearVAE
from hvae_jax.objectives import Importance, elbo, importance, iwae, log_weight
from hvae_jax.objectives.bounds import check_draws

MODEL = LinearVAE((2, 2), "shifted")
X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
KEY = jax.random.key(7)


@functools.cache
def variables() -> dict[str, Any]:
    """Parameters whose posterior is a few tenths of a nat from the exact one."""
    return {"params": jitter(jax.jit(MODEL.init)(jax.random.key(0), X, KEY)["params"])}


@functools.cache
def oracle() -> ClosedForm:
    """Closed forms at these parameters."""
    return ClosedForm(MODEL, variables())


@functools.partial(jax.jit, static_argnums=3)
def estimate(variables: dict[str, Any], key: jax.Array, k: jax.Array, chunk: int) -> Importance:
    """`importance` at a traced K."""
    return importance(MODEL, variables, X, key, k, chunk)


def bounds(key: jax.Array, k: int, chunk: int = 50) -> Importance:
    """`importance` with K draws."""
    return estimate(variables(), key, jnp.int32(k), chunk)


@functools.cache
def weights(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Log weights and ELBOs `[K, B]` of draws 0..K-1, each from its definition."""

    def one(variables: dict[str, Any], index: jax.Array) -> tuple[jax.Array, jax.Array]:
        trace = MODEL.apply(variables, X, jax.random.fold_in(KEY, index))
        return log_weight(trace), elbo(trace)

    drawn = jax.jit(jax.vmap(one, (None, 0)))(variables(), jnp.arange(k))
    return jax.tree.map(lambda a: np.asarray(a, np.float64), drawn)


@functools.cache
def repeats(k: int, count: int) -> Importance:
    """Independent estimates, every field `[count, B]` in float64."""
    drawn = jax.vmap(estimate, (None, 0, None, None))(
        variables(), jax.random.split(jax.random.key(8), count), jnp.int32(k), 50
    )
    return jax.tree.map(lambda a: np.asarray(a, np.float64), drawn)


@pytest.mark.parametrize("k", [2, 7, 50, 120])
def test_fields_are_their_definitions(k: int) -> None:
    """Every field follows from the log weights of draws with keys fold_in(key, 0..K-1), in NumPy float64."""
    log_w, elbos = weights(120)[0][:k], weights(120)[1][:k]
    w = np.exp(log_w)
    result = bounds(KEY, k)
    np.testing.assert_allclose(result.bound, np.log(w.mean(0)), rtol=1e-5)
    np.testing.assert_allclose(result.elbo, elbos.mean(0), rtol=1e-5)
    np.testing.assert_allclose(result.effective_sample_size, w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-4)
    np.testing.assert_allclose(result.standard_error, w.std(0, ddof=1) / w.mean(0) / np.sqrt(k), rtol=2e-3)
    np.testing.assert_allclose(result.elbo_standard_error, elbos.std(0, ddof=1) / np.sqrt(k), rtol=1e-4)


def test_one_draw_is_log_weight() -> None:
    """K = 1: the bound is the log weight of fold_in(key, 0), the ELBO its own draw; the errors are NaN."""
    result = importance(MODEL, variables(), X, KEY, 1)
    np.testing.assert_allclose(result.bound, weights(120)[0][0], rtol=1e-5)
    np.testing.assert_allclose(result.elbo, weights(120)[1][0], rtol=1e-5)
    np.testing.assert_array_equal(result.effective_sample_size, np.ones(8))
    assert np.isnan(result.standard_error).all()
    assert np.isnan(result.elbo_standard_error).all()


@pytest.mark.parametrize("chunk", [37, 500])
def test_the_chunk_does_not_matter(chunk: int) -> None:
    """Results for K = 500 in chunks of 50, of 37 (the last one partial) and of 500 differ by float32 rounding only."""
    one, other = bounds(KEY, 500), bounds(KEY, 500, chunk)
    for field in ("bound", "elbo", "effective_sample_size", "elbo_standard_error"):
        np.testing.assert_allclose(getattr(one, field), getattr(other, field), rtol=2e-5)
    # Looser, because K/ESS - 1 cancels if the weights are nearly equal, here by a factor of ten.
    np.testing.assert_allclose(one.standard_error, other.standard_error, rtol=1e-3)


@pytest.mark.parametrize("impl", ["rbg", pytest.param("unsafe_rbg", marks=pytest.mark.slow)])
def test_the_chunk_does_not_matter_under_other_keys(impl: str) -> None:
    """Under keys whose numbers a vmap would change, every draw is that of its own key too, whatever the chunk."""
    key, moved = jax.random.key(0, impl=impl), variables()

    @jax.jit
    def one(index: jax.Array) -> jax.Array:
        return log_weight(MODEL.apply(moved, X, jax.random.fold_in(key, index)))

    expected = jax.nn.logsumexp(jnp.stack([one(jnp.int32(i)) for i in range(5)]), axis=0) - np.log(5)
    for chunk in (1, 2, 5):
        np.testing.assert_allclose(iwae(MODEL, moved, X, key, 5, chunk), expected, rtol=1e-5)


def test_a_plain_k_is_a_traced_k() -> None:
    """A plain number K outside jit, smaller than a chunk, gives what a traced K gives."""
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4),
        importance(MODEL, variables(), X, KEY, 7),
        bounds(KEY, 7),
    )
    np.testing.assert_allclose(iwae(MODEL, variables(), X, KEY, 7), bounds(KEY, 7).bound, rtol=1e-6)


def test_values_are_per_example() -> None:
    """An example's fields do not depend on the other examples."""
    x = X.at[1:].set(X[:-1])
    other = importance(MODEL, variables(), x, KEY, 7)
    first = bounds(KEY, 7)
    assert first.bound.shape == (8,)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b[0], rtol=1e-4), other, first)
    assert (jnp.abs(other.bound[1:] - first.bound[1:]) > 1e-3).any()


def test_labels_are_passed_on() -> None:
    """y reaches a model with classes."""
    row = case("classes")

    @jax.jit
    def both(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = row.model.init(key, row.x, key, y=row.y)
        trace = row.model.apply(params, row.x, jax.random.fold_in(KEY, 0), y=row.y)
        return importance(row.model, params, row.x, KEY, 1, y=row.y).bound, log_weight(trace)

    np.testing.assert_allclose(*both(jax.random.key(0)), rtol=1e-5)


@pytest.mark.parametrize("k", [0, -3, 2.5, np.int64(0), jnp.int32(0), jnp.ones(2, jnp.int32)], ids=repr)
def test_less_than_one_draw_is_an_error(k: Any) -> None:
    """An error for numbers below 1, fractions and arrays, of any type."""
    if not isinstance(k, float):  # pytest's type checks refuse a float first
        with pytest.raises(ValueError, match=r"importance\(k=.*whole number of 1 or more"):
            importance(MODEL, variables(), X, KEY, k)
    with pytest.raises(ValueError, match=r"importance\(k=.*whole number of 1 or more"):
        check_draws("importance", k=k)
    with pytest.raises(ValueError, match=r"chunk=0.*1 or more"):
        importance(MODEL, variables(), X, KEY, 10, 0)


def test_the_bound_rises_to_log_px() -> None:
    """The expected bound is below log p(x) and rises with K; at K = 100 its gap is below 2% of the ELBO's."""
    log_px, expected_elbo = oracle().log_px(np.asarray(X)), oracle().elbo(np.asarray(X))
    means = [expected_elbo]
    for k in (2, 10, 100):
        estimates = repeats(k, 400).bound
        error = estimates.std(0, ddof=1) / np.sqrt(len(estimates))
        assert (estimates.mean(0) < log_px + 4 * error).all()
        means.append(estimates.mean(0))
    assert (np.diff([m.mean() for m in means]) > 0).all()
    assert (log_px - means[-1]).mean() < 0.02 * (log_px - expected_elbo).mean()


def test_the_elbo_field_is_the_elbo() -> None:
    """Its mean is the closed form, within 4 standard errors of 400 estimates."""
    estimates = repeats(10, 400).elbo
    error = estimates.std(0, ddof=1) / np.sqrt(len(estimates))
    assert (np.abs(estimates.mean(0) - oracle().elbo(np.asarray(X))) < 4 * error).all()


@pytest.mark.slow
def test_standard_errors_are_calibrated() -> None:
    """Over 400 repeats and 8 examples, (estimate - truth)/error has mean 0 and deviation 1, for bound and ELBO alike.

    The tolerance of the mean is 4 of its standard errors of 0.018, plus the effect of skewness, which moves a
    studentised mean by about 0.03 at K = 1000 (by 0.1 at K = 100).
    """
    result = repeats(1000, 400)
    for estimated, error, truth in (
        (result.bound, result.standard_error, oracle().log_px(np.asarray(X))),
        (result.elbo, result.elbo_standard_error, oracle().elbo(np.asarray(X))),
    ):
        z = (estimated - truth) / error
        assert abs(z.mean()) < 0.1
        assert abs(z.std() - 1) < 0.06


def test_exact_posterior() -> None:
    """All weights equal, to float32 rounding: the bound is log p(x), the effective sample size K, the error 0."""
    row = case("linear_gaussian_exact")
    params = {"params": jitter(jax.jit(row.model.init)(jax.random.key(0), row.x, KEY)["params"])}
    result = importance(row.model, params, row.x, KEY, 20)
    np.testing.assert_allclose(result.bound, ClosedForm(row.model, params).log_px(np.asarray(row.x)), rtol=1e-5)
    np.testing.assert_allclose(result.effective_sample_size, 20, rtol=1e-5)
    np.testing.assert_allclose(result.standard_error, 0.0, atol=1e-3)


def test_data_without_probability() -> None:
    """An x of probability 0 has a bound of -inf; the other examples are not affected."""
    row = case("top_down_2")

    @jax.jit
    def estimated(key: jax.Array) -> Importance:
        params = row.model.init(key, row.x, key)
        return importance(row.model, params, row.x.at[0, 0, 0].set(3), KEY, 5, chunk=2)

    result = estimated(jax.random.key(0))
    assert result.bound[0] == result.elbo[0] == -jnp.inf
    assert jnp.isfinite(result.bound[1:]).all()
    assert jnp.isfinite(result.elbo[1:]).all()
