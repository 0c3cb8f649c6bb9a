"""Weight normalisation: layers against convolutions written out, and data-dependent initialisation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from hvae_jax.networks.weight_norm import WeightNormConv, WeightNormDense, directions, first_gain_and_bias

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    """Standard normal numbers."""
    return RNG.normal(size=shape).astype(np.float32)


def begin(layer: nn.Module, x: Any) -> dict[str, Any]:
    """Parameters of a module, initialised on x."""
    return jax.jit(layer.init)(KEY, x)["params"]


def run(layer: nn.Module, params: Any, x: Any) -> np.ndarray:
    """Output of a module at x."""
    return np.asarray(jax.jit(lambda p, x: layer.apply({"params": p}, x))(params, x))


def moved(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters moved away from their initial values."""
    return {name: np.asarray(leaf) + 0.3 * random(*leaf.shape) for name, leaf in params.items()}


def kernel_of(params: dict[str, Any]) -> np.ndarray:
    """gain v/|v|, in float64."""
    v, gain = (np.asarray(params[name], np.float64) for name in ("kernel", "gain"))
    return gain * v / np.sqrt((v.reshape(-1, v.shape[-1]) ** 2).sum(0))


def test_dense() -> None:
    """The layer is x @ kernel + bias, with the gain as the norm of each output's kernel."""
    layer, x = WeightNormDense(4), random(7, 5)
    params = moved(begin(layer, x))
    kernel = kernel_of(params)
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), np.abs(params["gain"]), rtol=1e-6)
    np.testing.assert_allclose(
        run(layer, params, x), x @ kernel + np.asarray(params["bias"])[None], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("size", "stride", "before", "after"), [(3, 1, 1, 1), (5, 2, 1, 2), (3, 2, 0, 1), (1, 1, 0, 0), (4, 1, 1, 2)]
)
def test_convolution(size: int, stride: int, before: int, after: int) -> None:
    """The layer is the product of the kernel with each window of x, with zeros around x."""
    layer, x = WeightNormConv(2, size, stride), random(2, 4, 6, 3)
    params = moved(begin(layer, x))
    padded = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    expected = np.zeros((2, 4 // stride, 6 // stride, 2)) + np.asarray(params["bias"])
    for i, j in np.ndindex(*expected.shape[1:3]):
        window = padded[:, stride * i :, stride * j :][:, :size, :size]
        expected[:, i, j] += np.tensordot(window, kernel_of(params), 3)
    np.testing.assert_allclose(run(layer, params, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (5, 2), (4, 2), (5, 4), (3, 4), (2, 2)])
def test_transposed_convolution(size: int, stride: int) -> None:
    """Each pixel adds its kernel, and the sum is cropped; edges that no kernel reaches have no bias either."""
    layer, x = WeightNormConv(2, size, stride, transposed=True), random(2, 3, 2, 3)
    params = moved(begin(layer, x))
    rows, columns = (stride * (side - 1) + size for side in x.shape[1:3])
    full = np.zeros((2, rows, columns, 2)) + np.asarray(params["bias"])
    for i, j in np.ndindex(*x.shape[1:3]):
        laid = np.einsum("bc,hwco->bhwo", x[:, i, j], kernel_of(params))
        full[:, stride * i : stride * i + size, stride * j : stride * j + size] += laid
    before, after = (size - stride) // 2, -((stride - size) // 2)
    if size < stride:
        full = np.pad(full, ((0, 0), (-before, -after), (-before, -after), (0, 0)))
    else:
        full = full[:, before : rows - after, before : columns - after]
    assert full.shape[1:3] == (3 * stride, 2 * stride)
    np.testing.assert_allclose(run(layer, params, x), full, rtol=1e-5, atol=1e-5)


LAYERS = (
    WeightNormDense(6, scale=0.01),
    WeightNormConv(6, 3, 2, scale=0.01),
    WeightNormConv(6, 5, 2, transposed=True, scale=0.01),
)


@functools.cache
def first_batch(layer: nn.Module) -> np.ndarray:
    """Sixteen examples whose mean and variance are far from 0 and 1."""
    shape = (16, 8) if isinstance(layer, WeightNormDense) else (16, 4, 4, 8)
    return 100.0 + 30.0 * random(*shape)


@pytest.mark.parametrize("layer", LAYERS, ids=["dense", "strided", "transposed"])
def test_first_batch(layer: nn.Module) -> None:
    """On the batch of initialisation each output has mean 0 and standard deviation `scale`."""
    x = first_batch(layer)
    params = begin(layer, x)
    outputs = run(layer, params, x).reshape(-1, 6)
    np.testing.assert_allclose(outputs.mean(0), 0.0, atol=2e-5)
    np.testing.assert_allclose(outputs.std(0), 0.01, rtol=1e-3)
    assert 0.04 < params["kernel"].std() < 0.06
    np.testing.assert_array_equal(begin(layer, x)["gain"], params["gain"])
    assert (begin(layer, 2.0 * x)["gain"] != params["gain"]).all()


@pytest.mark.parametrize("layer", LAYERS, ids=["dense", "strided", "transposed"])
def test_plain_start(layer: nn.Module) -> None:
    """With data_dependent=False gains are 1 and biases 0 for every batch."""
    params = begin(layer.clone(data_dependent=False), first_batch(layer))
    assert (params["gain"] == 1).all()
    assert (params["bias"] == 0).all()


@pytest.mark.parametrize("value", [0.0, 1000.0])
@pytest.mark.parametrize("layer", LAYERS, ids=["dense", "strided", "transposed"])
def test_a_batch_without_spread(layer: nn.Module, value: float) -> None:
    """If all examples are equal there is no deviation to divide by: gains stay small, and another batch finite."""
    shape = (1, *first_batch(layer).shape[1:])
    params = begin(layer, jnp.full(shape, value))
    assert np.isfinite(run(layer, params, first_batch(layer))).all()
    if value == 0.0 or isinstance(layer, WeightNormDense):
        np.testing.assert_allclose(params["gain"], 0.01, rtol=1e-6)


def test_an_output_without_inputs() -> None:
    """If v is 0, so is its direction, and its gradient is finite."""
    v = jnp.asarray(random(3, 3, 2, 4)).at[..., 1].set(0.0)
    assert (directions(v)[..., 1] == 0).all()
    gradient = jax.grad(lambda v: (directions(v) ** 3).sum())(v)
    assert jnp.isfinite(gradient).all()


def test_gain_and_bias_of_a_constant() -> None:
    """An output that does not vary beyond rounding gets mean 0 and no large gain."""
    outputs = jnp.stack([jnp.full(50, 1000.0), jnp.asarray(random(50))], axis=-1)
    gain, bias = first_gain_and_bias(outputs, 0.1)
    np.testing.assert_allclose(gain, [0.1, 0.1 / outputs[:, 1].std()], rtol=1e-5)
    np.testing.assert_allclose((gain[None] * outputs + bias[None]).mean(0), 0.0, atol=1e-4)


def test_gradients_keep_the_norm() -> None:
    """A gradient step changes v's direction alone: v is orthogonal to its gradient, and |v| constant to first order."""
    layer, x = WeightNormConv(3, 3), jnp.asarray(random(2, 4, 4, 2))
    params = moved(begin(layer, x))
    target = random(2, 4, 4, 3)
    gradient = jax.jit(jax.grad(lambda p: jnp.square(layer.apply({"params": p}, x) - target).sum()))(params)
    along = (params["kernel"] * np.asarray(gradient["kernel"])).sum((0, 1, 2))
    np.testing.assert_allclose(along, 0.0, atol=1e-3)
    assert (jnp.abs(gradient["kernel"]).sum((0, 1, 2)) > 1.0).all()


@pytest.mark.parametrize("layer", LAYERS, ids=["dense", "strided", "transposed"])
def test_bfloat16(layer: nn.Module) -> None:
    """The output is bfloat16 and close to that of float32; parameters are float32."""
    x = first_batch(layer) / 100.0
    params = begin(layer, x)
    narrow = layer.clone(dtype="bfloat16")
    assert {leaf.dtype for leaf in begin(narrow, x).values()} == {jnp.dtype("float32")}
    params = params | {"gain": jnp.ones(6), "bias": jnp.zeros(6)}
    got = jax.jit(lambda x: narrow.apply({"params": params}, x))(x)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), run(layer, params, x), rtol=0.05, atol=0.05)
