"""The linear-Gaussian hierarchy against closed forms, to float64 rounding where nothing is drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import jitter
from support.oracle import Oracle
from support.toys import LinearGaussian

from hvae_jax.objectives import elbo, importance, log_weight

DRAWS = 20_000


@functools.cache
def built(levels: int, exact: bool) -> tuple[LinearGaussian, dict, jax.Array, Oracle]:
    """A model, its variables and data in float64, and its oracle."""
    model = LinearGaussian(levels=levels, size=2, pixels=3, exact=exact)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    params = jax.jit(model.init)(jax.random.key(0), x, jax.random.key(1))["params"]
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), jitter(params, scale=0.2))
    return model, {"params": params}, x, Oracle(model, params)


@functools.cache
def drawn(levels: int, exact: bool) -> dict[str, np.ndarray]:
    """DRAWS passes: elbo, log_weight [S, B]; rates, ratios [S, L, B]."""
    model, variables, x, _ = built(levels, exact)

    def one(key: jax.Array) -> dict[str, jax.Array]:
        trace = model.apply(variables, x, key)
        return {"elbo": elbo(trace), "log_weight": log_weight(trace), "rates": trace.rates, "ratios": trace.ratios}

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), DRAWS)))


def assert_mean(draws: np.ndarray, expected: np.ndarray) -> None:
    """Asserts the mean of independent draws, within 4.5 standard errors and rounding."""
    error = draws.std(0, ddof=1) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - expected) < 4.5 * error + 1e-10).all()


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_exact_posterior_gives_log_px(levels: int) -> None:
    """With the exact posterior every log weight is log p(x), whatever was drawn."""
    *_, x, oracle = built(levels, True)
    np.testing.assert_allclose(drawn(levels, True)["log_weight"] - oracle.log_px(x), 0.0, atol=1e-11)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_levels_are_the_conditionals(levels: int, exact: bool) -> None:
    """Each level's posterior and prior, at the latents drawn above, are those of the joint Gaussian."""
    model, variables, x, oracle = built(levels, exact)
    trace = model.apply(variables, x, jax.random.key(3))
    above, x = None, np.asarray(x)
    for level, one in zip(range(levels, 0, -1), trace.levels, strict=True):
        from_z, from_x, shift, noise = oracle.level_posterior(level)
        mean = x @ from_x.T + shift + (0.0 if above is None else above @ from_z.T)
        np.testing.assert_allclose(one.q.mean, mean, atol=1e-12)
        np.testing.assert_allclose(np.exp(one.q.log_var), np.broadcast_to(np.diag(noise), mean.shape), atol=1e-12)
        np.testing.assert_allclose(noise, np.diag(np.diag(noise)), atol=1e-12)
        if above is not None:
            slope, shift, noise = oracle.link(level)
            np.testing.assert_allclose(one.p.mean, above @ slope.T + shift, atol=1e-12)
            np.testing.assert_allclose(np.exp(one.p.log_var[0]), np.diag(noise), atol=1e-12)
        above = np.asarray(one.z)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_rates(levels: int, exact: bool) -> None:
    """The top rate equals its KL; the other rates, and all log-ratios, have the expected KLs as their mean."""
    *_, x, oracle = built(levels, exact)
    expected, draws = oracle.rates(np.asarray(x)), drawn(levels, exact)
    np.testing.assert_allclose(draws["rates"][:, 0], np.broadcast_to(expected[0], (DRAWS, 5)), atol=1e-12)
    assert_mean(draws["rates"], expected)
    assert_mean(draws["ratios"], expected)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_elbo(levels: int, exact: bool) -> None:
    """E elbo = E log_w = log p(x) - KL(q(z | x) || p(z | x)); the gap is 0 for the exact posterior alone."""
    *_, x, oracle = built(levels, exact)
    expected, draws = oracle.elbo(np.asarray(x)), drawn(levels, exact)
    assert_mean(draws["elbo"], expected)
    assert_mean(draws["log_weight"], expected)
    gap = oracle.log_px(np.asarray(x)) - expected
    np.testing.assert_allclose(gap, 0.0, atol=1e-12) if exact else np.testing.assert_array_less(0.05, gap)


def test_importance_with_the_exact_posterior() -> None:
    """All weights equal: the bound is log p(x) at any K, the effective sample size is K, the error 0."""
    model, variables, x, oracle = built(3, True)
    for k in (1, 7, 100):
        result = importance(model, variables, x, jax.random.key(4), k, chunk=10)
        np.testing.assert_allclose(result.bound, oracle.log_px(x), atol=1e-11)
        np.testing.assert_allclose(result.effective_sample_size, k, rtol=1e-11)
        if k > 1:
            np.testing.assert_allclose(result.standard_error, 0.0, atol=1e-6)


def test_importance_does_not_depend_on_the_chunk() -> None:
    """Results for K = 500 in chunks of 50, of 37 (the last one partial) and of 500 agree to float64 rounding."""
    model, variables, x, _ = built(2, False)
    results = [importance(model, variables, x, jax.random.key(5), 500, chunk) for chunk in (50, 37, 500)]
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), results[0], other)
