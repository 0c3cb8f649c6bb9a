"""jax.export: train step, ELBO and generation, each lowered once for CPU, CUDA and TPU, and run on the CPU.

With a symbolic batch one artefact serves all sizes of it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from jax import export
from support.cases import case, integers

from hvae_jax.likelihoods import Categorical
from hvae_jax.models import TopDownVAE
from hvae_jax.objectives import Batch, NegativeELBO, elbo
from hvae_jax.runtime.prng import fold_in, fused, split
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


@pytest.mark.parametrize("name", [pytest.param("step", marks=pytest.mark.slow), "elbo", "generate"])
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


@pytest.fixture
def symbolic(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A symbolic size; types are not checked beside it, since it is no int."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    return export.symbolic_shape("batch")[0]


def test_symbolic_draws(symbolic: Any) -> None:
    """Random numbers of a symbolic size are those that JAX draws for the size it turns out to be."""

    def run(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = split(fold_in(key, 3), x.shape[0])
        return jax.random.normal(fused(key), x.shape), jax.random.key_data(keys)

    exported = export.export(jax.jit(run))(jax.ShapeDtypeStruct((symbolic, 2), jnp.float32), KEY)
    drawn, keys = exported.call(jnp.zeros((5, 2)), KEY)
    np.testing.assert_array_equal(drawn, jax.random.normal(KEY, (5, 2)))
    np.testing.assert_array_equal(keys, jax.random.key_data(jax.random.split(jax.random.fold_in(KEY, 3), 5)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["top_down_1", "bottom_up", "flow", "vdvae", "pixelcnn"])
def test_symbolic_batch(name: str, symbolic: Any) -> None:
    """One program for every number of examples computes and draws what the model does for that number."""
    row = case(name)
    model = row.model
    variables = jax.jit(model.init)(KEY, row.x, KEY)

    @jax.jit
    def run(x: jax.Array, key: jax.Array) -> tuple[Any, ...]:
        encoded = model.apply(variables, x, key, method="encode")
        bound = elbo(model.apply(variables, x, key))
        return encoded, bound, model.apply(variables, key, x.shape[0], method="generate")

    exported = export.export(run)(jax.ShapeDtypeStruct((symbolic, *row.x.shape[1:]), row.x.dtype), KEY)
    for size in (3, 8):
        x = row.x[:size]
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
            jax.jit(exported.call)(x, KEY),
            run(x, KEY),
        )
