"""Divergence: whatever the number of steps, a run that went wrong says so, and what stays is sound."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hvae_jax.data import Split
from hvae_jax.models import LinearVAE
from hvae_jax.objectives import NegativeELBO
from hvae_jax.training import (
    Adamax,
    AdamW,
    DivergedError,
    Feeding,
    Machine,
    Provenance,
    Task,
    Training,
    Watching,
    data_mesh,
    train,
)
from hvae_jax.training.checkpoint import Checkpoints
from hvae_jax.training.loop import Outcome
from hvae_jax.training.sinks import Reporter
from hvae_jax.training.soundness import REASON, Soundness, finite

X = np.random.default_rng(0).normal(size=(21, 3)).astype(np.float32)  # three steps an epoch: 8, 8, 5

SGD = optax.sgd(0.01)


def trained(folder: Path, optimiser: Any = SGD, x: np.ndarray = X, **options: Any) -> Outcome:
    """A run of the smallest model."""
    settings = Training(**{"batch_size": 8, "epochs": 40, "per_dispatch": 1, "pictures_every": None} | options)
    task = Task(LinearVAE((2, 2), "shifted"), NegativeELBO(), optimiser, Split(x), Split(x[:5]))
    watching = Watching(lambda *_: Reporter([], 100, 0, silent=True))
    checkpoints = Checkpoints(folder, settings.keep)
    try:
        where = Machine(data_mesh(1), Feeding("resident"))
        return train(task, settings, jax.random.key(0), where, checkpoints, watching, Provenance())
    finally:
        checkpoints.close()


def saved(folder: Path) -> list[str]:
    """What lies in a folder of checkpoints."""
    return sorted(path.name for path in folder.iterdir())


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("optimiser", "options"),
    [
        (Adamax(1e30), {"steps": 1}),
        pytest.param(AdamW(1e30), {"steps": 1}, marks=SLOW),
        pytest.param(Adamax(1e30), {"steps": 5}, marks=SLOW),
        pytest.param(AdamW(1e30), {"steps": 5, "per_dispatch": 100}, marks=SLOW),
        pytest.param(Adamax(1e30), {"max_streak": 10}, marks=SLOW),
        pytest.param(Adamax(1e5), {"steps": 2}, marks=SLOW),
        pytest.param(AdamW(1e5), {"max_streak": 10, "select": "last", "ema": 0.9}, marks=SLOW),
    ],
)
def test_a_huge_rate_is_said_to_diverge(optimiser: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """After one step as after many; nothing that it left counts as a checkpoint."""
    with pytest.raises(DivergedError, match=r"^Training diverged: .* No good state is left to keep\."):
        trained(tmp_path, optimiser.build(), save_every=1, **options)
    assert all(name.startswith("diverged_") for name in saved(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 5])
def test_data_that_overflow_are_said_to_diverge(steps: int, tmp_path: Path) -> None:
    """x of 1e30, whose squares are infinite."""
    with pytest.raises(DivergedError, match=r"^Training diverged: the last validation gave no ELBO within reason"):
        trained(tmp_path, x=X * np.float32(1e30), steps=steps)
    assert saved(tmp_path) == []


def breaking(at: int, size: float) -> optax.GradientTransformation:
    """Gradient descent whose update number `at` moves every parameter by `size`."""

    def update(grads: Any, count: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda g: jnp.where(count == at, size, -0.01 * g), grads), count + 1

    return optax.GradientTransformation(lambda _: jnp.int32(0), update)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e30, float("inf"), 1e4])
def test_a_run_that_breaks_late_keeps_what_was_good(size: float, tmp_path: Path) -> None:
    """Update 7 breaks it: checkpoints of steps up to 7 are good, and what was saved after them is moved aside."""
    with pytest.raises(DivergedError, match=r"The last good checkpoint, of step [67], is kept\."):
        trained(tmp_path, breaking(7, size), save_every=1, max_streak=4, steps=12)
    steps = [int(name) for name in saved(tmp_path) if name.isdigit()]
    assert steps and max(steps) in (6, 7)


@pytest.mark.slow
def test_a_streak_from_a_sound_state_saves_it(tmp_path: Path) -> None:
    """Batches that are not finite say nothing against the parameters: validation does."""
    broken = X.copy()
    broken[5:] = np.nan
    with pytest.raises(DivergedError, match=r"4 steps in a row .* The state is as it was before them, and is saved\."):
        trained(tmp_path, x=broken, max_streak=4, validate_every=100)
    assert saved(tmp_path) == ["4"]


@pytest.mark.parametrize(("select", "best"), [("best", 2), pytest.param("last", 6, marks=SLOW)])
def test_a_validation_that_is_not_sound_is_never_the_best(
    select: str, best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a number, infinite, or far below the untrained model; for either way of selecting."""
    bounds = iter([float("nan"), -5.0, float("inf"), -1e9, float("nan"), -6.0])
    monkeypatch.setattr(Machine, "validate", lambda *_: lambda *_: (next(bounds), np.zeros(2, np.float32)))
    outcome = trained(tmp_path, steps=6, validate_every=1, select=select)
    assert outcome.progress.best_step == best
    assert finite(outcome.state)


def test_what_counts_as_sound() -> None:
    """On the scale of the untrained model, which a resumed run has from its first row."""
    fresh = Soundness(0, [])
    assert fresh.least == -np.inf
    metrics = {"loss": np.array([3.0, 2.0]), "elbo": np.array([-3.0, -2.0]), "log_px": np.array([-2.5, -1.0])}
    fresh.trained(0, metrics)
    assert (fresh.least, fresh.step, fresh.doubted) == (-REASON * 3.0, 1, False)
    fresh.trained(2, {name: np.array([value[0], np.nan]) for name, value in metrics.items()})
    assert (fresh.step, fresh.doubted) == (2, True)
    fresh.trained(4, {name: value * 1e6 for name, value in metrics.items()})
    assert (fresh.step, fresh.doubted) == (2, True)
    resumed = Soundness(9, [{"step": 1, "elbo": None, "log_px": None}, {"step": 2, "elbo": -3.0, "log_px": -2.0}])
    assert (resumed.least, resumed.step) == (fresh.least, 8)
