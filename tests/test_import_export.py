"""`hvae import` and `hvae export`: files of every kind, what is refused and with which words, and the folders made."""

import dataclasses
import functools
import json
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from golden_weights import recorded
from safetensors.numpy import load_file, save_file
from test_convert_vdvae import EFFICIENT, arrays, nested, of_efficient

import hvae_jax as hv
from hvae_jax import cli, models
from hvae_jax.convert import efficient_vdvae as efficient
from hvae_jax.convert import published as registry
from hvae_jax.convert import vdvae as deep
from hvae_jax.convert.efficient_trees import TREES
from hvae_jax.convert.files import read_arrays
from hvae_jax.convert.published import PRESETS, Preset, as_published, published
from hvae_jax.experiment import Devices, run
from hvae_jax.finished import open_variables, read_experiment
from hvae_jax.likelihoods import Bernoulli, LogisticMixture, Quantised
from hvae_jax.models import VDVAE, down_stages, up_stages
from hvae_jax.models.block_strings import down_string, up_string
from hvae_jax.objectives import Linear
from hvae_jax.training import Adamax, AdamW, Training

ENC, DEC = "8x1,8d2,4x1,4d4,1x1", "1x1,4m1,4x1,8m4,8x1"
Said = Callable[..., str]
pytestmark = pytest.mark.usefixtures("compiled_once")


def tiny() -> VDVAE:
    """The recorded configuration, as presets are."""
    downs = down_stages(DEC, 16, latents=4)
    return VDVAE((8, 8, 3), up_stages(ENC, 16), downs, LogisticMixture(3), standardise=(120.63838, 64.16736))


def smallest() -> VDVAE:
    """Two levels, for what compiles."""
    downs = down_stages("1x1,4m1", 4, latents=1)
    return VDVAE((4, 4, 3), up_stages("4d4,1x1", 4), downs, LogisticMixture(1), standardise=(128.0, 64.0))


@pytest.fixture(autouse=True)
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones, and a folder of its own to work in."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (12, 4, 4, 3)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x_train=x[:8], x_test=x[8:])
    known = {
        "vdvae": {
            "tiny": Preset(tiny, "data.npz"),
            "smallest": Preset(smallest, "data.npz"),
            "faces": Preset(tiny, None),
        },
        "efficient_vdvae": {name: Preset(lambda m=m: m, "data.npz") for name, m in EFFICIENT.items()},
    }
    for code, more in known.items():
        monkeypatch.setitem(registry.PRESETS, code, {**PRESETS[code], **more})  # type: ignore[index]
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """What a command that fails says."""

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        assert left.value.code == 1
        return capsys.readouterr().err

    return run


def golden() -> dict[str, np.ndarray]:
    """The recorded weights, float64."""
    return recorded("vdvae_tiny", "param/")


def weights_of(model: VDVAE) -> dict[str, np.ndarray]:
    """Drawn at random, small."""
    return {name: value / 8 for name, value in arrays(model, deep._entries(model)).items()}


def equal(a: Any, b: Any) -> None:
    """The same trees, bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert one.dtype == other.dtype and np.asarray(one).tobytes() == np.asarray(other).tobytes()


# ---- published weights


def test_an_imported_model_scores_as_the_public_code_did() -> None:
    """From a safetensors file through the folder to the recorded bound; in float32 here, to 1e-9 in tests/x64."""
    save_file(golden(), "weights.safetensors")
    cli.main(["import", "vdvae", "weights.safetensors", "--preset", "tiny"])
    experiment, variables, _ = open_variables(Path("runs/vdvae_tiny"))
    model, expected = deep.vdvae(golden(), ENC, DEC, 8, standardise=(120.63838, 64.16736))
    assert experiment.model == model
    equal(jax.device_get(variables), jax.device_get(expected))
    given = recorded("vdvae_tiny")
    latents = tuple(jnp.asarray(np.moveaxis(given[f"block{i}/z"], 1, -1), jnp.float32) for i in range(5))
    x = jnp.asarray(given["pixels"], jnp.float32)
    trace = jax.jit(lambda v, z: experiment.model.apply(v, x, jax.random.key(0), latents=z))(variables, latents)
    np.testing.assert_allclose(-trace.log_px / 192, given["nll_per_example"], rtol=1e-4)
    np.testing.assert_allclose(-hv.elbo(trace).mean() / 192, given["elbo"], rtol=1e-4)


@pytest.mark.slow
def test_training_goes_on_from_imported_variables() -> None:
    """By another optimiser, which begins; where something was trained it is refused."""
    np.savez("weights.npz", **weights_of(smallest()))
    cli.main(["import", "vdvae", "weights.npz", "--preset", "smallest"])
    folder = Path("runs/vdvae_smallest")
    imported = jax.device_get(open_variables(folder)[1])
    experiment = dataclasses.replace(
        read_experiment(folder),
        optimiser=AdamW(learning_rate=0.0, schedule=Linear(0, 1)),
        devices=Devices(count=1),
        training=Training(batch_size=2, epochs=1, steps=1, ema=0.9),
    )
    run(experiment, folder, resume=True)
    # a step at a rate of 0: what is averaged is the same, up to rounding
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), open_variables(folder)[1], imported)
    again = dataclasses.replace(experiment, optimiser=Adamax(), training=Training(batch_size=2, epochs=1, steps=2))
    with pytest.raises(ValueError, match="this model's variables, but the state of another optimiser"):
        run(again, folder, resume=True)


def test_every_command_takes_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """Show says that nothing was measured; evaluate measures; pictures need no data where the model says its shape."""
    np.savez("weights.npz", **{f"module.{name}": value for name, value in weights_of(smallest()).items()})
    cli.main(["import", "vdvae", "weights.npz", "--preset", "smallest"])
    folder = "runs/vdvae_smallest"
    cli.main(["show", folder])
    shown = capsys.readouterr().out
    assert "weights.npz" in shown and "Nothing has been measured here yet" in shown and "nan" not in shown
    assert "likelihood LogisticMixture(mixtures=1" in shown and "form='published'" in shown
    cli.main(["evaluate", folder, "--draws", "2", "--splits", "test", "--out", "numbers.json"])
    numbers = json.loads(Path("numbers.json").read_text())
    rates = numbers["rates"]["test"]
    assert numbers["rates_by_side"]["test"] == {
        "1x1": pytest.approx(rates["z1.0"]),
        "4x4": pytest.approx(rates["z4.0"]),
    }
    cli.main(["reconstruct", folder, "--n", "2", "--keep-top", "1"])
    cli.main(["export", folder])
    Path("data.npz").unlink()
    cli.main(["sample", folder, "--n", "2"])
    cli.main(["export", folder, "again.safetensors"])
    once, again = read_arrays(Path(folder, "vdvae_smallest.safetensors")), read_arrays(Path("again.safetensors"))
    np.testing.assert_equal(dict(once.arrays), dict(again.arrays))
    assert once.metadata == again.metadata
    result = json.loads(Path(folder, "result.json").read_text())
    assert result["imported"]["sha256"] == read_arrays(Path("weights.npz")).sha256 and "elbo" not in result


def test_what_no_weight_tells(said: Said, capsys: pytest.CaptureFixture[str]) -> None:
    """Is the preset's unless it is said, and is told; mixtures are read off a file of other blocks."""
    np.savez("weights.npz", **of_efficient("colour", "torch"))
    wanted = ["--unsaid.distribution-base", "logstd", "--unsaid.use-residual-distribution", "True"]
    more = ["--unsaid.output-gradient-smoothing-beta", "1.0", "--unsaid.gradient-smoothing-beta", "0.5"]
    cli.main(["import", "efficient_vdvae", "weights.npz", "--preset", "colour", *wanted, *more])
    assert "log_std exp, beta 0.5, residual_posterior True" in capsys.readouterr().out
    model = read_experiment(Path("runs/efficient_vdvae_colour")).model
    assert (model.log_std, model.beta, model.residual_posterior) == ("exp", 0.5, True)
    assert model.likelihood.beta == 1.0
    again = ["import", "efficient_vdvae", "weights.npz", "--preset", "colour", "--overwrite"]
    assert "no_bias_above is not a setting of efficient_vdvae" in said(*again, "--unsaid.no-bias-above", "8")

    other = smallest().clone(likelihood=LogisticMixture(3, form="published"))
    np.savez("other.npz", **weights_of(other))
    blocks = ["--enc-blocks", up_string(other.ups), "--dec-blocks", down_string(other.downs)]
    cli.main(["import", "vdvae", "other.npz", "--preset", "smallest", *blocks])
    assert read_experiment(Path("runs/vdvae_smallest")).model.likelihood == other.likelihood
    fewer = dict(np.load("other.npz"))
    del fewer[max(name for name in fewer if name.startswith("decoder.bias_xs"))]
    np.savez("fewer.npz", **fewer)
    assert "issing: decoder.bias_xs" in said(
        "import", "vdvae", "fewer.npz", "--preset", "smallest", *blocks, "--overwrite"
    )


@pytest.mark.slow
def test_an_imported_folder_is_diagnosed() -> None:
    """The report compiles for a minute."""
    np.savez("weights.npz", **weights_of(smallest()))
    cli.main(["import", "vdvae", "weights.npz", "--preset", "smallest"])
    effort = ("examples", "draws", "k", "latents", "probed")
    cli.main(["diagnose", "runs/vdvae_smallest", *(part for name in effort for part in (f"--effort.{name}", "4"))])
    assert Path("runs/vdvae_smallest/report.html").exists()


def test_presets_as_published() -> None:
    """The likelihoods that were trained and measured, no clamp; x of FFHQ-256 is of 8 bits, of which 5 are scored."""
    for name, preset in PRESETS["vdvae"].items():
        model = as_published(preset.make())
        assert model.clamp is None
        assert isinstance(model.likelihood, Bernoulli) or "form='exact'" not in str(model.likelihood), name
    ffhq = as_published(models.vdvae_ffhq256())
    assert ffhq.likelihood == Quantised(LogisticMixture(values=32, form="vdvae_5_bits"), 8)
    np.testing.assert_allclose(ffhq.standardise, (112.8666757481, 69.84780273), rtol=1e-12)
    for name, preset in PRESETS["efficient_vdvae"].items():
        family = as_published(preset.make()).likelihood
        assert isinstance(family, Bernoulli) or "form='exact'" not in str(family), name
    five = as_published(models.efficient_vdvae_faces256_5_bits("C1"))
    expected = LogisticMixture(10, 32, 3, -14.0, "efficient_vdvae_5_bits", "exp", 1.0)
    assert five.likelihood == expected
    assert as_published(models.efficient_vdvae_faces1024()).beta == 0.4


@pytest.mark.parametrize("code", PRESETS)
def test_block_strings_of_presets(code: str) -> None:
    """They are written as they are read."""
    if code == "vdvae":
        for preset in PRESETS[code].values():
            model = preset.make()
            ups, downs = up_stages(up_string(model.ups), 1), down_stages(down_string(model.downs), 1)
            assert [(s.side, s.blocks, s.pool) for s in ups] == [(s.side, s.blocks, s.pool) for s in model.ups]
            assert [(s.side, s.blocks, s.mixes_in) for s in downs] == [
                (s.side, s.blocks, s.mixes_in) for s in model.downs
            ]


def test_a_file_with_two_blocks_fewer(said: Said) -> None:
    """As the published FFHQ-1024: the blocks are named, and with --enc-blocks it is read all the same."""
    more = smallest().clone(ups=up_stages("4x2,4d4,1x1", 4))
    np.savez("weights.npz", **weights_of(smallest()))
    PRESETS["vdvae"]["more"] = Preset(lambda: more, "data.npz")  # type: ignore[index]
    error = said("import", "vdvae", "weights.npz", "--preset", "more")
    assert "2 blocks encoder.enc_blocks.*, the configuration 4 (3 at 4, 1 at 1)" in error
    assert "encoder.enc_blocks.2, encoder.enc_blocks.3 missing" in error
    assert "--enc-blocks 4x2,4d4,1x1 --dec-blocks 1x1,4m1" in error and not Path("runs").exists()
    cli.main(["import", "vdvae", "weights.npz", "--preset", "more", "--enc-blocks", "4d4,1x1"])
    experiment, _, _ = open_variables(Path("runs/vdvae_more"))
    assert experiment.model == as_published(smallest())


def test_another_preset_names_the_blocks(said: Said) -> None:
    """Of both codes: blocks that are missing or wider, then everything else, one by one."""
    np.savez("weights.npz", **golden())
    error = said("import", "vdvae", "weights.npz", "--preset", "cifar10")
    assert "encoder.enc_blocks.5 to encoder.enc_blocks.32 (28 of them) missing" in error
    assert "decoder.dec_blocks.5 to decoder.dec_blocks.42 (38 of them) missing" in error
    assert "have width 16 and 3x3 kernels" in error and "decoder.gain is (1, 16, 1, 1), not (1, 384, 1, 1)" in error
    np.savez("other.npz", **of_efficient("shared", "jax"))
    error = said("import", "efficient_vdvae", "other.npz", "--preset", "colour")
    assert "it has 3 blocks bottom_up, the configuration 4 on the way up" in error
    assert "missing" in error and "top_down.block_down_level_0_0" in error
    assert "--structure file" in error


@pytest.mark.parametrize("tree", TREES)
def test_every_odd_array_is_named(tree: str, said: Said) -> None:
    """Missing, not expected, of another shape; blocks are all there."""
    odd = of_efficient("shared", tree)
    names = list(odd)
    odd["extra"] = np.zeros(1, np.float32)
    odd[names[1]] = np.zeros((3, 1), np.float32)
    del odd[names[-1]]
    np.savez("weights.npz", **odd)
    error = said("import", "efficient_vdvae", "weights.npz", "--preset", "shared")
    for part in (f"issing: {names[-1]}", "not expected: extra", f"{names[1]} is (3, 1), not"):
        assert part in error


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("structure", ["preset", "file"])
def test_both_trees_of_efficient_vdvae(tree: str, structure: Any) -> None:
    """By the preset, or by what the file has; the model is the same."""
    given = of_efficient("colour", tree)
    model, variables = published("efficient_vdvae", given, "colour", structure=structure)
    expected, same = efficient.efficient_vdvae(given)
    assert model == expected == EFFICIENT["colour"]
    equal(variables, same)


def test_a_flax_checkpoint_has_averaged_and_plain_weights(said: Said) -> None:
    """The averaged ones unless others are asked for; nothing in it is executed, since there is nothing but arrays."""
    plain = of_efficient("shared", "jax")
    averaged = {name: 2 * value for name, value in plain.items()}
    state = {"step": 7, "params": nested(plain), "ema_params": nested(averaged), "opt_state": {}, "ema_decay": 0.9}
    Path("checkpoint_7").write_bytes(msgpack_serialize(state))
    for weights, expected in ((None, averaged), ("ema", averaged), ("plain", plain)):
        found = read_arrays(Path("checkpoint_7"), weights)
        assert (found.kind, found.entry) == ("msgpack", "params" if weights == "plain" else "ema_params")
        np.testing.assert_equal(dict(found.arrays), expected)
    cli.main(["import", "efficient_vdvae", "checkpoint_7", "--preset", "shared", "--weights", "plain"])
    experiment, variables, _ = open_variables(Path("runs/efficient_vdvae_shared"))
    assert experiment.model == EFFICIENT["shared"]
    equal(jax.device_get(variables), jax.device_get(efficient.efficient_vdvae(plain)[1]))
    Path("checkpoint_8").write_bytes(msgpack_serialize({"step": 7, "params": nested(plain)}))
    assert "--weights ema: there is none in checkpoint_8, which has params" in said(
        *("import", "efficient_vdvae", "checkpoint_8", "--preset", "shared", "--weights", "ema", "--folder", "other")
    )


# ---- what is refused


def files() -> Mapping[str, bytes]:
    """Files that will not do."""
    save_file(golden(), "whole.safetensors")
    np.savez("whole.npz", **golden())
    np.savez("object.npz", encoder=np.array([{}], dtype=object))
    with zipfile.ZipFile("other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    return {
        "empty.th": b"",
        "text.th": b"hello, world, this is text",
        "cut.safetensors": Path("whole.safetensors").read_bytes()[:-100],
        "cut.npz": Path("whole.npz").read_bytes()[:-100],
        "cut.msgpack": msgpack_serialize({"params": golden()})[:-100],
        "opt.msgpack": msgpack_serialize({"state": {"a": np.zeros(2)}, "param_groups": {}}),
        "odd.msgpack": msgpack_serialize({"a": np.zeros(2), "rate": 0.1, "name": "x"}),
        "none.msgpack": msgpack_serialize({"a": {}}),
    }


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("nothing.th", ["There is no file nothing.th"]),
        ("runs", ["runs is a folder", "stay packed"]),
        ("empty.th", ["empty.th is empty"]),
        ("text.th", ["text.th is no file of weights"]),
        ("cut.safetensors", ["damaged or ends early", "safetensors"]),
        ("cut.npz", ["damaged or ends early"]),
        ("cut.msgpack", ["damaged or ends early", "Flax"]),
        ("object.npz", ["object dtype", "unpickling runs code"]),
        ("opt.msgpack", ["optimiser"]),
        ("odd.msgpack", ["odd.msgpack holds", "rate (float)", "name (str)"]),
        ("none.msgpack", ["holds nothing"]),
    ],
)
def test_files_that_will_not_do(name: str, parts: list[str], said: Said) -> None:
    for file, content in files().items():
        Path(file).write_bytes(content)
    Path("runs").mkdir()
    error = said("import", "vdvae", name, "--preset", "tiny")
    for part in parts:
        assert part in error
    assert not list(Path("runs").iterdir())


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["vdvae", "w.npz"], ["--preset is one of cifar10, imagenet32"]),
        (["vdvae", "w.npz", "--preset", "cifar"], ["Unknown preset 'cifar'", "cifar10"]),
        (["vdvae", "w.npz", "--preset", "faces"], ["folder of pictures", "--data"]),
        (["vdvae", "w.npz", "--preset", "tiny", "--structure", "file"], ["--enc-blocks"]),
        (["vdvae", "w.npz", "--preset", "tiny", "--weights", "ema"], ["one set of weights", "Leave it out"]),
        (["vdvae", "w.npz", "--preset", "tiny", "--enc-blocks", "8y1"], ["does not parse", "'y'"]),
        (["vdvae", "e.npz", "--preset", "tiny"], ["weights of efficient_vdvae, not of vdvae"]),
        (["vdvae", "data.npz", "--preset", "tiny"], ["no weights of vdvae", "x_train"]),
        (["efficient_vdvae", "w.npz", "--preset", "colour"], ["weights of vdvae, not of efficient_vdvae"]),
        (["efficient_vdvae", "e.npz", "--preset", "colour", "--dec-blocks", "1x1"], ["--structure file"]),
        (
            ["efficient_vdvae", "e.npz", "--preset", "binary", "--structure", "file"],
            ["output_conv.bias is (20,), not (3,)"],
        ),
        (["hvae_jax", "w.npz"], ["not written by `hvae export`"]),
        (["hvae_jax", "w.npz", "--preset", "tiny"], ["--preset: a file of `hvae export` says that itself"]),
    ],
)
def test_hvae_import_says_what_is_wrong(arguments: list[str], parts: list[str], said: Said) -> None:
    np.savez("w.npz", **golden())
    np.savez("e.npz", **of_efficient("colour", "torch"))
    error = said("import", *arguments)
    for part in parts:
        assert part in error
    assert not Path("runs").exists()


def test_a_folder_with_a_run_is_refused(said: Said) -> None:
    np.savez("w.npz", **weights_of(smallest()))
    cli.main(["import", "vdvae", "w.npz", "--preset", "smallest"])
    before = Path("runs/vdvae_smallest/result.json").read_bytes()
    error = said("import", "vdvae", "w.npz", "--preset", "smallest")
    assert "runs/vdvae_smallest holds a run already. --overwrite" in error
    said("import", "vdvae", "nothing.npz", "--preset", "smallest", "--overwrite")
    assert Path("runs/vdvae_smallest/result.json").read_bytes() == before
    cli.main(["import", "vdvae", "w.npz", "--preset", "smallest", "--overwrite"])
    cli.main(["import", "vdvae", "w.npz", "--preset", "smallest", "--folder", "elsewhere"])
    assert Path("elsewhere/settings.json").exists()


# ---- the way back


def test_an_exported_run_comes_back_bit_for_bit(said: Said) -> None:
    """Settings, variables, how far it had come, and its numbers; a file that is there is not replaced unasked."""
    np.savez("w.npz", **weights_of(smallest()))
    cli.main(["import", "vdvae", "w.npz", "--preset", "smallest"])
    run = Path("runs/vdvae_smallest")
    cli.main(["export", str(run), "mine.safetensors"])
    assert "mine.safetensors is there already" in said("export", str(run), "mine.safetensors")
    cli.main(["export", str(run), "mine.safetensors", "--overwrite"])
    assert "holds a run already" in said("import", "hvae_jax", "mine.safetensors")
    cli.main(["import", "hvae_jax", "mine.safetensors", "--folder", "again"])
    assert Path("again/settings.json").read_bytes() == (run / "settings.json").read_bytes()
    before, after = open_variables(run), open_variables(Path("again"))
    assert before[0] == after[0] and before[2] == after[2]
    equal(jax.device_get(before[1]), jax.device_get(after[1]))
    names = load_file("mine.safetensors")
    assert "params/up4/bottleneck_0/conv_0/kernel" in names
    cli.main(["show", "again"])


def test_an_exported_file_that_was_changed(said: Said) -> None:
    """Arrays that do not fit the settings are named, each; so is a newer format, and one without settings."""
    np.savez("w.npz", **weights_of(smallest()))
    cli.main(["import", "vdvae", "w.npz", "--preset", "smallest"])
    cli.main(["export", "runs/vdvae_smallest", "mine.safetensors"])
    found = read_arrays(Path("mine.safetensors"))
    odd = dict(found.arrays) | {"params/more": np.zeros(1)}
    del odd["params/gain"]
    odd["params/bias"] = odd["params/bias"].astype(ml_dtypes.bfloat16)
    metadata = dict(found.metadata)
    save_file(odd, "odd.safetensors", metadata)
    error = said("import", "hvae_jax", "odd.safetensors", "--folder", "again")
    for part in ("params/gain is missing", "params/more is not expected", "params/bias is bfloat16 (4,), not float32"):
        assert part in error
    save_file(dict(found.arrays), "newer.safetensors", metadata | {"format": "2"})
    assert "format 2" in said("import", "hvae_jax", "newer.safetensors", "--folder", "again")
    evil = metadata["settings"].replace("hvae_jax.models:VDVAE", "os:system")
    save_file(dict(found.arrays), "evil.safetensors", metadata | {"settings": evil})
    assert "nothing else is imported unasked" in said("import", "hvae_jax", "evil.safetensors", "--folder", "again")
    assert not Path("again").exists()


def test_dtypes_stay() -> None:
    """bfloat16 among them, and arrays whose memory lies otherwise."""
    given = {
        "a.b": np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16),
        "c": np.arange(6.0).reshape(2, 3),
        "d": np.array(True),
        "e": np.arange(3, dtype=np.uint32),
    }
    save_file(given, "x.safetensors", {"k": "v"})
    found = read_arrays(Path("x.safetensors"))
    assert found.metadata == {"k": "v"} and found.kind == "safetensors"
    for name, value in given.items():
        assert found.arrays[name].dtype == value.dtype
        np.testing.assert_array_equal(found.arrays[name], value)


# ---- PyTorch's files


class Evil:
    """A pickle of it runs a command when it is read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch executed",)


def test_without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says what to install; a pickle is not read by any other way."""
    monkeypatch.setitem(sys.modules, "torch", None)
    Path("evil.th").write_bytes(pickle.dumps({"encoder.enc_blocks.0": Evil()}, protocol=2))
    with pytest.raises(ImportError, match=r"PyTorch is not installed: pip install 'hvae-jax\[torch\]'"):
        read_arrays(Path("evil.th"))
    assert not Path("executed").exists()


def test_an_old_pytorch_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 2.6 `weights_only` could be got around."""
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="2.5.1+cpu"))
    Path("evil.th").write_bytes(pickle.dumps({"a": Evil()}, protocol=2))
    with pytest.raises(ImportError, match=r"PyTorch 2.5.1\+cpu cannot keep a pickle from running code"):
        read_arrays(Path("evil.th"))
    assert not Path("executed").exists()


def test_a_pickle_that_runs_code_is_refused(said: Said) -> None:
    """In PyTorch's zip and as a bare pickle; nothing is executed."""
    torch = pytest.importorskip("torch")
    torch.save({"encoder.enc_blocks.0": Evil()}, "evil.th")
    Path("bare.th").write_bytes(pickle.dumps({"encoder.enc_blocks.0": Evil()}, protocol=2))
    Path("newer.th").write_bytes(pickle.dumps({"encoder.enc_blocks.0": Evil()}, protocol=4))
    error = said("import", "vdvae", "newer.th", "--preset", "tiny")
    assert "Nothing of it was executed" in error and "weights_only" not in error
    for name in ("evil.th", "bare.th"):
        error = said("import", "vdvae", name, "--preset", "tiny")
        assert "holds more than arrays" in error and "system" in error and "Nothing of it was executed" in error
    assert not Path("executed").exists()


def test_pytorch_files(said: Said) -> None:
    """State dicts, plain and in a checkpoint of several parts; bfloat16; an optimiser's file, a cut one, odd things."""
    torch = pytest.importorskip("torch")
    plain = {name: torch.from_numpy(value) for name, value in golden().items()}
    torch.save(plain, "model.th")
    found = read_arrays(Path("model.th"))
    assert (found.kind, found.entry) == ("PyTorch", None)
    np.testing.assert_equal(dict(found.arrays), golden())
    torch.save(plain, "old.th", _use_new_zipfile_serialization=False)
    np.testing.assert_equal(dict(read_arrays(Path("old.th")).arrays), golden())
    averaged = {name: (2 * value).to(torch.bfloat16) for name, value in plain.items()}
    parameters = [torch.nn.Parameter(value) for value in plain.values()]
    optimiser = torch.optim.Adamax(parameters).state_dict()
    parts = {"global_step": 3, "model_state_dict": plain, "ema_model_state_dict": averaged}
    torch.save(parts | {"optimizer_state_dict": optimiser}, "checkpoint.th")
    best = read_arrays(Path("checkpoint.th"))
    assert best.entry == "ema_model_state_dict"
    for name, value in best.arrays.items():
        assert value.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(value.astype(np.float32), averaged[name].float().numpy())
    assert read_arrays(Path("checkpoint.th"), "plain").entry == "model_state_dict"
    torch.save(optimiser, "opt.th")
    assert "state of an optimiser" in said("import", "vdvae", "opt.th", "--preset", "tiny")
    Path("cut.th").write_bytes(Path("model.th").read_bytes()[:-2000])
    assert "damaged" in said("import", "vdvae", "cut.th", "--preset", "tiny")
    torch.save(plain["decoder.gain"], "one.th")
    assert "one.th holds a Tensor, not arrays by name" in said("import", "vdvae", "one.th", "--preset", "tiny")
    torch.save(plain | {"lr": 0.1}, "odd.th")
    assert "lr (float)" in said("import", "vdvae", "odd.th", "--preset", "tiny")
    cli.main(["import", "vdvae", "model.th", "--preset", "tiny"])
    model, expected = deep.vdvae(golden(), ENC, DEC, 8, standardise=(120.63838, 64.16736))
    experiment, variables, _ = open_variables(Path("runs/vdvae_tiny"))
    assert experiment.model == model
    equal(jax.device_get(variables), jax.device_get(expected))
