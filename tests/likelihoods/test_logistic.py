"""Logistics cut into bins, alone and in mixtures: sums of one, SciPy's values, edges, draws, colours, and errors."""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, export
from scipy import stats

from hvae_jax.likelihoods import (
    Bernoulli,
    DiscretisedLogistic,
    Likelihood,
    LogisticMixture,
    LogisticMixtureRecord,
    PixelCNN,
)
from hvae_jax.models import VAE, TopDownVAE
from hvae_jax.networks.scale_head import ScaleHead

KEY = jax.random.key(0)

log_prob_of = jax.jit(lambda record, x: record.log_prob(x))
draw_from = jax.jit(lambda record, key, temperature=1.0: record.sample(key, temperature))
mean_of, mode_of = jax.jit(lambda record: record.mean), jax.jit(lambda record: record.mode)


def network_output(family: Likelihood, *pixels: int, seed: int = 0, spread: float = 1.5) -> Array:
    """Random network output, `[*pixels, parameters]`; the first axis is the batch."""
    h = np.random.default_rng(seed).normal(size=(*pixels, family.parameters))
    return jnp.asarray(spread * h, jnp.float32)


def probabilities(family: LogisticMixture, h: Array) -> np.ndarray:
    """P(x) of every x of one pixel `[parameters]`, `[values] * channels`."""
    every = list(itertools.product(range(family.values), repeat=family.channels))
    record = family(jnp.broadcast_to(h, (len(every), 1, family.parameters)))
    log_p = np.asarray(log_prob_of(record, jnp.asarray(every, jnp.int32)), np.float64)
    return np.exp(log_p).reshape((family.values,) * family.channels)


@pytest.mark.parametrize("values", [2, 3, 17, 32, 256])
def test_probabilities_sum_to_one(values: int) -> None:
    """For means within, at and far beyond the ends, and scales from a hundredth of a bin to a million ranges."""
    family = DiscretisedLogistic(values, min_log_scale=-12.0)
    means = (-1e4, -3.0, -1.0, -0.37, 0.0, 1.0 / 255.0, 0.5, 1.0, 40.0)
    scales = (-1e4, -12.0, -7.0, -5.0, -1.0, 0.0, 3.0, 20.0, 90.0, 1e4)
    h = jnp.asarray(list(itertools.product(means, scales)), jnp.float32)
    x = jnp.arange(values)

    def total(one: Array) -> Array:
        return jnp.exp(family(jnp.broadcast_to(one, (values, 1, 2))).log_prob(x[:, None])).sum()

    np.testing.assert_allclose(jax.jit(jax.vmap(total))(h), 1.0, rtol=2e-5)


@pytest.mark.parametrize(
    "family",
    [
        LogisticMixture(3, 5, channels=1),
        LogisticMixture(2, 256, channels=1),
        LogisticMixture(3, 2),
        LogisticMixture(2, 8),
        LogisticMixture(1, 3),
    ],
)
def test_probabilities_of_a_mixture_sum_to_one(family: LogisticMixture) -> None:
    """Over all values of a pixel, with colours over all of their combinations."""
    for seed, spread in ((0, 1.5), (1, 6.0)):
        h = network_output(family, 1, seed=seed, spread=spread)[0]
        np.testing.assert_allclose(probabilities(family, h).sum(), 1.0, rtol=2e-5)


def test_it_is_scipys_logistic() -> None:
    """Differences of SciPy's distribution function, in float64, where those are accurate; open bins at both ends."""
    family = DiscretisedLogistic(256)
    h = network_output(family, 200, 1, spread=1.0)
    x = np.random.default_rng(1).integers(0, 256, (200, 1))
    x[:20], x[20:40] = 0, 255
    mean, log_scale = np.moveaxis(np.asarray(h, np.float64), -1, 0)
    law = stats.logistic(mean, np.exp(log_scale))
    upper, lower = law.cdf((2 * x + 1) / 255 - 1), law.cdf((2 * x - 1) / 255 - 1)
    expected = np.log(np.where(x == 255, 1.0, upper) - np.where(x == 0, 0.0, lower))[:, 0]
    np.testing.assert_allclose(log_prob_of(family(h), jnp.asarray(x)), expected, rtol=2e-5, atol=2e-5)


def far(scale: float, mean: float, x: int) -> float:
    """log P far from the mean on its right side, where P = exp(-distance/s) (1 - exp(-width/s)) to all digits."""
    return -((2 * x - 1) / 255 - 1 - mean) / scale + math.log(-math.expm1(-2 / 255 / scale))


@pytest.mark.parametrize("log_scale", [-7.0, -5.0, -3.0])
def test_far_from_the_mean(log_scale: float) -> None:
    """log P is right where the difference of two sigmoids in float32 is 0, and P is far below 1e-5."""
    scale = math.exp(log_scale)
    record = DiscretisedLogistic(256)(jnp.array([[[-0.9, log_scale]]]))
    for x in (130, 200, 254):
        np.testing.assert_allclose(log_prob_of(record, jnp.full((1, 1), x))[0], far(scale, -0.9, x), rtol=2e-5)
    assert log_prob_of(record, jnp.full((1, 1), 254))[0] < -30


# as in Efficient-VDVAE's presets for 8 bits: scales whose reciprocals are beyond float32
SHARP = LogisticMixture(
    2, channels=1, min_log_scale=-250.0, form="published", head=ScaleHead("softplus_std", math.log(2.0))
)


@pytest.mark.parametrize(
    "family",
    [
        DiscretisedLogistic(256),
        DiscretisedLogistic(256, min_log_scale=-250.0),
        LogisticMixture(2, channels=1),
        LogisticMixture(2),
        SHARP,
        dataclasses.replace(SHARP, form="exact"),
    ],
)
def test_gradients_are_finite(family: Likelihood) -> None:
    """At the ends of the range, beside them and within, for network outputs of 0, and of 1 and 1e4 of either sign."""
    signs = np.stack([np.sign(network_output(family, 1, 1, seed=seed)) for seed in range(4)])
    h = jnp.asarray(np.concatenate([0.0 * signs, signs, 1e4 * signs]), jnp.float32)
    slope = jax.value_and_grad(lambda h, x: family(h).log_prob(jnp.full((1, family.channels), x, jnp.uint8))[0])
    every = jax.jit(jax.vmap(jax.vmap(slope, (0, None)), (None, 0)))
    value, gradient = every(h, jnp.asarray([0, 1, 128, 254, 255], jnp.uint8))
    assert value.shape == (5, 12)
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()


def test_colours_shift_those_after_them() -> None:
    """Green's means are shifted by red, blue's by red and green, with the tanh of the coefficients; red's are not."""
    family = LogisticMixture(2, 16)
    h = network_output(family, 1, 1)
    logits, rest = np.asarray(h[0, 0, :2], np.float64), np.asarray(h[0, 0, 2:], np.float64).reshape(3, 3, 2)
    means, scales, shift = rest[:, 0], np.exp(rest[:, 1]), np.tanh(rest[:, 2])
    x = np.array([3, 12, 9])
    u = 2 * x / 15 - 1
    means[1] += shift[0] * u[0]
    means[2] += shift[1] * u[0] + shift[2] * u[1]
    total = 0.0
    for k, weight in enumerate(np.exp(logits) / np.exp(logits).sum()):
        law = stats.logistic(means[:, k], scales[:, k])
        total += weight * np.prod(law.cdf(u + 1 / 15) - law.cdf(u - 1 / 15))
    np.testing.assert_allclose(log_prob_of(family(h), jnp.asarray(x[None])), [np.log(total)], rtol=1e-5)


def test_one_component_is_the_logistic_alone() -> None:
    """A mixture of one, for grey values, has the probabilities of the discretised logistic."""
    one, alone = LogisticMixture(1, 17, channels=1), DiscretisedLogistic(17)
    h = network_output(one, 5, 4)
    x = jnp.asarray(np.random.default_rng(1).integers(0, 17, (5, 4)))
    np.testing.assert_allclose(log_prob_of(one(h), x), log_prob_of(alone(h[..., 1:]), x), rtol=1e-6)
    np.testing.assert_array_equal(mode_of(one(h)), mode_of(alone(h[..., 1:])))
    np.testing.assert_allclose(mean_of(one(h)), mean_of(alone(h[..., 1:])), rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "pixels"),
    [
        (DiscretisedLogistic(17), (6,)),
        (LogisticMixture(2, 17, channels=1), (4, 4, 1)),
        (LogisticMixture(2, 17, channels=1), (6,)),
        (LogisticMixture(2, 17), (4, 5, 1)),
        (LogisticMixture(2, 17), (2, 1)),
    ],
)
def test_shapes_and_dtypes(family: Likelihood, pixels: tuple[int, ...]) -> None:
    """log_prob is `[B]`; draws, means and modes are `[B, *event]`; uint8, int32 and float32 score the same."""
    record = family(network_output(family, 3, *pixels))
    event = (*pixels[:-1], pixels[-1] * family.channels)
    x = draw_from(record, KEY)
    assert x.shape == mean_of(record).shape == mode_of(record).shape == (3, *event)
    family.check(np.asarray(x))
    family.check(np.asarray(mode_of(record)))
    assert ((mean_of(record) >= 0) & (mean_of(record) <= 16)).all()
    expected = log_prob_of(record, x)
    assert expected.shape == (3,)
    assert jnp.isfinite(expected).all()
    for dtype in (jnp.uint8, jnp.float32):
        np.testing.assert_array_equal(log_prob_of(record, x.astype(dtype)), expected)


@pytest.mark.parametrize("family", [DiscretisedLogistic(256), LogisticMixture(2)])
def test_images_of_bytes(family: Likelihood) -> None:
    """uint8 holds 255 and compares with 256 as with 0: the values at both ends keep their probabilities."""
    record = family(network_output(family, 2, 1))
    x = np.full((2, family.channels), 255)
    x[0] = 0
    np.testing.assert_array_equal(log_prob_of(record, jnp.asarray(x, jnp.uint8)), log_prob_of(record, jnp.asarray(x)))


@pytest.mark.parametrize("family", [DiscretisedLogistic(16), LogisticMixture(2, 16), LogisticMixture(2, 16, 1)])
@pytest.mark.parametrize("bad", [-1.0, 16.0, 0.5, np.nan])
def test_impossible_values_have_no_probability(family: Likelihood, bad: float) -> None:
    """They score -inf; the other examples do not change."""
    x = np.zeros((2, family.channels))
    x[0, -1] = bad
    log_p = log_prob_of(family(network_output(family, 2, 1)), jnp.asarray(x, jnp.float32))
    assert log_p[0] == -jnp.inf
    assert jnp.isfinite(log_p[1])


def frequencies_agree(draws: np.ndarray, p: np.ndarray) -> None:
    """Counts of flat indices against probabilities, by chi-squared at one in a million."""
    counts = np.bincount(draws, minlength=p.size).astype(float)
    likely = len(draws) * p > 5
    expected = p[likely] / p[likely].sum() * counts[likely].sum()
    assert likely.sum() > 3
    assert stats.chisquare(counts[likely], expected).pvalue > 1e-6
    assert counts[~likely].sum() < 10 + 3 * len(draws) * p[~likely].sum()


@pytest.mark.parametrize("family", [LogisticMixture(2, 4), LogisticMixture(3, 20, channels=1)])
def test_draws_follow_their_probabilities(family: LogisticMixture) -> None:
    """All combinations of a pixel's colours: the three share a component, and drawn values shift those after them."""
    h, n = network_output(family, 1, 1), 40_000
    x = np.asarray(draw_from(family(jnp.broadcast_to(h, (n, 1, family.parameters))), KEY)).reshape(n, -1)
    p = probabilities(family, h[0, 0])
    frequencies_agree(np.ravel_multi_index(tuple(x.T), p.shape), p.ravel())


def test_draws_of_the_logistic_follow_their_probabilities() -> None:
    """Draws of a logistic that is cut off at its left end, and of a narrow one."""
    family, n = DiscretisedLogistic(12), 40_000
    for seed, numbers in enumerate(([-0.8, -1.5], [0.3, -3.0])):
        record = family(jnp.broadcast_to(jnp.array(numbers), (n, 1, 2)))
        p = np.exp(np.asarray(log_prob_of(record, jnp.arange(n)[:, None] % 12), np.float64))[:12]
        frequencies_agree(np.asarray(draw_from(record, jax.random.key(seed)))[:, 0], p)


def test_temperature_of_draws() -> None:
    """At 0 draws are the likeliest component's mean for any key; their spread grows with the temperature."""
    family = LogisticMixture(3, 256)
    h = network_output(family, 2, 3, 1, spread=0.5)
    record = family(h)
    cold = draw_from(record, KEY, 0.0)
    np.testing.assert_array_equal(cold, draw_from(record, jax.random.key(1), 0.0))
    best = np.asarray(record.logits.argmax(-1))[..., None]
    red = np.take_along_axis(np.asarray(record.location[..., 0, :]), best, -1)[..., 0]
    np.testing.assert_array_equal(cold.reshape(2, 3, 3)[..., 0], np.round((np.clip(red, -1, 1) + 1) * 127.5)[..., 0])
    alone = DiscretisedLogistic()(jnp.broadcast_to(jnp.array([0.0, -3.0]), (5000, 1, 2)))
    assert (draw_from(alone, KEY, 0.0) == 128).all()
    assert draw_from(alone, KEY, 0.5).std() < 0.6 * draw_from(alone, KEY, 1.0).std()


@pytest.mark.parametrize("family", [LogisticMixture(3, 9, channels=1), LogisticMixture(2, 6)])
def test_means_and_modes(family: LogisticMixture) -> None:
    """The first channel's mean is sum_v v p(v); each channel's mode is the likeliest value given those before it."""
    for seed in range(3):
        h = network_output(family, 1, 1, seed=seed)
        record, p = family(h), probabilities(family, h[0, 0])
        first = p.sum(tuple(range(1, p.ndim)))
        np.testing.assert_allclose(mean_of(record)[0, 0], (np.arange(family.values) * first).sum(), rtol=1e-4)
        for chosen in np.asarray(mode_of(record)[0]):
            over_rest = p.sum(tuple(range(1, p.ndim)))
            assert chosen == over_rest.argmax()
            p = p[chosen]


def test_mean_of_colours() -> None:
    """Where no logistic reaches the ends, the mean of all colours is that of their joint probabilities."""
    family = LogisticMixture(2, 48)
    h = network_output(family, 1, spread=0.25)[0].at[2:].multiply(0.5)
    h = h.at[jnp.array([4, 5, 10, 11, 16, 17])].set(-3.0)  # the log-scales
    p = probabilities(family, h)
    expected = [(np.arange(48) * p.sum(tuple(j for j in range(3) if j != c))).sum() for c in range(3)]
    np.testing.assert_allclose(mean_of(family(h[None, None]))[0], expected, atol=0.02)


def test_mode_of_the_logistic() -> None:
    """The bin of the mean, or an open end with more mass, by comparison with all bins."""
    family, x = DiscretisedLogistic(9), jnp.arange(9)
    h = network_output(family, 300, 1)
    log_p = jax.jit(jax.vmap(lambda one: family(jnp.broadcast_to(one, (9, 1, 2))).log_prob(x[:, None])))(h[:, 0])
    best = jnp.take_along_axis(log_p, mode_of(family(h)), axis=1)[:, 0]
    np.testing.assert_allclose(best, log_p.max(1), atol=1e-6)
    assert len(np.unique(mode_of(family(h)))) > 4


def test_nvaes_form_counts_the_last_value_twice() -> None:
    """Of 256 values 254 lies in the last bin too, so that P sums to 1 + P(255); with 32 values P sums to 1."""
    h = jnp.asarray([[[3.0, 0.99, -4.0]]])  # [B, 1, logit, mean, log scale]
    eight = LogisticMixture(1, 256, channels=1, form="nvae")
    each = probabilities(eight, h[0, 0])
    assert each.sum() == pytest.approx(1.0 + each[255], abs=1e-4)
    assert each[254] > 1.2 * probabilities(LogisticMixture(1, 256, channels=1), h[0, 0])[254]
    assert probabilities(LogisticMixture(1, 32, channels=1, form="nvae"), h[0, 0]).sum() == pytest.approx(1.0, abs=1e-4)


def test_the_published_form_is_near_the_exact_one() -> None:
    """Equal up to rounding in bins of 1e-5 or more; in the tails log P differs by at most 0.5."""
    exact, published = (LogisticMixture(3, 32, channels=1, form=form) for form in ("exact", "published"))
    h = network_output(exact, 400, 1, spread=1.0)
    x = jnp.asarray(np.random.default_rng(2).integers(0, 32, (400, 1)))
    got, expected = log_prob_of(published(h), x), log_prob_of(exact(h), x)
    common = np.asarray(expected) > np.log(1e-3)
    assert common.sum() > 200
    np.testing.assert_allclose(got[common], expected[common], atol=2e-3)
    assert probabilities(published, h[0, 0]).sum() == pytest.approx(1.0, abs=1e-4)


def test_bins_that_overlap() -> None:
    """VDVAE's five bits: a flat density sums to (2/31)/(8/127.5), and no value reaches the last bin, white."""
    family = LogisticMixture(1, 32, channels=1, form="vdvae_5_bits")
    flat, white = jnp.array([0.0, -0.05, -2.5]), jnp.array([0.0, 0.95, -2.0])
    inner = probabilities(family, flat)[8:24].sum() / probabilities(LogisticMixture(1, 32, 1), flat)[8:24].sum()
    assert inner == pytest.approx((2 / 31) / (8 / 127.5), abs=0.03)
    assert probabilities(family, white).sum() == pytest.approx(0.56, abs=0.01)
    assert probabilities(LogisticMixture(1, 32, 1), white).sum() == pytest.approx(1.0, abs=1e-5)
    record = family(jnp.broadcast_to(flat.at[2].set(-7.0), (9, 1, 3)))
    assert (draw_from(record, KEY) == round(0.95 / (8 / 127.5))).all()


@pytest.mark.slow
def test_one_scale_for_all() -> None:
    """The scale is a parameter of the model: the network outputs the mean alone, and gradients reach the scale."""
    family = DiscretisedLogistic(17, scale="global")
    model, x = VAE(latents=2, hidden=4, likelihood=family), jnp.asarray(np.arange(12).reshape(3, 4))
    params = jax.jit(model.init)(KEY, x, KEY)["params"]
    assert params["logistic"]["log_scale"].shape == ()
    assert params["readout"]["bias"].shape == (4, 1)

    @jax.jit
    def slope(params: Any) -> Any:
        return jax.value_and_grad(lambda params: model.apply({"params": params}, x, KEY).log_px.sum())(params)

    value, gradient = slope(params)
    assert np.isfinite(value)
    assert np.abs(gradient["logistic"]["log_scale"]) > 1e-3
    trace = model.apply({"params": {**params, "logistic": {"log_scale": jnp.float32(-1.5)}}}, x, KEY)
    assert trace.x_dist.log_scale.shape == (3, 4)
    assert (trace.x_dist.log_scale == -1.5).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        TopDownVAE((2, 2), hidden=4, likelihood=LogisticMixture(2, 8)),
        VAE(latents=2, hidden=4, network="conv", width=2, likelihood=LogisticMixture(2, 8)),
    ],
)
def test_models_of_colour_images(model: Any) -> None:
    """Models keep the image's shape in scores, draws and reconstructions; other numbers of channels are an error."""
    x = jnp.asarray(np.random.default_rng(0).integers(0, 8, (2, 4, 8, 3)), jnp.uint8)
    variables = jax.jit(model.init)(KEY, x, KEY)
    trace = jax.jit(lambda v: model.apply(v, x, KEY))(variables)
    assert isinstance(trace.x_dist, LogisticMixtureRecord)
    assert jnp.isfinite(trace.log_px).all()
    drawn = jax.jit(lambda v: model.apply(v, KEY, 5, method="generate"))(variables)
    assert drawn.shape == (5, 4, 8, 3)
    mean = jax.eval_shape(lambda v: model.apply(v, x, KEY, method="reconstruct"), variables)
    assert mean.shape == x.shape
    with pytest.raises(ValueError, match=r"3 channels of a pixel together.*\(4, 8, 1\)"):
        jax.eval_shape(model.init, KEY, x[..., :1], KEY)
    with pytest.raises(ValueError, match=r"initialised for examples of \(4, 8, 3\)"):
        jax.eval_shape(model.apply, variables, x[:, :, :4], KEY)


def test_maps_of_numbers() -> None:
    """A network's output feature map has `outputs` channels, however many channels share a set of parameters."""
    for family, channels, expected in (
        (LogisticMixture(10), 3, 100),
        (LogisticMixture(10, channels=1), 1, 30),
        (LogisticMixture(10, channels=1), 3, 90),
        (DiscretisedLogistic(scale="global"), 3, 3),
        (Bernoulli(), 1, 1),
    ):
        assert family.outputs(channels) == expected
    family = LogisticMixture(2)
    h = network_output(family, 2, 4, 4)
    np.testing.assert_array_equal(family.from_map(h).location, family(h[..., None, :]).location)
    with pytest.raises(ValueError, match="takes 3 channels together, but x has 1"):
        family.outputs(1)


def test_a_pixelcnn_over_logistics() -> None:
    """The base may be a likelihood of one element, seen from -1 to 1, but not one of three channels together."""
    family = PixelCNN(DiscretisedLogistic(5), layers=2, width=4)
    np.testing.assert_allclose(family.as_input(jnp.array([0, 2, 4])), [-1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="set its channels to 1"):
        PixelCNN(LogisticMixture(2))
    model, x = VAE(latents=2, hidden=4, likelihood=family), jnp.asarray(np.arange(32).reshape(2, 4, 4, 1) % 5)
    variables = jax.jit(model.init)(KEY, x, KEY)
    assert jnp.isfinite(jax.jit(lambda v: model.apply(v, x, KEY).log_px)(variables)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiscretisedLogistic(1), r"values=1\): at least 2"),
        (lambda: DiscretisedLogistic(scale="pixel"), r"scale='pixel'\): it has to be 'element' or 'global'"),
        (lambda: DiscretisedLogistic(added=-1e-7), r"added=-1e-07\): both have to be finite, the latter 0 or more"),
        (lambda: DiscretisedLogistic(min_log_scale=float("-inf")), r"min_log_scale=-inf, .* have to be finite"),
        (lambda: LogisticMixture(0), r"mixtures=0, values=256\)"),
        (lambda: LogisticMixture(values=1), "2 values"),
        (lambda: LogisticMixture(channels=2), r"channels=2\): 1, or 3"),
        (
            lambda: LogisticMixture(form="other"),
            r"form='other'\): it has to be 'exact', 'published', 'nvae', 'srvae', 'vdvae_5_b",
        ),
        (lambda: LogisticMixture(form="vdvae_5_bits"), "5 bits have 32 values"),
        (lambda: LogisticMixture(values=32).check(np.full((2, 3), 40)), r"40 at index \(0, 0\).*0..31.*values=41"),
        (lambda: LogisticMixture().check(np.zeros((2, 4, 4, 1))), r"shape \(2, 4, 4, 1\).*Set channels=1"),
        (lambda: DiscretisedLogistic(4).check(np.array([[0.5]])), "Quantise"),
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    """Errors say what was given, what is allowed and what to do."""
    with pytest.raises(ValueError, match=message):
        make()


def test_a_bound_is_exported_for_every_platform() -> None:
    """Only gradients ask a TPU for an order in memory, which `jax.export` refuses."""
    x = jnp.zeros((2, 16, 16, 3), jnp.uint8)
    shape = jax.ShapeDtypeStruct((2, 16, 16, 100), jnp.float32)

    def log_prob(h: Array) -> Array:
        return LogisticMixture()(h).log_prob(x)

    assert export.export(jax.jit(log_prob), platforms=["cpu", "tpu", "cuda"])(shape).serialize()
    lowered = jax.jit(jax.grad(lambda h: log_prob(h).sum())).trace(shape).lower(lowering_platforms=("tpu",))
    assert "LayoutConstraint" in lowered.as_text()
