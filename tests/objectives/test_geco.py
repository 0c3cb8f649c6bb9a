"""GECO and rate targets, against their formulas and on a problem with a closed form."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array
from support.hand_made import (
    KEY,
    LOG_PX,
    NAMES,
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

from hvae_jax.distributions import Normal
from hvae_jax.likelihoods import GaussianRecord
from hvae_jax.objectives import (
    GECO,
    Batch,
    Constant,
    Distortion,
    Linear,
    RateTarget,
    Regularised,
    SquaredError,
)
from hvae_jax.trace import Model, Trace
from hvae_jax.training import init_state, make_step


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
    state, u, average = objective.init(VARIABLES), np.full(2, to_u(1.5)), None
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


class Toy(Model):
    """A model of one parameter m with R = m^2/2 and log p(x | z) = -(m - x)^2/2: everything has a closed form."""

    num_levels = 1

    def init(self, rngs: Any, x: Array, key: Array, y: Any = None) -> dict[str, Any]:
        """Starts at m = 1/2."""
        return {"params": {"m": jnp.float32(0.5)}}

    def apply(self, variables: Any, x: Array, key: Array, **choices: Any) -> tuple[Trace, Any]:
        """Returns the trace, without noise."""
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
    """The least m^2/2 with (m - 3)^2/2 <= 1/2 is at m = 2 and lambda = m/(3 - m) = 2, reached from both sides."""
    for initial in (0.2, 20.0):
        objective = GECO((Distortion(0.5),), eta=0.05, decay=0.9, initial=initial, multiplier=multiplier)
        state, metrics = trained(objective)
        np.testing.assert_allclose(state.params["m"], 2.0, atol=1e-2)
        np.testing.assert_allclose(metrics["lambda"][-1], 2.0, rtol=2e-2)
        assert abs(metrics["constraint_average"][-1]) < 0.05 * 0.5
        np.testing.assert_allclose(metrics["elbo"], metrics["log_px"] - metrics["rates"][:, 0], rtol=1e-5)


def test_lambda_stays_in_its_bounds() -> None:
    """A target out of reach ends at the upper bound, m = 3 lambda/(1 + lambda) and C > 0; an easy one at the lower."""
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
    """In microbatches, and pmapped over eight devices, lambda changes once per step, by the whole batch's mean."""
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
    """D + weight |R - r(t)|, in total or per level; the gradient changes sign at the target."""
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


def test_a_likelihood_without_a_mean() -> None:
    """The error of SquaredError says what to take instead."""

    def blind(*arguments: Any, **choices: Any) -> tuple[Trace, Any]:
        trace, updates = forward(*arguments, **choices)
        without = dataclasses.make_dataclass("Blind", ["mean", "mode", "log_prob", "sample"])(None, None, None, None)
        return trace.replace(x_dist=without), updates

    objective = GECO((SquaredError(0.1),))
    with pytest.raises(ValueError, match="Take Distortion"):
        objective(blind, VARIABLES, Batch(jnp.asarray(X)), KEY, jnp.int32(0), objective.init(VARIABLES))


def test_what_is_said_of_constraints_that_were_not_met() -> None:
    """A sentence has the constraint, its last and best value and the room of lambda; there is none if it was met."""
    geco = GECO((Distortion(0.5),), bounds=(1e-3, 100.0))
    numbers = zip((0.9, 0.2, 0.3), (0.9, 0.1, 0.3), strict=True)  # the average lags behind what was reached
    rows = [{"constraint_average": lagging, "constraint": mean, "lambda": 100.0} for lagging, mean in numbers]
    (said,) = geco.conclude(rows)
    assert "Distortion(target=0.5) was not met: at the end it is 0.3" in said
    assert (
        "at best it was 0.1, a distortion of 0.6; lambda is at its bound of 100" in said and "a target of 0.6" in said
    )
    assert geco.conclude([*rows, {"constraint_average": -0.01, "lambda": 7.0}]) == geco.conclude([{"loss": 1.0}]) == ()
    (growing,) = geco.conclude(
        [{"constraint_average": -0.1, "lambda": 7.0}, {"constraint_average": 0.1, "lambda": 7.0}]
    )
    assert "train longer" in growing and "met it for a while" in growing and "a target of 0.6" in growing

    two = GECO((Distortion(0.5), SquaredError(0.1)))
    row = {"constraint_average/distortion": -1.0, "constraint_average/squared_error": 0.4, "lambda/squared_error": 2.0}
    (said,) = two.conclude([row])
    assert said.startswith("SquaredError(kappa=0.1) was not met") and "more room" in said
