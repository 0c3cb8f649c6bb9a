"""The ResNet VAE: dependencies between levels, its flow, free bits per channel, initialisation on a batch, errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import contract
from support.cases import Case, every, integers, jitter
from support.contract import Row

from hvae_jax.likelihoods import Bernoulli, DiscretisedLogistic, LogisticMixture
from hvae_jax.models import ResNetVAE, iaf_cifar10, iaf_cifar10_small, iaf_cifar10_two_resolutions, iaf_mnist_small
from hvae_jax.objectives import Batch, FreeBits, NegativeELBO, Regularised, elbo, log_weight
from hvae_jax.trace import Trace

KEY = jax.random.key(0)
TINY = ResNetVAE(image=(8, 8, 1), blocks=(2, 3), latents=(2, 3), width=6, flow_hidden=(6,))


@pytest.fixture(scope="module")
def tiny() -> tuple[jax.Array, Any]:
    """Images, and variables of TINY near their initialisation."""
    x = integers(2, 8, 8, 1)
    return x, {"params": jitter(jax.jit(TINY.init)(KEY, x, KEY)["params"], scale=0.01)}


@pytest.fixture(scope="module")
def trace(tiny: tuple[jax.Array, Any]) -> Trace:
    """The trace of one forward pass."""
    x, variables = tiny
    return jax.jit(lambda v: TINY.apply(v, x, KEY))(variables)


@pytest.mark.slow
def test_levels(trace: Trace) -> None:
    """There are two levels of 2x2x2, then three of 4x4x3; all but the one that doubles the resolution are scanned."""
    assert trace.names == ("z2.0", "z2.1", "z4.0", "z4.1", "z4.2")
    assert [z.shape[1:] for z in trace.latents] == [(2, 2, 2)] * 2 + [(4, 4, 3)] * 3
    assert [level.side for level in trace.unstack()] == [2, 2, 4, 4, 4]
    assert [level.stacked for level in trace.levels] == [True, False, True]


@pytest.mark.slow
def test_who_reads_whom(tiny: tuple[jax.Array, Any]) -> None:
    """Each prior depends on exactly the levels above it; each posterior on those and on x."""
    x, variables = tiny
    noise = tuple(jnp.zeros((8, 2, 2, 2)) for _ in range(2)) + tuple(jnp.zeros((8, 4, 4, 3)) for _ in range(3))

    @jax.jit
    def means(latents: tuple, x: jax.Array) -> Any:
        levels = TINY.apply(variables, x, KEY, latents=latents).unstack()
        return [jnp.stack([level.p.mean.sum(), level.q.mean.sum()]) for level in levels]

    slopes = jax.jit(jax.jacrev(means, (0, 1)))(noise, x.astype(jnp.float32))
    for i in range(5):
        for j in range(5):
            prior, posterior = np.abs(slopes[i][0][j]).max((1, 2, 3, 4))
            assert ((prior > 0) == (j < i)) and ((posterior > 0) == (j < i)), (i, j)
        prior, posterior = np.abs(slopes[i][1]).max((1, 2, 3, 4))
        assert prior == 0 and posterior > 0


@pytest.mark.slow
def test_given_latents_go_through_the_inverse(tiny: tuple[jax.Array, Any], trace: Trace) -> None:
    """Giving some latents of a run and an edge, under the same key, reproduces all samples and densities."""
    x, variables = tiny
    given = tuple(z if i in (1, 3) else None for i, z in enumerate(trace.latents))
    again = jax.jit(lambda z: TINY.apply(variables, x, KEY, latents=z))(given)
    for one, other in zip(again.unstack(), trace.unstack(), strict=True):
        np.testing.assert_allclose(one.z, other.z, atol=1e-5)
        np.testing.assert_allclose(one.log_q, other.log_q, atol=1e-4)
        np.testing.assert_allclose(one.kl, other.kl, atol=1e-4)


@pytest.mark.slow
def test_gradients_go_through_the_inverse() -> None:
    """The gradient of log_weight in given latents and parameters agrees with finite differences."""
    x, model = integers(2, 2, 4, 1), TINY.clone(image=(2, 4, 1), blocks=(2,), latents=(2,))
    params = jitter(jax.jit(model.init)(KEY, x, KEY)["params"], scale=0.01)
    rng = np.random.default_rng(0)
    point = (params, tuple(jnp.asarray(rng.normal(size=(8, 1, 2, 2)), jnp.float32) for _ in range(2)))
    way = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), point)
    way = (jax.tree.map(lambda a: 0.02 * a, way[0]), way[1])

    def answer(point: Any) -> jax.Array:
        return log_weight(model.apply({"params": point[0]}, x, KEY, latents=point[1])).mean()

    def along(t: jax.Array) -> jax.Array:
        return answer(jax.tree.map(lambda a, b: a + t * b, point, way))

    slope = jax.jit(jax.grad(along))(0.0)
    shifted = jax.jit(along)
    np.testing.assert_allclose(slope, (shifted(0.01) - shifted(-0.01)) / 0.02, rtol=2e-2)


@pytest.mark.slow
def test_weights_sum_to_one_under_a_flow() -> None:
    """The mean weights of all sixteen x of four pixels sum to 1 for every keep_top."""
    model = ResNetVAE(image=(2, 2, 1), blocks=(2,), latents=(2,), width=4, flow_hidden=(4,))
    contract.weights_sum_to_one(Row(Case("four", model, integers(2, 2, 2, 1), every_x=every(2, 2, 2, 1), jitter=0.01)))


@pytest.mark.slow
@pytest.mark.parametrize("flow", ["mean_only", pytest.param("published", marks=pytest.mark.slow)])
def test_the_other_flows(flow: Any) -> None:
    """E_q[p/q] = 1 for each level, and given latents reproduce the trace."""
    model = ResNetVAE(image=(2, 4, 1), blocks=(1,), latents=(2,), width=4, flow=flow, flow_hidden=(4,), flow_steps=2)
    row = Row(Case(flow, model, integers(2, 2, 4, 1), jitter=0.01))
    contract.mean_weight_is_one(row)
    contract.given_latents_reproduce(row)


def test_without_a_flow_the_kl_is_analytic() -> None:
    """It differs from the log-ratio at a sample; that their means agree is part of the contract."""
    model = ResNetVAE(image=(4, 4, 1), blocks=(1,), latents=(2,), width=4, flow=None)
    x = integers(2, 4, 4, 1)
    one = jax.jit(lambda: model.init_with_output(KEY, x, KEY)[0])()
    assert (one.rates >= 0).all()
    assert np.abs(one.rates - one.ratios).max() > 1e-3


@pytest.mark.slow
def test_free_bits_of_the_paper(tiny: tuple[jax.Array, Any], trace: Trace) -> None:
    """The loss has sum_j max(lambda, mean_B sum_positions KL_j), j a level and channel; metrics have the true KL."""
    x, variables = tiny
    objective = Regularised(free_bits=FreeBits(1.0, "channel", "batch"))

    def forward(variables: Any, x: jax.Array, key: jax.Array, **choices: Any) -> tuple[Trace, Any]:
        return TINY.apply(variables, x, key, **choices), {}

    def compare(variables: Any) -> Any:
        step, trace = jnp.int32(0), forward(variables, x, KEY)[0]
        loss, metrics, *_ = objective(forward, variables, Batch(x), KEY, step, objective.init(variables))
        _, plain, *_ = NegativeELBO()(forward, variables, Batch(x), KEY, step, ())
        return loss, metrics, plain, trace.log_px.mean(), [level.kl for level in trace.unstack()]

    loss, metrics, plain, log_px, kls = jax.jit(compare)(variables)
    for name in ("elbo", "rates"):
        np.testing.assert_allclose(metrics[name], plain[name], rtol=1e-5)
    by_channel = np.concatenate([np.asarray(kl).sum((1, 2)).mean(0) for kl in kls])
    np.testing.assert_allclose(metrics["elbo"], log_px - by_channel.sum(), rtol=1e-5)
    np.testing.assert_allclose(loss, np.maximum(1.0, by_channel).sum() - log_px, rtol=1e-5)
    assert (by_channel < 1.0).any() and (by_channel > 1.0).any()


@pytest.mark.slow
def test_the_first_batch_decides_every_block() -> None:
    """Outputs of every first convolution have mean 0 and standard deviation 0.1, in scanned runs too."""
    x = jnp.asarray(np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3)), jnp.uint8)
    model = TINY.clone(image=(8, 8, 3), likelihood=DiscretisedLogistic(scale="global"))
    trace, variables = jax.jit(lambda: model.init_with_output(KEY, x, KEY))()
    gains = {path: leaf for path, leaf in contract.paths(variables["params"]).items() if path.endswith("gain")}
    assert all(np.isfinite(gain).all() for gain in gains.values())
    assert gains["up4/first/gain"].shape[0] == 3
    for level in trace.unstack()[2:]:
        places = (0, 1, 2)
        np.testing.assert_allclose(level.p.mean.mean(places), 0.0, atol=1e-4)
        np.testing.assert_allclose(level.p.mean.std(places), 0.1, rtol=1e-2)
        np.testing.assert_allclose(level.p.log_std.std(places), 0.1, rtol=1e-2)
        np.testing.assert_allclose(level.q.mean.std(places), 0.1 * np.sqrt(2), rtol=0.3)
    np.testing.assert_allclose(trace.x_dist.location.std((0, 1, 2)), 0.1, rtol=1e-2)
    plain = jax.jit(lambda v: model.apply(v, x, KEY))(variables)
    np.testing.assert_allclose(plain.log_px, trace.log_px, rtol=1e-4)


@pytest.mark.slow
def test_unrolled_and_recomputed_are_the_same() -> None:
    """`unroll` and `remat` change neither parameters nor the bound nor its gradient."""
    x, model = integers(2, 4, 4, 1), TINY.clone(image=(4, 4, 1), blocks=(3,), latents=(2,))
    variables = jax.jit(model.init)(KEY, x, KEY)
    other = model.clone(unroll=3, remat=True)
    shapes = jax.eval_shape(other.init, KEY, x, KEY)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)

    def bound_and_slope(model: ResNetVAE) -> Any:
        return jax.jit(jax.value_and_grad(lambda v: elbo(model.apply(v, x, KEY)).mean()))(variables)

    contract.assert_close(bound_and_slope(other), bound_and_slope(model), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("likelihood", [LogisticMixture(2, 16), LogisticMixture(2, 16, 1), Bernoulli()])
def test_likelihoods_of_colour_images(likelihood: Any) -> None:
    """Likelihoods with joint and with separate channels fit."""
    model = TINY.clone(image=(4, 8, 3), blocks=(1,), latents=(2,), likelihood=likelihood, flow=None)
    x = integers(2, 4, 8, 3)
    variables = jax.eval_shape(model.init, KEY, x, KEY)
    trace = jax.eval_shape(lambda v: model.apply(v, x, KEY), variables)
    assert trace.log_px.shape == (8,)
    drawn = jax.eval_shape(lambda v: model.apply(v, KEY, 5, method="generate"), variables)
    assert drawn.shape == (5, 4, 8, 3)


@pytest.mark.parametrize(
    ("preset", "levels", "count"),
    [
        (iaf_cifar10, 20, 38_638_887),
        (iaf_cifar10_two_resolutions, 20, 38_638_887),
        (iaf_cifar10_small, 4, 292_775),
        (iaf_mnist_small, 4, 247_842),
    ],
)
def test_presets(preset: Any, levels: int, count: int) -> None:
    """Presets have the levels and parameters of their docstrings, and images of their shape alone."""
    model = preset()
    variables = jax.eval_shape(model.init, KEY, jnp.zeros((2, *model.image), jnp.uint8), KEY)
    assert model.num_levels == levels
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count
    assert f"{count:,} parameters" in preset.__doc__
    with pytest.raises(ValueError, match=r"takes examples of"):
        jax.eval_shape(model.init, KEY, jnp.zeros((2, 16, 16, model.image[2])), KEY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": (2, 2)}, r"blocks=\(2, 2\), latents=\(8,\).*these are 2 and 1"),
        ({"blocks": (1,) * 3, "latents": (8,) * 3}, r"image=\(28, 28, 1\).*multiples of 8"),
        ({"image": (28, 27, 1)}, r"image=\(28, 27, 1\).*multiples of 2"),
        ({"image": (28, 28)}, "a tuple of 3"),
        ({"latents": (6,)}, r"latents=\(6,\).*6 channels cannot be put in order through a hidden layer of 32"),
        ({"flow": "iaf"}, r"flow='iaf'\): it has to be 'gate'"),
        ({"flow_steps": 0}, "flow_steps=0"),
        ({"flow_hidden": ()}, r"flow_hidden=\(\)"),
        ({"blocks": (0,)}, "blocks=.0,"),
        ({"width": 0}, "width=0"),
        ({"likelihood": LogisticMixture()}, "takes 3 channels together, but x has 1"),
    ],
)
def test_errors(settings: dict[str, Any], message: str) -> None:
    """Errors come at construction and name the sizes."""
    with pytest.raises(ValueError, match=message):
        ResNetVAE(**settings)


def test_errors_of_labels_and_values() -> None:
    """Labels, and values of x that the likelihood does not have, are errors."""
    x = jnp.zeros((2, 8, 8, 1))
    with pytest.raises(ValueError, match="classes=0 and was given a y"):
        jax.eval_shape(lambda: TINY.init(KEY, x, KEY, y=jnp.zeros(2, int)))
    with pytest.raises(ValueError, match=r"256 at index \(0, 0\)"):
        iaf_cifar10().likelihood.check(np.array([[256, 0]]))
