"""VDVAE: parameter counts, initialisation, depth as data, precision, labels, temperatures and errors."""

import functools
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.cases import case, equations, jitter
from support.contract import assert_close, paths
from support.shapes import shapes, size

from hvae_jax import models
from hvae_jax.descent import temperature_by_side
from hvae_jax.likelihoods import LogisticMixture
from hvae_jax.models import VDVAE, Down, Up, down_stages, up_stages
from hvae_jax.networks.bottleneck import BottleneckConv, BottleneckStyle
from hvae_jax.objectives import elbo

KEY = jax.random.key(0)
TINY = VDVAE(
    image=(4, 4, 1),
    ups=up_stages("4x2,4d4,1x1", 8),
    downs=down_stages("1x1,4m1,4x3", 8, latents=2),
    likelihood=LogisticMixture(2, 16, 1),
)
X = jnp.asarray(np.random.default_rng(0).integers(0, 16, (3, 4, 4, 1)), jnp.uint8)


@functools.cache
def variables() -> Any:
    """Jittered variables of TINY."""
    return {"params": jitter(begin()["params"], scale=0.2)}


@functools.cache
def begin() -> Any:
    """Initial variables of TINY."""
    return jax.jit(TINY.init)(KEY, X, KEY)


@pytest.mark.parametrize(
    ("preset", "count", "ups", "levels"),
    [
        (models.vdvae_cifar10, 39_145_700, 33, 43),
        pytest.param(models.vdvae_imagenet32, 119_280_868, 48, 78, marks=pytest.mark.slow),
        pytest.param(models.vdvae_imagenet64, 125_005_860, 65, 75, marks=pytest.mark.slow),
        pytest.param(models.vdvae_ffhq256, 114_874_852, 68, 66, marks=pytest.mark.slow),
        pytest.param(models.vdvae_ffhq1024, 109_366_904, 70, 70, marks=pytest.mark.slow),
        (models.vdvae_digits, 36_891, 7, 10),
        (models.vdvae_mnist, 99_425, 10, 10),
        (models.vdvae_cifar10_small, 292_648, 12, 15),
    ],
)
def test_presets(preset: Any, count: int, ups: int, levels: int) -> None:
    """The first four counts are the published ones, that of FFHQ-1024 follows from its settings."""
    model = preset()
    assert size(model) == count
    assert (sum(stage.blocks for stage in model.ups), model.num_levels) == (ups, levels)
    assert len(model.sides) == levels


def test_beginning() -> None:
    """Every prior is exactly N(0, I), the last kernels and those that project z are scaled, and biases are zero."""
    trace = jax.jit(lambda v: TINY.apply(v, X, KEY))(begin())
    for level in trace.levels:
        np.testing.assert_array_equal(level.p.mean, 0.0)
        np.testing.assert_array_equal(level.p.log_std, 0.0)
        assert (level.rate > 0).all()
    bounds = {"up4/bottleneck_0/conv_3": (4, 2), "down4/bottleneck_0/conv_3": (5, 2), "down4/project": (5, 2)}
    for path, kernel in paths(begin()["params"]).items():
        name, _, leaf = path.rpartition("/")
        if leaf == "bias":
            np.testing.assert_array_equal(kernel, 0.0)
        elif name in bounds:
            depth, fan_in = bounds[name]
            bound = (depth * fan_in) ** -0.5
            assert 0.7 * bound < np.abs(kernel).max() <= bound


def test_kernels_begin_as_pytorch_has_them() -> None:
    """Kernels have the standard deviation of U(-b, b), with PyTorch's b or Glorot's."""
    x, within = jnp.zeros((1, 4, 4, 30)), functools.partial(np.testing.assert_allclose, rtol=0.03)
    for style, spread in ((BottleneckStyle(), 1 / 270), (BottleneckStyle(initialisation="glorot"), 6 / (270 + 360))):
        kernel = BottleneckConv(40, 3, scale=0.5, style=style).init(KEY, x)["params"]["kernel"]
        within(kernel.std(), 0.5 * np.sqrt(spread / 3))


def test_depth_is_data() -> None:
    """Ten times as many blocks have as many operations, and ten times larger arrays of as many parameters."""
    deep = TINY.clone(downs=(Down(1, 1, 8, None, 2), Down(4, 40, 8, 1, 2)))
    lengths = [
        sum(1 for _ in equations(jax.make_jaxpr(lambda v, x, m=m: m.apply(v, x, KEY).log_px)(shapes(m), X)))
        for m in (TINY, deep)
    ]
    assert lengths[1] < 1.3 * lengths[0]
    assert jax.tree.structure(shapes(TINY)) == jax.tree.structure(shapes(deep))


@pytest.mark.slow
def test_unroll_and_remat_change_nothing() -> None:
    """Variables, trace and gradient stay the same."""

    def gradient(model: VDVAE) -> Any:
        return jax.jit(jax.value_and_grad(lambda v: model.apply(v, X, KEY).log_px.sum()))(variables())

    expected = gradient(TINY)
    products = TINY.clone(kept="products")
    for other in (TINY.clone(unroll=3, remat=True), products, products.clone(unroll=3), products.clone(remat=True)):
        assert other.rolled == other.clone(unroll=1)
        assert jax.tree.map(jnp.shape, shapes(other)) == jax.tree.map(jnp.shape, shapes(TINY))
        assert_close(gradient(other), expected, rtol=1e-4, atol=1e-3)


def test_what_is_kept_of_a_block() -> None:
    """With kept="products" a block stores the outputs of convolutions, and what the next one begins with."""
    model = TINY.clone(ups=up_stages("4x2", 8), downs=down_stages("4x3", 8, latents=3))
    params = shapes(model)

    def maps(kept: str) -> Counter[tuple[int, int]]:
        """Numbers of feature maps that the loops store in each block, by blocks and channels."""

        def loss(params: Any) -> Any:
            return elbo(model.clone(kept=kept).apply(params, X, KEY)).sum()

        residuals = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
        found = [leaf.shape for leaf in jax.tree.leaves(residuals) if leaf.shape[1:4] == (3, 4, 4)]
        return Counter((shape[0], shape[4]) for shape in found)

    # Up: its input, and three products. Down: two states, the products of three bottlenecks, two Gaussians.
    found = maps("products")
    assert (found[2, 8], found[2, 2]) == (1, 3)
    assert (found[3, 8], found[3, 2], found[3, 6]) == (2, 9, 2)
    assert sum(maps("all").values()) > 1.8 * sum(found.values())


def test_no_block_reads_what_was_multiplied() -> None:
    """With kept="products" the loop over the top-down blocks is given products, and not the feature maps of x."""
    model = TINY.clone(ups=up_stages("4x2", 12), downs=down_stages("4x3", 8))
    params = shapes(model)

    def given(kept: str) -> set[tuple[int, ...]]:
        """Shapes of the arrays that the last loop, over the top-down blocks, reads."""
        jaxpr = jax.make_jaxpr(lambda params: model.clone(kept=kept).apply(params, X, KEY).log_px)(params)
        loop = [one for one in jaxpr.eqns if one.primitive.name == "scan"][-1]
        return {var.aval.shape for var in loop.invars}

    tap, products = (3, 4, 4, 12), (3, 3, 1, 16, 2)
    assert tap in given("all") and products not in given("all")
    assert tap not in given("products") and products in given("products")


def test_what_is_kept_changes_no_variables_and_no_calls() -> None:
    """Initial variables, reconstructions from some levels, given latents and samples are those of kept="all"."""
    row = case("vdvae_classes")
    model: Any = row.model
    products = model.clone(kept="products")
    begun, other = (jax.jit(lambda key, m=m: m.init(key, row.x, key, y=row.y))(KEY) for m in (model, products))
    jax.tree.map(np.testing.assert_array_equal, other, begun)
    given = {"params": jitter(begun["params"], scale=0.3)}

    def calls(model: VDVAE) -> Any:
        trace = model.apply(given, row.x, KEY, y=row.y)
        latents = (trace.latents[0], *(None,) * (model.num_levels - 1))
        kept = model.apply(given, row.x, KEY, y=row.y, latents=latents, keep_top=2)
        reconstructed = model.apply(given, row.x, KEY, y=row.y, keep_top=1, method="reconstruct")
        drawn = model.apply(given, KEY, len(row.x), y=row.y, method="generate")
        sums = [[level.summed for level in one.levels] for one in (trace, kept)]
        plain = [one.replace(levels=tuple(level.replace(summed=None) for level in one.levels)) for one in (trace, kept)]
        return (trace.rates, kept.rates, plain, reconstructed, drawn), sums

    (found, sums), (expected, none) = (jax.jit(calls, static_argnums=0)(m) for m in (products, model))
    assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not jax.tree.leaves(none)
    assert_close(jnp.concatenate(sums[0]), found[0])


@pytest.mark.slow
def test_bfloat16() -> None:
    """Only products are bfloat16: Gaussians, KLs and likelihoods are float32 and close to those of float32."""
    half = TINY.clone(dtype="bfloat16", precision="highest")
    trace, whole = (jax.jit(lambda v, m=m: m.apply(v, X, KEY))(variables()) for m in (half, TINY))
    assert {leaf.dtype for leaf in jax.tree.leaves(trace)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(trace.log_px, whole.log_px, rtol=0.05)
    np.testing.assert_allclose(trace.rates.sum(0), whole.rates.sum(0), rtol=0.1)


@pytest.mark.slow
def test_bfloat16_is_near_float32_with_products_kept() -> None:
    """-ELBO within 1%; its gradient off by what rounding to eight bits explains, with `kept="products"` as without.

    As in tests/models/test_precision.py: the effect of one rounding is measured in float32 at rounded parameters, and
    independent roundings of inputs, outputs and activations add in squares.
    """

    def gradient(model: VDVAE, params: Any) -> tuple[Any, Any]:
        return jax.jit(jax.value_and_grad(lambda v: -elbo(model.apply(v, X, KEY)).mean()))(params)

    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), variables())
    loss, full = gradient(TINY, variables())
    _, once = gradient(TINY, rounded)
    off_once = optax.tree.norm(optax.tree.sub(once, full))
    for kept in ("all", "products"):
        half_loss, half = gradient(TINY.clone(dtype="bfloat16", kept=kept), variables())
        off = optax.tree.norm(optax.tree.sub(half, full))
        np.testing.assert_allclose(half_loss, loss, rtol=0.01)
        assert 0.5 * off_once < off < 3 * off_once < 0.2 * optax.tree.norm(full), kept


def test_precision() -> None:
    """Every product has the precision asked for, or none has."""
    for precision, expected in (("highest", True), ("default", False)):
        jaxpr = jax.make_jaxpr(lambda v, p=precision: TINY.clone(precision=p).apply(v, X, KEY).log_px)(variables())
        products = [e for e in equations(jaxpr) if e.primitive.name in ("dot_general", "conv_general_dilated")]
        asked = ["HIGHEST" in str(e.params["precision"]) for e in products]
        assert products
        assert all(asked) if expected else not any(asked)


def test_names_and_sides() -> None:
    """Levels are named by their side and counted from the top."""
    trace = jax.jit(lambda v: TINY.apply(v, X, KEY))(variables())
    assert trace.names == ("z1.0", "z4.0", "z4.1", "z4.2", "z4.3")
    assert trace.sides == TINY.sides == (1, 4, 4, 4, 4)
    assert list(trace.rates_by_side) == [1, 4]
    assert_close(trace.rates_by_side[4], trace.rates[1:].sum(0))


def test_temperatures_by_resolution() -> None:
    """At a side with temperature 0, and at no other, z is the prior's mode."""
    cold = temperature_by_side(TINY.sides, {1: 1.0, 4: 0.0})
    assert cold.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    levels = TINY.apply(variables(), KEY, 2, temperature=cold, method="decode").unstack()
    assert (levels[0].z != levels[0].p.mean).all()
    assert all((level.z == level.p.mean).all() for level in levels[1:])
    with pytest.raises(ValueError, match=r"sides \[1, 8\], but the levels are at \[1, 4\]"):
        temperature_by_side(TINY.sides, {1: 1.0, 8: 0.5})
    with pytest.raises(ValueError, match="The temperature of side 4 is -1"):
        temperature_by_side(TINY.sides, {1: 1.0, 4: -1.0})
    for wrong in (-0.5, jnp.float32(-0.5), np.array([1.0, 1.0, np.nan, 1.0, 1.0]), np.inf):
        with pytest.raises(ValueError, match=r"temperature is (-0.5|nan|inf), but it must be 0"):
            TINY.apply(variables(), KEY, 2, temperature=wrong, method="decode")
    for wrong in (2.5, 6, jnp.int32(-1)):
        with pytest.raises(ValueError, match=r"5 levels: it has to be from 0 to 5"):
            TINY.apply(variables(), X, KEY, keep_top=wrong)


@pytest.mark.slow
def test_labels_reach_priors_and_posteriors() -> None:
    """Another label changes prior and posterior of every level."""
    row = case("vdvae_classes")
    model: Any = row.model
    given = {"params": jitter(jax.jit(model.init)(KEY, row.x, KEY, y=row.y)["params"], scale=0.3)}
    apply = jax.jit(lambda y: model.apply(given, row.x, KEY, y=y).unstack())
    for wrong in (-1, model.classes, 0.5):
        y = jnp.full(len(row.x), wrong)
        with pytest.raises(ValueError, match=f"holds the label {wrong}, but the model's {model.classes} classes"):
            model.apply(given, row.x, KEY, y=y)
    for one, other in zip(apply(row.y), apply(1 - row.y), strict=True):
        assert (one.p.mean != other.p.mean).any()
        assert (one.q.mean != other.q.mean).any()


UPS, DOWNS = up_stages("8d2,4d2,2x1", 4), down_stages("2x1,4m2,8m4", 4)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"image": (8, 4, 1)}, "square"),
        ({"image": (16, 16, 1)}, "should be at side 16, the image's side"),
        ({"ups": ()}, "at least one stage"),
        ({"ups": up_stages("8d3,2x1", 4)}, "pools by 3, which does not divide 8"),
        ({"ups": up_stages("8d2,2x1", 4)}, "should be at side 4, what stage 0 leaves"),
        ({"ups": up_stages("8d2,4d2,2x1", 8, "2:4")}, "width 4 after 8"),
        ({"downs": ()}, "at least one stage"),
        ({"downs": down_stages("2x1,8m4", 4)}, "mixes in side 4, which is not built yet; .* \\[2\\]"),
        ({"downs": down_stages("1x1,2m1,4m2,8m4", 4)}, "no feature maps of that side, only of the sides \\[2, 4, 8\\]"),
        ({"downs": down_stages("2x1,4m2", 4)}, "reaches the sides \\[2, 4\\], but the image's side is 8"),
        ({"downs": down_stages("2x1,4m2,8m4", 4, "4:6")}, "width 6 and mixes in side 2 of 4"),
        ({"downs": (Down(2, 1, 4), Down(4, 1, 4, 2), Down(8, 1, 4, 4), Down(8, 1, 5))}, "width 5, .* had 4 before"),
        ({"downs": down_stages("4m2,8m4", 4)}, "mixes in side 2, which is not built yet"),
        ({"downs": (DOWNS[0], Down(2, 1, 4, 2), *DOWNS[1:])}, "at side 2, mixes in side 2: .* a smaller side"),
        ({"downs": (DOWNS[0], DOWNS[1], Down(2, 1, 4, 4), DOWNS[2])}, "mixes in side 4: .* of which 2 is a multiple"),
        ({"downs": (Down(2, 0, 4), *DOWNS[1:])}, "below 1"),
        ({"ups": (Up(8, 1, 2, 2), *UPS[1:])}, "below 1"),
        ({"classes": 1}, "0 for no labels"),
        ({"dtype": "float16"}, "bfloat16"),
        ({"precision": "high"}, "'default' or 'highest'"),
        ({"likelihood": LogisticMixture()}, "3 channels"),
        ({"unroll": 0}, "1 or more"),
        ({"ups": "8d2,4d2,2x1"}, "is text: up_stages and down_stages parse it"),
        ({"standardise": (8.0, 0.0)}, "standard deviation above 0"),
        ({"clamp": (3.0, -3.0)}, "a lower bound and then a higher"),
        ({"no_bias_above": -1}, "0 or more"),
    ],
)
def test_errors(settings: dict[str, Any], error: str) -> None:
    """Errors say what was given, what is allowed and what to do."""
    with pytest.raises(ValueError, match=error):
        VDVAE(**({"image": (8, 8, 1), "ups": UPS, "downs": DOWNS} | settings))
