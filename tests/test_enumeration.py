"""Latents of finitely many values, summed over: probabilities are one, KLs are sums, observed levels are joint."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import every, jitter
from support.toys import CategoricalTop, Observed, pairs

from hvae_jax.models import HVAE
from hvae_jax.objectives import log_weight

KEY = jax.random.key(0)
EVERY_X = every(2, 4)  # [16, 4]
CLASSES = 3


@functools.cache
def variables(model: HVAE) -> dict[str, Any]:
    """Variables of a model of four binary pixels, moved far from their initial values."""
    made = jax.jit(model.init)(jax.random.key(1), EVERY_X, KEY)
    return {**made, "params": jitter(made["params"], scale=0.5)}


# ---- a class at the top


@functools.cache
def enumerated(form: str) -> dict[str, np.ndarray]:
    """Every x with every class given, in float64: log p(x | c), log q(c | x), log p(c), log w `[C, X]`; rates `[X]`."""
    model = CategoricalTop(CLASSES, size=0, form=form)
    made = variables(model)

    def given(c: jax.Array) -> dict[str, jax.Array]:
        one_hot = jnp.broadcast_to(jax.nn.one_hot(c, CLASSES)[None], (len(EVERY_X), CLASSES))
        trace = model.apply(made, EVERY_X, KEY, latents=(one_hot,))
        level = trace.levels[0]
        return {
            "log_px": trace.log_px,
            "log_q": level.log_q,
            "log_p": level.log_p,
            "log_w": log_weight(trace),
            "rate": level.rate,
        }

    found = jax.jit(jax.vmap(given))(jnp.arange(CLASSES))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)


@pytest.mark.parametrize("form", ["straight_through", "gumbel"])
def test_the_classes_sum_to_one(form: str) -> None:
    """sum_x sum_c q(c | x) w(x, c) = sum_x p(x) = 1, and so do q(c | x) and p(c), which differ."""
    found = enumerated(form)
    q, p = np.exp(found["log_q"]), np.exp(found["log_p"])
    np.testing.assert_allclose(q.sum(0), 1.0, rtol=1e-6)
    np.testing.assert_allclose(p.sum(0), 1.0, rtol=1e-6)
    assert np.abs(q - p).max() > 0.1
    np.testing.assert_allclose((q * np.exp(found["log_w"])).sum(), 1.0, atol=1e-6)


@pytest.mark.parametrize("form", ["straight_through", "gumbel"])
def test_the_kl_of_classes_is_a_sum(form: str) -> None:
    """KL(q || p) = sum_c q(c | x) log q/p for every x, whichever class is given; so E_q[log w] is below log p(x)."""
    found = enumerated(form)
    q = np.exp(found["log_q"])
    divergence = (q * (found["log_q"] - found["log_p"])).sum(0)
    np.testing.assert_allclose(found["rate"], np.broadcast_to(divergence, found["rate"].shape), rtol=1e-5, atol=1e-6)
    log_px = np.log((np.exp(found["log_p"] + found["log_px"])).sum(0))
    bound = (q * found["log_w"]).sum(0)
    np.testing.assert_allclose(bound, (q * found["log_px"]).sum(0) - divergence, rtol=1e-5)
    assert (bound < log_px - 1e-4).all()


def test_drawn_classes_have_their_probabilities() -> None:
    """In 20,000 passes each class is as frequent as q(c | x) says, and the mean weight is p(x): 4.5 standard errors."""
    model = CategoricalTop(CLASSES, size=0)
    made = variables(model)

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        trace = model.apply(made, EVERY_X, key)
        return trace.latents[0], jnp.exp(log_weight(trace))

    classes, weights = jax.jit(jax.vmap(one))(jax.random.split(KEY, 20_000))
    found = enumerated("straight_through")
    q = np.exp(found["log_q"])
    px = np.exp(found["log_p"] + found["log_px"]).sum(0)
    for draws, expected in ((classes, q.T), (weights, px)):
        draws = np.asarray(draws, np.float64)
        error = draws.std(0, ddof=1) / np.sqrt(len(draws))
        assert (np.abs(draws.mean(0) - expected) < 4.5 * error + 1e-6).all()


# ---- a level that is a function of x

EVERY_Y = every(2, 2)  # [4, 2]


@functools.cache
def joint() -> np.ndarray:
    """p(x, y) `[X, Y]`: w(x, y, z2) q(z2 | y) summed over a grid of z2, which is exact to 1e-8 for N(0, I)."""
    model = Observed()
    made = variables(model)
    line = np.linspace(-6.0, 6.0, 49)
    nodes = jnp.asarray(np.stack(np.meshgrid(line, line), -1).reshape(-1, 2), jnp.float32)
    area = (line[1] - line[0]) ** 2

    def density(z: jax.Array, y: jax.Array) -> jax.Array:
        latents = (jnp.broadcast_to(z[None], (16, 2)), jnp.broadcast_to(y[None], (16, 2)))
        trace = model.apply(made, EVERY_X, KEY, latents=latents)
        return jnp.exp(log_weight(trace) + trace.levels[0].log_q)  # p(x, y, z2), [X]

    values = jax.jit(jax.vmap(jax.vmap(density, (0, None)), (None, 0)))(nodes, EVERY_Y)  # [Y, Z, X]
    return area * np.asarray(values, np.float64).sum(1).T


def test_x_and_what_is_known_of_it_are_joint() -> None:
    """Over all x and all y, E w(x, y) sums to one: w is of the joint p(x, y), in which y need not be d(x)."""
    np.testing.assert_allclose(joint().sum(), 1.0, atol=1e-6)
    assert (joint() > 1e-4).all()


def agreement() -> float:
    """p(d(x) = y) by the sum over x of p(x, d(x))."""
    agree = (np.asarray(pairs(EVERY_X))[:, None] == np.asarray(EVERY_Y)[None]).all(-1)  # [X, Y]
    assert agree.sum() == len(EVERY_X)
    return float((joint() * agree).sum())


def test_a_known_level_scores_p_of_x_and_y() -> None:
    """Where y is known, the mean weight of x is p(x, y = d(x)), so that over all x they sum to p(d(x) = y), below 1."""
    model = Observed()
    made = variables(model)

    def total(key: jax.Array) -> jax.Array:
        trace = model.apply(made, EVERY_X, key)
        assert trace.levels[1].name == "y"
        return jnp.exp(log_weight(trace)).sum()

    totals = np.asarray(jax.jit(jax.vmap(total))(jax.random.split(KEY, 40_000)), np.float64)
    error = totals.std(ddof=1) / np.sqrt(len(totals))
    assert error < 0.005
    assert abs(totals.mean() - agreement()) < 4.5 * error
    assert agreement() < 0.9


def test_generated_x_agree_with_their_y_as_often() -> None:
    """Among 20,000 generated examples, d(x) = y is as frequent as p(d(x) = y)."""
    model, n = Observed(), 20_000
    made = variables(model)

    def generated(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_z, key_x = jax.random.split(key)
        trace = model.apply(made, key_z, n, method="decode")
        return trace.latents[1], trace.x_dist.sample(key_x)

    y, x = jax.jit(generated)(KEY)
    agree = np.asarray((pairs(x) == y).all(-1), np.float64)
    error = agree.std(ddof=1) / np.sqrt(n)
    assert abs(agree.mean() - agreement()) < 4.5 * error
