"""CaGeM: probabilities that sum to one over x, y and z; labels of a batch; which network reads what."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import every, jitter

from hvae_jax.likelihoods import Bernoulli
from hvae_jax.models import CaGeM
from hvae_jax.objectives import elbo, log_weight

KEY = jax.random.key(0)
CLASSES = 3
EVERY_X = every(2, 3)  # [8, 3]
MODEL = CaGeM(clusters=CLASSES, latents=(1, 1), hidden=4, likelihood=Bernoulli())


@functools.cache
def variables() -> Any:
    """Moved far from the initial values, so that y, z1 and z2 all matter."""
    made = jax.jit(MODEL.init)(jax.random.key(1), EVERY_X, KEY)
    return {**made, "params": jitter(made["params"], scale=0.4)}


def one_hot(c: Any) -> jax.Array:
    """The class c for every x."""
    return jnp.broadcast_to(jax.nn.one_hot(c, CLASSES)[None], (len(EVERY_X), CLASSES))


def total(levels: Any, name: str) -> jax.Array:
    """The sum over the levels of log_q or log_p, `[X]`."""
    return sum((getattr(level, name) for level in levels), jnp.zeros(len(EVERY_X)))


@functools.cache
def densities() -> dict[str, np.ndarray]:
    """p(x, y, z) twice, with y given and with y as the label, and q(y, z | x): `[Y, Z, X]` on a grid of (z2, z1).

    Each is multiplied by the area of a cell.
    """
    line = np.linspace(-9.0, 9.0, 61)
    nodes = jnp.asarray(np.stack(np.meshgrid(line, line), -1).reshape(-1, 2), jnp.float32)
    made = variables()

    def at(c: jax.Array, z: jax.Array) -> dict[str, jax.Array]:
        z2, z1 = (jnp.full((len(EVERY_X), 1), value) for value in z)
        given = MODEL.apply(made, EVERY_X, KEY, latents=(z2, one_hot(c), z1))
        labelled = MODEL.apply(made, EVERY_X, KEY, y=jnp.full(len(EVERY_X), c), latents=(z2, None, z1))
        log_q = total(given.levels, "log_q")
        of_label = log_weight(labelled) + total(labelled.levels, "log_q")
        return {"given": log_weight(given) + log_q, "labelled": of_label, "q": log_q}

    found = jax.jit(jax.vmap(jax.vmap(at, (None, 0)), (0, None)))(jnp.arange(CLASSES), nodes)
    area = (line[1] - line[0]) ** 2
    return {name: area * np.exp(np.asarray(values, np.float64)) for name, values in found.items()}


def test_probabilities_sum_to_one() -> None:
    """p(x, y, z) over all x, y and z; q(y, z | x) over all y and z, for every x."""
    found = densities()
    np.testing.assert_allclose(found["given"].sum(), 1.0, atol=1e-4)
    np.testing.assert_allclose(found["q"].sum((0, 1)), 1.0, atol=1e-4)


def test_unsupervised_is_supervised_summed_over_classes() -> None:
    """The weights of labelled examples are of p(x, y), which sum to p(x) over the classes."""
    found = densities()
    np.testing.assert_allclose(found["labelled"], found["given"], rtol=1e-4, atol=1e-12)
    joint = found["labelled"].sum(1)  # p(x, y), [Y, X]
    np.testing.assert_allclose(joint.sum(0), found["given"].sum((0, 1)), rtol=1e-5)


def test_a_label_makes_the_bound_that_of_x_and_y() -> None:
    """With a label log q(y | x) is not subtracted; a batch may have some; an example does not see another's label."""
    y, made = jnp.array([0, -1, 2, 1, -1, 0, -1, 2]), variables()

    def three(y: jax.Array) -> Any:
        given = MODEL.apply(made, EVERY_X, KEY, latents=(None, jax.nn.one_hot(y, CLASSES)))
        return MODEL.apply(made, EVERY_X, KEY), MODEL.apply(made, EVERY_X, KEY, y=y), given

    plain, labelled, given = jax.jit(three)(y)
    expected = jnp.where(y < 0, elbo(plain), elbo(given) + given.levels[1].log_q)
    np.testing.assert_allclose(elbo(labelled), expected, rtol=1e-5)
    np.testing.assert_array_equal(labelled.latents[1][y >= 0].argmax(-1), y[y >= 0])
    assert (labelled.levels[1].log_q[y >= 0] == 0).all()
    np.testing.assert_allclose(labelled.levels[1].rate[y >= 0], -labelled.levels[1].log_p[y >= 0], rtol=1e-6)
    np.testing.assert_allclose(labelled.levels[1].q.mean.sum(-1), 1.0, rtol=1e-5)
    for kept, other in zip(plain.latents, labelled.latents, strict=True):
        np.testing.assert_allclose(kept[y < 0], other[y < 0], rtol=1e-6)


def test_what_each_network_reads() -> None:
    """x reads z1 alone; z1 reads y and z2; y reads z2; q(z1 | x) reads x alone; q(z2 | .) reads z1 and y."""
    rng, made = np.random.default_rng(0), variables()
    z2, z1 = (jnp.asarray(rng.normal(size=(8, 1)), jnp.float32) for _ in range(2))

    @jax.jit
    def records(z2: Any, c: Any, z1: Any) -> Any:
        trace = MODEL.apply(made, EVERY_X, KEY, latents=(z2, one_hot(c), z1))
        top, y, low = trace.levels
        return {"x": trace.x_dist, "p1": low.p, "py": y.p, "q1": low.q, "qy": y.q, "q2": top.q, "p2": top.p}

    base = records(z2, 0, z1)
    reads = {"z2": records(z2 + 1, 0, z1), "y": records(z2, 1, z1), "z1": records(z2, 0, z1 + 1)}
    found = {name: {what for what, other in reads.items() if differ(base[name], other[name])} for name in base}
    assert found == {
        "x": {"z1"},
        "p1": {"z2", "y"},
        "py": {"z2"},
        "p2": set(),
        "q1": set(),
        "qy": {"z1"},
        "q2": {"y", "z1"},
    }


def differ(a: Any, b: Any) -> bool:
    """Whether two records differ in some number."""
    return any((one != other).any() for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"clusters": 1}, r"CaGeM\(clusters=1\): a single class says nothing"),
        ({"latents": (2, 0)}, "every size has to be a whole number of 1 or more"),
        ({"latents": (2, 2, 2)}, "it has to be a tuple of 2"),
    ],
)
def test_settings_that_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CaGeM(**fields)


def test_labels_that_are_refused() -> None:
    """A label that is no class, another shape, and labels without x, with what to call instead."""
    for y, said in (([3] * 8, "the label 3, but the 3 classes are 0..2"), ([0, 1], r"y has shape \(2,\)")):
        with pytest.raises(ValueError, match=said):
            MODEL.apply(variables(), EVERY_X, KEY, y=jnp.asarray(y))
    with pytest.raises(ValueError, match=r"y without x.*diagnostics\.of_class"):
        MODEL.apply(variables(), KEY, 8, y=jnp.zeros(8, int), method="generate")
