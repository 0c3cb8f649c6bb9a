"""Diagnostics against the closed forms of a linear-Gaussian hierarchy, and on models that ignore their latents."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import Case, case, every, jitter
from support.toys import BottomUp, CategoricalTop, pairs

import hvae_jax as hv
from hvae_jax import diagnostics
from hvae_jax.diagnostics import (
    UnitCounts,
    Usage,
    active_units,
    auroc,
    bootstrap,
    bound_above,
    cumulative,
    from_noise,
    information,
    interpolate,
    level_by_level,
    likelihood_ratio,
    linear_probe,
    moving_units,
    noise_of,
    standard_error,
    traverse,
    two_samples,
    usage,
    used_units,
)
from hvae_jax.models import VAE, ClosedForm, LinearVAE, TopDownVAE
from hvae_jax.models.linear_exact import GaussianVector

KEY = jax.random.key(3)
LEVELS, SIZE, PIXELS = 2, 2, 3


def linear(exact: bool = False) -> tuple[LinearVAE, Any, ClosedForm]:
    """A hierarchy of two levels, its variables, and its closed forms."""
    model = LinearVAE((SIZE,) * LEVELS, "exact" if exact else "shifted")
    params = jitter(model.init(jax.random.key(1), jnp.zeros((1, PIXELS)), KEY)["params"], scale=0.2)
    return model, {"params": params}, ClosedForm(model, {"params": params})


def drawn_from(oracle: ClosedForm, n: int, seed: int = 0) -> np.ndarray:
    """x ~ p(x), `[n, PIXELS]`."""
    rows = oracle.block(0)
    rng = np.random.default_rng(seed)
    x = rng.multivariate_normal(oracle.joint.mean[rows], oracle.joint.cov[np.ix_(rows, rows)], n)
    return x.astype(np.float32)


def marginal(oracle: ClosedForm, keep: int) -> tuple[GaussianVector, np.ndarray]:
    """q of the top `keep` latents over all x ~ p(x), and the covariance of q given x."""
    rows, size = oracle.block(0), keep * SIZE
    zero, basis = np.zeros((1, PIXELS)), np.eye(PIXELS)
    q = oracle.inference(np.concatenate([zero, basis]))
    slope = (q.mean[1:] - q.mean[0]).T[:size]  # [size, PIXELS]
    cov_x, mean_x = oracle.joint.cov[np.ix_(rows, rows)], oracle.joint.mean[rows]
    inside = q.cov[:size, :size]
    return GaussianVector(q.mean[0][:size] + slope @ mean_x, slope @ cov_x @ slope.T + inside), inside


def exact_information(oracle: ClosedForm, keep: int) -> float:
    """I_q(x; top latents) = (log |cov of q(z)| - log |cov of q(z | x)|) / 2."""
    over_x, inside = marginal(oracle, keep)
    return 0.5 * (np.linalg.slogdet(over_x.cov)[1] - np.linalg.slogdet(inside)[1])


def prior(oracle: ClosedForm, keep: int) -> GaussianVector:
    """p of the top `keep` latents."""
    size = keep * SIZE
    return GaussianVector(oracle.joint.mean[:size], oracle.joint.cov[:size, :size])


def jittered(one: Case) -> Any:
    """Variables of a row, moved away from their initialisation."""
    variables = jax.jit(one.model.init)(KEY, one.x, KEY, y=one.y)
    return {**variables, "params": jitter(variables["params"])}


@pytest.mark.slow
def test_information_lies_between_its_bounds() -> None:
    """lower <= I <= upper at each level from the top, both within 0.15 nats of it; R = I + KL(q(z) || p(z))."""
    model, variables, oracle = linear()
    x = drawn_from(oracle, 4000)
    found = information(model, variables, x, KEY, draws=2000)
    assert found.names == ("z2", "z1") and found.ceiling == pytest.approx(math.log(4000))
    for index in range(LEVELS):
        exact = exact_information(oracle, index + 1)
        assert exact > 0.2
        low, high = found.lower[index], found.upper[index]
        assert low - 4 * found.lower_error[index] < exact < high + 4 * found.upper_error[index]
        assert abs(low - exact) < 0.15 and abs(high - exact) < 0.15
        assert 0.0 < found.lower_error[index] < 0.05
        over_x, _ = marginal(oracle, index + 1)
        to_prior = float(over_x.kl(prior(oracle, index + 1))[0])
        for bound in found.to_prior:
            error = found.rates_error[index] + found.lower_error[index]
            assert abs(bound[index] - to_prior) < 4 * error + 0.05
    rows = x[:2000]
    rates = np.cumsum(oracle.rates(np.asarray(rows, np.float64)).mean(1))
    assert (np.abs(found.rates - rates) < 4 * found.rates_error).all()
    assert (found.lower <= found.rates + 4 * found.rates_error).all()


def test_information_does_not_exceed_log_n() -> None:
    """With five examples the lower bound is at most log 5 nats, however large the information."""
    model, variables, oracle = linear()
    found = information(model, variables, drawn_from(oracle, 5), KEY, draws=5)
    assert (found.lower <= math.log(5) + 1e-9).all()


def test_information_in_blocks_is_the_same() -> None:
    """The number of blocks does not matter."""
    model, variables, oracle = linear()
    x = drawn_from(oracle, 50)
    whole, parts = (information(model, variables, x, KEY, draws=20, size=size) for size in (50, 16))
    for name in ("lower", "upper", "rates"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), rtol=1e-5)


def test_a_level_inferred_from_below_has_no_density_of_its_own() -> None:
    """With q(z1 | x) q(z2 | z1) only the entry of both levels together is a number, the top one NaN."""
    model = BottomUp()
    x = np.random.default_rng(0).integers(0, 2, (40, 4)).astype(np.uint8)
    variables = jax.jit(model.init)(KEY, x, KEY)
    found = information(model, variables, x, KEY, draws=20)
    assert np.isnan(found.lower[0]) and np.isnan(found.upper[0])
    assert np.isfinite([found.lower[1], found.upper[1]]).all()


@pytest.mark.slow
def test_bounds_above_a_level() -> None:
    """k = 0 is the ELBO, k = L depends on the prior alone, and the likelihood ratio is their difference."""
    model, variables, oracle = linear()
    x = drawn_from(oracle, 60)
    draws = 2000
    elbo = np.asarray(bound_above(model, variables, x, KEY, 0, draws), np.float64)
    np.testing.assert_allclose(elbo.mean(), oracle.elbo(x.astype(np.float64)).mean(), atol=0.1)
    weighted = np.asarray(bound_above(model, variables, x, KEY, 0, draws, weighted=True), np.float64)
    np.testing.assert_allclose(weighted, oracle.log_px(x.astype(np.float64)), atol=0.25)

    # With both latents at their prior's mode p(x | z) is one Gaussian.
    mode = np.zeros(SIZE)
    for level in range(LEVELS - 1, -1, -1):
        slope, shift, noise = oracle.link(level)
        mode = slope @ mode + shift
    offset = x - mode
    expected = -0.5 * (
        np.einsum("bi,ij,bj->b", offset, np.linalg.inv(noise), offset)
        + np.linalg.slogdet(noise)[1]
        + PIXELS * math.log(2 * math.pi)
    )
    alone = bound_above(model, variables, x, KEY, LEVELS, 2, temperature=0.0)
    np.testing.assert_allclose(alone, expected, rtol=1e-4, atol=1e-4)
    ratio = likelihood_ratio(model, variables, x, KEY, LEVELS, draws, temperature=0.0)
    np.testing.assert_allclose(ratio, elbo - expected, rtol=1e-3, atol=1e-3)

    # With latents drawn from the prior, the variance of E[x | z] lowers E log p(x | z), below log p(x) for every x.
    pixels = oracle.block(0)
    spread = oracle.joint.cov[np.ix_(pixels, pixels)] - noise
    expected = expected - 0.5 * np.trace(np.linalg.solve(noise, spread))
    drawn = np.asarray(bound_above(model, variables, x, KEY, LEVELS, draws), np.float64)
    np.testing.assert_allclose(drawn.mean(), expected.mean(), rtol=0.02)
    assert (expected < oracle.log_px(x.astype(np.float64))).all()


def test_the_area_under_the_curve() -> None:
    """The area is 1 for separated scores; its standard error is that of repeated draws."""
    assert auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0]))[0] == 1.0
    rng = np.random.default_rng(0)
    areas = [auroc(rng.normal(size=50), rng.normal(0.7, 1.0, 80)) for _ in range(300)]
    spread = np.std([area for area, _ in areas])
    assert np.mean([error for _, error in areas]) == pytest.approx(spread, rel=0.15)


def test_units_of_a_set_in_parts() -> None:
    """Counts over parts of any size, without the rows of padding, equal those of the whole set."""
    rng = np.random.default_rng(4)
    scales = np.geomspace(0.01, 1.0, 40)
    n = 50
    means, offsets = (
        [rng.normal(size=(n, 40)) * scales + rng.normal(size=40) * 30 for _ in range(2)] for _ in range(2)
    )
    rates = [np.abs(rng.normal(size=(n, 40))) * scales * 0.1 for _ in range(2)]
    counts = UnitCounts()
    for rows, count in ((slice(0, 1), None), (slice(1, 31), 20), (slice(21, n), None)):
        part = [tuple(level[rows] for level in levels) for levels in (means, rates, offsets)]
        counts.add(Usage(np.zeros((2, 1)), np.zeros(1), *part), count)
    expected = [active_units(means), used_units(rates), moving_units(offsets)]
    assert [counts.active(), counts.used(), counts.moving()] == expected
    assert all(0 < count < 40 for level in expected for count in level)


def test_units() -> None:
    """Rates of units add up to that of the level; of three units one is active."""
    model, variables, oracle = linear()
    x = drawn_from(oracle, 300)
    found = usage(model, variables, x, KEY, draws=200)
    for level in range(LEVELS):
        np.testing.assert_allclose(found.unit_rates[level].sum(1), found.rates[level], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(cumulative(found.rates)[-1], np.sum(found.rates, axis=0), rtol=1e-6)
    expected = oracle.rates(x.astype(np.float64)).mean(1)
    np.testing.assert_allclose(np.mean(found.rates, axis=1), expected, atol=0.05)

    part = np.zeros((100, 3))
    part[:, 0] = np.linspace(0, 1, 100)
    assert active_units([part]) == used_units([part]) == moving_units([part]) == [1]
    part[:, 1] = 0.2  # constant: it has a rate but carries no information
    assert used_units([part]) == [2] and active_units([part]) == moving_units([part]) == [1]
    edge = np.random.default_rng(0).normal(0.0, 0.1, (200, 30))  # variances about the threshold
    assert bootstrap(active_units, [part])[0] == 0.0 < bootstrap(active_units, [edge])[0] < 10.0
    assert standard_error(np.array([1.0, 3.0])) == pytest.approx(1.0)
    assert np.isnan(standard_error(np.array([1.0])))


def test_offsets_are_what_the_posterior_adds() -> None:
    """If q equals p no unit moves relative to its prior, but its mean moves with the level above: Burda's count > 0."""
    model = TopDownVAE(latents=(2, 3), hidden=8, likelihood=hv.Bernoulli())
    x = np.random.default_rng(0).integers(0, 2, (64, 6)).astype(np.uint8)
    variables = jax.jit(model.init)(KEY, x, KEY)
    params = jax.tree.map(lambda leaf: 3.0 * leaf, variables["params"])
    params["delta1"]["last"] = jax.tree.map(jnp.zeros_like, params["delta1"]["last"])
    found = usage(model, {**variables, "params": params}, x, KEY, draws=50)
    assert used_units(found.unit_rates)[1] == moving_units(found.offsets)[1] == 0
    assert active_units(found.posterior_means)[1] > 0


def test_probes() -> None:
    """Labels that the features contain are predicted, others are not; missing labels are an error."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    x = rng.normal(size=(400, 5)) + 4.0 * np.eye(4, 5)[y]
    found = linear_probe(x[:200], y[:200], x[200:], y[200:])
    assert found.value > 0.95 and found.chance == pytest.approx(0.25)
    assert found.error == pytest.approx(math.sqrt(found.value * (1 - found.value) / 200))
    blind = linear_probe(rng.normal(size=(200, 5)), y[:200], rng.normal(size=(200, 5)), y[200:])
    assert abs(blind.value - 0.25) < 4 * blind.error
    with pytest.raises(ValueError, match="needs labels"):
        linear_probe(x, None, x, None)
    with pytest.raises(ValueError, match="two labels or more, but all 200"):
        linear_probe(x[:200], np.zeros(200), x[200:], y[200:])


def test_two_samples() -> None:
    """1/2 for the same distribution, 1 for distributions far apart."""
    rng = np.random.default_rng(0)
    same = two_samples(rng.normal(size=(400, 3)), rng.normal(size=(400, 3)))
    assert abs(same.value - 0.5) < 4 * same.error + 0.02
    assert two_samples(rng.normal(size=(100, 3)), rng.normal(9.0, 1.0, (100, 3))).value == 1.0
    with pytest.raises(ValueError, match=r"2 or more: 3 and 4 here"):
        two_samples(np.zeros((3, 2)), np.zeros((4, 2)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["top_down_2", "bottom_up_vae", "classes", pytest.param("scanned", marks=pytest.mark.slow)]
)
def test_noise_and_latents_are_each_others_inverse(name: str) -> None:
    """Latents of x become noise and back; an interpolation begins at x and ends elsewhere."""
    one = case(name)
    variables = jittered(one)
    latents = one.model.apply(variables, one.x, KEY, y=one.y).latents
    noise = noise_of(one.model, variables, one.x, KEY, one.y)
    back = from_noise(one.model, variables, noise, jax.random.key(9), one.y)
    for z, again in zip(latents, back.latents, strict=True):
        np.testing.assert_allclose(z, again, rtol=1e-4, atol=1e-5)

    other = one.x[::-1]
    ways = interpolate(one.model, variables, one.x, other, KEY, steps=3, y=one.y)
    assert ways.shape == (len(one.x), 3, *one.x.shape[1:])
    key_first, _, key_draw = jax.random.split(KEY, 3)
    ends = from_noise(one.model, variables, noise_of(one.model, variables, one.x, key_first, one.y), key_draw, one.y)
    np.testing.assert_allclose(ways[:, 0], ends.x_dist.mean, rtol=1e-4, atol=1e-5)
    assert not np.allclose(ways[:, 0], ways[:, 2])


@pytest.mark.slow
def test_one_descent_gives_the_latents_of_a_descent_for_each_level() -> None:
    """Decoding noise in one descent equals L descents with the same noise, each given the levels above."""
    one = case("top_down_3")
    variables = jittered(one)

    @jax.jit
    def decode(latents: Any) -> Any:
        return one.model.apply(variables, KEY, len(one.x), latents=latents, method="decode")

    ways = jax.jit(lambda v: interpolate(one.model, v, one.x, one.x[::-1], KEY, steps=3))(variables)
    key_first, key_other, _ = jax.random.split(KEY, 3)
    ends = noise_of(one.model, variables, one.x, key_first), noise_of(one.model, variables, one.x[::-1], key_other)
    halfway = []
    for a, b in zip(*ends, strict=True):
        angle = np.arccos((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)))
        halfway.append((a + b) * (np.sin(angle / 2) / np.sin(angle))[:, None])
    for step, noise in enumerate((ends[0], halfway, ends[1])):
        latents: list[Any] = [None] * one.model.num_levels
        for level, eps in enumerate(noise):
            p = decode(latents).levels[level].p
            latents[level] = p.mean + p.std * eps
        np.testing.assert_allclose(ways[:, step], decode(latents).x_dist.mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "units", "offsets", "refused"),
    [
        ("categorical_top", (1, 2), (0, 2), r"'c', a OneHotCategorical"),
        pytest.param("observed", (2, 1), (2, 0), r"'y', a BernoulliRecord", marks=pytest.mark.slow),
        pytest.param("mixture_prior", (1, 2), (0, 2), r"'z2', a NormalMixture", marks=pytest.mark.slow),
    ],
)
def test_levels_of_any_kind(name: str, units: tuple[int, ...], offsets: tuple[int, ...], refused: str) -> None:
    """Usage counts a joint KL as one unit; walks refuse priors that are no `FromNoise`; the rest takes any q and p.

    keep_top is traced, so that one compilation serves all k.
    """
    one = case(name)
    variables, x, key = jittered(one), one.x, jax.random.key(9)
    found = jax.jit(lambda v: usage(one.model, v, x, KEY, draws=3))(variables)
    assert tuple(rates.shape[1] for rates in found.unit_rates) == units
    assert tuple(offset.shape[1] for offset in found.offsets) == offsets
    for level, rates in enumerate(found.unit_rates):
        np.testing.assert_allclose(rates.sum(1), found.rates[level], rtol=1e-5, atol=1e-6)
    counts = UnitCounts()
    counts.add(found)
    assert moving_units(found.offsets) == counts.moving()
    assert all(count == 0 for count, size in zip(counts.moving(), offsets, strict=True) if size == 0)

    for walk in (
        lambda: noise_of(one.model, variables, x, KEY),
        lambda: interpolate(one.model, variables, x, x[::-1], KEY),
        lambda: traverse(one.model, variables, x, KEY, 0, 0, [0.0]),
    ):
        with pytest.raises(ValueError, match=f"prior of level {refused}"):
            jax.eval_shape(walk)

    by_level = jax.jit(lambda v: level_by_level(one.model, v, x, key))(variables)
    assert by_level.shape == (len(x), 3, *x.shape[1:]) and jnp.isfinite(by_level).all()
    np.testing.assert_allclose(by_level[:, 0], by_level[:1, 0].repeat(len(x), 0), rtol=1e-5)
    whole = jax.jit(lambda v: one.model.apply(v, x, key, method="reconstruct"))(variables)
    np.testing.assert_allclose(by_level[:, 2], whole, rtol=1e-5, atol=1e-6)
    above = jax.jit(lambda k: bound_above(one.model, variables, x, key, k, draws=2))
    ratio = jax.jit(lambda k: likelihood_ratio(one.model, variables, x, key, k, draws=2))
    for k in range(3):
        assert jnp.isfinite(above(jnp.int32(k))).all()
        np.testing.assert_allclose(ratio(jnp.int32(k)), above(jnp.int32(0)) - above(jnp.int32(k)), rtol=1e-4, atol=1e-4)


def test_means_of_a_known_level_do_not_overflow() -> None:
    """The means have the data's dtype, uint8, in which the sum of 300 draws would exceed 255."""
    one = case("observed")
    found = jax.jit(lambda v: usage(one.model, v, one.x, KEY, draws=300))(jittered(one))
    np.testing.assert_allclose(found.posterior_means[1], pairs(one.x), rtol=1e-6)


def test_information_of_classes() -> None:
    """I_q(x; c) of a categorical level by enumeration: entropy of the mean posterior minus mean entropy."""
    model, x = CategoricalTop(size=0), jnp.tile(every(2, 4), (40, 1))
    variables = jax.jit(model.init)(KEY, x, KEY)
    variables = {"params": jax.tree.map(lambda leaf: 3.0 * leaf, variables["params"])}
    found = information(model, variables, x, KEY, draws=len(x))
    q = np.asarray(jax.jit(lambda v: model.apply(v, x, KEY).levels[0].q.mean)(variables), np.float64)
    exact = (q * np.log(q)).sum(1).mean() - (q.mean(0) * np.log(q.mean(0))).sum()
    assert exact > 0.1
    assert abs(found.lower[0] - exact) < 4 * found.lower_error[0]


@pytest.mark.slow
def test_information_where_it_can_be_had() -> None:
    """A mixture as the prior makes no difference; a known level, or one below a network that draws, gives NaN."""
    for name, tractable in (
        ("mixture_prior", (True, True)),
        ("observed", (False, False)),
        ("prior_that_draws", (True, False)),
    ):
        one = case(name)
        found = information(one.model, jittered(one), one.x, KEY, draws=len(one.x))
        assert tuple(np.isfinite(found.lower)) == tuple(np.isfinite(found.upper)) == tractable
        assert np.isfinite(found.rates).all()
        assert (found.lower <= math.log(len(one.x)) + 1e-6)[list(tractable)].all()


def test_walks() -> None:
    """Traversing a unit changes E[x | z]; reconstructions take in one level after another."""
    model = TopDownVAE(latents=(2, 3), hidden=8, likelihood=hv.Bernoulli())
    x = np.random.default_rng(0).integers(0, 2, (5, 6)).astype(np.uint8)
    variables = jax.jit(model.init)(KEY, x, KEY)
    ways = traverse(model, variables, x, KEY, 1, 2, np.linspace(-2, 2, 4))
    assert ways.shape == (5, 4, 6) and np.ptp(ways, axis=1).max() > 0
    by_level = level_by_level(model, variables, x, KEY)
    assert by_level.shape == (5, 3, 6)
    np.testing.assert_allclose(by_level[:, 0], by_level[:1, 0].repeat(5, 0), rtol=1e-5)  # k = 0 does not depend on x
    for wrong, said in (({"level": 2, "unit": 0}, "2 levels"), ({"level": 1, "unit": 3}, "3 units")):
        with pytest.raises(ValueError, match=said):
            traverse(model, variables, x, KEY, values=[0.0], **wrong)
    with pytest.raises(ValueError, match="two ends"):
        interpolate(model, variables, x, x, KEY, steps=1)


def test_too_few_examples() -> None:
    """The error says how many are needed."""
    model, variables, oracle = linear()
    x = drawn_from(oracle, 3)
    for call, said in (
        (lambda: information(model, variables, x[:1], KEY, draws=1), "2 examples or more"),
        (lambda: information(model, variables, x, KEY, draws=4), "2 to 3"),
        (lambda: information(model, variables, x, KEY, draws=1), "2 to 3"),
        (lambda: bound_above(model, variables, x, KEY, 3), "0 to 2"),
        (lambda: bound_above(model, variables, x, KEY, 1, draws=0), "1 or more"),
        (lambda: auroc(np.zeros(0), np.ones(2)), "0 and 2"),
        (lambda: auroc(np.zeros(2), np.ones(1)), "2 and 1"),
        (lambda: diagnostics.usage(model, variables, x[:0], KEY), "x has none"),
        (lambda: active_units([np.zeros((1, 4))]), "2 examples or more, but there are 1"),
        (lambda: moving_units([np.zeros((0, 4))]), "2 examples or more, but there are 0"),
        (lambda: used_units([np.zeros((0, 4))]), "1 examples or more, but there are 0"),
        (lambda: bootstrap(used_units, [np.ones((1, 4))]), "2 examples or more"),
        (lambda: linear_probe(np.zeros((0, 2)), np.zeros(0), np.zeros((3, 2)), np.zeros(3)), "0 and 3"),
        (lambda: linear_probe(np.zeros((3, 2)), np.arange(3), np.zeros((0, 2)), np.zeros(0)), "3 and 0"),
        (lambda: interpolate(model, variables, x, x, KEY, levels=[True]), "1 entries.*2 levels"),
        (lambda: diagnostics.usage(model, variables, x, KEY, draws=0), "1 or more"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_one_level() -> None:
    """Every diagnostic takes a model of one level."""
    model = VAE(latents=2, hidden=4, likelihood=hv.Bernoulli())
    x = np.random.default_rng(0).integers(0, 2, (20, 4)).astype(np.uint8)
    variables = jax.jit(model.init)(KEY, x, KEY)
    assert information(model, variables, x, KEY, draws=10).lower.shape == (1,)
    assert level_by_level(model, variables, x, KEY).shape == (20, 2, 4)
