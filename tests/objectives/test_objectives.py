"""What all objectives share: one step of each, settings, the command line, and errors."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tyro
from support.hand_made import KEY, RNG, call

from hvae_jax.experiment import Experiment, settings
from hvae_jax.likelihoods import Categorical
from hvae_jax.models import TopDownVAE
from hvae_jax.objectives import (
    GECO,
    Batch,
    Constant,
    Cosine,
    Cyclical,
    Distortion,
    Exponential,
    FreeBits,
    GammaBalance,
    ImportanceWeighted,
    Linear,
    NVAEBalance,
    Objective,
    RateTarget,
    Regularised,
    ScheduledSmoothing,
    SquaredError,
    Tripling,
)
from hvae_jax.training import Plan, make_step
from hvae_jax.training.metrics import summarise
from hvae_jax.training.state import state_from

OBJECTIVES = [
    Regularised(4.0),
    Regularised(
        (1.0, 0.5),
        Cyclical((0, 10), 1000),
        FreeBits((0.1, 0.2), "element", "sample", Cosine(0, 10, initial=1.0, final=0.0)),
        GammaBalance(),
    ),
    Regularised(warm_up=Linear(0.1, 300.1, floor=1e-4), balance=NVAEBalance()),
    RateTarget(3.0),
    GECO((Distortion(1.0), SquaredError(0.5)), Regularised(free_bits=FreeBits(0.5)), multiplier="softplus"),
    ImportanceWeighted(3),
    ImportanceWeighted(2, "stl"),
    ImportanceWeighted(2, "dreg"),
    ScheduledSmoothing(Regularised(), Linear(0, 1, 0.5, 1.0)),
]
MODEL = TopDownVAE((2, 3), hidden=4, likelihood=Categorical(3))


@functools.cache
def variables() -> dict[str, Any]:
    """Fresh variables of MODEL: the same for every objective, so that they are compiled once."""
    return jax.jit(MODEL.init)(KEY, jnp.zeros((8, 5), jnp.uint8), KEY)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: type(objective).__name__)
def test_one_step_of_each(objective: Objective) -> None:
    """Jitted and scanned: a finite loss, the bare metrics, and metrics that stack and fit a row of numbers."""
    optimiser, x = optax.sgd(0.1), jnp.asarray(RNG.integers(0, 3, (8, 5)), jnp.uint8)
    state = state_from(variables(), objective, optimiser)
    step = make_step(MODEL, objective, optimiser)
    after, metrics = jax.jit(
        lambda state: jax.lax.scan(lambda s, k: step(s, Batch(x), k), state, jax.random.split(KEY, 2))
    )(state)
    metrics = jax.device_get(metrics)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after, metrics)))
    assert after.skipped == 0
    assert {"elbo", "log_px", "rates", "loss"} < set(metrics)
    assert all(v.shape == ((2, 2) if name == "rates" else (2,)) for name, v in metrics.items())
    np.testing.assert_allclose(metrics["elbo"], metrics["log_px"] - metrics["rates"].sum(1), rtol=1e-5)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.statistics, state.statistics)
    assert all(jax.tree.leaves(moved))
    assert set(metrics) - {"rates"} < set(summarise(metrics, ("z2", "z1"), 2, Plan(16, 8, 2, 2)))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: type(objective).__name__)
def test_settings_round_trip(objective: Objective) -> None:
    """An objective survives the way to JSON and back."""
    experiment = Experiment("x", MODEL, objective=objective)
    assert settings.from_json(settings.to_json(experiment)) == experiment


@pytest.mark.parametrize(
    ("objective", "arguments", "expected"),
    [
        (Regularised(), "--beta 4", Regularised(4.0)),
        (
            Regularised(warm_up=Linear()),
            "--beta 1 0.5 --warm-up.end 5 7 --free-bits.nats 0.5 --free-bits.group element",
            Regularised((1.0, 0.5), Linear(end=(5.0, 7.0)), FreeBits(0.5, "element")),
        ),
        (RateTarget(3.0), "--target 5 --schedule.value 0.5", RateTarget(5.0, schedule=Constant(0.5))),
        (
            GECO((Distortion(1.0), SquaredError(0.5))),
            "--constraints.1.kappa 0.1 --rate.beta 2 --bounds 0.1 10 --multiplier softplus",
            GECO((Distortion(1.0), SquaredError(0.1)), Regularised(2.0), bounds=(0.1, 10.0), multiplier="softplus"),
        ),
        (ImportanceWeighted(), "--k 7 --gradient dreg", ImportanceWeighted(7, "dreg")),
    ],
)
def test_the_command_line_sets_them(objective: Objective, arguments: str, expected: Objective) -> None:
    """Settings are set by name, as fields of an experiment."""
    words = [f"--objective.{word[2:]}" if word.startswith("--") else word for word in arguments.split()]
    got = tyro.cli(Experiment, args=words, default=Experiment("x", MODEL, objective=objective))
    assert got.objective == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Regularised(beta=-1.0), r"beta=-1.0.*0 or more"),
        (lambda: Regularised(beta=(1.0, -0.5)), r"beta=\(1.0, -0.5\).*0 or more"),
        (lambda: Regularised(beta=float("nan")), "a number or a tuple"),
        (lambda: Regularised(beta=float("inf")), "finite"),
        (lambda: Regularised(beta=()), "one a level"),
        (lambda: FreeBits(-0.1), "nats=-0.1"),
        (lambda: FreeBits(0.1, "layer"), "'level', 'channel' or 'element'"),
        (lambda: FreeBits(0.1, average="both"), "'batch' or 'sample'"),
        (lambda: Linear(10, 9), r"start=10, end=9.*not end before"),
        (lambda: Linear((0, 10), (5, 5)), "not end before"),
        (lambda: Linear((0, 10), (5, 15, 20)), "start has 2, end has 3"),
        (lambda: Linear(initial=-1.0), "initial=-1.0"),
        (lambda: Cosine(10, 9), "not end before"),
        (lambda: Cyclical(10, 10), "end after its start"),
        (lambda: Cyclical(cycles=0), "at least one cycle"),
        (lambda: Cyclical(rise=0.0), "rise"),
        (lambda: Constant(-1.0), "value=-1.0"),
        (lambda: Tripling(0), "1 step or more"),
        (lambda: Tripling(10, stages=1), "2 stages or more"),
        (lambda: Exponential(1.5), "above 0 and at most 1"),
        (lambda: Exponential(floor=-1.0), "floor=-1.0"),
        (lambda: NVAEBalance(0.0), "above 0"),
        (lambda: GammaBalance(-1), "0 or more"),
        (lambda: RateTarget(-1.0), "target=-1.0"),
        (lambda: SquaredError(-1.0), "kappa=-1.0"),
        (lambda: Distortion(float("inf")), "target=inf"),
        (lambda: GECO(()), "at least one"),
        (lambda: GECO((Distortion(1.0), Distortion(2.0))), "each name once"),
        (lambda: GECO((Distortion(1.0),), decay=1.0), "decay=1.0"),
        (lambda: GECO((Distortion(1.0),), bounds=(2.0, 3.0)), "initial=1.0"),
        (lambda: GECO((Distortion(1.0),), bounds=(0.0, 3.0)), "above 0"),
        (lambda: GECO((Distortion(1.0),), eta=-1.0), "eta=-1.0"),
        (lambda: GECO((Distortion(1.0),), multiplier="exp"), "'log' or 'softplus'"),
        (lambda: ImportanceWeighted(0), r"k=0.*1 or more"),
        (lambda: ImportanceWeighted(2.5), r"k=2.5.*whole number"),
        (lambda: GECO(Distortion(1.0)), r"a tuple.* For one item: \(Distortion"),
        (lambda: Regularised(beta=[1.0, -1.0]), r"beta=\(1.0, -1.0\).*0 or more"),
        (lambda: Regularised(beta=np.ones(2)), r"a tuple"),
        (lambda: ImportanceWeighted(5, "reinforce"), "'plain', 'stl' or 'dreg'"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    """The error comes when the setting is made, before anything runs, and names it."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Regularised(beta=(1.0, 2.0)), "beta has 2 values, but the model has 3 levels"),
        (Regularised(warm_up=Linear((0.0, 1.0), 5)), "warm_up has 2 values"),
        (Regularised(free_bits=FreeBits((1.0, 1.0))), "free_bits.nats .* has 2 values"),
        (Regularised(free_bits=FreeBits(1.0, "channel")), "'top'.*is a vector.*'element'"),
        (RateTarget((1.0, 2.0)), "target .* has 2 values"),
    ],
)
def test_settings_that_do_not_fit_the_model(objective: Objective, message: str) -> None:
    """The error comes at the model's first trace."""
    with pytest.raises(ValueError, match=message):
        call(objective)
