"""Consistency: the term against closed forms of a two-level toy, flows, known levels, passes, state and errors."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import integers
from support.toys import Flow, Observed, Scanned

from hvae_jax.data import Dataset, Split
from hvae_jax.data.dataset import integer
from hvae_jax.distributions import Normal, sum_event
from hvae_jax.experiment.checks import check_objective
from hvae_jax.likelihoods import Categorical
from hvae_jax.likelihoods.gaussian import GaussianRecord
from hvae_jax.models import LinearVAE, TopDownVAE
from hvae_jax.objectives import (
    GECO,
    Augmentation,
    Batch,
    Brightness,
    Consistency,
    Constant,
    Decorrelated,
    Distortion,
    ImportanceWeighted,
    NegativeELBO,
    Objective,
    SpectralRegularised,
)
from hvae_jax.objectives.consistency import divergences
from hvae_jax.trace import Level, Trace

KEY = jax.random.key(0)
STEP = jnp.int32(0)
X = np.random.default_rng(0).normal(size=(6, 1)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Plus(Augmentation):
    """x~ = x + by."""

    by: float = 0.5

    def __call__(self, x: Any, key: Any) -> Any:
        """The sum."""
        return x + self.by


def level(name: str, q: Normal, key: Any, given: Any) -> Level:
    """A level with prior N(0, 1)."""
    z, p = q.sample(key) if given is None else given, Normal.standard(q.mean.shape)
    log_q, log_p = sum_event(q.log_prob(z)), sum_event(p.log_prob(z))
    return Level(z, q, p, log_q - log_p, log_q, log_p, name)


def toy(variables: Any, x: Any, key: Any, *, y: Any = None, latents: Any = (None, None)) -> Any:
    """q(z2 | x) = N(a x, e^{2 d x}), q(z1 | z2, x) = N(b x + c z2^2, s^2)."""
    top = level("z2", Normal(variables["a"] * x, variables["d"] * x), key, latents[0])
    mean = variables["b"] * x + variables["c"] * top.z**2
    bottom = level("z1", Normal(mean, jnp.full_like(mean, jnp.log(variables["s"]))), key, latents[1])
    return Trace(-sum_event((x - bottom.z) ** 2), (top, bottom), GaussianRecord(Normal(bottom.z, bottom.z))), {}


TOY = {"a": 0.8, "b": -0.6, "c": 0.3, "d": 0.4, "s": 0.5}


def test_the_term_of_a_two_level_toy() -> None:
    """By hand: at z1 only b x differs, since z2 is the same; the levels' weights and the loss are as written."""
    by = 0.5
    objective = Consistency(NegativeELBO(), (Plus(by),), Constant((0.5, 2.0)))
    loss, metrics, *_ = objective(toy, TOY, Batch(jnp.asarray(X)), KEY, STEP, ())
    std, other_std = np.exp(TOY["d"] * (X + by)), np.exp(TOY["d"] * X)
    squares = (std**2 + (TOY["a"] * by) ** 2) / other_std**2
    c2 = (0.5 * (squares - 1.0) - np.log(std / other_std)).mean()
    c1 = (TOY["b"] * by) ** 2 / (2.0 * TOY["s"] ** 2)
    np.testing.assert_allclose([metrics["consistency/z2"], metrics["consistency/z1"]], [c2, c1], rtol=1e-5)
    np.testing.assert_allclose(metrics["consistency"], c2 + c1, rtol=1e-5)
    bare = -(metrics["elbo"] + metrics["augmented_elbo"])
    np.testing.assert_allclose(loss, bare + 0.5 * c2 + 2.0 * c1, rtol=1e-5)
    assert metrics["consistency_weight/z1"] == 2.0


MODEL = TopDownVAE((2, 3), hidden=4, likelihood=Categorical(3))
IMAGES = integers(3, 4, 4, 1)


@functools.cache
def variables(model: Any) -> Any:
    return jax.jit(model.init)(KEY, IMAGES, KEY)


def forward_of(model: Any, calls: list[Any] | None = None) -> Any:
    """The forward pass in training mode, which counts its calls."""

    def forward(variables: Any, x: Any, key: Any, **choices: Any) -> Any:
        if calls is not None:
            calls.append(x)
        return model.apply(variables, x, key, train=True, mutable=["batch_stats"], **choices)

    return forward


def call(objective: Objective, model: Any = MODEL, calls: list[Any] | None = None) -> Any:
    """(loss, metrics, state, updates) of a batch of images."""
    made = variables(model)
    state, forward = objective.init(made), forward_of(model, calls)
    return jax.jit(lambda v: objective(forward, v, Batch(IMAGES), KEY, STEP, state))(made)


@pytest.mark.slow
def test_equal_images_have_equal_posteriors() -> None:
    """Without a change the term is 0 to the bit, in training mode; with one it is not."""
    assert call(Consistency(augment=()))[1]["consistency"] == 0.0
    assert call(Consistency())[1]["consistency"] > 1e-4


def test_x_is_left_alone() -> None:
    """Metrics, statistics and state are the base's at x without the term; a plain base costs three passes."""
    base, calls = GECO((Distortion(0.5),)), []
    expected, got = call(base), call(Consistency(base), calls=calls)
    for one, other in zip(expected[1:], got[1:], strict=True):
        other = {name: other[name] for name in one} if isinstance(one, dict) else other
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, other)
    assert len(calls) == 3
    calls.clear()
    jax.eval_shape(
        lambda v: Consistency(ImportanceWeighted(2))(forward_of(MODEL, calls), v, Batch(IMAGES), KEY, STEP, ()),
        variables(MODEL),
    )
    assert len(calls) == 4  # each of the base's two is under a vmap


def test_a_flow_is_a_log_ratio() -> None:
    """Not the KL of the bases, which the flow's own dependence on x would be missing from."""
    model, x = Flow(), integers(2, 4)
    made = jax.jit(model.init)(KEY, x, KEY)

    @jax.jit
    def both(v: Any) -> Any:
        one = model.apply(v, x, KEY)
        other = model.apply(v, 1 - x, KEY, latents=one.latents)
        return divergences(one, other), one.levels[0].log_q - other.levels[0].log_q, one.levels[0].flow

    got, expected, flow = both(made)
    assert flow is True or bool(flow)
    np.testing.assert_allclose(got[0], expected, rtol=1e-6)
    assert float(jnp.abs(got).max()) > 1e-3


@pytest.mark.parametrize("model", [Scanned(blocks=2), Observed()], ids=lambda model: type(model).__name__)
def test_runs_and_known_levels(model: Any) -> None:
    """A scanned run has one number a latent; a level that is a function of x has none to add."""
    x, objective = integers(2, 4), Consistency(augment=(FirstPixel(),), weight=Constant(1.0))

    def forward(v: Any, x: Any, key: Any, **choices: Any) -> Any:
        return model.apply(v, x, key, **choices), {}

    made = jax.jit(model.init)(KEY, x, KEY)
    _, metrics, *_ = jax.jit(lambda v: objective(forward, v, Batch(x), KEY, STEP, ()))(made)
    names = jax.eval_shape(lambda v: model.apply(v, x, KEY), made).names
    values = {name: float(metrics[f"consistency/{name}"]) for name in names}
    assert all((value == 0.0) == (name == "y") for name, value in values.items()), values


@dataclasses.dataclass(frozen=True)
class FirstPixel(Augmentation):
    """The first of several binary pixels changed."""

    def __call__(self, x: Any, key: Any) -> Any:
        """1 - x there."""
        return x.at[:, 0].set(1 - x[:, 0])


def test_levels_without_a_density() -> None:
    """The error names the level; a model without latents has nothing to compare."""
    found, _ = toy(TOY, jnp.asarray(X), KEY)
    bad = found.replace(levels=(found.levels[0], found.levels[1].replace(q=X)))
    with pytest.raises(ValueError, match=r"level 'z1' has no density of its own: its q is a ndarray"):
        divergences(bad, bad)
    model, x = Observed(), integers(2, 4)
    trace = jax.eval_shape(lambda: model.apply(model.init(KEY, x, KEY), x, KEY))
    known = [one for one in trace.levels if type(one.q).__name__ == "Known"]
    with pytest.raises(ValueError, match=rf"every level of this model is a function of x: {known[0].name}"):
        divergences(trace.replace(levels=tuple(known)), trace.replace(levels=tuple(known)))
    with pytest.raises(ValueError, match="weight has 3 values, but the model has 2 levels"):
        jax.eval_shape(
            lambda v: Consistency(weight=Constant((1.0, 1.0, 1.0)))(forward_of(MODEL), v, Batch(IMAGES), KEY, STEP, ()),
            variables(MODEL),
        )


def test_values_are_checked_before_training() -> None:
    """Through wrappers too: an experiment's data is changed and shown to the likelihood."""
    split = Split(np.asarray(IMAGES))
    dataset = Dataset("made", {"train": split, "validation": split}, integer(3), "by hand")
    good, bad = (Consistency(augment=(Brightness(1.0, high=high),)) for high in (2.0, 255.0))
    check_objective(MODEL, good, dataset)
    check_objective(LinearVAE(), bad, dataset)  # whose Gaussian allows all numbers
    for objective in (bad, Decorrelated(bad), SpectralRegularised(bad), Consistency(bad, ())):
        with pytest.raises(ValueError, match=r"Brightness.* leaves the values that the model allows: .*0..2 only"):
            check_objective(MODEL, objective, dataset)
