"""Priors of the top latent: mixtures against SciPy, the VampPrior against the model's own posteriors."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from support import contract
from support.cases import Case, Half, every, integers, jitter, plain
from support.contract import Row

from hvae_jax.distributions import Normal, NormalMixture
from hvae_jax.experiment import settings
from hvae_jax.likelihoods import Bernoulli, Categorical, Gaussian
from hvae_jax.models import HVAE, VAE, BottomUpVAE, MixturePrior, NormalPrior, TopDownVAE, VampPrior
from hvae_jax.networks import MLP
from hvae_jax.objectives import Batch, PrintedELBO
from hvae_jax.trace import Trace

KEY, OTHER_KEY = jax.random.split(jax.random.key(0))
K = 5
X = integers(4, 2, 3)
MODELS: dict[str, Any] = {
    "vae": VAE(latents=2, hidden=5, depth=1, normalise=True, likelihood=Categorical(4), top_prior=VampPrior(K)),
    "top_down": TopDownVAE(latents=(2, 3), hidden=5, likelihood=Categorical(4), top_prior=VampPrior(K)),
    "bottom_up": BottomUpVAE(
        latents=(2, 2),
        likelihood=Categorical(4),
        top_prior=VampPrior(K),
        bottom_up=(MLP(()), None),
        posterior=(Half(), plain(4)),
    ),
}
each_model = pytest.mark.parametrize("name", MODELS)


@functools.cache
def variables(name: str) -> dict[str, Any]:
    """Variables of a model, moved so far that pseudo-inputs make a difference and statistics are not fresh."""
    made = jax.jit(MODELS[name].init)(KEY, X, KEY)
    moved = jax.tree.map(lambda leaf: 1.3 * leaf + 0.2, made["batch_stats"])
    return {"params": jitter(made["params"], scale=0.4), "batch_stats": moved}


@functools.cache
def passes(name: str) -> dict[str, Trace]:
    """Passes of a model, compiled at once: X in evaluation, in training and after it, and two decodings."""
    model = MODELS[name]

    def all_of(made: Any) -> dict[str, Any]:
        trained, updates = model.apply(made, X, KEY, train=True, mutable=["batch_stats"])
        return {
            "plain": model.apply(made, X, KEY),
            "after": model.apply({**made, **updates}, X, KEY),
            "trained": trained,
            "updates": updates,
            "decoded": model.apply(made, OTHER_KEY, 3, method="decode"),
            "cold": model.apply(made, OTHER_KEY, 3, temperature=0.0, method="decode"),
        }

    return jax.jit(all_of)(variables(name))


def log_mixture(weights: np.ndarray, means: np.ndarray, stds: np.ndarray, z: np.ndarray) -> np.ndarray:
    """log sum_k w_k N(z; m_k, diag s_k^2) by SciPy: means, stds `[K, d]`, z `[B, d]` to `[B]`."""
    each = [
        np.atleast_1d(stats.multivariate_normal(mean, np.diag(std**2)).logpdf(z.astype(np.float64)))
        for mean, std in zip(means.astype(np.float64), stds.astype(np.float64), strict=True)
    ]
    return special.logsumexp(np.log(weights)[:, None] + np.stack(each), axis=0)


# ---- mixtures of Gaussians


def mixture(*event: int) -> NormalMixture:
    """K Gaussians over z of that shape, different for each of 8 examples."""
    rng = np.random.default_rng(0)
    mean, log_std = rng.normal(size=(8, K, *event)), 0.5 * rng.normal(size=(8, K, *event))
    logits = jnp.asarray(rng.normal(size=(8, K)), jnp.float32)
    return NormalMixture(logits, Normal(jnp.asarray(mean, jnp.float32), jnp.asarray(log_std, jnp.float32)))


@pytest.mark.parametrize("event", [(1,), (3,), (2, 2, 3)], ids=str)
def test_a_mixture_is_scipys(event: tuple[int, ...]) -> None:
    """Density, mean and mode (the component's mean of highest density) agree with SciPy; latents may be maps."""
    p = mixture(*event)
    z = np.random.default_rng(1).normal(size=(8, *event)).astype(np.float32)
    weights = special.softmax(np.asarray(p.logits, np.float64), axis=-1)
    means, stds = (np.asarray(leaf).reshape(8, K, -1) for leaf in (p.components.mean, p.components.std))
    got, mode = p.log_prob(jnp.asarray(z)), np.asarray(p.mode).reshape(8, -1)
    for i in range(8):
        expected = log_mixture(weights[i], means[i], stds[i], z[i].reshape(1, -1))
        np.testing.assert_allclose(got[i], expected[0], rtol=1e-5)
        densest = log_mixture(weights[i], means[i], stds[i], means[i]).argmax()
        np.testing.assert_array_equal(mode[i], means[i][densest])
    np.testing.assert_allclose(p.mean.reshape(8, -1), np.einsum("bk,bkd->bd", weights, means), rtol=1e-4, atol=1e-6)


def test_samples_of_a_mixture() -> None:
    """40,000 draws have the right mean and covariance within 4.5 standard errors; at temperature 0 all are the mode."""
    p = mixture(2)
    draws = np.asarray(jax.jit(jax.vmap(p.sample))(jax.random.split(KEY, 40_000)), np.float64)  # [S, B, d]
    weights = special.softmax(np.asarray(p.logits, np.float64), axis=-1)
    means, stds = (np.asarray(leaf, np.float64) for leaf in (p.components.mean, p.components.std))
    second = np.einsum("bk,bkd,bke->bde", weights, means, means)
    second += np.einsum("bk,bkd,de->bde", weights, stds**2, np.eye(2))
    products = draws[..., :, None] * draws[..., None, :]
    for values, expected in ((draws, np.einsum("bk,bkd->bd", weights, means)), (products, second)):
        error = values.std(0, ddof=1) / np.sqrt(len(values))
        assert (np.abs(values.mean(0) - expected) < 4.5 * error).all()
    for key in (KEY, OTHER_KEY):
        np.testing.assert_array_equal(p.sample(key, 0.0), p.mode)


def test_the_mixture_prior() -> None:
    """Its density follows from its parameters, log variances clamped; weights start equal, variances at 1."""
    prior = MixturePrior(3, spread=0.5, clamp=(-0.1, 0.1))
    model = TopDownVAE(latents=(2, 3), hidden=5, likelihood=Categorical(4), top_prior=prior)
    made = jax.jit(model.init)(KEY, X, KEY)
    start = made["params"]
    assert start["top_prior_mean"].shape == start["top_prior_log_var"].shape == (3, 2)
    assert (start["top_prior_log_var"] == 0).all() and (start["top_prior_logits"] == 0).all()
    params = jitter(start, scale=0.3)
    top = jax.jit(model.apply)({**made, "params": params}, X, KEY).levels[0]
    stds = np.exp(0.5 * np.clip(params["top_prior_log_var"], -0.1, 0.1))
    weights = special.softmax(np.asarray(params["top_prior_logits"], np.float64))
    expected = log_mixture(weights, np.asarray(params["top_prior_mean"]), stds, np.asarray(top.z))
    np.testing.assert_allclose(top.log_p, expected, rtol=1e-5)
    np.testing.assert_allclose(top.rate, top.log_q - expected, rtol=1e-4, atol=1e-5)  # there is no closed form


# ---- the VampPrior


def posteriors_by_hand(name: str) -> Normal:
    """q(z_L | u_k) by the model itself, in evaluation, with u_k as its x; bottom-up with every mean passed on."""
    model, made = MODELS[name], variables(name)
    u = jnp.clip(made["params"]["pseudo_inputs"], 0.0, 3.0)
    # traced, because pseudo-inputs are no values that the likelihood allows
    infer = jax.jit(lambda u, *latents: model.apply(made, u, KEY, latents=latents))
    apply = functools.partial(infer, u)
    latents: list[jax.Array | None] = [None] * model.num_levels
    if name == "bottom_up":
        for level in range(model.num_levels - 1, 0, -1):  # from z1 up
            latents[level] = apply(*latents).levels[level].q.mean
    return apply(*latents).levels[0].q


@pytest.mark.slow
@each_model
def test_the_vamp_prior_is_the_mean_of_posteriors(name: str) -> None:
    """log p(z_L) = log 1/K sum_k q(z_L | u_k), and the level's rate is log q - log p at the sample."""
    q, top = posteriors_by_hand(name), passes(name)["plain"].levels[0]
    expected = log_mixture(np.full(K, 1 / K), np.asarray(q.mean), np.asarray(q.std), np.asarray(top.z))
    assert np.ptp(np.asarray(q.mean), axis=0).min() > 0.05  # posteriors of different pseudo-inputs differ
    np.testing.assert_allclose(top.log_p, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(top.rate, top.log_q - top.log_p, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@each_model
def test_decoding_needs_no_x(name: str) -> None:
    """The prior is the same, and temperature 0 is its mode by SciPy; without variables there are no pseudo-inputs."""
    found, q = passes(name), posteriors_by_hand(name)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        jax.tree.map(lambda leaf: leaf[0], found["decoded"].levels[0].p),
        jax.tree.map(lambda leaf: leaf[0], found["plain"].levels[0].p),
    )
    means, stds = np.asarray(q.mean), np.asarray(q.std)
    densest = means[log_mixture(np.full(K, 1 / K), means, stds, means).argmax()]
    np.testing.assert_allclose(found["cold"].levels[0].z, np.broadcast_to(densest, (3, 2)), rtol=1e-4, atol=1e-5)
    assert (found["decoded"].levels[0].z != found["cold"].levels[0].z).all()
    shape = jax.eval_shape(lambda v: MODELS[name].apply(v, KEY, 3, method="generate"), variables(name)).shape
    assert shape == (3, 2, 3)
    with pytest.raises(ValueError, match="initialise the model with an x first"):
        MODELS[name].init(KEY, KEY, 3, method="decode")


@each_model
def test_pseudo_inputs_are_no_part_of_the_batch(name: str) -> None:
    """Running statistics change as under N(0, I), and normalise pseudo-inputs in training too."""
    found, made = passes(name), variables(name)
    plain = MODELS[name].clone(top_prior=NormalPrior())
    params = {path: leaf for path, leaf in made["params"].items() if path != "pseudo_inputs"}
    _, updates = jax.jit(lambda v: plain.apply(v, X, KEY, train=True, mutable=["batch_stats"]))(
        {**made, "params": params}
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, found["updates"], updates)
    assert all((new != old).any() for new, old in zip(*map(jax.tree.leaves, (updates, statistics(made))), strict=True))
    jax.tree.map(close, found["trained"].levels[0].p, found["after"].levels[0].p)


def statistics(made: dict[str, Any]) -> dict[str, Any]:
    """The batch statistics alone."""
    return {"batch_stats": made["batch_stats"]}


@each_model
def test_the_gradient_reaches_pseudo_inputs(name: str) -> None:
    """The gradient of log p(z_L) agrees with a finite difference, and is 0 where u lies outside the range of x."""
    model, made = MODELS[name], variables(name)
    u = jnp.asarray(np.random.default_rng(2).uniform(0.5, 2.5, (K, 2, 3)), jnp.float32)
    u = u.at[0, 0, 0].set(-0.5).at[1, 1, 2].set(3.5)
    z = jnp.ones((1, 2))
    latents = (z, *(None,) * (model.num_levels - 1))

    def log_p(u: jax.Array) -> jax.Array:
        params = {**made["params"], "pseudo_inputs": u}
        return model.apply({**made, "params": params}, KEY, 1, latents=latents, method="decode").levels[0].log_p.sum()

    value, gradient = jax.jit(jax.value_and_grad(log_p))(u)
    outside = np.zeros(u.shape, bool)
    outside[0, 0, 0] = outside[1, 1, 2] = True
    assert (np.asarray(gradient)[outside] == 0).all()
    assert (np.asarray(gradient)[~outside] != 0).all()
    step = 0.02 * gradient / jnp.sqrt((gradient**2).sum())
    moved = jax.jit(log_p)
    slope = (moved(u + step) - moved(u - step)) / 2
    np.testing.assert_allclose(slope, (gradient * step).sum(), rtol=0.05)
    np.testing.assert_allclose(moved(u.at[0, 0, 0].set(0.0).at[1, 1, 2].set(3.0)), value, rtol=1e-6)


@each_model
def test_pseudo_inputs_start_as_examples(name: str) -> None:
    """They are the batch in turn, within the range of x, with a little noise; the ninth of 20 is the first again."""
    model = MODELS[name].clone(top_prior=VampPrior(20))
    u = jax.jit(model.init)(KEY, X, KEY)["params"]["pseudo_inputs"]
    assert u.shape == (20, 2, 3) and u.dtype == jnp.float32
    assert ((u > 0.0) & (u < 3.0)).all()  # outside, the clamp has no gradient
    off = np.asarray(u) - (1.5 + 0.9 * (np.asarray(X, np.float32)[np.arange(20) % 8] - 1.5))
    assert abs(off.mean()) < 4 * 0.03 / np.sqrt(off.size)
    assert 0.025 < off.std() < 0.035 and np.abs(off).max() < 5 * 0.03


def test_pseudo_inputs_of_unbounded_data() -> None:
    """Without a value range pseudo-inputs are not clipped."""
    model = VAE(latents=2, hidden=5, likelihood=Gaussian(), top_prior=VampPrior(K))
    made = jax.jit(model.init)(KEY, 100.0 * jnp.ones((8, 3)), KEY)
    moved = jax.tree.map(lambda leaf: leaf, made)
    moved["params"]["pseudo_inputs"] = made["params"]["pseudo_inputs"] + 1.0
    decode = jax.jit(lambda v: model.apply(v, KEY, 2, method="decode").levels[0].p.components.mean)
    assert (decode(made) != decode(moved)).all()


# ---- the VAE, which has no row of its own with such a prior


@functools.cache
def vae_row() -> Row:
    """A VAE with the prior it was published with."""
    model = VAE(latents=2, hidden=6, depth=1, activation=jnp.tanh, likelihood=Bernoulli(), top_prior=VampPrior(K))
    return Row(Case("vae_vamp", model, integers(2, 4), every_x=every(2, 4)))


@pytest.mark.parametrize(
    "promise",
    [
        contract.each_parameter_learns,
        contract.mean_weight_is_one,
        contract.weights_sum_to_one,
        pytest.param(contract.given_latents_reproduce, marks=pytest.mark.slow),
        pytest.param(contract.keep_top_mixes, marks=pytest.mark.slow),
    ],
    ids=lambda promise: promise.__name__,
)
def test_the_vae_keeps_the_contract(promise: Any) -> None:
    """The promise's own docstring says what is proved."""
    promise(vae_row())


# ---- settings and refusals


@pytest.mark.parametrize("model", [VAE, TopDownVAE, BottomUpVAE])
@pytest.mark.parametrize("prior", [VampPrior(3), MixturePrior(3)], ids=["vamp", "mixture"])
def test_labels_beside_a_top_prior_are_refused(model: type[HVAE], prior: Any) -> None:
    """With labels the top prior is learned from y, so the two exclude each other."""
    with pytest.raises(ValueError, match=rf"{model.__name__}\(classes=3, top_prior=.*only one of the two"):
        model(classes=3, top_prior=prior)
    model(classes=3, top_prior=NormalPrior())


def test_what_needs_a_closed_kl_refuses_a_mixture() -> None:
    """The error names the level."""
    model, made = MODELS["top_down"], variables("top_down")

    def forward(variables: Any, x: jax.Array, key: jax.Array, **choices: Any) -> tuple[Trace, Any]:
        return model.apply(variables, x, key, **choices), {}

    with pytest.raises(ValueError, match=r"level 'z2' has none.*Normal and its p a NormalMixture"):
        jax.eval_shape(lambda: PrintedELBO()(forward, made, Batch(X), KEY, jnp.int32(0), ())[0])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: VampPrior(0), r"VampPrior\(pseudo_inputs=0\).*1 or more"),
        (lambda: MixturePrior(0), r"MixturePrior\(components=0\).*1 or more"),
        (lambda: MixturePrior(spread=0.0), r"MixturePrior\(spread=0\.0\).*positive"),
        (lambda: MixturePrior(spread=float("inf")), r"MixturePrior\(spread=inf\).*finite"),
    ],
    ids=["vamp", "components", "spread", "infinite"],
)
def test_settings_that_cannot_be(make: Any, said: str) -> None:
    """Errors come at construction."""
    with pytest.raises(ValueError, match=said):
        make()


@each_model
def test_as_settings(name: str) -> None:
    """A model comes back from JSON with its prior, and is hashable."""
    for prior in (VampPrior(7), MixturePrior(4, spread=0.5), NormalPrior()):
        model = type(MODELS[name])(top_prior=prior)
        assert settings.from_json(settings.to_json(model)) == model
        hash(model)
