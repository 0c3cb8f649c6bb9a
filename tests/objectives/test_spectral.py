"""Spectral regularisation: largest singular values of weights as they are applied, their gradients, gains, errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support.hand_made import VARIABLES, call

from hvae_jax.models import LinearVAE
from hvae_jax.networks.cells import LogNormConv
from hvae_jax.objectives import Constant, FreeBits, NegativeELBO, Regularised, SpectralRegularised, spectral

RNG = np.random.default_rng(0)
LAYERS = {"one": LogNormConv(5, 1), "three": LogNormConv(4, 3), "plain": nn.Conv(4, (3, 3))}


def reals(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


# kernels of three layers over three channels; a learned norm is far from that of its kernel
PARAMS: dict[str, Any] = {
    "one": {"kernel": reals(1, 1, 3, 5), "log_norm": reals(5), "bias": reals(5)},
    "three": {"kernel": reals(3, 3, 3, 4), "log_norm": reals(4), "bias": reals(4)},
    "plain": {"kernel": reals(3, 3, 3, 4), "bias": reals(4)},
}
STACK: dict[str, Any] = {"run": {"kernel": reals(2, 3, 3, 3, 4), "log_norm": reals(2, 4)}}
NORMS: dict[str, Any] = {
    "params": {"one": {"scale": jnp.array([0.5, -2.0])}, "run": {"scale": jnp.array([[1.0, 3.0], [0.1, -0.2]])}},
    "batch_stats": {"one": {"mean": reals(2), "var": reals(2)}, "run": {"mean": reals(2, 2), "var": reals(2, 2)}},
}
VARIED = VARIABLES | {
    "params": PARAMS | {"norm": NORMS["params"]["one"]},
    "batch_stats": {"norm": NORMS["batch_stats"]["one"]},
}


def largest_as_applied(name: str, params: Any) -> float:
    """sigma_max of a layer's linear map, read off its Jacobian: no formula of weight norm is in it."""
    layer, size = LAYERS[name], params["kernel"].shape[0]

    def centre(x: jax.Array) -> jax.Array:
        return layer.apply({"params": params}, x[None])[0, size // 2, size // 2]

    jacobian = jax.jacobian(centre)(jnp.zeros((size, size, 3)))  # [outputs, size, size, inputs]
    return float(np.linalg.norm(np.asarray(jacobian).reshape(len(jacobian), -1), 2))


def spectral_term(objective: SpectralRegularised, params: Any) -> jax.Array:
    """The term of fresh vectors, after `first` iterations and then `iterations`."""

    @jax.jit
    def term(variables: Any) -> jax.Array:
        return objective.spectral(variables, objective.init(variables)["left"])[0]

    return term({"params": params})


def sigma_is_of_applied_weights(name: str) -> None:
    """The term of a single layer is the largest singular value of the map that the layer applies."""
    found = spectral_term(SpectralRegularised(first=300), {name: PARAMS[name]})
    np.testing.assert_allclose(found, largest_as_applied(name, PARAMS[name]), rtol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_sigma_is_of_applied_weights(name: str) -> None:
    sigma_is_of_applied_weights(name)


@pytest.mark.parametrize("name", ["one", "three"])
def test_the_raw_weight_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that takes the kernel before its normalisation has another sigma_max."""
    monkeypatch.setattr(spectral, "normalised", lambda kernel, log_norm, epsilon: kernel)
    with pytest.raises(AssertionError):
        sigma_is_of_applied_weights(name)


def test_the_length_of_a_raw_kernel_does_not_count() -> None:
    """A kernel is scaled by 7: the term stays the same, and its gradient is orthogonal to the kernel."""
    objective = SpectralRegularised(first=40)

    @jax.jit
    def term(kernel: jax.Array) -> jax.Array:
        variables = {"params": {"three": PARAMS["three"] | {"kernel": kernel}}}
        return objective.spectral(variables, objective.init(variables)["left"])[0]

    kernel = PARAMS["three"]["kernel"]
    np.testing.assert_allclose(term(7.0 * kernel), term(kernel), rtol=1e-5)
    slope = jax.jit(jax.grad(term))(kernel)
    assert abs(float((slope * kernel).sum())) < 1e-4 < float(jnp.abs(slope).max())


def test_a_stack_is_the_sum_over_its_kernels() -> None:
    """Kernels of equal shape, in a run or in layers of their own, are iterated as one batch and counted one by one."""
    objective, together = SpectralRegularised(first=300), STACK | {"three": PARAMS["three"]}
    stacks = jax.eval_shape(objective.init, {"params": together})["left"]
    assert {name: u.shape for name, u in stacks.items()} == {"4x27": (3, 4)}
    parts = [{name: leaf[i] for name, leaf in STACK["run"].items()} for i in range(2)]
    expected = sum(largest_as_applied("three", {"bias": PARAMS["three"]["bias"]} | part) for part in parts)
    expected += largest_as_applied("three", PARAMS["three"])
    np.testing.assert_allclose(spectral_term(objective, together), expected, rtol=1e-4)


def test_the_gradient_is_that_of_sigma_max() -> None:
    """d sigma/dW = u v^T, the singular vectors taken for constants."""
    objective, kernel = SpectralRegularised(first=300), PARAMS["plain"]["kernel"]
    slope = jax.grad(lambda kernel: spectral_term(objective, {"plain": {"kernel": kernel}}))(kernel)
    u, _, v = np.linalg.svd(np.asarray(kernel, np.float64).reshape(27, 4).T)
    np.testing.assert_allclose(np.asarray(slope).reshape(27, 4).T, np.outer(u[:, 0], v[0]), atol=1e-4)


def test_power_iterations_go_on() -> None:
    """Single iterations rise to sigma_max over the steps, since each begins with the vectors of the one before."""
    objective, variables = SpectralRegularised(first=1, iterations=1), {"params": {"plain": PARAMS["plain"]}}
    left, values = objective.init(variables)["left"], []
    once = jax.jit(objective.spectral)
    for _ in range(60):
        value, left = once(variables, left)
        values.append(float(value))
    exact = largest_as_applied("plain", PARAMS["plain"])
    assert values[0] < 0.999 * exact and (np.diff(values) > -1e-5).all()
    np.testing.assert_allclose(values[-1], exact, rtol=1e-4)


def test_loss_and_metrics() -> None:
    """The base's loss plus lambda times both terms; the state goes on, and the base keeps its own metrics."""
    objective = SpectralRegularised(Regularised(beta=0.5), Constant(0.1))
    plain, its_metrics, *_ = call(Regularised(beta=0.5))
    state = objective.init(VARIED)
    loss, metrics, after, _ = call(objective, variables=VARIED, state=state)
    np.testing.assert_allclose(loss, plain + 0.1 * (metrics["spectral"] + metrics["largest_gains"]), rtol=1e-6)
    assert float(metrics["largest_gains"]) == 2.0 and float(metrics["lambda_sr"]) == pytest.approx(0.1)
    assert set(metrics) == set(its_metrics) | {"spectral", "largest_gains", "lambda_sr"}
    np.testing.assert_array_equal(metrics["elbo"], its_metrics["elbo"])  # the ELBO has none of the terms
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_gains_of_batch_norm() -> None:
    """The largest magnitude of each batch norm, those of a run one by one; other scales do not count."""
    np.testing.assert_allclose(spectral.largest_gains(NORMS), 2.0 + 3.0 + 0.2)
    assert float(spectral.largest_gains({"params": NORMS["params"]})) == 0.0


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"SpectralRegularised\(epsilon=-1.0\): .* of 0 or more"):
        SpectralRegularised(epsilon=-1.0)
    for name in ("first", "iterations"):
        with pytest.raises(ValueError, match=rf"{name}=0.*every size has to be a whole number of 1 or more"):
            SpectralRegularised(**{name: 0})
    toy, x = LinearVAE(), jnp.zeros((2, 3))
    variables = jax.eval_shape(toy.init, jax.random.key(0), x, jax.random.key(0))
    with pytest.raises(ValueError, match=r"no convolutions .*Train on NegativeELBO itself"):
        SpectralRegularised(NegativeELBO()).init(variables)
    with pytest.raises(ValueError, match="Train on Regularised itself"):
        SpectralRegularised(Regularised(free_bits=FreeBits(0.1))).init(variables)
