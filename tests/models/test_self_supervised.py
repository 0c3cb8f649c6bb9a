"""The self-supervised VAE: p(x, y) sums to one, y determines what lies above it, and what is refused."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import every, integers, jitter

from hvae_jax.distributions import Known
from hvae_jax.experiment import settings
from hvae_jax.likelihoods import Bernoulli, Categorical, Gaussian, LogisticMixture
from hvae_jax.models import (
    AveragePool,
    BilinearHalf,
    DenselyConnectedNetworks,
    DenseNetworks,
    Grey,
    LeadingBits,
    MixturePrior,
    RealNVPPrior,
    SelfSupervisedVAE,
    Sobel,
    VampPrior,
    srvae_cifar10,
)
from hvae_jax.objectives import log_weight
from hvae_jax.trace import Trace

KEY, OTHER_KEY = jax.random.split(jax.random.key(0))
PLAIN = DenseNetworks(5, activation=jnp.tanh, normalise=False)
TINY = SelfSupervisedVAE(image=(2, 2, 1), latents=(1, 1), networks=PLAIN, likelihood=Bernoulli())
TWO = SelfSupervisedVAE(
    image=(4, 4, 1),
    reductions=(AveragePool(2), LeadingBits(1, of=2)),
    latents=(2, 2, 3),
    networks=PLAIN,
    likelihood=Categorical(3),
)
EVERY_X = every(2, 2, 2, 1)


@functools.cache
def variables(model: SelfSupervisedVAE) -> Any:
    """Variables far from their initial values."""
    x = jnp.zeros((8, *model.image), jnp.uint8)
    made = jax.jit(model.init)(KEY, x, KEY)
    return {**made, "params": jitter(made["params"], scale=0.3)}


# ---- the density


@functools.cache
def joint() -> np.ndarray:
    """p(x, y) `[X, Y]`: w q(u | .) q(z | .) summed over a grid of u and z."""
    line = jnp.linspace(-10.0, 10.0, 81)
    area = float(line[1] - line[0]) ** 2
    nodes = jnp.asarray(list(itertools.product(line, line)), jnp.float32)
    made = variables(TINY)  # outside of what is traced, since it is cached

    def density(node: jax.Array, y: jax.Array) -> jax.Array:
        u, given, z = (
            jnp.broadcast_to(v, (len(EVERY_X), *s)) for v, s in zip((node[0], y, node[1]), SHAPES, strict=True)
        )
        trace = TINY.apply(made, EVERY_X, KEY, latents=(u, given, z))
        return jnp.exp(log_weight(trace) + trace.levels[0].log_q + trace.levels[2].log_q)

    values = jax.jit(jax.vmap(jax.vmap(density, (0, None)), (None, 0)))(nodes, jnp.arange(2))  # [Y, nodes, X]
    return area * np.asarray(values, np.float64).sum(1).T


SHAPES = ((1,), (1, 1, 1), (1,))


def test_x_and_y_are_joint() -> None:
    """Over all x and all y, p(x, y) sums to one."""
    np.testing.assert_allclose(joint().sum(), 1.0, atol=1e-5)
    assert (joint() > 1e-4).all()


def test_mean_weights_are_p_of_x_and_y() -> None:
    """Over all x they sum to P(y = d(x)) where y is known, and to 1 where it is drawn from p(y | u)."""
    y = np.asarray(AveragePool(2)(EVERY_X)).ravel()
    agreement = joint()[np.arange(len(y)), y].sum()
    assert agreement < 0.9
    made = variables(TINY)

    def total(key: jax.Array, keep_top: jax.Array) -> jax.Array:
        return jnp.exp(log_weight(TINY.apply(made, EVERY_X, key, keep_top=keep_top))).sum()

    totals = jax.jit(jax.vmap(total, (0, None)))
    for keep_top, expected in enumerate((1.0, 1.0, agreement, agreement)):
        drawn = np.asarray(totals(jax.random.split(KEY, 4000), keep_top), np.float64)
        error = drawn.std(ddof=1) / np.sqrt(len(drawn))
        assert error < 0.02
        assert abs(drawn.mean() - expected) < 4 * error, keep_top


# ---- what determines what


def infer(model: SelfSupervisedVAE, x: Any, **choices: Any) -> Trace:
    """A compiled pass."""
    return jax.jit(lambda v, x, c: model.apply(v, x, KEY, **c))(variables(model), x, choices)


def decode(model: SelfSupervisedVAE, n: int, **choices: Any) -> Trace:
    """A compiled pass without x."""
    return jax.jit(lambda v, c: model.apply(v, KEY, n, **c, method="decode"))(variables(model), choices)


def test_what_posteriors_read() -> None:
    """q(u | y) reads x through y alone, q(z | x, y) reads x too; a given y reaches q(z | x, y) but not q(z | x)."""
    x = jnp.asarray([[1, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]], jnp.uint8).reshape(3, 2, 2, 1)  # y = 1, 1, 0
    for sees_y in (True, False):
        model = TINY.clone(posterior_sees_y=sees_y)
        trace = infer(model, x)
        u, y, z = trace.levels
        assert trace.names == ("u", "y", "z") and isinstance(y.q, Known)
        np.testing.assert_array_equal(y.z.ravel(), [1, 1, 0])
        np.testing.assert_array_equal(u.q.mean[0], u.q.mean[1])
        assert u.q.mean[0] != u.q.mean[2] and z.q.mean[0] != z.q.mean[1]
        np.testing.assert_allclose(y.rate, -y.log_p)
        other = infer(model, x, latents=(None, 1 - y.z))
        np.testing.assert_array_equal(other.levels[0].q.mean, u.q.mean)
        assert (other.levels[2].q.mean != z.q.mean).all() == sees_y
        assert (other.levels[2].p.mean != z.p.mean).all()


def test_super_resolution() -> None:
    """A given y determines q(u | y) as an x with this y does; z comes from its prior, and no rate but u's is left."""
    x = integers(2, 2, 2, 1)
    of_x = infer(TINY, x)
    found = decode(TINY, len(x), latents=(None, of_x.levels[1].z))
    u, y, z = found.levels
    np.testing.assert_allclose(u.q.mean, of_x.levels[0].q.mean, rtol=1e-6)
    np.testing.assert_array_equal(y.z, of_x.levels[1].z)
    assert (u.rate > 0).all() and (y.rate == 0).all() and (z.rate == 0).all()
    np.testing.assert_allclose(z.q.mean, z.p.mean)
    assert found.log_px is None
    given_u = decode(TINY, len(x), latents=(of_x.levels[0].z, of_x.levels[1].z))
    assert (given_u.rates == 0).all()


@pytest.mark.slow
def test_super_resolution_from_the_middle() -> None:
    """The y next to x is given: the y above it is known, and u and the z above it are inferred; their own z is not."""
    x = integers(3, 4, 4, 1)
    of_x = infer(TWO, x)
    assert of_x.names == ("u", "y2", "z2", "y1", "z1") and of_x.sides == (1, 2, 1, 2, 1)
    assert TWO.observed == {"y1": Categorical(3), "y2": Bernoulli()}
    found = decode(TWO, len(x), latents=(None, None, None, of_x.levels[3].z, None))
    for level in (0, 1, 2):
        np.testing.assert_allclose(found.levels[level].q.mean, of_x.levels[level].q.mean, rtol=1e-5, atol=1e-6)
    assert (found.rates[:3].sum(0) > 0).all() and (found.rates[3:] == 0).all()
    np.testing.assert_array_equal(of_x.levels[1].z, np.asarray(of_x.levels[3].z) // 2)


def test_a_given_u_and_z() -> None:
    """Compression to u and z: y is drawn from p(y | u), and p(x | y, z) reads the z of x."""
    x = integers(2, 2, 2, 1)
    u, _, z = infer(TINY, x).latents
    found = decode(TINY, len(x), latents=(u, None, z))
    np.testing.assert_array_equal(found.latents[2], z)
    assert (found.rates == 0).all()


@pytest.mark.slow
def test_a_vamp_prior_of_small_pictures() -> None:
    """Pseudo-inputs are of the shape of y, start as y of the examples, and p(u) is the mean of their posteriors."""
    model = TWO.clone(top_prior=VampPrior(3))
    x = integers(3, 4, 4, 1)
    made = jax.jit(model.init)(KEY, x, KEY)
    inputs = np.asarray(made["params"]["pseudo_inputs"])
    assert inputs.shape == (3, 2, 2, 1)
    y = np.asarray(AveragePool(2)(x))[:3] // 2
    np.testing.assert_allclose(inputs, 0.5 + 0.9 * (y - 0.5), atol=0.06)
    trace = jax.jit(lambda v: model.apply(v, x, KEY))(made)
    of_inputs = jax.jit(lambda v, y: model.apply(v, KEY, 3, latents=(None, y), method="decode"))(made, inputs)
    np.testing.assert_allclose(trace.levels[0].p.components.mean[0], of_inputs.levels[0].q.mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("reductions", "event"),
    [
        pytest.param((BilinearHalf(),), (8, 8, 3), marks=pytest.mark.slow),
        pytest.param((Grey(), AveragePool(4)), (4, 4, 1), marks=pytest.mark.slow),
        pytest.param((Sobel(3),), (16, 16, 1), marks=pytest.mark.slow),
        pytest.param((AveragePool(2), AveragePool(2)), (4, 4, 3), marks=pytest.mark.slow),
        ((LeadingBits(3),), (16, 16, 3)),
    ],
    ids=str,
)
def test_reductions_with_convolutions(reductions: Any, event: tuple[int, ...]) -> None:
    """Maps of latents have half the height and width of their y, whatever d changes: from shapes alone."""
    model = SelfSupervisedVAE(
        image=(16, 16, 3),
        reductions=reductions,
        latents=(2,) * (1 + len(reductions)),
        networks=DenselyConnectedNetworks.small(1, 1, 1),
        likelihood=LogisticMixture(1),
        top_prior=RealNVPPrior(2, 1, 1),
    )
    x = jnp.zeros((2, 16, 16, 3), jnp.uint8)

    def run(x: jax.Array) -> Any:
        made = model.init(KEY, x, KEY)
        return model.apply(made, x, KEY), model.apply(made, KEY, 2, method="generate")

    trace, generated = jax.eval_shape(run, x)
    assert trace.levels[1].z.shape == (2, *event)
    assert trace.levels[0].z.shape == (2, event[0] // 2, event[1] // 2, 2)
    for level, above in zip(trace.levels[2::2], trace.levels[1::2], strict=True):
        assert level.z.shape[1:3] == (above.z.shape[1] // 2, above.z.shape[2] // 2)
    assert generated.shape == x.shape


# ---- settings and refusals


def test_as_settings() -> None:
    """A model comes back from JSON with its d's, networks and priors, and is hashable."""
    for model in (TINY, TWO, srvae_cifar10(), SelfSupervisedVAE(top_prior=MixturePrior(3), y_likelihoods=(None,))):
        assert settings.from_json(settings.to_json(model)) == model
        hash(model)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reductions": ()}, r"at least one d is needed, such as AveragePool\(2\)"),
        ({"reductions": (AveragePool(3),)}, r"factor=3\): it does not divide 8x8"),
        ({"latents": (8,)}, "1 reductions need 2 sizes"),
        ({"latents": (8, 0)}, r"latents=\(8, 0\).*1 or more"),
        ({"y_likelihoods": (None, None)}, "has 2 families, but there are 1 reductions"),
        ({"likelihood": Gaussian()}, "not of whole numbers in a range"),
        ({"likelihood": LogisticMixture(2)}, "takes 3 channels together, but x has 1"),
        ({"scale": 0.0}, r"scale=0\.0\): it has to be positive"),
        ({"networks": DenselyConnectedNetworks.small(1, 1), "reductions": (AveragePool(8),)}, "A y of 1x1.*even"),
        (
            {"networks": DenselyConnectedNetworks.small(1, 1), "image": (12, 12, 1), "reductions": (AveragePool(3),)},
            "smaller by a power of 2",
        ),
        ({"reductions": (lambda x: x,)}, "it has to be a tuple, each item of which is of type Reduction"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any], said: str) -> None:
    """Errors come at construction."""
    with pytest.raises(ValueError, match=said):
        SelfSupervisedVAE(**given)


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (np.zeros((2, 2, 2, 1)), r"given y has shape \(2, 2, 2, 1\), but y = d\(x\) is \(1, 1, 1\)"),
        (np.full((2, 1, 1, 1), 2), r"the given y holds 2 at index"),
        (np.full((2, 1, 1, 1), 0.5), "has to be whole numbers"),
    ],
    ids=["shape", "value", "fraction"],
)
def test_a_y_that_cannot_be(y: np.ndarray, said: str) -> None:
    """Of another shape, or of values that d never takes."""
    with pytest.raises(ValueError, match=said):
        TINY.apply(variables(TINY), KEY, 2, latents=(None, y), method="decode")


def test_labels_are_refused() -> None:
    """The model has no classes."""
    with pytest.raises(ValueError, match="was given a y"):
        TINY.apply(variables(TINY), EVERY_X, KEY, y=jnp.zeros(16, jnp.int32))
