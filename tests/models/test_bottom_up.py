"""BottomUpVAE: the right rates in closed form, the error of the article's printed rates, and errors of settings."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from support import contract
from support.cases import case, integers
from support.contract import Row

from hvae_jax.distributions import kl, sum_event
from hvae_jax.experiment import settings
from hvae_jax.likelihoods import Categorical, Gaussian
from hvae_jax.models import BottomUpVAE
from hvae_jax.models.linear_exact import GaussianVector
from hvae_jax.networks import MLP
from hvae_jax.objectives import Batch, NegativeELBO, PrintedELBO, elbo, importance, log_weight
from hvae_jax.trace import Trace

KEY, OTHER_KEY = jax.random.split(jax.random.key(0))
MODEL = BottomUpVAE(latents=(2, 3), hidden=5, likelihood=Categorical(4))
X = integers(4, 2, 2)
DRAWS = 20_000


@functools.cache
def variables(model: BottomUpVAE = MODEL) -> dict[str, Any]:
    """Variables of a model, for x of 2x2."""
    return jax.jit(model.init)(KEY, X, KEY)


def parameters(model: BottomUpVAE, *event: int) -> int:
    """Number of parameters of a model for x of that shape."""
    shapes = jax.eval_shape(model.init, KEY, jnp.zeros((1, *event), jnp.uint8), KEY)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_sizes() -> None:
    """The model has the top-down model's 721,808 parameters, but q(z2 | z1) reads 16 numbers instead of 256."""
    assert parameters(BottomUpVAE(), 8, 8, 1) == 721_808 - (256 - 16) * 256 == 660_368
    assert parameters(BottomUpVAE(posteriors_see_x=True), 8, 8, 1) == 660_368 + 256 * 256
    stem, top = (9 * 32 + 32) + (9 * 32 * 64 + 64), 2 * 2 * 64
    readout = 257 * top + (9 * 64 * 32 + 32) + (9 * 32 * 17 + 17)
    norms = 2 * (32 + 64 + 64 + 32)
    conv = 660_368 + stem + (top - 64) * 256 + readout - 257 * 64 * 17 + norms
    assert parameters(BottomUpVAE(network="conv"), 8, 8, 1) == conv


# ---- closed forms


@dataclasses.dataclass(frozen=True)
class Linear:
    """Two levels of linear Gaussian conditionals: N(slope v + shift, diag std^2) for each of the five.

    Attributes:
      q1: z1 given x; q2: z2 given z1; p1: z1 given z2; px: x given z1. Each (slope `[out, in]`, shift, std `[out]`).
    """

    q1: tuple[np.ndarray, np.ndarray, np.ndarray]
    q2: tuple[np.ndarray, np.ndarray, np.ndarray]
    p1: tuple[np.ndarray, np.ndarray, np.ndarray]
    px: tuple[np.ndarray, np.ndarray, np.ndarray]

    def model(self) -> BottomUpVAE:
        """The model with one linear layer for each conditional."""
        d1, d2 = len(self.q1[1]), len(self.q2[1])
        return BottomUpVAE(
            latents=(d2, d1),
            likelihood=Gaussian(),
            bottom_up=(MLP(()), MLP(())),
            posterior=(MLP((), 2 * d2), MLP((), 2 * d1)),
            prior=(MLP((), 2 * d1),),
            decoder=MLP(()),
        )

    def variables(self) -> dict[str, Any]:
        """The model's parameters."""

        def layer(slope: np.ndarray, shift: np.ndarray, std: np.ndarray) -> dict[str, Any]:
            kernel = np.concatenate([slope, np.zeros_like(slope)]).T
            return {"last": {"kernel": kernel, "bias": np.concatenate([shift, 2 * np.log(std)])}}

        slope, shift, std = self.px
        bound = 5.0  # Gaussian has log_std = bound * tanh(h / bound)
        params = {
            "posterior_1": layer(*self.q1),
            "posterior_0": layer(*self.q2),
            "prior_0": layer(*self.p1),
            "readout": {
                "kernel": np.stack([slope.T, np.zeros_like(slope.T)], -1),
                "bias": np.stack([shift, bound * np.arctanh(np.log(std) / bound)], -1),
            },
        }
        return {"params": jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)}

    def rates(self, x: np.ndarray, printed: bool) -> np.ndarray:
        """E_q of the two rates, `[2, B]`, top first.

        z1 ~ N(m1, S1) and z2 = B z1 + b + noise. E[log q(z1) - log p(z1 | z2)] needs the second moment of
        z1 - C z2 - c: its covariance is (I - C B) S1 (I - C B)' + C S2 C'. The printed one takes z1 and z2 as
        independent: S1 + C (B S1 B' + S2) C'.
        """
        (a, shift, std), (b, b_shift, b_std), (c, c_shift, c_std) = self.q1, self.q2, self.p1
        s1, s2 = np.diag(std**2), np.diag(b_std**2)
        m1 = x @ a.T + shift
        m2 = m1 @ b.T + b_shift
        turn = np.eye(len(std)) - c @ b
        cov = s1 + c @ (b @ s1 @ b.T + s2) @ c.T if printed else turn @ s1 @ turn.T + c @ s2 @ c.T
        offset = m1 - m2 @ c.T - c_shift
        second = (offset**2 + np.diag(cov)) / c_std**2
        rate1 = 0.5 * (second - 1).sum(-1) + np.log(c_std / std).sum()
        rate2 = 0.5 * (m2**2 + np.diag(b @ s1 @ b.T + s2) - 1).sum(-1) - np.log(b_std).sum()
        return np.stack([rate2, rate1])

    def log_px(self, x: np.ndarray) -> np.ndarray:
        """log p(x), `[B]`."""
        (c, c_shift, c_std), (d, d_shift, d_std) = self.p1, self.px
        cov = d @ (np.diag(c_std**2) + c @ c.T) @ d.T + np.diag(d_std**2)
        return stats.multivariate_normal(d @ c_shift + d_shift, cov).logpdf(x)

    def mean_log_px(self, x: np.ndarray) -> np.ndarray:
        """E_q log p(x | z1), `[B]`."""
        (a, shift, std), (d, d_shift, d_std) = self.q1, self.px
        offset = x - (x @ a.T + shift) @ d.T - d_shift
        second = (offset**2 + np.diag(d @ np.diag(std**2) @ d.T)) / d_std**2
        return -0.5 * (second + np.log(2 * np.pi)).sum(-1) - np.log(d_std).sum()


def related() -> Linear:
    """x of 3, z1 and z2 of 2 numbers; p and q have nearly the same slopes, and scales that give weights a variance."""
    turn = np.array([[0.6, 0.2], [-0.2, 0.5]])
    up = np.array([[0.3, 0.1, 0.0], [-0.1, 0.2, 0.2]])
    return Linear(
        (up, np.array([0.2, -0.1]), np.full(2, 0.95)),
        (turn, np.array([0.1, 0.2]), np.full(2, 0.9)),
        (turn.T, np.array([0.0, 0.3]), np.full(2, 0.8)),
        (up.T, np.array([0.1, 0.0, -0.2]), np.ones(3)),
    )


ONE = np.ones((1, 1)), np.zeros(1)
FIVE_ONES = Linear(  # the example of one dimension: q(z1) = N(0, 1), q(z2 | z1) = N(z1, 0.09), p(z1 | z2) = N(z2, 1)
    (np.zeros((1, 1)), np.zeros(1), np.ones(1)), (*ONE, np.full(1, 0.3)), (*ONE, np.ones(1)), (*ONE, np.ones(1))
)


def printed_rates(trace: Trace) -> jax.Array:
    """The article's rates, `[L, B]`: KL(q_l || p_l) in closed form, for the q and p of one trace."""
    return jnp.stack([sum_event(kl(level.q, level.p)) for level in trace.levels])


@functools.cache
def drawn(linear: str) -> dict[str, np.ndarray]:
    """DRAWS passes over a few x: elbo, log_weight [S, B]; rates, ratios, printed [S, L, B]."""
    one = {"related": related(), "one": FIVE_ONES}[linear]
    model, x = one.model(), jnp.asarray(data_of(one), jnp.float32)

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        trace = model.apply(one.variables(), x, key)
        return {
            "elbo": elbo(trace),
            "log_weight": log_weight(trace),
            "rates": trace.rates,
            "ratios": trace.ratios,
            "printed": printed_rates(trace),
        }

    draws = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(2), DRAWS))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), draws)


def data_of(linear: Linear) -> np.ndarray:
    """Four x."""
    return np.random.default_rng(0).normal(size=(4, len(linear.px[1])))


def assert_mean(draws: np.ndarray, expected: np.ndarray) -> None:
    """The mean of independent draws, within 4.5 standard errors and float32."""
    error = draws.std(0, ddof=1) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - expected) < 4.5 * error + 1e-5).all(), (draws.mean(0) - expected) / error


def test_the_example_of_one_dimension() -> None:
    """E[log q(z1) - log p(z1 | z2)] is -1/2 + 0.09/2; the printed KL has the mean (1 + 0.09)/2: one whole nat more."""
    x = data_of(FIVE_ONES)
    right, wrong = FIVE_ONES.rates(x, printed=False)[1], FIVE_ONES.rates(x, printed=True)[1]
    np.testing.assert_allclose(right, -0.455, rtol=1e-12)
    np.testing.assert_allclose(wrong, 0.545, rtol=1e-12)
    assert_mean(drawn("one")["rates"][:, 1], right)
    assert_mean(drawn("one")["printed"][:, 1], wrong)


def test_the_right_rates() -> None:
    """Rates of both levels have the right mean; the top rate is analytic and varies less than its log-ratio."""
    linear, draws = related(), drawn("related")
    x = data_of(linear)
    expected = linear.rates(x, printed=False)
    assert_mean(draws["rates"], expected)
    assert_mean(draws["ratios"], expected)
    np.testing.assert_allclose(draws["rates"][:, 1], draws["ratios"][:, 1], atol=1e-4)
    assert (draws["rates"][:, 0].var(0) < draws["ratios"][:, 0].var(0)).all()
    bound = linear.mean_log_px(x) - expected.sum(0)
    assert_mean(draws["elbo"], bound)
    assert_mean(draws["log_weight"], bound)
    assert (bound < linear.log_px(x)).all()


def test_the_printed_rates() -> None:
    """The printed top rate is right; the lower one is off by the closed form's difference, many standard errors."""
    linear, draws = related(), drawn("related")
    x = data_of(linear)
    right, printed = linear.rates(x, printed=False), linear.rates(x, printed=True)
    np.testing.assert_array_equal(right[0], printed[0])
    np.testing.assert_allclose(draws["printed"][:, 0], draws["rates"][:, 0], rtol=1e-5, atol=1e-6)
    assert_mean(draws["printed"], printed)
    gap = draws["printed"][:, 1] - draws["ratios"][:, 1]
    assert_mean(gap, printed[1] - right[1])
    assert (np.abs(printed[1] - right[1]) > 10 * gap.std(0) / np.sqrt(DRAWS)).all()


@pytest.mark.parametrize("name", ["related", "one"])
def test_the_objective_that_trains_on_the_printed_rates(name: str) -> None:
    """Its loss has the mean of -(log p(x | z1) - printed rates); metrics have both bounds, `elbo` the true one."""
    linear = {"related": related(), "one": FIVE_ONES}[name]
    x, model = data_of(linear), linear.model()

    def forward(variables: Any, x: jax.Array, key: jax.Array, **choices: Any) -> tuple[Trace, Any]:
        return model.apply(variables, x, key, **choices), {}

    def one(key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
        batch = Batch(jnp.asarray(x, jnp.float32))
        loss, metrics, *_ = PrintedELBO()(forward, linear.variables(), batch, key, jnp.int32(0), ())
        return loss, metrics, elbo(model.apply(linear.variables(), batch.x, key)).mean()

    losses, metrics, bounds = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), DRAWS))
    printed = linear.rates(x, printed=True)
    assert_mean(np.asarray(losses, np.float64), -(linear.mean_log_px(x) - printed.sum(0)).mean())
    np.testing.assert_array_equal(metrics["printed_elbo"], -losses)
    for level, expected in zip(("z2", "z1"), printed.mean(1), strict=True):
        assert_mean(np.asarray(metrics[f"printed_rate/{level}"], np.float64), expected)
    np.testing.assert_allclose(metrics["elbo"], bounds, rtol=1e-5, atol=1e-5)


def opposed() -> Linear:
    """q(z2 | z1) has the opposite sign of p(z1 | z2); q(z1) is the prior's marginal, and x carries no information."""
    slope, std = 0.9, 0.5
    return Linear(
        (np.zeros((1, 1)), np.zeros(1), np.full(1, math.hypot(slope, std))),
        (np.full((1, 1), -0.9), np.zeros(1), np.full(1, 0.3)),
        (np.full((1, 1), slope), np.zeros(1), np.full(1, std)),
        (np.full((1, 1), 1e-3), np.zeros(1), np.ones(1)),
    )


@pytest.mark.parametrize("linear", [related(), opposed(), FIVE_ONES], ids=["related", "opposed", "one"])
def test_what_the_printed_rates_are(linear: Linear) -> None:
    """Their sum is KL(q(z1 | x) q(z2 | x) || p(z1, z2)) + I_q(z1; z2 | x): so the printed "ELBO" is below log p(x)."""
    (a, shift, std), (b, b_shift, b_std), (c, c_shift, c_std) = linear.q1, linear.q2, linear.p1
    x = data_of(linear)
    s1 = np.diag(std**2)
    joint = np.block([[s1, s1 @ b.T], [b @ s1, b @ s1 @ b.T + np.diag(b_std**2)]])
    n = len(std)
    alone = np.zeros_like(joint)
    alone[:n, :n], alone[n:, n:] = joint[:n, :n], joint[n:, n:]
    prior = np.block([[c @ c.T + np.diag(c_std**2), c], [c.T, np.eye(c.shape[1])]])
    m1 = x @ a.T + shift
    means = np.concatenate([m1, m1 @ b.T + b_shift], 1)
    prior_mean = np.concatenate([c_shift, np.zeros(c.shape[1])])
    divergence = GaussianVector(means, alone).kl(GaussianVector(prior_mean, prior))
    information = 0.5 * (np.linalg.slogdet(alone)[1] - np.linalg.slogdet(joint)[1])
    printed = linear.rates(x, printed=True).sum(0)
    np.testing.assert_allclose(printed, divergence + information, rtol=1e-10)
    right = GaussianVector(means, joint).kl(GaussianVector(prior_mean, prior))
    np.testing.assert_allclose(linear.rates(x, printed=False).sum(0), right, rtol=1e-10)
    assert (linear.mean_log_px(x) - printed < linear.log_px(x)).all()


def test_the_printed_elbo_may_lie_above_the_elbo() -> None:
    """It is off by more than a nat: above if q(z2 | z1) has the wrong sign, below if it has the right one."""
    for linear, sign in ((opposed(), 1.0), (FIVE_ONES, -1.0)):
        x = data_of(linear)
        above = linear.rates(x, printed=False).sum(0) - linear.rates(x, printed=True).sum(0)
        assert (sign * above > 0.99).all()


def test_importance_weights_do_not_ask_for_the_rates() -> None:
    """The IWAE bound with 2,000 draws is log p(x) within its error."""
    linear = related()
    x = data_of(linear)
    result = importance(linear.model(), linear.variables(), jnp.asarray(x, jnp.float32), KEY, 2000, 500)
    assert (result.standard_error < 0.05).all()
    assert (np.abs(result.bound - linear.log_px(x)) < 4.5 * result.standard_error + 1e-4).all()


# ---- the contract


class Printed(BottomUpVAE):
    """The model as the article prints it: each level's KL is that of its q and p, in closed form."""

    def descend(self, *args: Any, **choices: Any) -> Trace:
        """The trace, its KLs replaced."""
        trace = super().descend(*args, **choices)
        return trace.replace(levels=tuple(level.replace(kl=kl(level.q, level.p)) for level in trace.levels))


@functools.cache
def printed_row(name: str) -> Row:
    """A row of tests/support/cases.py as the article prints it."""
    one = case(name)
    settings = {f.name: getattr(one.model, f.name) for f in dataclasses.fields(one.model)}
    del settings["parent"], settings["name"]
    return Row(dataclasses.replace(one, model=Printed(**settings)))


def test_the_contract_catches_the_printed_rates() -> None:
    """Their mean is not the mean log-ratio; that of the model's own rates is (tests/test_contract.py)."""
    with pytest.raises(AssertionError):
        contract.mean_rate_is_mean_ratio(printed_row("bottom_up_vae"))


@pytest.mark.parametrize(
    "promise",
    [contract.mean_weight_is_one, contract.weights_sum_to_one, contract.iwae_rises, contract.keep_top_mixes],
    ids=lambda promise: promise.__name__,
)
def test_the_printed_rates_leave_weights_and_latents_alone(promise: Any) -> None:
    promise(printed_row("bottom_up_vae"))


# ---- the ascent and the descent


def apply(*args: Any, model: BottomUpVAE = MODEL, **choices: Any) -> Any:
    """A compiled pass of a model."""
    return jax.jit(lambda variables: model.apply(variables, *args, **choices))(variables(model))


def test_names_are_the_papers() -> None:
    """Names are listed top first; z1 is next to x."""
    trace = apply(X, KEY)
    assert trace.names == ("z2", "z1")
    assert [level.z.shape for level in trace.levels] == [(8, 2), (8, 3)]


def test_levels_that_are_kept_do_not_notice_the_others() -> None:
    """keep_top = 1 has the same z2, inferred from a z1 that is then replaced by a draw from p(z1 | z2)."""
    plain, kept = apply(X, KEY), apply(X, KEY, keep_top=1)
    np.testing.assert_allclose(kept.latents[0], plain.latents[0], rtol=1e-5)
    assert (kept.latents[1] != plain.latents[1]).all()
    np.testing.assert_allclose(kept.rates[0], plain.rates[0], rtol=1e-5)


@pytest.mark.parametrize("sees_x", [False, True])
def test_what_the_top_posterior_reads(sees_x: bool) -> None:
    """Given z1, q(z2 | z1) is the same for every x, but q(z2 | z1, x) is not."""
    model = MODEL.clone(posteriors_see_x=sees_x)
    z1 = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
    one, other = (apply(x, KEY, model=model, latents=(None, z1)).levels[0] for x in (X, X[::-1]))
    same = jnp.isclose(one.q.mean, other.q.mean, rtol=1e-5, atol=1e-6)
    assert not same.all() if sees_x else same.all()
    moved = apply(X, KEY, model=model, latents=(None, z1 + 1.0)).levels[0]
    assert (moved.q.mean != one.q.mean).any()


def test_the_analytic_kl_is_the_tops_alone() -> None:
    """The top rate is KL(q || p), the others are the log-ratio at the sample, level by level."""
    top, *below = apply(X, KEY, model=MODEL.clone(latents=(2, 3, 2))).levels
    np.testing.assert_allclose(top.rate, sum_event(kl(top.q, top.p)), rtol=1e-5)
    for level in below:
        np.testing.assert_allclose(level.rate, level.ratio, rtol=1e-4, atol=1e-4)
        assert (np.abs(level.rate - sum_event(kl(level.q, level.p))) > 1e-3).all()


def test_one_level_has_one_elbo() -> None:
    """Without a level below the top the printed formula is the ELBO: both objectives have one loss and one gradient."""
    model = MODEL.clone(latents=(3,))
    made = variables(model)

    def forward(params: Any, x: jax.Array, key: jax.Array, **choices: Any) -> tuple[Trace, Any]:
        return model.apply({**made, "params": params}, x, key, **choices), {}

    def loss(params: Any, objective: Any) -> jax.Array:
        return objective(forward, params, Batch(X), KEY, jnp.int32(0), ())[0]

    right, printed = (
        jax.jit(jax.value_and_grad(functools.partial(loss, objective=objective)))(made["params"])
        for objective in (NegativeELBO(), PrintedELBO())
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), printed, right)


def test_decoding_never_touches_the_inference_networks() -> None:
    made = variables()
    keep = {name: tree for name, tree in made["params"].items() if name not in ("r1", "r2", "q1", "q2")}
    assert len(keep) == len(made["params"]) - 4
    shapes = jax.eval_shape(lambda: MODEL.apply({**made, "params": keep}, KEY, 5, method="generate"))
    assert shapes.shape == (5, 2, 2)


@pytest.mark.slow
def test_remat_and_bfloat16_with_convolutions() -> None:
    """remat changes neither numbers nor parameters; under bfloat16 traces and parameters stay float32."""
    plain = MODEL.clone(network="conv", width=2)
    x = integers(4, 4, 4, 1)
    made = jax.jit(plain.init)(KEY, x, KEY)

    def gradient(model: BottomUpVAE) -> Any:
        def loss(params: Any) -> tuple[Any, Any]:
            trace, updates = model.apply({**made, "params": params}, x, OTHER_KEY, train=True, mutable=["batch_stats"])
            return -elbo(trace).mean(), (trace.rates, updates)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(made["params"])

    expected = gradient(plain)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), gradient(plain.clone(remat=True)), expected
    )
    half = gradient(plain.clone(dtype="bfloat16"))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(half)} == {"float32"}
    np.testing.assert_allclose(half[0][0], expected[0][0], rtol=0.02)


# ---- settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"latents": ()}, r"latents=\(\).*at least one"),
        ({"latents": (0, 3)}, r"latents=\(0, 3\).*1 or more"),
        ({"hidden": 0}, "hidden=0.*1 or more"),
        ({"depth": 0}, "depth=0.*1 or more"),
        ({"width": 0}, "width=0.*1 or more"),
        ({"classes": 1}, "classes=1.*0 for no labels"),
        ({"network": "cnn"}, "network='cnn'.*'dense' or 'conv'"),
        ({"dtype": "float16"}, "dtype='float16'.*'bfloat16'"),
        ({"bottom_up": (None,)}, "bottom_up.*1 networks.*2 levels need 2"),
        ({"posterior": (None, None, None)}, "posterior.*3 networks.*2 levels need 2"),
        ({"prior": (None, None)}, "prior.*2 networks.*2 levels need 1"),
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any], message: str) -> None:
    """Errors come at construction, with what was given and what is allowed."""
    with pytest.raises(ValueError, match=message):
        BottomUpVAE(**wrong)


def test_as_settings() -> None:
    """Lists are taken as tuples, and a model comes back from JSON."""
    model = BottomUpVAE(latents=[2, 3], posteriors_see_x=True, bottom_up=[None, MLP((4,), 5)], network="conv")
    assert settings.from_json(settings.to_json(model)) == model
    hash(model)
