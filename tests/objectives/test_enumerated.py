"""The exact sum over classes: closed sums of toys, labelled, unlabelled and mixed batches, and what is refused."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import every, jitter
from support.toys import CategoricalTop, Scanned

from hvae_jax.likelihoods import Bernoulli
from hvae_jax.models import HVAE, CaGeM
from hvae_jax.objectives import Batch, Enumerated, Linear, elbo, enumerate_classes

KEY = jax.random.key(0)
STEP = jnp.int32(5)
X = every(2, 4)  # [16, 4]
MODEL = CaGeM(clusters=3, latents=(2, 2), hidden=5, likelihood=Bernoulli())
TOP = CategoricalTop(3, size=0)
Y = jnp.asarray(np.arange(16) % 4 - 1)  # a quarter has no label


@functools.cache
def variables(model: HVAE) -> Any:
    """Moved far from the initial values."""
    made = jax.jit(model.init)(jax.random.key(1), X, KEY)
    return {**made, "params": jitter(made["params"], scale=0.4)}


def forward_of(model: HVAE) -> Any:
    """The forward pass that an objective gets, in evaluation mode."""

    def forward(variables: Any, x: Any, key: Any, **choices: Any) -> Any:
        return model.apply(variables, x, key, **choices), {}

    return forward


@functools.cache
def loss_of(objective: Enumerated) -> Any:
    """The compiled loss and metrics of all x, as a function of the labels."""
    made = variables(MODEL)
    return jax.jit(lambda y: objective(forward_of(MODEL), made, Batch(X, y), KEY, STEP, ())[:2])


@functools.cache
def summed() -> Any:
    """The classes of all x."""
    return jax.jit(lambda v: enumerate_classes(forward_of(MODEL), v, X, KEY)[0])(variables(MODEL))


def by_hand(params: Any, y: jax.Array) -> jax.Array:
    """Mean bound of the toy with a class at the top alone: q, p(c) and p(x | c) from its traces, summed."""
    bounds, log_q = [], []
    for c in range(3):
        given = jnp.broadcast_to(jax.nn.one_hot(c, 3)[None], (16, 3))
        trace = TOP.apply({"params": params}, X, KEY, latents=(given,))
        bounds.append(trace.log_px + trace.levels[0].log_p)  # log p(x, c)
        log_q.append(trace.levels[0].log_q)
    joint, log_q = jnp.stack(bounds), jnp.stack(log_q)
    whole = (jnp.exp(log_q) * (joint - log_q)).sum(0)
    return jnp.where(y < 0, whole, jnp.take_along_axis(joint, jnp.maximum(y, 0)[None], 0)[0]).mean()


def test_a_toy_with_nothing_but_a_class() -> None:
    """S(x, c) is log p(x, c), so that U(x) is the exact ELBO, `marginal` is log p(x), and gradients are exact."""
    params, objective = variables(TOP)["params"], Enumerated(alpha=0.0, level="c")

    def loss(params: Any, y: jax.Array | None) -> tuple[jax.Array, Any]:
        return objective(forward_of(TOP), {"params": params}, Batch(X, y), KEY, STEP, ())[:2]

    got = jax.jit(jax.value_and_grad(lambda p, y: loss(p, y)[0]))
    expected = jax.jit(jax.value_and_grad(lambda p, y: -by_hand(p, y)))
    for y in (Y, jnp.full(16, -1)):
        (value, slope), (other, other_slope) = got(params, y), expected(params, y)
        np.testing.assert_allclose(value, other, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), slope, other_slope)
    # without labels; the log of the sum over classes is log p(x), which sums to one over all x
    without, metrics = jax.jit(lambda p: loss(p, None))(params)
    np.testing.assert_allclose(without, value, rtol=1e-6)
    assert metrics["labelled"] == 0 and metrics["class_log_q"] == 0
    found = jax.jit(lambda v: enumerate_classes(forward_of(TOP), v, X, KEY, "c")[0])(variables(TOP))
    np.testing.assert_allclose(np.exp(found.marginal).sum(), 1.0, rtol=1e-5)
    assert (found.marginal > found.elbo() + 1e-4).all()


def test_unsupervised_is_supervised_summed_over_classes() -> None:
    """U(x) = sum_c q(c | x) S(x, c) + H(q), and e^marginal = sum_c e^S(x, c), with S from batches with that label."""
    found, made = summed(), variables(MODEL)

    def labelled(c: jax.Array) -> tuple[jax.Array, jax.Array]:
        trace = MODEL.apply(made, X, KEY, y=jnp.full(16, c))
        return elbo(trace), trace.levels[1].q.inferred.mean[:, c]

    joint, q = jax.jit(jax.vmap(labelled))(jnp.arange(3))
    np.testing.assert_allclose(found.joint(), joint, rtol=1e-4)
    np.testing.assert_allclose(found.marginal, np.log(np.exp(joint).sum(0)), rtol=1e-4)
    np.testing.assert_allclose(found.elbo(), (q * joint).sum(0) - (q * np.log(q)).sum(0), rtol=1e-4)
    assert (found.marginal >= found.elbo()).all()


@pytest.mark.slow
def test_the_sum_is_the_mean_over_samples() -> None:
    """By 20,000 draws of all latents, within 4.5 standard errors; the sum varies less than a sample of y."""
    made = variables(MODEL)

    def both(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        sampled = elbo(MODEL.apply(made, X, key))
        return sampled, enumerate_classes(forward_of(MODEL), made, X, key)[0].elbo()

    sampled, summed = (np.asarray(a, np.float64) for a in jax.jit(jax.vmap(both))(jax.random.split(KEY, 20_000)))
    gap = sampled - summed
    assert (np.abs(gap.mean(0)) < 4.5 * gap.std(0, ddof=1) / np.sqrt(len(gap))).all()
    assert (summed.var(0) < sampled.var(0)).all()


def test_labelled_unlabelled_and_mixed_batches() -> None:
    """The loss is the mean of S and U, less alpha times the labelled ones' mean of log q(y | x); metrics are of U."""
    found, rows = summed(), np.arange(16)
    for y in (Y, jnp.maximum(Y, 0), jnp.full(16, -1)):
        loss, metrics = loss_of(Enumerated(alpha=0.7))(y)
        known, label = np.asarray(y) >= 0, np.maximum(y, 0)
        bound = np.where(known, np.asarray(found.joint())[label, rows], found.elbo())
        log_q = np.asarray(found.log_q)[label, rows][known].mean() if known.any() else 0.0
        np.testing.assert_allclose(loss, -bound.mean() - 0.7 * log_q, rtol=1e-5)
        np.testing.assert_allclose(metrics["class_log_q"], log_q, rtol=1e-4)
        np.testing.assert_allclose(metrics["labelled"], known.mean())
        np.testing.assert_allclose(metrics["elbo"], found.elbo().mean(), rtol=1e-5)
        np.testing.assert_allclose(metrics["elbo"], metrics["log_px"] - metrics["rates"].sum(), rtol=1e-5)
        assert metrics["rates"].shape == (3,)


def test_warm_up_weighs_all_rates() -> None:
    """At one half the loss lies midway between -log p(x | z), at 0, and the bound, at 1."""
    made = variables(TOP)

    @jax.jit
    def both(made: Any) -> list[Any]:
        objectives = Enumerated(0.0, level="c"), Enumerated(0.0, Linear(0, 10), level="c")
        return [one(forward_of(TOP), made, Batch(X), KEY, STEP, ())[:2] for one in objectives]

    (whole, metrics), (half, _) = both(made)
    np.testing.assert_allclose(half, 0.5 * (whole - metrics["log_px"]), rtol=1e-5)


def test_what_is_refused() -> None:
    """No such level, a level that is no class, too many classes, a negative weight."""
    for model, level, said in (
        (MODEL, "x", "no such level; it has z2, y, z1"),
        (MODEL, "z1", "only a level of one class an example.*p of 'z1' is a Normal"),
        (Scanned(), "run.0", "it is one of a scanned run"),
        (CategoricalTop(1001, size=0), "c", r"1,001 times a step.*at most 1,000 are enumerated.*NegativeELBO"),
    ):
        made = jax.eval_shape(model.init, KEY, X, KEY)
        with pytest.raises(ValueError, match=said):
            jax.eval_shape(lambda v, m=model, at=level: enumerate_classes(forward_of(m), v, X, KEY, at)[0], made)
    with pytest.raises(ValueError, match=r"Enumerated\(alpha=-1"):
        Enumerated(alpha=-1.0)
