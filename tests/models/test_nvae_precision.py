"""NVAE in bfloat16 and with remat: what they change in a forward pass and in its gradient, and what they must not.

That remat changes no number is tested in float64: tests/x64/test_remat.py.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array
from support.cases import equations
from support.contract import plausible_variables

from hvae_jax.likelihoods import Categorical
from hvae_jax.models import NVAE
from hvae_jax.objectives import elbo
from hvae_jax.trace import Trace

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).integers(0, 5, (16, 8, 8, 1)), jnp.uint8)
PLAIN = NVAE(
    (8, 8, 1), groups=(1, 2), latents=2, width=8, halvings=0, up_cells=1, down_cells=1, likelihood=Categorical(5)
)
HALF, KEPT, REMAT = PLAIN.clone(dtype="bfloat16"), PLAIN.clone(kept="products"), PLAIN.clone(remat=True)
PRODUCTS = ("dot_general", "conv_general_dilated")


@functools.cache
def variables() -> dict[str, Any]:
    return plausible_variables(PLAIN, X, None)


def passed(model: NVAE, params: Any) -> tuple[Array, tuple[Trace, Any]]:
    """(-mean elbo, (trace, statistics)) in training mode at a fixed key."""
    given = variables() | {"params": params}
    trace, updates = model.apply(given, X, KEY, train=True, mutable=["batch_stats"])
    return -elbo(trace).mean(), (trace, updates)


@functools.cache
def gradient_of(model: NVAE) -> Any:
    """Compiled: params -> (gradient, (trace, statistics))."""
    return jax.jit(jax.grad(functools.partial(passed, model), has_aux=True))


def relative(found: Any, expected: Any) -> float:
    """The distance of two trees, as a fraction of the second one's norm."""
    return float(optax.tree.norm(optax.tree.sub(found, expected)) / optax.tree.norm(expected))


def products(function: Any, *arguments: Any) -> list[set[str]]:
    """The dtypes that each matrix product and convolution reads."""
    return [
        {str(operand.aval.dtype) for operand in equation.invars}
        for equation in equations(jax.make_jaxpr(function)(*arguments))
        if equation.primitive.name in PRODUCTS
    ]


def test_everything_that_is_kept_is_float32() -> None:
    """Trace, statistics, gradient and parameters, whatever the products are computed in."""
    loss = functools.partial(passed, HALF)
    kept = jax.eval_shape(lambda params: jax.grad(loss, has_aux=True)(params), variables()["params"])
    made = jax.eval_shape(HALF.init, KEY, X, KEY)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves((kept, made))} == {"float32"}
    assert jax.tree.structure(made) == jax.tree.structure(variables())


@pytest.mark.slow
def test_products_are_in_bfloat16() -> None:
    """Every product of the forward pass, and of its gradient; in float32 none is."""
    params = variables()["params"]
    for model, dtype in ((HALF, "bfloat16"), (PLAIN, "float32")):
        loss = functools.partial(passed, model)
        forward, backward = products(loss, params), products(jax.grad(loss, has_aux=True), params)
        assert len(backward) > 2 * len(forward) > 60
        assert all(dtypes == {dtype} for dtypes in (*forward, *backward))


@pytest.mark.slow
def test_bfloat16_is_near_float32() -> None:
    """Terms of the ELBO within 1%; statistics and gradient off by what rounding to eight bits explains.

    The effect of one rounding is measured in float32 at parameters rounded to bfloat16, as in tests/models/
    test_precision.py: in bfloat16 each product has three more, and independent errors add in squares.
    """
    params = variables()["params"]
    gradient, (trace, updates) = gradient_of(PLAIN)(params)
    half_gradient, (half_trace, half_updates) = gradient_of(HALF)(params)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), params)
    once, (_, once_updates) = gradient_of(PLAIN)(rounded)
    np.testing.assert_allclose(half_trace.log_px.mean(), trace.log_px.mean(), rtol=0.01)
    np.testing.assert_allclose(half_trace.rates.mean(1), trace.rates.mean(1), rtol=0.01)
    for half, one, full in ((half_updates, once_updates, updates), (half_gradient, once, gradient)):
        assert 0.0 < relative(half, full) < 3 * relative(one, full) < 0.2


@pytest.mark.slow
def test_remat_remembers_less() -> None:
    """The backward pass gets fewer residuals: outputs of convolutions, or the input of each cell and group alone."""
    remembered = []
    for model in (PLAIN, KEPT, REMAT):
        loss = functools.partial(passed, model)
        params = variables()["params"]
        residuals = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params, has_aux=True)[1], params)
        weights = sum(leaf.size for leaf in jax.tree.leaves(params))
        remembered.append(sum(leaf.size for leaf in jax.tree.leaves(residuals)) - weights)
    assert remembered[1] < remembered[0] / 5
    assert remembered[2] < remembered[0] / 3
