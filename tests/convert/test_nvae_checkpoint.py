"""Whole checkpoints as NVAE's code saves them: the settings of the training lie beside the weights, in a pickle."""

import argparse
import contextlib
import io
import os
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.small_weights import Said, small_presets, what_fails
from support.state_dicts import NVAE_SMALL, of_nvae

from hvae_jax.cli.main import main
from hvae_jax.convert import nvae
from hvae_jax.convert.array_files import read_arrays
from hvae_jax.experiment.reopen import read_experiment

presets = pytest.fixture(autouse=True)(small_presets)
said = pytest.fixture(what_fails)

MODEL = NVAE_SMALL.clone(flows=0)


class Evil:
    """Runs a command when its pickle is read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch executed",)


class Opening:
    """Asks for another class of argparse, which opens a file when it is called."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return argparse.FileType, ("w",)


def checkpoint(state_dict: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What a checkpoint of that code holds, with its settings as `argparse` made them."""
    settings = {"dataset": "cifar10", "num_x_bits": 8, "learning_rate": 0.01, "res_dist": True, "distributed": False}
    return {
        "epoch": 3,
        "state_dict": state_dict,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.01, "betas": (0.9, 0.999), "params": [0, 1]}]},
        "global_step": 7,
        "args": argparse.Namespace(**settings, **more),
        "arch_instance": "res_mbconv",
        "scheduler": {"T_max": 4.0, "last_epoch": 3},
        "grad_scalar": {"scale": 1024.0, "_growth_tracker": 0},
    }


def positive(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with variances that are variances."""
    return {name: np.abs(v) if name.endswith("running_var") else v / 8 for name, v in state_dict.items()}


class Allowed(pickle.Unpickler):
    """PyTorch's rule, without PyTorch: only globals of a list are found, and what is built of them stays inert."""

    def __init__(self, file: Any, classes: list[type]) -> None:
        super().__init__(file)
        self.classes = {f"{one.__module__}.{one.__qualname__}": one for one in classes}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy"):
            return super().find_class(module, name)
        if f"{module}.{name}" not in self.classes:
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name} was not an allowed global")
        return self.classes[f"{module}.{name}"]


@pytest.fixture
def like_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that reads pickles as `torch.load(weights_only=True)` does, in place of PyTorch."""
    allowed: list[type] = []

    @contextlib.contextmanager
    def safe_globals(classes: list[type]) -> Iterator[None]:
        allowed.extend(classes)
        yield
        allowed.clear()

    def load(path: Path, *, map_location: str, weights_only: bool) -> Any:
        assert weights_only and map_location == "cpu"
        return Allowed(io.BytesIO(path.read_bytes()), list(allowed)).load()

    module = types.SimpleNamespace(
        __version__="2.6.0",
        load=load,
        serialization=types.SimpleNamespace(safe_globals=safe_globals),
        device=type("device", (), {}),  # which tyro asks for once there is a module torch
    )
    monkeypatch.setitem(sys.modules, "torch", module)


@pytest.mark.usefixtures("like_torch")
def test_settings_beside_the_weights() -> None:
    """A Namespace is read past, whatever plain values it holds; the arrays are those of the state dict."""
    weights = of_nvae(MODEL)
    Path("c.pt").write_bytes(pickle.dumps(checkpoint(weights, nested={"a": [1, None]}), protocol=4))
    found = read_arrays(Path("c.pt"))
    assert (found.kind, found.entry) == ("PyTorch", "state_dict")
    np.testing.assert_equal(dict(found.arrays), weights)
    assert nvae.read(found.arrays, None)[0] == MODEL


@pytest.mark.usefixtures("like_torch")
@pytest.mark.parametrize(("bad", "asked"), [(Evil(), "system"), (Opening(), "FileType")], ids=["system", "FileType"])
def test_code_among_the_settings(bad: Any, asked: str, said: Said) -> None:
    """Settings may hold nothing that has to be called; the error says what the pickle asks for."""
    Path("c.pt").write_bytes(pickle.dumps(checkpoint(of_nvae(MODEL), bad=bad), protocol=4))
    error = said("import", "nvae", "c.pt", "--data", "cifar10")
    assert "holds more than arrays" in error and asked in error and "Nothing of it was executed" in error
    assert not Path("executed").exists() and not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("like_torch")
def test_import_of_a_checkpoint() -> None:
    """`hvae import nvae` makes a run of it."""
    Path("c.pt").write_bytes(pickle.dumps(checkpoint(positive(of_nvae(MODEL))), protocol=4))
    main(["import", "nvae", "c.pt", "--data", "cifar10"])
    assert read_experiment(Path("runs/nvae")).model == MODEL


def test_checkpoints_of_pytorch_itself(said: Said) -> None:
    """The same with files that PyTorch writes, its older format included."""
    torch = pytest.importorskip("torch")
    tensors = {f"module.{name}": torch.from_numpy(value) for name, value in positive(of_nvae(MODEL)).items()}
    torch.save(checkpoint(tensors), "new.pt")
    torch.save(checkpoint(tensors), "old.pt", _use_new_zipfile_serialization=False)
    for name in ("new", "old"):
        main(["import", "nvae", f"{name}.pt", "--data", "cifar10", "--folder", name])
        assert read_experiment(Path(name)).model == MODEL
    for bad, asked in ((Evil(), "system"), (Opening(), "FileType")):
        torch.save(checkpoint(tensors, bad=bad), "bad.pt")
        error = said("import", "nvae", "bad.pt", "--data", "cifar10")
        assert "holds more than arrays" in error and asked in error
    assert not Path("executed").exists()
    assert not torch.serialization.get_safe_globals()  # nothing stays allowed
