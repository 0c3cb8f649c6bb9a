"""VAE, dense and convolutional: sizes, a closed form and errors."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from support.cases import integers, reals
from support.toys import orthonormal

from hvae_jax.experiment import settings
from hvae_jax.likelihoods import Bernoulli, Categorical, Gaussian
from hvae_jax.models import VAE
from hvae_jax.networks import MLP
from hvae_jax.networks.activations import sigmoid_gelu
from hvae_jax.objectives import elbo, log_weight

KEY, OTHER_KEY = jax.random.split(jax.random.key(0))
CONV = VAE(latents=3, hidden=5, network="conv", width=2, likelihood=Categorical(4))
IMAGES = integers(4, 8, 4, 1)


@functools.cache
def variables() -> dict[str, Any]:
    """Variables of CONV, for images of 8x4."""
    return jax.jit(CONV.init)(KEY, IMAGES, KEY)


def parameters(model: VAE, *event: int) -> int:
    """Number of parameters of a model for x of that shape."""
    shapes = jax.eval_shape(model.init, KEY, jnp.zeros((1, *event), jnp.uint8), KEY)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_sizes() -> None:
    """64 -> 256 -> 256 -> 32 and 16 -> 256 -> 256 -> 1,088; with convolutions, layer by layer."""
    dense = (65 * 256 + 257 * 256 + 257 * 32) + (17 * 256 + 257 * 256 + 257 * 1088)
    assert parameters(VAE(), 8, 8, 1) == dense == 440_416
    stem = (9 * 1 * 32 + 32) + (9 * 32 * 64 + 64)
    encoder = (7 * 7 * 64 + 1) * 256 + 257 * 256 + 257 * 32
    decoder = (17 * 256 + 257 * 256) + 257 * (7 * 7 * 64) + (9 * 64 * 32 + 32) + (9 * 32 * 1 + 1)
    norms = 2 * (32 + 64) + 2 * (64 + 32)
    conv = VAE(network="conv", likelihood=Bernoulli())
    assert parameters(conv, 28, 28, 1) == stem + encoder + decoder + norms == 1_791_137
    assert parameters(conv.clone(normalise=True), 28, 28, 1) == 1_791_137 + 2 * (2 * 256 + 2 * 256)


def test_with_the_exact_posterior_every_weight_is_px() -> None:
    """x ~ N(Q c z + d, I): q with mean c (x - d) Q / (1 + c^2), variance 1/(1 + c^2) has log w = log p(x) for all z."""
    basis, c, d = orthonormal(3, 2), np.array([0.8, 1.7]), np.array([0.3, -0.2, 0.5])
    # Encoder and decoder are one linear layer each, and p(x | z) has log_std 0.
    model = VAE(latents=2, likelihood=Gaussian(), encoder=MLP((), 4), decoder=MLP(()))
    x = reals(3)
    gain = basis * (c / (1 + c**2))
    log_var = -np.log(1 + c**2)
    kernel = np.concatenate([gain, np.zeros((3, 2))], 1)
    slopes = np.stack([(basis * c).T, np.zeros((2, 3))], -1)
    params = {
        "encoder": {"last": {"kernel": kernel, "bias": np.concatenate([-d @ gain, log_var])}},
        "readout": {"kernel": slopes, "bias": np.stack([d, np.zeros(3)], -1)},
    }
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    shapes = jax.eval_shape(model.init, KEY, x, KEY)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    traces = jax.jit(lambda key: model.apply({"params": params}, x, key))(KEY)
    expected = stats.multivariate_normal(d, np.eye(3) + (basis * c**2) @ basis.T).logpdf(np.asarray(x, np.float64))
    np.testing.assert_allclose(log_weight(traces), expected, rtol=1e-5)
    assert (np.abs(elbo(traces) - expected) > 1e-3).all()  # the ELBO's integrand has an analytic KL, not the sample's


def test_wrappers() -> None:
    """A model with convolutions reconstructs, encodes, and generates images of the shape its variables record."""

    @jax.jit
    def all_of(variables: Any) -> tuple[Any, ...]:
        of = functools.partial(CONV.apply, variables)
        return (
            of(KEY, 5, method="generate"),
            of(IMAGES, KEY, method="reconstruct"),
            of(IMAGES, KEY, method="encode")[0],
        )

    drawn, means, z = all_of(variables())
    assert drawn.shape == (5, 8, 4, 1) and means.shape == (8, 8, 4, 1) and z.shape == (8, 3)
    assert jax.eval_shape(lambda v: CONV.apply(v, IMAGES, KEY), variables()).names == ("z1",)


def test_decoding_never_touches_the_inference_networks() -> None:
    keep = {name: tree for name, tree in variables()["params"].items() if name not in ("stem", "q1")}
    shapes = jax.eval_shape(lambda: CONV.apply({**variables(), "params": keep}, KEY, 5, method="generate"))
    assert shapes.shape == (5, 8, 4, 1)


def test_a_replaced_encoder_takes_the_image() -> None:
    """It replaces convolutions and dense layers; the decoder stays convolutional."""
    model = CONV.clone(encoder=MLP((4,), 6, normalise=False))
    params = jax.eval_shape(model.init, KEY, IMAGES, KEY)["params"]
    assert sorted(params) == ["encoder", "px", "readout"]
    assert params["encoder"]["linear_0"]["kernel"].shape == (32, 4)
    assert params["readout"]["canvas_kernel"].shape == (5, 2, 1, 4)


@pytest.mark.parametrize("network", ["dense", pytest.param("conv", marks=pytest.mark.slow)])
def test_remat_and_bfloat16(network: str) -> None:
    """remat changes neither numbers nor parameters; under bfloat16 traces and parameters stay float32."""
    plain = CONV.clone(network=network, normalise=True)
    made = jax.jit(plain.init)(KEY, IMAGES, KEY)

    def gradient(model: VAE) -> Any:
        def loss(params: Any) -> tuple[Any, Any]:
            trace, updates = model.apply(
                {**made, "params": params}, IMAGES, OTHER_KEY, train=True, mutable=["batch_stats"]
            )
            return -elbo(trace).mean(), (trace.log_px, updates)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(made["params"])

    expected = gradient(plain)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), gradient(plain.clone(remat=True)), expected
    )
    half = gradient(plain.clone(dtype="bfloat16"))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(half)} == {"float32"}
    np.testing.assert_allclose(half[0][0], expected[0][0], rtol=0.02)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"latents": 0}, "latents=0.*1 or more"),
        ({"hidden": 0}, "hidden=0.*1 or more"),
        ({"depth": 0}, "depth=0.*1 or more"),
        ({"width": 0}, "width=0.*1 or more"),
        ({"classes": 1}, "classes=1.*0 for no labels"),
        ({"network": "convolutional"}, "network='convolutional'.*'dense' or 'conv'"),
        ({"dtype": "float16"}, "dtype='float16'.*'bfloat16'"),
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VAE(**wrong)


def test_data_that_do_not_fit() -> None:
    """Images of another size, and data that are no images."""
    with pytest.raises(ValueError, match=r"\(4, 4, 1\).*initialised for examples of \(8, 4, 1\)"):
        CONV.apply(variables(), jnp.zeros((8, 4, 4, 1), jnp.uint8), KEY)
    with pytest.raises(ValueError, match="multiples of 4"):
        CONV.init(KEY, jnp.zeros((8, 6, 4, 1), jnp.uint8), KEY)
    with pytest.raises(ValueError, match="initialise the model with an x first"):
        CONV.init(KEY, KEY, 5, method="decode")


def test_as_settings() -> None:
    """To JSON and back, functions of hvae_jax and of jax.nn included."""
    model = CONV.clone(activation=sigmoid_gelu, normalise=True)
    assert settings.from_json(settings.to_json(model)) == model
    assert settings.from_json(settings.to_json(model.clone(activation=jax.nn.tanh))).activation is jax.nn.tanh


def test_glorots_initialisation_begins_at_the_marginals() -> None:
    """Kernels within Glorot's bounds and reaching near them, biases of 0, p(x | z = 0) near the means of the data."""
    x = jnp.asarray(np.random.default_rng(0).random((50, 6)) < np.linspace(0.0, 1.0, 6), jnp.uint8)
    model = VAE(latents=40, hidden=30, activation=jnp.tanh, initialisation="glorot", likelihood=Bernoulli())
    made = jax.jit(model.init)(KEY, x, KEY)
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(made["params"])}
    for name, leaf in flat.items():
        if "kernel" in name:
            bound = np.sqrt(6 / (leaf.shape[0] + leaf.size / leaf.shape[0]))
            assert 0.95 * bound < jnp.abs(leaf).max() <= bound, name
        elif "readout" not in name:
            assert not leaf.any(), name
    p = np.clip(np.asarray(x).mean(0), 0.001, 0.999)
    assert (p.min(), p.max()) == (0.001, 0.999)
    np.testing.assert_allclose(made["params"]["readout"]["bias"][:, 0], np.log(p / (1 - p)), rtol=1e-4)
    start = model.apply(made, KEY, 1, latents=(jnp.zeros((1, 40)),), method="decode")
    np.testing.assert_allclose(start.x_dist.mean[0], p, rtol=1e-4)
    plain = jax.jit(VAE(latents=4, hidden=3, likelihood=Bernoulli()).init)
    assert (
        plain(KEY, x, KEY)["params"]["readout"]["bias"] == plain(KEY, 1 - x, KEY)["params"]["readout"]["bias"]
    ).all()
