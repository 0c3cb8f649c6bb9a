"""Classes among the latents: information, accuracy under the best map to labels, samples of one class."""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import case, every, jitter
from support.toys import CategoricalTop

from hvae_jax.diagnostics import class_accuracy, class_levels, class_use, clustering_accuracy, of_class
from hvae_jax.likelihoods import Bernoulli
from hvae_jax.models import CaGeM

KEY = jax.random.key(0)
MODEL = CaGeM(clusters=3, latents=(2, 2), hidden=5, likelihood=Bernoulli())
X = every(2, 4)


@functools.cache
def made() -> Any:
    """Variables far from their initial values."""
    variables = jax.jit(MODEL.init)(jax.random.key(1), X, KEY)
    return {**variables, "params": jitter(variables["params"], scale=0.5)}


def test_information_of_a_class() -> None:
    """log K if x determines one of K equally frequent classes, 0 if it says nothing, and the sum in between."""
    sure, never = np.eye(4)[np.arange(8) % 4], np.full((8, 4), 0.25)
    assert class_use(sure).information == pytest.approx(math.log(4)) and class_use(sure).used == pytest.approx(4)
    assert class_use(sure).entropy == 0 and class_use(never).entropy == pytest.approx(math.log(4))
    assert class_use(never).information == pytest.approx(0, abs=1e-12)
    one = class_use(np.eye(4)[np.zeros(8, int)])
    assert one.used == pytest.approx(1) and one.information == 0
    q = np.random.default_rng(0).dirichlet(np.ones(5), 30)
    mean = q.mean(0)
    expected = -(mean * np.log(mean)).sum() + (q * np.log(q)).sum(1).mean()
    found = class_use(q)
    assert found.information == pytest.approx(expected) and 0 < found.error < expected
    assert found.used == pytest.approx(math.exp(-(mean * np.log(mean)).sum()))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_best_map_of_classes_to_labels(classes: int) -> None:
    """The assignment agrees with the best of all injective maps, tried one by one."""
    rng = np.random.default_rng(classes)
    q, y = rng.dirichlet(np.ones(classes), 60), rng.integers(0, 3, 60)
    found = q.argmax(1)
    most = max(classes, 3)
    best = max(np.mean(np.array(map_)[found] == y) for map_ in itertools.permutations(range(most), classes))
    assert clustering_accuracy(q, y).value == pytest.approx(best)
    assert class_accuracy(q, y).value == np.mean(found == y) <= best
    assert clustering_accuracy(q, y).chance == np.bincount(y).max() / 60


def test_renamed_classes_cluster_as_well() -> None:
    """Exchanged classes are wrong as labels, and right as clusters; one class cannot be two labels."""
    y = np.arange(9) % 3
    exchanged = np.eye(3)[(y + 1) % 3]
    assert class_accuracy(exchanged, y).value == 0 and clustering_accuracy(exchanged, y).value == 1
    merged = np.eye(3)[np.where(y == 2, 0, y)]
    assert clustering_accuracy(merged, y).value == pytest.approx(2 / 3)


def test_labels_that_are_missing() -> None:
    """And other numbers of examples; what is no [N, K]."""
    with pytest.raises(ValueError, match="A label is -1, so it is missing"):
        clustering_accuracy(np.eye(3), np.array([0, -1, 2]))
    with pytest.raises(ValueError, match="labels of as many examples"):
        class_accuracy(np.eye(3), np.arange(2))
    with pytest.raises(ValueError, match="1 example or more"):
        class_use(np.zeros((0, 3)))


def test_levels_of_classes() -> None:
    """By the prior's kind; none in a model of Gaussians."""
    assert class_levels(MODEL, made(), X) == (1,)
    row, toy = case("scanned"), CategoricalTop()
    assert class_levels(row.model, jax.eval_shape(row.model.init, KEY, row.x, KEY), row.x) == ()
    assert class_levels(toy, jax.eval_shape(toy.init, KEY, X, KEY), X) == (0,)


def test_samples_of_a_class() -> None:
    """z2 given y follows p(z2 | y): its mean is that of the prior's draws, weighed by p(y | z2); 4.5 errors."""
    variables, n = made(), 4000
    wanted = np.concatenate([np.full(n, 2), [0, 1, 2, 0]])
    z2, y = of_class(MODEL, variables, KEY, wanted)
    np.testing.assert_array_equal(y.argmax(-1), wanted)

    def prior(v: Any) -> tuple[jax.Array, jax.Array]:
        levels = MODEL.apply(v, KEY, 40_000, method="decode").levels
        return levels[0].z, levels[1].p.mean[:, 2:]

    drawn, weight = (np.asarray(a, np.float64) for a in jax.jit(prior)(variables))
    expected, found = (weight * drawn).sum(0) / weight.sum(), np.asarray(z2)[:n]
    error = found.std(0) * np.sqrt(1 / n + (weight**2).mean() / weight.mean() ** 2 / 40_000)
    assert (np.abs(found.mean(0) - expected) < 4.5 * error).all()
    assert np.abs(expected).max() > 4.5 * error.max()  # not those of the prior, which are 0
    x = jax.eval_shape(lambda v: MODEL.apply(v, KEY, 4, latents=(z2[-4:], y[-4:]), method="generate"), variables)
    assert x.shape == (4, 4)


def test_classes_that_cannot_be_sampled() -> None:
    """One that hardly comes up, one that does not exist, and a model without any."""
    variables = made()
    params = dict(variables["params"])
    params["py"] = jax.tree.map(jnp.zeros_like, params["py"])
    params["py"]["last"]["bias"] = jnp.array([0.0, 0.0, -50.0])
    with pytest.raises(ValueError, match=r"Class 2 came up too rarely in 200 draws.*raise candidates"):
        of_class(MODEL, {**variables, "params": params}, KEY, np.array([0, 2]), candidates=100, rounds=2)
    with pytest.raises(ValueError, match="each of them 0 to 2"):
        of_class(MODEL, variables, KEY, np.array([3]))
    with pytest.raises(ValueError, match="CategoricalTop has no class among its latents"):
        of_class(CategoricalTop(), {}, KEY, np.array([0]))
