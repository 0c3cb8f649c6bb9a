"""What the backward pass stores, in float64, where a change of the formula cannot hide behind rounding."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support.contract import plausible_variables

from hvae_jax.likelihoods import Categorical
from hvae_jax.models import NVAE, VDVAE, down_stages, up_stages
from hvae_jax.objectives import elbo
from hvae_jax.trace import Trace

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).integers(0, 5, (4, 8, 8, 1)), jnp.uint8)
PLAIN = NVAE(
    (8, 8, 1), groups=(1, 2), latents=2, width=8, halvings=0, up_cells=1, down_cells=1, likelihood=Categorical(5)
)


def passed(model: NVAE, variables: Any, params: Any) -> tuple[Array, tuple[Trace, Any]]:
    """(-mean elbo, (trace, statistics)) in training mode at a fixed key."""
    trace, updates = model.apply(variables | {"params": params}, X, KEY, train=True, mutable=["batch_stats"])
    return -elbo(trace).mean(), (trace, updates)


@pytest.mark.slow
@pytest.mark.parametrize("other", [PLAIN.clone(remat=True), PLAIN.clone(kept="products")], ids=["remat", "products"])
def test_remat_changes_nothing(other: NVAE) -> None:
    """Trace, statistics and gradient are the same to rounding."""
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), plausible_variables(PLAIN, X, None))
    plain, remat = (
        jax.jit(jax.grad(functools.partial(passed, model, variables), has_aux=True))(variables["params"])
        for model in (PLAIN, other)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(plain[0])} == {jnp.dtype("float64")}
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11), remat, plain)


@pytest.mark.slow
def test_what_is_kept_changes_nothing() -> None:
    """Trace and gradient of a very deep VAE are the same to rounding, whatever its blocks store and read."""
    # the feature maps that posteriors read have more channels than the states
    downs = down_stages("1x1,8m1,8x2", 6, latents=2)
    model = VDVAE((8, 8, 1), up_stages("8x2,8d8,1x1", 8), downs, Categorical(5), unroll=2)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), plausible_variables(model, X, None))

    def loss(params: Any, kept: str) -> tuple[Array, Any]:
        trace = model.clone(kept=kept).apply({"params": params}, X, KEY)
        levels = tuple(level.replace(summed=None) for level in trace.levels)  # of one kind alone
        return -elbo(trace).mean(), (trace.rates, trace.replace(levels=levels))

    plain, other = (
        jax.jit(jax.grad(functools.partial(loss, kept=kept), has_aux=True))(variables["params"])
        for kept in ("all", "products")
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11), other, plain)
