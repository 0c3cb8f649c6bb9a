"""The linear VAE against its closed forms, to float64 rounding where nothing is drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from support.cases import jitter
from support.tiers import tiers

from hvae_jax.distributions import MultivariateNormal, Normal
from hvae_jax.models import ClosedForm, LinearVAE, Smoothing
from hvae_jax.objectives import elbo, importance, log_weight

DRAWS = 20_000
LEARNED = {1: LinearVAE((2,)), 2: LinearVAE((2, 2)), 3: LinearVAE((1, 3, 2))}
FIXED = LinearVAE((3, 1, 2), noise=1.3, scales=(0.7, 1.1), isometric=True)
SMOOTHED = LinearVAE((2, 3, 2), smoothing=Smoothing(0.6, 2, decoder=True))


def model_of(levels: int, inference: str) -> LinearVAE:
    """Of 1 to 3 levels with learned scales; 4: three with isometries and fixed scales; 5: three smoothed ones."""
    return (LEARNED | {4: FIXED, 5: SMOOTHED})[levels].clone(inference=inference)


@functools.cache
def built(levels: int, inference: str) -> tuple[LinearVAE, dict, jax.Array, ClosedForm]:
    """A model, its variables and data in float64, and its closed forms."""
    model = model_of(levels, inference)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    params = jax.jit(model.init)(jax.random.key(0), x, jax.random.key(1))["params"]
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), jitter(params, scale=0.2))
    return model, {"params": params}, x, ClosedForm(model, {"params": params})


@functools.cache
def drawn(levels: int, inference: str) -> dict[str, np.ndarray]:
    """DRAWS passes: elbo, log_weight [S, B]; rates, ratios [S, L, B]."""
    model, variables, x, _ = built(levels, inference)

    def one(key: jax.Array) -> dict[str, jax.Array]:
        trace = model.apply(variables, x, key)
        return {"elbo": elbo(trace), "log_weight": log_weight(trace), "rates": trace.rates, "ratios": trace.ratios}

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), DRAWS)))


def assert_mean(draws: np.ndarray, expected: np.ndarray) -> None:
    """Asserts the mean of independent draws, within 4.5 standard errors and rounding."""
    error = draws.std(0, ddof=1) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - expected) < 4.5 * error + 1e-10).all()


@pytest.mark.parametrize("levels", tiers([3, 4], quick=1, slow=1))
def test_log_px_is_scipys(levels: int) -> None:
    """log p(x) is the density of one Gaussian, whose mean and covariance samples of the model have."""
    model, variables, x, exact = built(levels, "exact")
    p = exact.marginal
    np.testing.assert_allclose(exact.log_px(x), stats.multivariate_normal(p.mean, p.cov).logpdf(x), rtol=1e-12)
    samples = np.asarray(model.apply(variables, jax.random.key(5), DRAWS, method="generate"))
    factor = np.linalg.cholesky(p.cov)
    white = np.linalg.solve(factor, (samples - p.mean).T)
    assert_mean(white.T, np.zeros(3))
    assert_mean(white.T[:, :, None] * white.T[:, None], np.eye(3))


@pytest.mark.parametrize("levels", tiers([1, 3, 4], quick=2, slow=1))
def test_exact_posterior_gives_log_px(levels: int) -> None:
    """With the exact posterior every log weight is log p(x), whatever was drawn."""
    *_, x, exact = built(levels, "exact")
    np.testing.assert_allclose(drawn(levels, "exact")["log_weight"] - exact.log_px(x), 0.0, atol=1e-11)


@pytest.mark.parametrize("inference", ["exact", "shifted", "linear"])
@pytest.mark.parametrize("levels", tiers([1, 3, 4], quick=2, slow=1))
def test_levels_are_the_conditionals(levels: int, inference: str) -> None:
    """Each level's posterior and prior, at the latents drawn above, are those of the joint Gaussian."""
    model, variables, x, exact = built(levels, inference)
    trace = model.apply(variables, x, jax.random.key(3))
    above, x = None, np.asarray(x)
    for level, one in zip(range(model.num_levels, 0, -1), trace.levels, strict=True):
        from_z, from_x, shift, noise = exact.level_posterior(level)
        mean = x @ from_x.T + shift + (0.0 if above is None else above @ from_z.T)
        np.testing.assert_allclose(one.q.mean, mean, atol=1e-12)
        if isinstance(one.q, MultivariateNormal):
            covariance = one.q.scale_tril[0] @ one.q.scale_tril[0].T
        else:
            assert isinstance(one.q, Normal)
            covariance = np.diag(np.exp(one.q.log_var[0]))
        np.testing.assert_allclose(covariance, noise, atol=1e-12)
        if above is not None:
            slope, shift, noise = exact.link(level)
            np.testing.assert_allclose(one.p.mean, above @ slope.T + shift, atol=1e-12)
            np.testing.assert_allclose(np.exp(one.p.log_var[0]), np.diag(noise), atol=1e-12)
        above = np.asarray(one.z)


CASES = tiers(
    [("exact", 3), ("shifted", 2), ("linear", 2), ("linear", 4), ("shifted", 4), ("linear", 5)], quick=3, slow=3
)


@pytest.mark.parametrize(("inference", "levels"), CASES)
def test_rates(levels: int, inference: str) -> None:
    """The top rate equals its KL; the other rates, and all log-ratios, have the expected KLs as their mean."""
    *_, x, exact = built(levels, inference)
    expected, draws = exact.rates(np.asarray(x)), drawn(levels, inference)
    np.testing.assert_allclose(draws["rates"][:, 0], np.broadcast_to(expected[0], (DRAWS, 5)), atol=1e-12)
    assert_mean(draws["rates"], expected)
    assert_mean(draws["ratios"], expected)


@pytest.mark.parametrize(("inference", "levels"), CASES)
def test_elbo(levels: int, inference: str) -> None:
    """E elbo = E log_w = log p(x) - KL(q(z | x) || p(z | x)); the gap is 0 for the exact posterior alone."""
    *_, x, exact = built(levels, inference)
    expected, draws = exact.elbo(np.asarray(x)), drawn(levels, inference)
    assert_mean(draws["elbo"], expected)
    assert_mean(draws["log_weight"], expected)
    gap = exact.log_px(np.asarray(x)) - expected
    if inference == "exact":
        np.testing.assert_allclose(gap, 0.0, atol=1e-12)
    else:
        np.testing.assert_array_less(0.01, gap)


@pytest.mark.slow
def test_smoothing_adds_its_noise_to_the_model() -> None:
    """Samples of a smoothed model have the mean and covariance of the closed form, and weights the mean p(x)."""
    model, variables, x, exact = built(5, "linear")
    p = exact.marginal
    samples = np.asarray(model.apply(variables, jax.random.key(5), DRAWS, method="generate"))
    white = np.linalg.solve(np.linalg.cholesky(p.cov), (samples - p.mean).T)
    assert_mean(white.T, np.zeros(3))
    assert_mean(white.T[:, :, None] * white.T[:, None], np.eye(3))
    assert_mean(np.exp(drawn(5, "linear")["log_weight"] - exact.log_px(x)), np.ones(5))


@pytest.mark.slow
def test_importance_with_the_exact_posterior() -> None:
    """All weights equal: the bound is log p(x) at any K, the effective sample size is K, the error 0."""
    model, variables, x, exact = built(3, "exact")
    for k in (1, 7, 100):
        result = importance(model, variables, x, jax.random.key(4), k, chunk=10)
        np.testing.assert_allclose(result.bound, exact.log_px(x), atol=1e-11)
        np.testing.assert_allclose(result.effective_sample_size, k, rtol=1e-11)
        if k > 1:
            np.testing.assert_allclose(result.standard_error, 0.0, atol=1e-6)


@pytest.mark.slow
def test_importance_does_not_depend_on_the_chunk() -> None:
    """Results for K = 500 in chunks of 50, of 37 (the last one partial) and of 500 agree to float64 rounding."""
    model, variables, x, _ = built(2, "shifted")
    results = [importance(model, variables, x, jax.random.key(5), 500, chunk) for chunk in (50, 37, 500)]
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), results[0], other)


@pytest.mark.slow
def test_more_latents_than_numbers_in_x() -> None:
    """What x says of z1 has a precision of lower rank than z1, which needs no inverse: the weights are still exact."""
    model = LinearVAE((2, 5), "exact")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)))
    params = jitter(model.init(jax.random.key(0), x, jax.random.key(1))["params"], scale=0.2)
    variables = {"params": jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)}
    trace = jax.jit(lambda: model.apply(variables, x, jax.random.key(3)))()
    np.testing.assert_allclose(log_weight(trace), ClosedForm(model, variables).log_px(x), atol=1e-11)
