"""Halvings and the stack: exact inverses, lengths that are -log2 p, bins of equal mass, a reservoir that is undone."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from hvae_jax.codec.bins import Bins, Gaussians, centres, edges
from hvae_jax.codec.halving import Halving
from hvae_jax.codec.streams import Stack, frequencies, reservoir
from hvae_jax.codec.symbols import pixels_of
from hvae_jax.likelihoods import Bernoulli, Categorical, DiscretisedLogistic, LogisticMixture

RNG = np.random.default_rng(0)


def masses(cells_of: object, values: int, count: int) -> np.ndarray:
    """P(k) of every value by the decisions that lead to it, `[values, count]`."""
    found = []
    for k in range(values):
        cells, p = cells_of(), np.ones(count)
        for digit in reversed(range(cells.bits)):
            upper = np.full(count, k >> digit & 1)
            right = cells.upper()
            p = p * np.where(upper, right, 1.0 - right)
            cells.go(upper)
        found.append(p)
    return np.stack(found)


def nothing(x: np.ndarray, element: int) -> None:
    raise AssertionError


@pytest.mark.parametrize(
    "family",
    [
        Bernoulli(),
        Bernoulli(min_probability=0.1),
        Categorical(5),
        DiscretisedLogistic(7),
        LogisticMixture(3, values=6, channels=1),
        LogisticMixture(3, values=5, channels=3),
    ],
    ids=str,
)
def test_symbols_have_the_probabilities_of_their_likelihood(family: object) -> None:
    """log p of the decisions is the record's log_prob, element by element, and sums to one over the values."""
    channels = family.channels
    shape = (4, 2, 1, family.parameters)  # [B, *pixels, parameters]
    record = family(jnp.asarray(RNG.normal(size=shape), jnp.float32))
    values = 2 if isinstance(family, Bernoulli) else int(family.value_range[1]) + 1
    x = RNG.integers(0, values, (4, 2, channels)).astype(np.float32)
    pixels, flat = pixels_of(record, nothing), x.reshape(4, -1)
    log_p = np.zeros(4)
    for part in range(pixels.parts):
        chosen = flat[:, pixels.elements(part)].astype(int)
        p = masses(lambda part=part: pixels.cells(part, flat), values, chosen.size)
        np.testing.assert_allclose(p.sum(0), 1.0, rtol=1e-12)
        log_p += np.log(p[chosen.ravel(), np.arange(chosen.size)]).reshape(chosen.shape).sum(1)
    np.testing.assert_allclose(log_p, np.asarray(record.log_prob(jnp.asarray(x))), rtol=2e-5)


def test_latents_have_bins_of_equal_mass() -> None:
    """The grid's own code is uniform; another Gaussian's masses are differences of its distribution function."""
    grid = Gaussians(RNG.normal(size=(2, 3)).astype(np.float32), RNG.normal(size=(2, 3)).astype(np.float32))
    other = Gaussians(RNG.normal(size=(2, 3)).astype(np.float32), RNG.normal(size=(2, 3)).astype(np.float32) - 1)
    bins = Bins(grid, 5)
    np.testing.assert_allclose(masses(lambda: bins.cells(grid), 32, 6), 1 / 32, rtol=1e-12)
    at = grid.mean[..., None] + grid.std[..., None] * edges(5)
    expected = np.diff(ndtr((at - other.mean[..., None]) / other.std[..., None])).reshape(6, 32).T
    np.testing.assert_allclose(masses(lambda: bins.cells(other), 32, 6), expected, atol=1e-12)
    assert (edges(5)[:-1] < centres(5)).all() and (centres(5) < edges(5)[1:]).all()
    np.testing.assert_array_equal(bins.z(np.full(6, 7)), (grid.mean + grid.std * centres(5)[7]).astype(np.float32))


def test_far_tails_are_coded_too() -> None:
    """Posteriors far outside of the prior, and far narrower than a bin: every number comes back."""
    grid = Gaussians(np.zeros(4, np.float32), np.zeros(4, np.float32))
    far = Gaussians(np.array([-60, 60, 8, 0.3], np.float32), np.array([-5, -5, -20, -80], np.float32))
    stack, numbers = Stack(0, 24), np.array([0, 4095, 2000, 17])
    stack.push(Bins(grid, 12).cells(far), numbers)
    np.testing.assert_array_equal(stack.pop(Bins(grid, 12).cells(far)), numbers)


def test_the_stack_grows_by_the_information_and_is_undone() -> None:
    """Pushes cost -log2 p, pops give it back, and the words of the reservoir that were reached are as they were."""
    stack, count = Stack(3, 24), 3000
    stack.provide(8 * count)
    stack.mark()
    start = stack.bits
    dist = Gaussians(RNG.normal(size=count).astype(np.float32), np.full(count, -1.0, np.float32))
    bins = Bins(Gaussians(np.zeros(count, np.float32), np.zeros(count, np.float32)), 8)
    popped = stack.pop(bins.cells(dist))
    p = masses(lambda: bins.cells(dist), 256, count)[popped, np.arange(count)]
    assert stack.bits - start == pytest.approx(np.log2(p).sum(), rel=1e-3)
    assert stack.dip == pytest.approx(-np.log2(p).sum(), rel=0.01)
    middle = stack.bits
    stack.push_uniform(popped, 8)
    assert stack.bits - middle == 8 * count
    words, reached = stack.words(), stack.reached
    assert 0 <= 32 * reached + np.log2(p).sum() < 32 * 4  # no more than what was popped is part of the file
    again = Stack(3, 24, words)
    np.testing.assert_array_equal(again.pop_uniform(count, 8), popped)
    assert not again.is_reservoir(reached)
    again.push(bins.cells(dist), popped)
    assert again.is_reservoir(reached)


def test_a_stack_that_runs_dry_is_noticed() -> None:
    with pytest.raises(ValueError, match="ran dry"):
        Stack(0, 24).pop_uniform(100, 8)


def test_the_reservoir_continues() -> None:
    """More words of a seed lie below the first ones."""
    np.testing.assert_array_equal(reservoir(1, 9)[-4:], reservoir(1, 4))
    assert (reservoir(1, 9) != reservoir(2, 9)).any()


def test_frequencies() -> None:
    """No decision is impossible; other probabilities are rounded to multiples."""
    p = frequencies(np.array([0.0, 1e-9, 0.3, 1.0]), 8)
    np.testing.assert_array_equal(p, np.array([1, 1, 77, 255]) / 256)


def test_a_cell_without_mass() -> None:
    """Where neither half has mass, the decision costs a bit instead of failing."""
    cells = Halving(lambda edge: (np.zeros((len(edge), 1)), np.ones((len(edge), 1))), 2, 4)
    np.testing.assert_array_equal(cells.upper(), [0.5, 0.5])
    assert math.log2(4) == cells.bits
