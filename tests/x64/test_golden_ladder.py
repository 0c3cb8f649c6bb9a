"""Parity with addtt/ladder-vae-pytorch to 1e-9 in float64, its state dict read by `convert.addtt`.

The arrays are described in tests/golden/README.md. That code's layer 0 is z1, and its feature maps are NCHW.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.golden_weights import recorded

from hvae_jax.convert import addtt
from hvae_jax.models import ConvLadderVAE
from hvae_jax.objectives import elbo
from hvae_jax.trace import Trace

pytestmark = pytest.mark.slow

ARRAYS = recorded("ladder_addtt_tiny")
PARAMS, BUFFERS = ({k.removeprefix(p): v for k, v in ARRAYS.items() if k.startswith(p)} for p in ("param/", "buffer/"))
LAYERS = (2, 1, 0)  # top first
KEY = jax.random.key(0)
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


def maps(name: str) -> jax.Array:
    """A recorded array as NHWC, in float64."""
    return jnp.asarray(np.moveaxis(ARRAYS[name].astype(np.float64), 1, -1))


def convert(buffers: dict[str, np.ndarray]) -> tuple[ConvLadderVAE, dict[str, Any]]:
    """The recorded weights with these running statistics, in float64."""
    arrays = {name: value.astype(np.float64) for name, value in (PARAMS | buffers).items()}
    return addtt.ladder_vae(arrays, (28, 28), "bernoulli", dropout=0.0)


MODEL, VARIABLES = convert(BUFFERS)
X = maps("x")


@functools.cache
def forward(train: bool) -> Any:
    """Compiled: latents or None -> (trace, updates)."""

    def passed(variables: Any, latents: Any) -> tuple[Trace, Any]:
        mutable = ["batch_stats"] if train else []
        return MODEL.apply(variables, X, KEY, latents=latents, train=train, mutable=mutable)

    return jax.jit(passed)


@functools.cache
def given(train: bool) -> tuple[Trace, Any]:
    """The pass with the recorded latents."""
    prefix = "train/" if train else ""
    return forward(train)(VARIABLES, tuple(maps(f"{prefix}layer{i}/z") for i in LAYERS))


def inject(patch: pytest.MonkeyPatch, names: list[str]) -> None:
    """Makes jax.random.normal hand out recorded noise, in this order, instead of its own."""
    queue: Iterator[str] = iter(names)

    def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        eps = maps(next(queue))
        assert eps.shape == shape and dtype == jnp.float64
        return eps

    patch.setattr(jax.random, "normal", normal)


def assert_gaussians(level: Any, prefix: str, whose: str = "qp") -> None:
    """Asserts mean and log variance of a level's posterior and prior."""
    for name in whose:
        one = getattr(level, name)
        close(one.mean, np.broadcast_to(maps(f"{prefix}{name}_mu"), one.mean.shape))
        close(one.log_var, np.broadcast_to(maps(f"{prefix}{name}_logvar"), one.log_var.shape))


def test_the_configuration_is_read_off() -> None:
    """Everything that the weights determine; 33,561 parameters."""
    assert (MODEL.image, MODEL.latents, MODEL.downsample) == ((28, 28, 1), (4, 4, 4), (1, 1, 1))
    assert (MODEL.channels, MODEL.blocks, MODEL.merge, MODEL.skip) == (8, 2, "concat", True)
    assert MODEL.learn_top_prior and MODEL.halve_first and MODEL.clamp is None
    assert (MODEL.block.order, MODEL.block.gated, MODEL.block.normalise) == ("bacdbacd", True, True)
    assert sum(leaf.size for leaf in jax.tree.leaves(VARIABLES["params"])) == 33_561


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_terms_with_recorded_latents(train: bool) -> None:
    """Every level's Gaussians, both kinds of KL, the likelihood and the ELBO, with running and batch statistics."""
    prefix = "train/" if train else ""
    trace, _ = given(train)
    for level, i in zip(trace.levels, LAYERS, strict=True):
        assert_gaussians(level, f"{prefix}layer{i}/")
        assert level.name == f"z{i + 1}"
        assert level.side == 2 ** (3 - i)
    close(trace.ratios, [ARRAYS[f"{prefix}layer{i}/kl_mc"] for i in LAYERS])
    close(trace.rates, [ARRAYS[f"{prefix}layer{i}/kl_analytic"] for i in LAYERS])
    close(trace.log_px, ARRAYS[f"{prefix}log_px"])
    close(trace.x_dist.logits, maps(f"{prefix}logits"))
    close(trace.log_px - trace.ratios.sum(0), ARRAYS[f"{prefix}elbo_sep"])
    if not train:
        close([level.log_q for level in trace.levels], [ARRAYS[f"layer{i}/log_q"] for i in LAYERS])
        close([level.log_p for level in trace.levels], [ARRAYS[f"layer{i}/log_p"] for i in LAYERS])
        close(elbo(trace), ARRAYS["elbo_sep_analytic"])


def test_running_statistics() -> None:
    """Running statistics of every batch norm after one training pass."""
    new = {k.removeprefix("train/new_buffer/"): v for k, v in ARRAYS.items() if k.startswith("train/new_buffer/")}
    expected = convert(new)[1]["batch_stats"]
    updated = given(True)[1]["batch_stats"]
    assert jax.tree.structure(updated) == jax.tree.structure(expected)
    jax.tree.map(close, updated, expected)


@functools.cache
def from_noise() -> tuple[Trace, Any]:
    """The pass with the recorded noise: its trace, and the gradient of the loss with the log-ratios."""

    def loss(params: Any) -> tuple[jax.Array, Trace]:
        trace = MODEL.apply({**VARIABLES, "params": params}, X, KEY)
        return (trace.ratios.sum(0) - trace.log_px).mean(), trace

    with pytest.MonkeyPatch.context() as patch:
        inject(patch, [f"layer{i}/eps" for i in LAYERS])
        gradient, trace = jax.jit(jax.grad(loss, has_aux=True))(VARIABLES["params"])
    return trace, gradient


def test_terms_with_recorded_noise() -> None:
    """The latents, drawn from the top down, follow from the noise, and so does the loss."""
    trace, _ = from_noise()
    for level, i in zip(trace.levels, LAYERS, strict=True):
        close(level.z, maps(f"layer{i}/z"))
    close(-elbo(trace).mean(), ARRAYS["loss_analytic"])


def test_gradients() -> None:
    """For every parameter: the norm, and the product with the parameter."""
    # Converts a state dict whose arrays hold the index of their name, to find the name that each leaf comes from.
    numbered = {name: np.full(value.shape, float(i)) for i, (name, value) in enumerate(PARAMS.items())}
    numbers = addtt.ladder_vae(numbered | BUFFERS, (28, 28), "bernoulli")[1]["params"]
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
        inject(patch, [f"prior/layer{i}/eps" for i in LAYERS])
        trace = jax.jit(lambda v: MODEL.apply(v, KEY, 3, method="decode"))(VARIABLES)
    for level, i in zip(trace.levels, LAYERS, strict=True):
        assert_gaussians(level, f"prior/layer{i}/", "p")
        close(level.z, maps(f"prior/layer{i}/z"))
        close(level.log_p, ARRAYS[f"prior/layer{i}/log_p"])
    close(trace.x_dist.logits, maps("prior/logits"))
