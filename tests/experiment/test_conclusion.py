"""The end of a run: rehearsed before training, its numbers kept whatever a picture does, and not measured twice."""

import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import struct
from jax import Array

import hvae_jax as hv
from hvae_jax.data import Dataset, Split, integer
from hvae_jax.descent import Pick, draw
from hvae_jax.experiment import Data, Evaluation, Experiment, run, tables
from hvae_jax.experiment.rehearsal import rehearse
from hvae_jax.likelihoods.categorical import CategoricalRecord
from hvae_jax.models import HVAE, TopDownVAE
from hvae_jax.networks.mlp import Dense, Readout
from hvae_jax.report.sketch import FINAL_PICTURES, Sketch
from hvae_jax.runtime import compilation
from hvae_jax.trace import Trace
from hvae_jax.training import Training
from hvae_jax.training.mesh import data_mesh

run_module = importlib.import_module("hvae_jax.experiment.run")  # as an attribute of its package it is the function

X = np.random.default_rng(0).integers(0, 3, (20, 4, 4, 1)).astype(np.uint8)
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight devices on two cores only wait for each other."""
    monkeypatch.setattr(run_module, "data_mesh", lambda count=None: data_mesh(count or 1))


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Experiment]:
    """Makes runs of two steps."""
    np.savez(tmp_path / "data.npz", x_train=X, x_validation=X[:10], num_values=3)

    def make(**changes: Any) -> Experiment:
        settings = {
            "model": TopDownVAE(latents=(2, 3), hidden=8, likelihood=hv.Categorical(3)),
            "data": Data(str(tmp_path / "data.npz")),
            "training": Training(batch_size=10, steps=2),
            "evaluation": Evaluation(draws=2, other_draws=2),
        }
        return Experiment("small", **{**settings, **changes})

    return make


@struct.dataclass
class Unsampled(CategoricalRecord):
    """A record whose sampler is still to be written."""

    def sample(self, key: Array, temperature: Array | float = 1.0) -> Array:
        """Fails."""
        raise NotImplementedError("samples come later")


@dataclasses.dataclass(frozen=True)
class WithoutSamples(hv.Categorical):
    """A likelihood that trains and cannot be sampled."""

    def __call__(self, h: Array) -> Unsampled:
        """`[B, *event, V]` to a record."""
        return Unsampled(super().__call__(h).logits)


@struct.dataclass
class StudentT:
    """Student's t with 5 degrees of freedom, made of noise and without the standard deviation that units need."""

    loc: Array

    @property
    def mean(self) -> Array:
        """Its location."""
        return self.loc

    mode = mean

    def sample(self, key: Array, temperature: Array | float = 1.0) -> Array:
        """Draws."""
        return self.loc + temperature * jax.random.t(key, 5.0, self.loc.shape)

    def log_prob(self, z: Array) -> Array:
        """Elementwise, nats."""
        return jax.scipy.stats.t.logpdf(z, 5.0, self.loc)

    def from_noise(self, noise: Array, temperature: Array | float = 1.0) -> Array:
        """Shifted noise."""
        return self.loc + temperature * noise

    def to_noise(self, z: Array) -> Array:
        """The noise."""
        return z - self.loc


class HeavyTailed(HVAE):
    """One level of Student's t."""

    likelihood: hv.Categorical = hv.Categorical(3)

    @property
    def num_levels(self) -> int:
        """1."""
        return 1

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        q = None if x is None else StudentT(Dense(2, name="q")(x.reshape(n, -1).astype(jnp.float32)))
        level = draw(key, StudentT(jnp.zeros((n, 2))), q, picks[0], name="z1")
        x_dist = self.likelihood(Readout(3, name="readout")(level.z, (4, 4, 1)))
        return Trace(None if x is None else x_dist.log_prob(x), (level,), x_dist)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            TopDownVAE(latents=(2,), hidden=8, likelihood=WithoutSamples(3)),
            "Drawing samples and reconstructions fails .*\\(NotImplementedError: samples come later",
        ),
        (HeavyTailed(), "Measuring rates and units fails .*\\(AttributeError: .*StudentT.* no attribute 'std'"),
    ],
    ids=["a sampler", "a level"],
)
def test_what_would_fail_after_training_is_said_before(
    model: HVAE, said: str, small: Callable[..., Experiment], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        run(small(model=model), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_picture_that_cannot_be_drawn_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank images of the right shape go through the code that makes the grids."""
    # As outside tests, where programs have options of the compiler and may not be nested.
    monkeypatch.setattr(compilation, "_cpu_level", lambda level: {"xla_backend_optimization_level": level})
    model = TopDownVAE(latents=(2,), hidden=8, likelihood=hv.Categorical(3))
    dataset = Dataset("toy", {"train": Split(X, None), "validation": Split(X, None)}, integer(3), "made up")
    variables = jax.eval_shape(model.init, KEY, X, KEY)
    sketch = Sketch(model, dataset, 0, tmp_path)
    rehearse(model, variables, dataset, sketch)
    monkeypatch.setattr(sketch, "value_range", (0.0, None))
    with pytest.raises(ValueError, match="Drawing samples and reconstructions fails"):
        rehearse(model, variables, dataset, sketch)


@pytest.mark.slow
def test_numbers_outlive_pictures_and_are_measured_once(
    small: Callable[..., Experiment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, fails = tmp_path / "run", _failing("no ink")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save_final_pictures", fails)
        assert int(run(small(), folder).state.step) == 2
    said = capsys.readouterr().out
    assert "training to step 2 at most" in said
    assert "warning: the final pictures failed (RuntimeError: no ink); nothing else is lost." in said
    first = (folder / "result.json").read_bytes()
    assert json.loads(first)["steps"] == 2 and not (folder / "samples.png").exists()

    with monkeypatch.context() as patch:
        patch.setattr(tables, "measure", _failing("measured again"))
        run(small(), folder)
        said = capsys.readouterr().out
        assert "finished at step 2" in said and "nothing is measured again" in said and "bits/dim" in said
        assert all((folder / name).exists() for name in FINAL_PICTURES)
        patch.setattr(run_module, "save_final_pictures", fails)
        run(small(), folder)
        assert "warning" not in capsys.readouterr().out
        assert (folder / "result.json").read_bytes() == first

        # A file cut short, and numbers of other draws.
        (folder / "result.json").write_text("{")
        with pytest.raises(RuntimeError, match="measured again"):
            run(small(), folder)
        (folder / "result.json").write_bytes(first)
        with pytest.raises(RuntimeError, match="measured again"):
            run(small(evaluation=Evaluation(draws=3, other_draws=2)), folder, resume=True)


def _failing(message: str) -> Callable[..., None]:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError(message)

    return fail
