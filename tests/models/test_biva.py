"""BIVA and its code's Ladder VAE and VAE: dependencies, stages, sizes, initialisation and errors."""

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro
from support.cases import integers

from hvae_jax.diagnostics import bound_above, level_by_level
from hvae_jax.distributions import Normal
from hvae_jax.experiment import settings
from hvae_jax.likelihoods import LogisticMixture
from hvae_jax.models import BIVA, HVAE, GatedLadderVAE
from hvae_jax.models.biva import Stage, biva_cifar10, biva_mnist, gated_ladder_cifar10, gated_ladder_mnist, sides
from hvae_jax.networks.scale_head import ScaleHead
from hvae_jax.trace import Level

KEY, OTHER_KEY = jax.random.split(jax.random.key(0))
THREE = (Stage(2, ((3, 3, 1),)), Stage(3, ((3, 3, 1),)), Stage(4, ((3, 3, 2),)))
MODEL = BIVA(image=(2, 2, 1), stages=THREE, q_dropout=0.0, p_dropout=0.0)
LADDER = GatedLadderVAE(image=(2, 2, 1), stages=THREE)
X = integers(2, 2, 2, 1)


@functools.cache
def variables(model: HVAE = MODEL) -> Any:
    """A model's variables, made for X."""
    return jax.jit(model.init)(KEY, X, KEY)


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        (biva_mnist, 31_550_946),
        pytest.param(biva_cifar10, 102_948_560, marks=pytest.mark.slow),
        (gated_ladder_mnist, 16_524_450),
        (lambda: gated_ladder_mnist("bottom_up"), 17_804_706 - 31_360),
        pytest.param(gated_ladder_cifar10, 59_576_896, marks=pytest.mark.slow),
    ],
    ids=["biva_mnist", "biva_cifar10", "ladder_mnist", "vae_mnist", "ladder_cifar10"],
)
def test_published_sizes(preset: Callable[[], HVAE], count: int) -> None:
    """Parameter counts are the published code's, gains included; its VAE's is without the layer that nothing reads."""
    model = preset()
    shapes = jax.eval_shape(model.init, KEY, jnp.zeros((2, *model.image), jnp.uint8), KEY)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"])) == count


# ---- dependencies


def dependence(model: HVAE) -> dict[str, set[str]]:
    """What each prior and posterior, "p z1" and "q z1", depends on: x, and names of latents."""
    params, x = variables(model), X.astype(jnp.float32)
    names = jax.eval_shape(lambda: model.apply(params, x, KEY)).names
    latents = jax.jit(lambda: model.apply(params, x, KEY).latents)()

    def said(x: jax.Array, latents: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
        levels = model.apply(params, x, KEY, latents=latents).levels
        return {f"{whose} {one.name}": summary(getattr(one, whose)) for one in levels for whose in ("p", "q")}

    slopes = jax.jit(jax.jacrev(said, argnums=(0, 1)))(x, latents)
    sources = {name: {"x": by_x, **dict(zip(names, by_z, strict=True))} for name, (by_x, by_z) in slopes.items()}
    return {name: {source for source, slope in of.items() if (slope != 0).any()} for name, of in sources.items()}


def summary(normal: Normal) -> jax.Array:
    """One number that depends on all parameters of a Gaussian."""
    weights = jnp.arange(1.0, normal.mean.size + 1.0).reshape(normal.mean.shape)
    return (weights * (normal.mean + 3.0 * normal.log_std)).sum()


def every_stage_above(model: BIVA, stage: int) -> set[str]:
    """Returns the names of both latents of all stages above."""
    return {name for name in model.names if int(name[1]) > stage}


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(MODEL, id="plain"),
        pytest.param(MODEL.clone(conditional_bu=True, stages=THREE[1:]), id="conditional"),
    ],
)
def test_factorisation(model: BIVA) -> None:
    """p and q factorise as at the top of models/biva/biva.py."""
    top = len(model.stages)
    expected: dict[str, set[str]] = {f"p z{top}": set(), f"q z{top}": {"x"} | {f"z{i}_bu" for i in range(1, top)}}
    for stage in range(1, top):
        above, below = every_stage_above(model, stage), {f"z{i}_bu" for i in range(1, stage)}
        expected[f"p z{stage}_td"] = above
        expected[f"p z{stage}_bu"] = above | ({f"z{stage}_td"} if model.conditional_bu else set())
        expected[f"q z{stage}_bu"] = {"x"} | below
        expected[f"q z{stage}_td"] = {"x"} | below | above
    assert dependence(model) == expected


@pytest.mark.slow
def test_factorisation_without_skips() -> None:
    """A prior depends on the stage above alone; the second bottom-up path reads x and all samples of the first."""
    found = dependence(MODEL.clone(skip=False))
    assert found["p z1_td"] == found["p z1_bu"] == {"z2_td", "z2_bu"}
    assert found["p z2_td"] == {"z3"}
    assert found["q z2_bu"] == {"z1_bu"}
    assert found["q z3"] == {"x", "z1_bu", "z2_bu"}
    assert found["q z1_td"] == {"x", "z2_td", "z2_bu"}


@pytest.mark.slow
@pytest.mark.parametrize("inference", [pytest.param("top_down", marks=pytest.mark.slow), "bottom_up"])
def test_factorisation_of_the_ladder(inference: str) -> None:
    """p and q factorise as at the top of models/biva/gated_ladder.py, in both directions of inference."""
    expected: dict[str, set[str]] = {}
    for stage in (1, 2, 3):
        above, below = ({f"z{i}" for i in range(1, 4) if (i - stage) * way > 0} for way in (1, -1))
        expected[f"p z{stage}"] = above
        expected[f"q z{stage}"] = {"x"} | (above if inference == "top_down" else below)
    assert dependence(LADDER.clone(inference=inference)) == expected


# ---- stages


def test_resolutions() -> None:
    """Height and width of each stage's feature maps, top first."""
    stages = (Stage(2, ((4, 3, 2), (4, 3, 1))), Stage(2, ((4, 3, 2), (4, 3, 2))))
    assert sides((28, 20, 1), 2, stages) == ((4, 3), (8, 6))


@functools.cache
def kept(keep_top: int | None) -> tuple[Level, ...]:
    """The levels of a pass with this `keep_top`."""
    return jax.jit(lambda v: MODEL.apply(v, X, KEY, keep_top=keep_top).levels)(variables())


@pytest.mark.slow
def test_names_and_sizes() -> None:
    """Levels come in generative order, the top-down latent of a stage first."""
    levels = kept(None)
    assert [level.name for level in levels] == ["z3", "z2_td", "z2_bu", "z1_td", "z1_bu"] == list(MODEL.names)
    assert [level.z.shape for level in levels] == [(8, 2), (8, 3), (8, 3), (8, 4), (8, 4)]
    assert MODEL.levels_per_stage == (1, 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("keep_top", "levels"), [(0, 0), (1, 1), (2, 3), (3, 5)])
def test_keep_top_counts_stages(keep_top: int, levels: int) -> None:
    """Kept levels have the latents and rates of a pass without keep_top; the others are drawn from their priors."""
    for i, (one, plain) in enumerate(zip(kept(keep_top), kept(None), strict=True)):
        if i < levels:
            np.testing.assert_allclose(one.z, plain.z, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(one.rate, plain.rate, rtol=1e-3, atol=1e-4)
        else:
            assert (one.z != plain.z).all()
            assert (one.rate == 0).all()
            assert (one.q.mean == one.p.mean).all()


@pytest.mark.parametrize("keep_top", [-1, 4, np.array(9), jnp.int32(-1), True, 1.0])
def test_keep_top_beyond_the_stages(keep_top: Any) -> None:
    """The error names both counts, whatever the type of the number."""
    with pytest.raises(ValueError, match=rf"{keep_top}.*3 stages \(of 5 levels\): it has to be from 0 to 3"):
        MODEL.apply(variables(), X, KEY, keep_top=keep_top)


@pytest.mark.slow
def test_diagnostics_count_stages() -> None:
    """In L^{>k} and in reconstructions level by level, k goes up to the number of stages."""
    above = jax.jit(lambda v, k: bound_above(MODEL, v, X, KEY, k, 2))
    values = [above(variables(), jnp.int32(k)) for k in (0, 1, 3)]
    assert all((one != other).any() for one, other in itertools.combinations(values, 2))
    with pytest.raises(ValueError, match="3 stages, so 0 to 3"):
        bound_above(MODEL, variables(), X, KEY, 4)
    shape = jax.eval_shape(lambda v: level_by_level(MODEL, v, X, KEY), variables()).shape
    assert shape == (8, 4, 2, 2, 1)


def test_a_given_bottom_up_latent_goes_both_ways() -> None:
    """Latents above it are inferred from it, and x is generated from it."""
    z = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
    given = jax.jit(lambda v, z: MODEL.apply(v, X, KEY, latents=(None, None, None, None, z)))
    one, other = given(variables(), z), given(variables(), z + 1.0)
    np.testing.assert_array_equal(one.levels[-1].z, z)
    for i in (0, 2):  # z3 and z2_bu
        assert (one.levels[i].q.mean != other.levels[i].q.mean).any()
    assert (one.log_px != other.log_px).all()


def test_maps_and_padding() -> None:
    """Latents that are maps have each stage's resolution; the frame of zeros around x is cropped again."""
    stages = (Stage(2, ((3, 3, 2),), 2), Stage(3, ((3, 3, 2),), 3))
    model = BIVA(image=(6, 6, 3), stages=stages, pad=1, likelihood=LogisticMixture(2))
    x = integers(256, 6, 6, 3)

    def shapes() -> tuple[Any, Any, Any]:
        params = model.init(KEY, x, KEY)
        trace = model.apply(params, x, KEY)
        return trace.latents, trace.x_dist.logits, model.apply(params, KEY, 5, method="generate")

    latents, logits, drawn = jax.eval_shape(shapes)
    assert [z.shape for z in latents] == [(8, 2, 2, 2), (8, 4, 4, 3), (8, 4, 4, 3)]
    assert logits.shape == (8, 6, 6, 1, 2)
    assert drawn.shape == (5, 6, 6, 3)


# ---- initialisation, and what changes in training


@pytest.mark.slow
@pytest.mark.parametrize("model", [MODEL, pytest.param(LADDER, marks=pytest.mark.slow)], ids=["biva", "ladder"])
def test_first_batch(model: HVAE) -> None:
    """On the batch and key of initialisation, each layer's outputs have mean 0 and standard deviation 0.01."""
    trace = jax.jit(lambda v: model.apply(v, X, KEY))(variables(model))
    logits = trace.x_dist.logits
    np.testing.assert_allclose([logits.mean(), logits.std()], [0.0, 0.01], atol=1e-5)
    for level in trace.levels:
        np.testing.assert_allclose(level.q.mean.mean(0), 0.0, atol=1e-5)
        np.testing.assert_allclose(level.q.mean.std(0), 0.01, rtol=1e-2)


@pytest.mark.slow
def test_plain_start() -> None:
    """Without data-dependent initialisation all gains are 1."""
    params = variables(MODEL.clone(data_dependent_init=False))["params"]
    gains = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "gain"]
    assert len(gains) > 30
    assert all((gain == 1).all() for gain in gains)


@pytest.mark.parametrize(("shares", "differs"), [((0.0, 0.0), False), ((0.5, 0.0), True), ((0.0, 0.5), True)])
def test_dropout(shares: tuple[float, float], differs: bool) -> None:
    """Dropout depends on the key and acts in training only, on the bottom-up and on the top-down path."""
    model = MODEL.clone(q_dropout=shares[0], p_dropout=shares[1])
    latents = tuple(level.z for level in kept(None))
    forward = jax.jit(lambda key: model.apply(variables(), X, key, latents=latents, train=True).rates)
    assert (forward(KEY) != forward(OTHER_KEY)).any() == differs
    np.testing.assert_array_equal(forward(KEY), forward(KEY))


@functools.cache
def rates_and_gradient(model: BIVA) -> tuple[jax.Array, Any]:
    """Rates and gradient of a model at the latents and parameters of the plain model."""
    latents = tuple(level.z for level in kept(None))

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        trace = model.apply({"params": params}, X, KEY, latents=latents)
        return (trace.rates.sum(0) - trace.log_px).mean(), trace.rates

    gradient, rates = jax.jit(jax.grad(loss, has_aux=True))(variables()["params"])
    return rates, gradient


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"remat": True}, {"dtype": "bfloat16"}], ids=["remat", "bfloat16"])
def test_how_it_is_computed(change: dict[str, Any]) -> None:
    """Neither remat nor dtype changes parameters, nor numbers by much; latents and rates stay float32."""
    rates, gradient = rates_and_gradient(MODEL)
    changed_rates, changed = rates_and_gradient(MODEL.clone(**change))
    assert changed_rates.dtype == jnp.float32
    tolerance = 1e-5 if "remat" in change else 0.2
    np.testing.assert_allclose(changed_rates, rates, atol=tolerance * float(jnp.abs(rates).max()))
    pairs = [
        (np.asarray(a, float), np.asarray(b, float))
        for a, b in zip(*map(jax.tree.leaves, (gradient, changed)), strict=True)
    ]
    apart, whole = sum(((a - b) ** 2).sum() for a, b in pairs), sum((a**2).sum() for a, _ in pairs)
    assert apart < tolerance**2 * whole


def test_log_variances() -> None:
    """Heads give the log variances of the published codes, whose "clip" is a clamp of the log variance itself."""
    a = jnp.asarray([-20.0, -1.0, 0.0, 2.0, 20.0])
    expected = {
        "log_var": np.asarray(a),
        "softplus_log_var": np.logaddexp(0.0, np.asarray(a)),
        "tanh_log_var": np.tanh(np.asarray(a)),
    }
    for form, values in expected.items():
        head = ScaleHead(form)
        np.testing.assert_allclose(2.0 * head.log_std(a), values, rtol=1e-6)
        np.testing.assert_allclose(2.0 * head.log_std(a, (-3.0, 1.0)), np.clip(values, -3.0, 1.0), rtol=1e-6)


# ---- settings


@pytest.mark.parametrize("model", [biva_cifar10(), gated_ladder_mnist("bottom_up")], ids=["biva", "gated_vae"])
def test_as_settings(model: HVAE) -> None:
    """A model comes back from JSON, and a command line reaches into its stages."""
    assert settings.from_json(json.loads(json.dumps(settings.to_json(model)))) == model
    hash(model)
    parsed = tyro.cli(type(model), args=["--stages.0.latents", "5"], default=model)
    assert parsed.stages == (dataclasses.replace(model.stages[0], latents=5), *model.stages[1:])


# ---- errors


@pytest.mark.parametrize("model", [BIVA, GatedLadderVAE])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"stages": ()}, ("stages=()", "at least one")),
        ({"image": (28, 28)}, ("(28, 28)", "a tuple of 3")),
        ({"image": (30, 30, 1)}, ("(30, 30, 1)", "15x15", "stride 2", "Stage(latents=8")),
        ({"image": (30, 30, 1), "pad": -1}, ("pad=-1",)),
        ({"q_dropout": 1.0}, ("q_dropout=1.0", "from 0 to below 1")),
        ({"p_dropout": -0.1}, ("p_dropout=-0.1",)),
        ({"dtype": "float16"}, ("'float16'", "'bfloat16'")),
        ({"likelihood": LogisticMixture()}, ("3 channels", "x has 1")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_refused_settings(model: type[HVAE], wrong: dict[str, Any], said: tuple[str, ...]) -> None:
    """Errors come at construction, with what was given and what is allowed."""
    with pytest.raises(ValueError, match=None if "likelihood" in wrong else model.__name__) as error:
        model(**wrong)
    assert all(part in str(error.value) for part in said), error.value


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"latents": 0, "blocks": ((8, 3, 1),)}, "latents=0"),
        ({"latents": 2, "blocks": ()}, "at least one block"),
        ({"latents": 2, "blocks": ((8, 3),)}, "a tuple of 3"),
        ({"latents": 2, "blocks": ((8, 3, 0),)}, "1 or more"),
        ({"latents": 2, "blocks": ((8, 3, 1),), "kernel": 0}, "kernel=0"),
    ],
    ids=["latents", "none", "two", "stride", "kernel"],
)
def test_refused_stages(wrong: dict[str, Any], said: str) -> None:
    """A stage checks its own sizes."""
    with pytest.raises(ValueError, match="Stage") as error:
        Stage(**wrong)
    assert said in str(error.value)


def test_refused_at_the_call() -> None:
    """x of another shape, labels, an unknown inference and a kernel of size 0 are errors."""
    with pytest.raises(ValueError, match=r"\(8, 4\).*image=\(2, 2, 1\)"):
        MODEL.apply(variables(), X.reshape(8, 4), KEY)
    with pytest.raises(ValueError, match="classes=0"):
        MODEL.apply(variables(), X, KEY, y=jnp.zeros(8, jnp.int32))
    with pytest.raises(ValueError, match=r"inference='sideways'.*'top_down' or 'bottom_up'"):
        GatedLadderVAE(inference="sideways")
    with pytest.raises(ValueError, match="merge_kernel=0"):
        BIVA(merge_kernel=0)
