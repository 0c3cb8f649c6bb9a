"""Inference without noise: posteriors at temperature 0 are at their modes, for every key, in every kind of descent."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import CASES
from support.contract import KEY, OTHER_KEY, assert_close, plausible_variables

from hvae_jax.descent import picks
from hvae_jax.models.arguments import check_arguments

# top-down, bottom-up by `propose`, a scanned run, a flow, a discrete top
ROWS = ("top_down_2", "bottom_up_vae", "scanned_normalised", "flow", "categorical_top")
BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize("name", [ROWS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in ROWS[1:])])
def test_temperature_of_posteriors(name: str) -> None:
    """0: modes, whatever the key; 1: the posteriors; one for each level; traced, so that one program serves all."""
    case = BY_NAME[name]
    variables = jax.tree.map(jnp.asarray, plausible_variables(case.model, case.x, case.y))

    def infer(v: Any, key: jax.Array, temperature: Any) -> Any:
        return case.model.apply(v, case.x, key, y=case.y, posterior_temperature=temperature)

    program = jax.jit(infer)
    levels = case.model.num_levels
    zeros, ones = jnp.zeros(levels), jnp.ones(levels)
    cold, other, warm, warm_other = (program(variables, key, t) for t in (zeros, ones) for key in (KEY, OTHER_KEY))
    jax.tree.map(np.testing.assert_array_equal, cold.latents, other.latents)
    for level in cold.unstack():
        if not level.flow:
            assert_close(level.z, level.q.mode)
    assert all((np.asarray(a) != np.asarray(b)).any() for a, b in zip(warm.latents, warm_other.latents, strict=True))
    below = program(variables, KEY, ones.at[0].set(0.0)).latents
    assert_close(below[0], cold.latents[0]) if case.top_down else None
    assert_close(program(variables, KEY, ones).log_px, warm.log_px)


@pytest.mark.slow
def test_calls_without_noise() -> None:
    """encode and reconstruct are the latents and E[x | z] of the pass; 1 is the plain pass."""
    case = BY_NAME[ROWS[0]]
    variables = plausible_variables(case.model, case.x, case.y)

    def every(v: Any) -> Any:
        cold = {"y": case.y, "posterior_temperature": 0.0}
        trace = case.model.apply(v, case.x, KEY, **cold)
        plain = case.model.apply(v, case.x, KEY, y=case.y)
        warm = case.model.apply(v, case.x, KEY, y=case.y, posterior_temperature=1.0)
        codes = case.model.apply(v, case.x, KEY, **cold, method="encode")
        means = case.model.apply(v, case.x, KEY, **cold, method="reconstruct")
        return (codes, means, warm.latents), (trace.latents, trace.x_dist.mean, plain.latents)

    assert_close(*jax.jit(every)(variables))


def test_refusals() -> None:
    for temperature, words in (
        (-1.0, "A posterior_temperature is -1.0"),
        (np.ones(3), r"posterior_temperature has sha"),
    ):
        with pytest.raises(ValueError, match=words):
            picks(2, posterior_temperature=temperature)
    with pytest.raises(TypeError, match="posterior_temperature is 'cold'"):
        check_arguments("VAE", KEY, None, None, 1.0, "cold")
