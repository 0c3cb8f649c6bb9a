"""Parity with vlievin/biva-pytorch to 1e-9 in float64, its state dict read by `convert.biva`.

The arrays are described in tests/golden/README.md. That code's feature maps are NCHW; its latents are vectors here.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.golden_weights import recorded

from hvae_jax.convert import biva
from hvae_jax.models import BIVA
from hvae_jax.models.biva import Stage
from hvae_jax.objectives import log_weight
from hvae_jax.trace import Level, Trace

pytestmark = pytest.mark.slow

ARRAYS = recorded("biva_tiny_dense")
PARAMS = {k.removeprefix("param/"): v / 4096.0 for k, v in ARRAYS.items() if k.startswith("param/")}
MODEL, VARIABLES = biva.deep_vae(PARAMS, (28, 28))
X = jnp.asarray(np.moveaxis(ARRAYS["x"].astype(np.float64), 1, -1))
KEY = jax.random.key(0)
LEVELS = ("z3", "z2_td", "z2_bu", "z1_td", "z1_bu")
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


def inject(patch: pytest.MonkeyPatch, names: list[str]) -> None:
    """Makes jax.random.normal hand out recorded noise, in this order, instead of its own."""
    queue = iter(names)

    def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        eps = jnp.asarray(ARRAYS[next(queue)])
        assert eps.shape == shape
        return eps

    patch.setattr(jax.random, "normal", normal)


@functools.cache
def given() -> Trace:
    """The pass with the recorded latents."""
    latents = tuple(jnp.asarray(ARRAYS[f"{name}/z"]) for name in LEVELS)
    return jax.jit(lambda v, z: MODEL.apply(v, X, KEY, latents=z))(VARIABLES, latents)


@functools.cache
def from_noise() -> tuple[Trace, Any]:
    """The pass with the recorded noise: its trace, and the gradient of the loss with the log-ratios."""

    def loss(params: Any) -> tuple[jax.Array, Trace]:
        trace = MODEL.apply({"params": params}, X, KEY)
        return -log_weight(trace).mean(), trace

    with pytest.MonkeyPatch.context() as patch:
        inject(patch, [f"{name}/eps" for name in ("z1_bu", "z2_bu", "z3", "z2_td", "z1_td")])
        gradient, trace = jax.jit(jax.grad(loss, has_aux=True))(VARIABLES["params"])
    return trace, gradient


def assert_gaussian(level: Level, whose: str, prefix: str) -> None:
    """Asserts mean and log variance of a level's q or p."""
    one = getattr(level, whose)
    close(one.mean, ARRAYS[f"{prefix}{level.name}/{whose}_mu"])
    close(one.log_var, ARRAYS[f"{prefix}{level.name}/{whose}_logvar"])


def assert_all_terms(trace: Trace) -> None:
    """Asserts every level, the likelihood and the ELBO, whose KLs are log-ratios in that code."""
    assert trace.names == LEVELS
    for level in trace.levels:
        assert_gaussian(level, "q", "")
        assert_gaussian(level, "p", "")
        close(level.z, ARRAYS[f"{level.name}/z"])
        close(level.ratio, ARRAYS[f"{level.name}/kl"])
        close(level.rate, ARRAYS[f"{level.name}/{'kl' if level.name.endswith('bu') else 'kl_analytic'}"])
    close(trace.x_dist.logits, np.moveaxis(ARRAYS["x_"], 1, -1))
    close(trace.log_px, ARRAYS["log_px"])
    close(log_weight(trace), ARRAYS["elbo_sep"])
    close(-log_weight(trace).mean(), ARRAYS["loss"])


def test_the_configuration_is_read_off() -> None:
    """Everything that the weights determine; 298,106 parameters."""
    top, middle, bottom = ((8, 3, 1), (8, 3, 1), (8, 3, 2)), ((8, 3, 1),) * 3, ((8, 5, 1), (8, 5, 1), (8, 5, 2))
    assert isinstance(MODEL, BIVA)
    assert MODEL.stages == (Stage(4, top), Stage(5, middle), Stage(6, bottom))
    assert (MODEL.image, MODEL.skip, MODEL.conditional_bu, MODEL.learn_top_prior) == ((28, 28, 1), True, False, False)
    assert sum(leaf.size for leaf in jax.tree.leaves(VARIABLES["params"])) == 298_106


def test_terms_with_recorded_latents() -> None:
    """Every level's Gaussians, both kinds of KL, the likelihood and the ELBO."""
    assert_all_terms(given())


def test_terms_with_recorded_noise() -> None:
    """The latents follow from noise in the order of that code: bottom-up, the top, top-down."""
    assert_all_terms(from_noise()[0])


def test_gradients() -> None:
    """For every parameter: the norm, and the product with the parameter."""
    # Converts a state dict whose arrays hold the index of their name, to find the name that each leaf comes from.
    numbered = {name: np.full(value.shape, float(i)) for i, (name, value) in enumerate(PARAMS.items())}
    numbers = biva.deep_vae(numbered, (28, 28))[1]["params"]
    leaves = zip(*map(jax.tree.leaves, (numbers, from_noise()[1], VARIABLES["params"])), strict=True)
    measured = {
        int(number.ravel()[0]): (float(jnp.linalg.norm(gradient)), float((gradient * parameter).sum()))
        for number, gradient, parameter in leaves
    }
    norms, products = zip(*(measured[i] for i in range(len(PARAMS))), strict=True)
    close(norms, ARRAYS["grad_l2"])
    close(products, ARRAYS["grad_dot_param"])


def test_sampling() -> None:
    """From the recorded noise to p(x | z), every prior on the way."""
    with pytest.MonkeyPatch.context() as patch:
        inject(patch, [f"prior/{name}/eps" for name in LEVELS])
        trace = jax.jit(lambda v: MODEL.apply(v, KEY, 3, method="decode"))(VARIABLES)
    for level in trace.levels:
        assert_gaussian(level, "p", "prior/")
        close(level.z, ARRAYS[f"prior/{level.name}/z"])
    close(trace.x_dist.logits, np.moveaxis(ARRAYS["prior/x_"], 1, -1))
