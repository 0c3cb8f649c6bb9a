"""Objectives that are equal to float64 rounding, on a linear-Gaussian hierarchy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import jitter

from hvae_jax.models import LinearVAE
from hvae_jax.objectives import (
    GECO,
    Batch,
    Cosine,
    Distortion,
    FreeBits,
    ImportanceWeighted,
    Linear,
    NegativeELBO,
    NVAEBalance,
    Objective,
    Regularised,
    importance,
)

pytestmark = pytest.mark.slow

KEY = jax.random.key(2)
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))


def built() -> tuple[LinearVAE, Any]:
    """A model and its parameters in float64."""
    model = LinearVAE((2, 2))  # with diagonal posteriors, whose KL is a sum over elements
    params = jitter(jax.jit(model.init)(jax.random.key(0), X, KEY)["params"], scale=0.2)
    return model, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)


def loss_and_gradient(objective: Objective, step: int = 0) -> Any:
    """Loss and gradient of one call in evaluation mode."""
    model, params = built()

    def loss(params: Any) -> Any:
        def forward(variables: Any, x: Any, key: Any, **choices: Any) -> Any:
            return model.apply(variables, x, key, **choices), {}

        return objective(
            forward, {"params": params}, Batch(X), KEY, jnp.int32(step), objective.init({"params": params})
        )[0]

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(
    "objective",
    [
        Regularised((1.0, 1.0), Linear(0, 50), FreeBits((0.0, 0.0)), NVAEBalance()),
        Regularised(warm_up=Cosine(0, 50), free_bits=FreeBits(9.0, "element", schedule=Linear(0, 50, 1.0, 0.0))),
        GECO((Distortion(0.0),)),
    ],
)
def test_the_negative_elbo(objective: Objective) -> None:
    """Equal to the ELBO: Regularised after its warm-up with 0 free nats, and GECO with multiplier 1 and target 0."""
    got, expected = loss_and_gradient(objective, 50), loss_and_gradient(NegativeELBO())
    assert got[0].dtype == jnp.float64
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), got, expected)


@pytest.mark.parametrize("gradient", ["plain", "stl", "dreg"])
def test_the_bound(gradient: str) -> None:
    """The value is that of `importance` at the same key, for every gradient estimator."""
    model, params = built()
    value, _ = loss_and_gradient(ImportanceWeighted(4, gradient))
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(-value, importance(model, {"params": params}, X, KEY, 4).bound.mean(), rtol=1e-12)
