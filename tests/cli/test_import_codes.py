"""`hvae import CODE FILE` for each public code: runs that sample, files of other codes, and help."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.small_weights import Said, small_presets, smallest, what_fails
from support.state_dicts import NVAE_SMALL, of_addtt, of_biva, of_efficient, of_nvae, of_srvae, of_vdvae

from hvae_jax.cli.main import main
from hvae_jax.convert import CONVERTERS, Converter, converter_of
from hvae_jax.experiment.reopen import read_experiment
from hvae_jax.likelihoods import LogisticMixture
from hvae_jax.models import (
    BIVA,
    BilinearHalf,
    ConvLadderVAE,
    DenselyConnectedNetworks,
    SelfSupervisedVAE,
)
from hvae_jax.models.biva import Stage
from hvae_jax.networks.residual import BlockStyle
from hvae_jax.networks.scale_head import ScaleHead

presets = pytest.fixture(autouse=True)(small_presets)
said = pytest.fixture(what_fails)

BIVA_SMALL = BIVA((8, 8, 1), (Stage(2, ((4, 3, 2),)),), head=ScaleHead("softplus_log_var"), clamp=None)
ADDTT_SMALL = ConvLadderVAE(
    image=(8, 8, 3),
    latents=(2,),
    downsample=(1,),
    channels=4,
    blocks=1,
    block=BlockStyle(dropout=0.2),
    skip=False,  # one level has none
    clamp=None,
    scale=255.0,
    likelihood=LogisticMixture(form="published"),
)
SRVAE_SMALL = SelfSupervisedVAE(
    image=(32, 32, 3),
    reductions=(BilinearHalf(),),
    latents=(1, 1),
    networks=DenselyConnectedNetworks.small(1, 1, blocks=1),
    posterior_sees_y=False,
    likelihood=LogisticMixture(1, form="srvae"),
    scale=255.0,
)
PUBLISHED = {converter.code: dict(converter.presets) for converter in CONVERTERS}
# what `hvae import CODE FILE` needs beside the file
FLAGS = {
    "vdvae": ["--preset", "smallest"],
    "efficient_vdvae": ["--preset", "colour"],
    "biva": ["--image", "8", "8", "--data", "binarized_mnist"],
    "addtt": ["--image", "8", "8", "--likelihood", "discr_log_mix", "--data", "cifar10"],
    "nvae": ["--data", "cifar10"],
    "srvae": ["--data", "cifar10"],
}
FOLDERS = {
    "vdvae": "vdvae_smallest",
    "efficient_vdvae": "efficient_vdvae_colour",
    "biva": "biva",
    "addtt": "addtt",
    "nvae": "nvae",
    "srvae": "srvae",
}


@functools.cache
def weights(code: str) -> dict[str, np.ndarray]:
    """Small random weights of a code."""
    made = {
        "vdvae": lambda: of_vdvae(smallest()),
        "efficient_vdvae": lambda: of_efficient("colour", "jax"),
        "biva": lambda: of_biva(BIVA_SMALL),
        "addtt": lambda: of_addtt(ADDTT_SMALL),
        "nvae": lambda: of_nvae(NVAE_SMALL),
        "srvae": lambda: of_srvae(SRVAE_SMALL),
    }[code]()
    scaled = {name: value / 8 if value.dtype == np.float32 else value for name, value in made.items()}
    # a variance has to be positive
    return {name: np.abs(value) if name.endswith("running_var") else value for name, value in scaled.items()}


@pytest.mark.slow
@pytest.mark.parametrize("code", FLAGS)
def test_a_file_becomes_a_run_that_samples(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An imported .npz gives samples; the import prints what weights do not determine."""
    np.savez("w.npz", **weights(code))
    main(["import", code, "w.npz", *FLAGS[code]])
    printed = capsys.readouterr().out
    run = Path("runs", FOLDERS[code])
    assert f"{run}: " in printed and "what no weight tells: " in printed and "Nothing has been measured" in printed
    main(["sample", str(run), "--n", "2", "--out", "x.npz"])
    assert np.load("x.npz")["x"].shape == (2, *read_experiment(run).model.image)


@pytest.mark.slow
def test_recalibrated_samples(said: Said) -> None:
    """Batch statistics are moved for the samples alone; a model without them says so."""
    np.savez("w.npz", **weights("nvae"))
    main(["import", "nvae", "w.npz", *FLAGS["nvae"]])
    main(["sample", "runs/nvae", "--n", "2", "--out", "plain.npz"])
    main(["sample", "runs/nvae", "--n", "2", "--out", "moved.npz", "--recalibrate", "3"])
    assert not np.array_equal(np.load("plain.npz")["x"], np.load("moved.npz")["x"])
    np.savez("w.npz", **weights("biva"))
    main(["import", "biva", "w.npz", *FLAGS["biva"]])
    assert "BIVA keeps no batch statistics" in said("sample", "runs/biva", "--recalibrate", "3")


def test_what_the_folder_says() -> None:
    """Without a preset the configuration is read off; options and what weights do not determine are recorded."""
    np.savez("w.npz", **weights("biva"))
    main(
        [
            "import",
            "biva",
            "w.npz",
            *FLAGS["biva"],
            "--q-dropout",
            "0.1",
            "--log-var-act",
            "none",
            "--binarise",
            "static",
        ]
    )
    experiment = read_experiment(Path("runs/biva"))
    assert experiment.model == BIVA_SMALL.clone(q_dropout=0.1, head=ScaleHead("log_var"))
    assert (experiment.data.name, experiment.data.binarise) == ("binarized_mnist", "static")
    source = json.loads(Path("runs/biva/result.json").read_text())["imported"]
    assert source["code"] == "biva" and "preset" not in source
    assert source["options"] == {"image": "8x8", "q_dropout": 0.1, "log_var_act": "none"}
    expected = {"image": "8x8x1", "pad": 0, "activation": "elu", "q_dropout": 0.1, "p_dropout": 0.5}
    assert source["model"].items() >= expected.items()
    np.savez("w.npz", **weights("addtt"))
    main(["import", "addtt", "w.npz", *FLAGS["addtt"]])
    assert read_experiment(Path("runs/addtt")).model == ADDTT_SMALL
    source = json.loads(Path("runs/addtt/result.json").read_text())["imported"]
    assert source["model"] == {"image": "8x8x3", "block.activation": "elu", "block.dropout": 0.2}


@pytest.mark.parametrize("code", FLAGS)
def test_a_file_of_another_code(code: str, said: Said) -> None:
    """Every command but its own says which code the file looks like, and which command takes it."""
    assert converter_of(weights(code)).code == code
    np.savez("w.npz", **{f"module.{name}": value for name, value in weights(code).items()})
    for other in FLAGS:
        if other != code:
            error = said("import", other, "w.npz", *FLAGS[other])
            assert (
                f"w.npz holds no weights of {other}. It looks like weights of {code}: `hvae import {code} w.npz`"
                in error
            )
    error = said("import", "hvae_jax", "w.npz")
    assert "not written by `hvae export`" in error and f"`hvae import {code} w.npz` takes it" in error
    assert not Path("runs").exists()


@pytest.mark.parametrize("code", [*FLAGS, "hvae_jax"])
def test_a_file_of_no_code(code: str, said: Said) -> None:
    """The error says what the file holds, and which codes are known."""
    np.savez("w.npz", a=np.zeros(3), b=np.zeros((4, 5)), c=np.zeros(1), d=np.zeros(1), e=np.zeros(1))
    error = said("import", code, "w.npz", *FLAGS.get(code, []))
    assert "the arrays a (3,), b (4, 5), c (1,), d (1,) and 1 more" in error
    assert "vdvae, efficient_vdvae, biva, addtt, nvae, srvae" in error


def test_an_exported_file_under_the_name_of_a_code(said: Said) -> None:
    """Its metadata shows that `hvae export` wrote it."""
    save_file({"params/a": np.zeros(1)}, "mine.safetensors", {"hvae_jax": "0", "settings": "{}"})
    error = said("import", "vdvae", "mine.safetensors", "--preset", "tiny")
    assert "`hvae import hvae_jax mine.safetensors` takes it" in error


@pytest.mark.parametrize("converter", CONVERTERS, ids=lambda converter: converter.code)
def test_help_names_the_presets(converter: Converter, capsys: pytest.CaptureFixture[str]) -> None:
    """Help describes each preset, and has the options of this code alone."""
    with pytest.raises(SystemExit):
        main(["import", converter.code, "--help"])
    shown = capsys.readouterr().out
    for name, preset in PUBLISHED[converter.code].items():
        assert any(line.split() == [name, *preset.about.split()] for line in shown.splitlines()), name
    assert ("--enc-blocks" in shown) == (converter.code == "vdvae")
    assert ("--strides" in shown) == (converter.code == "biva")


@pytest.mark.parametrize(
    "arguments",
    [["biva", "w.npz", "--enc-blocks", "1x1"], ["hvae_jax", "w.npz", "--preset", "tiny"], ["unet", "w.npz"], []],
    ids=["option", "own", "code", "none"],
)
def test_arguments_that_do_not_parse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Options of another code and unknown codes do not parse."""
    with pytest.raises(SystemExit) as left:
        main(["import", *arguments])
    assert left.value.code == 2
    assert "vdvae" in capsys.readouterr().err
