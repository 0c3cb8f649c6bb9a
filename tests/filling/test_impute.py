"""`impute` against conditionals in closed form and by enumeration; masks; and what is refused."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support.cases import every
from support.contract import plausible_variables
from support.toys import CategoricalTop, Observed

import hvae_jax as hv
from hvae_jax.filling import Imputed, as_seen, box, half
from hvae_jax.likelihoods import Bernoulli, Likelihood, LogisticMixture, PixelCNN
from hvae_jax.models import VAE, ClosedForm, LinearVAE, TopDownVAE

KEY = jax.random.key(0)
CHAINS = 3000

# ---- the linear-Gaussian hierarchy

LINEAR = LinearVAE((2, 3), inference="shifted")
SEEN = np.array([True, True, True, False, False])
X = np.array([1.5, -1.0, 2.0, np.nan, np.nan], np.float32)


@functools.cache
def linear_variables() -> dict[str, Any]:
    """Variables of two linear levels with loud maps, and posteriors moved by 0.4 and 1.3 times as wide."""
    made = plausible_variables(LINEAR, jnp.zeros((2, 5)), None)["params"]
    moved = {name: 0.4 * jnp.ones_like(leaf) for name, leaf in made.items() if name.startswith("off_mean")}
    wider = {name: 0.25 * jnp.ones_like(leaf) for name, leaf in made.items() if name.startswith("off_log_std")}
    louder = {name: 1.8 * leaf for name, leaf in made.items() if name.startswith("kernel")}
    return {"params": {**made, **moved, **wider, **louder}}


@functools.cache
def linear_fillings(method: str) -> tuple[np.ndarray, float]:
    """The last filling of each of many chains `[CHAINS, 2]`, in float64, and the mean acceptance."""
    x = np.broadcast_to(X, (CHAINS, 5))
    found = hv.impute(LINEAR, linear_variables(), x, None, KEY, 60, method, keep=1)
    assert np.array_equal(found.fillings[0, :, :3], x[:, :3]) and not np.asarray(found.deviation)[:, :3].any()
    return np.asarray(found.fillings[0, :, 3:], np.float64), float(found.acceptance.mean())


@functools.cache
def conditional() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of p(x_missing | x_seen), by the Schur complement."""
    p = ClosedForm(LINEAR, linear_variables()).marginal
    seen, missing = np.flatnonzero(SEEN), np.flatnonzero(~SEEN)
    gain = np.linalg.solve(p.cov[np.ix_(seen, seen)], p.cov[np.ix_(seen, missing)]).T
    return p.mean[missing] + gain @ (X[seen] - p.mean[seen]), p.cov[np.ix_(missing, missing)] - gain @ p.cov[
        np.ix_(seen, missing)
    ]


@functools.cache
def pseudo_gibbs_limit() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance that x_missing -> z ~ q(z | x) -> x_missing ~ p(x_missing | z) converges to: linear, too."""
    exact = ClosedForm(LINEAR, linear_variables())
    slope, shift, noise = exact.link(0)
    slope, shift, noise = slope[~SEEN], shift[~SEEN], noise[np.ix_(~SEEN, ~SEEN)]
    z1 = exact.block(1)
    unit = np.eye(5)[~SEEN]  # [2, 5]
    q = exact.inference(np.stack([np.where(SEEN, X, 0.0), *(np.where(SEEN, X, 0.0) + unit)]))
    turn = slope @ (q.mean[1:, z1] - q.mean[:1, z1]).T
    start = slope @ q.mean[0, z1] + shift
    spread = slope @ q.cov[np.ix_(z1, z1)] @ slope.T + noise
    mean, cov = np.linalg.solve(np.eye(2) - turn, start), spread
    for _ in range(200):
        cov = turn @ cov @ turn.T + spread
    return mean, cov


def deviations(x: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many standard errors the sample's mean and covariance are away from these."""
    n, var = len(x), np.diag(cov)
    of_cov = np.sqrt((np.outer(var, var) + cov**2) / n)
    return (x.mean(0) - mean) / np.sqrt(var / n), (np.cov(x.T) - cov) / of_cov


def test_metropolis_draws_from_the_conditional() -> None:
    """Mean and covariance over independent chains are those of p(x_missing | x_seen), to 4 standard errors."""
    x, acceptance = linear_fillings("metropolis")
    mean, cov = deviations(x, *conditional())
    assert np.abs(mean).max() < 4.0 and np.abs(cov).max() < 4.0
    assert 0.2 < acceptance < 0.9


def test_pseudo_gibbs_is_biased_as_theory_says() -> None:
    """Its fillings have the mean and covariance of its own limit, which is far from the conditional."""
    x, acceptance = linear_fillings("pseudo_gibbs")
    mean, cov = deviations(x, *pseudo_gibbs_limit())
    assert np.abs(mean).max() < 4.0 and np.abs(cov).max() < 4.0
    assert np.abs(deviations(x, *conditional())[0]).max() > 10.0
    assert acceptance == 1.0


# ---- a class and four pixels

TOY = CategoricalTop(3, size=0)
EVERY_X = every(2, 4)


@functools.cache
def toy_variables() -> Any:
    """Variables under which the class says much of x, and q(c | x) covers all classes."""
    made = plausible_variables(TOY, EVERY_X, None)["params"]
    louder = {name: 1.0 if name in ("r", "qc") else 3.0 for name in made}
    scaled = {name: jax.tree.map(lambda leaf, by=louder[name]: jnp.asarray(by * leaf), made[name]) for name in made}
    return {"params": scaled}


@functools.cache
def toy_chains() -> Imputed:
    """Chains of which half see two pixels and half nothing, and one that sees all; every counted step is kept."""
    x = np.broadcast_to(np.array([1, 0, 1, 1], np.uint8), (2 * CHAINS + 1, 4))
    seen = np.zeros(x.shape, bool)
    seen[:CHAINS, :2], seen[-1] = True, True
    return jax.tree.map(np.asarray, hv.impute(TOY, toy_variables(), x, seen, KEY, 60, warmup=54, keep=6))


@functools.cache
def p_x() -> np.ndarray:
    """p(x) of all 16 x, by the sum over the class."""
    variables = toy_variables()

    def joint(c: Array) -> Array:
        one_hot = jnp.broadcast_to(jax.nn.one_hot(c, 3)[None], (16, 3))
        trace = TOY.apply(variables, EVERY_X, KEY, latents=(one_hot,))
        return trace.log_px + trace.levels[0].log_p

    return np.exp(np.asarray(jax.jit(jax.vmap(joint))(jnp.arange(3)), np.float64)).sum(0)


def frequencies(x: np.ndarray) -> np.ndarray:
    """How often each of the 16 x occurs, `[16]`."""
    return np.bincount((x @ (8, 4, 2, 1)).astype(int), minlength=16) / len(x)


def test_fillings_by_enumeration() -> None:
    """Fillings have the probabilities p(x_missing | x_seen); where nothing is seen, those of p(x): 4.5 errors."""
    last = toy_chains().fillings[-1]
    known = (np.asarray(EVERY_X)[:, :2] == (1, 0)).all(1)
    for x, p in ((last[:CHAINS], np.where(known, p_x(), 0.0) / p_x()[known].sum()), (last[CHAINS:-1], p_x())):
        error = np.sqrt(np.maximum(p * (1 - p), 1e-12) / CHAINS)
        assert (np.abs(frequencies(x) - p) < 4.5 * error).all()
    # the pixels depend on each other, so that a marginal would not do
    assert np.abs(p_x()[known] / p_x()[known].sum() - p_x().reshape(4, 4).sum(0)).max() > 0.03


def test_what_is_returned() -> None:
    """Mean and deviation are those of the counted steps; what is seen stays; acceptance is a share, by example."""
    found = toy_chains()
    np.testing.assert_allclose(found.mean, found.fillings.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.deviation, found.fillings.std(0), atol=1e-6)
    assert (found.fillings[:, :CHAINS, :2] == (1, 0)).all() and (found.fillings[:, -1] == (1, 0, 1, 1)).all()
    assert found.acceptance.shape == (2 * CHAINS + 1,) and (found.acceptance > 0).mean() > 0.5
    assert found.latents[0].shape == (2 * CHAINS + 1, 3)
    again = hv.impute(TOY, toy_variables(), np.ones((1, 4)), half((4,)), KEY, 4)
    same = hv.impute(TOY, toy_variables(), np.ones((1, 4)), half((4,)), KEY, 4)
    assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(same)))


# ---- masks


def test_masks() -> None:
    """By element or by pixel, for each example or for all; box hides the middle, half what comes last."""
    shape = (2, 4, 6, 3)
    by_pixel = box((4, 6, 1))[..., 0]
    for mask in (by_pixel, by_pixel[..., None], np.stack([by_pixel] * 2), by_pixel.astype(int)):
        assert np.array_equal(as_seen(mask, shape), np.broadcast_to(box(shape[1:]), shape))
    assert (~by_pixel).sum() == 6 and not by_pixel[1:3, 1:4].any()
    assert half((4, 6, 1))[:2].all() and not half((4, 6, 1))[2:].any()
    assert half((5,)).tolist() == [True] * 3 + [False] * 2
    with pytest.raises(
        ValueError, match=r"shape \(6, 4\), but x has shape \(2, 4, 6, 3\): a mask is one of .*\(4, 6\)"
    ):
        as_seen(by_pixel.T, shape)
    with pytest.raises(ValueError, match="other than 0 and 1: give truth values"):
        as_seen(2 * by_pixel, shape)


@pytest.mark.parametrize(
    ("model", "x", "seen", "choices", "message"),
    [
        (VAE, np.ones((2, 4)), np.ones((2, 3), bool), {}, r"shape \(2, 3\), but x has shape \(2, 4\)"),
        (VAE, np.ones((2, 4)), np.ones(4, bool), {}, "Everything is seen: there is nothing to fill in"),
        (VAE, np.ones((2, 4)), None, {}, "Everything is seen"),
        (VAE, np.full((2, 4), np.nan), half((4,)), {}, "NaN at 4 elements that the mask calls seen"),
        (VAE, np.full((2, 4), 2), half((4,)), {}, r"holds 2.0 at index \(0, 0\).*Bernoulli\(\) allows"),
        (VAE, np.ones((2, 4)), half((4,)), {"method": "gibbs"}, "one of metropolis, pseudo_gibbs"),
        (VAE, np.ones((2, 4)), half((4,)), {"steps": 3, "keep": 4}, "of 3 steps, 4 have to be left"),
        (VAE, np.ones((2, 4)), half((4,)), {"y": np.zeros(3, int)}, "a label for each of 2 examples"),
        (VAE, np.array([["a"]]), None, {}, r"numbers \[B, \*event\] are needed"),
        (PixelCNN(), np.ones((1, 4, 4, 1)), box((4, 4, 1)), {}, "PixelCNN takes the elements of x one after the other"),
        (
            LogisticMixture(2, values=3),
            np.ones((1, 2, 2, 3)),
            np.array([False, True, True]) | np.zeros((2, 2, 1), bool),
            {},
            r"the colours of a pixel one after the other.*index \(0, 0, 0\).*Mask whole pixels",
        ),
    ],
)
def test_refused(model: Any, x: np.ndarray, seen: Any, choices: dict[str, Any], message: str) -> None:
    """Nothing is computed for a mask, values or steps that do not fit: the variables are not even looked at."""
    likelihood = model if isinstance(model, Likelihood) else Bernoulli()
    with pytest.raises(ValueError, match=message):
        hv.impute(TopDownVAE((1, 1), likelihood=likelihood), {}, x, seen, KEY, **choices)


def test_observed_levels_are_refused() -> None:
    """y = d(x) is not known where x is not."""
    with pytest.raises(ValueError, match=r"levels that are functions of x \(y\)"):
        hv.impute(type("Named", (Observed,), {"observed": {"y": Bernoulli()}})(), {}, EVERY_X, half((4,)), KEY)
