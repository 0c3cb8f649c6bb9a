"""The study of spectral regularisation: curves from the rows of a run, and runs that it refuses."""

import json
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.contract import plausible_variables
from support.places import STUDIES, script

from hvae_jax.experiment import Experiment
from hvae_jax.likelihoods import Bernoulli
from hvae_jax.models import NVAE
from hvae_jax.objectives import NegativeELBO, Objective, SpectralRegularised
from hvae_jax.runtime.trees import leaves_by_path
from hvae_jax.training.checkpoint import Progress


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.syspath_prepend(STUDIES)
    return script(STUDIES / "spectral.py")


def rows(levels: int) -> list[dict[str, Any]]:
    """Rows of three dispatches."""
    each = {f"{name}/z{i}": 1.0 for name in ("balance", "rate") for i in range(levels)}
    numbers = {"spectral": 20.0, "largest_gains": 5.0, "lambda_sr": 0.1, "beta": 0.5}
    return [{"step": step, **numbers, **each} for step in (10, 20, 30)]


def test_curves_become_a_picture(study: types.ModuleType, tmp_path: Path) -> None:
    """Two runs of different numbers of groups, the levels in the order of the rows."""
    runs = [study.Curves(f"run_{n}", rows(n), 10, 4, 19.5, 20) for n in (1, 5)]
    study.draw(runs, tmp_path / "spectral.png")
    assert (tmp_path / "spectral.png").read_bytes()[:4] == b"\x89PNG" and (tmp_path / "spectral.svg").exists()
    assert runs[1].levels("rate") == [f"z{i}" for i in range(5)]
    np.testing.assert_array_equal(runs[0].of("spectral"), ([10, 20, 30], [20.0] * 3))


@pytest.mark.slow
def test_a_run_is_read(study: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact sum is that of power iterations, convolutions and batch norms are counted, other rows are left out."""
    model = NVAE((2, 2, 1), groups=(2,), latents=1, width=2, halvings=0, likelihood=Bernoulli())
    objective = SpectralRegularised(iterations=200)
    drawn = plausible_variables(model, jnp.zeros((1, 2, 2, 1), jnp.uint8), None)
    variables = jax.tree.map(jnp.asarray, drawn)
    left = jax.jit(objective.init)(variables)["left"]
    total = float(jax.jit(objective.spectral)(variables, left)[0])
    numbers = [{"step": 10, "spectral": total}, {"step": 20, "validation/elbo": -1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in numbers))

    def opened(objective: Objective) -> Any:
        return lambda folder: (Experiment("one", model, objective=objective), variables, Progress(best_step=10))

    monkeypatch.setattr(study, "open_variables", opened(objective))
    found = study.curves_of(tmp_path)
    assert found.rows == numbers[:1] and found.best == 10
    np.testing.assert_allclose(found.exact, total, rtol=1e-4)
    assert found.kernels == sum(len(w) for w in objective.matrices(variables).values())
    # the scales of batch norms, those of scanned groups one by one
    scales = [leaf for path, leaf in leaves_by_path(variables["params"]).items() if path.endswith("/scale")]
    assert found.norms == sum(leaf.size // leaf.shape[-1] for leaf in scales)
    monkeypatch.setattr(study, "open_variables", opened(NegativeELBO()))
    with pytest.raises(ValueError, match="was trained on NegativeELBO: there are no singular values"):
        study.curves_of(tmp_path)
