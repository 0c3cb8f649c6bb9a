"""Files of weights in every format: errors, and that nothing in them is executed."""

import os
import pickle
import sys
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from safetensors.numpy import save_file
from support.small_weights import DEC, ENC, Said, equal, golden, small_presets, smallest, weights_of, what_fails
from support.state_dicts import of_efficient

from hvae_jax.cli.main import main
from hvae_jax.convert import vdvae
from hvae_jax.convert.array_files import read_arrays
from hvae_jax.experiment.reopen import open_variables

presets = pytest.fixture(autouse=True)(small_presets)
said = pytest.fixture(what_fails)


def files() -> Mapping[str, bytes]:
    """Damaged files and files without weights, by name."""
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
        (["vdvae", "w.npz", "--preset", "tiny", "--data", "cifar"], ["Unknown data set 'cifar'", "cifar10"]),
        (["vdvae", "w.npz", "--preset", "tiny", "--weights", "ema"], ["one set of weights", "Leave --weights out"]),
        (["vdvae", "w.npz", "--preset", "tiny", "--enc-blocks", "8y1"], ["does not parse", "'y'"]),
        (
            ["efficient_vdvae", "e.npz", "--preset", "binary", "--structure", "file"],
            ["output_conv.bias is (20,), not (3,)"],
        ),
        (
            ["efficient_vdvae", "e.npz", "--preset", "binary", "--min-mol-logscale", "-9"],
            ["Settings of the likelihood's scales", "Bernoulli"],
        ),
        (["biva", "w.npz", "--image", "8", "8"], ["Without a preset", "--data"]),
        (["addtt", "w.npz", "--preset", "mnist"], ["Unknown preset 'mnist'", "mnist_3, mnist_6, mnist_12"]),
    ],
)
def test_hvae_import_says_what_is_wrong(arguments: list[str], parts: list[str], said: Said) -> None:
    np.savez("w.npz", **golden())
    np.savez("e.npz", **of_efficient("colour", "torch"))
    error = said("import", *arguments)
    for part in parts:
        assert part in error
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_folder_with_a_run_is_refused(said: Said) -> None:
    np.savez("w.npz", **weights_of(smallest()))
    main(["import", "vdvae", "w.npz", "--preset", "smallest"])
    before = Path("runs/vdvae_smallest/result.json").read_bytes()
    error = said("import", "vdvae", "w.npz", "--preset", "smallest")
    assert "runs/vdvae_smallest holds a run already. --overwrite" in error
    said("import", "vdvae", "nothing.npz", "--preset", "smallest", "--overwrite")
    assert Path("runs/vdvae_smallest/result.json").read_bytes() == before
    main(["import", "vdvae", "w.npz", "--preset", "smallest", "--overwrite"])
    main(["import", "vdvae", "w.npz", "--preset", "smallest", "--folder", "elsewhere"])
    assert Path("elsewhere/settings.json").exists()


# ---- PyTorch's files


class Evil:
    """Runs a command when its pickle is read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch executed",)


def test_without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install; the pickle is not read in any other way."""
    monkeypatch.setitem(sys.modules, "torch", None)
    Path("evil.th").write_bytes(pickle.dumps({"encoder.enc_blocks.0": Evil()}, protocol=2))
    with pytest.raises(ImportError, match=r"PyTorch is not installed: pip install 'torch>=2\.6'"):
        read_arrays(Path("evil.th"))
    assert not Path("executed").exists()


def test_an_old_pytorch_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 2.6, `weights_only` did not keep a pickle from running code."""
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="2.5.1+cpu"))
    Path("evil.th").write_bytes(pickle.dumps({"a": Evil()}, protocol=2))
    with pytest.raises(ImportError, match=r"PyTorch 2.5.1\+cpu cannot keep a pickle from running code"):
        read_arrays(Path("evil.th"))
    assert not Path("executed").exists()


def test_a_pickle_that_runs_code_is_refused(said: Said) -> None:
    """Such a pickle is an error in PyTorch's zip and on its own; nothing is executed."""
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
    main(["import", "vdvae", "model.th", "--preset", "tiny"])
    model, expected = vdvae.vdvae(golden(), ENC, DEC, 8, standardise=(120.63838, 64.16736))
    experiment, variables, _ = open_variables(Path("runs/vdvae_tiny"))
    assert experiment.model == model
    equal(jax.device_get(variables), jax.device_get(expected))
