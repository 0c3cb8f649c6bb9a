"""The contract catches wrong maths: each mutant (a deliberate mistake) fails the promises that should notice it."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import pytest
from support import contract, toys
from support.cases import case
from support.contract import Row

from hvae_jax import descent, distributions, flows
from hvae_jax.descent import Drawn
from hvae_jax.distributions import Normal
from hvae_jax.trace import Level

Patch = Callable[[pytest.MonkeyPatch], None]


def dropped_log_determinant(patch: pytest.MonkeyPatch) -> None:
    """A flow without its log-determinant."""

    def forgetful(*terms: Any) -> descent.Flow:
        return descent.Flow(*(lambda z, f=f: (f(z)[0], jnp.zeros_like(z)) for f in coupling(*terms)))

    coupling = toys.coupling
    patch.setattr(toys, "coupling", forgetful)


def dropped_log_determinant_of_maps(patch: pytest.MonkeyPatch) -> None:
    """The same for the autoregressive flow within a scanned descent."""

    def forgetful(steps: Any) -> descent.Flow:
        return descent.Flow(*(lambda z, f=f: (f(z)[0], jnp.zeros_like(z)) for f in chain(steps)))

    chain = flows.chain
    patch.setattr(flows, "chain", forgetful)


def swapped_kl(patch: pytest.MonkeyPatch) -> None:
    """KL(p || q) in place of KL(q || p)."""
    patch.setattr(descent, "kl", lambda q, p: distributions.kl(p, q))


def missing_two_pi(patch: pytest.MonkeyPatch) -> None:
    """Gaussian densities without their constant: it cancels between q and p, so only p(x | z) shows it."""
    patch.setattr(distributions, "_HALF_LOG_2PI", 0.0)


def missing_two_pi_in_the_prior(patch: pytest.MonkeyPatch) -> None:
    """The same in the prior's density alone."""

    def log_prob(self: Normal, z: Any) -> Any:
        return density(self, z) + distributions._HALF_LOG_2PI * (self.log_std == 0)

    density = Normal.log_prob
    patch.setattr(Normal, "log_prob", log_prob)


def analytic_kl_bottom_up(patch: pytest.MonkeyPatch) -> None:
    """The article's printed formula: the analytic KL although the prior depends on the level's own sample."""

    def draw(key: Any, prior: Normal, posterior: Any, *args: Any, **names: Any) -> Level:
        level = descent.draw(key, prior, posterior, *args, **names)
        return level.replace(kl=distributions.kl(level.q, level.p)) if isinstance(posterior, Drawn) else level

    patch.setattr(toys, "draw", draw)


def latent_drawn_twice(patch: pytest.MonkeyPatch) -> None:
    """A bottom-up latent drawn on the bottom-up path and, with an analytic KL, once more on the top-down path."""

    def draw(key: Any, prior: Normal, posterior: Any, *args: Any, **names: Any) -> Level:
        again = posterior.q if isinstance(posterior, Drawn) else posterior
        return descent.draw(key, prior, again, *args, **names)

    patch.setattr(toys, "draw", draw)


MUTANTS: tuple[tuple[Patch, str, tuple[Callable[[Row], None], ...]], ...] = (
    (dropped_log_determinant, "flow", (contract.mean_weight_is_one, contract.weights_sum_to_one)),
    (dropped_log_determinant_of_maps, "resnet_vae_flow", (contract.mean_weight_is_one,)),
    (swapped_kl, "top_down_2", (contract.mean_rate_is_mean_ratio,)),
    (missing_two_pi, "linear_gaussian", (contract.weights_sum_to_one,)),
    (missing_two_pi_in_the_prior, "bottom_up", (contract.mean_weight_is_one, contract.weights_sum_to_one)),
    (analytic_kl_bottom_up, "bottom_up", (contract.mean_rate_is_mean_ratio,)),
    (latent_drawn_twice, "bottom_up", (contract.given_latents_reproduce,)),
)


@functools.cache
def mutant(mutate: Patch, name: str) -> Row:
    """One row per mutant. Its functions are compiled within the tests, while the patch is in place."""
    return Row(case(name))


@pytest.mark.parametrize(
    ("mutate", "name", "promise"),
    [
        pytest.param(
            mutate,
            name,
            promise,
            id=f"{mutate.__name__}-{promise.__name__}",
            marks=[pytest.mark.slow] * (name == "resnet_vae_flow"),
        )
        for mutate, name, promises in MUTANTS
        for promise in promises
    ],
)
def test_mutant_is_caught(
    monkeypatch: pytest.MonkeyPatch, mutate: Patch, name: str, promise: Callable[[Row], None]
) -> None:
    """The promise fails for the mutant; in tests/test_contract.py it holds for the original model."""
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        promise(mutant(mutate, name))


def test_what_a_dropped_log_determinant_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """If kl is the log-ratio, "mean rate = mean log-ratio" cannot fail, so the contract has mean weights of 1 too."""
    dropped_log_determinant(monkeypatch)
    contract.mean_rate_is_mean_ratio(mutant(dropped_log_determinant, "flow"))
