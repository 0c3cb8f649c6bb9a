"""The weighted rate against its formula in NumPy: free bits, beta, warm-up, balance."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.hand_made import (
    KEY,
    KLS,
    LOG_PX,
    MAPS,
    NAMES,
    PER_LEVEL,
    RATES,
    RNG,
    VARIABLES,
    B,
    X,
    call,
    forward,
    gradient,
    level_of,
)

from hvae_jax.objectives import (
    Constant,
    Cosine,
    FreeBits,
    GammaBalance,
    Linear,
    NegativeELBO,
    NVAEBalance,
    Regularised,
)
from hvae_jax.trace import Trace


def groups_of(kl: np.ndarray, group: str, average: str) -> np.ndarray:
    """Rates that are compared with lambda, `[B or 1, groups]`."""
    by_group = {
        "level": lambda kl: kl.reshape(B, -1).sum(1, keepdims=True),
        "channel": lambda kl: kl.sum(axis=tuple(range(1, kl.ndim - 1))),
        "element": lambda kl: kl.reshape(B, -1),
    }[group](kl)
    return by_group.mean(0, keepdims=True) if average == "batch" else by_group


def floored(kls: list[np.ndarray], lambdas: list[float], group: str, average: str) -> np.ndarray:
    """Free bits in NumPy, one level after another."""
    compared = [groups_of(kl, group, average) for kl in kls]
    return np.array([np.maximum(one, floor).mean(0).sum() for one, floor in zip(compared, lambdas, strict=True)])


def nvae_coefficients(rates: np.ndarray, groups_per_scale: list[int]) -> np.ndarray:
    """NVAE's kl_balancer with its 'square' coefficients, as its code has it; `groups_per_scale` smallest first."""
    alpha = np.concatenate([np.square(2**i) / n * np.ones(n) for i, n in enumerate(groups_per_scale)])
    alpha = alpha / alpha.min()
    size = np.abs(rates).mean(1) + 0.01
    coefficients = size / alpha * size.sum()
    return coefficients / coefficients.mean()


@pytest.mark.parametrize("average", ["batch", "sample"])
@pytest.mark.parametrize("group", ["level", "channel", "element"])
def test_free_bits_are_their_formula(group: str, average: str) -> None:
    """F of each level in both averages, with one lambda or one per level, half-way in a schedule; fraction pinned."""
    variables, kls = (MAPS, PER_LEVEL[1:]) if group == "channel" else (VARIABLES, PER_LEVEL)
    trace, _ = forward(variables, jnp.asarray(X), KEY)
    lambdas = [0.4, 24.0, 0.9][: len(kls)]
    falling = Linear(0, 10, initial=1.0, final=0.0)
    for nats, schedule, expected in (
        (5.0 if group == "level" else 0.6, Constant(), [5.0 if group == "level" else 0.6] * len(kls)),
        (tuple(lambdas), falling, [v / 2 for v in lambdas]),
    ):
        free_bits = FreeBits(nats, group, average, schedule)
        got, metrics = free_bits(trace, jnp.int32(5))
        np.testing.assert_allclose(got, floored(kls, expected, group, average), rtol=1e-5)
        compared = [groups_of(kl, group, average) for kl in kls]
        free = np.concatenate([(one <= floor).ravel() for one, floor in zip(compared, expected, strict=True)])
        np.testing.assert_allclose(metrics["free_bits_pinned"], free.mean(), rtol=1e-6)
        names = [name for name in metrics if name.startswith("free_bits/")]
        assert names == ([f"free_bits/{name}" for name in trace.names] if isinstance(nats, tuple) else [])


def test_free_bits_hold_no_group_that_is_above() -> None:
    """The gradient of each element's KL is 0 if the group is below lambda, and that of the ELBO above."""
    kl, plain = KLS["map"], gradient(NegativeELBO(), variables=MAPS)["kl"]["map"]
    channels = kl.sum((2, 3))[:, :, None, None]  # [n, B, 1, 1, C]
    for group, average, compared in (
        ("element", "sample", kl),
        ("channel", "sample", channels),
        ("channel", "batch", channels.mean(1, keepdims=True)),
        ("level", "batch", kl.sum((2, 3, 4), keepdims=True).mean(1, keepdims=True)),
    ):
        threshold = float(np.median(compared))
        got = gradient(Regularised(free_bits=FreeBits(threshold, group, average)), variables=MAPS)["kl"]["map"]
        trained = np.broadcast_to(compared > threshold, kl.shape)
        assert trained.any() and not trained.all()
        np.testing.assert_array_equal(got, np.where(trained, plain, 0.0))


@pytest.mark.parametrize("step", [0, 3, 10])
def test_the_order_of_operations(step: int) -> None:
    """-log p(x | z) + sum of beta w(t) gamma max(lambda, KL): lambda in true nats, gamma from the plain rates."""
    beta, nats = (2.0, 0.5, 1.5), (4.0, 11.0, 5.0)
    objective = Regularised(beta, Linear((0, 0, 5), (10, 10, 10)), FreeBits(nats, "level", "sample"), NVAEBalance(0.01))
    w = np.array([step / 10, step / 10, max(step - 5, 0) / 5])
    gamma = nvae_coefficients(RATES, [1, 2]) if step < 10 else np.ones(3)
    expected = (np.array(beta) * w * gamma * floored(PER_LEVEL, list(nats), "level", "sample")).sum()
    loss, metrics, *_ = call(objective, step)
    np.testing.assert_allclose(loss, expected - LOG_PX.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["regularised_rate"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([metrics[f"beta/{name}"] for name in NAMES], np.array(beta) * w, rtol=1e-6)
    np.testing.assert_allclose([metrics[f"balance/{name}"] for name in NAMES], gamma, rtol=1e-5)
    np.testing.assert_allclose(metrics["elbo"], LOG_PX.mean() - RATES.mean(1).sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics["log_px"], LOG_PX.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["rates"], RATES.mean(1), rtol=1e-6)


@pytest.mark.parametrize("groups_per_scale", [[1], [3], [5, 10, 20], [4, 2, 1]])
def test_nvae_coefficients(groups_per_scale: list[int]) -> None:
    """Coefficients of NVAE's code with one to three scales; with 5, 10 and 20 groups, alpha = 1, 2, 4."""
    sides = [2**i for i, n in enumerate(groups_per_scale) for _ in range(n)]
    kls = [RNG.exponential(0.1, size=(B, side, side, 2)) for side in sides]
    levels = tuple(
        level_of(f"z{i}", jnp.asarray(kl, jnp.float32), s) for i, (kl, s) in enumerate(zip(kls, sides, strict=True))
    )
    trace = Trace(VARIABLES["log_px"], levels, forward(VARIABLES, jnp.asarray(X), KEY)[0].x_dist)
    warm = jnp.full(len(sides), 0.3)
    gamma = NVAEBalance()(trace, jnp.int32(0), warm)
    np.testing.assert_allclose(gamma, nvae_coefficients(np.asarray(trace.rates), groups_per_scale), rtol=1e-5)
    np.testing.assert_array_equal(NVAEBalance()(trace, jnp.int32(0), jnp.ones_like(warm)), 1.0)


def test_gamma_balance() -> None:
    """L (KL_l/n_l) / sum_j (KL_j/n_j) in its steps; 1 afterwards, and if every rate is 0."""
    trace, _ = forward(VARIABLES, jnp.asarray(X), KEY)
    density = RATES.mean(1) / np.array([3, 20, 20])
    ones = jnp.ones(3)
    np.testing.assert_allclose(GammaBalance(5)(trace, jnp.int32(4), ones), 3 * density / density.sum(), rtol=1e-5)
    np.testing.assert_array_equal(GammaBalance(5)(trace, jnp.int32(5), ones), 1.0)
    still, _ = forward(jax.tree.map(jnp.zeros_like, VARIABLES), jnp.asarray(X), KEY)
    np.testing.assert_array_equal(GammaBalance(5)(still, jnp.int32(0), ones), 1.0)


@pytest.mark.parametrize("balance", [NVAEBalance(), GammaBalance(100)])
def test_a_balance_has_no_gradient(balance: Any) -> None:
    """The gradient of a level's KL is beta w gamma_l / B at each element."""
    objective = Regularised(warm_up=Linear(0, 10), balance=balance)
    metrics, got = call(objective, 4)[1], gradient(objective, 4)["kl"]
    gamma = [metrics[f"balance/{name}"] for name in NAMES]
    for kl, expected in zip([got["top"], *got["map"]], gamma, strict=True):
        np.testing.assert_allclose(kl, 0.4 * expected / B, rtol=1e-5)


@pytest.mark.parametrize(
    "objective",
    [
        Regularised(),
        Regularised(beta=(1.0, 1.0, 1.0)),
        Regularised(warm_up=Cosine(0, 50), balance=NVAEBalance()),
        Regularised(free_bits=FreeBits(2.0, "element", "sample", Linear(20, 100, initial=1.0, final=0.0))),
        Regularised(free_bits=FreeBits((0.0, 0.0, 0.0)), balance=GammaBalance(100)),
    ],
)
def test_what_is_off_or_over_is_the_negative_elbo(objective: Regularised) -> None:
    """Loss and gradient are those of NegativeELBO, also with rates below 0; schedules are over after step 100."""
    np.testing.assert_allclose(call(objective, 100)[0], call(NegativeELBO())[0], rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, gradient(objective, 100), gradient(NegativeELBO()))
