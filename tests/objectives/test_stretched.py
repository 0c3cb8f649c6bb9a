"""Schedules stretched to another length of training."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax import recipes
from hvae_jax.experiment import Training
from hvae_jax.experiment.run import in_time
from hvae_jax.objectives import (
    GECO,
    Constant,
    Cosine,
    Cyclical,
    Distortion,
    Exponential,
    FreeBits,
    GammaBalance,
    Geometric,
    Linear,
    NegativeELBO,
    Product,
    Regularised,
    SpectralRegularised,
    Tripling,
    stretched,
)

SCHEDULES = [
    Constant(2.0),
    Linear(-1, 99),
    Linear((20.0, 40.0), (500.0, 900.0), floor=1e-4),
    Linear(300, 300),
    Cosine(100, 800, initial=1.0, final=0.1),
    Cyclical(0, 800, cycles=4),
    Product((Linear(-1, 99), Cosine(0, 800, initial=1.0, final=0.05))),
    Tripling(800, stages=3),
    Exponential(0.999, floor=0.5),
    Geometric(Linear(1, 400), 1.0, 0.01),
]
EXAMPLES = {
    "digits": 1_000,
    "mnist": 50_000,
    "binarized_mnist": 50_000,
    "cifar10": 45_000,
    "celeb_a64": 162_770,
    "downsampled_imagenet32": 1_276_149,
    "omniglot": 23_000,
}
"""Sizes of train splits, as the data sets' docstrings have them; those of folders are the user's."""


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_schedule_in_another_time(schedule: object, factor: float) -> None:
    """v(t) becomes v(t / factor)."""
    other = stretched(schedule, factor)
    for t in (0, 40, 80, 200, 400, 796, 1000):
        np.testing.assert_allclose(other(jnp.float32(t * factor)), schedule(jnp.float32(t)), rtol=2e-5)


def test_schedules_at_any_depth() -> None:
    """Of an objective around another, of free bits, balance and a delay; the rest stays, and all for a factor of 1."""
    base = Regularised(2.0, Linear(0, 100), FreeBits(1.0, schedule=Linear(0, 50)), GammaBalance(1000))
    whole = SpectralRegularised(base, Geometric(Linear(0, 100), 1.0, 0.01))
    assert stretched(whole, 1.0) is whole
    half = stretched(whole, 0.5)
    assert half.base == Regularised(2.0, Linear(0, 50), FreeBits(1.0, schedule=Linear(0, 25)), GammaBalance(500))
    assert half.weight == Geometric(Linear(0, 50), 1.0, 0.01) and half.first == whole.first
    assert stretched(NegativeELBO(), 0.5) == NegativeELBO() and stretched(GammaBalance(0), 0.5) == GammaBalance(0)
    assert (
        stretched(GammaBalance(3), 0.01) == GammaBalance(1)
        and stretched(GECO((Distortion(90.0),), delay=100), 0.5).delay == 50
    )
    with pytest.raises(ValueError, match="above 0"):
        stretched(whole, 0.0)


def test_a_schedule_of_ones_own() -> None:
    """Is asked, where it says how, and left as it is otherwise."""

    @dataclasses.dataclass(frozen=True)
    class Own:
        steps: int = 10

        def stretched(self, factor: float) -> "Own":
            return Own(round(self.steps * factor))

    assert stretched((Own(), Linear(0, 10)), 0.5) == (Own(5), Linear(0, 5))
    assert stretched(print, 0.5) is print


@pytest.mark.parametrize("recipe", recipes.names())
def test_presets_at_their_own_length_are_as_they_were(recipe: str) -> None:
    """`schedule_steps` is the length of the preset's own run, so that nothing is stretched."""
    for name, experiment in recipes.presets_of(recipe).items():
        training, data = experiment.training, experiment.data
        if training.schedule_steps is None:
            continue
        examples = EXAMPLES.get(data.name)
        if (recipe, name) == ("cagem", "mnist"):
            examples = 50_000 - 100 + 55 * 100  # labelled ones are repeated
        if training.steps is None and examples is None:
            assert data.name in ("faces", "ffhq")
            continue
        assert in_time(experiment, examples or 10_000) == (experiment.objective, experiment.optimiser), name


def test_a_shorter_run_anneals(capsys: pytest.CaptureFixture[str]) -> None:
    """By --steps, by --epochs, by a larger batch and on other data; it is said, and can be turned off."""
    experiment = recipes.experiment_of("vdvae")
    shorter = dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, steps=320))
    _, optimiser = in_time(shorter, 1000)
    assert optimiser.schedule.factors[1].end == 320 and optimiser.schedule.factors[0].end == pytest.approx(9.9)
    assert "stretched from 3,200 to 320 steps" in capsys.readouterr().out
    published = recipes.experiment_of("nvae", "cifar10")
    objective, optimiser = in_time(published, 45_000 // 10)
    assert optimiser.schedule.factors[1].end == pytest.approx(400 * 196 * 18 / 176)
    assert objective.base.warm_up.end == pytest.approx(0.3001 * 400 * 196 * 18 / 176)
    kept = dataclasses.replace(shorter, training=dataclasses.replace(shorter.training, schedule_steps=None))
    assert in_time(kept, 1000)[1] == kept.optimiser
    with pytest.raises(ValueError, match="schedule_steps is 0"):
        Training(schedule_steps=0)


def test_the_labelled_examples_of_cagem() -> None:
    """The size of its train split, by the function that repeats them."""
    from hvae_jax.data.few_labels import _times

    assert _times(50_000, 100, 0.1) == 55
