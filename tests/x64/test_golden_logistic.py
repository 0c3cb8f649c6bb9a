"""Mixtures of logistics against public codes, and sums of one, in float64 (the arrays: tests/golden/README.md)."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.golden_weights import recorded

from hvae_jax.likelihoods import DiscretisedLogistic, Likelihood, LogisticMixture

close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


def published(values: int, form: str, mixtures: int) -> LogisticMixture:
    """The family with the scores of a public code."""
    return LogisticMixture(mixtures, values, form=form)


def by_pixel(family: LogisticMixture, x: np.ndarray, h: np.ndarray) -> jax.Array:
    """log p(x) of each pixel, `[B, H, W]`."""
    score = jax.jit(lambda h, x: family.from_map(h).log_prob(x))
    return score(jnp.asarray(h).reshape(-1, 1, 1, h.shape[-1]), jnp.asarray(x).reshape(-1, 1, 1, 3)).reshape(
        x.shape[:-1]
    )


def test_vdvae() -> None:
    """log p of each pixel of eight bits, including values at the ends, the loss of the images, and its gradient."""
    a = recorded("logistic_mixture_vdvae")
    family = published(256, "published", int(a["nr_mix"]))
    close(by_pixel(family, a["pixels"], a["l"]), a["log_prob_per_pixel"])

    @jax.jit
    def loss(h: jax.Array) -> jax.Array:
        return -family.from_map(h).log_prob(jnp.asarray(a["pixels"])) / a["pixels"][0].size

    close(loss(jnp.asarray(a["l"])), a["loss"])
    close(jax.jit(jax.grad(lambda h: loss(h).sum()))(jnp.asarray(a["l"])), a["grad_l"])


def test_vdvae_of_five_bits() -> None:
    """VDVAE's overlapping bins of five bits."""
    a = recorded("logistic_mixture_vdvae")
    family = published(32, "vdvae_5_bits", int(a["nr_mix"]))
    got = by_pixel(family, a["pixels"] // 8, a["l"]).sum((1, 2)) / a["pixels"][0].size
    close(-got, a["loss_low_bit"])


def test_nvae_of_five_bits() -> None:
    """NVAE's own grid of 32 values is the form "published"; values and gradient."""
    a = recorded("logistic_mixture_nvae")
    family = published(32, "published", int(a["num_mix"]))
    h = np.moveaxis(a["param"], 1, -1)
    close(by_pixel(family, a["pixels"], h), a["log_prob"])
    gradient = jax.jit(jax.grad(lambda h: family.from_map(h).log_prob(jnp.asarray(a["pixels"])).sum()))
    close(gradient(jnp.asarray(h)), np.moveaxis(a["grad_param"], 1, -1))


def test_exact_where_the_published_form_is() -> None:
    """Bins of 1e-5 and more have the same probability in both."""
    a = recorded("logistic_mixture_vdvae")
    h, ours = jnp.asarray(a["l"]), LogisticMixture(int(a["nr_mix"]))
    theirs = np.asarray(by_pixel(published(256, "published", int(a["nr_mix"])), a["pixels"], a["l"]))
    got = np.asarray(by_pixel(ours, a["pixels"], np.asarray(h)))
    np.testing.assert_allclose(got, theirs, atol=2e-3)


@pytest.mark.parametrize("values", [2, 32, 256, 65_536])
def test_probabilities_sum_to_one(values: int) -> None:
    """To rounding, for means and scales as extreme as they come."""
    family, x = DiscretisedLogistic(values, min_log_scale=-16.0), jnp.arange(values)[:, None]
    total = jax.jit(lambda h: jnp.exp(family(jnp.broadcast_to(h, (values, 1, 2))).log_prob(x)).sum())
    for numbers in itertools.product((-1e4, -1.0, -0.37, 0.0, 0.999, 7.0), (-1e4, -16.0, -7.0, -2.0, 4.0, 300.0, 1e4)):
        np.testing.assert_allclose(total(jnp.asarray(numbers)), 1.0, rtol=1e-9)


@pytest.mark.parametrize("family", [LogisticMixture(3, 12), LogisticMixture(5, 256, channels=1)])
def test_probabilities_of_a_mixture_sum_to_one(family: LogisticMixture) -> None:
    """Over all combinations of colours."""
    every = jnp.asarray(list(itertools.product(range(family.values), repeat=family.channels)))
    total = jax.jit(lambda h: jnp.exp(family(jnp.broadcast_to(h, (len(every), 1, h.size))).log_prob(every)).sum())
    for seed in range(4):
        h = np.random.default_rng(seed).normal(size=family.parameters) * 3.0
        np.testing.assert_allclose(total(jnp.asarray(h)), 1.0, rtol=1e-12)


@pytest.mark.parametrize("family", [DiscretisedLogistic(16), LogisticMixture(2, 16), LogisticMixture(2, 16, 1)])
def test_gradients_are_those_of_differences(family: Likelihood) -> None:
    """The derivative of log p(x) along a line, by central differences."""
    rng = np.random.default_rng(0)
    h, step = (jnp.asarray(rng.normal(size=(4, 1, family.parameters))) for _ in range(2))
    x = jnp.asarray(rng.integers(0, 16, (4, family.channels)).clip(0, 15)).at[0].set(0).at[1].set(15)
    value = jax.jit(lambda t: family(h + t * step).log_prob(x))
    slope = jax.jit(jax.jacobian(value))(0.0)
    np.testing.assert_allclose(slope, (value(1e-5) - value(-1e-5)) / 2e-5, rtol=1e-6)
