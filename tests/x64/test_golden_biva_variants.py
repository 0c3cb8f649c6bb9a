"""Parity with vlievin/biva-pytorch, to 1e-9 in float64: latent feature maps, colours, its Ladder VAE and its VAE.

The arrays are described in tests/golden/README.md.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.golden_weights import recorded

from hvae_jax.convert import biva
from hvae_jax.distributions import Normal
from hvae_jax.likelihoods import LogisticMixture, LogisticMixtureRecord
from hvae_jax.models import BIVA, GatedLadderVAE
from hvae_jax.objectives import log_weight

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
VARIANTS = ("biva", "lvae", "vae")
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


def ours(value: np.ndarray) -> jax.Array:
    """The array as NHWC if it is a batch of feature maps."""
    return jnp.asarray(np.moveaxis(value, 1, -1) if value.ndim == 4 else value)


@functools.cache
def variant(name: str) -> tuple[dict[str, np.ndarray], BIVA | GatedLadderVAE, Any]:
    """Recorded arrays, the model and its variables."""
    arrays = recorded("biva_variants", f"{name}/")
    params = {k.removeprefix("param/"): v / 4096.0 for k, v in arrays.items() if k.startswith("param/")}
    return arrays, *biva.deep_vae(params, (8, 8))


def assert_gaussian(one: Normal, arrays: dict[str, np.ndarray], prefix: str) -> None:
    """Asserts mean and log variance."""
    close(one.mean, ours(arrays[f"{prefix}_mu"]))
    close(one.log_var, ours(arrays[f"{prefix}_logvar"]))


def assert_outputs(x_dist: Any, expected: np.ndarray) -> None:
    """Asserts the first example's logits, of Bernoulli variables or of the mixture's components."""
    mixture = isinstance(x_dist, LogisticMixtureRecord)
    logits = x_dist.logits[:1].reshape(1, 8, 8, -1)
    close(logits, ours(expected)[..., : logits.shape[-1]] if mixture else ours(expected))


def test_the_configurations_are_read_off() -> None:
    """Feature maps and vectors mixed, and everything that an option of BIVA turns on."""
    biva_model, lvae, vae = (variant(name)[1] for name in VARIANTS)
    assert isinstance(biva_model, BIVA)
    assert (biva_model.conditional_bu, biva_model.learn_top_prior) == (True, True)
    assert biva_model.likelihood == LogisticMixture(form="published")
    assert [stage.kernel for stage in biva_model.stages] == [2, 3, 4]
    assert isinstance(lvae, GatedLadderVAE) and isinstance(vae, GatedLadderVAE)
    assert (lvae.inference, vae.inference) == ("top_down", "bottom_up")
    assert [[stage.kernel for stage in model.stages] for model in (lvae, vae)] == [[None, None, 4], [2, None]]


@pytest.mark.parametrize("name", VARIANTS)
def test_terms_with_recorded_latents(name: str) -> None:
    """Every level's Gaussians and KL, the likelihood and the ELBO, whose KLs are log-ratios in that code."""
    arrays, model, variables = variant(name)
    levels = range(model.num_levels)
    latents = tuple(ours(arrays[f"level{i}/z"]) for i in levels)
    x = ours(arrays["x"])
    trace = jax.jit(lambda v, z: model.apply(v, x, KEY, latents=z))(variables, latents)
    for i, level in enumerate(trace.levels):
        assert_gaussian(level.q, arrays, f"level{i}/q")
        assert_gaussian(level.p, arrays, f"level{i}/p")
        close(level.ratio, arrays[f"level{i}/kl"])
    assert_outputs(trace.x_dist, arrays["x_"])
    close(trace.log_px, arrays["log_px"])
    close(log_weight(trace), arrays["log_px"] - sum(arrays[f"level{i}/kl"] for i in levels))


@pytest.mark.parametrize("name", VARIANTS)
def test_sampling(name: str) -> None:
    """Every prior, given the latents above it, and p(x | z)."""
    arrays, model, variables = variant(name)
    latents = tuple(ours(arrays[f"prior/level{i}/z"]) for i in range(model.num_levels))
    trace = jax.jit(lambda v, z: model.apply(v, KEY, 3, latents=z, method="decode"))(variables, latents)
    for i, level in enumerate(trace.levels):
        assert_gaussian(level.p, arrays, f"prior/level{i}/p")
    assert_outputs(trace.x_dist, arrays["prior/x_"])
