"""Latents other than Gaussians: sums over all values, KLs by enumeration, samples, and levels with such latents."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from scipy import stats
from support.cases import integers
from support.toys import CategoricalTop, Observed, Scanned, pairs

from hvae_jax.descent import Pick, draw, picks, propose, stack
from hvae_jax.distributions import (
    BernoulliLatent,
    Either,
    Known,
    Normal,
    NormalMixture,
    OneHotCategorical,
    has_closed_kl,
    kl,
    kl_residual,
    sum_event,
)
from hvae_jax.likelihoods import Bernoulli, Categorical

KEY, OTHER_KEY = jax.random.key(0), jax.random.key(1)
RNG = np.random.default_rng(0)
B = 4
INFER = Pick(jnp.float32(1.0))


def array(*shape: int) -> Array:
    """Standard normal numbers."""
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def normal(*shape: int) -> Normal:
    """A random Gaussian with scales near 1."""
    return Normal(array(*shape), 0.3 * array(*shape))


def mixture(components: int = 3, size: int = 2) -> NormalMixture:
    """A random mixture, different for each example."""
    return NormalMixture(array(B, components), normal(B, components, size))


def one_hots(classes: int) -> Array:
    """All values of one variable, `[K, K]`."""
    return jnp.eye(classes)


def test_a_categorical_sums_to_one_and_has_its_kl() -> None:
    """Sums over all classes: sum of p = 1, sum of q (log q - log p) = KL."""
    q, p = OneHotCategorical(array(B, 2, 3)), OneHotCategorical(array(B, 2, 3))
    every = [jnp.broadcast_to(z, (B, 2, 3)) for z in one_hots(3)]
    log_q, log_p = (np.stack([d.log_prob(z) for z in every]).astype(np.float64) for d in (q, p))
    np.testing.assert_allclose(np.exp(log_q).sum(0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(kl(q, p), (np.exp(log_q) * (log_q - log_p)).sum(0), rtol=1e-4, atol=1e-6)
    assert kl(q, p).shape == (B, 2)


def test_a_bernoulli_sums_to_one_and_has_its_kl() -> None:
    """The same sums over 0 and 1."""
    q, p = BernoulliLatent(3.0 * array(B, 5)), BernoulliLatent(array(B, 5))
    log_q, log_p = (np.stack([d.log_prob(jnp.full((B, 5), z)) for z in (0.0, 1.0)]).astype(np.float64) for d in (q, p))
    np.testing.assert_allclose(np.exp(log_q).sum(0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(kl(q, p), (np.exp(log_q) * (log_q - log_p)).sum(0), rtol=1e-4, atol=1e-6)


def test_a_mixture_is_scipys() -> None:
    """log p(z) of the joint density, `[B]`, and the mean."""
    p, z = mixture(), array(B, 2)
    weights = jax.nn.softmax(p.logits)
    densities = stats.norm.pdf(np.asarray(z)[:, None], p.components.mean, p.components.std).prod(-1)
    np.testing.assert_allclose(p.log_prob(z), np.log((weights * densities).sum(1)), rtol=1e-4)
    np.testing.assert_allclose(p.mean, (weights[..., None] * p.components.mean).sum(1), rtol=1e-5)
    assert p.log_prob(z).shape == (B,)


@pytest.mark.parametrize(
    "record",
    [
        OneHotCategorical(array(B, 3)),
        OneHotCategorical(array(B, 3), "gumbel", 0.7),
        BernoulliLatent(array(B, 3)),
        mixture(),
        Bernoulli()(array(B, 3, 1)),
        Categorical(3)(array(B, 2, 3)),
    ],
    ids=lambda record: type(record).__name__,
)
def test_samples_have_their_mean_and_temperature_0_is_the_mode(record: Any) -> None:
    """The mean of 4,000 draws within 4.5 standard errors; at temperature 0, traced or not, the mode for any key."""
    drawn = np.asarray(jax.vmap(record.sample)(jax.random.split(KEY, 4000)), np.float64)
    error = drawn.std(0) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(0) - record.mean) < 4.5 * error + 1e-6).all()
    for temperature in (0.0, jnp.float32(0.0)):
        np.testing.assert_array_equal(record.sample(OTHER_KEY, temperature), record.mode)


@pytest.mark.parametrize("record", [OneHotCategorical(array(B, 3)), BernoulliLatent(array(B, 3))])
def test_temperature_divides_the_logits(record: Any) -> None:
    """At temperature 2 the mean is that of half the logits."""
    drawn = np.asarray(jax.vmap(lambda key: record.sample(key, 2.0))(jax.random.split(KEY, 4000)), np.float64)
    warm = record.replace(logits=0.5 * record.logits)
    assert (np.abs(drawn.mean(0) - warm.mean) < 4.5 * drawn.std(0) / np.sqrt(len(drawn)) + 1e-6).all()


@pytest.mark.parametrize("form", ["straight_through", "gumbel"])
def test_one_hot_samples_are_exact_and_have_a_gradient(form: str) -> None:
    """Samples are 0 but for a single 1, bit for bit; the straight-through gradient is that of the probabilities."""
    logits, weights = array(B, 3), array(B, 3)
    z = OneHotCategorical(logits, form).sample(KEY)
    assert set(np.unique(z)) == {0.0, 1.0} and (z.sum(-1) == 1.0).all()

    def through(logits: Array) -> Array:
        return (weights * OneHotCategorical(logits, form).sample(KEY)).sum()

    gradient = jax.grad(through)(logits)
    assert (gradient != 0.0).all()
    if form == "straight_through":
        wanted = jax.grad(lambda logits: (weights * jax.nn.softmax(logits)).sum())(logits)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-6)


def test_pairs_without_a_closed_form_say_so() -> None:
    """`kl` returns None, and the error of `kl_residual` names the type and what to do."""
    q, p = normal(B, 2), mixture()
    assert kl(q, p) is None and not has_closed_kl(q, p) and has_closed_kl(q, q)
    assert kl(Known(q.mean), Bernoulli()(array(B, 2, 1))) is None
    with pytest.raises(ValueError, match=r"NormalMixture.*two Normals only.*log q - log p"):
        kl_residual(p, q)


def test_a_level_without_a_closed_form_has_its_ratio() -> None:
    """With a Gaussian q and a joint density p, kl = log q - log p at the sample, one number per example."""
    q, p = normal(B, 2), mixture()
    level = draw(KEY, p, q, INFER, name="z2")
    np.testing.assert_allclose(level.log_q, q.log_prob(level.z).sum(1), rtol=1e-6)
    np.testing.assert_allclose(level.log_p, p.log_prob(level.z), rtol=1e-6)
    assert level.kl.shape == (B,)
    np.testing.assert_allclose(level.rate, level.log_q - level.log_p, rtol=1e-6)
    np.testing.assert_allclose(level.ratio, level.rate, rtol=1e-6)


def test_what_is_known_costs_its_probability() -> None:
    """log q = 0 and the rate is -log p(y | above); a value given in its place counts as known."""
    y, p = jnp.asarray(RNG.integers(0, 2, (B, 3)), jnp.uint8), Bernoulli()(array(B, 3, 1))
    level = draw(KEY, p, Known(y), INFER, name="y")
    np.testing.assert_array_equal(level.z, y)
    np.testing.assert_allclose(level.rate, -p.log_prob(y), rtol=1e-6)
    assert (level.log_q == 0.0).all() and level.z.dtype == jnp.uint8
    other = draw(KEY, p, Known(y), Pick(jnp.float32(1.0), given=1 - y), name="y")
    np.testing.assert_allclose(other.rate, -p.log_prob(1 - y), rtol=1e-6)


@pytest.mark.parametrize("infer", [True, False])
def test_kinds_differ_under_a_traced_choice(infer: bool) -> None:
    """Whether z is inferred or drawn from the prior, arrays and q are those of the chosen record."""
    q, p = normal(B, 2), mixture()

    @jax.jit
    def chosen(infer: Array) -> Any:
        return draw(KEY, p, q, Pick(jnp.float32(1.0), infer=infer), name="z")

    level = chosen(jnp.asarray(infer))
    plain = draw(KEY, p, q if infer else None, INFER, name="z")
    assert isinstance(level.q, Either)
    for got, wanted in ((level.z, plain.z), (level.rate, plain.rate), (level.log_q, plain.log_q)):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(level.q.mean, q.mean if infer else p.mean, rtol=1e-6)
    np.testing.assert_allclose(level.q.log_prob(level.z), sum_event((q if infer else p).log_prob(level.z)), rtol=1e-5)


class Wrong(Normal):
    """A Gaussian whose log_prob lacks the batch axis."""

    def log_prob(self, z: Array) -> Array:
        """`[D]`, although it has to be `[B]` or `[B, D]`."""
        return super().log_prob(z).sum(0)


def test_densities_of_a_wrong_shape_are_refused() -> None:
    """An error names the level; `[B]` and `[B, D]` with D = B are told apart, although they would broadcast."""
    q = normal(B, 3)
    wrong = Wrong(q.mean, q.log_std)
    with pytest.raises(ValueError, match=r"'z2'.*Wrong has shape \(3,\) for z of shape \(4, 3\).*\(4,\)"):
        draw(KEY, q, wrong, INFER, name="z2")
    with pytest.raises(ValueError, match=r"'z1'.*Wrong"):
        propose(KEY, wrong, INFER, name="z1")
    joint, square = mixture(size=B), normal(B, B)  # [B] against [B, D] with D = B
    level = draw(KEY, joint, square, INFER)
    np.testing.assert_allclose(level.rate, square.log_prob(level.z).sum(1) - joint.log_prob(level.z), rtol=1e-5)


@pytest.mark.parametrize("settings", [{"form": "gumble"}, {"form": None}, {"relaxation": 0.0}, {"relaxation": -1.0}])
def test_settings_of_a_one_hot_are_checked(settings: Any) -> None:
    """The error names the record and the setting."""
    with pytest.raises(ValueError, match=rf"OneHotCategorical\({next(iter(settings))}="):
        OneHotCategorical(jnp.zeros((B, 3)), **settings)


class Joint(Normal):
    """A Gaussian that has one density an example, as one with a full covariance has."""

    def log_prob(self, z: Array) -> Array:
        """`[B]`."""
        return super().log_prob(z).sum(1)


def test_a_subclass_has_no_closed_form() -> None:
    """Its density may be another than its parent's, so that the level has log q - log p, also `[B]` with D = B."""
    q, p = normal(B, B), normal(B, B)
    joint = Joint(q.mean, q.log_std + 0.3)
    assert kl(joint, p) is None
    assert not has_closed_kl(joint, joint)
    for one, other in ((joint, p), (p, joint)):
        level = draw(KEY, one, other, INFER)
        np.testing.assert_allclose(level.rate, level.log_q - level.log_p, rtol=1e-5, atol=1e-5)
        assert level.rate.shape == (B,)


def test_noise_is_what_a_sample_is_made_of() -> None:
    """Given noise decides z: inferred, from the prior at a temperature, and proposed on the bottom-up path."""
    q, eps = normal(B, 2), array(B, 2)
    noisy = Pick(jnp.float32(0.5), noise=eps)
    np.testing.assert_allclose(draw(KEY, q, q, noisy).z, q.mean + q.std * eps, rtol=1e-6)
    np.testing.assert_allclose(draw(KEY, q, None, noisy).z, q.mean + 0.5 * q.std * eps, rtol=1e-6)
    np.testing.assert_allclose(propose(KEY, q, noisy).z, q.mean + q.std * eps, rtol=1e-6)
    np.testing.assert_allclose(q.to_noise(q.from_noise(eps)), eps, rtol=1e-4, atol=1e-5)


def test_noise_that_does_not_fit_is_refused() -> None:
    """Errors for too many noises, both noise and latent, another shape, and a distribution that is no `FromNoise`."""
    eps = array(B, 2)
    with pytest.raises(ValueError, match=r"4 noises.*3 levels"):
        picks(3, noise=[eps] * 4)
    with pytest.raises(ValueError, match=r"Level 1 .*latent and noise"):
        picks(3, latents=[None, eps], noise=[None, eps])
    with pytest.raises(ValueError, match=r"noise for level 'z2' has shape \(4, 2\).*\(4, 3\)"):
        draw(KEY, normal(B, 3), None, Pick(jnp.float32(1.0), noise=eps), name="z2")
    with pytest.raises(ValueError, match=r"level 'z2'.*NormalMixture is no function.*latents="):
        draw(KEY, mixture(), None, Pick(jnp.float32(1.0), noise=eps), name="z2")


@pytest.mark.parametrize("given", list(itertools.product((False, True), repeat=3)))
def test_noise_within_a_run(given: tuple[bool, ...]) -> None:
    """In a scanned run the given noise is used at its own levels alone; the others draw theirs from the key."""
    model = Scanned(blocks=2)
    x = integers(2, 4)[:B]
    variables = jax.jit(model.init)(KEY, x, KEY)
    eps = [array(B, 2) for _ in range(3)]
    noise = tuple(e if here else None for e, here in zip(eps, given, strict=True))
    levels = model.apply(variables, KEY, B, noise=noise, method="decode").unstack()
    plain = model.apply(variables, KEY, B, latents=tuple(level.z for level in levels), method="decode").unstack()
    for level, other, e, here in zip(levels, plain, eps, given, strict=True):
        made = other.p.to_noise(level.z)
        assert bool(np.allclose(made, e, atol=1e-4)) == here
    assert stack(picks(3, noise=noise)[1:]).given is None


def enumerated(form: str) -> float:
    """sum_x sum_c q(c | x) w(x, c) of a model with one categorical level, with each c given in turn."""
    model = CategoricalTop(size=0, form=form)
    x = jnp.asarray(list(itertools.product((0, 1), repeat=3)), jnp.uint8)
    variables = jax.jit(model.init)(KEY, x, KEY)
    total = 0.0
    for c in one_hots(3):
        trace = model.apply(variables, x, KEY, latents=(jnp.broadcast_to(c[None], (len(x), 3)),))
        (level,) = trace.levels
        log_w = trace.log_px + level.log_p - level.log_q
        total += float(jnp.exp(level.log_q + log_w).sum())
    return total


@pytest.mark.parametrize("form", ["straight_through", "gumbel"])
def test_an_enumerated_categorical_top_sums_to_one(form: str) -> None:
    """The sum is 1 to rounding: the weights are those of a normalised p(x)."""
    assert abs(enumerated(form) - 1.0) < 1e-5


def test_observed_levels_sum_to_one_with_their_values() -> None:
    """Over all x and all y, E_q[w(x, y)] = sum p(x, y) = 1; over x with y = d(x) alone it is P(y = d(x)) < 1."""
    model = Observed(pixels=2)
    every_x = jnp.asarray(list(itertools.product((0, 1), repeat=2)), jnp.uint8)
    variables = jax.jit(model.init)(KEY, every_x, KEY)

    @jax.jit
    def weights(key: Array) -> Array:
        """w(x, y), `[x, y]`."""

        def at(y: Array) -> Array:
            given = jnp.broadcast_to(y, (len(every_x), 1))
            trace = model.apply(variables, every_x, key, latents=(None, given))
            return jnp.exp(trace.log_px - trace.ratios.sum(0))

        return jnp.stack([at(jnp.uint8(y)) for y in (0, 1)], axis=1)

    drawn = np.asarray(jax.vmap(weights)(jax.random.split(KEY, 4000)), np.float64)
    totals = drawn.sum((1, 2))
    assert abs(totals.mean() - 1.0) < 4 * totals.std() / np.sqrt(len(totals)) + 1e-5
    rows = np.arange(len(every_x))
    known = drawn[:, rows, np.asarray(pairs(every_x))[:, 0]].sum(1)
    assert known.mean() < 0.9
    plain = jax.vmap(lambda key: jnp.exp(_log_weight(model.apply(variables, every_x, key))).sum())
    own = np.asarray(plain(jax.random.split(OTHER_KEY, 4000)), np.float64)
    error = np.hypot(own.std(), known.std()) / np.sqrt(len(own))
    assert abs(own.mean() - known.mean()) < 4 * error


def _log_weight(trace: Any) -> Array:
    return trace.log_px - trace.ratios.sum(0)
