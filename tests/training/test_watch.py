"""What is said of a run that goes wrong, and that nothing is said of one that goes right."""

import math
from typing import Any

import pytest

from hvae_jax.training.watch import (
    COLLAPSED_STEPS,
    COLLAPSED_VALIDATIONS,
    FAR_VALIDATIONS,
    SKIPPED_STEPS,
    WORSE_ROWS,
    Watch,
)

NAN = float("nan")


def row(step: int, elbo: float, validation: float | None = None, **changes: Any) -> dict[str, Any]:
    """A row as the loop writes it: two levels, rate 8 nats."""
    made = {"step": step, "elbo": elbo, "loss": -elbo, "log_px": elbo + 8.0, "grad_norm": 30.0, "skipped": 0.0}
    if validation is not None:
        rates = {"validation/rate/z2": 5.0, "validation/rate/z1": 3.0}
        made |= {"rate/z2": 5.0, "rate/z1": 3.0, "validation/elbo": validation, **rates}
    return made | changes


def curve(epoch: int) -> float:
    """The training ELBO of the article's run, nats: -190 at first, -80 after 80 epochs, 0.4 up and down."""
    return -78.0 - 112.0 * math.exp(-epoch / 14) + 0.4 * math.cos(2.3 * epoch)


def good(epochs: int, *, from_epoch: int = 1) -> list[dict[str, Any]]:
    """The article's run: validation is above training at first and a fifth of all that was gained below it at last."""
    rows = []
    for epoch in range(from_epoch, from_epoch + epochs):
        rate = min(0.013 * 16 ** (epoch - 1), 5.0)  # of z2, as it was
        gap = max(-9.0 + 1.6 * epoch, 0.0) if epoch < 6 else 21.0 * (1.0 - math.exp(-epoch / 40))
        rows.append(row(16 * epoch, curve(epoch), curve(epoch) - gap, **{"validation/rate/z2": rate}))
    return rows


def said(watch: Watch, rows: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(each["step"], sentence) for each in rows for sentence in watch(each)]


def test_a_sound_run_gives_no_cause() -> None:
    assert said(Watch(), good(80)) == []


def test_an_elbo_that_crosses_zero_gives_no_cause() -> None:
    """A Gaussian likelihood: the ELBO passes 0, so that it is no scale of itself."""
    rows = [row(100 * i, x := -300.0 + 10.0 * i, x - 20.0, log_px=x + 30.0) for i in range(1, 80)]
    assert said(Watch(), rows) == []


def test_noise_of_single_steps_gives_no_cause() -> None:
    """One step a dispatch, a few examples a step: rows go up and down by a tenth of the ELBO."""
    rows = [row(i, -6000.0 + 600.0 * math.sin(1.7 * i) - 11000.0 * math.exp(-i / 50)) for i in range(1, 600)]
    assert said(Watch(), rows) == []


def test_a_warm_up_gives_no_cause() -> None:
    """Beta rises from 0 to 1: the ELBO falls far below its start while the loss falls, then both rise."""
    rows = []
    for i in range(1, 101):
        beta, log_px = min(1.0, i / 80), -190.0 + 150.0 * (1.0 - math.exp(-i / 5))
        rate = 400.0 * (1.0 - math.exp(-i / 5)) * (1.0 - beta) + 8.0
        rows.append(row(16 * i, log_px - rate, loss=-log_px + beta * rate, log_px=log_px))
    assert min(each["elbo"] for each in rows) < -300.0 and said(Watch(), rows) == []


def test_a_level_that_collapses_is_named_once() -> None:
    rows = good(90)
    for each in rows[70:]:
        each["validation/rate/z1"] = 0.002
    (step, sentence), *more = said(Watch(), rows)
    assert not more and step == rows[70 + COLLAPSED_VALIDATIONS - 1]["step"]
    for part in ("1 of 2 levels", "z1 (0.002 nats)", "warm-up", "free bits"):
        assert part in sentence
    assert "z2" not in sentence and "posterior is its prior" not in sentence


def test_levels_have_time_to_come_alive() -> None:
    """A run of 60 steps is not told that its levels have collapsed, nor one that has just passed COLLAPSED_STEPS."""
    dead = {f"validation/rate/z{i}": 0.001 for i in range(8, 0, -1)}
    assert said(Watch(), [row(step, -100.0, -100.0, **dead) for step in range(10, 70, 10)]) == []
    rows = [row(100 * i, -100.0, -100.0, **dead) for i in range(1, 30)]
    ((step, _),) = said(Watch(), rows)
    assert step == COLLAPSED_STEPS + 100 * (COLLAPSED_VALIDATIONS - 1)


@pytest.mark.parametrize("name", ["beta", "beta/z1", "rate_target", "rate_target/z1"])
def test_a_warm_up_is_waited_for(name: str) -> None:
    """While a level's weight changes no validation counts; those of a constant weight do, one cycle after another."""
    dead = {"validation/rate/z1": 0.001}
    rows = [row(100 * i, -100.0, -100.0, **dead, **{name: min(1.0, i / 50)}) for i in range(1, 80)]
    ((step, sentence),) = said(Watch(), rows)
    assert step == 100 * (50 + COLLAPSED_VALIDATIONS) and "z1 (0.001 nats)" in sentence
    between = [rows[i // 2] | {"step": 50 * i} if i % 2 else row(50 * i, -100.0) for i in range(2, 100)]
    assert said(Watch(), between) == []  # dispatches without a validation in between

    cycles = [row(100 * i, -100.0, -100.0, **dead, **{name: min(1.0, i % 10 / 7)}) for i in range(10, 60)]
    ((step, _),) = said(Watch(), cycles)
    assert step == 100 * 29  # the first row, and two of ten that are constant: the 18th, 19th, 28th, 29th


def test_the_weight_of_another_level_does_not_matter() -> None:
    """z1's weight is constant, z2's changes to the end: z1 is warned of."""
    rows = [
        row(100 * i, -100.0, -100.0, **{"validation/rate/z1": 0.001, "beta/z1": 1.0, "beta/z2": i / 100})
        for i in range(1, 30)
    ]
    assert len(said(Watch(), rows)) == 1


def test_a_level_that_was_revived_may_collapse_again() -> None:
    watch, dead = Watch(), {"validation/rate/z1": 0.0}
    rows = [row(160 * i, -100.0, -100.0, **({} if i in (16, 17) else dead)) for i in range(1, 26)]
    assert [step // 160 for step, _ in said(watch, rows)] == [11, 22]


def test_many_levels_make_one_sentence() -> None:
    dead = {f"validation/rate/z{i}": 0.001 for i in range(40, 2, -1)}
    ((_, sentence),) = said(Watch(), [row(COLLAPSED_STEPS + i, -100.0, -100.0, **dead) for i in range(12)])
    assert "38 of 40 levels" in sentence and "and 33 more" in sentence and len(sentence) < 600


def test_steps_skipped_for_ever() -> None:
    """openai/vdvae issue 25. No number but the count is left then."""
    rows = good(20) + [row(16 * i, NAN, -100.0, grad_norm=NAN, skipped=16.0) for i in range(21, 60)]
    (step, sentence), *more = said(Watch(), rows)
    assert not more and 20 * 16 < step <= 20 * 16 + SKIPPED_STEPS
    assert "16 of the last 112 steps were skipped" in sentence and "learning rate" in sentence


def test_single_skipped_steps_give_no_cause() -> None:
    rows = good(80)
    rows[3]["skipped"], rows[40]["skipped"] = 5.0, 1.0
    assert said(Watch(), rows) == []
    assert said(Watch(), [row(1, -190.0, skipped=1.0), row(2, -189.0, skipped=1.0)]) == []


def test_validation_that_was_never_near_is_not_called_over_fitting() -> None:
    rows = [each | {"validation/elbo": -195.0} for each in good(80)]
    (step, sentence), *more = said(Watch(), rows)
    assert not more and step > 16 * FAR_VALIDATIONS
    (_, sentence), *more = said(Watch(), [row(16 * i, -100.0, -900.0) for i in range(1, 9)])
    assert not more and "never close" in sentence and "batch statistics" in sentence


def test_validation_that_parts_from_training() -> None:
    rows = good(40) + [row(16 * i, -80.0, -100.0 - 5.0 * (i - 40)) for i in range(41, 80)]
    (_, sentence), *more = said(Watch(), rows)
    assert not more and "over-fits" in sentence


def test_one_bad_validation_gives_no_cause() -> None:
    rows = good(40)
    rows[20]["validation/elbo"] = -5000.0
    assert said(Watch(), rows) == []


@pytest.mark.parametrize("broken", [NAN, None, -math.inf])
def test_validation_that_is_not_finite(broken: float | None) -> None:
    """None is how metrics.jsonl has nan."""
    rows = good(10)
    rows[4] |= {"validation/elbo": broken, "validation/rate/z1": broken}
    ((step, sentence),) = said(Watch(), rows)
    assert step == 80 and "z1 is the first" in sentence


def test_training_that_diverges() -> None:
    rows = good(40)
    rows += [row(16 * i, -90.0 - 3.0 * 1.5 ** (i - 40), grad_norm=5e4) for i in range(41, 60)]
    (step, sentence), *more = said(Watch(), rows)
    assert not more and step < 16 * 55
    assert "diverges" in sentence and "5e+04" in sentence


def test_one_bad_dispatch_gives_no_cause() -> None:
    rows = good(40)
    rows[30] |= {"elbo": -1e9, "loss": 1e9, "log_px": -1e9}
    assert said(Watch(), rows) == []


def test_a_wild_start_does_not_hide_what_follows() -> None:
    rows = [row(16, -1e7, -1e7), *good(30, from_epoch=2)]
    rows += [row(16 * i, curve(40), -900.0) for i in range(32, 40)]
    assert "over-fits" in said(Watch(), rows)[0][1]


def test_resumed_it_says_once_more_what_still_holds() -> None:
    """Whatever row the run was interrupted at, the rows alone give the state back."""
    rows = good(90)
    for each in rows[70:]:
        each["validation/rate/z1"] = 0.001
    assert len(said(Watch(), rows)) == 1
    for at in (65, 72, 80):
        assert len(said(Watch(rows[:at]), rows[at:])) == 1
    assert said(Watch(good(3)), good(20, from_epoch=4)) == []


def test_empty_and_strange_rows() -> None:
    """Rows of nan, and rows without what an objective may not have."""
    assert Watch()({"step": 0}) == []
    nothing = dict.fromkeys(("elbo", "loss", "log_px", "grad_norm"), None)
    assert said(Watch(), [{"step": i, "skipped": 0.0, **nothing} for i in range(WORSE_ROWS * 3)]) == []
