"""Numbers drawn in one kernel are JAX's own, bit for bit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from hvae_jax.models import TopDownVAE
from hvae_jax.runtime.prng import fused

pytestmark = pytest.mark.leg

DRAWS: dict[str, Callable[[Array], Array]] = {
    "normal": lambda key: jax.random.normal(key, (3, 5, 7)),
    "a single one": lambda key: jax.random.normal(key, ()),
    "none": lambda key: jax.random.normal(key, (2, 0)),
    "bfloat16": lambda key: jax.random.normal(key, (5,), jnp.bfloat16),
    "uniform": lambda key: jax.random.uniform(key, (4, 3), minval=-2.0),
    "gumbel": lambda key: jax.random.gumbel(key, (9,)),
    "logistic": lambda key: jax.random.logistic(key, (2, 3)),
    "bernoulli": lambda key: jax.random.bernoulli(key, 0.3, (11,)),
    "bits of 8": lambda key: jax.random.bits(key, (9,), "uint8"),
    "permutation": lambda key: jax.random.permutation(key, 10),
    "split": lambda key: jax.random.key_data(jax.random.split(key)),
    "split to a shape": lambda key: jax.random.key_data(jax.random.split(key, (3, 4))),
    "folded": lambda key: jax.random.key_data(jax.random.fold_in(key, 2**32 - 7)),
    "over keys": lambda key: jax.vmap(lambda k: jax.random.normal(k, (3,)))(jax.random.split(key, 4)),
    "over numbers": lambda key: jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i)))(jnp.arange(4)),
    "in a scan": lambda key: jax.lax.scan(lambda _, k: (0, jax.random.normal(k, (3,))), 0, jax.random.split(key, 4))[1],
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_same_numbers(draw: Callable[[Array], Array]) -> None:
    for seed in (0, 1, 2**31 + 5):
        key = jax.random.key(seed)
        np.testing.assert_array_equal(draw(fused(key)), draw(key))
        np.testing.assert_array_equal(jax.jit(draw)(fused(key)), draw(key))


def test_other_keys_are_left_alone() -> None:
    key = jax.random.key(0)
    for other in (jax.random.key(0, impl="rbg"), jax.random.PRNGKey(0), fused(key)):
        assert fused(other) is other
    with jax.threefry_partitionable(False):  # a setting under which JAX's numbers are others
        assert fused(key) is key


def test_one_kernel() -> None:
    """No loop is left in a program that draws; JAX's own has one on a CPU, else this test tells nothing."""

    def loops(make: Callable[[Array], Array]) -> int:
        lowered = jax.jit(lambda key: jax.random.normal(make(key), (64, 16))).lower(jax.random.key(0))
        return lowered.as_text().count("stablehlo.while")

    assert loops(fused) == 0
    assert loops(lambda key: key) > 0


def test_models_draw_so() -> None:
    """What a model draws is drawn so, whichever way it is asked, and is what the plain key would draw."""
    model = TopDownVAE(latents=(2, 3), hidden=8)
    x, key = jnp.zeros((4, 5), jnp.int32), jax.random.key(1)
    variables = jax.jit(model.init)(key, x, key)
    for call in (
        lambda key: model.apply(variables, x, key).latents,
        lambda key: model.apply(variables, key, 4, method="decode").latents,
        lambda key: model.apply(variables, key, 4, method="generate"),
    ):
        assert "stablehlo.while" not in jax.jit(call).lower(key).as_text()
        jax.tree.map(np.testing.assert_array_equal, jax.jit(call)(key), jax.jit(call)(fused(key)))
