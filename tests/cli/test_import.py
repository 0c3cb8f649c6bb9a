"""`hvae import` of published weights: models, numbers and run folders."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from safetensors.numpy import save_file
from support.golden_weights import recorded
from support.small_weights import DEC, ENC, Said, equal, golden, small_presets, smallest, weights_of, what_fails
from support.state_dicts import EFFICIENT, nested, of_efficient

import hvae_jax as hv
from hvae_jax import models
from hvae_jax.cli.main import main
from hvae_jax.convert import efficient_vdvae as efficient
from hvae_jax.convert import vdvae
from hvae_jax.convert.array_files import read_arrays
from hvae_jax.convert.converter import Preset
from hvae_jax.convert.efficient_trees import TREES
from hvae_jax.experiment import Devices, run, settings
from hvae_jax.experiment.reopen import open_variables, read_experiment
from hvae_jax.likelihoods import Bernoulli, LogisticMixture, Quantised
from hvae_jax.models import EfficientVDVAE, down_stages, up_stages
from hvae_jax.models.very_deep.block_strings import down_string, up_string
from hvae_jax.networks.scale_head import ScaleHead
from hvae_jax.objectives import Linear
from hvae_jax.training import Adamax, AdamW, Training

presets = pytest.fixture(autouse=True)(small_presets)
said = pytest.fixture(what_fails)


@pytest.mark.slow
def test_an_imported_model_scores_as_the_public_code_did() -> None:
    """A safetensors file, imported, gives the recorded bound; in float32 here, to 1e-9 in tests/x64."""
    save_file(golden(), "weights.safetensors")
    main(["import", "vdvae", "weights.safetensors", "--preset", "tiny"])
    experiment, variables, _ = open_variables(Path("runs/vdvae_tiny"))
    model, expected = vdvae.vdvae(golden(), ENC, DEC, 8, standardise=(120.63838, 64.16736))
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
    """Another optimiser starts from them; it is an error if the run has been trained already."""
    np.savez("weights.npz", **weights_of(smallest()))
    main(["import", "vdvae", "weights.npz", "--preset", "smallest"])
    folder = Path("runs/vdvae_smallest")
    imported = jax.device_get(open_variables(folder)[1])
    experiment = dataclasses.replace(
        read_experiment(folder),
        optimiser=AdamW(learning_rate=0.0, schedule=Linear(0, 1)),
        devices=Devices(count=1),
        training=Training(batch_size=2, epochs=1, steps=1, ema=0.9),
    )
    run(experiment, folder, resume=True)
    # a step at learning rate 0: averaged parameters stay the same up to rounding
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), open_variables(folder)[1], imported)
    again = dataclasses.replace(experiment, optimiser=Adamax(), training=Training(batch_size=2, epochs=1, steps=2))
    with pytest.raises(ValueError, match="this model's variables, but the state of another optimiser"):
        run(again, folder, resume=True)


@pytest.mark.slow
def test_every_command_takes_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """show says that nothing was evaluated; evaluate does; samples need no data if the model has the shape of x."""
    np.savez("weights.npz", **{f"module.{name}": value for name, value in weights_of(smallest()).items()})
    main(["import", "vdvae", "weights.npz", "--preset", "smallest"])
    folder = "runs/vdvae_smallest"
    main(["show", folder])
    shown = capsys.readouterr().out
    assert "weights.npz" in shown and "Nothing has been measured here yet" in shown and "nan" not in shown
    assert "likelihood LogisticMixture(mixtures=1" in shown and "form='published'" in shown
    main(["evaluate", folder, "--draws", "2", "--splits", "test", "--out", "numbers.json"])
    numbers = json.loads(Path("numbers.json").read_text())
    rates = numbers["rates"]["test"]
    assert numbers["rates_by_side"]["test"] == {
        "1x1": pytest.approx(rates["z1.0"]),
        "4x4": pytest.approx(rates["z4.0"]),
    }
    main(["reconstruct", folder, "--n", "2", "--keep-top", "1"])
    main(["export", folder])
    Path("data.npz").unlink()
    main(["sample", folder, "--n", "2"])
    main(["export", folder, "again.safetensors"])
    once, again = read_arrays(Path(folder, "vdvae_smallest.safetensors")), read_arrays(Path("again.safetensors"))
    np.testing.assert_equal(dict(once.arrays), dict(again.arrays))
    assert once.metadata == again.metadata
    result = json.loads(Path(folder, "result.json").read_text())
    assert result["imported"]["sha256"] == read_arrays(Path("weights.npz")).sha256 and "elbo" not in result


@pytest.mark.slow
def test_what_no_weight_tells(said: Said, capsys: pytest.CaptureFixture[str]) -> None:
    """Options replace the preset's settings and are printed; a file of other blocks gives the size of the mixture."""
    np.savez("weights.npz", **of_efficient("colour", "torch"))
    wanted = ["--distribution-base", "logstd", "--use-residual-distribution", "True"]
    more = ["--output-gradient-smoothing-beta", "1.0", "--gradient-smoothing-beta", "0.5"]
    main(["import", "efficient_vdvae", "weights.npz", "--preset", "colour", *wanted, *more])
    assert "head ScaleHead(form='log_std', beta=0.5), residual_posterior True" in capsys.readouterr().out
    model = read_experiment(Path("runs/efficient_vdvae_colour")).model
    assert isinstance(model, EfficientVDVAE) and isinstance(model.likelihood, LogisticMixture)
    assert (model.head, model.residual_posterior) == (ScaleHead("log_std", 0.5), True)
    assert model.likelihood.head.beta == 1.0
    imported = json.loads(Path("runs/efficient_vdvae_colour/result.json").read_text())["imported"]
    assert imported["options"]["distribution_base"] == "logstd" and "structure" not in imported["options"]

    other = smallest().clone(likelihood=LogisticMixture(3, form="published"))
    np.savez("other.npz", **weights_of(other))
    blocks = ["--enc-blocks", up_string(other.ups), "--dec-blocks", down_string(other.downs)]
    main(["import", "vdvae", "other.npz", "--preset", "smallest", *blocks])
    assert read_experiment(Path("runs/vdvae_smallest")).model.likelihood == other.likelihood
    fewer = dict(np.load("other.npz"))
    del fewer[max(name for name in fewer if name.startswith("decoder.bias_xs"))]
    np.savez("fewer.npz", **fewer)
    assert "issing: decoder.bias_xs" in said(
        "import", "vdvae", "fewer.npz", "--preset", "smallest", *blocks, "--overwrite"
    )


@pytest.mark.slow
def test_an_imported_folder_is_diagnosed() -> None:
    """The diagnosis of an imported folder succeeds; its compilation takes a minute."""
    np.savez("weights.npz", **weights_of(smallest()))
    main(["import", "vdvae", "weights.npz", "--preset", "smallest"])
    effort = ("examples", "draws", "k", "latents", "probed")
    main(["diagnose", "runs/vdvae_smallest", *(part for name in effort for part in (f"--effort.{name}", "4"))])
    assert Path("runs/vdvae_smallest/report.html").exists()


def test_presets_as_published() -> None:
    """Presets have the published likelihoods and no clamp; x of FFHQ-256 has 8 bits, of which 5 are scored."""
    for name, preset in vdvae.PRESETS.items():
        model = vdvae.as_published(preset.model())
        assert model.clamp is None
        assert isinstance(model.likelihood, Bernoulli) or "form='exact'" not in str(model.likelihood), name
    ffhq = vdvae.as_published(models.vdvae_ffhq256())
    assert ffhq.likelihood == Quantised(LogisticMixture(values=32, form="vdvae_5_bits"), 8)
    np.testing.assert_allclose(ffhq.standardise, (112.8666757481, 69.84780273), rtol=1e-12)
    for name, preset in efficient.PRESETS.items():
        family = efficient.as_published(preset.model()).likelihood
        assert isinstance(family, Bernoulli) or "form='exact'" not in str(family), name
    five = efficient.as_published(models.efficient_vdvae_faces256_5_bits("C1"))
    assert five.likelihood == LogisticMixture(10, 32, 3, -14.0, "efficient_vdvae_5_bits", ScaleHead("log_std", 1.0))
    assert efficient.as_published(models.efficient_vdvae_faces1024()).head.beta == 0.4


def test_the_folder_is_locked_until_all_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that starts there meanwhile would write among an import's files; the last of them is result.json."""
    np.savez("weights.npz", **weights_of(smallest()))
    locked, write = {}, settings.write_whole

    def watched(path: Path, text: str) -> None:
        locked[path.name] = (path.parent / "run.lock").exists()
        write(path, text)

    monkeypatch.setattr(settings, "write_whole", watched)
    main(["import", "vdvae", "weights.npz", "--preset", "smallest", "--folder", "made"])
    assert locked == {"settings.json": True, "result.json": True} and not Path("made/run.lock").exists()


def test_block_strings_of_presets() -> None:
    """Block strings written from stages parse to the same stages."""
    for preset in vdvae.PRESETS.values():
        model = preset.model()
        ups, downs = up_stages(up_string(model.ups), 1), down_stages(down_string(model.downs), 1)
        assert [(s.side, s.blocks, s.pool) for s in ups] == [(s.side, s.blocks, s.pool) for s in model.ups]
        assert [(s.side, s.blocks, s.mixes_in) for s in downs] == [(s.side, s.blocks, s.mixes_in) for s in model.downs]


@pytest.mark.slow
def test_a_file_with_two_blocks_fewer(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the published FFHQ-1024, the error names the blocks, and with --enc-blocks the file is read."""
    more = smallest().clone(ups=up_stages("4x2,4d4,1x1", 4))
    np.savez("weights.npz", **weights_of(smallest()))
    monkeypatch.setitem(vdvae.PRESETS, "more", Preset(lambda: more, "two blocks more", "data.npz"))
    error = said("import", "vdvae", "weights.npz", "--preset", "more")
    assert "2 blocks encoder.enc_blocks.*, the configuration 4 (3 at 4, 1 at 1)" in error
    assert "encoder.enc_blocks.2, encoder.enc_blocks.3 missing" in error
    assert "--enc-blocks 4x2,4d4,1x1 --dec-blocks 1x1,4m1" in error and not Path("runs").exists()
    main(["import", "vdvae", "weights.npz", "--preset", "more", "--enc-blocks", "4d4,1x1"])
    experiment, _, _ = open_variables(Path("runs/vdvae_more"))
    assert experiment.model == vdvae.as_published(smallest())


@pytest.mark.slow
def test_another_preset_names_the_blocks(said: Said) -> None:
    """For both codes the error names blocks that are missing or wider, then all other arrays one by one."""
    np.savez("weights.npz", **golden())
    error = said("import", "vdvae", "weights.npz", "--preset", "cifar10")
    first, *rest = error.splitlines()
    assert first == "error: weights.npz does not fit the preset cifar10. It fits --preset tiny."
    assert sum(1 + len(line) // 100 for line in rest) <= 30
    assert "encoder.enc_blocks.5 to encoder.enc_blocks.32 (28 of them) missing" in error
    assert "decoder.dec_blocks.5 to decoder.dec_blocks.42 (38 of them) missing" in error
    assert "have width 16 and 3x3 kernels" in error and "decoder.gain is (1, 16, 1, 1), not (1, 384, 1, 1)" in error
    np.savez("other.npz", **of_efficient("shared", "jax"))
    error = said("import", "efficient_vdvae", "other.npz", "--preset", "colour")
    assert error.startswith("error: other.npz does not fit the preset colour. It fits --preset shared.\n")
    assert "it has 3 bottom-up blocks, the configuration 4" in error
    assert "missing" in error and "top_down.block_down_level_0_0" in error
    assert "--structure file" in error


@pytest.mark.parametrize("tree", TREES)
def test_every_odd_array_is_named(tree: str, said: Said) -> None:
    """If all blocks are there, the error names each array missing, not expected or of another shape."""
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
    """The model read by the preset equals the one read off the file."""
    given = of_efficient("colour", tree)
    options = efficient.EfficientVDVAEOptions(structure=structure)
    model, variables = efficient.read(given, efficient.PRESETS["colour"], options)
    expected, same = efficient.efficient_vdvae(given)
    assert model == expected == EFFICIENT["colour"]
    equal(variables, same)


@pytest.mark.slow
def test_a_flax_checkpoint_has_averaged_and_plain_weights(said: Said) -> None:
    """Averaged weights are read unless plain ones are asked for; the file holds nothing but arrays."""
    plain = of_efficient("shared", "jax")
    averaged = {name: 2 * value for name, value in plain.items()}
    state = {"step": 7, "params": nested(plain), "ema_params": nested(averaged), "opt_state": {}, "ema_decay": 0.9}
    Path("checkpoint_7").write_bytes(msgpack_serialize(state))
    for weights, expected in ((None, averaged), ("ema", averaged), ("plain", plain)):
        found = read_arrays(Path("checkpoint_7"), weights)
        assert (found.kind, found.entry) == ("msgpack", "params" if weights == "plain" else "ema_params")
        np.testing.assert_equal(dict(found.arrays), expected)
    main(["import", "efficient_vdvae", "checkpoint_7", "--preset", "shared", "--weights", "plain"])
    experiment, variables, _ = open_variables(Path("runs/efficient_vdvae_shared"))
    assert experiment.model == EFFICIENT["shared"]
    equal(jax.device_get(variables), jax.device_get(efficient.efficient_vdvae(plain)[1]))
    Path("checkpoint_8").write_bytes(msgpack_serialize({"step": 7, "params": nested(plain)}))
    assert "--weights ema: there are none in checkpoint_8, which has params" in said(
        *("import", "efficient_vdvae", "checkpoint_8", "--preset", "shared", "--weights", "ema", "--folder", "other")
    )
