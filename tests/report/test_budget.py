"""The effort of a report within a budget of seconds."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hvae_jax as hv
from hvae_jax.data import Dataset, Split, integer
from hvae_jax.models import TopDownVAE
from hvae_jax.report import bounds, budget
from hvae_jax.report.budget import LEAST, fit_effort, passes
from hvae_jax.report.diagnosis import Effort
from hvae_jax.report.labels import DRAWS

KEY = jax.random.key(0)
X = np.zeros((3000, 4, 4, 1), np.uint8)
SPLIT = Split(X, np.arange(3000, dtype=np.int32) % 3)
DATA = Dataset("toy", {"train": SPLIT, "test": SPLIT}, integer(3), "made up")


@pytest.fixture(scope="module", params=[(2,), (2,) * 3], ids=["1 level", "3 levels"])
def model(request: pytest.FixtureRequest) -> tuple[TopDownVAE, Any]:
    """A model with the shapes of its variables: nothing is computed."""
    made = TopDownVAE(latents=request.param, hidden=8, likelihood=hv.Categorical(3))
    return made, jax.eval_shape(made.init, KEY, X[:2], KEY)


def test_a_budget_halves_the_effort_until_it_fits(model: tuple[TopDownVAE, Any]) -> None:
    """Without a budget it is what was asked for; a smaller budget gives a smaller effort, never below the least."""
    full, seconds = fit_effort(Effort(), None, *model, DATA)
    assert full == Effort() and seconds > 0
    half, fewer = fit_effort(Effort(), seconds / 2, *model, DATA)
    assert fewer <= seconds / 2 and half.k == 100 and half.examples == 500
    least, _ = fit_effort(Effort(), 0.0, *model, DATA)
    assert least == LEAST
    small = Effort(examples=30, draws=1, k=4, latents=6, probed=30, depths=2)
    assert fit_effort(small, 0.0, *model, DATA)[0] == small


def test_a_split_that_is_not_there_is_left_to_the_report(model: tuple[TopDownVAE, Any]) -> None:
    """Its error names the splits there are; the budget has none of its own."""
    assert fit_effort(Effort(), None, *model, DATA, "dev")[0] == Effort()


def test_passes_count_what_there_is(model: tuple[TopDownVAE, Any]) -> None:
    """A split smaller than asked for, data without labels, fewer levels than depths."""
    few = Dataset("few", {"train": SPLIT.take(slice(50)), "test": SPLIT.take(slice(10))}, integer(3), "made up")
    effort = Effort(draws=2, k=3, depths=2)
    depths = min(effort.depths, model[0].num_levels)
    each = 3 + 10 + 2 * (1 + model[0].num_levels + depths) + 2 + DRAWS
    assert passes(effort, model[0], few) == 10 * each + 10 * 2 + 50 * DRAWS
    assert passes(effort, model[0], few, "train") == 50 * (each + 40) + 50 * DRAWS  # no other training examples
    bare = dataclasses.replace(few, splits={name: Split(split.x, None) for name, split in few.splits.items()})
    assert passes(effort, model[0], bare) == 10 * each + 10 * 2


def test_an_accelerator_has_time_for_more(model: tuple[TopDownVAE, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend decides, not the clock."""
    _, seconds = fit_effort(Effort(), None, *model, DATA)
    monkeypatch.setattr(budget.jax, "default_backend", lambda: "tpu")
    assert fit_effort(Effort(), seconds / 10, *model, DATA)[0] == Effort()


def test_of_many_levels_some_bounds_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the effort says, evenly spread, the ELBO and the deepest one among them."""
    monkeypatch.setattr(bounds, "bound_above", lambda model, v, x, key, k, draws, y: 1.0 * k + jnp.zeros(len(x)))
    deep, x = TopDownVAE(latents=(2,) * 9, hidden=8), np.zeros((4, 2))
    found = bounds.Bounds(deep, {}, KEY, 1).above(x, None, 5, np.zeros(4), np.full(4, np.nan), None)
    assert [(entry["k"], entry["bound"]["value"]) for entry in found] == [(k, k) for k in (0, 2, 4, 6, 8)]
