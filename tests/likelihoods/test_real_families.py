"""Laplace, StudentT, ContinuousBernoulli and Beta: scipy's densities, quadrature, draws that follow, and the limits."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from hvae_jax.likelihoods import (
    Beta,
    BetaRecord,
    ContinuousBernoulli,
    ContinuousBernoulliRecord,
    Laplace,
    LaplaceRecord,
    StudentT,
    StudentTRecord,
)

DRAWS = 20_000
DEGREES = (1.5, 5.0, 60.0, 1e6)
LOGITS = (-300.0, -20.0, -1.41, -1e-3, 0.0, 1.39, 1.41, 300.0)
SHAPES = ((0.5, 0.5), (1.0, 1.0), (2.0, 30.0), (1e-3, 4.0), (700.0, 400.0))  # (alpha, beta)
POINTS = np.array([1e-6, 0.01, 0.37, 0.5, 0.99, 1 - 2.0**-20], np.float32)


def continuous_bernoulli(x: Any, logit: float) -> np.ndarray:
    """Its density in float64."""
    x = np.float64(x)
    if logit == 0:
        return np.ones_like(x)
    fallen = x if logit < 0 else 1 - x
    return np.abs(logit) * np.exp(-np.abs(logit) * fallen) / -np.expm1(-np.abs(logit))


def beta_record(count: int, shapes: Any = SHAPES, margin: float = 0.0) -> BetaRecord:
    """Records `[count, S]` of the pairs of alpha and beta."""
    alpha, beta = (np.array(part, np.float32) for part in zip(*shapes, strict=True))
    parts = (np.log(alpha) - np.log(beta), np.log(alpha + beta))
    return BetaRecord(*(jnp.broadcast_to(jnp.asarray(part), (count, len(shapes))) for part in parts), margin)


def records(count: int) -> dict[str, Any]:
    """The records of the tests, `[count, parameters of this test]`, by name."""

    def many(values: Any) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(values, jnp.float32), (count, len(values)))

    return {
        "laplace": LaplaceRecord(many([1.0, -40.0]), many([-2.0, 3.0])),
        "t": StudentTRecord(many([0.5] * 4), many([-1.0] * 4), many(DEGREES)),
        "unit": ContinuousBernoulliRecord(many(LOGITS)),
        "beta": beta_record(count),
    }


@functools.cache
def found() -> dict[str, Any]:
    """Log densities, slopes, means, modes and draws, by one compiled program."""
    real = np.array([-1e3, -2.0, 0.5, 1.0, 7.0, 1e4], np.float32)

    def by_element(record: Any, points: Any) -> tuple[jax.Array, Any]:
        """log p of each point under each element, `[points, elements]`, and its gradient in the parameters."""

        def one(record: Any, x: Any) -> jax.Array:
            return jax.tree.map(lambda leaf: leaf[None, None], record).log_prob(x[None, None])[0]

        rows = jax.vmap(jax.value_and_grad(one), (0, None))
        return jax.vmap(rows, (None, 0))(jax.tree.map(lambda leaf: leaf[0], record), points)

    def program(key: jax.Array, real: Any, unit: Any) -> dict[str, Any]:
        made = {}
        for name, record in records(DRAWS).items():
            points = real if name in ("laplace", "t") else unit
            made[name], made[f"{name}_slope"] = by_element(record, points)
            made[f"{name}_x"] = record.sample(key)
            made[f"{name}_cold"] = record.sample(key, jnp.float32(0.0))[0]
            made[f"{name}_mean"], made[f"{name}_mode"] = record.mean[0], record.mode[0]
        return made

    return {"real": real} | jax.device_get(jax.jit(program)(jax.random.key(0), real, POINTS))


def test_densities_are_scipys() -> None:
    """And the continuous Bernoulli's is its formula in float64, which has no precision to lose."""
    x = np.float64(found()["real"])
    for i, (location, log_scale) in enumerate(((1.0, -2.0), (-40.0, 3.0))):
        # scipy's logarithm is of a density that underflows
        expected = -np.abs(x - location) / np.exp(log_scale) - log_scale - np.log(2)
        near = np.abs(expected) < 500
        np.testing.assert_allclose(expected[near], stats.laplace.logpdf(x[near], location, np.exp(log_scale)))
        np.testing.assert_allclose(found()["laplace"][:, i], expected, rtol=2e-6, atol=1e-6)
    for i, nu in enumerate(DEGREES):
        expected = stats.t.logpdf(x, nu, 0.5, np.exp(-1.0))
        np.testing.assert_allclose(found()["t"][:, i], expected, rtol=3e-5 if nu > 100 else 3e-6, atol=2e-6)
    u = np.float64(POINTS)
    for i, logit in enumerate(LOGITS):
        expected = np.log(continuous_bernoulli(u, np.float64(np.float32(logit))))
        np.testing.assert_allclose(found()["unit"][:, i], expected, rtol=2e-6, atol=1e-6)
    record = beta_record(1)
    m, c = 1 / (1 + np.exp(-np.float64(record.logit[0]))), np.exp(np.float64(record.log_concentration[0]))
    for i in range(len(SHAPES)):
        expected = stats.beta.logpdf(u, c[i] * m[i], c[i] * (1 - m[i]))
        np.testing.assert_allclose(found()["beta"][:, i], expected, rtol=2e-6, atol=1e-5)


def test_gradients_are_finite() -> None:
    """At outliers, at the ends of the interval and for the steepest densities."""
    for name in ("laplace", "t", "unit", "beta"):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found()[f"{name}_slope"])), name


def test_densities_integrate_to_one() -> None:
    """By scipy's quadrature, of the functions in float64 that the records agree with, and of the records on a grid."""
    for logit in LOGITS:
        assert abs(integrate.quad(continuous_bernoulli, 0, 1, args=(logit,), points=[1e-3, 0.5, 0.999])[0] - 1) < 1e-7
    nodes, weights = np.polynomial.legendre.leggauss(100)
    x, weights = jnp.asarray(0.5 + 0.5 * nodes, jnp.float32)[:, None], 0.5 * weights
    h = jnp.broadcast_to(jnp.array([[[0.4, 2.0]]]), (100, 1, 2))
    for family, mass in ((ContinuousBernoulli(), 1.0), (Beta(), 1.0), (Beta(margin=0.1), None)):
        log_p = jax.jit(lambda h, x, f=family: f(h).log_prob(x))(h[..., : family.parameters], x)
        if mass is None:  # what lies beyond the margins is not counted
            c, m = np.exp(8 * np.tanh(2.0 / 8)), 1 / (1 + np.exp(-0.4))
            mass = np.diff(stats.beta.cdf([0.1, 0.9], c * m, c * (1 - m)))[0]
            assert 0.5 < mass < 1
        np.testing.assert_allclose(np.exp(np.float64(log_p)) @ weights, mass, rtol=1e-4)
    line = np.linspace(-400, 400, 200_001)
    for family in (Laplace(), StudentT(4.0)):
        h = jnp.broadcast_to(jnp.array([[[0.3, 0.2]]]), (len(line), 1, 2))
        log_p = jax.jit(lambda h, x, f=family: f(h).log_prob(x))(h, jnp.asarray(line, jnp.float32)[:, None])
        np.testing.assert_allclose(np.trapezoid(np.exp(np.float64(log_p)), line), 1.0, rtol=1e-4)


def test_draws_follow() -> None:
    """Kolmogorov's distance of 20,000 draws is below its 0.1% point."""
    cases = [
        ("laplace", [lambda x: stats.laplace.cdf(x, 1, np.exp(-2)), lambda x: stats.laplace.cdf(x, -40, np.exp(3))]),
        ("t", [lambda x, nu=nu: stats.t.cdf(x, nu, 0.5, np.exp(-1)) for nu in DEGREES]),
        ("unit", [lambda x, a=a: np.expm1(a * np.float64(x)) / np.expm1(a) if a else x for a in LOGITS]),
        ("beta", [lambda x, s=s: stats.beta.cdf(x, *s) for s in SHAPES]),
    ]
    for name, cdfs in cases:
        for i, cdf in enumerate(cdfs):
            x = found()[f"{name}_x"][:, i]
            # beta variables of shape 1/1000 are smaller than float32 has numbers, with probability 0.9
            x = x[x > 1e-30] if name == "beta" and i == 3 else x
            below = cdf(1e-30) if name == "beta" and i == 3 else 0.0
            away = stats.kstest(x, lambda v, cdf=cdf, b=below: (cdf(v) - b) / (1 - b)).statistic
            assert away * np.sqrt(len(x)) < 1.95, (name, i)


def test_means_and_modes() -> None:
    """Means are scipy's and those of the draws; modes are the likeliest values, and the draws at temperature 0."""
    a = np.array([logit for logit in LOGITS if logit])
    mean = np.array([0.5 + 0.5 / np.tanh(0.5 * b) - 1 / b for b in a])
    np.testing.assert_allclose(np.delete(found()["unit_mean"], 4), mean, rtol=2e-5)
    assert found()["unit_mean"][4] == 0.5
    np.testing.assert_allclose(found()["beta_mean"], [alpha / (alpha + beta) for alpha, beta in SHAPES], rtol=1e-5)
    np.testing.assert_allclose(found()["beta_mode"][[2, 4]], [1 / 30, 699 / 1098], rtol=1e-5)
    assert found()["unit_mode"].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    for name in ("laplace", "t", "unit", "beta"):
        np.testing.assert_allclose(found()[f"{name}_cold"], found()[f"{name}_mode"], rtol=1e-6, atol=1e-12)


def test_the_ends_of_the_interval() -> None:
    """0 and 1 are data of the continuous Bernoulli, and of Beta with a margin; outside there is no density."""
    h = jnp.array([[[2.0, 1.0]], [[-2.0, 1.0]]])
    ends = jnp.array([[0.0], [1.0]])
    for family in (ContinuousBernoulli(), Beta(margin=0.01)):
        value, slope = jax.value_and_grad(lambda h, f=family: f(h[..., : f.parameters]).log_prob(ends).sum())(h)
        assert np.isfinite(value) and np.isfinite(slope).all()
        family.check(np.array([0.0, 1.0]))
        outside = family(h[..., : family.parameters]).log_prob(jnp.array([[-0.01], [1.01]]))
        assert np.isneginf(outside).all()
    assert np.isneginf(Beta()(h).log_prob(ends)).all()
    with pytest.raises(ValueError, match=r"0\.0 at index \(0,\).*no density at 0 and 1.*ContinuousBernoulli"):
        Beta().check(np.array([0.0, 0.5]))


def test_extreme_network_outputs() -> None:
    """Outputs of ±1e4 give finite values and gradients, and draws that pass the family's own check."""
    at = {Laplace(): 1e4, StudentT(): 1e20, StudentT(None): 1e4, ContinuousBernoulli(): 1.0}
    at |= {Beta(): 0.25, Beta(margin=0.01): 1.0}
    corners = {f: np.array(np.meshgrid(*[[-1e4, 1e4]] * f.parameters)).reshape(f.parameters, -1).T for f in at}

    def program(hs: list[Any]) -> Any:
        return [
            (jax.value_and_grad(lambda h, f=f: f(h).log_prob(jnp.full(h.shape[:2], at[f])).sum())(h), drawn)
            for f, h in zip(at, hs, strict=True)
            for drawn in [f(h).sample(jax.random.key(0))]
        ]

    hs = [jnp.asarray(h, jnp.float32)[:, None] for h in corners.values()]  # [2^P, 1, P]
    for family, ((value, slope), drawn) in zip(at, jax.jit(program)(hs), strict=True):
        assert np.isfinite(value) and np.isfinite(slope).all(), family
        family.check(np.asarray(drawn))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Laplace(bound=0.0), r"Laplace\(bound=0.0\)"),
        (lambda: StudentT(bound=-1.0), r"StudentT\(bound=-1.0\)"),
        (lambda: StudentT(degrees=1.0), "finite and above 1"),
        (lambda: Beta(margin=0.5), "below 1/2"),
        (lambda: Beta(bound=np.inf), r"Beta\(bound=inf\)"),
        (lambda: Laplace().check(np.array([np.inf])), "finite numbers only"),
        (lambda: StudentT().check(np.array([np.nan])), "finite numbers only"),
        (lambda: ContinuousBernoulli().check(np.array([0.5, 1.5])), r"1.5 at index \(1,\).*\[0, 1\] only"),
        (lambda: Beta(margin=0.1).check(np.array([-0.5])), r"\[0, 1\] only"),
    ],
)
def test_bad_input(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
