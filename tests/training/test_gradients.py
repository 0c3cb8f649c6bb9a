"""Clipping, and steps that are skipped because their gradient is too large."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array
from support.toys import Flow

from hvae_jax.objectives import Batch, Forward, Objective
from hvae_jax.training import Gradients, Training, TrainState, make_step
from hvae_jax.training.gradients import NOTHING_USUAL, WARM
from hvae_jax.training.watch import Watch

pytestmark = pytest.mark.leg

KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class Given(Objective):
    """A loss whose gradient is the batch's first row."""

    def init(self) -> tuple[()]:
        """No state."""
        return ()

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """The inner product with the parameters."""
        return (variables["params"] * batch.x[0]).sum(), {"rates": jnp.zeros(1)}, state, {}


def fresh() -> TrainState:
    """Two parameters at 0, for SGD."""
    zero, place = jnp.int32(0), jnp.zeros(2)
    usual, opt_state = jnp.float32(NOTHING_USUAL), optax.sgd(1.0).init(place)
    return TrainState(zero, place, {}, opt_state, (), place, {}, zero, zero, usual)


def walk(gradients: list[list[float]], limits: Gradients | None) -> list[tuple[TrainState, dict[str, Array]]]:
    """State and metrics after each of these gradients, by SGD at rate 1 from 0, the average following at once."""
    optimiser, state = optax.sgd(1.0), fresh()
    step, history = jax.jit(make_step(Flow(), Given(), optimiser, ema_decay=0.5, gradients=limits)), []
    for gradient in gradients:
        state, metrics = step(state, Batch(jnp.asarray([gradient])), KEY)
        history.append((state, metrics))
    return history


def moves(gradients: list[list[float]], limits: Gradients | None) -> list[list[float]]:
    """What each step moved the parameters by."""
    places = [np.zeros(2)] + [np.asarray(state.params) for state, _ in walk(gradients, limits)]
    return [[float(x) for x in here - there] for here, there in itertools.pairwise(places)]


def test_clipping() -> None:
    """A longer gradient keeps its direction and gets the norm; a shorter one stays; what is told is the norm before."""
    assert moves([[3.0, 4.0], [0.6, 0.8], [0.0, 0.0]], Gradients(clip=2.5)) == [
        [1.5, 2.0],
        [pytest.approx(0.6), pytest.approx(0.8)],
        [0, 0],
    ]
    assert walk([[3.0, 4.0]], Gradients(clip=2.5))[0][1]["grad_norm"] == 5.0


def test_no_limit_costs_nothing() -> None:
    """Without limits, the same program as without the record."""
    texts = []
    for limits in (None, Gradients()):
        step = make_step(Flow(), Given(), optax.sgd(1.0), gradients=limits)
        texts.append(str(jax.make_jaxpr(step)(fresh(), Batch(jnp.ones((1, 2))), KEY)))
    assert texts[0] == texts[1]


def test_large_steps_change_nothing() -> None:
    """At the threshold and above: parameters and average stay, the step is counted and called large."""
    (before, _), (after, metrics), (later, last) = walk([[1.0, 0.0], [3.0, 4.0], [1.0, 0.0]], Gradients(skip_above=5.0))
    np.testing.assert_array_equal(after.params, before.params)
    np.testing.assert_array_equal(after.ema, before.ema)
    assert (int(after.step), int(after.skipped), int(after.streak)) == (2, 1, 1)
    assert (int(metrics["skipped"]), int(metrics["large"]), float(metrics["skip_threshold"])) == (1, 1, 5.0)
    assert (int(last["skipped"]), int(last["large"]), int(later.streak)) == (0, 0, 0)


def test_a_step_that_is_not_finite_is_not_large() -> None:
    """It is skipped for another reason, and its norm is not remembered."""
    before, after = walk([[1.0, 0.0], [np.nan, 0.0]], Gradients(skip_above=5.0, skip_factor=10.0))
    assert (int(after[1]["skipped"]), int(after[1]["large"])) == (1, 0)
    np.testing.assert_array_equal(after[0].usual_norm, before[0].usual_norm)


def test_the_streak_is_bounded() -> None:
    """A threshold below every norm: after two skipped steps one is taken at the threshold, or at the clip."""
    assert moves([[0.0, 8.0]] * 6, Gradients(skip_above=4.0, skip_streak=2))[2::3] == [[0, 4], [0, 4]]
    assert moves([[0.0, 8.0]] * 6, Gradients(clip=1.0, skip_above=4.0, skip_streak=2)) == [[0, 0], [0, 0], [0, 1]] * 2
    bad = [[np.inf, 0.0]]
    history = walk([[8.0, 0.0]] * 2 + bad + [[8.0, 0.0]], Gradients(skip_above=4.0, skip_streak=2))
    assert [int(metrics["skipped"]) for _, metrics in history] == [1, 1, 1, 0]


def test_the_adaptive_threshold() -> None:
    """Silent while it warms up; then so many times the geometric mean; the lower one of two."""
    steady = [[1.0, 0.0], [4.0, 0.0]] * (WARM // 2)
    history = walk([[64.0, 0.0], *steady, [1000.0, 0.0], [15.0, 0.0]], Gradients(skip_factor=10.0))
    assert not any(int(metrics["large"]) for _, metrics in history[:-2])
    logs = np.log([64.0] + [1.0, 4.0] * (WARM // 2))
    weights = 0.99 ** np.arange(len(logs))[::-1]
    usual = np.exp((weights * logs).sum() / weights.sum())
    assert history[-2][1]["skip_threshold"] == pytest.approx(10 * usual, rel=1e-4)
    assert (int(history[-2][1]["large"]), int(history[-1][1]["large"])) == (1, 0)
    both = walk([*steady, [5.0, 0.0]], Gradients(skip_above=3.5, skip_factor=10.0))
    assert both[-1][1]["skip_threshold"] == 3.5


def test_the_adaptive_threshold_follows() -> None:
    """One wild norm hardly moves it; norms that stay a hundred times as large are taken in the end, all of them."""
    calm = [[1.0, 0.0]] * 100
    history = walk([*calm, [1e15, 0.0], [1.0, 0.0]], Gradients(skip_factor=10.0))
    assert int(history[100][1]["large"]) == 1
    assert history[101][1]["skip_threshold"] == pytest.approx(10.0, rel=0.05)
    history = walk([*calm, *[[100.0, 0.0]] * 300], Gradients(skip_factor=10.0))
    large = [int(metrics["large"]) for _, metrics in history]
    assert sum(large[100:200]) > 50
    assert not any(large[-50:])


def test_in_words() -> None:
    """The watch tells steps that are too large from steps that are not finite, once."""
    row = {"elbo": -1.0, "loss": 1.0, "log_px": -1.0, "grad_norm": 350.0, "skip_threshold": 400.0}
    watch = Watch()
    said = [
        sentence for i in range(1, 5) for sentence in watch({**row, "step": 100 * i, "skipped": 30.0, "large": 30.0})
    ]
    assert len(said) == 1
    assert said[0].startswith(
        "30 of the last 100 steps were skipped, because the norm of their gradient was at the thr"
    )
    assert "400, or above it, those that were taken about 350" in said[0]
    watch = Watch()
    assert "not finite" in watch({**row, "step": 100, "skipped": 30.0, "large": 0.0})[0]
    assert Watch()({**row, "step": 100, "skipped": 5.0, "large": 5.0}) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("clip", 0.0), ("skip_above", -1.0), ("skip_factor", 1.0), ("skip_streak", 0), ("clip", np.nan)],
)
def test_limits_that_are_none(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"gradients.{field} is|Gradients\({field}=nan\): it has to be a number"):
        Gradients(**{field: value})


def test_a_streak_that_would_end_the_run() -> None:
    """A run ends after `max_streak` skipped steps; large ones alone must not come to that."""
    with pytest.raises(ValueError, match="has to be less than max_streak, 10,"):
        Training(max_streak=10, gradients=Gradients(skip_above=1.0))
