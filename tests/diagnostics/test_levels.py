"""Estimates from one set of draws agree with each other; what the ELBO loses without a level, against other ways."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import case, jitter
from support.toys import CategoricalTop

import hvae_jax as hv
from hvae_jax.diagnostics import carrying_units, loss_without, measured, standard_error, usage
from hvae_jax.models import LinearVAE, TopDownVAE

KEY = jax.random.key(3)


def linear(n: int) -> tuple[LinearVAE, Any, np.ndarray]:
    """A hierarchy of two levels, its variables and `n` examples."""
    model = LinearVAE((2, 2), "shifted")
    x = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    params = jitter(model.init(jax.random.key(1), x, KEY)["params"], scale=0.2)
    return model, {"params": params}, x


def directly(model: Any, variables: Any, x: np.ndarray, key: Any, level: int) -> Any:
    """The same loss by given latents: those above from q, this one from its prior, those below inferred."""
    key_q, key_p, key_below = jax.random.split(key, 3)
    whole = model.apply(variables, x, key_q)
    latents: list[Any] = [None] * model.num_levels
    latents[: level + 1] = [*whole.latents[:level], whole.unstack()[level].p.sample(key_p)]
    trace = model.apply(variables, x, key_below, latents=tuple(latents))
    return hv.elbo(whole) - (trace.log_px - trace.rates.sum(0) + trace.rates[level])


@pytest.mark.slow
def test_measured_is_what_usage_and_importance_estimate() -> None:
    """With the same key and draws every number is the same, and the ELBO is that of rates and distortion."""
    model, variables, x = linear(20)
    found = jax.jit(lambda v: measured(model, v, x, KEY, draws=30))(variables)
    used = jax.jit(lambda v: usage(model, v, x, KEY, draws=30))(variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found.usage, used)
    bounds = hv.importance(model, variables, x, KEY, 30, 10)
    for name in ("elbo", "bound", "effective_sample_size"):
        np.testing.assert_allclose(getattr(found, name), getattr(bounds, name), rtol=1e-4)
    np.testing.assert_allclose(found.elbo, found.usage.log_px - found.usage.rates.sum(0), rtol=1e-5)
    with pytest.raises(ValueError, match=r"measured\(draws=0\)"):
        measured(model, variables, x, KEY, draws=0)


@pytest.mark.slow
def test_the_loss_without_a_level_is_that_by_given_latents() -> None:
    """Within four standard errors for both levels of a Gaussian hierarchy."""
    model, variables, x = linear(300)
    found = np.asarray(jax.jit(lambda v: loss_without(model, v, x, KEY, draws=20))(variables))
    for level in range(2):
        draws = jax.jit(lambda v, k, at=level: directly(model, v, x, k, at))
        other = np.stack([draws(variables, jax.random.fold_in(KEY, i)) for i in range(20)]).mean(0)
        error = np.hypot(standard_error(found[level]), standard_error(other))
        assert abs(found[level].mean()) > 4 * standard_error(found[level])
        assert abs(found[level].mean() - other.mean()) < 4 * error
    with pytest.raises(ValueError, match=r"loss_without\(draws=0\)"):
        loss_without(model, variables, x, KEY, draws=0)


def test_nothing_is_lost_where_the_posterior_is_the_prior() -> None:
    """Exactly 0, without noise, although the level is drawn anew; its distance is 0 too."""
    model = TopDownVAE(latents=(2, 3), hidden=8, likelihood=hv.Bernoulli())
    x = np.random.default_rng(0).integers(0, 2, (32, 6)).astype(np.uint8)
    variables = jax.jit(model.init)(KEY, x, KEY)
    params = jax.tree.map(lambda leaf: 3.0 * leaf, variables["params"])
    params["delta1"]["last"] = jax.tree.map(jnp.zeros_like, params["delta1"]["last"])
    variables = {**variables, "params": params}
    lost = jax.jit(lambda v: loss_without(model, v, x, KEY, draws=4))(variables)
    found = jax.jit(lambda v: measured(model, v, x, KEY, draws=4))(variables)
    # programs of other shapes may round the two ELBOs, of up to thousands of nats, differently
    np.testing.assert_allclose(lost[1], 0.0, atol=np.spacing(np.abs(np.asarray(found.elbo, np.float32)).max()))
    assert abs(lost[0]).max() > 1e-3
    np.testing.assert_allclose(found.distance[1], 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "defined"),
    [
        pytest.param("bottom_up", (True, False), marks=pytest.mark.slow),
        pytest.param("flow", (False,), marks=pytest.mark.slow),
        pytest.param("scanned", (True,) * 4, marks=pytest.mark.slow),
        pytest.param("observed", (True, True), marks=pytest.mark.slow),
    ],
)
def test_where_the_loss_is_not_defined(name: str, defined: tuple[bool, ...]) -> None:
    """NaN, never a wrong number: levels that those above are inferred from, under a flow, or that are known."""
    one = case(name)
    variables = jax.jit(one.model.init)(KEY, one.x, KEY, y=one.y)
    variables = {**variables, "params": jitter(variables["params"], scale=0.5)}
    lost = jax.jit(lambda v: loss_without(one.model, v, one.x, KEY, draws=3))(variables)
    assert tuple(np.isfinite(lost).all(axis=1)) == defined and np.isnan(lost).any(axis=1).tolist() == [
        not has for has in defined
    ]


def test_the_loss_without_a_class_is_a_sum() -> None:
    """For a class c alone it is sum_c (q(c | x) - p(c)) log p(x | c) - KL(q || p), within 4.5 standard errors."""
    model, x = CategoricalTop(size=0), case("categorical_top").x
    variables = jax.jit(model.init)(KEY, x, KEY)
    variables = {"params": jax.tree.map(lambda leaf: 3.0 * leaf, variables["params"])}
    trace = jax.jit(lambda v: model.apply(v, x, KEY))(variables)
    difference = np.asarray(trace.levels[0].q.mean - trace.levels[0].p.mean, np.float64)
    values = [
        model.apply(variables, x, KEY, latents=(jnp.broadcast_to(one, (len(x), 3)),)).log_px for one in jnp.eye(3)
    ]
    exact = (difference * np.stack(values, -1)).sum(-1) - np.asarray(trace.levels[0].rate)
    each = jax.jit(jax.vmap(lambda key: loss_without(model, variables, x, key, draws=1)[0]))
    found = np.asarray(each(jax.random.split(KEY, 4000)), np.float64)
    error = found.std(0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(found.mean(0) - exact) < 4.5 * error).all() and (np.abs(exact) > 4.5 * error).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["categorical_levels", "bernoulli_levels", "mixture_prior"])
def test_the_loss_without_a_level_of_any_kind(name: str) -> None:
    """That by given latents, within four standard errors, for every level of models with discrete or mixed levels."""
    one = case(name)
    x = jnp.tile(one.x, (20, *(1,) * (one.x.ndim - 1)))
    variables = jax.jit(one.model.init)(KEY, x, KEY)
    variables = {**variables, "params": jitter(variables["params"], scale=0.5)}
    draws = 40
    found = np.asarray(jax.jit(lambda v: loss_without(one.model, v, x, KEY, draws=draws))(variables))
    for level in range(one.model.num_levels):
        drawn = jax.jit(lambda v, k, at=level: directly(one.model, v, x, k, at))
        other = np.stack([drawn(variables, jax.random.fold_in(KEY, i)) for i in range(draws)]).mean(0)
        error = np.hypot(standard_error(found[level]), standard_error(other))
        assert abs(found[level].mean() - other.mean()) < 4 * error


def test_units_that_carry_a_rate() -> None:
    """Three units of 0.015 nats are above 0.01 nats, but carry 3% of the rate: five units have 95%."""
    rates = np.tile([1.0, 0.8, 0.015, 0.5, 0.015, 0.3, 0.015, 0.2], (10, 1))
    assert carrying_units([rates, np.zeros((10, 3)), np.ones((10, 20))]) == [5, 0, 19]
