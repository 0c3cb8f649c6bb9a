"""Gated blocks: the shortcut, the auxiliary input at any resolution, the queue of skips, dropout."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax.networks.gated import GatedBlock, GatedRun, GatedStyle, drop, shortcut

KEY = jax.random.key(0)


def random(*shape: int) -> jax.Array:
    """Standard normal numbers."""
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def test_shortcut_of_maps() -> None:
    """The shortcut is x, or its first channels; there is none if x has fewer channels or pixels."""
    x = random(2, 4, 4, 3)
    np.testing.assert_array_equal(shortcut(x, 4, 3), x)
    np.testing.assert_array_equal(shortcut(x, 4, 2), x[..., :2])
    assert shortcut(x, 4, 4) is None
    assert shortcut(x, 8, 3) is None


def test_shortcut_of_pixels() -> None:
    """Excess pixels are averaged over 3x3, including zeros beyond the right and lower edge."""
    x = np.asarray(random(1, 4, 4, 1))
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    expected = [[padded[0, i : i + 3, j : j + 3, 0].sum() / 9.0 for j in (0, 2)] for i in (0, 2)]
    np.testing.assert_allclose(shortcut(jnp.asarray(x), 2, 1)[0, ..., 0], expected, rtol=1e-5)


def apply(net: Any, *inputs: Any, train: bool = False) -> Any:
    """Output of a module at parameters initialised on these inputs."""

    def begun(*inputs: Any) -> Any:
        return net.apply(net.init(KEY, *inputs, KEY, train=False), *inputs, KEY, train=train)

    return jax.jit(begun)(*inputs)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("side", [None, 2, 4, 8])
def test_shapes(stride: int, transposed: bool, side: int | None) -> None:
    """Shapes for every stride, up and down, with an auxiliary input of half, equal or twice the resolution, or none."""
    aux = None if side is None else random(2, side, side, 5)
    block = GatedBlock(3, 3, stride, transposed)
    params = jax.eval_shape(lambda x: block.init(KEY, x, aux, KEY, train=False), random(2, 4, 4, 6))["params"]
    assert ("aux" in params) == (aux is not None)
    y = jax.eval_shape(lambda p, x: block.apply({"params": p}, x, aux, KEY, train=False), params, random(2, 4, 4, 6))
    rows = 4 * stride if transposed else 4 // stride
    assert y.shape == (2, rows, rows, 3)


def test_the_queue_of_skips() -> None:
    """Each block takes the oldest skip that no block has taken, the run's own once the others are used up."""
    x, first = random(2, 4, 4, 2), random(2, 4, 4, 2)
    run = GatedRun(((2, 3, 1),) * 3)
    (last, queue), (alone, outputs) = apply(run, x, (first,)), apply(run, x, None)
    assert len(queue) == 1 and len(outputs) == 3
    np.testing.assert_array_equal(queue[-1], last)
    np.testing.assert_array_equal(outputs[-1], alone)
    (_, more) = apply(run, x, (first, x, x, 2.0 * x))
    np.testing.assert_array_equal(more[0], 2.0 * x)
    assert len(more) == 4


def test_dropout() -> None:
    """Dropout sets a fraction of elements to 0 by the key, keeps the mean, and acts in training only."""
    h = drop(jnp.ones((100, 10, 10, 2)), KEY, 0.2)
    assert set(np.unique(h).tolist()) == {0.0, 1.25}
    assert abs(float(h.mean()) - 1.0) < 0.03
    x = random(4, 4, 4, 2)
    block = GatedBlock(2, style=GatedStyle(dropout=0.5))
    assert (apply(block, x, None, train=True) != apply(block, x, None)).any()
