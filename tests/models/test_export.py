"""jax.export: train step, ELBO and generation, each lowered once for CPU, CUDA and TPU, and run on the CPU."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export
from support.cases import integers

from hvae_jax.likelihoods import Categorical
from hvae_jax.models import TopDownVAE
from hvae_jax.objectives import Batch, NegativeELBO, elbo
from hvae_jax.training import TrainState, init_state, make_step

pytestmark = pytest.mark.leg

MODEL = TopDownVAE(latents=(2, 2), hidden=5, likelihood=Categorical(3))
OPTIMISER = optax.adam(1e-2)
KEY, X = jax.random.key(0), integers(3, 2, 2)


@functools.cache
def state() -> TrainState:
    """A fresh state."""
    return init_state(MODEL, NegativeELBO(), OPTIMISER, KEY, X)


def flat_step(*leaves: Any) -> Any:
    """One training step on the leaves of (state, batch, key): a TrainState is no type that a file could name."""
    step = make_step(MODEL, NegativeELBO(), OPTIMISER)
    structure = jax.tree.structure((state(), Batch(X), KEY))
    return jax.tree.leaves(step(*jax.tree.unflatten(structure, leaves)))


def elbo_of(variables: Any, x: jax.Array, key: jax.Array) -> jax.Array:
    """The ELBO of a batch."""
    return elbo(MODEL.apply(variables, x, key))


def generate(variables: Any, key: jax.Array, temperature: jax.Array) -> jax.Array:
    """Eight new x, at a temperature that is data."""
    return MODEL.apply(variables, key, 8, temperature=temperature, method="generate")


def cases() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Functions to export, and arguments to run them on."""
    return {
        "step": (flat_step, tuple(jax.tree.leaves((state(), Batch(X), KEY)))),
        "elbo": (elbo_of, (state().variables, X, KEY)),
        "generate": (generate, (state().variables, KEY, jnp.float32(0.7))),
    }


@pytest.mark.parametrize("name", ["step", "elbo", "generate"])
def test_export(name: str) -> None:
    """One artefact serves three platforms; after a round trip its CPU program computes what the function does."""
    function, arguments = cases()[name]
    exported = export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*arguments)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    again = export.deserialize(exported.serialize())
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        jax.jit(again.call)(*arguments),
        jax.jit(function)(*arguments),
    )
