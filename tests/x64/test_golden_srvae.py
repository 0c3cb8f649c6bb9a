"""Parity with ioangatop/srVAE to 1e-9 in float64, its state dict read by `convert.srvae`.

The arrays are described in tests/golden/README.md. That code's feature maps are NCHW, its x and y from 0 to 1.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.golden_weights import recorded

from hvae_jax.convert import srvae
from hvae_jax.likelihoods import LogisticMixture, LogisticMixtureRecord
from hvae_jax.models import (
    BilinearHalf,
    DenselyConnectedNetworks,
    MixturePrior,
    RealNVPPrior,
    SelfSupervisedVAE,
)
from hvae_jax.networks.real_nvp import RealNVPNetwork
from hvae_jax.objectives import log_weight
from hvae_jax.runtime.trees import leaves_by_path
from hvae_jax.trace import Trace

pytestmark = pytest.mark.slow

ARRAYS = recorded("srvae_tiny")
PARAMS = recorded("srvae_tiny_weights_q", "param/") | recorded("srvae_tiny_weights_p", "param/")
FLOW = {f"p_u.{name}": value for name, value in recorded("srvae_tiny_weights_p", "realnvp/param/").items()}
MODEL, VARIABLES = srvae.srvae(PARAMS)
KEY = jax.random.key(0)
X = jnp.asarray(np.moveaxis(ARRAYS["pixels"], 1, -1), jnp.float64)
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


def ours(name: str) -> jax.Array:
    """A recorded array as NHWC."""
    return jnp.asarray(np.moveaxis(ARRAYS[name], -3, -1))


def forward(params: Any) -> Trace:
    """The pass with the recorded noise."""
    noise = (ours("eps_u"), None, ours("eps_z"))
    return MODEL.apply({"params": params}, X, KEY, noise=noise)


@functools.cache
def passed() -> tuple[Trace, Any]:
    """The trace, and the gradient of the loss with sampled log-ratios."""

    def loss(params: Any) -> tuple[jax.Array, Trace]:
        trace = forward(params)
        return -log_weight(trace).mean(), trace

    gradient, trace = jax.jit(jax.grad(loss, has_aux=True, allow_int=True))(VARIABLES["params"])
    return trace, gradient


def test_the_configuration_is_read_off() -> None:
    """Everything that the weights determine; the mixture's weights are equal."""
    assert (
        SelfSupervisedVAE(
            image=(32, 32, 3),
            reductions=(BilinearHalf(),),
            latents=(2, 2),
            networks=DenselyConnectedNetworks.small(4, 2),
            posterior_sees_y=False,
            likelihood=LogisticMixture(form="srvae"),
            top_prior=MixturePrior(7, spread=0.001, clamp=None),
            scale=255.0,
        )
        == MODEL
    )
    # of the 389 arrays, `p_u.pi` is not a parameter here, and the seven equal logits are
    learned = sum(leaf.size for leaf in jax.tree.leaves(VARIABLES["params"]))
    assert learned == sum(value.size for value in PARAMS.values())


def test_y() -> None:
    """y is Pillow's resized image."""
    assert passed()[0].names == ("u", "y", "z")
    np.testing.assert_array_equal(passed()[0].levels[1].z, np.moveaxis(ARRAYS["y"], 1, -1))


def test_every_gaussian() -> None:
    """Posteriors, the prior of z, and samples."""
    u, _, z = passed()[0].levels
    for level, whose, name in ((u, u.q, "u_q"), (z, z.q, "z_q"), (z, z.p, "z_p")):
        close(whose.mean, ours(f"{name}_mean"))
        close(whose.log_var, ours(f"{name}_logvar"))
        if name.endswith("q"):
            close(level.z, ours(name))


def log_density(dist: Any, z: jax.Array, exact: jax.Array) -> jax.Array:
    """The log density as that code has it, which divides squares by the variance plus 1e-12, from the exact one."""
    var, square = dist.std**2, (z - dist.mean) ** 2
    return exact + 0.5 * (square * 1e-12 / (var * (var + 1e-12))).reshape(len(z), -1).sum(1)


def test_every_term() -> None:
    """Both likelihoods, the densities under q and p, the KLs at the sample, and the bound."""
    trace, _ = passed()
    u, y, z = trace.levels
    close(trace.log_px, ARRAYS["RE_x"])
    close(y.log_p, ARRAYS["RE_y"])
    close(y.rate, -ARRAYS["RE_y"])
    log_p = {"u": u.log_p, "z": log_density(z.p, z.z, z.log_p)}
    log_q = {level.name: log_density(level.q, level.z, level.log_q) for level in (u, z)}
    for name in ("u", "z"):
        close(log_p[name], ARRAYS[f"log_p_{name}"])
        close(log_q[name], ARRAYS[f"log_q_{name}"])
        close(log_q[name] - log_p[name], ARRAYS[f"KL_{name}"])
    close(u.rate, u.ratio)  # of a mixture there is no closed form
    # by how much 1e-12 changes the bound; the rest of it is the log weight
    added = sum((log_q[level.name] - level.log_q) - (log_p[level.name] - level.log_p) for level in (u, z))
    bound = log_weight(trace) - added
    close(-bound, ARRAYS["nelbo_per_example"])
    close(-bound.mean(), ARRAYS["nelbo"])
    close(-bound.mean() / (3072 * math.log(2)), ARRAYS["bpd"])


def in_our_order(outputs: np.ndarray) -> jax.Array:
    """Channels of that code, `[B, 100, ...]`, as ours, NHWC: component by component to colour by colour."""
    logits, rest = np.split(np.moveaxis(outputs, 1, -1), [10], axis=-1)
    parts = rest.reshape(*rest.shape[:-1], 3, 10, 3)
    return jnp.concatenate([logits, np.moveaxis(parts, -1, -3).reshape(rest.shape)], axis=-1)


@pytest.mark.parametrize(("name", "every"), [("x", 4), ("y", 2)])
def test_parameters_of_the_likelihoods(name: str, every: int) -> None:
    """All 100 outputs for a pixel, of each fourth or second row and column."""
    trace = passed()[0]
    record = trace.x_dist if name == "x" else trace.levels[1].p
    expected = MODEL.likelihood.from_map(in_our_order(ARRAYS[f"{name}_logits"]))
    assert isinstance(record, LogisticMixtureRecord)
    for field in ("logits", "location", "log_scale", "coefficients"):
        close(getattr(record, field)[:, ::every, ::every], getattr(expected, field))


def test_activations() -> None:
    """Inner layers, of the first example."""
    _, found = jax.jit(
        lambda v: MODEL.apply(
            v,
            X,
            KEY,
            noise=(ours("eps_u"), None, ours("eps_z")),
            capture_intermediates=True,
            mutable=["intermediates"],
        )
    )(VARIABLES)
    seen = {path.removesuffix("/__call__/0"): leaf[0] for path, leaf in leaves_by_path(found["intermediates"]).items()}
    block = "act/q_u.core_nn.0.core_nn.0.core_nn."
    first, second = (np.moveaxis(ARRAYS[f"{block}{i}"], 0, -1) for i in (0, 2))
    # a block joins its new maps to its input, which the second one reads through the ELU
    close(np.concatenate([np.moveaxis(ARRAYS["y"][0] / 255, 0, -1), seen["q_u/dense_0/grow_0"]], -1), first)
    close(np.concatenate([jax.nn.elu(first), seen["q_u/dense_0/grow_1"]], -1), second)
    close(seen["q_u/dense_0"], np.moveaxis(ARRAYS[f"{block}4"], 0, -1))
    close(seen["p_x/of_z"][::4, ::4], np.moveaxis(ARRAYS["act/p_x.z_nn"], 0, -1))
    close(jax.nn.elu(seen["p_z/of_y"]), np.moveaxis(ARRAYS["act/p_z.y_nn"], 0, -1))
    close(seen["p_z/of_above"], np.moveaxis(ARRAYS["act/p_z.u_nn"], 0, -1))


def test_gradients() -> None:
    """For every parameter: the norm, and the product with the parameter."""
    table, gradients = dict(srvae.entries(MODEL)), leaves_by_path({"params": passed()[1]})
    parameters = leaves_by_path(VARIABLES)
    h = PARAMS["p_u.z_pre"][0, 7:].reshape(7, 2, 8, 8).transpose(0, 2, 3, 1)  # log variance = log(softplus(h) + 1e-8)
    by_h = gradients["params/top_prior_log_var"] * jax.nn.sigmoid(h) / (jax.nn.softplus(h) + 1e-8)
    mean = gradients["params/top_prior_mean"], parameters["params/top_prior_mean"]
    for name, norm, product in zip(ARRAYS["grad_names"], ARRAYS["grad_l2"], ARRAYS["grad_dot_param"], strict=True):
        if name == "p_u.z_pre":
            pairs = [mean, (by_h, h)]
        else:
            pairs = [(gradients[table[name].path], parameters[table[name].path])]
        close(math.sqrt(sum(float((gradient**2).sum()) for gradient, _ in pairs)), norm, err_msg=name)
        close(sum(float((gradient * value).sum()) for gradient, value in pairs), product, err_msg=name)


def test_real_nvp() -> None:
    """The other prior at the same u: the base variable, the determinant, the density, the KL, and the way back."""
    others = {name: value for name, value in PARAMS.items() if not name.startswith("p_u.")}
    model, variables = srvae.srvae(others | FLOW)
    assert model == MODEL.clone(top_prior=RealNVPPrior(2, 3, 2))
    u = ours("u_q")
    trace = jax.jit(lambda v: model.apply(v, X, KEY, noise=(ours("eps_u"), None, ours("eps_z"))))(variables)
    close(trace.levels[0].log_p, ARRAYS["realnvp/log_p_u"])
    close(trace.levels[0].rate, ARRAYS["realnvp/KL_u"])
    network, weights = RealNVPNetwork(2, 3, 2), {"params": variables["params"]["top_prior"]}
    e, log_det = jax.jit(network.apply)(weights, u)
    close(e, ours("realnvp/z"))
    close(log_det, ARRAYS["realnvp/sldj"])
    back, there = jax.jit(lambda v, e: network.apply(v, e, inverse=True))(weights, e)
    close(back, ours("realnvp/inverse_of_z"))
    close(there, -log_det)


def likeliest(record: Any) -> jax.Array:
    """The mean of the likeliest component, colour after colour, from 0 to 1, as that code samples."""
    chosen = record.logits.argmax(-1)[..., None, None]
    location, coefficients = (
        jnp.take_along_axis(leaf, chosen, axis=-1) for leaf in (record.location, record.coefficients)
    )
    one = record.replace(location=location, coefficients=coefficients)
    colours: list[jax.Array] = []
    for c in range(3):
        colours.append(jnp.clip(one._locations(c, colours), -1.0, 1.0))
    return (jnp.concatenate(colours, axis=-1)[..., 0, :] + 1.0) / 2.0


def test_generation() -> None:
    """From a given u and noise to y, the prior of z, and x."""
    u, y = ours("gen/u"), 255.0 * ours("gen/y_hat")

    def run(variables: Any, u: jax.Array, y: jax.Array, eps: jax.Array) -> Trace:
        return MODEL.apply(variables, KEY, 1, latents=(u, y), noise=(None, None, eps), method="decode")

    trace = jax.jit(run)(VARIABLES, u, y, ours("gen/eps_z"))
    close(likeliest(trace.levels[1].p), ours("gen/y_hat"))
    close(trace.levels[2].p.mean, ours("gen/z_p_mean"))
    close(trace.levels[2].p.log_var, ours("gen/z_p_logvar"))
    close(likeliest(trace.x_dist), ours("gen/x_hat"))
