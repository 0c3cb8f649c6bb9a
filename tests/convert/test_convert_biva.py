"""State dicts of BIVA's PyTorch code: what is read off names and shapes, and what is said where they do not fit.

That the numbers agree is proved by tests/x64/test_golden_biva.py and test_golden_biva_variants.py.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax.convert import biva
from hvae_jax.distributions import ScaleHead
from hvae_jax.likelihoods import Bernoulli, LogisticMixture
from hvae_jax.models import BIVA, GatedLadderVAE
from hvae_jax.models.biva import Stage

KEY = jax.random.key(0)
VECTORS = (Stage(2, ((4, 3, 1), (4, 3, 2))), Stage(3, ((4, 5, 1), (4, 5, 2))))
MAPS = (Stage(2, ((4, 3, 1), (4, 3, 2)), 2), Stage(3, ((4, 5, 2),), 4))
PUBLISHED: dict[str, Any] = {"head": ScaleHead("softplus_log_var"), "clamp": None}
MODELS = {
    "vectors": BIVA((8, 8, 1), VECTORS, **PUBLISHED),
    "maps": BIVA((8, 8, 1), MAPS, conditional_bu=True, merge_kernel=5, learn_top_prior=True, **PUBLISHED),
    "colour": BIVA((8, 8, 3), MAPS, likelihood=LogisticMixture(form="published"), **PUBLISHED),
    "without_skips": BIVA((8, 8, 3), VECTORS, skip=False, **PUBLISHED),
    "one_stage": BIVA((8, 8, 1), VECTORS[:1], **PUBLISHED),
    "ladder": GatedLadderVAE((8, 8, 1), (VECTORS[0], MAPS[1]), **PUBLISHED),
    "vae": GatedLadderVAE((8, 8, 1), VECTORS, inference="bottom_up", **PUBLISHED),
}


def shapes_of(model: BIVA | GatedLadderVAE) -> Any:
    """Its variables, as shapes."""
    return jax.eval_shape(model.init, KEY, jnp.zeros((1, *model.image)), KEY)


def state_dict_of(model: BIVA | GatedLadderVAE) -> dict[str, np.ndarray]:
    """One of random numbers, as that code would have it."""
    leaves = jax.tree_util.tree_leaves_with_path(shapes_of(model))
    shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
    rng = np.random.default_rng(0)
    made = {name: rng.normal(size=e.expected(shapes[e.path])) for name, e in biva.table(model).items()}
    made["projection.1.initialized"] = np.array(True)
    return {name: value.astype(np.float32) for name, value in made.items()}


@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_read_off(name: str) -> None:
    """From names and shapes alone; every array finds its place."""
    model, variables = biva.deep_vae(state_dict_of(MODELS[name]), (8, 8))
    assert model == MODELS[name]
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, shapes_of(model))


def test_layouts() -> None:
    """Kernels of convolutions, transposed ones, and linear layers of and to maps that were flattened there."""
    arrays = state_dict_of(MODELS["vectors"])
    params = biva.deep_vae(arrays, (8, 8))[1]["params"]
    conv = arrays["stages.0.q_bu_convs.layers.0.conv1.conv.weight_v"]
    np.testing.assert_array_equal(params["up1_bu"]["block_0"]["conv1"]["kernel"], conv.transpose(2, 3, 1, 0))
    transposed = arrays["stages.0.p_convs.layers.0.conv2.conv.weight_v"]
    np.testing.assert_array_equal(params["down1"]["block_0"]["conv2"]["kernel"], transposed.transpose(2, 3, 0, 1))
    head = arrays["stages.0.td_stochastic.px2z.linear.weight_v"].reshape(6, 4, 4, 4).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["p1_td"]["linear"]["kernel"], head.reshape(64, 6))
    back = arrays["stages.0.z_proj.linear.linear.weight_v"].reshape(4, 4, 4, 6).transpose(3, 1, 2, 0)
    np.testing.assert_array_equal(params["down1_z"]["linear"]["kernel"], back.reshape(6, 64))
    gain = arrays["stages.0.z_proj.linear.linear.weight_g"].reshape(4, 4, 4).transpose(1, 2, 0)
    np.testing.assert_array_equal(params["down1_z"]["linear"]["gain"], gain.ravel())


def test_what_no_weight_tells() -> None:
    """Said by the caller: strides other than 2, zeros around x, dropout, activations, another likelihood."""
    model, _ = biva.deep_vae(
        state_dict_of(BIVA((10, 10, 1), (Stage(2, ((4, 3, 3),)),), pad=1)),
        (10, 10),
        Bernoulli(1e-7),
        strides=((3,),),
        pad=1,
        log_var_act="none",
        nonlinearity="relu",
        q_dropout=0.2,
        p_dropout=0.0,
    )
    assert isinstance(model, BIVA)
    assert model.stages == (Stage(2, ((4, 3, 3),)),)
    assert (model.pad, model.head, model.activation) == (1, ScaleHead("log_var"), jax.nn.relu)
    assert (model.q_dropout, model.p_dropout, model.likelihood) == (0.2, 0.0, Bernoulli(1e-7))


def test_without_weight_norm() -> None:
    """A plain weight is a direction, its norm the gain."""
    arrays = state_dict_of(MODELS["one_stage"])
    gains = [name for name in arrays if name.endswith("weight_g")]
    plain = {name: value for name, value in arrays.items() if name not in gains}
    for gain in gains:
        name = gain.removesuffix("_g")
        plain[name] = plain.pop(f"{name}_v")
        others = tuple(axis for axis, length in enumerate(arrays[gain].shape) if length == 1)
        arrays[gain] = np.sqrt(np.square(plain[name]).sum(others, keepdims=True))
    one, other = (biva.deep_vae(given, (8, 8)) for given in (arrays, plain))
    assert one[0] == other[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one[1], other[1])


def test_buffers_and_what_leads_nowhere() -> None:
    """A top prior of zeros is N(0, I); the VAE of that code has a layer above the top."""
    arrays = state_dict_of(MODELS["vae"])
    more = {
        "stages.1.stochastic.prior": np.zeros(4),
        "stages.1.q_proj.linear.linear.weight_v": np.ones((16, 2)),
        "stages.1.q_proj.linear.linear.weight_g": np.ones((16, 1)),
        "stages.1.q_proj.linear.linear.bias": np.ones(16),
        "stages.1.q_proj.linear.initialized": np.array(True),
    }
    assert biva.deep_vae(arrays | more, (8, 8))[0] == MODELS["vae"]


def test_a_prior_that_is_not_learned_tells_the_size() -> None:
    """Of maps nothing else says what strides above 2, padding or another image make of them."""
    arrays = state_dict_of(MODELS["maps"].clone(learn_top_prior=False))
    prior = {"stages.1.stochastic.prior": np.zeros((4, 2, 2), np.float32)}
    assert biva.deep_vae(arrays | prior, (8, 8))[0] == MODELS["maps"].clone(learn_top_prior=False)
    strided, _ = biva.deep_vae(arrays | prior, (16, 16), strides=((4,), (1, 2)))
    assert strided.stages[1].blocks[0][2] == 4
    for wrong in ({"image": (16, 16)}, {"image": (8, 8), "pad": 4}):
        with pytest.raises(ValueError, match=r"prior is \(4, 2, 2\), but with image=.*strides=\[\[2\], \[1, 2\]\]"):
            biva.deep_vae(arrays | prior, **wrong)


def test_what_holds_a_state_dict() -> None:
    """What to take of it is said."""
    arrays = state_dict_of(MODELS["vae"])
    with pytest.raises(ValueError, match="take one of its 'model_state_dict'"):
        biva.deep_vae({"epoch": 3, "model_state_dict": arrays}, (8, 8))
    with pytest.raises(ValueError, match=r'begin with "module\."'):
        biva.deep_vae({f"module.{name}": value for name, value in arrays.items()}, (8, 8))


def test_everything_that_does_not_fit_is_named() -> None:
    """In one message: missing, not expected, of another shape."""
    arrays = state_dict_of(MODELS["vectors"])
    missing = "stages.0.merge.aux_op.conv.weight_g"
    del arrays[missing]
    arrays["stages.0.bu_proj.linear.linear.bias"] = np.zeros(3)
    arrays["stages.0.q_bu_convs.layers.0.aux_op.conv.bias"] = np.zeros(4)
    with pytest.raises(ValueError, match="Is it of this code") as error:
        biva.deep_vae(arrays, (8, 8))
    said = str(error.value)
    assert f"Missing: {missing} (4, 1, 1, 1)" in said
    assert "of another shape: stages.0.bu_proj.linear.linear.bias is (3,), not (64,)" in said
    assert "not expected: stages.0.q_bu_convs.layers.0.aux_op.conv.bias" in said


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        ({"projection.1.initialized": np.array(False)}, {}, ("not been initialised", "projection.1")),
        ({"projection.1.conv.bias": np.zeros(5)}, {}, ("5 outputs", "1 channels", "Give the likelihood")),
        ({}, {"strides": ((1, 2),)}, ("1 stages", "has 2")),
        ({}, {"strides": ((1, 2), (1,))}, ("stage 1", "2 blocks")),
        ({}, {"nonlinearity": "gelu"}, ("'gelu'", "elu, relu")),
        ({}, {"log_var_act": "exp"}, ("'exp'", "softplus, none, tanh")),
        ({}, {"image": (6, 6)}, ("(6, 6, 1)", "stride 2", "3x3")),
    ],
    ids=["not_initialised", "outputs", "stages", "blocks", "nonlinearity", "log_var_act", "image"],
)
def test_refused(change: dict[str, Any], settings: dict[str, Any], said: tuple[str, ...]) -> None:
    """With what was given, what is allowed, what to do."""
    with pytest.raises(ValueError) as error:  # noqa: PT011
        biva.deep_vae(state_dict_of(MODELS["vectors"]) | change, **({"image": (8, 8)} | settings))
    assert all(part in str(error.value) for part in said), error.value


def test_another_code_altogether() -> None:
    """Names what should be there."""
    with pytest.raises(ValueError, match=r"stages\.0\.q_convs"):
        biva.deep_vae({"weight": np.zeros(3)}, (8, 8))
