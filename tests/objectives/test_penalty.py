"""Penalties: covariances and entropies against NumPy, a function of one's own, and what is refused."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.hand_made import VARIABLES, call

from hvae_jax.distributions import BernoulliLatent, Known, Normal, OneHotCategorical
from hvae_jax.likelihoods.gaussian import GaussianRecord
from hvae_jax.objectives import Constant, Covariance, Decorrelated, ImportanceWeighted, NegativeELBO, Penalty
from hvae_jax.trace import Level, Trace

RNG = np.random.default_rng(0)
B = 7
MEANS = RNG.normal(size=(B, 2, 2))  # of a map of four units
CLASSES = RNG.normal(size=(B, 2, 3))  # logits of two variables of three classes
BITS = RNG.normal(size=(B, 3))


def level(name: str, q: Any, p: Any = None, flow: bool = False) -> Level:
    """A level with nothing in it but its records."""
    none = jnp.zeros(B)
    return Level(jnp.zeros_like(q.mean), q, q if p is None else p, none, none, none, name, flow=flow)


def trace(*levels: Level) -> Trace:
    return Trace(jnp.zeros(B), levels, GaussianRecord(Normal(jnp.zeros(B), jnp.zeros(B))))


MAP = level("z3", Normal(jnp.asarray(MEANS, jnp.float32), jnp.zeros(MEANS.shape)))
CLASS = level("c", OneHotCategorical(jnp.asarray(CLASSES, jnp.float32)))
BIT = level("b", BernoulliLatent(jnp.asarray(BITS, jnp.float32)))
KNOWN = level("y", Known(jnp.ones((B, 2))), BernoulliLatent(jnp.zeros((B, 2))))
FLOW = level("f", Normal(jnp.zeros((B, 2)), jnp.zeros((B, 2))), flow=True)


def covariances(m: np.ndarray, skip: int = 1) -> float:
    """sum_{i != j} C_ij^2 by loops; pairs within `skip` neighbours of one variable left out."""
    c, total = np.cov(m.reshape(B, -1), rowvar=False, bias=True), 0.0
    for i in range(len(c)):
        for j in range(len(c)):
            total += 0.0 if i // skip == j // skip else c[i, j] ** 2
    return total


def softmax(a: np.ndarray) -> np.ndarray:
    return np.exp(a) / np.exp(a).sum(-1, keepdims=True)


def test_covariances() -> None:
    """Of every level, of one by its name; bits and classes by their probabilities."""
    probabilities, ones = softmax(CLASSES), 1.0 / (1.0 + np.exp(-BITS))
    parts = {"z3": covariances(MEANS), "c": covariances(probabilities, 3), "b": covariances(ones)}
    every = trace(MAP, CLASS, BIT, KNOWN)
    got = jax.jit(lambda t: [Covariance()(t), *(Covariance((name,))(t) for name in parts)])(every)
    np.testing.assert_allclose(got, [sum(parts.values()), *parts.values()], rtol=1e-5)


def test_entropies() -> None:
    """Of the mean probabilities over the batch; real levels have none."""
    probabilities, ones = softmax(CLASSES).mean(0), (1.0 / (1.0 + np.exp(-BITS))).mean(0)
    entropy = -(probabilities * np.log(probabilities)).sum()
    entropy -= (ones * np.log(ones) + (1 - ones) * np.log(1 - ones)).sum()
    every = trace(MAP, CLASS, BIT)
    gap = jax.jit(lambda t: Covariance()(t) - Covariance(entropy=0.5)(t))(every)
    np.testing.assert_allclose(gap, 0.5 * entropy, rtol=1e-5)
    sure = level("b", BernoulliLatent(jnp.full((B, 3), -1e4)))
    slope_of = jax.jit(jax.value_and_grad(lambda q: Covariance(entropy=1.0)(trace(sure.replace(q=q)))))
    value, slope = slope_of(sure.q)
    assert value == 0.0 and np.isfinite(slope.logits).all()


def test_a_scanned_run_is_its_latents() -> None:
    """Names of a run's latents choose among them."""
    m = RNG.normal(size=(2, B, 3))
    q, none = Normal(jnp.asarray(m, jnp.float32), jnp.zeros(m.shape)), jnp.zeros((2, B))
    run = trace(Level(jnp.zeros(m.shape), q, q, jnp.zeros(m.shape), none, none, "run", stacked=True))
    np.testing.assert_allclose(Covariance(("run.1",))(run), covariances(m[1]), rtol=1e-5)
    np.testing.assert_allclose(Covariance()(run), covariances(m[0]) + covariances(m[1]), rtol=1e-5)


def test_decorrelated_is_a_penalty() -> None:
    """The loss is the base's and w times the value; the base's own metrics stay."""
    base = NegativeELBO()
    plain, its_metrics, *_ = call(base)
    loss, metrics, *_ = call(Penalty(base, Scaled(3.0), Constant(0.5)))
    np.testing.assert_allclose(loss, plain + 0.5 * 3.0 * 4, rtol=1e-6)
    assert metrics["scaled"] == 12.0 and metrics["scaled_weight"] == 0.5
    assert all(np.array_equal(metrics[name], value) for name, value in its_metrics.items())
    one = call(Decorrelated(base, Constant(0.5), ("top",)))
    other = call(Penalty(base, Covariance(("top",)), Constant(0.5)))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_base_with_passes_of_its_own() -> None:
    """Of several draws none is the trace: a further pass has it, with the same key."""
    loss, metrics, *_ = call(Penalty(ImportanceWeighted(2), Scaled(1.0), Constant(2.0)))
    np.testing.assert_allclose(loss, call(ImportanceWeighted(2))[0] + 8.0, rtol=1e-6)
    assert metrics["scaled"] == 4.0


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A factor times the number of examples, 4; as it is called, or of each example."""

    factor: float = 1.0
    called: str = "scaled"
    each: bool = False

    def name(self) -> str:
        """As it is called."""
        return self.called

    def __call__(self, trace: Trace) -> jax.Array:
        """A constant."""
        ones = jnp.full(trace.levels[0].log_q.shape, self.factor)
        return ones if self.each else ones.sum()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (Scaled(each=True), r"has to be one number, but has shape \(4,\)"),
        (Scaled(called="elbo"), "is named 'elbo', as one of the base's metrics"),
        (Covariance(("z9",)), "the model has no level 'z9'; it has top, map.0, map.1"),
        (Covariance(entropy=1.0), "none of top, map.0, map.1 is discrete"),
    ],
)
def test_functions_that_do_not_fit(function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(Penalty(function=function), variables=VARIABLES)


@pytest.mark.parametrize(
    ("chosen", "levels", "message"),
    [
        (("y",), (MAP, KNOWN), "level 'y' has no density of its own, it is a function of x"),
        ((), (KNOWN,), "every level is a function of x: y"),
        ((), (MAP, FLOW), "posterior of level 'f' is a flow, whose mean has no closed form"),
        ((), (level("z", Normal(jnp.zeros((B, 5000)), jnp.zeros((B, 5000)))),), "level 'z' has 5,000 units"),
    ],
)
def test_levels_that_are_not_served(chosen: Any, levels: Any, message: str) -> None:
    """The error names the level."""
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: Covariance(chosen)(trace(*levels)))


def test_bad_settings() -> None:
    for make in (Covariance, Decorrelated):
        with pytest.raises(ValueError, match=r"entropy=-1.0.* 0 or more"):
            make(entropy=-1.0)
