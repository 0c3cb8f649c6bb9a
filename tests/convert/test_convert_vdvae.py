"""State dicts of VDVAE's and Efficient-VDVAE's codes: what is read off, and what is said where they do not fit.

That the numbers agree is proved by tests/x64/test_golden_vdvae.py and test_golden_efficient_vdvae.py.
"""

import jax
import numpy as np
import pytest
from support.state_dicts import DEC, EFFICIENT, ENC, MODEL, arrays, nested, of_efficient, of_vdvae

from hvae_jax import models
from hvae_jax.convert import efficient_vdvae as efficient
from hvae_jax.convert import vdvae as deep
from hvae_jax.convert.efficient_trees import TREES, entries
from hvae_jax.likelihoods import Bernoulli, LogisticMixture, Quantised
from hvae_jax.models import Down, EfficientVDVAE, Up, down_stages, up_stages
from hvae_jax.networks.scale_head import ScaleHead


@pytest.mark.slow
def test_vdvae_is_read_off() -> None:
    """Widths, latents, biases and mixture are read off; block strings are given. Names may begin with "module."."""
    given = of_vdvae(MODEL)
    model, variables = deep.vdvae({f"module.{name}": value for name, value in given.items()}, ENC, DEC, 8)
    assert model == MODEL
    ours = variables["params"]["up4"]["bottleneck_0"]["conv_1"]["kernel"]
    assert ours.shape == (3, 3, 3, 3, 3)
    np.testing.assert_array_equal(ours[1], given["encoder.enc_blocks.3.c2.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(variables["params"]["bias4"], given["decoder.bias_xs.1"][0].transpose(1, 2, 0))
    jax.tree.map(np.testing.assert_array_equal, deep.variables_of(given, MODEL), variables)


@pytest.mark.slow
def test_first_maps_that_are_missing() -> None:
    """A hole in the numbering is an error; missing last maps are one only if `no_bias_above` is given."""
    given = of_vdvae(MODEL)
    count = sum(name.startswith("decoder.bias_xs") for name in given)
    with pytest.raises(ValueError, match=r"not whole: decoder.bias_xs.0 missing"):
        deep.vdvae({name: value for name, value in given.items() if name != "decoder.bias_xs.0"}, ENC, DEC, 8)
    last = {name: value for name, value in given.items() if name != f"decoder.bias_xs.{count - 1}"}
    assert deep.vdvae(last, ENC, DEC, 8)[0].no_bias_above == 1
    with pytest.raises(ValueError, match=rf"issing: decoder.bias_xs.{count - 1} "):
        deep.vdvae(last, ENC, DEC, 8, no_bias_above=4)


def test_blocks_that_are_missing() -> None:
    """Missing blocks are all named, before others are read."""
    given = of_vdvae(MODEL)
    holes = ("decoder.dec_blocks.1.", "encoder.enc_blocks.2.")
    with pytest.raises(ValueError, match=r"not whole: encoder.enc_blocks.2, decoder.dec_blocks.1 missing"):
        deep.vdvae({name: value for name, value in given.items() if not name.startswith(holes)}, ENC, DEC, 8)
    for tree, hole in (("torch", "top_down.levels_down_upsample.0"), ("jax", "top_down.block_down_level_0_upsample")):
        some = {n: v for n, v in of_efficient("colour", tree).items() if not n.startswith(f"{hole}.")}
        with pytest.raises(ValueError, match=f"not whole: {hole} missing"):
            efficient.efficient_vdvae(some)


def test_taps_of_other_widths() -> None:
    """Levels that differ in their taps alone are stages of their own."""
    ups = (Up(4, 1, 8, skip=8), Up(4, 1, 8, skip=9))
    downs = (Down(4, 2, 8, latents=2, shared=False),)
    with pytest.raises(ValueError, match=r"stage 0, 2 blocks at side 4, reads taps of \[9, 8\]"):
        EfficientVDVAE(image=(4, 4, 1), ups=ups, downs=downs, likelihood=Bernoulli(), pad=0)
    split = tuple(Down(4, 1, 8, latents=2) for _ in range(2))
    model = EfficientVDVAE(
        image=(4, 4, 1),
        ups=ups,
        downs=split,
        likelihood=Bernoulli(),
        pad=0,
        head=ScaleHead("softplus_std", efficient.BETA),
    )
    for tree in TREES:
        given = arrays(model, entries(model, TREES[tree]({})))
        assert efficient.efficient_vdvae(given, pad=0)[0] == model


def test_vdvae_of_five_bits() -> None:
    """The likelihood is an argument, and x has 8 bits."""
    family = Quantised(LogisticMixture(2, 32, form="vdvae_5_bits"), 8)
    assert deep.vdvae(of_vdvae(MODEL), ENC, DEC, 8, likelihood=family)[0].likelihood == family


@pytest.mark.slow
def test_ffhq1024_has_two_blocks_fewer() -> None:
    """The published file has bottom-up blocks 0 to 67: the error names the two others of its settings."""
    model = models.vdvae_ffhq1024()
    given = of_vdvae(model, real=False)
    fewer = {
        name: value
        for name, value in given.items()
        if not name.startswith(("encoder.enc_blocks.68", "encoder.enc_blocks.69"))
    }
    with pytest.raises(ValueError, match="has 68 blocks") as error:
        deep.variables_of(fewer, model)
    said = str(error.value)
    assert "the configuration 70 (2 at 1024, 4 at 512" in said
    assert "encoder.enc_blocks.68, encoder.enc_blocks.69 missing" in said


@pytest.mark.slow
def test_another_preset() -> None:
    """The error names blocks of another width or kernel, and arrays missing, not expected or of another shape."""
    given = of_vdvae(MODEL)
    wide = MODEL.clone(ups=up_stages(ENC, 8, "4:16,1:16"), downs=down_stages(DEC, 8, "4:16,1:16", latents=3))
    with pytest.raises(ValueError, match=r"enc_blocks.2, .*blocks.4 have width 12 .* has 16 and 3x3.*bias_xs.1"):
        deep.variables_of(given, wide)
    with pytest.raises(ValueError, match=r"it has 4 blocks decoder.dec_blocks.*configuration 5 .*dec_blocks.4 missing"):
        deep.vdvae({k: v for k, v in given.items() if not k.startswith("decoder.dec_blocks.4")}, ENC, DEC, 8)
    with pytest.raises(ValueError, match=r"enc_blocks.4 has width 12 and 3x3 kernels, .* at side 2, has 12 and 1x1"):
        deep.vdvae(given, "8x1,8d2,4x1,4d2,2d2,1x1", DEC, 8)
    odd = given | {"decoder.gain": np.zeros(8), "extra": np.zeros(1)}
    del odd["encoder.in_conv.bias"]
    with pytest.raises(ValueError, match="Is it of this code") as error:
        deep.vdvae(odd, ENC, DEC, 8)
    for said in ("issing: encoder.in_conv.bias (8,)", "not expected: extra", "decoder.gain is (8,), not (1, 8, 1, 1)"):
        assert said in str(error.value)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("name", EFFICIENT)
def test_efficient_vdvae_is_read_off(name: str, tree: str) -> None:
    """All that weights determine is read off, from either tree."""
    model, variables = efficient.efficient_vdvae(of_efficient(name, tree))
    assert model == EFFICIENT[name]
    assert len(jax.tree.leaves(variables)) == len({e.path for _, e in entries(model, TREES[tree]({}))})


@pytest.mark.slow
def test_the_jax_tree_orders_its_mixture_by_number() -> None:
    """It is [3 M, C] after the logits, ours [C, 3 M]; names are nested, begin with "params", or have slashes."""
    given = of_efficient("colour", "jax")
    kernel = given["top_down.output_conv.conv.kernel"]
    ours = efficient.efficient_vdvae({"params": nested(given)})[1]["params"]["readout"]["kernel"]
    np.testing.assert_array_equal(ours[..., :2], kernel[..., :2])
    rest = kernel[..., 2:].reshape(3, 3, 5, 6, 3).swapaxes(-1, -2)
    np.testing.assert_array_equal(ours[..., 2:], rest.reshape(3, 3, 5, 18))
    slashes = {name.replace(".", "/"): value for name, value in given.items()}
    np.testing.assert_array_equal(efficient.efficient_vdvae(slashes)[1]["params"]["readout"]["kernel"], ours)


def test_what_no_weight_tells() -> None:
    """Arguments give bases, betas, the residual posterior, bits and the bound of the scales."""
    model, _ = efficient.efficient_vdvae(
        of_efficient("colour", "torch"),
        distribution_base="logstd",
        gradient_smoothing_beta=1.0,
        use_residual_distribution=True,
        output_distribution_base="logstd",
        min_mol_logscale=-14.0,
        num_bits=5.0,  # as its settings write it
    )
    assert (model.head, model.residual_posterior) == (ScaleHead("log_std", 1.0), True)
    assert model.likelihood == LogisticMixture(
        2, 32, 3, -14.0, "efficient_vdvae_5_bits", ScaleHead("log_std", efficient.BETA)
    )


@pytest.mark.slow
def test_efficient_vdvae_refused() -> None:
    """Errors name arrays missing, not expected or of another shape; unknown settings; and another code."""
    given = of_efficient("shared", "torch")
    odd = given | {"top_down.output_conv.bias": given["top_down.output_conv.bias"][:20].copy(), "more": np.zeros(1)}
    del odd["top_down.levels_down.0.1.z_projection.weight"]
    odd["top_down.levels_down.0.0.z_projection.bias"] = np.zeros(3)
    with pytest.raises(ValueError, match="Is it of this code") as error:
        efficient.efficient_vdvae(odd)
    for said in (
        "levels_down.0.1.z_projection.weight (8, 3, 1, 1)",
        "expected: more",
        "projection.bias is (3,), not (8,)",
    ):
        assert said in str(error.value)
    first = "bottom_up.levels_up_downsample.0.residual_block.0.convs.1.weight"
    wide = given | {first: np.zeros((*given[first].shape[:2], 3, 3))}
    with pytest.raises(ValueError, match=r"in between, and first kernels of 3x3, where .* and first kernels of 1x1"):
        efficient.variables_of(wide, EFFICIENT["shared"])
    with pytest.raises(ValueError, match="num_bits=4"):
        efficient.efficient_vdvae(given, num_bits=4)
    with pytest.raises(ValueError, match="distribution_base='var'"):
        efficient.efficient_vdvae(given, distribution_base="var")
    with pytest.raises(ValueError, match=r"should have top_down\.output_conv\.bias"):
        efficient.efficient_vdvae({"weight": np.zeros(3)})
