"""Batch statistics moved to those of samples: which change, towards what, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import case, jitter

from hvae_jax.models import recalibrate
from hvae_jax.runtime.trees import leaves_by_path

KEY = jax.random.key(0)


def made(name: str) -> tuple:
    """A small model of the contract table, and its variables."""
    one = case(name)
    variables = jax.jit(one.model.init)(KEY, one.x, KEY)
    return one, {**variables, "params": jitter(variables["params"], scale=0.3)}


@pytest.mark.parametrize("name", ["top_down_2", pytest.param("nvae", marks=pytest.mark.slow)])
def test_statistics_become_those_of_samples(name: str) -> None:
    """After many steps the mean of what a top-down batch norm sees is its running mean; the bottom-up ones stay."""
    one, variables = made(name)
    before = leaves_by_path(variables["batch_stats"])
    moved = recalibrate(one.model, variables, KEY, steps=100, batch=16)
    after = leaves_by_path(moved["batch_stats"])
    changed = {path.partition("/")[0] for path in after if not np.array_equal(before[path], after[path])}
    down = {"px", "prior1"} if name == "top_down_2" else {"down2", "grow2"}
    assert changed == down
    assert moved["params"] is variables["params"]

    def seen(statistics: dict) -> dict:
        """The running statistics after one more step, over many samples."""
        options = {"method": "decode", "train": True, "mutable": ["batch_stats"]}
        return one.model.apply({**moved, "batch_stats": statistics}, jax.random.key(1), 4096, **options)[1]

    once = leaves_by_path(jax.jit(seen)(moved["batch_stats"])["batch_stats"])
    for path in after:
        if path.partition("/")[0] in down and path.endswith("mean"):
            deviation = np.sqrt(after[path.removesuffix("mean") + "var"])
            # a step keeps 90% or more of what was: little is left to move
            assert (np.abs(once[path] - after[path]) < 0.05 * deviation + 1e-6).all(), path


def test_the_temperature_counts() -> None:
    one, variables = made("top_down_2")
    cold, warm = (
        recalibrate(one.model, variables, KEY, steps=20, temperature=t)["batch_stats"]["px"]["norm_0"]["var"]
        for t in (0.0, 1.0)
    )
    assert (np.asarray(cold) < np.asarray(warm)).all()


def test_what_is_refused() -> None:
    """A model without batch statistics, no steps, and statistics that are not finite, which are not returned."""
    plain = case("vae")
    variables = jax.jit(plain.model.init)(KEY, plain.x, KEY)
    with pytest.raises(ValueError, match="VAE keeps no batch statistics"):
        recalibrate(plain.model, variables, KEY)
    one, variables = made("top_down_2")
    with pytest.raises(ValueError, match=r"steps=0, batch=16\): at least 1 step"):
        recalibrate(one.model, variables, KEY, steps=0)
    broken = {**variables, "params": jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.inf), variables["params"])}
    with pytest.raises(ValueError, match=r"infinite or NaN, .* first"):
        recalibrate(one.model, broken, KEY, steps=2)
