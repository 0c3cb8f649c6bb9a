"""`hvae export` and its inverse, `hvae import hvae_jax`."""

from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.small_weights import Said, equal, small_presets, smallest, weights_of, what_fails

from hvae_jax.cli.main import main
from hvae_jax.convert.array_files import read_arrays
from hvae_jax.experiment.reopen import open_variables

presets = pytest.fixture(autouse=True)(small_presets)
said = pytest.fixture(what_fails)


@pytest.mark.slow
def test_an_exported_run_comes_back_bit_for_bit(said: Said) -> None:
    """Settings, variables, progress and results come back; an existing file is replaced only with --overwrite."""
    np.savez("w.npz", **weights_of(smallest()))
    main(["import", "vdvae", "w.npz", "--preset", "smallest"])
    run = Path("runs/vdvae_smallest")
    main(["export", str(run), "mine.safetensors"])
    assert "mine.safetensors is there already" in said("export", str(run), "mine.safetensors")
    main(["export", str(run), "mine.safetensors", "--overwrite"])
    assert Path("mine.safetensors").stat().st_mode == Path("w.npz").stat().st_mode  # others may read it as well
    assert "holds a run already" in said("import", "hvae_jax", "mine.safetensors")
    main(["import", "hvae_jax", "mine.safetensors", "--folder", "again"])
    assert Path("again/settings.json").read_bytes() == (run / "settings.json").read_bytes()
    before, after = open_variables(run), open_variables(Path("again"))
    assert before[0] == after[0] and before[2] == after[2]
    equal(jax.device_get(before[1]), jax.device_get(after[1]))
    names = load_file("mine.safetensors")
    assert "params/up4/bottleneck_0/conv_0/kernel" in names
    main(["show", "again"])


@pytest.mark.slow
def test_an_exported_file_that_was_changed(said: Said) -> None:
    """Errors name each array that does not fit, a newer format, and a file without settings."""
    np.savez("w.npz", **weights_of(smallest()))
    main(["import", "vdvae", "w.npz", "--preset", "smallest"])
    main(["export", "runs/vdvae_smallest", "mine.safetensors"])
    found = read_arrays(Path("mine.safetensors"))
    odd = dict(found.arrays) | {"params/more": np.zeros(1)}
    del odd["params/gain"]
    odd["params/bias"] = odd["params/bias"].astype(ml_dtypes.bfloat16)
    metadata = dict(found.metadata)
    save_file(odd, "odd.safetensors", metadata)
    error = said("import", "hvae_jax", "odd.safetensors", "--folder", "again")
    for part in ("params/gain is missing", "params/more is not expected", "params/bias is bfloat16 (4,), not float32"):
        assert part in error
    save_file(dict(found.arrays), "newer.safetensors", metadata | {"format": "3"})
    assert "format 3" in said("import", "hvae_jax", "newer.safetensors", "--folder", "again")
    evil = metadata["settings"].replace("hvae_jax.models:VDVAE", "os:system")
    save_file(dict(found.arrays), "evil.safetensors", metadata | {"settings": evil})
    assert "nothing else is imported unasked" in said("import", "hvae_jax", "evil.safetensors", "--folder", "again")
    assert not Path("again").exists()


def test_dtypes_stay() -> None:
    """Dtypes, bfloat16 included, and values of arrays that are not contiguous come back."""
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
