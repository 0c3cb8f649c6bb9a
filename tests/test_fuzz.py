"""Random settings, command lines and damaged files: each ends in a result or in a line of ours, not in a traceback."""

import contextlib
import dataclasses
import functools
import importlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import fuzz
from support.tiers import tiers

from hvae_jax import recipes
from hvae_jax.cli import main as cli
from hvae_jax.cli.script import main
from hvae_jax.experiment import Data, Evaluation, Experiment
from hvae_jax.experiment.run import prepare
from hvae_jax.experiment.settings import from_json, to_json
from hvae_jax.likelihoods import Bernoulli
from hvae_jax.models import TopDownVAE
from hvae_jax.training import Training
from hvae_jax.training.lock import FolderLock

script_module = importlib.import_module("hvae_jax.cli.script")

FIRST = {name: recipes.experiment_of(name) for name in recipes.names()}
"""The first preset of every recipe."""


class Ran(Exception):
    """Raised in place of a run."""


def small_data(experiment: Experiment, folder: Path) -> Experiment:
    """The experiment on twelve random images of its model's shape and kind."""
    shape = experiment.model.image or (8, 8, 1)
    high = 2 if isinstance(experiment.model.likelihood, Bernoulli) else 17
    path = folder / f"{experiment.name}.npz"
    x = np.random.default_rng(0).integers(0, high, (12, *shape)).astype(np.uint8)
    np.savez(path, x_train=x, x_validation=x[:4], x_test=x[:4], num_values=high)
    return dataclasses.replace(experiment, data=Data(str(path)))


@pytest.mark.parametrize("part", tiers(range(10), slow=2))
def test_random_settings(part: int, tmp_path: Path) -> None:
    """300 settings, each with one or two fields changed at random, are refused in words or fit the data."""
    for seed in range(30 * part, 30 * (part + 1)):
        rng = np.random.default_rng(seed)
        experiment = small_data(FIRST[sorted(FIRST)[seed % len(FIRST)]], tmp_path)
        changed, done = fuzz.mutated(to_json(experiment), rng, times=1 + seed % 2)

        def read_and_prepare(changed: Any = changed) -> None:
            record = from_json(changed)
            if isinstance(record, Experiment):
                lock = FolderLock(tmp_path / "run")
                try:
                    prepare(record, tmp_path / "run", lock)
                finally:
                    lock.release()

        error = fuzz.outcome(read_and_prepare)
        assert error is None or fuzz.is_ours(error), f"seed {seed}, {experiment.name}, {done}: {error!r}"


def words(experiment: Experiment, rng: np.random.Generator) -> list[str]:
    """Flags of a recipe, some of them misspelt, with random words after them."""
    arguments = []
    for _ in range(rng.integers(1, 4)):
        fields = [path for path in fuzz.paths_in(to_json(experiment)) if path[-1] not in ("type", "fields", "function")]
        path = fields[rng.integers(len(fields))]
        names = [name for name in path if isinstance(name, str) and name != "fields"]
        flag = "--" + ".".join(names).replace("_", "-").removeprefix("training.")
        if rng.random() < 0.3:
            cut = rng.integers(2, len(flag))
            flag = flag[:cut] + flag[cut + 1 :]
        count = rng.integers(0, 3)
        arguments += [flag, *(fuzz.WORDS[rng.integers(len(fuzz.WORDS))] for _ in range(count))]
    return arguments


@pytest.mark.parametrize("part", tiers(range(5), slow=1))
def test_random_command_lines(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """100 command lines of recipes parse, or end with a message and the exit code of a user's error."""

    def ran(experiment: Experiment, folder: Path, **_: Any) -> None:
        raise Ran

    monkeypatch.setattr(script_module, "run", ran)
    monkeypatch.chdir(tmp_path)
    for seed in range(20 * part, 20 * (part + 1)):
        experiment = FIRST[sorted(FIRST)[seed % len(FIRST)]]
        arguments = words(experiment, np.random.default_rng(seed))
        left = fuzz.outcome(functools.partial(main, experiment, arguments))
        message = "".join(capsys.readouterr())
        if not isinstance(left, Ran):
            assert isinstance(left, SystemExit) and left.code in (1, 2), f"{arguments}: {left!r}"
            assert message and "Traceback" not in message and "\x1b[31m" not in message, arguments


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small finished run, its data and its export."""
    folder = tmp_path_factory.mktemp("fuzz")
    x = np.random.default_rng(0).integers(0, 2, (24, 4, 4)).astype(np.uint8)
    np.savez(folder / "data.npz", x_train=x[:16], x_validation=x[16:20], x_test=x[20:], num_values=2)
    with contextlib.chdir(folder):
        experiment = Experiment(
            "small",
            TopDownVAE((2, 2), 4, likelihood=Bernoulli()),
            Data("data.npz"),
            training=Training(batch_size=8, steps=4, save_every=2),
            evaluation=Evaluation(2, 2, 2),
        )
        main(experiment, [])
        cli.main(["export", "runs/small", "small.safetensors"])
    return folder


COMMANDS: dict[str, tuple[list[str], ...]] = {
    ".npz": (["evaluate", "runs/small"],),
    ".safetensors": (["import", "hvae_jax", "small.safetensors", "--overwrite"],),
}
OTHERS = (["show", "runs/small"], ["sample", "runs/small", "--n", "1"], ["evaluate", "runs/small"])


@pytest.mark.parametrize("part", tiers(range(10), slow=2))
def test_damaged_files(
    part: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """100 damaged files of a run, its data and its export: commands go on with what is whole, or say what is wrong."""
    outcomes: Counter[str] = Counter()
    for seed in range(10 * part, 10 * (part + 1)):
        rng = np.random.default_rng(seed)
        folder = tmp_path / str(seed)
        shutil.copytree(finished, folder)
        monkeypatch.chdir(folder)
        files = [path for path in fuzz.files_in(folder) if path.suffix != ".png" and "tensorboard" not in path.parts]
        inner = [path for path in files if "checkpoints" in path.parts]
        outer = [path for path in files if "checkpoints" not in path.parts]  # few, and each read by some command
        kind = inner if rng.random() < 0.4 else outer
        victim = kind[rng.integers(len(kind))]
        raw = victim.read_bytes()
        damaged, done = (fuzz.damage_json if victim.suffix == ".json" else fuzz.damage)(raw, rng)
        victim.write_bytes(damaged)
        choices = COMMANDS.get(victim.suffix, OTHERS)
        command = choices[rng.integers(len(choices))]
        capsys.readouterr()
        left = fuzz.outcome(functools.partial(cli.main, command), 300)
        said = capsys.readouterr().err
        outcomes["done" if left is None else "refused"] += 1
        if left is not None:
            what = f"seed {seed}, {victim.name}, {done}, {command}: {left!r}, {said}"
            assert isinstance(left, SystemExit) and left.code == 1 and said.startswith("error: "), what
            assert "Traceback" not in said and len(said) < 4000, what
    assert sum(outcomes.values()) == 10
