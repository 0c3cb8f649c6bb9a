"""p(x_seen | z) and p(x_missing | x_seen, z) of every family, against sums over what is missing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support.cases import every
from support.contract import plausible_variables

from hvae_jax.likelihoods import (
    Bernoulli,
    Beta,
    Categorical,
    DiscretisedLogistic,
    Gaussian,
    Likelihood,
    LogisticMixture,
    Missing,
    PixelCNN,
    PixelCNNRecord,
    Quantised,
)
from hvae_jax.likelihoods.seen import fill, log_prob_seen, possible_value
from hvae_jax.models import VAE

KEY = jax.random.key(0)
DRAWS = 4000
FAMILIES: tuple[tuple[Likelihood, int, tuple[int, ...]], ...] = (
    (Bernoulli(), 2, (3,)),
    (Categorical(3), 3, (3,)),
    (DiscretisedLogistic(3), 3, (3,)),
    (LogisticMixture(2, values=3), 3, (1, 1, 3)),
    (LogisticMixture(2, values=3, channels=1), 3, (3,)),
    (Quantised(LogisticMixture(2, values=2), 2), 4, (1, 1, 3)),
    (PixelCNN(receptive_field=1, layers=1, width=4), 2, (3,)),
    (PixelCNN(Categorical(3), layers=1, width=4), 3, (1, 1, 3)),
)


def record(family: Likelihood, event: tuple[int, ...]) -> Any:
    """p(x | z) at random parameters, of a batch of one."""
    rng = np.random.default_rng(1)
    if isinstance(family, PixelCNN):
        model = VAE(latents=2, hidden=4, likelihood=family)
        weights = plausible_variables(model, jnp.zeros((2, *event)), None)["params"]["pixelcnn"]
        weights = jax.tree.map(lambda leaf: jnp.asarray(3.0 * leaf), weights)
        context = jnp.asarray(rng.normal(size=(1, *event, family.context)), jnp.float32)
        return PixelCNNRecord(context, weights, family)
    last = event[-1] // family.channels
    return family(jnp.asarray(rng.normal(size=(1, *event[:-1], last, family.parameters)), jnp.float32))


def repeated(one: Any, count: int) -> Any:
    """The record for a batch of `count` equal examples."""

    def copies(leaf: Array) -> Array:
        return jnp.broadcast_to(leaf, (count, *leaf.shape[1:]))

    if isinstance(one, PixelCNNRecord):
        return one.replace(context=copies(one.context))
    return jax.tree.map(copies, one)


@pytest.mark.parametrize(("family", "values", "event"), FAMILIES, ids=lambda value: str(value)[:40])
def test_what_is_seen_is_a_sum_over_what_is_not(family: Likelihood, values: int, event: tuple[int, ...]) -> None:
    """p(x_seen) = sum p(x) over all x that agree, for the first 0, 1, 2 and 3 elements; fillings follow p(x | x_seen).

    Each filling has its probability to 4.5 standard errors, and elements that are seen stay.
    """
    xs = every(values, *event).astype(jnp.float32)
    given = xs[(7 * len(xs)) // 10]

    @jax.jit
    def found(xs: Array, given: Array) -> tuple[Array, Array, Array]:
        one = record(family, event)
        whole = repeated(one, len(xs)).log_prob(xs)
        masks = jnp.stack([(jnp.arange(3) < seen).reshape(event) for seen in range(4)])
        # what is not seen has no say in it
        noise = jnp.where(masks, given[None], possible_value(family))
        parts = log_prob_seen(repeated(one, 4), noise, masks)
        start = jnp.broadcast_to(jnp.where(masks[1], given, possible_value(family))[None], (DRAWS, *event))
        drawn = fill(repeated(one, DRAWS), start, jnp.broadcast_to(masks[1][None], start.shape), KEY)
        return whole, parts, drawn

    whole, parts, drawn = (np.asarray(a, np.float64) for a in found(xs, given))
    flat, step = np.asarray(xs).reshape(len(xs), 3), family.step if isinstance(family, Quantised) else 1
    own, bits = np.asarray(given).reshape(3) // step, flat // step
    alike = [(bits[:, :seen] == own[:seen]).all(1) for seen in range(4)]
    each = np.exp(whole) / step**3  # Quantised gives all x with the same leading bits the mass of those
    np.testing.assert_allclose(np.exp(parts), [each[rows].sum() for rows in alike], rtol=2e-5)
    assert (drawn.reshape(DRAWS, 3)[:, 0] == np.asarray(given).reshape(3)[0]).all()
    codes = (drawn.reshape(DRAWS, 3)[:, 1:] // step) @ (values, 1)
    for code in {float(b[1:] @ (values, 1)) for b in bits}:
        p = each[alike[1] & (bits[:, 1:] @ (values, 1) == code)].sum() / each[alike[1]].sum()
        assert abs((codes == code).mean() - p) < 4.5 * np.sqrt(p * (1 - p) / DRAWS) + 1e-9


def test_real_numbers() -> None:
    """A Gaussian's seen elements are scored as they are, the others are drawn from their own Gaussians."""
    one = repeated(record(Gaussian(), (3,)), DRAWS)
    x = jnp.broadcast_to(jnp.array([0.5, -2.0, 0.0])[None], (DRAWS, 3))
    seen = jnp.broadcast_to(jnp.array([True, True, False])[None], (DRAWS, 3))
    normal = one.normal
    expected = np.asarray(normal.log_prob(x))[0, :2].sum()
    np.testing.assert_allclose(log_prob_seen(one, x, seen)[0], expected, rtol=1e-6)
    drawn = np.asarray(fill(one, x, seen, KEY))
    assert (drawn[:, :2] == (0.5, -2.0)).all()
    mean, std = float(normal.mean[0, 2]), float(normal.std[0, 2])
    assert abs(drawn[:, 2].mean() - mean) < 4.5 * std / np.sqrt(DRAWS)
    assert abs(drawn[:, 2].std() / std - 1) < 0.06


def test_masks_without_a_closed_form() -> None:
    """Refused are elements seen behind missing ones, in PixelCNN's order and among the colours of a pixel."""
    seen = np.ones((2, 2, 2, 3), bool)
    seen[1, 0, 1] = False
    LogisticMixture(2, values=3).check_seen(seen)
    Quantised(LogisticMixture(2, values=3), 2).check_seen(seen)
    PixelCNN(receptive_field=0).check_seen(seen)
    Bernoulli().check_seen(seen)
    with pytest.raises(ValueError, match=r"^mask: PixelCNN takes the elements of x one .* at index \(1,\) something"):
        PixelCNN().check_seen(seen, "mask")
    seen[1, 0, 1] = True, False, True
    for family in (LogisticMixture(2, values=3), Quantised(LogisticMixture(2, values=3), 2)):
        with pytest.raises(ValueError, match=r"the colours of a pixel .* at index \(1, 0, 1\)"):
            family.check_seen(seen)
    LogisticMixture(2, values=3, channels=1).check_seen(seen)


@pytest.mark.parametrize(
    ("bounds", "value"), [(None, 0.0), ((0, 1), 0.5), ((0, 255), 127.0), ((0, np.inf), 1.0), ((-np.inf, 3), 2.0)]
)
def test_a_possible_value(bounds: tuple[float, float] | None, value: float) -> None:
    """The middle of the range; a whole number unless the range is that of a fraction."""

    class Ranged(Gaussian):
        value_range = bounds

    assert possible_value(Ranged()) == value
    assert possible_value(None) == 0.0


@pytest.mark.parametrize(
    "family",
    [Categorical(2), DiscretisedLogistic(values=2), LogisticMixture(2, values=2), Bernoulli(), Beta(), Categorical(3)],
    ids=str,
)
def test_a_possible_value_is_allowed(family: Likelihood) -> None:
    """Also by families of two values, which have nothing in the middle."""
    x = np.full((2, 3), possible_value(family))
    family.check(x)
    x[0, 1] = np.nan
    Missing(family).check(x) if family.channels == 1 else None
    assert possible_value(Missing(family)) == possible_value(family)


def test_shared_parameters_are_refused() -> None:
    """A record whose arrays are not of x's shape has no elementwise density."""
    one = record(Gaussian(), (3,))
    with pytest.raises(ValueError, match=r"GaussianRecord has parameters of shape .*needs log_prob_seen and fill"):
        log_prob_seen(one, jnp.zeros((1, 3, 2)), jnp.ones((1, 3, 2), bool))
