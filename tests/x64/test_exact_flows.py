"""Inverse autoregressive flows in float64: round trips, log-determinants and derivatives to many digits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import case, jitter

from hvae_jax.flows import InverseAutoregressive, StepForm

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("form", ["gate", "mean_only", "published"])
def test_flow(form: StepForm) -> None:
    """Forward then inverse is the identity, log |dz/dz0| is the Jacobian's, and gradients are those of differences."""
    rng = np.random.default_rng(0)
    z0, context = jnp.asarray(rng.normal(size=(2, 2, 3, 2))), jnp.asarray(rng.normal(size=(2, 2, 3, 4)))
    flow = InverseAutoregressive(2, (4,), form)
    params = jax.jit(lambda: flow.init_with_output(jax.random.key(0), z0, context)[1])()["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), jitter(params, scale=0.4))

    @jax.jit
    def both(params: Any, z0: jax.Array) -> Any:
        forward, inverse = flow.apply({"params": params}, z0, context)
        z, log_det = forward(z0)
        again, same = inverse(z)
        return (
            z,
            log_det,
            again,
            same,
            jax.jacfwd(lambda z0: forward(z0)[0])(z0),
            jax.jacrev(lambda z: inverse(z)[0])(z),
        )

    z, log_det, again, same, jacobian, inverse_jacobian = both(params, z0)
    assert z.dtype == jnp.float64
    np.testing.assert_allclose(again, z0, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(same, log_det, rtol=1e-10, atol=1e-10)
    for b in range(2):
        there = np.asarray(jacobian[b, ..., b, :, :, :]).reshape(12, 12)
        back = np.asarray(inverse_jacobian[b, ..., b, :, :, :]).reshape(12, 12)
        np.testing.assert_allclose(log_det[b].sum(), np.linalg.slogdet(there)[1], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(there @ back, np.eye(12), atol=1e-8)

    way = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)

    def along(t: jax.Array) -> jax.Array:
        moved = jax.tree.map(lambda a, b: a + t * b, params, way)
        return sum(jnp.sin(leaf).sum() for leaf in flow.apply({"params": moved}, z0, context).inverse(z))

    slope, value = jax.jit(jax.grad(along))(0.0), jax.jit(along)
    np.testing.assert_allclose(slope, (value(1e-6) - value(-1e-6)) / 2e-6, rtol=1e-6, atol=1e-6)


def test_resnet_vae() -> None:
    """Given latents pass through the inverse to 1e-10 in float64; with float32 variables every output is float32."""
    row, key = case("resnet_vae_flow"), jax.random.key(0)
    variables = jax.jit(row.model.init)(key, row.x, key)
    single = jax.eval_shape(lambda v: row.model.apply(v, row.x, key), variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(single)} == {jnp.dtype(jnp.float32)}

    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
    apply = jax.jit(lambda latents: row.model.apply(variables, row.x, key, latents=latents))
    trace = apply(None)
    again = apply(trace.latents)
    assert trace.latents[0].dtype == jnp.float64
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), again, trace)
