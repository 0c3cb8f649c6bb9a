"""Gaussians: densities against SciPy, KLs against their definition, merges against products of densities, clamps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hvae_jax.distributions import (
    MultivariateNormal,
    Normal,
    hard_clamp,
    kl,
    kl_residual,
    precision_weighted,
    residual,
    soft_clamp,
    sum_event,
)

EPS = np.finfo(np.float32).eps
KEY = jax.random.key(0)


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers that float32 holds exactly."""
    return st.floats(low, high, width=32, allow_subnormal=False)


def normal(mean: float, log_std: float) -> Normal:
    """One Gaussian as a record of `[1]` arrays."""
    return Normal(jnp.array([mean], jnp.float32), jnp.array([log_std], jnp.float32))


def test_sum_event_keeps_the_batch() -> None:
    """Every axis but the first is summed; `[B]` stays as it is."""
    values = jnp.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(sum_event(values), np.arange(24.0).reshape(2, 12).sum(1))
    np.testing.assert_array_equal(sum_event(values[:, 0, 0]), [0.0, 12.0])


@given(mean=numbers(-100, 100), log_std=numbers(-7, 7), u=numbers(-6, 6))
def test_log_prob_is_scipys(mean: float, log_std: float, u: float) -> None:
    """log N(z; mean, std^2) to float32 rounding, which grows with the square of the standardised offset."""
    z = np.float32(mean + np.exp(log_std) * u)
    expected = stats.norm.logpdf(np.float64(z), mean, np.exp(log_std))
    offset = (np.float64(z) - mean) / np.exp(log_std)
    got = normal(mean, log_std).log_prob(jnp.array([z]))[0]
    assert abs(got - expected) <= 8 * EPS * (2 + abs(log_std)) * (1 + offset**2)


def test_from_log_var_and_back() -> None:
    """log_var = 2 log_std, std = exp(log_std), and the standard normal is N(0, 1)."""
    q = Normal.from_log_var(jnp.zeros(2), jnp.array([0.0, 2.0]))
    np.testing.assert_allclose(q.std, [1.0, np.e], rtol=1e-6)
    np.testing.assert_array_equal(q.log_var, [0.0, 2.0])
    standard = Normal.standard((3,))
    np.testing.assert_array_equal(standard.mean, np.zeros(3))
    np.testing.assert_array_equal(standard.std, np.ones(3))


def test_samples_have_the_moments_and_the_law() -> None:
    """Mean and variance of 100,000 draws within 4 standard errors; Kolmogorov-Smirnov against SciPy's law."""
    n, mean, std = 100_000, 1.5, 0.3
    z = np.asarray(Normal(jnp.full(n, mean), jnp.full(n, np.log(std))).sample(jax.random.key(0)), np.float64)
    assert abs(z.mean() - mean) < 4 * std / np.sqrt(n)
    assert abs(z.var() - std**2) < 4 * std**2 * np.sqrt(2 / n)
    assert stats.kstest(z, stats.norm(mean, std).cdf).pvalue > 1e-4


def test_samples_are_reparameterised() -> None:
    """dz/dmean = 1 and dz/dlog_std = std eps = z - mean."""
    q, key = normal(0.5, -1.0), jax.random.key(1)
    slope = jax.jacobian(lambda q: q.sample(key)[0])(q)
    np.testing.assert_allclose(slope.mean, [1.0])
    np.testing.assert_allclose(slope.log_std, q.sample(key) - q.mean, rtol=1e-6)


@given(mean=numbers(-100, 100), log_std=numbers(-7, 7), seed=st.integers(0, 2**31 - 1))
def test_temperature_zero_is_the_mean(mean: float, log_std: float, seed: int) -> None:
    """At temperature 0 a sample is the mean to the last bit."""
    assert normal(mean, log_std).sample(jax.random.key(seed), 0.0)[0] == np.float32(mean)


def test_temperature_scales_the_noise() -> None:
    """sample(t) - mean = t (sample(1) - mean), and t may be traced."""
    q, key = Normal(jnp.zeros(1000), jnp.full(1000, 0.3)), jax.random.key(2)
    half = jax.jit(lambda t: q.sample(key, t))(jnp.float32(0.5))
    np.testing.assert_allclose(half, 0.5 * q.sample(key), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_samples_keep_the_dtype(dtype: jnp.dtype) -> None:
    """A temperature in float32 does not promote a bfloat16 sample."""
    q = Normal(jnp.zeros(2, dtype), jnp.zeros(2, dtype))
    assert q.sample(jax.random.key(0), jnp.float32(0.7)).dtype == dtype
    assert q.log_prob(jnp.ones(2, dtype)).dtype == dtype


@pytest.mark.parametrize("moments", [(0.3, -0.2, 0.1, 0.4), (2.0, 0.5, -1.0, 0.0), (0.0, -2.0, 0.0, 1.0)])
def test_kl_is_the_mean_log_ratio(moments: tuple[float, ...]) -> None:
    """KL(q || p) = E_q[log q - log p] within 4 standard errors of 200,000 draws."""
    q, p = (Normal(jnp.full(200_000, m), jnp.full(200_000, s)) for m, s in (moments[:2], moments[2:]))
    z = q.sample(jax.random.key(3))
    ratio = np.asarray(q.log_prob(z) - p.log_prob(z), np.float64)
    error = ratio.std() / np.sqrt(ratio.size)
    assert abs(ratio.mean() - kl(q, p)[0]) < 4 * error


@given(m_p=numbers(-3, 3), s_p=numbers(-3, 3), d=numbers(-0.25, 0.25), dm=numbers(-0.25, 0.25), e=st.integers(0, 7))
def test_kl_near_zero(m_p: float, s_p: float, d: float, dm: float, e: int) -> None:
    """For q close to p the KL is right to the rounding of d, so at most that far below 0; 1 - e^2d alone is not."""
    p = normal(m_p, s_p)
    q = Normal(p.mean + np.float32(dm * 10.0**-e), p.log_std + np.float32(d * 10.0**-e))
    d64 = np.float64(q.log_std[0]) - np.float64(p.log_std[0])
    offset = (np.float64(q.mean[0]) - np.float64(p.mean[0])) / np.exp(np.float64(p.log_std[0]))
    expected = 0.5 * np.expm1(2 * d64) - d64 + 0.5 * offset**2
    got = float(kl(q, p)[0])
    assert abs(got - expected) <= 4 * EPS * (abs(d64) + (1 + abs(s_p)) * offset**2) + np.finfo(np.float32).tiny
    assert got >= -4 * EPS * abs(d64)


def correlated(n: int = 3, d: int = 3) -> MultivariateNormal:
    """Gaussians with random means and covariances."""
    rng = np.random.default_rng(4)
    factor = np.tril(rng.normal(size=(n, d, d)), -1) + np.eye(d) * np.exp(0.3 * rng.normal(size=(n, d, 1)))
    return MultivariateNormal(jnp.asarray(rng.normal(size=(n, d)), jnp.float32), jnp.asarray(factor, jnp.float32))


def test_a_correlated_gaussian_is_scipys() -> None:
    """log_prob is scipy's, `[B]`; noise goes to z and back; samples have the moments; temperature 0 is the mean."""
    p = correlated()
    z = jnp.asarray(np.random.default_rng(5).normal(size=(3, 3)), jnp.float32)
    covariances = [np.asarray(t, np.float64) @ np.asarray(t, np.float64).T for t in p.scale_tril]
    expected = [stats.multivariate_normal(m, c).logpdf(one) for m, c, one in zip(p.mean, covariances, z, strict=True)]
    np.testing.assert_allclose(p.log_prob(z), expected, rtol=1e-4)
    np.testing.assert_allclose(p.from_noise(p.to_noise(z)), z, atol=1e-5)
    np.testing.assert_allclose(p.std, np.sqrt([np.diag(c) for c in covariances]), rtol=1e-5)
    drawn = np.asarray(jax.vmap(p.sample)(jax.random.split(KEY, 4000)), np.float64) - np.asarray(p.mean, np.float64)
    moments = drawn[..., None] * drawn[..., None, :]
    error = moments.std(0, ddof=1) / np.sqrt(4000)
    assert (np.abs(moments.mean(0) - covariances) < 4.5 * error).all()
    np.testing.assert_array_equal(p.sample(KEY, 0.0), p.mean)


def test_kl_of_a_correlated_gaussian() -> None:
    """Against a diagonal prior it is the Gaussian formula, `[B]`, and that of two Normals where it is diagonal."""
    q = correlated()
    p = Normal(jnp.full((3, 3), 0.3), jnp.log(jnp.array([[0.7, 1.0, 2.0]])) * jnp.ones((3, 1)))
    precision = np.diag([0.7**-2, 1.0, 0.25])
    for i, (mean, factor) in enumerate(zip(np.asarray(q.mean), np.asarray(q.scale_tril, np.float64), strict=True)):
        cov, offset = factor @ factor.T, mean - 0.3
        log_det = np.log(0.7**2 * 4.0) - np.linalg.slogdet(cov)[1]
        expected = 0.5 * (np.trace(precision @ cov) - 3 + log_det + offset @ precision @ offset)
        np.testing.assert_allclose(kl(q, p)[i], expected, rtol=1e-5)
    diagonal = MultivariateNormal(q.mean, jax.vmap(jnp.diag)(jnp.exp(q.mean)))
    np.testing.assert_allclose(kl(diagonal, p), kl(Normal(q.mean, q.mean), p).sum(-1), rtol=1e-5)
    assert kl(p, q) is None and kl(q, q) is None


def test_kl_of_equals_is_zero_with_zero_gradient() -> None:
    """KL(p || p) = 0 exactly, a minimum in both arguments."""
    p = Normal(jnp.linspace(-3.0, 3.0, 7), jnp.linspace(-7.0, 7.0, 7))
    np.testing.assert_array_equal(kl(p, p), np.zeros(7))
    for slope in jax.grad(lambda q, p: kl(q, p).sum(), (0, 1))(p, p):
        np.testing.assert_array_equal(jax.tree.leaves(slope), np.zeros((2, 7)))


@given(m=numbers(-3, 3), s=numbers(-2, 2), dm=numbers(-3, 3), ds=numbers(-3, 1))
def test_kl_residual_is_the_kl_of_the_residual(m: float, s: float, dm: float, ds: float) -> None:
    """The article's formula is KL(residual(prior, delta) || prior)."""
    prior, delta = normal(m, s), normal(dm, ds)
    direct = kl(residual(prior, delta), prior)[0]
    # m + dm is rounded to eps (|m| + |dm|), which the direct form then divides by s_p.
    offset = np.exp(-s) * (abs(m) + abs(dm))
    tolerance = 16 * EPS * (1 + abs(s) + abs(ds) + np.exp(2 * ds) + offset * (1 + np.exp(-s) * abs(dm)))
    assert abs(kl_residual(prior, delta)[0] - direct) <= tolerance


def test_kl_residual_does_not_cancel() -> None:
    """With a prior mean of 1e6 the direct form loses the offset; the residual form keeps it."""
    prior, delta = normal(1e6, 0.0), normal(1e-3, 0.0)
    np.testing.assert_allclose(kl_residual(prior, delta), [0.5e-6], rtol=1e-6)
    assert kl(residual(prior, delta), prior)[0] == 0.0


@given(m=numbers(-3, 3), s=numbers(-4, 4), dm=numbers(-3, 3), ds=numbers(-4, 4))
def test_residual_offsets_the_prior(m: float, s: float, dm: float, ds: float) -> None:
    """N(m + dm, (s ds)^2)."""
    q = residual(normal(m, s), normal(dm, ds))
    np.testing.assert_allclose(q.mean[0], m + dm, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(q.std[0], np.exp(s) * np.exp(ds), rtol=1e-5)


@given(m_p=numbers(-3, 3), s_p=numbers(-3, 3), m_e=numbers(-3, 3), s_e=numbers(-3, 3))
def test_precision_weighted_is_the_product(m_p: float, s_p: float, m_e: float, s_e: float) -> None:
    """Precisions add, and the mean is weighted by them; swapping prior and evidence changes nothing."""
    weights = np.exp(-2 * np.array([s_p, s_e]))
    for merged in (
        precision_weighted(normal(m_p, s_p), normal(m_e, s_e)),
        precision_weighted(normal(m_e, s_e), normal(m_p, s_p)),
    ):
        np.testing.assert_allclose(merged.std[0], weights.sum() ** -0.5, rtol=1e-5)
        np.testing.assert_allclose(merged.mean[0], weights @ [m_p, m_e] / weights.sum(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("s_p", [-60.0, 0.0, 60.0])
@pytest.mark.parametrize("s_e", [-60.0, 0.0, 60.0])
def test_precision_weighted_at_extreme_scales(s_p: float, s_e: float) -> None:
    """Scales whose squares overflow float32 give the sharper of the two, and finite gradients."""
    prior, evidence = normal(1.0, s_p), normal(2.0, s_e)
    merged = precision_weighted(prior, evidence)
    expected = s_p - 0.5 * np.log(2) if s_p == s_e else min(s_p, s_e)
    np.testing.assert_allclose(merged.log_std, [expected], rtol=1e-6)
    np.testing.assert_allclose(merged.mean, [1.5 if s_p == s_e else 1.0 if s_p < s_e else 2.0], rtol=1e-6)
    for of in ("mean", "log_std"):
        slopes = jax.grad(lambda p, e, of=of: getattr(precision_weighted(p, e), of).sum(), (0, 1))(prior, evidence)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_hard_clamp() -> None:
    """Inside the bounds the identity; outside the bound itself, without gradient."""
    values = jnp.array([-9.0, -7.0, 0.5, 2.0, 9.0])
    np.testing.assert_array_equal(hard_clamp(values, -7.0, 2.0), [-7.0, -7.0, 0.5, 2.0, 2.0])
    slope = jax.grad(lambda v: hard_clamp(v, -7.0, 2.0).sum())(values)
    np.testing.assert_array_equal(slope[jnp.array([0, 2, 4])], [0.0, 1.0, 0.0])


def test_soft_clamp() -> None:
    """Odd, increasing and within the bound; the slope is 1 at 0 and positive up to three times the bound."""
    values = jnp.linspace(-15.0, 15.0, 301)
    clamped = soft_clamp(values, 5.0)
    assert (jnp.abs(clamped) < 5.0).all()
    assert (jnp.diff(clamped) > 0).all()
    np.testing.assert_array_equal(soft_clamp(-values, 5.0), -clamped)
    slope = jax.vmap(jax.grad(lambda v: soft_clamp(v, 5.0)))(values)
    assert jax.grad(lambda v: soft_clamp(v, 5.0))(0.0) == 1.0
    assert (slope > 0).all()
    assert jnp.abs(soft_clamp(jnp.array([-1e30, 1e30]), 5.0)).max() <= 5.0
