"""State dicts of BIVA's PyTorch code: what is read off names and shapes, and what is said where they do not fit.

That the numbers agree is proved by tests/x64/test_golden_biva.py and test_golden_biva_variants.py.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.state_dicts import of_biva

from hvae_jax.convert import biva
from hvae_jax.convert.converter import Preset
from hvae_jax.convert.state_dict import template_of
from hvae_jax.likelihoods import Bernoulli, LogisticMixture
from hvae_jax.models import BIVA, GatedLadderVAE
from hvae_jax.models.biva import Stage
from hvae_jax.networks.scale_head import ScaleHead

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


@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_read_off(name: str) -> None:
    """Names and shapes determine the model; every array is read."""
    model, variables = biva.deep_vae(of_biva(MODELS[name]), (8, 8))
    assert model == MODELS[name]
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, template_of(model))


def test_layouts() -> None:
    """Convolutions, transposed ones, and linear layers from and to flattened maps have their axes in our order."""
    arrays = of_biva(MODELS["vectors"])
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
    """Arguments give strides other than 2, padding, dropout, activations and another likelihood."""
    model, _ = biva.deep_vae(
        of_biva(BIVA((10, 10, 1), (Stage(2, ((4, 3, 3),)),), pad=1)),
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
    """A plain weight becomes the direction, and its norm the gain."""
    arrays = of_biva(MODELS["one_stage"])
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
    arrays = of_biva(MODELS["vae"])
    more = {
        "stages.1.stochastic.prior": np.zeros(4),
        "stages.1.q_proj.linear.linear.weight_v": np.ones((16, 2)),
        "stages.1.q_proj.linear.linear.weight_g": np.ones((16, 1)),
        "stages.1.q_proj.linear.linear.bias": np.ones(16),
        "stages.1.q_proj.linear.initialized": np.array(True),
    }
    assert biva.deep_vae(arrays | more, (8, 8))[0] == MODELS["vae"]


def test_a_prior_that_is_not_learned_tells_the_size() -> None:
    """For latents that are maps, no other array depends on strides above 2, padding or the image size."""
    arrays = of_biva(MODELS["maps"].clone(learn_top_prior=False))
    prior = {"stages.1.stochastic.prior": np.zeros((4, 2, 2), np.float32)}
    assert biva.deep_vae(arrays | prior, (8, 8))[0] == MODELS["maps"].clone(learn_top_prior=False)
    strided, _ = biva.deep_vae(arrays | prior, (16, 16), strides=((4,), (1, 2)))
    assert strided.stages[1].blocks[0][2] == 4
    for wrong in ({"image": (16, 16)}, {"image": (8, 8), "pad": 4}):
        with pytest.raises(ValueError, match=r"prior is \(4, 2, 2\), but with image=.*strides=\[\[2\], \[1, 2\]\]"):
            biva.deep_vae(arrays | prior, **wrong)


def test_what_holds_a_state_dict() -> None:
    """The error says which part of a checkpoint to take."""
    arrays = of_biva(MODELS["vae"])
    with pytest.raises(ValueError, match="take one of its 'model_state_dict'"):
        biva.deep_vae({"epoch": 3, "model_state_dict": arrays}, (8, 8))
    with pytest.raises(ValueError, match=r'begin with "module\."'):
        biva.deep_vae({f"module.{name}": value for name, value in arrays.items()}, (8, 8))


def test_everything_that_does_not_fit_is_named() -> None:
    """One error names all arrays that are missing, not expected or of another shape."""
    arrays = of_biva(MODELS["vectors"])
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
    """Errors say what was given, what is allowed and what to do."""
    with pytest.raises(ValueError) as error:  # noqa: PT011
        biva.deep_vae(of_biva(MODELS["vectors"]) | change, **({"image": (8, 8)} | settings))
    assert all(part in str(error.value) for part in said), error.value


# the large ones take half a minute to trace
SLOW = {name: pytest.mark.slow for name in biva.PRESETS if name != "mnist"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in biva.PRESETS])
def test_presets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of each published configuration is read as its preset."""
    monkeypatch.setattr(biva, "to_variables", lambda *_: {})  # up to 103 million numbers
    preset = biva.PRESETS[name]
    arrays = {f"module.{key}": value for key, value in of_biva(preset.model(), real=False).items()}
    assert biva.read(arrays, preset)[0] == preset.model()


def test_a_preset_and_options() -> None:
    """Options replace what weights do not determine; a file of another configuration than the preset's is an error."""
    arrays, preset = of_biva(MODELS["maps"]), Preset(lambda: MODELS["maps"], "small", None)
    assert biva.read(arrays, preset)[0] == MODELS["maps"]
    options = biva.BIVAOptions(log_var_act="tanh", nonlinearity="relu", q_dropout=0.1)
    found, _ = biva.read(arrays, preset, options)
    assert (found.head, found.activation, found.q_dropout) == (ScaleHead("tanh_log_var"), jax.nn.relu, 0.1)
    options = biva.BIVAOptions(image=(16, 16), strides=("4,2", "1"))
    with pytest.raises(ValueError, match="stage 0 of the state dict has 1 blocks"):
        biva.read(arrays, preset, options)
    with pytest.raises(ValueError, match=r"--strides 1,x: one word for each stage"):
        biva.read(arrays, preset, biva.BIVAOptions(strides=("1,x",)))
    with pytest.raises(ValueError, match=r"merge_kernel is 3, not 5.*Without --preset") as error:
        biva.read(of_biva(MODELS["maps"].clone(merge_kernel=3, conditional_bu=False)), preset)
    assert "conditional_bu is False, not True" in str(error.value)
    with pytest.raises(ValueError, match="it is a GatedLadderVAE, not a BIVA"):
        biva.read(of_biva(MODELS["ladder"]), preset)


def test_without_a_preset() -> None:
    """Without a preset only the size of x has to be given."""
    arrays = of_biva(MODELS["ladder"])
    assert biva.read(arrays, None, biva.BIVAOptions(image=(8, 8)))[0] == MODELS["ladder"]
    with pytest.raises(ValueError, match="give --image HEIGHT WIDTH, or --preset"):
        biva.read(arrays, None)


def test_another_code_altogether() -> None:
    """The error names an array that should be there."""
    with pytest.raises(ValueError, match=r"stages\.0\.q_convs"):
        biva.deep_vae({"weight": np.zeros(3)}, (8, 8))
