"""Every likelihood that NVAE takes: P(x | z) of the model's own output sums to one over all images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import every
from support.contract import plausible_variables

from hvae_jax.likelihoods import Bernoulli, Categorical, DiscretisedLogistic, Gaussian, Likelihood, LogisticMixture
from hvae_jax.models import NVAE

KEY = jax.random.key(0)


def log_px(family: Likelihood, x: jax.Array, **settings: Any) -> np.ndarray:
    """log p(x | z) of each x for one and the same z: drawn from the first posterior, then given to all."""
    sizes = {"groups": (1,), "latents": 2, "width": 4, "halvings": 0, "up_cells": 1, "down_cells": 1}
    model = NVAE(image=x.shape[1:], likelihood=family, **sizes | settings)
    variables = plausible_variables(model, x[:1], None)

    @jax.jit
    def scored(variables: Any, x: jax.Array) -> jax.Array:
        z = model.apply(variables, x[:1], KEY).latents
        given = tuple(jnp.broadcast_to(one, (len(x), *one.shape[1:])) for one in z)
        return model.apply(variables, x, KEY, latents=given).log_px

    return np.asarray(scored(variables, x), np.float64)


def total(family: Likelihood, x: jax.Array, **settings: Any) -> float:
    """sum_x p(x | z)."""
    return float(np.exp(log_px(family, x, **settings)).sum())


@pytest.mark.parametrize(
    ("family", "image"),
    [
        (Bernoulli(), (2, 3, 1)),
        (DiscretisedLogistic(256), (1, 1, 1)),
        (LogisticMixture(3, 12), (1, 1, 3)),
        pytest.param(Bernoulli(), (1, 2, 3), marks=pytest.mark.slow),
        pytest.param(Categorical(4), (1, 3, 1), marks=pytest.mark.slow),
        pytest.param(DiscretisedLogistic(5), (2, 2, 1), marks=pytest.mark.slow),
        pytest.param(LogisticMixture(3, 256, channels=1), (1, 1, 1), marks=pytest.mark.slow),
        pytest.param(LogisticMixture(3, 2), (1, 2, 3), marks=pytest.mark.slow),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Likelihood) else "x".join(map(str, one)),
)
def test_probabilities_sum_to_one(family: Any, image: tuple[int, int, int]) -> None:
    """Over all images: grey and in colours, with every pixel that they have."""
    values = 2 if isinstance(family, Bernoulli) else getattr(family, "values", 4)
    assert total(family, every(values, *image)) == pytest.approx(1.0, abs=2e-5)


@pytest.mark.slow
def test_a_density_integrates_to_one() -> None:
    """A Gaussian, by the trapezoid rule over one pixel."""
    nodes = np.linspace(-30.0, 30.0, 1001)
    density = np.exp(log_px(Gaussian(), jnp.asarray(nodes, jnp.float32).reshape(-1, 1, 1, 1)))
    assert np.trapezoid(density, nodes) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.slow
def test_framed_images_sum_to_one() -> None:
    """A frame is cropped before the likelihood: its pixels take no probability."""
    assert total(Bernoulli(), every(2, 2, 2, 1), pad=1, halvings=1, groups=(1, 1)) == pytest.approx(1.0, abs=2e-5)


def test_the_published_form_of_eight_bits_does_not() -> None:
    """Its last bin holds 254 too: the sum exceeds one by P(255), and P(254) alone differs from the exact form's."""
    x = every(256, 1, 1, 1)
    published, exact = (np.exp(log_px(LogisticMixture(3, 256, channels=1, form=form), x)) for form in ("nvae", "exact"))
    assert published[255] > 1e-4  # large enough to show in the sum
    assert published.sum() == pytest.approx(1.0 + published[255], abs=2e-5)
    assert published[254] == pytest.approx(exact[254] + exact[255], rel=1e-3)
    inner = np.r_[0:254, 255]
    np.testing.assert_allclose(published[inner], exact[inner], rtol=1e-2, atol=1e-5)


@pytest.mark.slow
def test_the_published_form_of_five_bits_does() -> None:
    """Of 32 values only the last lies above 0.99, so that the sum is one to the approximation of narrow bins."""
    assert total(LogisticMixture(3, 32, channels=1, form="nvae"), every(32, 1, 1, 1)) == pytest.approx(1.0, abs=1e-3)
