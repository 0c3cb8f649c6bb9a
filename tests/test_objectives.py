"""Objectives against their formulas on a Trace made by hand, in NumPy; what they refuse; one step of each."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tyro
from jax import Array

from hvae_jax import settings
from hvae_jax.distributions import Normal
from hvae_jax.experiment import Experiment
from hvae_jax.likelihoods import Categorical, GaussianRecord
from hvae_jax.models import TopDownVAE
from hvae_jax.objectives import (
    GECO,
    Batch,
    Constant,
    Cosine,
    Cyclical,
    Distortion,
    FreeBits,
    GammaBalance,
    ImportanceWeighted,
    Linear,
    NegativeELBO,
    NVAEBalance,
    Objective,
    RateTarget,
    Regularised,
    Schedule,
    SquaredError,
)
from hvae_jax.trace import Level, Trace
from hvae_jax.training import Plan, init_state, make_step
from hvae_jax.training.rows import summarise

KEY = jax.random.key(0)
B = 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, 6)).astype(np.float32)
NAMES = ("top", "map.0", "map.1")
# A vector, and a run of two maps; two values below 0, as a log-ratio may have.
KLS = {"top": RNG.exponential(size=(B, 3)), "map": RNG.exponential(0.5, size=(2, B, 2, 2, 5))}
KLS["top"][0, 0], KLS["map"][0, 1, 0, 0, 0] = -0.3, -0.2
VARIABLES = {
    "kl": {name: jnp.asarray(kl, jnp.float32) for name, kl in KLS.items()},
    "log_px": jnp.asarray(RNG.normal(-3.0, 1.0, B), jnp.float32),
    "mean": jnp.asarray(RNG.normal(size=(B, 6)), jnp.float32),
}
PER_LEVEL = [KLS["top"], *KLS["map"]]  # [B, ...] each
RATES = np.stack([kl.reshape(B, -1).sum(1) for kl in PER_LEVEL])
LOG_PX = np.asarray(VARIABLES["log_px"], np.float64)


def level_of(name: str, kl: Array, side: int, stacked: bool = False) -> Level:
    """A level with this KL, and nothing else of interest."""
    zeros = jnp.zeros_like(kl)
    axes = tuple(range(2 if stacked else 1, kl.ndim))
    return Level(
        zeros, Normal(zeros, zeros), Normal(zeros, zeros), kl, kl.sum(axes), zeros.sum(axes), name, side, stacked
    )


def forward(variables: Any, x: Array, key: Array, **choices: Any) -> tuple[Trace, Any]:
    """The trace that the variables say: a top vector where they have one, then maps of 2 by 2."""
    kl, mean = variables["kl"], variables["mean"]
    levels = (level_of("top", kl["top"], 1),) if "top" in kl else ()
    levels += (level_of("map", kl["map"], 2, stacked=True),)
    return Trace(variables["log_px"], levels, GaussianRecord(Normal(mean, jnp.zeros_like(mean)))), {}


MAPS = VARIABLES | {"kl": {"map": VARIABLES["kl"]["map"]}}


def call(objective: Objective, step: int = 0, variables: Any = VARIABLES, state: Any = None) -> tuple[Any, ...]:
    """(loss, metrics, state, updates) on the trace."""
    state = objective.init() if state is None else state
    return objective(forward, variables, Batch(jnp.asarray(X)), KEY, jnp.int32(step), state)


def gradient(objective: Objective, step: int = 0, variables: Any = VARIABLES) -> Any:
    """Of the loss in everything."""
    return jax.grad(lambda variables: call(objective, step, variables)[0])(variables)


# ---- free bits, beta, warm-up, balance


def groups_of(kl: np.ndarray, group: str, average: str) -> np.ndarray:
    """What is compared with lambda, `[B or 1, groups]`."""
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
    """F of each level in both reductions, one lambda or one a level, at half of a schedule; the share at its floor."""
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
    """The gradient in each element's KL is 0 where the group is below lambda, and the ELBO's above."""
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
    """Those of NVAE's code, for one scale to three, and its example of 5, 10 and 20 groups: alpha = 1, 2, 4."""
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
    """L (KL_l/n_l) / sum of the same, for its steps; 1 afterwards, and where every rate is 0."""
    trace, _ = forward(VARIABLES, jnp.asarray(X), KEY)
    density = RATES.mean(1) / np.array([3, 20, 20])
    ones = jnp.ones(3)
    np.testing.assert_allclose(GammaBalance(5)(trace, jnp.int32(4), ones), 3 * density / density.sum(), rtol=1e-5)
    np.testing.assert_array_equal(GammaBalance(5)(trace, jnp.int32(5), ones), 1.0)
    still, _ = forward(jax.tree.map(jnp.zeros_like, VARIABLES), jnp.asarray(X), KEY)
    np.testing.assert_array_equal(GammaBalance(5)(still, jnp.int32(0), ones), 1.0)


@pytest.mark.parametrize("balance", [NVAEBalance(), GammaBalance(100)])
def test_a_balance_has_no_gradient(balance: Any) -> None:
    """The gradient in a level's KL is beta w gamma_l / B at each element."""
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
    """Loss and gradient after step 100, rates below 0 included."""
    np.testing.assert_allclose(call(objective, 100)[0], call(NegativeELBO())[0], rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, gradient(objective, 100), gradient(NegativeELBO()))


# ---- schedules


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        (Constant(0.3), {0: 0.3, 10**6: 0.3}),
        (Constant((1.0, 0.5)), {7: (1.0, 0.5)}),
        (Linear(10, 20), {0: 0.0, 10: 0.0, 15: 0.5, 20: 1.0, 10**6: 1.0}),
        (Linear(-1, 9), {0: 0.1, 9: 1.0}),
        (Linear(10, 20, initial=2.0, final=0.5), {10: 2.0, 15: 1.25, 20: 0.5, 30: 0.5}),
        (Linear(5, 5), {4: 0.0, 5: 1.0}),
        (Linear(21, 5042, floor=1e-4), {0: 1e-4, 21: 1e-4, 22: 1 / 5021, 5042: 1.0}),
        (Linear(0.1, 300.1, floor=1e-4), {0: 1e-4, 1: 0.9 / 300, 301: 1.0}),
        (Linear((0, 10), (10, 10)), {5: (0.5, 0.0), 10: (1.0, 1.0)}),
        (Linear((0, 10), 20), {10: (0.5, 0.0), 20: (1.0, 1.0)}),
        (Cosine(0, 10), {0: 0.0, 5: 0.5, 2: 0.5 - 0.5 * math.cos(0.2 * math.pi), 10: 1.0, 11: 1.0}),
        (Cosine(0, 10, initial=1.0, final=0.0), {0: 1.0, 5: 0.5, 10: 0.0}),
        (Cyclical(0, 100, 4), {0: 0.0, 5: 0.4, 12: 0.96, 13: 1.0, 24: 1.0, 25: 0.0, 50: 0.0, 99: 1.0, 100: 1.0}),
        (Cyclical(10, 20, 1, rise=1.0, initial=0.5), {0: 0.5, 10: 0.5, 15: 0.75, 20: 1.0}),
    ],
)
def test_schedules_at_their_corners(schedule: Schedule, points: dict[int, Any]) -> None:
    """Before, at the start, inside, at the end, after; eager and jitted."""
    for step, expected in points.items():
        for value in (schedule(jnp.int32(step)), jax.jit(schedule)(jnp.int32(step))):
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
            assert value.shape == np.shape(expected)


# ---- GECO and rate targets


@pytest.mark.parametrize("multiplier", ["log", "softplus"])
def test_geco_is_its_formula(multiplier: str) -> None:
    """Three steps in NumPy: value of the average, gradient of the batch, clipped and delayed multipliers."""
    log = multiplier == "log"
    objective = GECO(
        (Distortion(0.2), SquaredError(0.4)),
        Regularised(beta=2.0),
        eta=0.5,
        decay=0.9,
        initial=1.5,
        bounds=(0.5, 1.6),
        max_change=0.08,
        delay=1,
        multiplier=multiplier,
    )
    to_lambda, to_u = (np.exp, np.log) if log else (lambda u: np.log1p(np.exp(u)), lambda v: np.log(np.expm1(v)))
    mean = np.asarray(VARIABLES["mean"], np.float64)
    state, u, average = objective.init(), np.full(2, to_u(1.5)), None
    for step in range(3):
        log_px = LOG_PX - step  # the constraints change from step to step
        c = np.array([(-log_px - 6 * 0.2).mean(), ((X - mean) ** 2 - 0.16).sum(1).mean()])
        average = c if average is None else 0.9 * average + 0.1 * c
        variables = VARIABLES | {"log_px": jnp.asarray(log_px, jnp.float32)}

        def loss_of(variables: Any, step: int = step, state: Any = state) -> Any:
            loss, *rest = call(objective, step, variables, state)
            return loss, rest

        (loss, (metrics, state, _)), slope = jax.value_and_grad(loss_of, has_aux=True)(variables)
        lambdas = to_lambda(u)
        np.testing.assert_allclose(loss, 2 * RATES.mean(1).sum() + (lambdas * average).sum(), rtol=1e-5)
        np.testing.assert_allclose(slope["log_px"], -lambdas[0] / B, rtol=1e-5)
        np.testing.assert_allclose(slope["mean"], lambdas[1] * 2 * (mean - X) / B, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(slope["kl"]["top"], 2 / B, rtol=1e-6)
        for i, name in enumerate(("distortion", "squared_error")):
            np.testing.assert_allclose(metrics[f"lambda/{name}"], lambdas[i], rtol=1e-5)
            np.testing.assert_allclose(metrics[f"constraint/{name}"], c[i] / 6, rtol=1e-5)
            np.testing.assert_allclose(metrics[f"constraint_average/{name}"], average[i] / 6, rtol=1e-5)
        u = np.clip(u + (step >= 1) * np.clip(0.5 * average / 6, -0.08, 0.08), to_u(0.5), to_u(1.6))
        np.testing.assert_allclose(state.u, u, rtol=1e-5)
    np.testing.assert_allclose(to_lambda(u), 1.6, rtol=1e-5)  # the bound was met


class Toy:
    """R = m^2/2 and log p(x | z) = -(m - x)^2/2 for one parameter m: everything is known in closed form."""

    def init(self, rngs: Any, x: Array, key: Array, y: Any = None) -> dict[str, Any]:
        """m = 1/2."""
        return {"params": {"m": jnp.float32(0.5)}}

    def apply(self, variables: Any, x: Array, key: Array, **choices: Any) -> tuple[Trace, Any]:
        """Without noise."""
        m = variables["params"]["m"]
        mean = jnp.broadcast_to(m, x.shape)
        level = level_of("z", 0.5 * mean**2, 1)
        log_px = -0.5 * ((x - mean) ** 2).sum(1)
        return Trace(log_px, (level,), GaussianRecord(Normal(mean, jnp.zeros_like(mean)))), {}


def trained(objective: GECO, steps: int = 4000) -> tuple[Any, dict[str, Array]]:
    """The last state and all metrics of Toy at x = 3, by SGD."""
    optimiser = optax.sgd(0.02)
    batch = Batch(jnp.full((B, 1), 3.0))
    step = make_step(Toy(), objective, optimiser)
    state = init_state(Toy(), objective, optimiser, KEY, batch.x)
    return jax.jit(lambda state: jax.lax.scan(lambda s, _: step(s, batch, KEY), state, length=steps))(state)


@pytest.mark.parametrize("multiplier", ["log", "softplus"])
def test_geco_comes_to_its_target(multiplier: str) -> None:
    """Least m^2/2 with (m - 3)^2/2 <= 1/2: m = 2, and lambda = m/(3 - m) = 2, from above and from below."""
    for initial in (0.2, 20.0):
        objective = GECO((Distortion(0.5),), eta=0.05, decay=0.9, initial=initial, multiplier=multiplier)
        state, metrics = trained(objective)
        np.testing.assert_allclose(state.params["m"], 2.0, atol=1e-2)
        np.testing.assert_allclose(metrics["lambda"][-1], 2.0, rtol=2e-2)
        assert abs(metrics["constraint_average"][-1]) < 0.05 * 0.5
        np.testing.assert_allclose(metrics["elbo"], metrics["log_px"] - metrics["rates"][:, 0], rtol=1e-5)


def test_lambda_stays_in_its_bounds() -> None:
    """A target out of reach: the upper bound, m = 3 lambda/(1 + lambda), C above 0. One that is met: the lower."""
    state, metrics = trained(GECO((Distortion(-1.0),), bounds=(0.1, 5.0), eta=0.05, delay=100))
    lambdas = metrics["lambda"]
    assert (lambdas[:101] == 1.0).all() and (lambdas[102:] > 1.0).all() and lambdas.max() <= 5.0 * (1 + 1e-6)
    np.testing.assert_allclose(lambdas[-1], 5.0, rtol=1e-5)
    np.testing.assert_allclose(state.params["m"], 2.5, atol=1e-3)
    np.testing.assert_allclose(metrics["constraint"][-1], 0.125 + 1.0, rtol=1e-3)
    assert (np.abs(np.diff(np.log(lambdas))) < 0.1 + 1e-5).all()
    _, metrics = trained(GECO((Distortion(10.0),), bounds=(0.1, 5.0), eta=0.05))
    np.testing.assert_allclose(metrics["lambda"][-1], 0.1, rtol=1e-5)


@pytest.mark.parametrize(("microbatch", "axis_name"), [(2, None), (None, "data")])
def test_the_multiplier_of_parts_is_the_wholes(microbatch: int | None, axis_name: str | None) -> None:
    """In microbatches, and pmapped over eight devices: lambda moves once a step, by the whole batch's mean."""
    objective, optimiser = GECO((Distortion(0.5), SquaredError(1.0))), optax.sgd(0.1)
    x = jnp.asarray(RNG.normal(size=(8, 1)), jnp.float32)
    states = [init_state(Toy(), objective, optimiser, KEY, x)] * 2
    whole = jax.jit(make_step(Toy(), objective, optimiser))
    parts = make_step(Toy(), objective, optimiser, microbatch=microbatch, axis_name=axis_name)
    mapped = jax.jit(parts) if axis_name is None else jax.pmap(parts, axis_name=axis_name, in_axes=(None, 0, None))
    rows = x if axis_name is None else x[:, None]
    for _ in range(2):
        states[0], expected = whole(states[0], Batch(x), KEY)
        answer = mapped(states[1], Batch(rows), KEY)
        states[1], metrics = answer if axis_name is None else jax.tree.map(lambda leaf: leaf[0], answer)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, jax.device_get((states[1], metrics)), jax.device_get((states[0], expected)))


def test_rate_target() -> None:
    """D + weight |R - r(t)|: in total or a level; the gradient turns where the target is passed."""
    rates, rise = RATES.mean(1), Linear(0, 10)
    for target, schedule, missed in (
        (5.0, Constant(), [rates.sum() - 5.0]),
        (80.0, rise, [rates.sum() - 40.0]),
        ((2.0, 30.0, 8.0), rise, rates - np.array([1.0, 15.0, 4.0])),
    ):
        objective = RateTarget(target, 3.0, schedule)
        loss, metrics, *_ = call(objective, 5)
        np.testing.assert_allclose(loss, 3 * np.abs(missed).sum() - LOG_PX.mean(), rtol=1e-5)
        np.testing.assert_allclose(metrics["elbo"], LOG_PX.mean() - rates.sum(), rtol=1e-5)
        slopes = gradient(objective, 5)["kl"]
        slopes = [slopes["top"], *slopes["map"]]
        for slope, sign in zip(slopes, np.broadcast_to(np.sign(missed), 3), strict=True):
            np.testing.assert_allclose(slope, sign * 3 / B, rtol=1e-6)
    assert {name for name in metrics if "target" in name} == {f"rate_target/{name}" for name in NAMES}


# ---- in training


OBJECTIVES = [
    Regularised(4.0),
    Regularised(
        (1.0, 0.5),
        Cyclical((0, 10), 1000),
        FreeBits((0.1, 0.2), "element", "sample", Cosine(0, 10, initial=1.0, final=0.0)),
        GammaBalance(),
    ),
    Regularised(warm_up=Linear(0.1, 300.1, floor=1e-4), balance=NVAEBalance()),
    RateTarget(3.0),
    GECO((Distortion(1.0), SquaredError(0.5)), Regularised(free_bits=FreeBits(0.5)), multiplier="softplus"),
    ImportanceWeighted(3),
    ImportanceWeighted(2, "stl"),
    ImportanceWeighted(2, "dreg"),
]
MODEL = TopDownVAE((2, 3), hidden=4, likelihood=Categorical(3))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: type(objective).__name__)
def test_one_step_of_each(objective: Objective) -> None:
    """Jitted and scanned: finite, bare numbers beside the loss, metrics that stack and that a row of numbers takes."""
    optimiser, x = optax.sgd(0.1), jnp.asarray(RNG.integers(0, 3, (8, 5)), jnp.uint8)
    state = init_state(MODEL, objective, optimiser, KEY, x)
    step = make_step(MODEL, objective, optimiser)
    after, metrics = jax.jit(
        lambda state: jax.lax.scan(lambda s, k: step(s, Batch(x), k), state, jax.random.split(KEY, 2))
    )(state)
    metrics = jax.device_get(metrics)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after, metrics)))
    assert after.skipped == 0
    assert {"elbo", "log_px", "rates", "loss"} < set(metrics)
    assert all(v.shape == ((2, 2) if name == "rates" else (2,)) for name, v in metrics.items())
    np.testing.assert_allclose(metrics["elbo"], metrics["log_px"] - metrics["rates"].sum(1), rtol=1e-5)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.statistics, state.statistics)
    assert all(jax.tree.leaves(moved))
    assert set(metrics) - {"rates"} < set(summarise(metrics, ("z2", "z1"), 2, Plan(16, 8, 2, 2)))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: type(objective).__name__)
def test_settings_round_trip(objective: Objective) -> None:
    """To JSON and back."""
    experiment = Experiment("x", MODEL, objective=objective)
    assert settings.from_json(settings.to_json(experiment)) == experiment


@pytest.mark.parametrize(
    ("objective", "arguments", "expected"),
    [
        (Regularised(), "--beta 4", Regularised(4.0)),
        (
            Regularised(warm_up=Linear()),
            "--beta 1 0.5 --warm-up.end 5 7 --free-bits.nats 0.5 --free-bits.group element",
            Regularised((1.0, 0.5), Linear(end=(5.0, 7.0)), FreeBits(0.5, "element")),
        ),
        (RateTarget(3.0), "--target 5 --schedule.value 0.5", RateTarget(5.0, schedule=Constant(0.5))),
        (
            GECO((Distortion(1.0), SquaredError(0.5))),
            "--constraints.1.kappa 0.1 --rate.beta 2 --bounds 0.1 10 --multiplier softplus",
            GECO((Distortion(1.0), SquaredError(0.1)), Regularised(2.0), bounds=(0.1, 10.0), multiplier="softplus"),
        ),
        (ImportanceWeighted(), "--k 7 --gradient dreg", ImportanceWeighted(7, "dreg")),
    ],
)
def test_the_command_line_sets_them(objective: Objective, arguments: str, expected: Objective) -> None:
    """As fields of an experiment, by their names."""
    words = [f"--objective.{word[2:]}" if word.startswith("--") else word for word in arguments.split()]
    got = tyro.cli(Experiment, args=words, default=Experiment("x", MODEL, objective=objective))
    assert got.objective == expected


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Regularised(beta=-1.0), r"beta=-1.0.*0 or more"),
        (lambda: Regularised(beta=(1.0, -0.5)), r"beta=\(1.0, -0.5\).*0 or more"),
        (lambda: Regularised(beta=float("nan")), "finite"),
        (lambda: Regularised(beta=()), "one a level"),
        (lambda: FreeBits(-0.1), "nats=-0.1"),
        (lambda: FreeBits(0.1, "layer"), "level, channel, element"),
        (lambda: FreeBits(0.1, average="both"), "batch, sample"),
        (lambda: Linear(10, 9), r"start=10, end=9.*not end before"),
        (lambda: Linear((0, 10), (5, 5)), "not end before"),
        (lambda: Linear((0, 10), (5, 15, 20)), "start has 2, end has 3"),
        (lambda: Linear(initial=-1.0), "initial=-1.0"),
        (lambda: Cosine(10, 9), "not end before"),
        (lambda: Cyclical(10, 10), "end after its start"),
        (lambda: Cyclical(cycles=0), "at least one cycle"),
        (lambda: Cyclical(rise=0.0), "rise"),
        (lambda: Constant(-1.0), "value=-1.0"),
        (lambda: NVAEBalance(0.0), "above 0"),
        (lambda: GammaBalance(-1), "0 or more"),
        (lambda: RateTarget(-1.0), "target=-1.0"),
        (lambda: SquaredError(-1.0), "kappa=-1.0"),
        (lambda: Distortion(float("inf")), "target=inf"),
        (lambda: GECO(()), "at least one"),
        (lambda: GECO((Distortion(1.0), Distortion(2.0))), "each name once"),
        (lambda: GECO((Distortion(1.0),), decay=1.0), "decay=1.0"),
        (lambda: GECO((Distortion(1.0),), bounds=(2.0, 3.0)), "initial=1.0"),
        (lambda: GECO((Distortion(1.0),), bounds=(0.0, 3.0)), "above 0"),
        (lambda: GECO((Distortion(1.0),), eta=-1.0), "eta=-1.0"),
        (lambda: GECO((Distortion(1.0),), multiplier="exp"), "log or softplus"),
        (lambda: ImportanceWeighted(0), r"k=0.*1 or more"),
        (lambda: ImportanceWeighted(5, "reinforce"), "plain, stl or dreg"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    """Named where they are made, before anything runs."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Regularised(beta=(1.0, 2.0)), "beta has 2 values, but the model has 3 levels"),
        (Regularised(warm_up=Linear((0.0, 1.0), 5)), "warm_up has 2 values"),
        (Regularised(free_bits=FreeBits((1.0, 1.0))), "free_bits.nats .* has 2 values"),
        (Regularised(free_bits=FreeBits(1.0, "channel")), "'top'.*is a vector.*'element'"),
        (RateTarget((1.0, 2.0)), "target .* has 2 values"),
    ],
)
def test_settings_that_do_not_fit_the_model(objective: Objective, message: str) -> None:
    """At its first trace."""
    with pytest.raises(ValueError, match=message):
        call(objective)


def test_a_likelihood_without_a_mean() -> None:
    """SquaredError says what to take instead."""

    def blind(*arguments: Any, **choices: Any) -> tuple[Trace, Any]:
        trace, updates = forward(*arguments, **choices)
        without = dataclasses.make_dataclass("Blind", ["mean", "mode", "log_prob", "sample"])(None, None, None, None)
        return trace.replace(x_dist=without), updates

    objective = GECO((SquaredError(0.1),))
    with pytest.raises(ValueError, match="Take Distortion"):
        objective(blind, VARIABLES, Batch(jnp.asarray(X)), KEY, jnp.int32(0), objective.init())


def test_what_is_said_of_constraints_that_were_not_met() -> None:
    """Which, by how much, the best that was reached, and whether lambda has any room left; nothing of those met."""
    geco = GECO((Distortion(0.5),), bounds=(1e-3, 100.0))
    rows = [{"constraint_average": value, "lambda": 100.0} for value in (0.9, 0.2, 0.3)]
    (said,) = geco.unmet(rows)
    assert "Distortion(target=0.5) was not met: at the end it is 0.3" in said
    assert "at best it was 0.2; lambda is at its bound of 100" in said and "a target of 0.7" in said
    assert geco.unmet([*rows, {"constraint_average": -0.01, "lambda": 7.0}]) == geco.unmet([{"loss": 1.0}]) == []
    (growing,) = geco.unmet([{"constraint_average": -0.1, "lambda": 7.0}, {"constraint_average": 0.1, "lambda": 7.0}])
    assert "train longer" in growing and "met it for a while" in growing and "a target of 0.6" in growing

    two = GECO((Distortion(0.5), SquaredError(0.1)))
    row = {"constraint_average/distortion": -1.0, "constraint_average/squared_error": 0.4, "lambda/squared_error": 2.0}
    (said,) = two.unmet([row])
    assert said.startswith("SquaredError(kappa=0.1) was not met") and "more room" in said
