"""NVAE: its parts by hand, the order of its flows, and settings that do not fit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import equations

from hvae_jax.flows import VolumePreserving
from hvae_jax.likelihoods import Bernoulli, Categorical, DiscretisedLogistic, Gaussian, Likelihood, LogisticMixture
from hvae_jax.models import NVAE, halving_groups
from hvae_jax.networks.cells import CellStyle, DecoderCell, EncoderCell, FactorisedReduce, LogNormConv, normalised
from hvae_jax.networks.resample import depthwise, double_bilinear
from hvae_jax.networks.shift_network import masks
from hvae_jax.objectives import SpectralRegularised

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SMALL: dict[str, Any] = {
    "latents": 2,
    "width": 4,
    "pre_cells": 1,
    "post_cells": 1,
    "up_cells": 1,
    "down_cells": 1,
    "likelihood": Bernoulli(),
}


def reals(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_depthwise_is_a_grouped_convolution() -> None:
    """Value and gradients, on the backend that has a form of its own and on XLA's."""
    x, kernel, seed = reals(2, 6, 5, 3), reals(5, 5, 1, 3), reals(2, 6, 5, 3)

    def grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
        pad = ((2, 2), (2, 2))
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), pad, dimension_numbers=numbers, feature_group_count=3)

    got, back = jax.vjp(depthwise, x, kernel)
    wanted, plain_back = jax.vjp(grouped, x, kernel)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    for one, other in zip(back(seed), plain_back(seed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_aligned_corners() -> None:
    """Output j lies at position j (n - 1)/(2n - 1) of the input, for rows and columns of different length."""
    x = np.asarray(reals(1, 3, 4, 1))[0, :, :, 0]
    rows = np.arange(6) * 2 / 5
    columns = np.arange(8) * 3 / 7
    by_row = np.stack([np.interp(rows, np.arange(3), x[:, j]) for j in range(4)], axis=1)
    both = np.stack([np.interp(columns, np.arange(4), by_row[i]) for i in range(6)])
    found = double_bilinear(jnp.asarray(x)[None, :, :, None], align_corners=True)[0, :, :, 0]
    np.testing.assert_allclose(found, both, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(double_bilinear(jnp.ones((1, 1, 1, 2)), align_corners=True), np.ones((1, 2, 2, 2)))


def test_weights_have_the_learned_norm() -> None:
    kernel, log_norm = reals(2, 3, 3, 4, 5), reals(2, 5)
    weight = np.asarray(normalised(kernel, log_norm))
    norms = np.sqrt((weight**2).sum((1, 2, 3)))
    np.testing.assert_allclose(norms, np.exp(log_norm), rtol=1e-5)
    layer = LogNormConv(5)
    params = layer.init(KEY, reals(1, 4, 4, 3))["params"]
    first = np.sqrt((np.asarray(params["kernel"]) ** 2).sum((0, 1, 2)))
    np.testing.assert_allclose(np.exp(params["log_norm"]), first + 0.01, rtol=1e-5)


@pytest.mark.slow
def test_factorised_reduce_sees_every_pixel() -> None:
    """Each quarter of the channels reads another position of 2x2 squares; the last one takes the remainder."""
    net = FactorisedReduce(7)
    x = reals(1, 4, 4, 2)
    variables = net.init(KEY, x)
    assert net.apply(variables, x).shape == (1, 2, 2, 7)
    jacobian = jax.jacobian(lambda x: net.apply(variables, x)[0, 0, 0])(x)[:, 0]  # [7, 4, 4, 2]
    read = [{tuple(place[:2]) for place in np.argwhere(np.asarray(one))} for one in jacobian]
    assert read == [{(0, 0)}, {(1, 1)}, {(0, 1)}, *[{(1, 0)}] * 4]


@pytest.mark.slow
@pytest.mark.parametrize("cell", [EncoderCell(8, 2), DecoderCell(2, 3, double=True)])
def test_cells_that_change_the_resolution(cell: Any) -> None:
    x = reals(2, 4, 6, 4)
    variables = cell.init(KEY, x, train=False)
    y = cell.apply(variables, x, train=False)
    assert y.shape == ((2, 2, 3, 8) if isinstance(cell, EncoderCell) else (2, 8, 12, 2))
    plain = cell.clone(style=CellStyle(squeeze=False))
    assert "squeeze" in variables["params"] and "squeeze" not in plain.init(KEY, x, train=False)["params"]


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [1, 2])
def test_flows_are_autoregressive_and_keep_volume(pairs: int) -> None:
    """The Jacobian of each step is triangular with ones on its diagonal; the inverse gives z0 back."""
    flow, z = VolumePreserving(pairs), reals(1, 3, 2, 2)
    context = reals(1, 3, 2, 5)
    params = flow.init(KEY, z, context, method=lambda net, z, context: net(z, context).forward(z))["params"]
    moved = jax.tree.map(lambda leaf: leaf + 0.3 * reals(*leaf.shape), params)

    def forward(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return flow.apply({"params": moved}, z, context, method=lambda net, z, c: net(z, c).forward(z))

    jacobian = jax.jacobian(lambda flat: forward(flat.reshape(z.shape))[0].ravel())(z.ravel())
    assert np.linalg.slogdet(np.asarray(jacobian, np.float64))[1] == pytest.approx(0.0, abs=1e-4)
    y, log_det = forward(z)
    assert not np.asarray(log_det).any()
    back = flow.apply({"params": moved}, y, context, method=lambda net, y, c: net(y, c).inverse(y))[0]
    np.testing.assert_allclose(back, z, atol=1e-4)


@pytest.mark.slow
def test_one_step_reads_only_what_comes_before() -> None:
    """Element (row, column, channel) depends on earlier ones in this order, and on each of its neighbours there."""
    flow, z = VolumePreserving(1), reals(1, 3, 3, 2)
    init = flow.init(KEY, z, None, method=lambda net, z, context: net(z, context).forward(z))["params"]
    # the second step is switched off: its shift is its bias alone
    params = init | {"step_1": jax.tree.map(jnp.zeros_like, init["step_1"]) | {"out_log_norm": jnp.full(2, -jnp.inf)}}
    params["step_1"] |= {name: init["step_1"][name] for name in ("first_kernel", "middle_kernel", "out_kernel")}

    def shifted(flat: jax.Array) -> jax.Array:
        z1 = flow.apply({"params": params}, flat.reshape(z.shape), None, method=lambda net, z, c: net(z, c).forward(z))
        return z1[0].ravel()

    jacobian = np.asarray(jax.jacobian(shifted)(z.ravel()))
    np.testing.assert_allclose(np.diag(jacobian), 1.0)
    assert not np.triu(jacobian, 1).any()
    last = jacobian[-1, :-1].reshape(-1)
    assert (last != 0).mean() > 0.9  # 3x3 after 5x5: the whole map of 3x3 is in reach


def test_masks_are_of_the_published_shapes() -> None:
    """Whole kernels, as in the published weights; 27,000 numbers for 20 channels."""
    shapes = {name: mask.shape for name, mask in masks(20).items()}
    assert shapes == {"first": (3, 3, 20, 120), "middle": (5, 5, 1, 120), "out": (1, 1, 120, 20)}
    assert sum(mask.size for mask in masks(20).values()) == 27_000
    assert not masks(20)["first"][2:].any() and not masks(20)["middle"][3:].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "channels"),
    [
        ({"image": (4, 8, 1), "groups": (1, 1)}, 1),
        ({"image": (4, 4, 3), "groups": (2,), "likelihood": LogisticMixture(2)}, 3),
        ({"image": (4, 4, 1), "groups": (1,), "likelihood": DiscretisedLogistic(16)}, 1),
        ({"image": (6, 6, 1), "pad": 1, "groups": (2,), "halvings": 3}, 1),
        ({"image": (4, 4, 1), "groups": (1, 2), "dtype": "bfloat16", "remat": True}, 1),
    ],
    ids=["not_square", "colours", "discretised", "padded", "bfloat16"],
)
def test_images_of_many_kinds(settings: dict[str, Any], channels: int) -> None:
    """Traces and samples have the shape of x; likelihoods and KLs are float32."""
    model = NVAE(**SMALL | settings)
    x = jnp.asarray(RNG.integers(0, 2, (3, *model.image)), jnp.uint8)
    variables = jax.jit(model.init)(KEY, x, KEY)
    trace = jax.jit(model.apply)(variables, x, KEY)
    assert trace.log_px.shape == (3,) and trace.log_px.dtype == jnp.float32 and np.isfinite(trace.log_px).all()
    assert trace.rates.shape == (model.num_levels, 3) and np.isfinite(trace.rates).all()
    drawn = model.apply(variables, KEY, 2, method="generate")
    assert drawn.shape == (2, *model.image) and model.image[-1] == channels


@pytest.mark.parametrize(
    ("image", "likelihood", "settings"),
    [
        ((12, 4, 3), Bernoulli(), {"classes": 3}),
        ((4, 8, 3), LogisticMixture(2), {}),
        ((2, 6, 1), DiscretisedLogistic(), {"halvings": 0}),
        pytest.param((4, 12, 1), Bernoulli(), {}, marks=pytest.mark.slow),
        pytest.param((8, 8, 1), Categorical(4), {"classes": 2}, marks=pytest.mark.slow),
        pytest.param(
            (8, 4, 1),
            LogisticMixture(2, channels=1),
            {"classes": 2, "flows": 1, "flow_context": True},
            marks=pytest.mark.slow,
        ),
        pytest.param((4, 4, 3), DiscretisedLogistic(32), {"groups": (3,)}, marks=pytest.mark.slow),
        pytest.param((10, 6, 3), Gaussian(), {"pad": 1, "squeeze": False, "residual": False}, marks=pytest.mark.slow),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Likelihood) else "x".join(map(str, one)),
)
def test_shapes_of_many_images(image: tuple[int, int, int], likelihood: Likelihood, settings: dict[str, Any]) -> None:
    """Square or not, grey or in colours, with labels or without: latents, log p(x | z) and draws, without compiling."""
    model = NVAE(**SMALL | {"groups": (1, 2), "image": image, "likelihood": likelihood} | settings)
    x = jnp.zeros((3, *image), jnp.float32 if isinstance(likelihood, Gaussian) else jnp.uint8)
    y = jnp.zeros(3, jnp.int32) if model.classes else None

    def passed(x: jax.Array) -> Any:
        trace, variables = model.init_with_output(KEY, x, KEY, y=y)
        drawn = model.apply(variables, KEY, 3, y=y, method="generate")
        return trace.log_px, trace.rates, trace.latents, trace.x_dist.mean, drawn

    log_px, rates, latents, mean, drawn = jax.eval_shape(passed, x)
    assert log_px.shape == (3,) and rates.shape == (model.num_levels, 3)
    sides = [side for side, count in zip(model.sides, model.groups, strict=True) for _ in range(count)]
    assert [z.shape for z in latents] == [(3, *side, 2) for side in sides]
    assert drawn.shape == mean.shape == x.shape


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image": (6, 8, 1)}, r"multiples of 4.*halved 1 times and 2 resolutions"),
        ({"image": (28, 28, 1), "groups": (2, 2, 2)}, r"multiples of 8.*Set pad"),
        ({"groups": ()}, "at least one level"),
        ({"groups": (0, 2)}, "whole number of 1 or more"),
        ({"latents": 0}, "whole number of 1 or more"),
        ({"halvings": -1}, r"NVAE\(halvings=-1\): 0 or more"),
        ({"flow_context": True}, "no flow that could read x"),
        ({"likelihood": LogisticMixture(2)}, "set channels=1"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NVAE(**SMALL | {"image": (8, 8, 1), "groups": (1, 1)} | settings)


@pytest.mark.slow
def test_depth_is_data() -> None:
    """Ten times as many groups have as many operations, in the model and in the spectral term."""
    lengths, objective = [], SpectralRegularised()
    for groups in ((2, 2), (20, 20)):
        model = NVAE(**SMALL | {"image": (4, 4, 1), "groups": groups, "flows": 1})
        x = jnp.zeros((2, 4, 4, 1), jnp.uint8)

        def total(variables: Any, x: jax.Array, model: NVAE = model) -> jax.Array:
            term = objective.spectral(variables, objective.init(variables)["left"])[0]
            return model.apply(variables, x, KEY).log_px.sum() + term

        jaxpr = jax.make_jaxpr(total)(jax.eval_shape(model.init, KEY, x, KEY), x)
        lengths.append(sum(1 for _ in equations(jaxpr)))
    assert lengths[1] < 1.3 * lengths[0]


def test_groups_halve_towards_the_top() -> None:
    assert halving_groups(20, 3) == (5, 10, 20)
    assert halving_groups(16, 5, least=4) == (4, 4, 4, 8, 16)
    assert halving_groups(1, 2) == (1, 1)
    for wrong in ((0, 1, 1), (4, 0, 1), (4, 2, 5)):
        with pytest.raises(ValueError, match=r"halving_groups\(.*as many groups as the least"):
            halving_groups(*wrong)
