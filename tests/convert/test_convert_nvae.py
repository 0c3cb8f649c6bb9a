"""State dicts of NVAE: every configuration is read off, and what does not fit is named.

That the numbers agree is shown in tests/x64/test_golden_nvae.py.
"""

from typing import Any

import numpy as np
import pytest
from support.state_dicts import of_nvae

from hvae_jax.convert import nvae
from hvae_jax.likelihoods import Bernoulli, LogisticMixture
from hvae_jax.models import NVAE
from hvae_jax.runtime.trees import leaves_by_path

MODEL = NVAE(
    (16, 16, 3),
    groups=(1, 2),
    latents=2,
    width=4,
    pre_cells=2,
    post_cells=2,
    up_cells=1,
    down_cells=2,
    likelihood=LogisticMixture(2, form="nvae"),
    published=True,
)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"flows": 2},
        {"squeeze": False, "groups": (3,)},
        {"image": (12, 12, 1), "pad": 2, "halvings": 2, "likelihood": Bernoulli()},
        {"groups": (1, 1, 2), "up_cells": 2, "down_cells": 1},
        {"groups": (2, 2), "likelihood": LogisticMixture(2, values=32, form="nvae")},
    ],
    ids=["plain", "flows", "one_resolution", "grey", "three", "five_bits"],
)
def test_the_configuration_is_read_off(settings: dict[str, Any]) -> None:
    model = MODEL.clone(**settings)
    bits = 5 if settings.get("likelihood") == LogisticMixture(2, values=32, form="nvae") else 8
    assert nvae.structure(of_nvae(model, real=False), bits=bits) == model


def test_every_array_has_its_place() -> None:
    """Arrays of a run are stacked in the order of the groups, flows in the order of their steps."""
    model = MODEL.clone(flows=1)
    state_dict = {f"module.{name}": value for name, value in of_nvae(model).items()}
    found, variables = nvae.read(state_dict, None)
    assert found == model
    leaves = leaves_by_path(variables)
    for name, path, at in (
        ("dec_sampler.1.1.bias", "params/down8/prior/bias", 1),
        ("enc_tower.1.conv.bias", "params/down8/meet/bias", 1),  # the first tap is read last
        ("nf_cells.2.1.out.bias", "params/down8/flow/step_1/out_bias", 1),
    ):
        np.testing.assert_array_equal(leaves[path][at], state_dict[f"module.{name}"])


def test_files_that_do_not_fit() -> None:
    """The error names the arrays, the order of the cells, or the settings that differ from a preset's."""
    whole = of_nvae(MODEL, real=False)
    without = {name: value for name, value in whole.items() if not name.startswith("enc_sampler.1.")}
    with pytest.raises(ValueError, match=r"[Mm]issing: enc_sampler\.1\.weight"):
        nvae.read(without, None)
    swapped = {name.replace("enc_tower.1.", "enc_tower.9."): value for name, value in whole.items()}
    with pytest.raises(ValueError, match=r"enc_tower\.\* come in the order"):
        nvae.read(swapped, None)
    with pytest.raises(ValueError, match=r"another configuration than the preset: .*groups is \(1, 2\), not \(30,\)"):
        nvae.read(whole, nvae.PRESETS["cifar10"])
    single = {name: value for name, value in whole.items() if name != "prior_ftr0"}
    with pytest.raises(ValueError, match="no prior_ftr0"):
        nvae.read(single, None)
