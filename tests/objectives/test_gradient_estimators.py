"""Gradients of the importance-weighted bound: against quadrature, against each other, and their variances.

The model has one latent and one pixel, so that E log (1/K) sum_k w_k with K = 1 and 2 draws is an integral that
Gauss-Hermite quadrature computes to float32 rounding. p depends on `c`, `d` and `log_std_x`, and so does q, which is an
offset from the exact posterior; only q depends on `off_mean1` and `off_log_std1`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support.cases import jitter
from support.toys import BottomUp, Flow, Scanned

from hvae_jax.likelihoods import Categorical
from hvae_jax.models import HVAE, LinearVAE, TopDownVAE
from hvae_jax.objectives import Batch, ImportanceWeighted, NegativeELBO, bare_metrics, importance, log_weight
from hvae_jax.trace import Trace

KEY = jax.random.key(5)
MODEL = LinearVAE((1,), "shifted")
X = jnp.array([[1.3]])
OFFSETS = ("off_mean1", "off_log_std1")
PARAMS = {
    "kernel_x": jnp.array([[0.9]]),
    "bias_x": jnp.array([0.2]),
    "log_std_x": jnp.float32(-0.2),
    "off_mean1": jnp.array([0.5]),
    "off_log_std1": jnp.array([0.2]),
}
DRAWS = 20_000


def forward_of(model: HVAE) -> Any:
    """The model's forward pass in evaluation mode, without batch statistics."""

    def forward(variables: Any, x: Array, key: Array, **choices: Any) -> tuple[Trace, Any]:
        return model.apply(variables, x, key, **choices), {}

    return forward


@functools.partial(jax.jit, static_argnums=(0, 1))
def loss_and_gradient(model: HVAE, objective: Any, params: Any, x: Array, key: Array) -> tuple[Array, Any]:
    """Loss and gradient of one call."""

    def loss(params: Any) -> Array:
        return objective(forward_of(model), {"params": params}, Batch(x), key, jnp.int32(0), ())[0]

    return jax.value_and_grad(loss)(params)


@functools.cache
def drawn(k: int, gradient: str, exact: bool = False) -> dict[str, np.ndarray]:
    """DRAWS gradients of the loss, `[DRAWS]` per parameter; `exact` sets q to the posterior, by offsets of 0."""
    objective = ImportanceWeighted(k, gradient)
    params = PARAMS | {name: jnp.zeros(1) for name in OFFSETS} if exact else PARAMS
    keys = jax.random.split(jax.random.fold_in(KEY, 10 * k), DRAWS)
    slopes = jax.vmap(lambda key: loss_and_gradient(MODEL, objective, params, X, key)[1])(keys)
    return {name: np.asarray(slope, np.float64).reshape(DRAWS) for name, slope in slopes.items()}


@functools.cache
def by_quadrature(k: int) -> tuple[float, dict[str, float]]:
    """-E log (1/K) sum_k w_k and its gradient, for K of 1 or 2."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = jnp.asarray(weights / weights.sum(), jnp.float32)
    x = jnp.broadcast_to(X, (40, 1))

    def loss(params: Any) -> Array:
        q = MODEL.apply({"params": params}, x, KEY).levels[0].q
        z = q.mean + q.std * jnp.asarray(nodes, jnp.float32)[:, None]
        log_w = log_weight(MODEL.apply({"params": params}, x, KEY, latents=(z,)))
        if k == 1:
            return -(weights * log_w).sum()
        pairs = jnp.logaddexp(log_w[:, None], log_w[None]) - jnp.log(2.0)
        return -(weights[:, None] * weights[None] * pairs).sum()

    value, slope = jax.jit(jax.value_and_grad(loss))(PARAMS)
    return float(value), {name: float(v.reshape(())) for name, v in slope.items()}


def assert_mean(draws: np.ndarray, expected: float) -> None:
    """Asserts that the mean is as expected, within 4 standard errors and float32 rounding."""
    assert abs(draws.mean() - expected) < 4 * draws.std(ddof=1) / np.sqrt(len(draws)) + 1e-5


@pytest.mark.parametrize(("k", "gradient"), [(1, "plain"), (1, "stl"), (1, "dreg"), (2, "plain"), (2, "dreg")])
def test_unbiased(k: int, gradient: str) -> None:
    """Unbiased in every parameter, also in those that both q and p depend on."""
    for name, expected in by_quadrature(k)[1].items():
        assert abs(expected) > 0.01
        assert_mean(drawn(k, gradient)[name], expected)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_its_draws_are_those_of_the_bound(impl: str) -> None:
    """Draw k has the key fold_in(key, k) under every kind of key, so that loss and `importance` agree to rounding."""
    key, x = jax.random.key(3, impl=impl), jnp.array([[1.3], [0.2]])
    loss, _ = loss_and_gradient(MODEL, ImportanceWeighted(4, "dreg"), PARAMS, x, key)
    bound = importance(MODEL, {"params": PARAMS}, x, key, 4).bound
    np.testing.assert_allclose(loss, -bound.mean(), rtol=1e-5)


def test_sticking_the_landing_is_biased_beyond_one_draw() -> None:
    """STL has v_k in place of v_k^2, which is smaller: the offsets' gradients are too large by half or more."""
    for name in OFFSETS:
        expected, draws = by_quadrature(2)[1][name], drawn(2, "stl")[name]
        assert abs(draws.mean() - expected) > 20 * draws.std(ddof=1) / np.sqrt(DRAWS)
        assert draws.mean() / expected > 1.5


def test_the_negative_elbos_gradient_has_the_mean_of_one_draws() -> None:
    """At K = 1 analytic KL and log-ratio estimate the same gradient and the same loss."""
    keys = jax.random.split(KEY, 2000)
    values, slopes = jax.vmap(lambda key: loss_and_gradient(MODEL, NegativeELBO(), PARAMS, X, key))(keys)
    expected_value, expected = by_quadrature(1)
    assert_mean(np.asarray(values, np.float64), expected_value)
    for name, slope in slopes.items():
        assert_mean(np.asarray(slope, np.float64).reshape(-1), expected[name])


@pytest.mark.parametrize("k", [1, 2, 8])
def test_no_variance_where_q_is_the_posterior(k: int) -> None:
    """The offsets' gradient is 0 in every draw for STL and DReG, but only in the mean for "plain"."""
    for name in OFFSETS:
        for gradient in ("stl", "dreg"):
            np.testing.assert_allclose(drawn(k, gradient, exact=True)[name], 0.0, atol=1e-5)
        plain = drawn(k, "plain", exact=True)[name]
        assert plain.std() > 0.1
        assert_mean(plain, 0.0)


def test_dreg_varies_less() -> None:
    """At K = 8, with q off the posterior, DReG has less than half the variance of "plain", and the same mean."""
    for name in OFFSETS:
        plain, dreg = drawn(8, "plain")[name], drawn(8, "dreg")[name]
        assert dreg.var() < 0.5 * plain.var()
        error = np.sqrt((plain.var() + dreg.var()) / DRAWS)
        assert abs(plain.mean() - dreg.mean()) < 4 * error


@pytest.mark.slow
def test_a_hierarchy() -> None:
    """With two levels and K = 4, DReG - plain at the same noise has mean 0 in every parameter; STL - plain has not.

    The dependence of a lower level's q on the latent above is part of the path (Bauer & Mnih, 2021).
    """
    model = LinearVAE((1, 1), "shifted")
    params = jitter(jax.jit(model.init)(KEY, X, KEY)["params"], scale=0.2)
    keys = jax.random.split(KEY, DRAWS)

    def slopes(gradient: str) -> dict[str, Array]:
        objective = ImportanceWeighted(4, gradient)
        return jax.vmap(lambda key: loss_and_gradient(model, objective, params, X, key)[1])(keys)

    every = [slopes(gradient) for gradient in ("plain", "stl", "dreg")]
    apart = {}
    for name in params:
        base, *others = (np.asarray(one[name], np.float64).reshape(DRAWS) for one in every)
        apart[name], unbiased = (
            abs((other - base).mean()) / (other - base).std(ddof=1) * np.sqrt(DRAWS) for other in others
        )
        assert unbiased < 4
    assert min(apart[name] for name in ("off_mean1", "off_mean2", "off_log_std1", "off_log_std2")) > 8


@pytest.mark.slow
def test_the_signal_to_noise_ratio() -> None:
    """From K = 2 to 32 that of "plain" falls by 4, as 1/sqrt(K); DReG's rises by 4 (Tucker et al., 2019, figure 1)."""

    def ratio(k: int, gradient: str) -> float:
        draws = drawn(k, gradient)["off_mean1"]
        return abs(draws.mean()) / draws.std()

    assert ratio(32, "plain") < ratio(2, "plain") / 2
    assert ratio(32, "dreg") > 2 * ratio(2, "dreg")


TOYS = {
    "bottom_up": (BottomUp(), 2),
    "flow": (Flow(), 2),
    "scanned": (Scanned(), 2),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) for name in ("bottom_up", "flow", "scanned")]
)
def test_values_do_not_depend_on_the_estimator(name: str) -> None:
    """The loss is the bound of `importance` with the same key, for latents that are proposed, flows, scanned or drawn.

    STL's gradient is the plain one without the score of q; DReG's for K = 1 is STL's.
    """
    model, pixels = TOYS[name]
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (4, pixels)), jnp.uint8)
    params = jax.jit(model.init)(KEY, x, KEY)["params"]
    expected = -importance(model, {"params": params}, x, KEY, 3).bound.mean()
    for gradient in ("plain", "stl", "dreg"):
        objective = ImportanceWeighted(3, gradient)
        value = jax.jit(functools.partial(objective, forward_of(model)))(
            {"params": params}, Batch(x), KEY, jnp.int32(0), ()
        )[0]
        np.testing.assert_allclose(value, expected, rtol=1e-4)

    key = jax.random.fold_in(KEY, 0)

    @jax.jit
    def score(params: Any) -> Any:
        """The score of q: d log q(z | x) at fixed latents."""
        latents = model.apply({"params": params}, x, key).latents

        def log_q(params: Any) -> Array:
            trace = model.apply({"params": params}, x, key, latents=latents)
            return sum(level.log_q.sum(0) if level.stacked else level.log_q for level in trace.levels).mean()

        return jax.grad(log_q)(params)

    plain, stl, dreg = (
        loss_and_gradient(model, ImportanceWeighted(1, gradient), params, x, KEY)[1]
        for gradient in ("plain", "stl", "dreg")
    )
    without = jax.tree.map(lambda slope, of_q: slope - of_q, plain, score(params))
    for got in (stl, dreg):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=2e-5), got, without)


@pytest.mark.slow
def test_metrics_and_statistics_are_means_over_the_draws() -> None:
    """Bare metrics and running batch statistics are means; the effective sample size follows from the weights."""
    model = TopDownVAE((2, 3), hidden=4, likelihood=Categorical(3))
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (8, 5)), jnp.uint8)

    def forward(variables: Any, x: Array, key: Array, **choices: Any) -> tuple[Trace, Any]:
        return model.apply(variables, x, key, train=True, mutable=["batch_stats"], **choices)

    @jax.jit
    def both(key: Array) -> Any:
        variables = model.init(key, x, key)
        answer = ImportanceWeighted(3)(forward, variables, Batch(x), KEY, jnp.int32(0), ())

        def draw(index: Array) -> Any:
            trace, updates = forward(variables, x, jax.random.fold_in(KEY, index))
            return bare_metrics(trace), updates, log_weight(trace)

        return answer, jax.lax.map(draw, jnp.arange(3))

    (loss, metrics, state, updates), (bare, expected, log_w) = both(KEY)
    assert state == ()
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda got, each: close(got, each.mean(0)), updates, expected)
    for name, each in bare.items():
        close(metrics[name], each.mean(0))
    w = np.exp(np.asarray(log_w, np.float64))
    close(loss, -np.log(w.mean(0)).mean())
    close(metrics["iwae"], -loss)
    close(metrics["effective_sample_size"], (w.sum(0) ** 2 / (w**2).sum(0)).mean())
