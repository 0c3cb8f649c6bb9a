"""The descent: how each latent is chosen, errors, and that a scanned run equals its levels one by one."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import integers
from support.toys import Scanned, coupling

from hvae_jax.descent import Drawn, Flow, Pick, draw, picks, propose, stack
from hvae_jax.distributions import Normal, kl
from hvae_jax.networks.mlp import Dense

KEY, OTHER_KEY = jax.random.key(0), jax.random.key(1)
B = 4


def gaussian(seed: int, size: int = 2) -> Normal:
    """A random Gaussian of `[B, size]`."""
    mean, log_std = jax.random.normal(jax.random.key(seed), (2, B, size))
    return Normal(mean, 0.3 * log_std)


def refusal(**choices: Any) -> str:
    """The error of `picks` for these choices and three levels."""
    with pytest.raises(ValueError, match=r".") as error:
        picks(3, **choices)
    return str(error.value)


def test_picks_refuse_what_cannot_be() -> None:
    """Errors name the value and what is allowed: too many latents, wrong temperatures, keep_top outside 0..L."""
    for choices, parts in (
        ({"latents": [None] * 4}, ("4 latents", "3 levels")),
        ({"temperature": [1.0, 0.5]}, ("(2,)", "3 levels")),
        ({"temperature": jnp.ones((3, 1))}, ("(3, 1)", "one number")),
        ({"temperature": -0.1}, ("-0.1", "0 (the mode) or more")),
        ({"temperature": [1.0, -1.0, 1.0]}, ("-1.0", "0 (the mode) or more")),
        ({"keep_top": 4}, ("4", "0 to 3")),
        ({"keep_top": -1}, ("-1", "0 to 3")),
        ({"keep_top": np.array(9)}, ("9", "0 to 3")),
        ({"keep_top": jnp.int32(-1)}, ("-1", "0 to 3")),
        ({"keep_top": True}, ("True", "whole number")),
        ({"keep_top": 1.0}, ("1.0", "whole number")),
        ({"keep_top": np.array([1, 2])}, ("[1 2]", "whole number")),
    ):
        message = refusal(**choices)
        for part in parts:
            assert part in message, message


def test_a_traced_keep_top_is_a_whole_number() -> None:
    """Its dtype and shape are known while it is traced; beyond the ends its value keeps all levels or none."""
    infer = jax.jit(lambda keep_top: jnp.stack([pick.infer for pick in picks(3, keep_top=keep_top)]))
    assert infer(jnp.int32(9)).all()
    assert not infer(jnp.int32(-1)).any()
    for wrong in (True, 1.0, jnp.array([1, 2])):
        with pytest.raises(ValueError, match="a whole number"):
            infer(wrong)


def test_picks_fill_up_from_the_top() -> None:
    """With fewer latents than levels the lower ones are free; one temperature holds for all; keep_top sets `infer`."""
    z = jnp.ones((B, 2))
    chosen = picks(3, latents=(None, z), temperature=0.5, keep_top=1)
    assert [pick.given is None for pick in chosen] == [True, False, True]
    assert [float(pick.temperature) for pick in chosen] == [0.5] * 3
    assert [bool(pick.infer) for pick in chosen] == [True, False, False]
    assert all(pick.infer is None for pick in picks(3))


def test_inferred_from_a_posterior() -> None:
    """z ~ q with the analytic KL, and both densities at z."""
    q, p = gaussian(1), gaussian(2)
    level = draw(KEY, p, q, picks(1)[0])
    np.testing.assert_array_equal(level.z, q.sample(KEY))
    np.testing.assert_array_equal(level.kl, kl(q, p))
    np.testing.assert_allclose(level.log_q, q.log_prob(level.z).sum(-1), rtol=1e-6)
    np.testing.assert_allclose(level.log_p, p.log_prob(level.z).sum(-1), rtol=1e-6)


def test_inferred_before_its_prior() -> None:
    """A proposed latent keeps its z, and its KL is the log-ratio at z."""
    q, p = gaussian(1), gaussian(2)
    proposed = propose(KEY, q, picks(1)[0])
    level = draw(OTHER_KEY, p, proposed, picks(1)[0])
    np.testing.assert_array_equal(level.z, proposed.z)
    np.testing.assert_allclose(level.kl, q.log_prob(level.z) - p.log_prob(level.z), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(level.kl.sum(-1), level.log_q - level.log_p, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("posterior", ["none", "normal", "drawn"])
def test_from_the_prior_nothing_is_claimed(posterior: str) -> None:
    """Without a posterior, or below keep_top: z from the prior, kl 0 and log q = log p, also where z is given."""
    q, p = gaussian(1), gaussian(2)
    chosen = picks(1, keep_top=0)[0]
    says = {"none": None, "normal": q, "drawn": propose(OTHER_KEY, q, chosen)}[posterior]
    level = draw(KEY, p, says, chosen)
    np.testing.assert_allclose(level.z, p.sample(KEY), rtol=1e-6)
    given = jnp.ones((B, 2))
    for one in (level, draw(KEY, p, says, picks(1, latents=(given,), keep_top=0)[0])):
        np.testing.assert_array_equal(one.kl, np.zeros((B, 2)))
        np.testing.assert_array_equal(one.log_q, one.log_p)
        jax.tree.map(np.testing.assert_array_equal, one.q, p)
    np.testing.assert_array_equal(one.z, given)


@pytest.mark.parametrize("infer", [True, False])
def test_the_ratio_below_keep_top_does_not_depend_on_rounding(infer: bool) -> None:
    """A compiled program may compute log q = log p twice and round it in two ways: the ratio is 0 all the same."""
    q, p = gaussian(1), gaussian(2)
    level = jax.jit(lambda infer: draw(KEY, p, q, dataclasses.replace(picks(1)[0], infer=infer)))(infer)
    twice = level.replace(log_q=level.log_q + 4.8e-7)
    assert (twice.ratio == 0).all() == (not infer)
    from_prior = draw(KEY, p, None, picks(1)[0])
    assert (from_prior.replace(log_q=from_prior.log_q + 4.8e-7).ratio == 0).all()


def test_a_run_says_which_of_its_levels_are_inferred() -> None:
    """Under a scan with remat, one number for each level and example, if keep_top is traced; else there is none."""
    model, x = Scanned(remat=True), integers(2, 4)
    params = jax.eval_shape(model.init, KEY, x, KEY)
    traced = jax.eval_shape(lambda v, k: model.apply(v, x, KEY, keep_top=k), params, jnp.int32(2)).levels
    assert [level.inferred.shape for level in traced] == [x.shape[:1], (3, *x.shape[:1])]
    plain = jax.eval_shape(lambda v: model.apply(v, x, KEY), params).levels
    assert [level.inferred for level in plain] == [None, None]


def test_temperature_is_not_in_the_density() -> None:
    """Densities are those at temperature 1, so 0 gives no log 0."""
    p = gaussian(2)
    level = draw(KEY, p, None, picks(1, temperature=0.0)[0])
    np.testing.assert_array_equal(level.z, p.mean)
    np.testing.assert_allclose(level.log_p, p.log_prob(p.mean).sum(-1), rtol=1e-6)


def test_given_is_scored_and_never_cast() -> None:
    """A given latent is scored under q and p as it is; its dtype stays, its shape has to fit."""
    q, p = gaussian(1), gaussian(2)
    given = jnp.full((B, 2), 0.7)
    level = draw(KEY, p, q, picks(1, latents=(given,))[0])
    np.testing.assert_allclose(level.log_q, q.log_prob(given).sum(-1), rtol=1e-6)
    half = given.astype(jnp.bfloat16)
    assert picks(1, latents=(half,))[0].place(q.mean, "z").dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"level 'z' has shape \(4, 3\).*needs \(4, 2\)"):
        draw(KEY, p, q, picks(1, latents=(jnp.ones((B, 3)),))[0])


def test_a_flow_and_its_inverse() -> None:
    """log q(z) = log q(z0) - log |dz/dz0|, from the Jacobian itself; the given z is scored through the inverse."""
    q = gaussian(1)
    context = jax.random.normal(jax.random.key(3), (B, 3))
    flow = coupling(jnp.float32(0.4), jnp.float32(0.4), context)
    proposed = propose(KEY, q, picks(1)[0], flow)
    z0 = q.sample(KEY)

    def one(z0: jax.Array, context: jax.Array) -> jax.Array:
        return coupling(jnp.float32(0.4), jnp.float32(0.4), context[None])[0](z0[None])[0][0]

    log_det = jnp.linalg.slogdet(jax.vmap(jax.jacobian(one))(z0, context))[1]
    np.testing.assert_allclose(proposed.log_q.sum(-1), q.log_prob(z0).sum(-1) - log_det, rtol=1e-5)
    np.testing.assert_allclose(flow[1](proposed.z)[0], z0, rtol=1e-5, atol=1e-6)
    again = propose(OTHER_KEY, q, picks(1, latents=(proposed.z,))[0], flow)
    np.testing.assert_allclose(again.log_q, proposed.log_q, rtol=1e-5, atol=1e-5)
    assert isinstance(again, Drawn)


def test_a_flow_of_other_shapes_is_refused() -> None:
    """A log-determinant that has no batch axis, and a z of another shape than z0."""
    q = gaussian(1)
    maps: Any = {
        r"'z1': the flow's log-determinant has shape \(2,\)": lambda z: (z, jnp.zeros(2)),
        r"'z1': a flow has to keep the shape of z, but turned \(4, 2\) into \(4, 1\)": lambda z: (z[:, :1], z[:, :1]),
    }
    for message, wrong in maps.items():
        for choice in (picks(1)[0], picks(1, latents=(jnp.ones((B, 2)),))[0]):
            with pytest.raises(ValueError, match=message):
                propose(KEY, q, choice, Flow(wrong, wrong), name="z1")


def test_stacked_picks() -> None:
    """Every array gets a leading axis; levels that are not given have zeros and False in the mask; None stays None."""
    z = jnp.full((B, 2), 3.0)
    run = stack(picks(3, latents=(None, z), temperature=[1.0, 0.5, 0.0], keep_top=2))
    np.testing.assert_array_equal(run.temperature, [1.0, 0.5, 0.0])
    np.testing.assert_array_equal(run.infer, [True, True, False])
    np.testing.assert_array_equal(run.is_given, [False, True, False])
    np.testing.assert_array_equal(run.given[1], z)
    free = stack(picks(3))
    assert free.infer is free.given is free.is_given is None


def in_a_loop(model: Scanned, params: dict, x: jax.Array, choices: tuple[Pick, ...], key: jax.Array) -> list[Any]:
    """`Scanned` as a Python loop over the slices of its stacked parameters: levels, top first."""

    def linear(name: str, h: jax.Array, tree: dict) -> jax.Array:
        kernel = tree[name]["kernel"]
        return Dense(kernel.shape[-1]).apply({"params": tree[name]}, h)

    def head(h: jax.Array) -> Normal:
        mean, log_std = jnp.split(h, 2, -1)
        return Normal(mean, 0.15 * jnp.tanh(log_std / 0.15))

    evidence = jnp.tanh(linear("r", x.reshape(len(x), -1).astype(jnp.float32), params))
    keys = jax.random.split(key, model.num_levels)
    levels = [draw(keys[0], Normal.standard((len(x), model.size)), head(linear("q", evidence, params)), choices[0])]
    h = linear("h", levels[0].z, params)
    for i in range(model.blocks):
        block = jax.tree.map(lambda leaf, i=i: leaf[i], params["run"])
        prior = head(linear("prior", jnp.tanh(h), block))
        delta = head(linear("delta", jnp.tanh(jnp.concatenate([h, evidence], -1)), block))
        posterior = Normal(prior.mean + delta.mean, prior.log_std + delta.log_std)
        levels.append(draw(keys[1 + i], prior, posterior, choices[1 + i]))
        h = h + linear("merge", levels[-1].z, block)
    return levels


@pytest.mark.parametrize("choice", ["given", "keep_top"])
def test_a_scanned_run_is_its_blocks_one_by_one(choice: str) -> None:
    """With a latent given, and with keep_top and temperatures, inside the run."""
    model, x = Scanned(), integers(2, 4)
    variables = jax.jit(model.init)(KEY, x, KEY)
    given = (None, None, jnp.full((len(x), 2), 0.3))
    choices: dict[str, Any] = {
        "given": {"latents": given},
        "keep_top": {"keep_top": 2, "temperature": [0.2, 0.0, 1.0, 0.5]},
    }[choice]
    scanned = jax.jit(lambda v: model.apply(v, x, OTHER_KEY, **as_array(choices)))(variables).unstack()
    params = variables["params"]
    looped = jax.jit(lambda p: in_a_loop(model, p, x, picks(model.num_levels, **choices), OTHER_KEY))(params)
    for got, expected in zip(scanned, looped, strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            jax.tree.leaves(got),
            jax.tree.leaves(expected),
        )


def as_array(choices: dict[str, Any]) -> dict[str, Any]:
    """Temperatures as an array, which is what a model takes."""
    return {name: jnp.asarray(value) if name == "temperature" else value for name, value in choices.items()}


@functools.cache
def compiled_as(remat: bool, unroll: int) -> tuple[Any, ...]:
    """Variables, gradient and trace of a run of two blocks with these settings, always at the same keys."""
    model, x = Scanned(blocks=2, remat=remat, unroll=unroll), integers(2, 4)

    def loss(variables: Any) -> tuple[jax.Array, Any]:
        trace = model.apply(variables, x, OTHER_KEY)
        return trace.rates.sum() - trace.log_px.sum(), trace

    variables = jax.jit(model.init)(KEY, x, KEY)
    return variables, *jax.jit(jax.grad(loss, has_aux=True))(variables)


@pytest.mark.parametrize(("remat", "unroll"), [(False, 2), (True, 1)])
def test_remat_and_unroll_change_rounding_alone(remat: bool, unroll: int) -> None:
    """The same key gives the same stacked parameters, traces and gradients, up to rounding."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        compiled_as(remat, unroll),
        compiled_as(False, 1),
    )


def test_blocks_of_a_run_do_not_share_noise() -> None:
    """Each block has its own key and parameters."""
    model, x = Scanned(), integers(2, 4)
    variables = jax.jit(model.init)(KEY, x, KEY)
    run = jax.jit(lambda v: model.apply(v, x, KEY))(variables).levels[1]
    noise = (run.z - run.q.mean) / run.q.std
    assert jnp.abs(noise[0] - noise[1]).min() > 1e-4
    kernel = variables["params"]["run"]["merge"]["kernel"]
    assert (kernel[0] != kernel[1]).all()
