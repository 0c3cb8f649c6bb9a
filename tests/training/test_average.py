"""Averages of what evaluation reads: parameters meet the batch statistics of their own."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.toys import Flow

from hvae_jax.likelihoods import Bernoulli
from hvae_jax.models import TopDownVAE
from hvae_jax.objectives import Batch, NegativeELBO, Objective
from hvae_jax.objectives.bounds import elbo
from hvae_jax.training import TrainState, init_state, make_step
from hvae_jax.training.state import state_from

KEY = jax.random.key(3)
MODEL = TopDownVAE(latents=(2, 2), hidden=8, likelihood=Bernoulli())


def examples() -> jax.Array:
    """256 binary examples of 12 elements, which depend on two numbers each."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(256, 2)) @ rng.normal(size=(2, 12), scale=2.0) + rng.logistic(size=(256, 12))
    return jnp.asarray(logits > 0, jnp.uint8)


@functools.cache
def trained() -> tuple[TrainState, jax.Array]:
    """The state after 200 steps at a learning rate that keeps parameters moving, average decay 0.98; the examples."""
    x, optimiser = examples(), optax.adam(0.03)
    step = make_step(MODEL, NegativeELBO(), optimiser, ema_decay=0.98)

    def one(state: TrainState, key: Any) -> tuple[TrainState, None]:
        rows = jax.random.choice(key, len(x), (32,), replace=False)
        return step(state, Batch(x[rows]), key)[0], None

    run = jax.jit(lambda state: jax.lax.scan(one, state, jax.random.split(KEY, 200))[0])
    return run(init_state(MODEL, NegativeELBO(), optimiser, KEY, x, ema=True)), x


@pytest.mark.leg
def test_averaged_parameters_meet_statistics_of_their_own() -> None:
    """Their ELBO is nearly that with statistics measured at these very parameters; current statistics cost 0.1 nats."""
    state, x = trained()

    @jax.jit
    def elbos(variables: Any, current: Any) -> tuple[jax.Array, ...]:
        def bound(batch_stats: Any) -> jax.Array:
            pairs = {**variables, "batch_stats": batch_stats}
            draws = jax.vmap(lambda key: elbo(MODEL.apply(pairs, x, key)))(jax.random.split(KEY, 50))
            return draws.mean()

        def measure(batch_stats: Any, key: Any) -> tuple[Any, None]:
            pairs = {**variables, "batch_stats": batch_stats}
            return MODEL.apply(pairs, x, key, train=True, mutable=["batch_stats"])[1]["batch_stats"], None

        measured = jax.lax.scan(measure, current, jax.random.split(KEY, 100))[0]
        return bound(variables["batch_stats"]), bound(measured), bound(current)

    averaged, measured, current = elbos(state.variables, state.statistics["batch_stats"])
    assert abs(averaged - measured) < 0.05
    assert averaged > current + 0.05


def test_without_an_average_statistics_are_the_current_ones() -> None:
    state = trained()[0].replace(ema=None, ema_statistics={})
    assert state.variables == {"params": state.params, **state.statistics}


class Counting(Objective):
    """Statistics that it makes itself: a floating one, and a counter, which has no mean."""

    def __call__(self, forward: Any, variables: Any, batch: Batch, key: Any, step: Any, state: Any) -> Any:
        """The sum of the parameters."""
        updates = {"seen": {"mean": variables["seen"]["mean"] + 4.0, "count": variables["seen"]["count"] + 1}}
        loss = sum(leaf.sum() for leaf in jax.tree.leaves(variables["params"]))
        return loss, {}, state, updates


def test_counters_are_the_newest() -> None:
    """After updates with decays 1/10 and 2/11: floats are averaged, whole numbers copied with their dtype."""
    optimiser = optax.sgd(0.1)
    variables = {"params": {"w": jnp.ones(2)}, "seen": {"mean": jnp.zeros(3), "count": jnp.int32(5)}}
    state = state_from(variables, Counting(), optimiser, ema=True)
    step = jax.jit(make_step(Flow(), Counting(), optimiser, ema_decay=0.9))
    for _ in range(2):
        state, _ = step(state, Batch(jnp.zeros((2, 3))), KEY)
    np.testing.assert_allclose(state.variables["seen"]["mean"], 2 / 11 * 0.9 * 4 + 9 / 11 * 8, rtol=1e-6)
    count = state.variables["seen"]["count"]
    assert count == 7 and count.dtype == jnp.int32
