"""Walks as programs: the descent is in them once, however many images they make."""

from typing import Any

import jax
import numpy as np
import pytest
from support.cases import equations

import hvae_jax as hv
from hvae_jax.diagnostics import interpolate, traverse
from hvae_jax.models import TopDownVAE

KEY = jax.random.key(0)
MODEL = TopDownVAE(latents=(2, 3), hidden=8, likelihood=hv.Bernoulli())
X = np.random.default_rng(0).integers(0, 2, (4, 6)).astype(np.uint8)


@pytest.fixture(scope="module")
def variables() -> Any:
    """Shapes and dtypes: nothing here is computed."""
    return jax.eval_shape(MODEL.init, KEY, X, KEY)


def products(walk: Any, variables: Any) -> int:
    """Number of matrix products in the program."""
    return sum(one.primitive.name == "dot_general" for one in equations(jax.make_jaxpr(walk)(variables).jaxpr))


def test_a_walk_has_one_inference_and_one_decoding(variables: Any) -> None:
    """Its program has as many products as these two, whether it makes 3 images or 30."""
    inference = products(lambda v: MODEL.apply(v, X, KEY), variables)
    decoding = products(lambda v: MODEL.apply(v, KEY, 4, method="decode"), variables)
    for steps in (3, 30):
        values = np.linspace(-2.0, 2.0, steps)
        assert products(lambda v, u=values: traverse(MODEL, v, X, KEY, 0, 1, u), variables) == inference + decoding
        ways = products(lambda v, n=steps: interpolate(MODEL, v, X, X[::-1], KEY, n), variables)
        assert ways == inference + decoding
