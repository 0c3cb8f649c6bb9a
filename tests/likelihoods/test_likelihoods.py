"""Likelihoods: SciPy's values, probabilities that sum to one, draws that follow them, errors that say what to do."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hvae_jax import data
from hvae_jax.likelihoods import (
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    Laplace,
    Likelihood,
    LikelihoodRecord,
    Missing,
    NegativeBinomial,
    PixelCNN,
    Poisson,
    for_data,
)

DRAWS = 100_000

# Jitted: op by op, each new shape compiles a dozen little programs.
log_prob_of = jax.jit(lambda record, x: record.log_prob(x))
draw_from = jax.jit(lambda record, key: record.sample(key))


def network_output(family: Likelihood, event: tuple[int, ...], batch: int = 1, seed: int = 0) -> jax.Array:
    """Random network output, `[batch, *event, parameters]`."""
    return 1.5 * jax.random.normal(jax.random.key(seed), (batch, *event, family.parameters))


def every_x(values: int, event: tuple[int, ...]) -> np.ndarray:
    """All x with elements in 0..values-1, `[values^D, *event]`."""
    return np.array(list(itertools.product(range(values), repeat=int(np.prod(event))))).reshape(-1, *event)


@pytest.mark.parametrize(
    ("family", "event"), [(Bernoulli(), ()), (Bernoulli(), (2, 2, 1)), (Categorical(3), (2, 2, 1)), (Gaussian(), (3,))]
)
def test_records_answer_the_protocol(family: Likelihood, event: tuple[int, ...]) -> None:
    """log_prob is `[B]`; sample, mean and mode are `[B, *event]`; mean is a float; draws pass the family's check."""
    record = jax.jit(family)(network_output(family, event, batch=4))
    assert isinstance(record, LikelihoodRecord)
    assert isinstance(family, Likelihood)
    x = draw_from(record, jax.random.key(1))
    assert x.shape == record.mean.shape == record.mode.shape == (4, *event)
    assert log_prob_of(record, x).shape == (4,)
    assert jnp.isfinite(log_prob_of(record, x)).all()
    assert jnp.issubdtype(record.mean.dtype, jnp.floating)
    family.check(np.asarray(x))
    family.check(np.asarray(record.mode))


@pytest.mark.parametrize(("family", "event"), [(Bernoulli(), (2, 3)), (Categorical(2), (6,)), (Categorical(5), (3, 1))])
def test_probabilities_sum_to_one(family: Likelihood, event: tuple[int, ...]) -> None:
    """Over all x of a few pixels."""
    x = every_x(2 if isinstance(family, Bernoulli) else family.num_values, event)
    h = jnp.broadcast_to(network_output(family, event), (len(x), *event, family.parameters))
    np.testing.assert_allclose(np.exp(log_prob_of(family(h), jnp.asarray(x))).sum(), 1.0, rtol=1e-5)


def test_gaussian_integrates_to_one() -> None:
    """Over one real pixel, by the trapezoid rule."""
    family, x = Gaussian(), np.linspace(-60, 60, 40_001)
    h = jnp.broadcast_to(network_output(family, (1,)), (len(x), 1, 2))
    density = np.exp(log_prob_of(family(h), jnp.asarray(x, jnp.float32)[:, None]), dtype=np.float64)
    np.testing.assert_allclose(np.trapezoid(density, x), 1.0, rtol=1e-4)


def test_bernoulli_is_scipys() -> None:
    """log Bernoulli(x; sigmoid(logit)); fractions give the cross-entropy, linear in x."""
    h = network_output(Bernoulli(), (4, 3), batch=6)
    p = 1 / (1 + np.exp(-np.asarray(h[..., 0], np.float64)))
    x = np.asarray(draw_from(Bernoulli()(h), jax.random.key(1)))
    expected = stats.bernoulli.logpmf(x, p).sum((1, 2))
    np.testing.assert_allclose(log_prob_of(Bernoulli()(h), jnp.asarray(x)), expected, rtol=1e-5)
    expected = (0.3 * np.log(p) + 0.7 * np.log(1 - p)).sum((1, 2))
    np.testing.assert_allclose(log_prob_of(Bernoulli()(h), jnp.full((6, 4, 3), 0.3)), expected, rtol=1e-5)


def test_bernoulli_of_p() -> None:
    """Equal to the exact form if p is far from 0 and 1; if p rounds to one of them, logarithms stop at -100."""
    family, exact = Bernoulli(form="of_p"), Bernoulli()
    h = network_output(family, (4, 3), batch=6)
    x = draw_from(exact(h), jax.random.key(1))
    np.testing.assert_allclose(log_prob_of(family(h), x), log_prob_of(exact(h), x), rtol=1e-5)
    far = jnp.array([20.0, -120.0, 120.0])[:, None, None]
    np.testing.assert_allclose(log_prob_of(family(far), jnp.array([[0], [1], [1]])), [-100.0, -100.0, 0.0])
    np.testing.assert_allclose(log_prob_of(exact(far), jnp.array([[0], [1], [1]])), [-20.0, -120.0, 0.0], atol=1e-6)
    for wrong in ({"form": "logits"}, {"form": "of_p", "min_probability": 1e-7}, {"min_probability": -1e-7}):
        with pytest.raises(ValueError, match=r"Bernoulli\("):
            Bernoulli(**wrong)


def test_bernoulli_of_p_has_a_gradient() -> None:
    """The derivative in the logit is x - p, also where p rounds to 0 or 1, from a logit of 17 in float32 on."""
    logits = jnp.array([-1e30, -120.0, -17.0, -3.0, 0.0, 3.0, 16.6, 17.0, 40.0, 120.0, 1e30])[:, None]
    family = Bernoulli(form="of_p")
    for x in (0.0, 1.0, 0.3):
        slope = jax.grad(lambda h, x=x: family(h[..., None]).log_prob(jnp.full(h.shape, x)).sum())(logits)
        np.testing.assert_allclose(slope, x - jax.nn.sigmoid(logits), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_bernoulli_takes_any_dtype(dtype: type) -> None:
    """Zeros and ones score the same as uint8, int32 and float32: no unsigned arithmetic wraps."""
    record = Bernoulli()(network_output(Bernoulli(), (5,), batch=3))
    clipped = Bernoulli(1e-7)(network_output(Bernoulli(), (5,), batch=3))
    x = np.array([[0, 1, 0, 1, 1]] * 3)
    for one in (record, clipped):
        got, expected = log_prob_of(one, jnp.asarray(x.astype(dtype))), log_prob_of(one, jnp.asarray(x, jnp.float32))
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_categorical_is_scipys(dtype: type) -> None:
    """log Multinomial(1, softmax(logits)) of each element, for any dtype that holds the class numbers."""
    family = Categorical(17)
    h = network_output(family, (4, 2), batch=5)
    p = np.exp(np.asarray(h, np.float64))
    p /= p.sum(-1, keepdims=True)
    x = np.asarray(draw_from(family(h), jax.random.key(1)))
    expected = stats.multinomial.logpmf(np.eye(17)[x], 1, p).sum((1, 2))
    np.testing.assert_allclose(log_prob_of(family(h), jnp.asarray(x.astype(dtype))), expected, rtol=1e-5)


def test_gaussian_is_scipys() -> None:
    """log N(x; mean, exp(log_std)^2) with log_std = 5 tanh(h / 5)."""
    h = 4.0 * network_output(Gaussian(), (3,), batch=5)
    x = np.asarray(draw_from(Gaussian()(h), jax.random.key(1)), np.float64)
    mean, log_std = np.moveaxis(np.asarray(h, np.float64), -1, 0)
    expected = stats.norm.logpdf(x, mean, np.exp(5 * np.tanh(log_std / 5))).sum(1)
    np.testing.assert_allclose(log_prob_of(Gaussian()(h), jnp.asarray(x, jnp.float32)), expected, rtol=1e-4)


def test_log_prob_adds_over_pixels_only() -> None:
    """Each example has its own nats: reordering the batch reorders them."""
    for family in (Bernoulli(), Categorical(4), Gaussian()):
        h = network_output(family, (2, 2), batch=3)
        x = draw_from(family(h), jax.random.key(0))
        there, back = log_prob_of(family(h), x), log_prob_of(family(h[::-1]), x[::-1])
        np.testing.assert_allclose(there, back[::-1], rtol=1e-6)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
@pytest.mark.parametrize("x", [0, 1])
def test_bernoulli_at_extreme_logits(logit: float, x: int) -> None:
    """At logits of 1e4 -log p is 0 or 1e4 nats, and the gradient of log p is x - p."""
    logits, x_array = jnp.full((1, 1, 1), logit), jnp.full((1, 1), x, jnp.uint8)
    value, slope = jax.jit(jax.value_and_grad(lambda h: Bernoulli()(h).log_prob(x_array)[0]))(logits)
    right = (logit > 0) == bool(x)
    assert value == (0.0 if right else -1e4)
    assert slope[0, 0, 0] == (0.0 if right else x - float(logit > 0))


@pytest.mark.parametrize("scale", [1e4, -1e4])
@pytest.mark.parametrize("x", [0, 1, 2])
def test_categorical_at_extreme_logits(scale: float, x: int) -> None:
    """At logits of 1e4 the value and its gradient, one_hot(x) - p, are finite and exact."""
    h, x_array = jnp.array([[[scale, 0.0, -scale]]]), jnp.full((1, 1), x)
    value, slope = jax.jit(jax.value_and_grad(lambda h: Categorical(3)(h).log_prob(x_array)[0]))(h)
    best = int(np.argmax([scale, 0.0, -scale]))
    assert value == float(h[0, 0, x] - h[0, 0, best])
    np.testing.assert_array_equal(slope[0, 0], np.eye(3)[x] - np.eye(3)[best])


def test_gaussian_at_extreme_outputs() -> None:
    """At a network output of 1e4 log_std is at its bound, so the density and its gradient stay finite."""
    for log_std in (-1e4, 1e4):
        h, x = jnp.array([[[1e4, log_std]]]), jnp.array([[-1e4]])
        value, slope = jax.jit(jax.value_and_grad(lambda h, x=x: Gaussian()(h).log_prob(x)[0]))(h)
        expected = stats.norm.logpdf(-1e4, 1e4, np.exp(np.sign(log_std) * 5))
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert jnp.isfinite(slope).all()


@pytest.mark.parametrize("min_probability", [0.0, 1e-7])
@pytest.mark.parametrize("bad", [-1.0, 3.0, 0.5, np.nan])
def test_impossible_categories_have_no_probability(bad: float, min_probability: float) -> None:
    """A value that is not one of 0..K-1 scores -inf, never a neighbour's probability; other examples do not change."""
    record = Categorical(3, min_probability)(network_output(Categorical(3), (2,), batch=2))
    log_prob = log_prob_of(record, jnp.array([[0.0, bad], [0.0, 2.0]]))
    assert log_prob[0] == -jnp.inf
    assert jnp.isfinite(log_prob[1])


def test_min_probability_is_the_articles_clamp() -> None:
    """log of the probability clipped to [1e-7, 1 - 1e-7], as the article's code takes it."""
    eps = 1e-7
    logits = jnp.array([[40.0, -40.0, 0.3]])
    p = np.clip(1 / (1 + np.exp(-np.asarray(logits, np.float64))), eps, 1 - eps)
    for x in np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.5, 0.25, 0.75]]):
        expected = (x * np.log(p) + (1 - x) * np.log1p(-p)).sum(-1)
        got = log_prob_of(Bernoulli(eps)(logits[..., None]), jnp.asarray(x, jnp.float32)[None])
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    h = jnp.array([[[40.0, 0.0, -40.0]]])
    p = np.clip(np.exp([40.0, 0.0, -40.0]) / np.exp([40.0, 0.0, -40.0]).sum(), eps, 1 - eps)
    for x in range(3):
        got = log_prob_of(Categorical(3, eps)(h), jnp.full((1, 1), x))
        np.testing.assert_allclose(got, [np.log(p[x])], rtol=1e-6, atol=1e-8)


def test_clamped_categorical_still_sums_to_one_inside() -> None:
    """If no probability is near 0 or 1 the clamp changes nothing."""
    h = network_output(Categorical(4), (3,), batch=5)
    x = draw_from(Categorical(4)(h), jax.random.key(0))
    np.testing.assert_array_equal(log_prob_of(Categorical(4, 1e-7)(h), x), log_prob_of(Categorical(4)(h), x))


def frequencies_agree(x: np.ndarray, p: np.ndarray) -> None:
    """Counts of `[DRAWS, D]` against probabilities `[D, K]`: 4.5 binomial standard errors each, and chi-square."""
    counts = (x[..., None] == np.arange(p.shape[-1])).sum(0)
    alive = p > 0
    assert (counts[~alive] == 0).all()
    error = np.sqrt(len(x) * p * (1 - p))
    assert (np.abs(counts - len(x) * p)[alive] < 4.5 * error[alive] + 0.5).all()
    for one_counts, one_p in zip(counts, p, strict=True):
        likely = len(x) * one_p > 5
        if likely.sum() < 2:
            continue
        expected = one_p[likely] / one_p[likely].sum() * one_counts[likely].sum()
        assert stats.chisquare(one_counts[likely], expected).pvalue > 1e-5


def test_bernoulli_draws_follow_their_probabilities() -> None:
    """Frequencies of each pixel, including pixels that are 0 or 1 with certainty."""
    logits = jnp.array([-3.0, -0.5, 0.0, 2.0, 1e4, -1e4])
    p1 = np.asarray(jax.nn.sigmoid(logits), np.float64)
    x = draw_from(Bernoulli()(jnp.broadcast_to(logits[:, None], (DRAWS, 6, 1))), jax.random.key(5))
    frequencies_agree(np.asarray(x), np.stack([1 - p1, p1], -1))


@pytest.mark.parametrize("k", [2, 17, 256])
def test_categorical_draws_follow_their_probabilities(k: int) -> None:
    """Frequencies of each class; classes of probability zero, first, last and between, are never drawn."""
    logits = np.array(network_output(Categorical(k), (2,))[0])
    if k > 2:
        logits[0, [0, 1, k // 2, k - 1]] = -1e9
        logits[1, : k // 2] = -1e9
    draws = DRAWS if k < 256 else DRAWS // 5
    x = draw_from(Categorical(k)(jnp.broadcast_to(jnp.asarray(logits), (draws, 2, k))), jax.random.key(6))
    weights = np.exp(logits - logits.max(-1, keepdims=True), dtype=np.float64)
    frequencies_agree(np.asarray(x), weights / weights.sum(-1, keepdims=True))


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-23])
@pytest.mark.parametrize("alive", [(0,), (1,), (4,), (0, 4), (1, 3)])
def test_ends_of_the_unit_interval(monkeypatch: pytest.MonkeyPatch, uniform: float, alive: tuple[int, ...]) -> None:
    """The smallest and the largest uniform number give the first and the last class that has any probability."""
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, uniform, dtype))
    logits = jnp.full((1, 1, 5), -1e9).at[..., list(alive)].set(0.3)
    assert Categorical(5)(logits).sample(jax.random.key(0))[0, 0] == (alive[-1] if uniform else alive[0])
    for logit, value in ((1e4, 1), (-1e4, 0)):
        assert Bernoulli()(jnp.full((1, 1, 1), logit)).sample(jax.random.key(0))[0, 0] == value


def test_gaussian_draws_follow_their_law() -> None:
    """Kolmogorov-Smirnov of 100,000 draws."""
    h = jnp.broadcast_to(jnp.array([0.7, -1.0]), (DRAWS, 1, 2))
    x = np.asarray(draw_from(Gaussian()(h), jax.random.key(7)))[:, 0]
    assert stats.kstest(x, stats.norm(0.7, np.exp(5 * np.tanh(-0.2))).cdf).pvalue > 1e-4


def test_means_and_modes() -> None:
    """The mean is sum_x x p(x); the mode is the most probable value."""
    logits = jnp.array([[[-2.0], [0.5]]])
    np.testing.assert_allclose(Bernoulli()(logits).mean, 1 / (1 + np.exp([[2.0, -0.5]])), rtol=1e-6)
    np.testing.assert_array_equal(Bernoulli()(logits).mode, [[0, 1]])
    h = jnp.log(jnp.array([[[0.2, 0.5, 0.3], [0.0, 0.1, 0.9]]]))
    np.testing.assert_allclose(Categorical(3)(h).mean, [[1.1, 1.9]], rtol=1e-6)
    np.testing.assert_array_equal(Categorical(3)(h).mode, [[1, 2]])
    record = Gaussian()(jnp.array([[[0.7, -1.0]]]))
    np.testing.assert_array_equal(record.mean, record.mode)
    np.testing.assert_allclose(record.mean, [[0.7]])


def message_of(family: Likelihood, x: np.ndarray) -> str:
    """The family's error for data that it does not allow."""
    with pytest.raises(ValueError, match="x_train") as error:
        family.check(x, "x_train")
    return str(error.value)


def test_error_of_a_value_too_many() -> None:
    """Class 17 under Categorical(17): the value, where, what is allowed, and Categorical(18)."""
    x = np.zeros((4, 3), np.uint8)
    x[2, 1] = 17
    message = message_of(Categorical(17), x)
    for part in ("x_train", "17 at index (2, 1)", "(1 such value)", "0..16", "Categorical(18)"):
        assert part in message


def test_error_of_fractions_under_categorical() -> None:
    """Data scaled to [0, 1] under Categorical: quantise, or use Gaussian."""
    message = message_of(Categorical(256), np.array([[0.0, 0.5, 0.25]]))
    for part in ("0.5 at index (0, 1)", "(2 such values)", "0..255", "Quantise", "Gaussian()"):
        assert part in message


@pytest.mark.parametrize("bad", [-1.0, 1.5, 255.0, np.nan, np.inf])
def test_error_outside_the_unit_interval(bad: float) -> None:
    """Anything outside [0, 1] under Bernoulli: the value, where, what is allowed, what to do."""
    message = message_of(Bernoulli(), np.array([[0.0, 1.0], [bad, 0.5]]))
    for part in ("x_train", f"{bad!r} at index (1, 0)", "[0, 1]", "Scale or binarise", "Categorical", "Gaussian()"):
        assert part in message


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_error_of_what_is_not_finite(bad: float) -> None:
    """NaN under Gaussian, and NaN under Categorical without a crash in the hint."""
    message = message_of(Gaussian(), np.array([[0.0], [bad]]))
    for part in ("x_train", f"{bad!r} at index (1, 0)", "finite"):
        assert part in message
    assert "Quantise" in message_of(Categorical(3), np.array([[0.0], [bad]]))


@pytest.mark.parametrize(
    ("family", "x"),
    [
        (Bernoulli(), np.array([0, 1], bool)),
        (Bernoulli(), np.array([0.0, 0.3, 1.0])),
        (Categorical(17), np.array([0, 16], np.uint8)),
        (Categorical(17), np.array([0.0, 16.0])),
        (Gaussian(), np.array([-1e30, 3])),
    ],
)
def test_allowed_data_pass(family: Likelihood, x: np.ndarray) -> None:
    """Values of positive probability raise no error."""
    family.check(x)


def test_categorical_needs_two_values() -> None:
    """Fewer than two values are an error."""
    with pytest.raises(ValueError, match=r"num_values=1.*at least 2"):
        Categorical(1)
    for least in (-1e-7, 0.5):
        with pytest.raises(ValueError, match=r"Categorical\(min_probability=.*0 or more and below 1/2"):
            Categorical(3, least)


def test_for_data_picks_by_kind() -> None:
    """Binary data get Bernoulli, integers Categorical(K), real numbers Gaussian; an unknown kind is an error."""
    for kind, family in ((data.BINARY, Bernoulli()), (data.integer(17), Categorical(17)), (data.REAL, Gaussian())):
        assert for_data(SimpleNamespace(kind=kind)) == family
    with pytest.raises(ValueError, match="binary, integer and real"):
        for_data(SimpleNamespace(kind=data.Kind("complex")))


def test_categorical_of_256_values_takes_uint8() -> None:
    """As images are stored: a comparison in uint8 would take 256 for 0, and call every value impossible."""
    logits = jax.random.normal(jax.random.key(3), (2, 5, 256))
    x = jnp.array([[0, 1, 127, 128, 255], [7, 8, 9, 10, 254]], jnp.uint8)
    log_px = Categorical(256)(logits).log_prob(x)
    expected = jnp.take_along_axis(jax.nn.log_softmax(logits), x.astype(jnp.int32)[..., None], -1)[..., 0].sum(-1)
    np.testing.assert_allclose(log_px, expected, rtol=1e-5)


def test_a_gaussian_without_a_bound() -> None:
    """log_std is the network's output, however large."""
    h = jnp.array([[[0.5, -9.0], [0.5, 9.0]]])
    np.testing.assert_array_equal(Gaussian(bound=None)(h).normal.log_std, h[..., 1])
    assert (jnp.abs(Gaussian()(h).normal.log_std) < 5.0).all()


@pytest.mark.parametrize(
    ("family", "discrete"),
    [
        *((one, True) for one in (Bernoulli(), Categorical(3), Poisson(), NegativeBinomial(), PixelCNN())),
        *((one, False) for one in (Gaussian(), Laplace(), Beta(), ContinuousBernoulli(), PixelCNN(Gaussian()))),
        (Missing(Poisson()), True),
        (Missing(Beta()), False),
    ],
    ids=str,
)
def test_densities_and_probabilities(family: Likelihood, discrete: bool) -> None:
    """A range alone does not tell: densities on [0, 1] have one, counts have none."""
    assert family.discrete == discrete
