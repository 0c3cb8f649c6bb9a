"""Levels of `TopDownVAE` by family: sums over discrete latents, settings, and what diagnostics say of them."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import case, every, integers, jitter

import hvae_jax as hv
from hvae_jax.diagnostics import Alphabet, alphabets, perplexities
from hvae_jax.distributions import BernoulliLatent, Normal, OneHotCategorical
from hvae_jax.likelihoods import Bernoulli
from hvae_jax.models import BottomUpVAE, MixturePrior, TopDownVAE
from hvae_jax.objectives import elbo, log_weight
from hvae_jax.runtime.prng import fused

KEY = jax.random.key(0)
DISCRETE = TopDownVAE(
    latents=(2, 1), levels=("bernoulli", "categorical"), categories=3, hidden=6, likelihood=Bernoulli()
)


def variables_of(model: TopDownVAE, x: Any, scale: float = 0.5) -> dict[str, Any]:
    """Variables moved away from their initialisation."""
    made = jax.jit(model.init)(KEY, x, KEY)
    return {**made, "params": jitter(made["params"], scale=scale)}


def every_latent() -> list[tuple[np.ndarray, np.ndarray]]:
    """All (z2, z1) of DISCRETE: two bits, and one of three classes."""
    bits = itertools.product((0.0, 1.0), repeat=2)
    return [(np.array(z2, np.float32), one[None]) for z2 in bits for one in np.eye(3, dtype=np.float32)]


def enumerated(x: jax.Array, variables: Any) -> dict[str, np.ndarray]:
    """log p(x, z), log q(z | x) for all z, `[12, B]`."""
    n = len(x)

    @jax.jit
    def one(z2: jax.Array, z1: jax.Array) -> tuple[jax.Array, jax.Array]:
        latents = (jnp.broadcast_to(z2, (n, 2)), jnp.broadcast_to(z1, (n, 1, 3)))
        trace = DISCRETE.apply(variables, x, KEY, latents=latents)
        log_q = sum(level.log_q for level in trace.levels)
        return log_weight(trace) + log_q, log_q

    found = [one(*z) for z in every_latent()]
    return {name: np.stack([np.asarray(f[i], np.float64) for f in found]) for i, name in enumerate(("p", "q"))}


def test_probabilities_by_enumeration() -> None:
    """Over all latents q sums to one; over all x as well, p does; the ELBO is the sum over latents."""
    x = every(2, 3)
    variables = variables_of(DISCRETE, x)
    found = enumerated(x, variables)
    np.testing.assert_allclose(np.exp(found["q"]).sum(0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.exp(found["p"]).sum(), 1.0, rtol=1e-5)
    exact = (np.exp(found["q"]) * (found["p"] - found["q"])).sum(0)
    draws = jax.jit(jax.vmap(lambda key: elbo(DISCRETE.apply(variables, x, key))))(jax.random.split(KEY, 4000))
    error = np.asarray(draws).std(0, ddof=1) / np.sqrt(4000)
    assert (np.abs(np.asarray(draws, np.float64).mean(0) - exact) < 4.5 * error + 1e-5).all()
    estimate = hv.importance(DISCRETE, variables, x, KEY, 2000)
    log_px = np.log(np.exp(found["p"]).sum(0))
    assert (np.abs(estimate.bound - log_px) < 4.5 * estimate.standard_error + 1e-5).all()
    assert (estimate.standard_error < 0.1).all()


def test_records_and_shapes() -> None:
    """Each level has its family's records; one-hot variables are `[B, size, K]`; posteriors are offsets of logits."""
    x = integers(2, 3)
    model = TopDownVAE(
        latents=(2, 3, 4), levels=("categorical", "bernoulli", "normal"), categories=5, hidden=6, likelihood=Bernoulli()
    )
    variables = variables_of(model, x)
    trace = jax.jit(lambda: model.apply(variables, x, KEY))()
    assert [type(level.p) for level in trace.levels] == [OneHotCategorical, BernoulliLatent, Normal]
    assert [type(level.q) for level in trace.levels] == [OneHotCategorical, BernoulliLatent, Normal]
    assert [level.z.shape[1:] for level in trace.levels] == [(2, 5), (3,), (4,)]
    zero = jax.tree.map(jnp.zeros_like, variables["params"]["delta3"])
    same = {**variables, "params": variables["params"] | {"delta3": zero}}
    top = jax.jit(lambda: model.apply(same, x, KEY))().levels[0]
    np.testing.assert_allclose(top.rate, 0.0, atol=1e-6)


@pytest.mark.parametrize("estimator", ["straight_through", "gumbel"])
def test_both_estimators_give_a_gradient(estimator: str) -> None:
    """Values do not depend on the estimator, gradients do; every parameter has one."""
    x = integers(2, 3)
    model = DISCRETE.clone(estimator=estimator, relaxation=0.7)
    variables = variables_of(DISCRETE, x)

    def loss(params: Any, model: TopDownVAE) -> jax.Array:
        return -elbo(model.apply({**variables, "params": params}, x, KEY)).mean()

    value, slope = jax.jit(jax.value_and_grad(loss), static_argnums=1)(variables["params"], model)
    other = jax.jit(loss, static_argnums=1)(variables["params"], DISCRETE)
    np.testing.assert_allclose(value, other, rtol=1e-6)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slope))
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(slope["delta2"]))


def test_the_two_estimators_differ() -> None:
    """The straight-through gradient of a bit is p (1 - p), the Gumbel one that of the relaxed sample."""
    logits = jnp.array([[0.3, -1.2]])
    plain = jax.grad(lambda a: BernoulliLatent(a).sample(KEY).sum())(logits)
    p = jax.nn.sigmoid(logits)
    np.testing.assert_allclose(plain, p * (1 - p), rtol=1e-6)
    noise = jax.random.logistic(fused(KEY), logits.shape)
    soft = jax.nn.sigmoid((logits + noise) / 0.5)
    relaxed = jax.grad(lambda a: BernoulliLatent(a, "gumbel", 0.5).sample(KEY).sum())(logits)
    np.testing.assert_allclose(relaxed, soft * (1 - soft) / 0.5, rtol=1e-5)
    np.testing.assert_array_equal(
        BernoulliLatent(logits, "gumbel", 0.5).sample(KEY), BernoulliLatent(logits).sample(KEY)
    )


def test_normal_levels_by_name_are_the_default() -> None:
    """levels=("normal", "normal") is the model without the setting, bit for bit."""
    x = integers(3, 2, 1)
    plain = case("top_down_2").model
    named = plain.clone(levels=("normal", "normal"))
    variables = jax.jit(plain.init)(KEY, x, KEY)
    one, other = (jax.jit(lambda m=model: elbo(m.apply(variables, x, KEY)))() for model in (plain, named))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"levels": ("normal",)}, r"1 families, but latents=\(8, 16\) need 2, top first"),
        ({"levels": ("gaussian", "normal")}, "'normal', 'bernoulli' or 'categorical'"),
        ({"levels": ("categorical", "normal"), "categories": 1}, "2 classes or more"),
        ({"levels": ("bernoulli", "normal"), "relaxation": 0.0}, "relaxation=0.0.*positive and finite"),
        ({"levels": ("bernoulli", "normal"), "estimator": "reinforce"}, "'straight_through' or 'gumbel'"),
        ({"levels": ("bernoulli", "normal"), "top_prior": MixturePrior(3)}, "is its learned logits. Leave top_prior"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], said: str) -> None:
    """Each is refused with a remedy, before anything is computed."""
    with pytest.raises(ValueError, match=said):
        TopDownVAE(**settings)


def test_what_a_discrete_level_is_worth() -> None:
    """Alphabets from shapes alone; perplexity 1 for one value, K for all of them alike."""
    x = integers(2, 3)
    found = alphabets(DISCRETE, variables_of(DISCRETE, x), x)
    assert found == (Alphabet("bernoulli", 2, 2), Alphabet("categorical", 1, 3))
    np.testing.assert_allclose([one.capacity for one in found if one], [2 * np.log(2), np.log(3)])
    model = BottomUpVAE(latents=(2, 2), hidden=4, likelihood=Bernoulli())
    assert alphabets(model, jax.jit(model.init)(KEY, x, KEY), x) == (None, None)
    two = Alphabet("categorical", 2, 3)
    means = np.array([[1.0, 0.0, 0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    np.testing.assert_allclose(perplexities(two, means), [1.0, 3.0])
    np.testing.assert_allclose(
        perplexities(Alphabet("bernoulli", 2, 2), np.array([[0.0, 0.5], [0.0, 0.5]])), [1.0, 2.0]
    )
