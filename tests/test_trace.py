"""Level and Trace: sums of rates and ratios, unstacked runs, and errors that say what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from hvae_jax.distributions import Normal
from hvae_jax.likelihoods import Bernoulli
from hvae_jax.objectives import elbo, log_weight
from hvae_jax.trace import Level, Trace

B, N = 4, 3


def level(name: str, *event: int, run: bool = False) -> Level:
    """A level of random numbers; with `run`, N stacked latents."""
    lead = (N, B) if run else (B,)

    def random(*shape: int) -> Array:
        return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)

    record = Normal(random(*lead, *event), random(*lead, *event))
    return Level(
        z=random(*lead, *event),
        q=record,
        p=record,
        kl=random(*lead, *event),
        log_q=random(*lead),
        log_p=2.0 * random(*lead),
        name=name,
        stacked=run,
    )


@pytest.fixture
def trace() -> Trace:
    """A latent of feature maps, then a run of three vectors."""
    return Trace(jnp.arange(4.0), (level("top", 2, 2, 3), level("run", 5, run=True)), Bernoulli()(jnp.zeros((B, 2, 1))))


def test_rates_and_ratios_have_a_row_for_each_latent(trace: Trace) -> None:
    """Nats are summed over the event, not over the batch; the run's latents follow the top."""
    top, run = trace.levels
    expected = [np.asarray(top.kl).sum((1, 2, 3)), *np.asarray(run.kl).sum(-1)]
    np.testing.assert_allclose(trace.rates, expected, rtol=1e-5)
    np.testing.assert_allclose(trace.ratios[1:], run.log_q - run.log_p)
    assert trace.rates.shape == trace.ratios.shape == (1 + N, B)


def test_bounds_are_sums(trace: Trace) -> None:
    """elbo = log_px - sum of rates; log_w = log_px + sum of (log_p - log_q)."""
    np.testing.assert_allclose(elbo(trace), trace.log_px - trace.rates.sum(0), rtol=1e-6)
    np.testing.assert_allclose(log_weight(trace), trace.log_px - trace.ratios.sum(0), rtol=1e-6)


def test_unstacked_latents_are_the_slices_of_the_run(trace: Trace) -> None:
    """One array and one name per latent, top first; every leaf of the run is sliced in the same way."""
    assert trace.names == ("top", "run.0", "run.1", "run.2")
    assert [z.shape for z in trace.latents] == [(B, 2, 2, 3), *[(B, 5)] * N]
    for i, one in enumerate(trace.unstack()[1:]):
        assert not one.stacked
        expected = jax.tree.map(lambda leaf, i=i: leaf[i], trace.levels[1])
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(one), jax.tree.leaves(expected))
    np.testing.assert_allclose(Trace(trace.log_px, trace.unstack(), trace.x_dist).rates, trace.rates, rtol=1e-6)


def test_static_fields_are_no_leaves(trace: Trace) -> None:
    """Names, sides and `stacked` pass through jit as static values."""
    same = jax.jit(lambda t: t)(trace)
    assert [one.stacked for one in same.levels] == [False, True]
    assert same.names == trace.names


def test_a_vmapped_trace_is_refused(trace: Trace) -> None:
    """`[K, B]` cannot be told from `[n, B]` by shape: the error says to use the properties inside the vmap."""
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), trace)
    for quantity in ("rates", "ratios"):
        with pytest.raises(ValueError, match="inside the vmap"):
            getattr(many, quantity)
        assert jax.vmap(lambda t, quantity=quantity: getattr(t, quantity))(many).shape == (2, 1 + N, B)


def test_no_bound_without_x(trace: Trace) -> None:
    """A trace from decode has no bound of log p(x)."""
    for bound in (elbo, log_weight):
        with pytest.raises(ValueError, match="no x"):
            bound(trace.replace(log_px=None))
