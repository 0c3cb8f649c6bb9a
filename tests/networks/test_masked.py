"""Masked convolutions: dependencies by their Jacobians, and initialisation from the first batch."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support.cases import jitter

from hvae_jax.networks.masked import MaskedLayers, apply_layers, degrees, kernel_mask

KEY = jax.random.key(0)


def made(shape: tuple[int, ...], hidden: tuple[int, ...], heads: int, size: int = 3) -> tuple[Any, Any, Array, Array]:
    """Module, variables at jittered parameters, z `[2, *shape]` and a context."""
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.normal(size=(2, *shape)), jnp.float32)
    context = jnp.asarray(rng.normal(size=(2, *shape[:2], hidden[0])), jnp.float32)
    net = MaskedLayers(hidden, heads, size)
    variables = jax.jit(net.init)(KEY, z, context)
    return net, {"params": jitter(variables["params"], scale=0.1)}, z, context


@pytest.mark.parametrize(
    ("shape", "hidden", "heads", "size"),
    [
        ((3, 4, 2), (4, 6), 2, 3),
        ((4, 3, 4), (4,), 1, 3),
        ((3, 3, 4), (2, 4), 2, 3),
        ((3, 3, 4), (1,), 1, 3),
        ((3, 3, 3), (9, 3), 2, 3),
        ((4, 5, 1), (5,), 2, 5),
        ((1, 1, 4), (8, 8), 2, 3),
    ],
)
def test_strictly_causal(shape: tuple[int, ...], hidden: tuple[int, ...], heads: int, size: int) -> None:
    """Element i of each head is moved by elements before i, in the order of rows, columns, channels, and no others.

    Of those before it, by all that the kernels reach.
    """
    net, variables, z, context = made(shape, hidden, heads, size)
    layers = net.apply(variables, z, context)
    out = jax.jit(jax.jacobian(lambda one: apply_layers(layers, one[None], context[:1])[0]))
    count = int(np.prod(shape))
    moved = np.zeros((heads, count, count), bool)
    for seed in range(4):
        one = jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
        jacobian = np.asarray(out(one)).reshape(*shape[:2], heads, shape[2], count)
        moved |= np.moveaxis(jacobian, 2, 0).reshape(heads, count, count) != 0.0
    reach = size // 2 * (len(hidden) + 1)
    narrow = [width for width in hidden if width < shape[2]]
    block = shape[2] // min(narrow) if narrow else 1  # channels that share a unit have the same dependencies
    for (p, (i, j, c)), (q, (k, m, d)) in itertools.product(enumerate(np.ndindex(shape)), repeat=2):
        if p <= q:
            assert not moved[:, p, q].any(), (p, q)
        else:
            here = k == i and m == j and d // block < c // block
            left = k == i and 0 < j - m <= reach
            above = 0 < i - k <= size // 2 and abs(j - m) <= size // 2
            assert moved[:, p, q].all() or not (here or left or above), (p, q)


def test_the_context_reaches_everything_but_changes_no_order() -> None:
    """It is added after the first hidden layer: the heads depend on it at every position."""
    net, variables, z, context = made((3, 3, 2), (4,), 2)
    layers = net.apply(variables, z, context)
    jacobian = jax.jit(jax.jacobian(lambda c: apply_layers(layers, z, c)[0].sum(-1)))(context)[:, :, 0]
    assert all(np.abs(jacobian[i, j, i, j]).sum() > 0 for i, j in np.ndindex(3, 3))
    without = apply_layers(layers, z, None)
    np.testing.assert_allclose(without, apply_layers(layers, z, jnp.zeros_like(context)), rtol=1e-6)


def test_blocks_of_channels() -> None:
    """At the centre, two channels over four units and back: output block i reads blocks below it, or itself too."""
    up = kernel_mask(3, degrees(2, 2), degrees(4, 2), strict=False)
    np.testing.assert_array_equal(up[1, 1], [[1, 1, 1, 1], [0, 0, 1, 1]])
    np.testing.assert_array_equal(up[1, 2], np.zeros((2, 4)))
    assert (up[0] == 1).all() and (up[1, 0] == 1).all()
    down = kernel_mask(3, degrees(4, 2), degrees(2, 2), strict=True)
    np.testing.assert_array_equal(down[1, 1], [[0, 1], [0, 1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(degrees(2, 4), [1, 3])


def test_the_first_batch_decides_gains_and_biases() -> None:
    """Each layer's outputs have mean 0 and standard deviation 0.1 on that batch, for any seed."""
    rng = np.random.default_rng(1)
    z = jnp.asarray(3.0 + 2.0 * rng.normal(size=(16, 6, 6, 2)), jnp.float32)
    net = MaskedLayers((4, 8), 2)
    layers, _ = jax.jit(net.init_with_output)(KEY, z, None)
    for depth in range(1, 4):
        out = apply_layers(layers[:depth], z, None)
        np.testing.assert_allclose(out.mean((0, 1, 2)), 0.0, atol=1e-4)
        np.testing.assert_allclose(out.std((0, 1, 2)), 0.1, rtol=1e-3)


def test_a_first_batch_without_variance_is_finite() -> None:
    """Zeros, or a map of one pixel, whose first channel's head has no inputs, give finite parameters."""
    for z in (jnp.zeros((4, 3, 3, 2)), jnp.ones((1, 1, 1, 2))):
        layers, _ = jax.jit(MaskedLayers((4,), 2).init_with_output)(KEY, z, jnp.zeros((*z.shape[:3], 4)))
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(layers))


@pytest.mark.parametrize(
    ("channels", "hidden", "size", "message"),
    [
        (4, (6,), 3, "4 channels cannot be put in order through a hidden layer of 6.*Try 8"),
        (3, (6, 7), 3, "3 channels .* hidden layer of 7.*Try 6"),
        (2, (), 3, "has to be 1 or more"),
        (2, (4,), 1, "odd and 3 or more"),
        (2, (4,), 4, "odd and 3 or more"),
    ],
)
def test_orders_that_do_not_exist(channels: int, hidden: tuple[int, ...], size: int, message: str) -> None:
    """Widths that do not divide and kernels without a centre are errors."""
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(MaskedLayers(hidden, 1, size).init, KEY, jnp.zeros((1, 3, 3, channels)), None)
