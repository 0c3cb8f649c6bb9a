"""Schedules at their first and last steps and between, and learning rates that follow them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax.objectives import (
    Constant,
    Cosine,
    Cyclical,
    Exponential,
    Linear,
    Schedule,
    Tripling,
)
from hvae_jax.recipes import experiment_of
from hvae_jax.training import Adamax, AdamW


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        (Constant(0.3), {0: 0.3, 10**6: 0.3}),
        (Constant((1.0, 0.5)), {7: (1.0, 0.5)}),
        (Linear(10, 20), {0: 0.0, 10: 0.0, 15: 0.5, 20: 1.0, 10**6: 1.0}),
        (Linear(-1, 9), {0: 0.1, 9: 1.0}),
        (Linear(10, 20, initial=2.0, final=0.5), {10: 2.0, 15: 1.25, 20: 0.5, 30: 0.5}),
        (Linear(5, 5), {4: 0.0, 5: 1.0}),
        (Linear(20, 5041, floor=1e-4), {0: 1e-4, 20: 1e-4, 21: 1 / 5021, 5040: 5020 / 5021, 5041: 1.0, 5042: 1.0}),
        (Linear(0.1, 300.1, floor=1e-4), {0: 1e-4, 1: 0.9 / 300, 301: 1.0}),
        (Linear((0, 10), (10, 10)), {5: (0.5, 0.0), 10: (1.0, 1.0)}),
        (Linear((0, 10), 20), {10: (0.5, 0.0), 20: (1.0, 1.0)}),
        (Cosine(0, 10), {0: 0.0, 5: 0.5, 2: 0.5 - 0.5 * math.cos(0.2 * math.pi), 10: 1.0, 11: 1.0}),
        (Cosine(0, 10, initial=1.0, final=0.0), {0: 1.0, 5: 0.5, 10: 0.0}),
        (Cyclical(0, 100, 4), {0: 0.0, 5: 0.4, 12: 0.96, 13: 1.0, 24: 1.0, 25: 0.0, 50: 0.0, 99: 1.0, 100: 1.0}),
        (Tripling(40, 4), {0: 1.0, 1: 10 ** (-1 / 3), 3: 10 ** (-1 / 3), 4: 10 ** (-2 / 3), 13: 0.1, 39: 0.1, 99: 0.1}),
        (Exponential(0.5, 0.2), {0: 1.0, 1: 0.5, 2: 0.25, 3: 0.2}),
        (Exponential(0.999999), {10**6: math.exp(10**6 * math.log(0.999999))}),
        (Cyclical(10, 20, 1, rise=1.0, initial=0.5), {0: 0.5, 10: 0.5, 15: 0.75, 20: 1.0}),
    ],
)
def test_schedules_at_their_corners(schedule: Schedule, points: dict[int, Any]) -> None:
    """Values before the start, at it, inside, at the end and after it; eager and jitted."""
    for step, expected in points.items():
        for value in (schedule(jnp.int32(step)), jax.jit(schedule)(jnp.int32(step))):
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
            assert value.shape == np.shape(expected)


def test_the_warm_up_of_efficient_vdvae() -> None:
    """At our step t, the first of which is 0, the value of the public code at its step t + 1."""
    ours = experiment_of("efficient_vdvae", "mnist").objective.warm_up
    steps = np.array([0, 1, 19, 20, 21, 22, 2500, 5039, 5040, 5041, 5042, 10**6])
    theirs = np.clip((steps + 1 - 21) / (21 + 5000), 1e-4, 1.0)
    np.testing.assert_allclose(ours(jnp.asarray(steps)), theirs, rtol=1e-5)


@pytest.mark.parametrize("optimiser", [Adamax, AdamW])
def test_a_learning_rate_that_follows_a_schedule(optimiser: Any) -> None:
    """Each update is that of a constant learning rate times the schedule's value at that update."""
    params, slope = jnp.float32(0.0), jnp.float32(1.0)
    plain, halved = optimiser(0.1).build(), optimiser(0.1, schedule=Linear(0, 2, initial=1.0, final=0.5)).build()
    states = [plain.init(params), halved.init(params)]
    for factor in (1.0, 0.75, 0.5, 0.5):
        moves = []
        for i, one in enumerate((plain, halved)):
            move, states[i] = one.update(slope, states[i], params)
            moves.append(move)
        np.testing.assert_allclose(moves[1], factor * moves[0], rtol=1e-6)


def test_a_learning_rate_is_one_number() -> None:
    with pytest.raises(ValueError, match="2 numbers, but there is one learning rate"):
        Adamax(schedule=Constant((1.0, 0.5))).build()
