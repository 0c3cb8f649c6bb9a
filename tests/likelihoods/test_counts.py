"""Poisson and negative binomial likelihoods: float64's values at any count, sums of 1, draws that follow, errors."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import gammaln

from hvae_jax import data
from hvae_jax.likelihoods import (
    Categorical,
    NegativeBinomial,
    NegativeBinomialRecord,
    Poisson,
    PoissonRecord,
    for_data,
)
from hvae_jax.likelihoods.counts import LARGEST, _inverted, sample_poisson

RATES = (2e-9, 1e-3, 0.7, 9.0, 11.0, 300.0, 1e6)
SIZES = (1e-3, 0.5, 10.0, 1e4, 1e8)
SUMMED = ((0.3, 0.5), (4.0, 0.8), (30.0, 5.0))  # (mean, size)
WEIGHT = 0.2  # of the additional zeros
DRAWS = 20_000
MOST = 400  # counts that are summed over


def poisson_grid() -> tuple[np.ndarray, np.ndarray]:
    """Counts at quantiles of each rate and far from it, and the log rates, `[N]` each."""
    pairs = [
        (x, np.float32(np.log(rate)))
        for rate in RATES
        for x in {0, 1, 2, 40, 10**6, *stats.poisson.ppf([0.01, 0.5, 0.99], rate).astype(int).tolist()}
    ]
    return np.array([x for x, _ in pairs], np.int32), np.array([h for _, h in pairs])


def negative_binomial_grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, log means and log sizes, `[N]` each."""
    made = [
        (x, np.float32(np.log(mean)), np.float32(np.log(r)))
        for mean in RATES
        for r in SIZES
        for x in {0, 1, 2, 40, 10**6, *np.minimum(stats.nbinom.ppf([0.1, 0.5, 0.9], r, r / (r + mean)), 1e7).tolist()}
    ]
    x, log_mean, log_size = zip(*made, strict=True)
    return np.array(x, np.int32), np.array(log_mean), np.array(log_size)


def exact_negative_binomial(x: Any, log_mean: Any, log_size: Any) -> np.ndarray:
    """log NB(x; m, r) in float64, of the float32 parameters."""
    x, m, r = np.float64(x), np.exp(np.float64(log_mean)), np.exp(np.float64(log_size))
    whole = gammaln(x + r) - gammaln(r) - gammaln(x + 1)
    return whole - r * np.log1p(m / r) - x * np.log1p(r / m)


@functools.cache
def found() -> dict[str, np.ndarray]:
    """All that the tests look at, by one compiled program."""
    x, h = poisson_grid()
    nb_x, log_mean, log_size = negative_binomial_grid()
    sums = jnp.arange(MOST)[None] * jnp.ones((len(SUMMED), 1), jnp.int32)  # [S, MOST]
    m, r = (jnp.log(jnp.asarray(part))[:, None] for part in zip(*SUMMED, strict=True))  # [S, 1]
    zero = jnp.full_like(m, np.log(WEIGHT / (1 - WEIGHT)))

    def elementwise(record: Any, x: Any) -> jax.Array:
        flat = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, x.shape).reshape(-1, 1), record)
        return flat.log_prob(x.reshape(-1, 1)).reshape(x.shape)

    def program(key: jax.Array, h: Any, log_mean: Any, log_size: Any, x: Any) -> dict[str, Any]:
        one = jax.vmap(jax.value_and_grad(lambda h, x: PoissonRecord(h[None, None]).log_prob(x[None, None])[0]))
        two = jax.vmap(
            jax.value_and_grad(lambda h, x: NegativeBinomialRecord(h[:1, None], h[1:, None]).log_prob(x[None, None])[0])
        )
        poisson, slope = one(h, x)
        negative, slopes = two(jnp.stack([log_mean, log_size], -1), nb_x)
        records = {"poisson": PoissonRecord(m), "nb": NegativeBinomialRecord(m, r)}
        records["zeros"] = NegativeBinomialRecord(m, r, zero)
        numbers = {"poisson": poisson, "poisson_slope": slope, "negative": negative, "negative_slopes": slopes}
        for name, record in records.items():
            numbers[f"{name}_p"] = jnp.exp(elementwise(record, sums))
            numbers[f"{name}_mean"], numbers[f"{name}_mode"] = record.mean, record.mode
        many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, 0], (DRAWS, len(SUMMED))), records["zeros"])
        numbers["zeros_x"], numbers["zeros_cold"] = many.sample(key), many.sample(key, jnp.float32(0.0))
        numbers["zeros_half"] = many.sample(key, jnp.float32(0.5))
        rates = jnp.log(jnp.asarray(RATES))
        numbers["poisson_x"] = sample_poisson(key, jnp.broadcast_to(rates, (DRAWS, len(RATES))))
        numbers["edges"] = sample_poisson(key, jnp.asarray([-1e4, 60.0, 88.0]))
        return numbers

    return jax.device_get(jax.jit(program)(jax.random.key(0), h, log_mean, log_size, x))


def test_poisson_is_scipys() -> None:
    """To 1e-5 of the value, and to 2e-3 nats at a million, where log Gamma has steps of 1 in float32."""
    x, h = poisson_grid()
    expected = stats.poisson.logpmf(x, np.exp(np.float64(h)))
    np.testing.assert_allclose(found()["poisson"], expected, rtol=1e-5, atol=2e-3)
    few = (x < 1000) & (h < 7)
    np.testing.assert_allclose(found()["poisson"][few], expected[few], rtol=2e-6, atol=1e-5)


def test_negative_binomial_is_exact() -> None:
    """From sizes of 1/1000 to 1e8, where it is a Poisson variable; and scipy's in the middle."""
    x, log_mean, log_size = negative_binomial_grid()
    expected = exact_negative_binomial(x, log_mean, log_size)
    np.testing.assert_allclose(found()["negative"], expected, rtol=1e-5, atol=2e-3)
    few = (x < 1000) & (log_mean < 7)
    np.testing.assert_allclose(found()["negative"][few], expected[few], rtol=3e-6, atol=2e-5)
    np.testing.assert_allclose(
        exact_negative_binomial(7, np.log(3.0), np.log(0.5)), stats.nbinom.logpmf(7, 0.5, 0.5 / 3.5), rtol=1e-10
    )


def test_gradients_are_finite_and_right() -> None:
    """d log p/d log rate = x - rate; of the negative binomial in its mean r (x - m)/(r + m), in its size finite."""
    x, h = poisson_grid()
    rate = np.exp(np.float64(h))
    slack = np.maximum(1e-6, 2e-6 * (x + rate))  # of a difference of numbers as large as these
    assert (np.abs(found()["poisson_slope"] - (x - rate)) < slack).all()
    x, log_mean, log_size = negative_binomial_grid()
    m, r = np.exp(np.float64(log_mean)), np.exp(np.float64(log_size))
    slopes = found()["negative_slopes"]
    expected = (x - m) / (1 + m / r)
    slack = np.maximum(1e-6, 4e-6 * (x + m / (1 + m / r)))
    assert (np.abs(slopes[:, 0] - expected) < slack).all()
    step = 1e-6
    higher, lower = (exact_negative_binomial(x, log_mean, np.float64(log_size) + sign * step) for sign in (1, -1))
    fine = (r < 1e3) & (x < 1e4)  # elsewhere the difference has lost its digits
    np.testing.assert_allclose(slopes[fine, 1], ((higher - lower) / (2 * step))[fine], rtol=1e-3, atol=1e-4)
    assert np.isfinite(slopes).all()


def test_probabilities_sum_to_one() -> None:
    """Over 0..399, beyond which the heaviest tail has 2e-6; the mean and mode are those of the sums."""
    tail = max(stats.nbinom.sf(MOST - 1, r, r / (r + mean)) for mean, r in SUMMED)
    assert tail < 2e-6
    for name in ("poisson", "nb", "zeros"):
        p = np.float64(found()[f"{name}_p"])
        np.testing.assert_allclose(p.sum(1), 1.0, atol=2e-6 + tail)
        np.testing.assert_allclose(p @ np.arange(MOST), found()[f"{name}_mean"][:, 0], rtol=1e-4)
        best = np.take_along_axis(p, found()[f"{name}_mode"], 1)[:, 0]
        np.testing.assert_allclose(best, p.max(1), rtol=1e-5)  # two counts may tie
    weighed = (1 - WEIGHT) * found()["nb_p"]
    weighed[:, 0] += WEIGHT
    np.testing.assert_allclose(found()["zeros_p"], weighed, rtol=1e-5)


def test_draws_follow() -> None:
    """Kolmogorov's distance of 20,000 draws from the distribution, below its 0.1% point; all draws are counts."""
    most = 1.95 / np.sqrt(DRAWS)
    for x, rate in zip(found()["poisson_x"].T, RATES, strict=True):
        assert (
            distance(x, lambda k, rate=rate: stats.poisson.cdf(k, np.exp(np.float64(np.float32(np.log(rate)))))) < most
        )
    for x, (mean, r) in zip(found()["zeros_x"].T, SUMMED, strict=True):
        cdf = functools.partial(stats.nbinom.cdf, n=r, p=r / (r + mean))
        assert distance(x, lambda k, cdf=cdf: WEIGHT + (1 - WEIGHT) * cdf(k)) < most
    assert found()["edges"].tolist() == [0, LARGEST, LARGEST]
    assert found()["zeros_x"].dtype == np.int32 and found()["zeros_x"].min() == 0


def test_the_largest_uniform_number_draws_no_outlier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded probabilities may sum to less than it: then no larger count has a probability."""
    rates = np.linspace(0.001, 9.99, 5000, dtype=np.float32)
    largest = np.float32(1 - 2**-23)
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, largest, dtype))
    drawn = np.asarray(_inverted(jax.random.key(0), jnp.asarray(rates)))
    assert (drawn <= stats.poisson.isf(1e-9, rates)).all() and (drawn >= stats.poisson.isf(1e-6, rates)).all()


def distance(x: np.ndarray, cdf: Any) -> float:
    """The largest difference of the cumulative frequencies of draws and their probabilities."""
    values, counts = np.unique(x, return_counts=True)
    return np.abs(np.cumsum(counts) / len(x) - cdf(values)).max()


def test_temperature_moves_towards_the_mode() -> None:
    mode = found()["zeros_mode"][:, 0]
    assert (found()["zeros_cold"] == mode).all()
    away = found()["zeros_x"] - mode
    np.testing.assert_array_equal(found()["zeros_half"], mode + np.rint(0.5 * away))


def test_impossible_counts_have_no_probability() -> None:
    """-1 and 1.5 score -inf, for each family, and are refused as data, with what to do."""
    for family in (Poisson(), NegativeBinomial(), NegativeBinomial(zeros=True)):
        record = family(jnp.zeros((3, 1, family.parameters)))
        log_p = record.log_prob(jnp.array([[-1.0], [1.5], [2.0]]))
        assert np.isneginf(log_p[:2]).all() and np.isfinite(log_p[2])
        for bad, said in ((-1.0, r"-1.0 at index \(1,\)"), (1.5, "1.5"), (np.nan, "nan")):
            with pytest.raises(ValueError, match=rf"x holds {said}.*counts only.*raw counts"):
                family.check(np.array([3.0, bad]))
        family.check(np.array([0, 10**6]))
    for wrong in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="positive and finite"):
            Poisson(bound=wrong)
        with pytest.raises(ValueError, match="positive and finite"):
            NegativeBinomial(bound=wrong)


def test_extreme_network_outputs() -> None:
    """At outputs of ±1e4 values and gradients are finite, bounded or not; uint8 counts score as int32 ones do."""
    families = (Poisson(), Poisson(bound=None), NegativeBinomial(zeros=True))
    x = jnp.array([[0], [10**6], [0], [10**6]])
    hs = [jnp.concatenate([jnp.full((2, 1, f.parameters), a) for a in (-1e4, 1e4)]) for f in families]

    def three(hs: list[jax.Array]) -> jax.Array:
        return sum(f(h).log_prob(x)[:3].sum() for f, h in zip(families, hs, strict=True))

    value, slopes = jax.jit(jax.value_and_grad(three))(hs)
    assert np.isfinite(value) and all(np.isfinite(slope).all() for slope in slopes)
    h, x = jnp.ones((1, 3, 1)), jnp.array([[0, 7, 255]])
    assert Poisson()(h).log_prob(x.astype(jnp.uint8)) == Poisson()(h).log_prob(x)


def test_marginals_are_the_columns_own() -> None:
    """Means and variances of the record at `marginals` are the examples'; empty columns have half an event."""
    x = np.random.default_rng(0).negative_binomial(2.0, 0.1, (4000, 3)) * np.array([1, 1, 0])
    mean = x.mean(0)
    for family in (Poisson(), NegativeBinomial()):
        record = family(family.marginals(jnp.asarray(x))[None])
        np.testing.assert_allclose(record.mean[0, :2], mean[:2], rtol=1e-3)
        np.testing.assert_allclose(record.mean[0, 2], 0.5 / 4000, rtol=1e-3)
    size = np.exp(np.float64(record.log_size[0, 0]))
    np.testing.assert_allclose(mean[0] + mean[0] ** 2 / size, x[:, 0].var(), rtol=1e-2)


def test_networks_see_logarithms() -> None:
    """log(1 + x) of any dtype, and odd, since pseudo-inputs may be negative."""
    x = np.array([[0, 1, 255]])
    for dtype in (np.uint8, np.int32, np.float32):
        np.testing.assert_allclose(Poisson().as_input(jnp.asarray(x.astype(dtype))), np.log1p(x), rtol=1e-6)
    np.testing.assert_allclose(NegativeBinomial().as_input(jnp.array([-1.0])), -np.log(2.0), rtol=1e-6)


def test_counts_in_an_npz(tmp_path: Path) -> None:
    """int64 counts above 255 are read as they are; the likelihood suggested for them is one of counts."""
    x = np.array([[0, 10**6], [3, 4], [7, 0]])
    np.savez(tmp_path / "counts.npz", x_train=x, x_validation=x[:1])
    read = data.load(str(tmp_path / "counts.npz"))
    np.testing.assert_array_equal(read.splits["train"].x, x)
    assert for_data(read) == NegativeBinomial()
    np.savez(tmp_path / "few.npz", x_train=x % 7, x_validation=x[:1] % 7)
    assert isinstance(for_data(data.load(str(tmp_path / "few.npz"))), Categorical)


def test_the_made_table_is_the_same_everywhere() -> None:
    """Frozen by a hash; its counts vary more than Poisson variables given all else."""
    made = data.load("count_table")
    assert made.content_hash == "4bc0d453e1998812"
    assert made.event == (24,) and made.classes == 4 and len(made.splits["test"]) == 250
    NegativeBinomial().check(made.splits["train"].x)
    with pytest.raises(ValueError, match=r"count_table\(columns=0\)"):
        data.count_table(0)
