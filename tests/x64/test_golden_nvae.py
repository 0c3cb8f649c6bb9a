"""Parity with NVAE's published code to 1e-9 in float64: a small model, its gradients, and its regularisers.

The arrays are described in tests/golden/README.md. That code's feature maps are NCHW.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.golden_weights import recorded

from hvae_jax.convert import nvae
from hvae_jax.likelihoods import LogisticMixture
from hvae_jax.models import NVAE
from hvae_jax.objectives import (
    Batch,
    Constant,
    Geometric,
    Linear,
    NVAEBalance,
    Regularised,
    SpectralRegularised,
    log_weight,
)
from hvae_jax.runtime.trees import leaves_by_path
from hvae_jax.trace import Trace

pytestmark = pytest.mark.slow

ARRAYS, PARAMS = recorded("nvae_tiny"), recorded("nvae_tiny_weights", "param/")
EXPECTED = recorded("nvae_regularisers")
MODEL = NVAE(
    (32, 32, 3),
    groups=(1, 2),
    latents=4,
    width=8,
    up_cells=1,
    down_cells=1,
    likelihood=LogisticMixture(form="nvae"),
    published=True,
)
VARIABLES = nvae.variables_of(PARAMS, MODEL)
TABLE = dict(nvae.entries(MODEL))
X = jnp.asarray(np.moveaxis(ARRAYS["pixels"], 1, -1), jnp.float64)
KEY = jax.random.key(0)
GROUPS = range(3)
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


def ours(name: str) -> jax.Array:
    """The array as NHWC."""
    return jnp.asarray(np.moveaxis(ARRAYS[name], 1, -1))


NOISE = tuple(ours(f"group{i}/eps") for i in GROUPS)


@functools.cache
def passed(train: bool) -> tuple[Trace, Any]:
    """The pass with the recorded noise, and the batch statistics after it."""

    def run(variables: Any) -> tuple[Trace, Any]:
        return MODEL.apply(variables, X, KEY, noise=NOISE, train=train, mutable=["batch_stats"])

    return jax.jit(run)(VARIABLES)


def test_every_group() -> None:
    """Posteriors, priors and samples."""
    trace = passed(False)[0]
    assert trace.names == ("top", "z16.0", "z16.1") and trace.sides == (8, 16, 16)
    for i, level in enumerate(trace.unstack()):
        named = {
            "q_mu": level.q.mean,
            "q_sigma": level.q.std,
            "p_mu": level.p.mean,
            "p_sigma": level.p.std,
            "z": level.z,
        }
        for name, value in named.items():
            close(value, ours(f"eval/group{i}/{name}"))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_bound(mode: str) -> None:
    """Distortion, the rate of every group, and the weight of a sample, with running and with batch statistics."""
    trace = passed(mode == "train")[0]
    close(-trace.log_px, ARRAYS[f"{mode}/recon"])
    close(trace.rates.T, ARRAYS[f"{mode}/kl_per_group"])
    close(trace.rates.sum(0) - trace.log_px, ARRAYS[f"{mode}/nelbo"])
    close(log_weight(trace), ARRAYS[f"{mode}/log_iw"])
    close((trace.rates.sum(0) - trace.log_px).mean() / np.log(2) / 3072, ARRAYS[f"{mode}/bpd"])


def test_batch_statistics() -> None:
    after = leaves_by_path(passed(True)[1])
    buffers = {name.removeprefix("train/new_buffer/"): v for name, v in ARRAYS.items() if "new_buffer" in name}
    assert len(buffers) == 2 * 32
    for name, value in buffers.items():
        entry = TABLE[name]
        found = after[entry.path]
        close(found if entry.at is None else found[entry.at], value)


def test_gradients() -> None:
    """Of the mean negative ELBO, for each parameter: the norm, and the product with the parameter."""

    def loss(params: Any) -> jax.Array:
        variables = {**VARIABLES, "params": params}
        trace, _ = MODEL.apply(variables, X, KEY, noise=NOISE, train=True, mutable=["batch_stats"])
        return (trace.rates.sum(0) - trace.log_px).mean()

    params = leaves_by_path({"params": VARIABLES["params"]})
    gradients = leaves_by_path({"params": jax.jit(jax.grad(loss))(VARIABLES["params"])})
    names = ARRAYS["train/grad_names"]
    assert len(names) == 227
    for name, norm, product in zip(names, ARRAYS["train/grad_l2"], ARRAYS["train/grad_dot_param"], strict=True):
        entry = TABLE[name]
        at = slice(None) if entry.at is None else entry.at
        g, p = np.asarray(gradients[entry.path][at]), np.asarray(params[entry.path][at])
        # Biases before a batch norm have no gradient but rounding, hence an absolute tolerance of the others' size.
        np.testing.assert_allclose(np.linalg.norm(g), norm, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose((g * p).sum(), product, rtol=1e-8, atol=1e-8)


def test_generation_at_a_temperature() -> None:
    noise = tuple(ours(f"prior/group{i}/eps") for i in GROUPS)
    temperature = float(ARRAYS["prior/temp"])
    trace = MODEL.apply(VARIABLES, KEY, 1, noise=noise, temperature=temperature, method="decode")
    for i, level in enumerate(trace.unstack()):
        close(level.z, ours(f"prior/group{i}/z"))


def left_vectors(matrices: dict[str, jax.Array], name: str) -> dict[str, jax.Array]:
    """Recorded left vectors of each stack in our order: matrices are told apart by the norms of their rows."""
    found = {}
    for shape, stack in matrices.items():
        norms, theirs = np.linalg.norm(stack, axis=-1), EXPECTED[f"{shape}/row_norms"]
        order = [int(np.abs(theirs - own).sum(1).argmin()) for own in norms]
        assert sorted(order) == list(range(len(theirs)))
        close(theirs[order], norms)
        found[shape] = jnp.asarray(EXPECTED[f"{shape}/{name}"][order])
    return found


def test_spectral_term() -> None:
    """Two steps of four iterations from given vectors, and forty from drawn ones."""
    objective = SpectralRegularised(epsilon=1e-5)
    matrices = objective.matrices(VARIABLES)
    assert sum(len(stack) for stack in matrices.values()) == 50  # every convolution of the published code
    left = left_vectors(matrices, "u0")
    first, left = objective.spectral(VARIABLES, left)
    second, left = objective.spectral(VARIABLES, left)
    close(first, EXPECTED["sn_first"])
    close(second, EXPECTED["sn_second"])
    for shape, vectors in left_vectors(matrices, "u2").items():
        close(left[shape], vectors)
    drawn = {
        shape: u / np.linalg.norm(u, axis=-1, keepdims=True) for shape, u in left_vectors(matrices, "fresh_u").items()
    }
    fresh, _ = SpectralRegularised(epsilon=1e-5, iterations=40).spectral(VARIABLES, drawn)
    close(fresh, EXPECTED["sn_fresh"])


def test_training_loss() -> None:
    """One step of the published loss: KL warm-up and balancing, spectral and batch-norm terms."""
    base = Regularised(warm_up=Constant(float(EXPECTED["step/beta"])), balance=NVAEBalance())
    objective = SpectralRegularised(base, Constant(float(EXPECTED["step/lambda"])), epsilon=1e-5)

    def forward(variables: Any, x: jax.Array, key: jax.Array, **choices: Any) -> tuple[Trace, Any]:
        return MODEL.apply(variables, x, key, **choices, noise=NOISE, train=True, mutable=["batch_stats"])

    left = left_vectors(objective.matrices(VARIABLES), "u0")
    state = {"base": base.init(VARIABLES), "left": left}
    loss, metrics, _, _ = objective(forward, VARIABLES, Batch(X), KEY, jnp.int32(0), state)
    close(loss, EXPECTED["step/loss"])
    close(metrics["spectral"], EXPECTED["step/sn"])
    close(metrics["largest_gains"], EXPECTED["bn_loss"])
    close([metrics[f"balance/{name}"] for name in ("top", "z16.0", "z16.1")], EXPECTED["step/gamma"])


def test_schedules() -> None:
    total = float(EXPECTED["kl_coeff/total_iter"])
    warm_up = Linear(1e-4 * total, 0.3001 * total, floor=1e-4)
    for step, beta, weight in zip(
        *(EXPECTED[n] for n in ("kl_coeff/steps", "kl_coeff/value", "wdn/coeff")), strict=True
    ):
        close(warm_up(jnp.int32(step)), beta)
        close(Geometric(warm_up, 10.0, 0.01)(jnp.int32(step)), weight)
