"""The linear VAE: its settings, and the collapse threshold against derivatives, other closed forms and training."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import jitter, reals

import hvae_jax as hv
from hvae_jax.diagnostics import usage
from hvae_jax.models import ClosedForm, Collapse, LinearVAE, Smoothing
from hvae_jax.models.linear import orthonormal_rows
from hvae_jax.models.linear_exact import noise_cost
from hvae_jax.objectives import Batch, Cosine, Regularised
from hvae_jax.training import AdamW, init_state, make_step

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def built(model: LinearVAE, width: int, scale: float = 0.3) -> dict[str, Any]:
    """Variables for x of `width` numbers, moved away from their initialisation."""
    x = jnp.zeros((2, width))
    return {"params": jitter(jax.jit(model.init)(KEY, x, KEY)["params"], scale=scale)}


def covariance(width: int, seed: int = 1) -> np.ndarray:
    """A covariance with eigenvalues from well below 1 to well above."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(width, width)))
    return turn @ np.diag(np.geomspace(0.2, 20.0, width)) @ turn.T


def mean_log_px(model_cov: np.ndarray, data_cov: np.ndarray) -> float:
    """E log p(x) over data with this covariance and the model's mean, without the 2 pi."""
    return -0.5 * (np.linalg.slogdet(model_cov)[1] + np.trace(np.linalg.solve(model_cov, data_cov)))


def test_one_level_is_probabilistic_pca() -> None:
    """The ratios are the eigenvalues over the noise's variance, in the range of the map; beta multiplies the noise."""
    model = LinearVAE((3,), noise=1.5)
    variables = built(model, 3)
    wanted = np.linalg.eigvalsh(covariance(3))[::-1] / 1.5**2
    found = ClosedForm(model, variables).collapse(covariance(3))
    np.testing.assert_allclose(found.ratios[0], wanted, rtol=1e-10)
    np.testing.assert_allclose(found.rates[0], np.maximum(0.5 * np.log(wanted), 0.0), atol=1e-10)
    assert (found.rates[0] == 0.0).any() and (found.rates[0] > 0.0).any()
    weighted = ClosedForm(model, variables).collapse(covariance(3), beta=2.0)
    np.testing.assert_allclose(weighted.ratios[0], wanted / 2.0, rtol=1e-10)


def test_isometries_add_their_noise() -> None:
    """With isometric maps the thresholds are s_0^2, s_0^2 + s_1^2 and s_0^2 + s_1^2 + s_2^2."""
    model = LinearVAE((4, 4, 4), noise=0.5, scales=(0.9, 0.7), isometric=True)
    found = ClosedForm(model, built(model, 4)).collapse(covariance(4))
    eigenvalues = np.linalg.eigvalsh(covariance(4))[::-1]
    thresholds = 0.25 + np.array([0.49 + 0.81, 0.49, 0.0])
    np.testing.assert_allclose(found.ratios, eigenvalues / thresholds[:, None], rtol=1e-6)


@pytest.mark.parametrize("model", [LinearVAE((2, 3)), LinearVAE((1, 2, 4), noise=0.8)])
def test_the_optimum_of_a_level(model: LinearVAE) -> None:
    """Over Cov(z_l), with everything below held, the mean log p(x) is largest where the ratios say, and as large.

    The optimum has the value that the whitened eigenvalues k give, N's plus sum (k - 1 - log k)/2 over k > 1; no step
    in any direction improves on it; and a little variance helps from Cov(z_l) = 0 exactly where some ratio exceeds 1.
    """
    exact, data = ClosedForm(model, built(model, 5)), covariance(5)
    gain, below = exact.link(0)[0], exact.link(0)[2]
    ratios = exact.collapse(data).ratios
    for level in range(1, model.num_levels + 1):
        k = ratios[-level]
        lives = k[k > 1.0]
        factor = np.linalg.cholesky(below)
        basis, sizes, right = np.linalg.svd(np.linalg.solve(factor, gain), full_matrices=False)
        white = np.linalg.solve(factor, np.linalg.solve(factor, data).T)
        values, vectors = np.linalg.eigh(basis.T @ white @ basis)
        best = vectors @ np.diag(np.maximum(values - 1.0, 0.0)) @ vectors.T  # G Cov(z) G^T, whitened, in the basis
        back = right.T @ np.diag(1 / sizes)
        best = back @ best @ back.T  # Cov(z_l)
        at = mean_log_px(below + gain @ best @ gain.T, data)
        np.testing.assert_allclose(at, mean_log_px(below, data) + 0.5 * (lives - 1 - np.log(lives)).sum(), rtol=1e-10)
        root = np.linalg.cholesky(best + 1e-12 * np.eye(len(best)))
        for _ in range(50):
            moved = root + 0.05 * RNG.normal(size=best.shape) * np.abs(root).max()
            assert mean_log_px(below + gain @ moved @ moved.T @ gain.T, data) <= at + 1e-9
        gains = []
        for _ in range(200):
            v = gain @ RNG.normal(size=gain.shape[1])
            tiny = 1e-6 * np.outer(v, v) / (v @ v)
            gains.append(mean_log_px(below + tiny, data) - mean_log_px(below, data))
        if (k <= 1.0).all():
            assert max(gains) < 0
        if len(k) == (k > 1.0).sum():
            assert min(gains) > 0
        slope, _, noise = exact.link(level) if level < model.num_levels else (np.eye(len(best)), None, 0 * best)
        below, gain = below + gain @ noise @ gain.T, gain @ slope


def at_the_optimum(model: LinearVAE, variances: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Parameters of two isometric levels at the optimum for data of these variances, and t of each direction.

    Everything is diagonal: z1 is x but for the noise, and A_1 stretches each direction by sqrt(t n)/rho.
    """
    noise, (scale,), width = model.noise, model.scales, len(variances)
    assert noise is not None
    rho, below = model.smoothing.rho, noise**2 + scale**2
    a = noise_cost(rho, model.smoothing.draws) * below / noise**2
    k = variances / below
    t = np.maximum((np.sqrt(1.0 + 4.0 * a * k) - 1.0) / (2.0 * a) if a else k, 1.0) - 1.0
    gain, stretch, eye = scale**2 / below, np.sqrt(t * below) / rho, np.eye(width)
    params = {"kernel_x": eye, "kernel1": np.diag(stretch), "q1_from_x": gain * eye}
    params |= {"q1_from_z": -gain * rho * np.diag(stretch), "q2_from_x": np.diag(np.sqrt(t / below) / (1.0 + t))}
    params |= {"q1_log_std": np.full(width, 0.5 * np.log(noise**2 / below)), "q2_log_std": -0.5 * np.log1p(t)}
    return {**params, **{name: np.zeros(width) for name in ("bias_x", "bias1", "q1_bias", "q2_bias")}}, t


@pytest.mark.parametrize("draws", [1, 4])
@pytest.mark.parametrize("rho", [0.4, 0.8, 1.0])
def test_smoothing_moves_the_threshold(rho: float, draws: int) -> None:
    """At the closed form's optimum no step in the parameters, of the model or of q, improves on the exact ELBO.

    Its rates of z2 are the predicted ones. A direction lives where k > 1 + a: from a dead optimum, a little of it helps
    there and nowhere else.
    """
    model = LinearVAE((3, 3), noise=0.8, scales=(0.6,), isometric=True, smoothing=Smoothing(rho, draws))
    variances = np.array([20.0, 4.0, 0.9])
    x = np.concatenate([sign * np.diag(np.sqrt(3.0 * variances)) for sign in (1.0, -1.0)])  # of these very variances

    def elbo(params: dict[str, Any]) -> float:
        return ClosedForm(model, {"params": params}).elbo(x).mean()

    params, t = at_the_optimum(model, variances)
    exact, best = ClosedForm(model, {"params": params}), elbo(params)
    predicted = exact.collapse(np.diag(variances))
    np.testing.assert_allclose(exact.rates(x).mean(1)[0], predicted.rates[0].sum(), rtol=1e-10)
    rng = np.random.default_rng(0)
    for _ in range(30):
        moved = {name: value + 1e-3 * rng.normal(size=value.shape) for name, value in params.items()}
        assert elbo(moved) < best
    assert (predicted.rates[0] > 0).sum() == (t > 0).sum() == (predicted.ratios[0] > 1).sum()
    dead, _ = at_the_optimum(model, np.full(3, 1e-3))
    for unit, ratio in enumerate(predicted.ratios[0]):
        t = 1e-5 * np.eye(3)[unit]  # as much of z2 as gives this t, with the posterior that belongs to it
        below = 0.8**2 + 0.6**2
        stretch, gain = np.sqrt(t * below) / rho, 0.6**2 / below
        little = {"kernel1": np.diag(stretch), "q1_from_z": -gain * rho * np.diag(stretch)}
        little |= {"q2_from_x": np.diag(np.sqrt(t / below) / (1.0 + t)), "q2_log_std": -0.5 * np.log1p(t)}
        assert (elbo({**dead, **little}) > elbo(dead)) == (ratio > 1.0)


def test_the_threshold_of_one_draw_and_of_many() -> None:
    """As S grows the ratios return to those without smoothing; at rho = 0 nothing lives; other models are refused."""
    model, data = LinearVAE((3, 3), noise=0.8, scales=(0.6,), isometric=True), np.diag([20.0, 4.0, 0.9])
    variables = {"params": at_the_optimum(model.clone(smoothing=Smoothing(0.5)), np.full(3, 9.0))[0]}

    def collapse(smoothing: Smoothing) -> Collapse:
        return ClosedForm(model.clone(smoothing=smoothing), variables).collapse(data)

    plain = collapse(Smoothing())
    one, few, many = (collapse(Smoothing(0.5, draws)) for draws in (1, 10, 10**9))
    assert (one.ratios[0] < few.ratios[0]).all() and (few.ratios[0] < many.ratios[0]).all()
    np.testing.assert_allclose(many.ratios[0], plain.ratios[0], rtol=1e-6)
    np.testing.assert_allclose(many.rates[0], plain.rates[0], rtol=1e-6)
    np.testing.assert_array_equal(one.ratios[1], plain.ratios[1])
    assert not collapse(Smoothing(0.0)).rates[0].any()
    for other in (model.clone(isometric=False), model.clone(smoothing=Smoothing(0.5, decoder=True))):
        with pytest.raises(ValueError, match=r"two levels with isometric=True, fixed scales and decoder=False"):
            ClosedForm(other.clone(smoothing=Smoothing(0.5, decoder=other.isometric)), variables).collapse(data)


def test_a_level_that_reaches_x_in_few_directions() -> None:
    """More latents than directions: the others have the ratio 0, and no rate."""
    model = LinearVAE((5, 2))
    found = ClosedForm(model, built(model, 4)).collapse(covariance(4))
    assert [len(ratio) for ratio in found.ratios] == [5, 2]
    assert (found.ratios[0][:2] > 0).all() and (found.ratios[0][2:] == 0).all() and (found.rates[0][2:] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "beta"),
    [
        (LinearVAE((4,), noise=1.5), 1.0),
        (LinearVAE((4,), noise=1.0), 2.0),
        (LinearVAE((4, 4), noise=0.7, scales=(1.2,), isometric=True), 1.0),
    ],
)
def test_training_finds_the_threshold(model: LinearVAE, beta: float) -> None:
    """After 4,000 steps each latent of the top has the rate that its ratio says, within 0.05 nats; the dead have 0."""
    factor = np.linalg.cholesky(covariance(4))
    x = jnp.asarray(np.random.default_rng(2).normal(size=(500, 4)) @ factor.T, jnp.float32)
    objective, optimiser = Regularised(beta=beta), AdamW(2e-2, schedule=Cosine(0, 4000, 1.0, 0.0)).build()
    step = make_step(model, objective, optimiser)

    def one(state: Any, index: jax.Array) -> tuple[Any, None]:
        return step(state, Batch(x), jax.random.fold_in(KEY, index))[0], None

    state = init_state(model, objective, optimiser, KEY, x)
    variables = jax.jit(lambda state: jax.lax.scan(one, state, jnp.arange(4000))[0])(state).variables
    found = jax.jit(lambda v: usage(model, v, x, KEY, draws=20))(variables)
    measured = np.sort(np.asarray(found.unit_rates[0]).mean(0))[::-1]
    predicted = ClosedForm(model, variables).collapse(np.cov(x, rowvar=False, bias=True), beta)
    assert 0 < (predicted.rates[0] > 0).sum() < 4
    np.testing.assert_allclose(measured, predicted.rates[0], atol=0.05)


def test_posteriors_start_near_the_prior_and_bounds_order() -> None:
    """A fresh "linear" model has next to no rate; ELBO, IWAE bound and log p(x) are in their order."""
    model, x = LinearVAE((2, 3)), reals(6)
    variables = jax.jit(model.init)(KEY, x, KEY)
    trace = jax.jit(lambda: model.apply(variables, x, KEY))()
    assert float(jnp.abs(trace.rates).max()) < 1e-2
    exact, found = ClosedForm(model, variables), hv.importance(model, variables, x, KEY, 500)
    elbo, log_px = exact.elbo(np.asarray(x)), exact.log_px(np.asarray(x))
    assert (elbo < log_px).all() and (np.abs(found.elbo - elbo) < 4.5 * found.elbo_standard_error).all()
    assert (elbo < found.bound).all() and (found.bound < log_px + 4.5 * found.standard_error).all()


def test_images_keep_their_shape() -> None:
    """x of any shape and dtype; reconstructions and samples have it."""
    x = np.random.default_rng(0).integers(0, 17, (6, 2, 3, 1)).astype(np.uint8)
    model = LinearVAE((2, 3))
    variables = jax.jit(model.init)(KEY, x, KEY)
    assert model.apply(variables, x, KEY, method="reconstruct").shape == x.shape
    assert model.apply(variables, KEY, 4, method="generate").shape == (4, 2, 3, 1)
    with pytest.raises(ValueError, match=r"x has shape \(6, 6\).*initialised for examples of \(2, 3, 1\)"):
        model.apply(variables, x.reshape(6, 6), KEY)


def test_rows_are_orthonormal() -> None:
    """Q Q^T = I, whatever the signs of the factorisation; the span is that of a."""
    a = jnp.asarray(RNG.normal(size=(3, 5)), jnp.float32)
    q = orthonormal_rows(a)
    np.testing.assert_allclose(q @ q.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(a @ q.T @ q, a, atol=1e-5)
    np.testing.assert_allclose(orthonormal_rows(-a), -q, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"latents": ()}, r"latents=\(\).*at least one level"),
        ({"latents": (2, 0)}, "whole number of 1 or more"),
        ({"noise": 0.0}, r"noise=0.0.*positive and finite, or None"),
        ({"noise": float("inf")}, "positive and finite"),
        ({"scales": (1.0, 2.0)}, r"2 levels need 1, one for each level below the top"),
        ({"scales": (-1.0,)}, r"scales=\(-1.0,\).*positive and finite"),
        ({"inference": "exakt"}, "'linear', 'exact' or 'shifted'"),
        ({"latents": (2,), "isometric": True}, "no map below the top one's"),
        ({"latents": (1, 3, 2), "isometric": True}, "sizes rise towards x"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], said: str) -> None:
    """Each is refused with a remedy."""
    with pytest.raises(ValueError, match=said):
        LinearVAE(**settings)


def test_wrong_calls() -> None:
    """Errors for an x that isometries cannot lead to, no x to begin with, and closed forms of what has none."""
    with pytest.raises(ValueError, match="x has 2 numbers, fewer than z1"):
        LinearVAE((2, 3), isometric=True).init(KEY, jnp.zeros((1, 2)), KEY)
    with pytest.raises(ValueError, match="initialise the model with an x first"):
        LinearVAE().init(KEY, KEY, 2, method="decode")
    model = LinearVAE((2,))
    variables = built(model, 3)
    with pytest.raises(ValueError, match="only LinearVAE has closed forms"):
        ClosedForm(hv.models.VAE(), variables)
    with pytest.raises(ValueError, match="variables of a LinearVAE"):
        ClosedForm(model, {"params": {}})
    exact = ClosedForm(model, variables)
    with pytest.raises(ValueError, match=r"covariance of shape \(2, 2\).*needs \(3, 3\)"):
        exact.collapse(np.eye(2))
    with pytest.raises(ValueError, match=r"beta=0.0"):
        exact.collapse(np.eye(3), beta=0.0)


def test_a_closed_form_is_immutable_data() -> None:
    """Its records are frozen, so that an oracle cannot be changed by a test that uses it."""
    found = ClosedForm(LinearVAE((2,)), built(LinearVAE((2,)), 3))
    for record in (found.joint, found.collapse(np.eye(3))):
        assert dataclasses.is_dataclass(record) and record.__dataclass_params__.frozen
