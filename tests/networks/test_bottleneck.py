"""Bottlenecks whose first products are taken elsewhere."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from hvae_jax.networks.bottleneck import Bottleneck, BottleneckStyle, joint_products, stacked_products

KEY = jax.random.key(0)
H, MORE = (jax.random.normal(key, (2, 4, 4, inputs)) for key, inputs in zip(jax.random.split(KEY), (3, 5), strict=True))


@pytest.mark.parametrize("edge", [1, None])
def test_products_ahead(edge: int | None) -> None:
    """Bottlenecks with products of both inputs taken ahead have the outputs and gradients that they have."""
    style = BottleneckStyle(edge=edge)
    layer = Bottleneck(2, 4, layers=1, style=style)
    params = jax.vmap(lambda key: layer.init(key, H, MORE))(jax.random.split(KEY, 3))

    def whole(params: Any, h: Array, more: Array) -> Array:
        return jax.vmap(lambda one: layer.apply(one, h, more))(params)

    def ahead(params: Any, h: Array, more: Array) -> Array:
        first, second = jnp.split(params["params"]["conv_0"]["kernel"], [h.shape[-1]], axis=3)
        sums = stacked_products(more, second, style) + jnp.stack(joint_products(h, list(first), style))
        assert sums.shape == (3, 2, 4, 4, 4)
        return jax.vmap(lambda one, product: layer.apply(one, product, ahead=True))(params, sums)

    found, expected = (
        jax.jit(jax.value_and_grad(lambda *given, f=f: jnp.sin(f(*given)).sum(), (0, 1, 2)))(params, H, MORE)
        for f in (ahead, whole)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
