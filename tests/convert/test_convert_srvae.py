"""State dicts of ioangatop/srVAE: the configuration is read off, and what does not fit is named.

That the numbers agree is shown in tests/x64/test_golden_srvae.py.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from support.state_dicts import of_srvae
from support.tiers import tiers

from hvae_jax.convert import srvae
from hvae_jax.convert.converter import Preset
from hvae_jax.convert.state_dict import MisfitError, template_of
from hvae_jax.likelihoods import LogisticMixture
from hvae_jax.models import (
    BilinearHalf,
    DenselyConnectedNetworks,
    MixturePrior,
    NormalPrior,
    RealNVPPrior,
    SelfSupervisedVAE,
    srvae_cifar10,
)

SIZES = DenselyConnectedNetworks((2, 1), (4, 2), (1, 2), (2, 2), (1, 1), (3, 1), (4, 1), (1, 2), blocks=2)
PLAIN = SelfSupervisedVAE(
    image=(32, 32, 3),
    reductions=(BilinearHalf(),),
    latents=(1, 2),
    networks=SIZES,
    posterior_sees_y=False,
    likelihood=LogisticMixture(2, form="srvae"),
    scale=255.0,
)
MIXTURE = PLAIN.clone(top_prior=MixturePrior(3, spread=0.001, clamp=None))


@pytest.mark.parametrize(
    "prior",
    tiers([MIXTURE.top_prior, NormalPrior(), RealNVPPrior(2, 2, 1), RealNVPPrior(3, 1, 2)], quick=0, slow=4),
    ids=str,
)
def test_the_configuration_is_read_off(prior: Any) -> None:
    """Names and shapes determine every size and the prior; every array is read."""
    model = PLAIN.clone(top_prior=prior)
    arrays = of_srvae(model)
    found, variables = srvae.srvae(arrays)
    assert found == model
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, template_of(model))
    assert set(srvae.CONVERTER.names(arrays, model)) == set(arrays)


def test_layouts() -> None:
    """Kernels, gains of transposed convolutions, the attention, the outputs and the mixture, in our order."""
    arrays = of_srvae(MIXTURE)
    params = srvae.srvae(arrays)[1]["params"]
    conv = arrays["q_z.core_nn.0.core_nn.1.core_nn.0.conv.weight_v"]
    np.testing.assert_array_equal(params["q_z"]["encoder"]["down_0"]["kernel"], conv.transpose(2, 3, 1, 0))
    up = "p_x.z_nn.0.core_nn.1.core_nn.0.conv.weight_"
    np.testing.assert_array_equal(params["p_x"]["of_z"]["up_0"]["kernel"], arrays[f"{up}v"].transpose(2, 3, 0, 1))
    np.testing.assert_array_equal(params["p_x"]["of_z"]["up_0"]["gain"], arrays[f"{up}g"].ravel())
    attention = arrays["q_u.core_nn.0.core_nn.0.core_nn.2.ca_block.1.conv.weight_v"]
    np.testing.assert_array_equal(params["q_u"]["dense_0"]["attention"]["expand"]["kernel"], attention[..., 0, 0].T)
    bias = arrays["p_y.core_nn.0.core_nn.2.conv.bias"]
    # two components of three colours: logits, and then for red its means, log scales and coefficients
    red = [2 + part * 6 + component * 3 for part in range(3) for component in range(2)]
    np.testing.assert_array_equal(params["p_y"]["last"]["bias"][:8], bias[[0, 1, *red]])
    z_pre = arrays["p_u.z_pre"][0].reshape(6, 1, 8, 8)
    np.testing.assert_array_equal(params["top_prior_mean"][2, ..., 0], z_pre[2, 0])
    variance = np.exp(np.asarray(params["top_prior_log_var"][1, ..., 0], np.float64))
    np.testing.assert_allclose(variance, np.log1p(np.exp(z_pre[4, 0].astype(np.float64))) + 1e-8, rtol=1e-5)


def test_signs_of_couplings() -> None:
    """A gain of a single number has the sign of its direction."""
    arrays = of_srvae(PLAIN.clone(top_prior=RealNVPPrior(1, 1, 1)))
    name = "p_u.flows.in_couplings.1.rescale.weight_"
    arrays[f"{name}v"] = -2.0 * arrays[f"{name}v"]
    gain = srvae.srvae(arrays)[1]["params"]["top_prior"]["in_1"]["gain"]
    np.testing.assert_array_equal(gain, -arrays[f"{name}g"].ravel())


def test_presets() -> None:
    """A file of the published configuration is read as its preset; another one is refused, with what differs."""
    small = Preset(lambda: MIXTURE.clone(top_prior=MixturePrior(3, spread=0.1, clamp=None)), "small", None)
    assert srvae.read(of_srvae(MIXTURE), small)[0] == MIXTURE
    with pytest.raises(MisfitError, match=r"top_prior is NormalPrior\(\), not MixturePrior"):
        srvae.read(of_srvae(PLAIN), small)
    assert srvae.PRESETS["cifar10"].model() == srvae_cifar10()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda arrays: arrays.pop("p_z.core_nn.0.core_nn.0.core_nn.0.dense_block.0.conv.bias"),
            "Missing: p_z.core_nn",
        ),
        (lambda arrays: arrays.update({"extra.weight": np.zeros(3)}), r"Not expected: extra\.weight"),
        (
            lambda arrays: arrays.update({"p_u.z_pre": np.zeros((1, 6, 5))}),
            r"z_pre is \(1, 6, 5\), not \(1, 6, 64\)",
        ),
        (lambda arrays: arrays.pop("q_u.core_nn.0.core_nn.0.core_nn.0.dense_block.1.conv.bias"), "should have q_u"),
    ],
    ids=["missing", "more", "mixture", "size"],
)
def test_what_does_not_fit(change: Any, said: str) -> None:
    """Every kind of misfit names the array."""
    arrays = of_srvae(MIXTURE)
    change(arrays)
    with pytest.raises(MisfitError, match=said):
        srvae.srvae(arrays)


def test_options_are_none() -> None:
    """Weights determine everything."""
    assert dataclasses.fields(srvae.SrVAEOptions) == ()
