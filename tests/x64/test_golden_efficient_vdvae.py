"""Parity with Efficient-VDVAE's PyTorch tree to 1e-9 in float64, its state dict read by `convert.efficient_vdvae`.

The arrays are described in tests/golden/README.md. That code's feature maps are NCHW.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.golden_weights import recorded

from hvae_jax.convert.efficient_trees import TorchTree, entries
from hvae_jax.convert.efficient_vdvae import BETA, efficient_vdvae
from hvae_jax.likelihoods import LogisticMixture
from hvae_jax.networks.scale_head import ScaleHead
from hvae_jax.objectives import elbo
from hvae_jax.trace import Trace

pytestmark = pytest.mark.slow

ARRAYS = recorded("efficient_vdvae_tiny")
PARAMS = {k.removeprefix("param/"): v for k, v in ARRAYS.items() if k.startswith("param/")}
MODEL, VARIABLES = efficient_vdvae(PARAMS)
X = jnp.asarray(np.moveaxis(ARRAYS["pixels"], 1, -1), jnp.float64)
KEY = jax.random.key(0)
DIMENSIONS, LEVELS = 32 * 32 * 3, range(5)
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


def ours(name: str) -> jax.Array:
    """The array as NHWC."""
    return jnp.asarray(np.moveaxis(ARRAYS[name], 1, -1))


def with_noise(patch: pytest.MonkeyPatch) -> None:
    """Makes jax.random.normal return the level's recorded noise, found by its key among those of this shape."""
    keys = jax.random.key_data(jax.random.split(KEY, len(LEVELS)))

    def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        fitting = [i for i in LEVELS if ours(f"block{i}/eps").shape == shape]
        mine = (keys[np.array(fitting)] == jax.random.key_data(key)[None]).all(-1)
        return jnp.stack([ours(f"block{i}/eps") for i in fitting])[mine.argmax()]

    patch.setattr(jax.random, "normal", normal)


@functools.cache
def given() -> Trace:
    """The pass with the recorded latents."""
    latents = tuple(ours(f"block{i}/z") for i in LEVELS)
    return jax.jit(lambda v, z: MODEL.apply(v, X, KEY, latents=z))(VARIABLES, latents)


def test_terms() -> None:
    """KLs, distortion, rate and bound, which that code has in nats per dimension."""
    for i, level in enumerate(given().unstack()):
        close(level.rate, ARRAYS[f"block{i}/kl_per_example"])
    close(-given().log_px / DIMENSIONS, ARRAYS["distortion_per_example"])
    close(given().rates.sum(0).mean() / DIMENSIONS, ARRAYS["rate"])
    close(-elbo(given()).mean() / DIMENSIONS, ARRAYS["nelbo"])


def test_five_bits() -> None:
    """The same outputs under that code's likelihood of 5 bits, with an open last bin and bins that overlap."""
    family = LogisticMixture(3, 32, 3, -250.0, "efficient_vdvae_5_bits", ScaleHead("softplus_std", BETA))
    d = given().x_dist
    record = d.replace(family=family)
    close(-record.log_prob(X // 8) / DIMENSIONS, ARRAYS["bits5/distortion_per_example"])


def test_noise_and_gradients() -> None:
    """z from the recorded noise; the gradient of the bound with respect to every parameter."""

    def loss(params: Any) -> tuple[jax.Array, Trace]:
        trace = MODEL.apply({"params": params}, X, KEY)
        return -elbo(trace).mean() / DIMENSIONS, trace

    with pytest.MonkeyPatch.context() as patch:
        with_noise(patch)
        gradient, trace = jax.jit(jax.grad(loss, has_aux=True))(VARIABLES["params"])
    for i, z in enumerate(trace.latents):
        close(z, ours(f"block{i}/z"))
    leaves = jax.tree_util.tree_leaves_with_path({"params": gradient})
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    table = dict(entries(MODEL, TorchTree(PARAMS)))
    for i, (name, value) in enumerate(PARAMS.items()):
        entry, mine = table[name], flat[table[name].path]
        g = mine if entry.at is None else mine[entry.at]
        close(jnp.sqrt((g**2).sum()), ARRAYS["grad_l2"][i])
        close((g * entry.carry(value, mine.shape)).sum(), ARRAYS["grad_dot_param"][i])


def test_generation_at_temperatures() -> None:
    """Priors given the recorded draws, each at the temperature of its level, and p(x | z)."""
    latents = tuple(ours(f"prior/block{i}/z") for i in LEVELS)
    trace = jax.jit(lambda v, z: MODEL.apply(v, KEY, 2, latents=z, method="decode"))(VARIABLES, latents)
    for i, (level, of) in enumerate(zip(trace.unstack(), (0, 0, 1, 2, 2), strict=True)):
        close(level.p.mean[:1], ours(f"prior/block{i}/mean"))
        close(ARRAYS["prior/temperatures"][of] * level.p.std[:1], ours(f"prior/block{i}/std"))
    theirs = MODEL.likelihood.from_map(ours("prior/logits"))
    jax.tree.map(lambda a, b: close(a[:1, :8, :8], b), trace.x_dist, theirs)
