"""Codes and scores of examples, against the trace and against the bounds that they are made of."""

from typing import Any

import jax
import numpy as np
import pytest
from support.contract import assert_close, plausible_variables
from support.trained import MODEL, X

from hvae_jax.diagnostics import codes, example_scores, likelihood_ratio, on_circle
from hvae_jax.diagnostics.codes import check_levels
from hvae_jax.objectives import importance

KEY = jax.random.key(3)
SOME = jax.numpy.asarray(X[:5])


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """All codes and scores, with what they are compared with, by one program."""

    def every(v: Any) -> dict[str, Any]:
        cold = MODEL.apply(v, SOME, KEY, posterior_temperature=0.0)
        drawn = MODEL.apply(v, SOME, KEY)
        bound_key, above_key = jax.random.split(KEY)
        return {
            "mean": codes(MODEL, v, SOME, KEY),
            "mean of draws": codes(MODEL, v, SOME, KEY, posterior_temperature=1.0),
            "sample": codes(MODEL, v, SOME, KEY, "sample", ("z1",)),
            "noise": codes(MODEL, v, SOME, KEY, "noise"),
            "cold": [level.q.mean for level in cold.levels],
            "drawn": [(level.z, level.q.mean, level.p.mean, level.p.std) for level in drawn.levels],
            "scores": example_scores(MODEL, v, SOME, KEY, draws=6, above=(2, 1), above_draws=3, chunk=2),
            "bound": importance(MODEL, v, SOME, bound_key, 6, 2),
            "llr": [likelihood_ratio(MODEL, v, SOME, above_key, k, 3) for k in (1, 2)],
        }

    return jax.device_get(jax.jit(every)(plausible_variables(MODEL, SOME, None)))


@pytest.mark.slow
def test_codes(found: dict[str, Any]) -> None:
    """Means without noise above, or given a draw; samples are z; noise is (z - m_p)/s_p."""
    for i, name in enumerate(("z2", "z1")):
        z, mean, prior_mean, prior_std = found["drawn"][i]
        assert_close(found["mean"][name], found["cold"][i])
        assert_close(found["mean of draws"][name], mean)
        assert_close(found["noise"][name], (z - prior_mean) / prior_std, rtol=1e-4)
    assert list(found["sample"]) == ["z1"]
    assert_close(found["sample"]["z1"], found["drawn"][1][0])
    assert (found["mean"]["z1"] != found["mean of draws"]["z1"]).any()  # z2 was drawn there


def test_scores(found: dict[str, Any]) -> None:
    """Bounds of the same draws, and differences of bounds with the lowest levels drawn."""
    scores = found["scores"]
    assert_close(scores["elbo"], found["bound"].elbo)
    assert_close(scores["iw_bound"], found["bound"].bound)
    assert_close([scores["llr_1"], scores["llr_2"]], found["llr"], rtol=1e-4, atol=1e-4)


def test_a_circle_through_nothing() -> None:
    """Noise of a level whose posterior is its prior is 0 at temperature 0."""
    zero, one = jax.numpy.zeros((1, 3)), jax.numpy.ones((1, 3))
    assert (np.asarray(on_circle(zero, zero, 0.3)) == 0).all()
    assert np.isfinite(on_circle(zero, one, 0.3)).all()


def test_refusals() -> None:
    """Names of levels are listed, the nearest first."""
    with pytest.raises(ValueError, match=r"no level 'groups\.12'. Did you mean 'groups\.1'\?"):
        check_levels(("groups.0", "groups.1"), ["groups.12"])
    with pytest.raises(ValueError, match="of z2, z1"):
        check_levels(("z2", "z1"), [])
    variables = plausible_variables(MODEL, SOME, None)
    with pytest.raises(ValueError, match="so 1 to 2"):
        example_scores(MODEL, variables, SOME, KEY, draws=1, above=(3,))
