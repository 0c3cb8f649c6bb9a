"""Parity with the article's code to 1e-9 in float64, term by term (what the arrays are: tests/golden/README.md)."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.golden_weights import recorded, to_variables

from hvae_jax.distributions import Normal, kl_residual
from hvae_jax.likelihoods import Bernoulli, BernoulliRecord, Categorical
from hvae_jax.models import TopDownVAE
from hvae_jax.objectives import Batch, NegativeELBO, elbo
from hvae_jax.trace import Trace

pytestmark = pytest.mark.leg

CLIP = 1e-7
FAMILIES = {"hvae_categorical": Categorical(5, CLIP), "hvae_bernoulli": Bernoulli(CLIP)}
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


def close_trees(got: Any, expected: Any) -> None:
    """The same leaves at the same paths."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(close, got, expected)


class Run:
    """The article's model with its recorded weights and noise, in one mode."""

    def __init__(self, name: str, mode: str) -> None:
        self.family, self.mode, self.train = FAMILIES[name], mode, mode == "train"
        self.model = TopDownVAE(latents=(3, 6), hidden=5, likelihood=self.family, prior_clamp=None)
        self.arrays = recorded(name)
        self.terms = recorded(name, f"{mode}/")
        self.x = jnp.asarray(self.arrays["x"])
        self.variables = jax.tree.map(jnp.asarray, self.convert(recorded(name, "param/")))

    def convert(self, state_dict: dict[str, np.ndarray]) -> dict[str, Any]:
        """Converts a state dict to our variables."""
        return to_variables(state_dict, 6, self.family.parameters)

    def forward(self, variables: Any, x: jax.Array, key: jax.Array, **choices: Any) -> tuple[Trace, Any]:
        """A trace and the updated running statistics."""
        return self.model.apply(
            variables, x, key, train=self.train, mutable=["batch_stats"] if self.train else [], **choices
        )

    @functools.cached_property
    def result(self) -> tuple[Trace, Any, Any]:
        """The pass with the recorded noise: its trace, updates, and d loss / d params."""

        def loss(params: Any) -> tuple[jax.Array, Any]:
            variables = {**self.variables, "params": params}
            trace, updates = self.forward(variables, self.x, jax.random.key(0))
            return -elbo(trace).mean(), (trace, updates)

        with pytest.MonkeyPatch.context() as patch:
            inject(patch, [self.arrays["eps_z2"], self.arrays["eps_z1"]])
            gradient, (trace, updates) = jax.jit(jax.grad(loss, has_aux=True))(self.variables["params"])
        return trace, updates, gradient

    @functools.cached_property
    def given(self) -> Trace:
        """The pass with the recorded latents given."""
        latents = tuple(jnp.asarray(self.terms[name]) for name in ("z_2", "z_1"))
        return jax.jit(lambda z: self.forward(self.variables, self.x, jax.random.key(0), latents=z)[0])(latents)


def inject(patch: pytest.MonkeyPatch, noise: list[np.ndarray]) -> None:
    """Makes jax.random.normal hand out the recorded noise, in order, instead of its own."""
    queue: Iterator[np.ndarray] = iter(noise)

    def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        eps = next(queue)
        assert eps.shape == shape and dtype == jnp.float64
        return jnp.asarray(eps)

    patch.setattr(jax.random, "normal", normal)


run_of = functools.cache(Run)


@pytest.fixture(params=[(name, mode) for name in FAMILIES for mode in ("eval", "train")], ids="-".join)
def run(request: pytest.FixtureRequest) -> Run:
    """A run of each likelihood, with running and with batch statistics."""
    return run_of(*request.param)


def assert_terms(trace: Trace, run: Run) -> None:
    """Every recorded term of the ELBO is in the trace."""
    terms, (level2, level1) = run.terms, trace.levels
    close(level2.z, terms["z_2"])
    close(level1.z, terms["z_1"])
    close(level2.q.mean, terms["delta_mu_2"])
    close(level2.q.log_var, terms["delta_log_var_2"])
    close(level2.p.mean, np.zeros((7, 3)))
    close(level2.p.log_var, np.zeros((7, 3)))
    close(level1.p.mean, terms["mu_1"])
    close(level1.p.log_var, terms["log_var_1"])
    close(level1.q.mean - level1.p.mean, terms["delta_mu_1"])
    close(level1.q.log_var - level1.p.log_var, terms["delta_log_var_1"])
    close(trace.log_px, terms["RE"])
    close(trace.rates, [terms["KL_z_2"], terms["KL_z_1"]])
    close(elbo(trace), terms["RE"] - terms["KL_z_1"] - terms["KL_z_2"])
    close(probabilities(trace), terms["mu_d"])


def probabilities(trace: Trace) -> jax.Array:
    """The decoder's output after softmax or sigmoid."""
    logits = trace.x_dist.logits
    return jax.nn.sigmoid(logits) if isinstance(trace.x_dist, BernoulliRecord) else jax.nn.softmax(logits)


def test_terms_with_recorded_latents(run: Run) -> None:
    """Given z2 and z1, everything else follows."""
    assert_terms(run.given, run)


def test_terms_with_recorded_noise(run: Run) -> None:
    """Given the noise, z2 (drawn first) and z1 follow too."""
    assert_terms(run.result[0], run)


def test_loss(run: Run) -> None:
    """The objective on the same batch, and its sum in evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        inject(patch, [run.arrays["eps_z2"], run.arrays["eps_z1"]])
        batch, key = Batch(run.x), jax.random.key(0)
        loss, metrics, *_ = NegativeELBO()(run.forward, run.variables, batch, key, jnp.int32(0), ())
    close(loss, run.terms["loss"])
    close(metrics["rates"], [run.terms["KL_z_2"].mean(), run.terms["KL_z_1"].mean()])
    if not run.train:
        close(-elbo(run.given).sum(), run.terms["loss_sum"])


def test_gradients(run: Run) -> None:
    """Gradient of every weight, through the reparameterised latents and, in training, through the batch statistics."""
    expected = run.convert({k.removeprefix("grad/"): v for k, v in run.terms.items() if k.startswith("grad/")})
    close_trees(run.result[2], expected["params"])


def test_running_statistics(run: Run) -> None:
    """After one training pass: momentum 0.9, the mean and the unbiased variance of the batch. None in evaluation."""
    prefix = "new_buffer/"
    buffers = {k.removeprefix(prefix): v for k, v in run.terms.items() if k.startswith(prefix)}
    updates = run.result[1]
    if run.train:
        close_trees(updates["batch_stats"], run.convert(buffers)["batch_stats"])
    else:
        assert not updates and not buffers


def test_bottom_up_path(run: Run) -> None:
    """r1 and r2, the outputs of the bottom-up networks."""
    collections = ["intermediates", *(["batch_stats"] if run.train else [])]
    _, seen = run.model.apply(
        run.variables, run.x, jax.random.key(0), train=run.train, mutable=collections, capture_intermediates=True
    )
    for name in ("r1", "r2"):
        close(seen["intermediates"][name]["__call__"][0], run.terms[f"r_{name[1]}"])


@pytest.mark.parametrize("name", FAMILIES)
def test_sampling(name: str) -> None:
    """From noise to p(x | z1) in evaluation: z2 is the noise itself, z1 = mu_1 + exp(log_var_1 / 2) eps."""
    run = run_of(name, "eval")
    expected = recorded(name, "sample/")
    z2 = jnp.asarray(run.arrays["sample_eps_z2"])
    with pytest.MonkeyPatch.context() as patch:
        # z2 is given; its own draw, in the prior's float32, is not used.
        ours = jax.random.normal
        queue = iter([None, run.arrays["sample_eps_z1"]])

        def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            eps = next(queue)
            return ours(key, shape, dtype) if eps is None else jnp.asarray(eps)

        patch.setattr(jax.random, "normal", normal)
        trace = run.model.apply(run.variables, jax.random.key(0), 7, latents=(z2,), method="decode")
    close(trace.levels[1].p.mean, expected["mu_1"])
    close(trace.levels[1].p.log_var, expected["log_var_1"])
    close(trace.levels[1].z, expected["z_1"])
    close(probabilities(trace), expected["mu_d"])


def test_normal_density() -> None:
    """log N of the article, elementwise. Its notebook for flat data counts the constant D times; ours once."""
    a = recorded("log_normal_diag")
    got = Normal.from_log_var(jnp.asarray(a["mu"]), jnp.asarray(a["log_var"])).log_prob(jnp.asarray(a["x"]))
    close(got, a["elementwise"])
    close(got.sum(-1), a["sum_last"])
    close(a["flat_elementwise"] - got, -2.5 * math.log(2 * math.pi) * np.ones((4, 6)))


def test_standard_normal_density() -> None:
    """log N(0, 1), also from the float32 zeros of Normal.standard."""
    a = recorded("log_standard_normal")
    for dtype in (jnp.float32, jnp.float64):
        got = Normal.standard((4, 6), dtype).log_prob(jnp.asarray(a["x"]))
        close(got, a["elementwise"])
        close(got.sum(-1), a["sum_last"])


def test_bernoulli_density() -> None:
    """log Bernoulli with the article's clip, elementwise, for probabilities of exactly 0 and 1 and fractional x."""
    a = recorded("log_bernoulli")
    with np.errstate(divide="ignore"):
        logits = jnp.asarray(np.log(a["p"]) - np.log1p(-a["p"]))
    record = Bernoulli(float(a["eps"]))(logits.reshape(-1, 1))
    close(record.log_prob(jnp.asarray(a["x"].ravel())), a["elementwise"].ravel())
    record = Bernoulli(float(a["eps"]))(logits[..., None])
    close(record.log_prob(jnp.asarray(a["x"])), a["sum_last"])


@pytest.mark.parametrize(("eps", "expected"), [("eps", ""), ("eps_flat", "_flat")])
def test_categorical_density(eps: str, expected: str) -> None:
    """log categorical with the article's clips, 1e-7 and the flat notebook's 1e-5, for probabilities of 0 and 1 too."""
    a = recorded("log_categorical")
    with np.errstate(divide="ignore"):
        logits = jnp.asarray(np.log(a["p"]))
    record = Categorical(17, float(a[eps]))(logits)
    close(record.log_prob(jnp.asarray(a["x"])), a[f"log_prob_per_example{expected}"])
    if eps == "eps":
        record = Categorical(17, float(a[eps]))(logits.reshape(-1, 17))
        close(record.log_prob(jnp.asarray(a["x"].ravel())), a["sum_last"].ravel())


def test_kl_of_the_offset(run: Run) -> None:
    """The article's formula for KL_1, from its own offsets."""
    prior = Normal.from_log_var(jnp.zeros((7, 6)), jnp.asarray(run.terms["log_var_1"]))
    delta = Normal.from_log_var(jnp.asarray(run.terms["delta_mu_1"]), jnp.asarray(run.terms["delta_log_var_1"]))
    close(kl_residual(prior, delta).sum(-1), run.terms["KL_z_1"])
