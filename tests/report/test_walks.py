"""The pictures of a report: what they show, and by how many programs."""

from typing import Any

import jax
import numpy as np
import pytest

import hvae_jax as hv
from hvae_jax.data import Dataset, Split, integer
from hvae_jax.diagnostics import level_by_level
from hvae_jax.models import TopDownVAE
from hvae_jax.report import walks

KEY = jax.random.key(0)
MODEL = TopDownVAE(latents=(2, 3), hidden=8, likelihood=hv.Categorical(3))
X = np.random.default_rng(0).integers(0, 3, (9, 4, 4, 1)).astype(np.uint8)
REPORT = {
    "split": "test",
    "levels": ["z2", "z1"],
    "verdicts": ["used", "unclear"],
    "rates": [{"value": 2.0}, {"value": 1.0}],
    "units": [{"order": [1, 0]}, {"order": [2, 0, 1]}],
}


@pytest.fixture(scope="module")
def variables() -> Any:
    """Untrained."""
    return jax.jit(MODEL.init)(KEY, X, KEY)


def test_two_programs_make_all_pictures(variables: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One infers, one decodes; the third is the circle between two arrays of noise."""
    made: list[str] = []

    def counted(function: Any) -> Any:
        made.append(function.__name__)
        return jax.jit(function)

    monkeypatch.setattr(walks, "jit", counted)
    monkeypatch.setattr(walks, "jit_once", counted)
    splits = {"train": Split(X, None), "test": Split(X, None)}
    pictures = walks.walk_pictures(MODEL, variables, Dataset("toy", splits, integer(3), "made up"), REPORT, KEY)
    assert made == ["infer", "decode", "<lambda>"]
    assert [one.kind for one in pictures] == ["levels", "changes", "samples", "walk", "walk", "circle", "data"]
    assert all(one.png.startswith(b"\x89PNG") for one in pictures)
    assert pictures[0].columns == ("none", "z2", "z1", "image") and pictures[1].columns == ("z2", "z1")
    assert pictures[3].columns == ("-2.5", "-1.7", "-0.8", "0", "+0.8", "+1.7", "+2.5")


def test_what_noise_decodes_to(variables: Any) -> None:
    """Without noise below level k it is the reconstruction from the top k; circles and traversals pass through x."""
    by_level, found = walks._decoded(MODEL, variables, X[:8], None, REPORT, KEY, np.arange(3))
    samples, top, bottom, ways = (images for _, images in found)
    key_x = jax.random.split(KEY, 3)[0]
    wanted = jax.jit(lambda v: level_by_level(MODEL, v, X[:8], key_x))(variables)
    np.testing.assert_allclose(by_level, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ways[:, 0], by_level[:, 2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ways[:, -1], np.roll(by_level[:, 2], 1, axis=0), rtol=1e-3, atol=1e-4)
    assert samples.shape == (8, 8, 4, 4, 1) and set(np.unique(samples)) <= {0.0, 1.0, 2.0}
    assert top.shape == bottom.shape == (8, walks.STEPS, 4, 4, 1)
    assert np.ptp(top, axis=1).max() > 0 and np.ptp(bottom, axis=1).max() > 0


def test_labels_of_depths() -> None:
    """By name where every level has a column, by number in deeper models and in those with stages."""
    assert walks.depth_labels(["z2", "z1"], 2, [0, 1, 2]) == (("none", "z2", "z1"), ("z2", "z1"))
    names = [f"z{i}" for i in range(40)]
    kept, added = walks.depth_labels(names, 40, [0, 1, 20, 40])
    assert kept == ("0", "1", "20", "40") and added == ("1", "2-20", "21-40")
    assert walks.depth_labels(names, 2, [0, 1, 2]) == (("0", "1", "2"), ("1", "2"))
