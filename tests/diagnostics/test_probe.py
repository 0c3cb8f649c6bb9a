"""Probes read samples of the latents: never better than the rate allows, by Fano's inequality."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hvae_jax as hv
from hvae_jax.descent import Pick, draw
from hvae_jax.diagnostics import (
    accuracy_of,
    clearly_best,
    fano,
    features,
    linear_probe,
    measured,
    probe_right,
)
from hvae_jax.distributions import Normal
from hvae_jax.models.base import HVAE
from hvae_jax.trace import Trace

KEY = jax.random.key(0)
CLASSES, REPEATS = 4, 100


class Whisper(HVAE):
    """q(z | x) = N(volume x, 1), p(z) = N(0, 1): the posterior mean determines x, the samples hardly do.

    Attributes:
      volume: distance of the posterior's mean from the prior's, standard deviations.
    """

    volume: float = 0.3

    @property
    def num_levels(self) -> int:
        """One."""
        return 1

    def descend(self, x: Any, n: int, key: Any, *, y: Any, picks: tuple[Pick, ...], train: bool) -> Trace:
        """The decoder ignores z."""
        prior = Normal.standard((n, CLASSES))
        posterior = None if x is None else Normal(self.volume * x.astype(jnp.float32), jnp.zeros((n, CLASSES)))
        level = draw(key, prior, posterior, picks[0])
        x_dist = hv.Bernoulli()(jnp.zeros((n, CLASSES, 1)))
        return Trace(None if x is None else x_dist.log_prob(x), (level,), x_dist)


def classes() -> tuple[np.ndarray, np.ndarray]:
    """One-hot x and its label."""
    y = np.arange(CLASSES * REPEATS) % CLASSES
    return np.eye(CLASSES, dtype=np.uint8)[y], y


def test_a_probe_of_samples_keeps_to_the_rate_and_one_of_means_does_not() -> None:
    """0.045 nats cannot tell four labels apart; the posterior means, which z is not, do so every time."""
    model, (x, y) = Whisper(), classes()
    train, test = (jax.jit(lambda k: features(model, {}, x, k, draws=5))(k) for k in jax.random.split(KEY))
    assert train.sampled[0].shape == (5, len(x), CLASSES) and train.means[0].shape == (len(x), CLASSES)
    right = probe_right(train.sampled[0], y, test.sampled[0], y)
    sampled, means = accuracy_of(right, y), linear_probe(train.means[0], y, test.means[0], y)
    rate = float(measured(model, {}, x, KEY, draws=2).usage.rates.mean())
    assert rate == pytest.approx(0.045, rel=1e-4)
    assert means.value == 1.0 and fano(means.value, y) == pytest.approx(math.log(CLASSES))
    assert 1 / CLASSES < sampled.value < 0.45
    assert fano(sampled.value - 2 * sampled.error, y) <= rate < fano(means.value, y)


def test_draws_are_read_one_by_one() -> None:
    """The error is over examples: draws of one example are no more examples. An average of draws would read better."""
    rng, y = np.random.default_rng(0), np.arange(200) % 2
    train, test = (rng.normal(size=(6, 200, 1)) + y[None, :, None] for _ in range(2))
    found = accuracy_of(probe_right(train, y, test, y), y)
    assert 0.64 < found.value < 0.74  # Phi(0.5) = 0.69
    assert math.sqrt(found.value * (1 - found.value) / (6 * 200)) <= found.error + 1e-3
    assert linear_probe(train.mean(0), y, test.mean(0), y).value > 0.8


def test_some_units_of_each_level() -> None:
    """The units that are named, in their order."""
    model, (x, _) = Whisper(volume=3.0), classes()
    whole = features(model, {}, x, KEY, draws=2)
    some = features(model, {}, x, KEY, draws=2, units=[np.array([2, 0])])
    np.testing.assert_array_equal(some.sampled[0], whole.sampled[0][..., [2, 0]])
    np.testing.assert_array_equal(some.means[0], whole.means[0][:, [2, 0]])
    with pytest.raises(ValueError, match=r"features\(draws=0\)"):
        features(model, {}, x, KEY, draws=0)


def test_fano() -> None:
    """log C where every label is read, 0 at chance, and what ten digits take at 93%: 1.8 nats."""
    y = np.arange(1000) % 10
    assert fano(1.0, y) == pytest.approx(math.log(10))
    assert fano(0.1, y) == pytest.approx(0.0, abs=1e-9)
    assert fano(0.93, y) == pytest.approx(1.895, abs=0.002)
    assert fano(1.0, np.zeros(5)) == 0.0
    with pytest.raises(ValueError, match="a fraction, 0 to 1"):
        fano(1.1, y)


def test_the_best_probe_is_named_beyond_its_error() -> None:
    """Two levels that are right on the same examples but one are not ranked; nor is one that is right by chance."""
    rng = np.random.default_rng(0)
    right = (rng.random(400) < 0.7).astype(float)
    almost = right.copy()
    almost[np.flatnonzero(right)[0]] = 0.0
    worse = (rng.random(400) < 0.5).astype(float)
    assert clearly_best([right, worse], 0.1) == 0 and clearly_best([worse, right], 0.1) == 1
    assert clearly_best([right, almost, worse], 0.1) is None
    assert clearly_best([worse], 0.5) is None and clearly_best([right], 0.5) == 0
