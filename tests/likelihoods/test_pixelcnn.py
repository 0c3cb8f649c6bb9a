"""The PixelCNN head: its receptive field, sums of one, and sampling from its conditionals."""

import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support.cases import equations, jitter

from hvae_jax.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretisedLogistic,
    Gaussian,
    PixelCNN,
    PixelCNNRecord,
)
from hvae_jax.models import VAE
from hvae_jax.networks.pixelcnn import reaches

KEY = jax.random.key(0)


def record(family: PixelCNN, event: tuple[int, ...], batch: int = 2, seed: int = 0) -> PixelCNNRecord:
    """p(x | z) of a model with jittered parameters at a random context."""
    model = VAE(latents=2, hidden=4, likelihood=family)
    variables = jax.jit(model.init)(KEY, jnp.zeros((batch, *event)), KEY)
    weights = jitter(variables["params"]["pixelcnn"], seed, scale=0.1)
    context = np.random.default_rng(seed).normal(size=(batch, *event, family.context)).astype(np.float32)
    return PixelCNNRecord(jnp.asarray(context), weights, family)


def sees(p: tuple[int, ...], q: tuple[int, ...], field: float) -> bool:
    """Whether element p = (row, column, channel) depends on q, as the docstring says."""
    (i, j, c), (k, m, d) = p, q
    if field == 0:
        return False
    if (i, j) == (k, m):
        return d < c
    return (i - field <= k < i and abs(j - m) <= field) or (i == k and j - field <= m < j)


@pytest.mark.parametrize(
    ("event", "field", "layers"),
    [
        pytest.param((5, 6, 1), 0, 2, marks=pytest.mark.slow),
        pytest.param((5, 6, 1), 1, 1, marks=pytest.mark.slow),
        pytest.param((5, 6, 1), 1, 3, marks=pytest.mark.slow),
        pytest.param((5, 6, 1), 2, 3, marks=pytest.mark.slow),
        pytest.param((7, 5, 1), 3, 2, marks=pytest.mark.slow),
        pytest.param((5, 6, 1), None, 2, marks=pytest.mark.slow),
        pytest.param((5, 6, 1), 50, 2, marks=pytest.mark.slow),
        pytest.param((3, 4, 3), 0, 2, marks=pytest.mark.slow),
        pytest.param((3, 4, 3), 1, 2, marks=pytest.mark.slow),
        pytest.param((3, 4, 2), None, 3, marks=pytest.mark.slow),
        pytest.param((6,), None, 2, marks=pytest.mark.slow),
        ((6,), 2, 2),
        pytest.param((4, 3), 2, 2, marks=pytest.mark.slow),
        pytest.param((1, 1, 3), None, 1, marks=pytest.mark.slow),
    ],
)
def test_an_element_sees_the_field_and_nothing_else(event: tuple[int, ...], field: int | None, layers: int) -> None:
    """The Jacobian is 0 outside the field; inside, each entry is nonzero for some of thirty weights and inputs."""
    family = PixelCNN(Gaussian(), receptive_field=field, layers=layers, width=4, context=3)
    jacobian = jax.jit(lambda one, x: jax.jacobian(lambda x: one.conditionals(x[None]).normal.mean[0])(x))
    inputs = np.random.default_rng(1).normal(size=(10, *event)).astype(np.float32)
    size = int(np.prod(event))
    moved = np.zeros((size, size), bool)
    for seed in range(3):
        one = record(family, event, batch=1, seed=seed)
        for x in inputs:
            moved |= np.asarray(jacobian(one, x)).reshape(size, size) != 0.0
    shape = {1: (1, *event, 1), 2: (*event, 1), 3: event}[len(event)]
    places = list(itertools.product(*map(range, shape)))
    reach = np.inf if field is None else field
    expected = np.array([[sees(p, q, reach) for q in places] for p in places])
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize(
    ("base", "event", "field", "layers"),
    [
        pytest.param(Bernoulli(), (4, 5, 1), None, 3, marks=pytest.mark.slow),
        pytest.param(Bernoulli(), (4, 5, 1), 1, 2, marks=pytest.mark.slow),
        pytest.param(Categorical(3), (3, 4, 3), 2, 2, marks=pytest.mark.slow),
        pytest.param(Categorical(4), (7,), None, 2, marks=pytest.mark.slow),
        pytest.param(Gaussian(), (4, 3), 3, 5, marks=pytest.mark.slow),
        pytest.param(Bernoulli(), (1, 1, 3), None, 2, marks=pytest.mark.slow),
    ],
)
def test_pixel_by_pixel_is_the_pass(base: Any, event: tuple[int, ...], field: int | None, layers: int) -> None:
    """Each element of the mode is the mode given those before it, and draws follow the same conditionals."""
    one = record(PixelCNN(base, receptive_field=field, layers=layers, width=6), event)
    mode = jax.jit(lambda one: one.mode)(one)
    assert mode.shape == (2, *event)
    chex.assert_trees_all_close(mode, one.conditionals(mode).mode, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(one.mean, one.conditionals(mode).mean)

    drawn = jax.jit(lambda one: one.sample(KEY))(one)
    again = one.conditionals(drawn)
    size = int(np.prod(event))
    channels = 1 if len(event) < 3 else event[2]
    assert channels * (size // channels) == size
    flat = jax.tree.map(lambda leaf: leaf.reshape(2, size, *leaf.shape[1 + len(event) :]), again)
    for i in range(size):
        here = jax.tree.map(lambda leaf, i=i: leaf[:, i : i + 1], flat)
        expected = here.sample(jax.random.fold_in(KEY, i))[:, 0]
        chex.assert_trees_all_close(drawn.reshape(2, size)[:, i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_probabilities_sum_to_one() -> None:
    """Over all 4,096 images of twelve bits, for each receptive field."""
    images = jnp.asarray(list(itertools.product((0, 1), repeat=12)), jnp.uint8).reshape(-1, 2, 3, 2)
    for field in (0, 1, None):
        one = record(PixelCNN(receptive_field=field, layers=2, width=5), (2, 3, 2), batch=1)
        same = jax.tree.map(lambda leaf: leaf, one)
        same = same.replace(context=jnp.broadcast_to(one.context, (len(images), *one.context.shape[1:])))
        total = np.exp(np.asarray(same.log_prob(images), np.float64)).sum()
        assert total == pytest.approx(1.0, abs=1e-4), field


@pytest.mark.slow
def test_samples_follow_the_density() -> None:
    """Counts of all 16 images of four bits, by a chi-squared test at one in a million."""
    from scipy import stats

    n = 20_000
    one = record(PixelCNN(layers=2, width=5), (2, 2, 1), batch=1)
    many = one.replace(context=jnp.broadcast_to(one.context, (n, 2, 2, 1, 4)))
    drawn = np.asarray(jax.jit(lambda r: r.sample(KEY))(many)).reshape(n, 4)
    counts = np.bincount(drawn @ (8, 4, 2, 1), minlength=16)
    images = jnp.asarray(list(itertools.product((0, 1), repeat=4)), jnp.uint8).reshape(16, 2, 2, 1)
    every = one.replace(context=jnp.broadcast_to(one.context, (16, 2, 2, 1, 4)))
    probabilities = np.exp(np.asarray(every.log_prob(images), np.float64))
    assert stats.chisquare(counts, n * probabilities / probabilities.sum()).pvalue > 1e-6
    assert counts.std() > 3 * np.sqrt(n / 16)  # they are not all alike


@pytest.mark.slow
def test_without_a_field_it_is_the_base_alone() -> None:
    """Elements are independent: densities, means, modes and draws are those of the base with the same parameters."""
    one = record(PixelCNN(Categorical(3), receptive_field=0, layers=2), (2, 3, 2))
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (2, 2, 3, 2)), jnp.uint8)
    base = one.conditionals(jnp.zeros_like(x))
    chex.assert_trees_all_close(one.log_prob(x), base.log_prob(x))
    chex.assert_trees_all_equal(one.sample(KEY), base.sample(KEY))
    chex.assert_trees_all_equal((one.mean, one.mode), (base.mean, base.mode))


def most_in_a_pixel(rows: int, columns: int) -> tuple[int, int]:
    """Size of the largest array in the inner loop of sampling, and number of inputs of its matrix products."""
    one = record(PixelCNN(receptive_field=2, layers=2, width=6), (rows, columns, 1))
    scans = [e for e in equations(jax.make_jaxpr(lambda one: one.sample(KEY))(one)) if e.primitive.name == "scan"]
    assert [scan.params["length"] for scan in scans[:2]] == [rows, columns]
    inside = [out.aval.size for e in equations(scans[1].params["jaxpr"]) for out in e.outvars]
    return max(inside), sum(inside)


@pytest.mark.slow
def test_a_pixel_costs_the_same_in_any_image() -> None:
    """The cost of a pixel does not grow with the image."""
    assert most_in_a_pixel(4, 6) == most_in_a_pixel(12, 18)


def test_no_key_is_made_in_the_loop() -> None:
    """Samples and what fills an image: keys of all elements are made before it, not one for each in turn."""
    one, x = record(PixelCNN(Bernoulli(), 1, 1, 4, 3), (4, 3, 1)), jnp.zeros((2, 4, 3, 1), jnp.uint8)
    for draw in (one.sample, lambda key: one.fill(x, x > 0, key)):
        made = equations(jax.make_jaxpr(draw)(KEY))
        (loop,) = (
            equation for equation in made if equation.primitive.name == "scan" and equation.params["length"] == 4
        )
        inside = {equation.primitive.name for equation in equations(loop.params["jaxpr"])}
        assert "random_bits" in inside and "random_fold_in" not in inside


def test_reaches() -> None:
    """The layers' reaches add up to the whole one."""
    assert reaches(7, 3) == (3, 2, 2)
    assert reaches(1, 3) == (1, 0, 0)
    assert all(sum(reaches(total, layers)) == total for total in range(9) for layers in range(1, 6))


def test_gradients_reach_the_weights_and_the_latents() -> None:
    """Every parameter of a model has a gradient."""
    model = VAE(latents=2, hidden=4, likelihood=PixelCNN(Categorical(3), layers=2, width=4))
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (4, 3, 4, 2)), jnp.uint8)
    variables = jax.jit(model.init)(KEY, x, KEY)

    @jax.jit
    def gradient(params: Any) -> Any:
        return jax.grad(lambda params: model.apply({"params": params}, x, KEY).log_px.sum())(params)

    found = gradient(jitter(variables["params"]))
    silent = [jax.tree_util.keystr(path) for path, g in jax.tree.leaves_with_path(found) if not np.any(np.asarray(g))]
    assert not silent


def test_a_model_generates_and_reconstructs() -> None:
    """Generated values are allowed by the likelihood and have the shape of the data."""
    model = VAE(latents=2, hidden=4, likelihood=PixelCNN(Categorical(3), layers=2, width=4))
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (4, 3, 4, 2)), jnp.uint8)
    variables = jax.jit(model.init)(KEY, x, KEY)
    drawn = jax.jit(lambda v: model.apply(v, KEY, 5, method="generate"))(variables)
    model.likelihood.check(np.asarray(drawn))
    assert drawn.shape == (5, 3, 4, 2)
    mean: Array = jax.jit(lambda v: model.apply(v, x, KEY, method="reconstruct"))(variables)
    assert mean.shape == x.shape and (mean >= 0).all() and (mean <= 2).all()


def test_settings_that_are_refused() -> None:
    """Errors say what is wrong."""
    for wrong, said in (
        ({"receptive_field": -1}, r"receptive_field=-1\): it has to be 0 or more"),
        ({"layers": 0}, r"layers=0, .*every size has to be"),
        ({"base": PixelCNN()}, "of one element alone"),
        ({"base": DiscretisedLogistic(4, "global")}, "a global scale is a parameter .*; take scale='element'"),
    ):
        with pytest.raises(ValueError, match=said):
            PixelCNN(**wrong)
    with pytest.raises(ValueError, match=r"one x has shape \(2, 2, 2, 2\)"):
        record(PixelCNN(), (2, 2, 2, 2))
    with pytest.raises(ValueError, match=r"Categorical\(3\) allows"):
        PixelCNN(Categorical(3)).check(np.array([4]))
