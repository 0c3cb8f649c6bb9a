"""State dicts of addtt/ladder-vae-pytorch: every configuration is read off, and what does not fit is named.

That the numbers agree is shown in tests/x64/test_golden_ladder.py.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.golden_weights import recorded
from support.state_dicts import of_addtt

from hvae_jax.convert import addtt
from hvae_jax.convert.converter import Preset
from hvae_jax.likelihoods import Bernoulli, DiscretisedLogistic, Gaussian, LogisticMixture
from hvae_jax.models import ConvLadderVAE
from hvae_jax.networks.activations import leaky_relu
from hvae_jax.networks.residual import BlockStyle

BLOCK = BlockStyle(dropout=0.2)
PLAIN = ConvLadderVAE(
    image=(12, 8, 1),
    latents=(2, 3, 2),
    downsample=(1, 0, 1),
    channels=4,
    blocks=1,
    block=BLOCK,
    clamp=None,
    likelihood=Bernoulli(form="of_p"),
)


@functools.cache
def published() -> dict[str, np.ndarray]:
    """The recorded state dict."""
    return recorded("ladder_addtt_tiny", "param/") | recorded("ladder_addtt_tiny", "buffer/")


def with_block(**settings: Any) -> ConvLadderVAE:
    """PLAIN with blocks of other settings."""
    return PLAIN.clone(block=dataclasses.replace(BLOCK, **settings))


@pytest.mark.parametrize(
    ("model", "drops", "form", "nonlin"),
    [
        (PLAIN, True, "bernoulli", "elu"),
        (PLAIN.clone(skip=False, learn_top_prior=False), True, "bernoulli", "elu"),
        (PLAIN.clone(merge="concat_linear", halve_first=False, image=(12, 8, 3)), True, "bernoulli", "elu"),
        (PLAIN.clone(latents=(3,), downsample=(1,), skip=False), True, "bernoulli", "elu"),
        (with_block(order="bacdbac"), True, "bernoulli", "elu"),
        (with_block(order="bacdbac", dropout=0.0), False, "bernoulli", "elu"),
        (with_block(order="cabdcabd", gated=False), True, "bernoulli", "elu"),
        (with_block(order="cabdcabd", dropout=0.0, normalise=False), False, "bernoulli", "elu"),
        (with_block(normalise=False, activation=leaky_relu), True, "bernoulli", "leakyrelu"),
        (PLAIN.clone(likelihood=Gaussian(bound=None), image=(8, 8, 3)), True, "gaussian", "elu"),
        *(
            (
                PLAIN.clone(likelihood=LogisticMixture(m, form="published"), image=(8, 8, 3), scale=255.0),
                True,
                "mix",
                "elu",
            )
            for m in (10, 3)
        ),
    ],
)
def test_the_configuration_is_read_off(model: ConvLadderVAE, drops: bool, form: str, nonlin: str) -> None:
    """Names and shapes of a configuration give that configuration again."""
    form = "discr_log_mix" if form == "mix" else form
    arrays = of_addtt(model, drops)
    got, variables = addtt.ladder_vae(arrays, model.image[:2], form, nonlin)
    assert got == model
    kernel = arrays["top_down_layers.0.stochastic.conv_out.weight"]
    np.testing.assert_array_equal(variables["params"]["z1"]["kernel"], kernel.transpose(2, 3, 1, 0))
    kernel = arrays["top_down_layers.0.deterministic_block.0.pre_conv.weight"]
    np.testing.assert_array_equal(variables["params"]["down1"]["up_0"]["kernel"], kernel.transpose(2, 3, 0, 1))


def test_a_gaussian_is_in_our_units() -> None:
    """Theirs gives means of all channels and then log variances, ours a mean and a log standard deviation each."""
    model = PLAIN.clone(likelihood=Gaussian(bound=None), image=(8, 8, 3))
    arrays = of_addtt(model)
    readout = addtt.ladder_vae(arrays, (8, 8), "gaussian")[1]["params"]["readout"]
    weight, bias = (arrays[f"likelihood.parameter_net.{name}"] for name in ("weight", "bias"))
    np.testing.assert_array_equal(readout["bias"][0::2], bias[:3])
    np.testing.assert_array_equal(readout["bias"][1::2], 0.5 * bias[3:])
    np.testing.assert_array_equal(readout["kernel"][..., 3], 0.5 * weight[4].transpose(1, 2, 0))


def test_a_discretised_logistic_is_in_our_units() -> None:
    """The probabilities of all 256 values, from numbers as its network gives them."""
    mean, log_scale = 0.07, -3.4
    family, gains, shifts = addtt._in_our_units("discr_log", 1)
    assert isinstance(family, DiscretisedLogistic)
    numbers = jnp.asarray([[mean, log_scale]]) * jnp.asarray([gains]) + jnp.asarray([shifts])
    x = np.arange(256)
    record = family(jnp.broadcast_to(numbers, (256, 2)))
    edges = (np.arange(1, 256) / 256 - (mean + 0.5)) / np.exp(log_scale - 1.0)
    cumulative = np.concatenate([[0.0], 1 / (1 + np.exp(-edges)), [1.0]])
    expected = np.log(np.diff(cumulative) + 1e-7)
    np.testing.assert_allclose(record.log_prob(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-4)


def test_outputs_that_fit_no_mixture_are_refused() -> None:
    """A width that is no multiple of ten, with the nearest one that is."""
    arrays = of_addtt(PLAIN.clone(likelihood=LogisticMixture(3, form="published"), image=(8, 8, 3)))
    arrays["likelihood.parameter_net.weight"] = np.zeros((34, 4, 3, 3), np.float32)
    with pytest.raises(ValueError, match=r"parameter_net\.weight is \(34, 4, 3, 3\), not \(30, 4, 3, 3\)"):
        addtt.ladder_vae(arrays, (8, 8), "discr_log_mix")


def test_dropout_is_taken_where_there_is_any() -> None:
    """Its rate is an argument; blocks without dropout layers have none."""
    assert addtt.ladder_vae(published(), (28, 28), "bernoulli", dropout=0.3)[0].block.dropout == 0.3
    model = with_block(order="bacdbac", dropout=0.0)
    assert addtt.ladder_vae(of_addtt(model, False), (12, 8), "bernoulli", dropout=0.3)[0].block.dropout == 0.0


def test_a_prior_that_is_not_learned_tells_the_size() -> None:
    """If all latents are maps, no other array depends on the size."""
    arrays = of_addtt(PLAIN.clone(learn_top_prior=False))
    assert not addtt.ladder_vae(arrays, (12, 8), "bernoulli")[0].learn_top_prior
    with pytest.raises(ValueError, match=r"top_prior_params is \(1, 4, 2, 1\), but with image=\(40, 40\)"):
        addtt.ladder_vae(arrays, (40, 40), "bernoulli")


# the large ones take half a minute to trace
SLOW = {name: pytest.mark.slow for name in addtt.PRESETS if name != "mnist_3"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in addtt.PRESETS])
def test_presets(name: str) -> None:
    """A file of each published configuration is read as its preset, with the likelihood of that code."""
    preset = addtt.PRESETS[name]
    model = preset.model()
    if name.startswith("mnist"):
        model = model.clone(likelihood=Bernoulli(form="of_p"))
    assert addtt.read(of_addtt(model, real=False), preset)[0] == model


@pytest.mark.slow
def test_a_preset_and_options() -> None:
    """Options replace what weights do not determine; a file of another configuration than the preset's is an error."""
    arrays, preset = of_addtt(PLAIN), Preset(lambda: PLAIN.clone(likelihood=Bernoulli()), "small", None)
    assert addtt.read({f"module.{name}": value for name, value in arrays.items()}, preset)[0] == PLAIN
    found, _ = addtt.read(arrays, preset, addtt.AddttOptions(nonlin="selu", dropout=0.1))
    assert (found.block.activation, found.block.dropout) == (jax.nn.selu, 0.1)
    with pytest.raises(ValueError, match=r"skip is False, not True.*Without --preset"):
        addtt.read(of_addtt(PLAIN.clone(skip=False)), preset)
    with pytest.raises(ValueError, match=r"parameter_net\.weight is \(1, 4, 3, 3\), not \(2, 4, 3, 3\)"):
        addtt.read(arrays, preset, addtt.AddttOptions(likelihood="gaussian"))


def test_without_a_preset() -> None:
    """Size of x and likelihood have to be given."""
    arrays = of_addtt(PLAIN)
    assert addtt.read(arrays, None, addtt.AddttOptions(image=(12, 8), likelihood="bernoulli"))[0] == PLAIN
    with pytest.raises(ValueError, match="give --image HEIGHT WIDTH and --likelihood, or --preset"):
        addtt.read(arrays, None, addtt.AddttOptions(image=(12, 8)))


def without(name: str) -> Callable[[dict], dict]:
    return lambda arrays: {key: value for key, value in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("bottom_up_layers.1.net.0.pre_conv.bias"),
            r"Missing: bottom_up_layers\.1\.net\.0\.pre_conv\.bias \(8,\)\.",
        ),
        (
            without("top_down_layers.1.merge.layer.1.block.4.running_var"),
            r"Missing: top_down_layers\.1\.merge\.layer\.1\.block\.4\.running_var \(8,\)\.",
        ),
        (lambda arrays: arrays | {"head.weight": np.zeros(3)}, r"Not expected: head\.weight\."),
        (
            lambda arrays: arrays | {"first_bottom_up.0.bias": np.zeros(9)},
            r"Of another shape: first_bottom_up\.0\.bias is \(9,\), not \(8,\)\.",
        ),
        (lambda arrays: {}, "should have first_bottom_up.0.weight with 2 axes or more, but there is none"),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[dict], dict], message: str) -> None:
    """Missing, unexpected and misshapen entries, by their public names; also a state dict of something else."""
    with pytest.raises(ValueError, match=message):
        addtt.ladder_vae(change(published()), (28, 28), "bernoulli")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((28, 28), "categorical"), "likelihood='categorical'.*bernoulli, gaussian, discr_log, discr_log_mix"),
        (((28, 28), "bernoulli", "gelu"), "nonlin='gelu'.*relu, leakyrelu, elu, selu"),
        (((28, 28), "gaussian"), r"likelihood\.parameter_net\.weight is \(1, 8, 3, 3\), not \(2, 8, 3, 3\)"),
        (((40, 28), "bernoulli"), r"top_prior_params is \(1, 8, 2, 2\), not \(1, 8, 3, 2\)"),
    ],
)
def test_arguments_that_do_not_fit(arguments: tuple, message: str) -> None:
    """Unknown names, and arguments that contradict the shapes, are errors."""
    with pytest.raises(ValueError, match=message):
        addtt.ladder_vae(published(), *arguments)


@pytest.mark.slow
def test_it_runs() -> None:
    """In float32, and the model is an ordinary one: a trace, the same from the recorded latents to a few 1e-6."""
    arrays = recorded("ladder_addtt_tiny")
    model, variables = addtt.ladder_vae(published(), (28, 28), "bernoulli")
    assert model.likelihood == Bernoulli(form="of_p")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(variables)} == {"float32"}

    def maps(name: str) -> jax.Array:
        return jnp.asarray(np.moveaxis(arrays[name], 1, -1), jnp.float32)

    latents = tuple(maps(f"layer{i}/z") for i in (2, 1, 0))
    trace = jax.jit(lambda v: model.apply(v, maps("x"), jax.random.key(0), latents=latents))(variables)
    np.testing.assert_allclose(trace.log_px, arrays["log_px"], rtol=1e-5)
    np.testing.assert_allclose(trace.rates, [arrays[f"layer{i}/kl_analytic"] for i in (2, 1, 0)], rtol=1e-4)
