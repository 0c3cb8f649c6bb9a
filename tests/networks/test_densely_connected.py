"""Densely connected convolutions: shapes, growth, the attention, and the padding of their strided convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from hvae_jax.networks.densely_connected import (
    ChannelAttention,
    DenseBlocks,
    DenselyDecoder,
    DenselyEncoder,
    DenselyNetwork,
)
from hvae_jax.networks.resample import convolve, convolve_transposed
from hvae_jax.networks.weight_norm import WeightNormConv, directions

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 4, 2)), jnp.float32)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (DenseBlocks(3, 2), (8, 4, 2 + 2 * 3)),
        (DenselyEncoder(5, 2, 1, halvings=2), (2, 1, 5)),
        (DenselyDecoder(5, 4, 1, doublings=2), (32, 16, 5)),
        (DenselyNetwork(5, 2, 2, blocks=2), (8, 4, 5)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_shapes(net: nn.Module, shape: tuple[int, ...]) -> None:
    """A layer adds steps * growth maps; halvings and doublings are those of height and width."""
    y, _ = jax.eval_shape(lambda: net.init_with_output(KEY, X))
    assert y.shape == (3, *shape)


def test_growth_changes_with_the_resolution() -> None:
    """It is doubled by each halving and halved by each doubling."""
    encoder = jax.eval_shape(DenselyEncoder(5, 2, 1, halvings=2).init, KEY, X)["params"]
    assert [encoder[f"dense_{i}"]["grow_0"]["bias"].shape for i in range(3)] == [(2,), (4,), (8,)]
    decoder = jax.eval_shape(DenselyDecoder(5, 4, 1, doublings=2).init, KEY, X)["params"]
    assert [decoder[f"dense_{i}"]["grow_0"]["bias"].shape for i in range(2)] == [(4,), (2,)]


def test_the_attention_scales_channels() -> None:
    """All pixels of a channel by one number between 0 and 1, which depends on the means of all channels."""
    net = ChannelAttention()
    variables = jax.jit(net.init)(KEY, X)
    gates = np.asarray(net.apply(variables, X) / X)
    np.testing.assert_allclose(gates, gates[:, :1, :1].repeat(8, 1).repeat(4, 2), rtol=1e-4)
    assert (gates > 0).all() and (gates < 1).all() and np.ptp(gates) > 0.01


def test_padding_is_pytorchs() -> None:
    """Padding 1 of a 3x3 kernel at stride 2, and, transposed, with an output padding of 1."""
    for transposed in (False, True):
        layer = WeightNormConv(4, stride=2, transposed=transposed, odd_before=True)
        variables = jax.jit(layer.init)(KEY, X)
        params = variables["params"]
        kernel = directions(params["kernel"]) * params["gain"][None, None, None]
        one = convolve_transposed(X, kernel, 2, (1, 0)) if transposed else convolve(X, kernel, 2, ((1, 1), (1, 1)))
        np.testing.assert_allclose(
            layer.apply(variables, X), one + params["bias"][None, None, None], rtol=1e-4, atol=1e-5
        )
