"""Parity with openai/vdvae to 1e-9 in float64, its state dict read by `convert.vdvae`.

The arrays are described in tests/golden/README.md. That code's feature maps are NCHW.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.golden_weights import recorded

from hvae_jax.convert.vdvae import vdvae
from hvae_jax.distributions import Normal, kl
from hvae_jax.objectives import elbo
from hvae_jax.trace import Trace

pytestmark = pytest.mark.slow

ARRAYS = recorded("vdvae_tiny")
PARAMS = {k.removeprefix("param/"): v for k, v in ARRAYS.items() if k.startswith("param/")}
MODEL, VARIABLES = vdvae(PARAMS, "8x1,8d2,4x1,4d4,1x1", "1x1,4m1,4x1,8m4,8x1", 8, standardise=(120.63838, 64.16736))
X = jnp.asarray(ARRAYS["pixels"], jnp.float64)
KEY = jax.random.key(0)
DIMENSIONS, LEVELS = 8 * 8 * 3, range(5)
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


def ours(name: str) -> jax.Array:
    """The array as NHWC."""
    return jnp.asarray(np.moveaxis(ARRAYS[name], 1, -1))


@functools.cache
def given() -> Trace:
    """The pass with the recorded latents."""
    latents = tuple(ours(f"block{i}/z") for i in LEVELS)
    return jax.jit(lambda v, z: MODEL.apply(v, X, KEY, latents=z))(VARIABLES, latents)


def test_every_block() -> None:
    """Posteriors, priors, and KLs."""
    assert given().names == ("z1.0", "z4.0", "z4.1", "z8.0", "z8.1")
    for i, level in enumerate(given().unstack()):
        for theirs, value in (("qm", level.q.mean), ("qv", level.q.log_std), ("pm", level.p.mean)):
            close(value, ours(f"block{i}/{theirs}"))
        close(level.p.log_std, ours(f"block{i}/pv"))
        close(level.rate, ARRAYS[f"block{i}/kl_per_example"])


def test_bound() -> None:
    """Distortion, rate and their sum, which that code has in nats per dimension."""
    close(-given().log_px / DIMENSIONS, ARRAYS["nll_per_example"])
    close(-given().log_px.mean() / DIMENSIONS, ARRAYS["distortion"])
    close(given().rates.sum(0).mean() / DIMENSIONS, ARRAYS["rate"])
    close(-elbo(given()).mean() / DIMENSIONS, ARRAYS["elbo"])


def test_generation_at_a_temperature() -> None:
    """From the top down the recorded noise times standard deviation and temperature gives z; then p(x | z)."""
    decode = jax.jit(lambda v, z: MODEL.apply(v, KEY, 3, latents=z, method="decode"))
    latents = [jnp.zeros_like(ours(f"block{i}/eps")) for i in LEVELS]
    for i in LEVELS:
        p = decode(VARIABLES, tuple(latents)).unstack()[i].p
        latents[i] = p.mean + ARRAYS["uncond_t"] * p.std * ours(f"block{i}/eps")
    got = decode(VARIABLES, tuple(latents)).x_dist
    theirs = MODEL.likelihood.from_map(jnp.asarray(ARRAYS["uncond_dmol_params"]))
    jax.tree.map(close, got, theirs)


def test_decoding_what_was_inferred() -> None:
    """That code's `forward_manual_latents` has the same p(x | z)."""
    trace = MODEL.apply(VARIABLES, KEY, 3, latents=given().latents, method="decode")
    jax.tree.map(close, trace.x_dist, MODEL.likelihood.from_map(jnp.asarray(ARRAYS["dmol_params"])))


def test_kl() -> None:
    """That code's `gaussian_analytical_kl`."""
    a = recorded("vdvae_tiny", "gaussian_kl/")
    close(kl(Normal(a["mu1"], a["logsigma1"]), Normal(a["mu2"], a["logsigma2"])), a["kl"])
