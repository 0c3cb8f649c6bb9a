"""Inverse autoregressive flows: log-determinants against Jacobians, round trips, derivatives, densities."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support.cases import jitter

from hvae_jax.descent import Pick, propose
from hvae_jax.distributions import Normal
from hvae_jax.flows import InverseAutoregressive, StepForm, autoregressive_step, chain

KEY = jax.random.key(0)
FORMS: tuple[StepForm, ...] = ("gate", "mean_only", "published")
SHAPE = (2, 3, 2)


@functools.cache
def made(form: StepForm, steps: int = 2) -> tuple[InverseAutoregressive, Any, Array, Array]:
    """A flow over 2x3 feature maps of two channels, variables far from their initial values, a z and a context."""
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.normal(size=(3, *SHAPE)), jnp.float32)
    context = jnp.asarray(rng.normal(size=(3, 2, 3, 4)), jnp.float32)
    flow = InverseAutoregressive(steps, (4, 2), form)
    variables = jax.jit(lambda: init(flow, z, context))()
    return flow, {"params": jitter(variables["params"], scale=0.4)}, z, context


def init(flow: InverseAutoregressive, z: Array, context: Array | None) -> Any:
    """The variables without the flow's output, a pair of functions, which jit could not return."""
    return flow.init_with_output(KEY, z, context)[1]


def maps(form: StepForm, steps: int = 2) -> tuple[Any, Any, Array]:
    """The compiled forward and inverse of a flow, and z."""
    flow, variables, z, context = made(form, steps)
    forward = jax.jit(lambda z: flow.apply(variables, z, context).forward(z))
    return forward, jax.jit(lambda z: flow.apply(variables, z, context).inverse(z)), z


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [1, 2])
def test_the_log_determinant_is_the_jacobians(form: StepForm, steps: int) -> None:
    """log |det dz/dz0| of each example is right, examples are independent, and one step's Jacobian is triangular."""
    forward, _, z = maps(form, steps)
    jacobian = jax.jit(jax.jacfwd(lambda z: forward(z)[0]))(z)
    log_det = forward(z)[1]
    assert log_det.shape == z.shape
    for b in range(len(z)):
        one = np.asarray(jacobian[b, ..., b, :, :, :], np.float64).reshape(12, 12)
        np.testing.assert_allclose(log_det[b].sum(), np.linalg.slogdet(one)[1], rtol=1e-4, atol=1e-5)
        assert not np.asarray(jacobian[b, ..., b - 1, :, :, :]).any()
        if steps == 1:
            assert not np.triu(one, 1).any()
            np.testing.assert_allclose(np.diag(one), np.exp(np.asarray(log_det[b], np.float64)).ravel(), rtol=1e-5)
        else:
            assert np.triu(one, 1).any() and (form == "mean_only" or np.tril(one, -1).any())


@pytest.mark.parametrize("form", FORMS)
def test_there_and_back(form: StepForm) -> None:
    """The inverse of the forward pass gives z0 with the same log-determinant, and the other way round."""
    forward, inverse, z0 = maps(form)
    z, log_det = forward(z0)
    again, same = inverse(z)
    np.testing.assert_allclose(again, z0, atol=2e-5)
    np.testing.assert_allclose(same, log_det, atol=2e-5)
    np.testing.assert_allclose(forward(inverse(z0)[0])[0], z0, atol=2e-5)
    assert np.abs(np.asarray(z - z0)).max() > 0.1


def test_an_inverse_of_many_passes() -> None:
    """Each element is shifted by twice the one before it: the inverse needs D passes, no fewer."""
    d = 40
    flow = autoregressive_step(lambda z: 2.0 * jnp.concatenate([jnp.zeros((1, 1)), z[:, :-1]], axis=1), "mean_only")
    start = jnp.zeros((1, d)).at[0, 0].set(1.0)
    np.testing.assert_array_equal(jax.jit(flow.inverse)(start)[0][0], (-2.0) ** np.arange(d, dtype=np.float32))


def test_overflow_between_passes_does_no_harm() -> None:
    """Iterates far from the solution have scales up to e^40, which leave no trace in the solution."""

    def network(z: Array) -> Array:
        before = jnp.concatenate([jnp.zeros((1, 1)), z[:, :-1]], axis=1)
        return jnp.concatenate([before, 400.0 * before], axis=1)

    forward, inverse = autoregressive_step(network, "published")
    z0 = jnp.full((1, 12), 0.05)
    np.testing.assert_allclose(jax.jit(inverse)(jax.jit(forward)(z0)[0])[0], z0, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_derivatives_of_the_inverse(form: StepForm) -> None:
    """Derivatives of z0 and the log-determinant, by z, weights and context, equal finite differences."""
    flow, variables, z, context = made(form, 2)

    def answer(params: Any, z: Array, context: Array) -> Array:
        z0, log_det = flow.apply({"params": params}, z, context).inverse(z)
        return (jnp.sin(z0) + 0.3 * log_det * z0).sum()

    rng = np.random.default_rng(2)
    point = (variables["params"], z, context)
    way = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), point)
    value, slopes = jax.jit(jax.value_and_grad(answer, (0, 1, 2)))(*point)
    along = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(way), strict=True))
    _, forwards = jax.jit(lambda p, w: jax.jvp(answer, p, w))(point, way)
    shifted = jax.jit(lambda t: answer(*jax.tree.map(lambda a, b: a + t * b, point, way)))
    expected = (shifted(3e-3) - shifted(-3e-3)) / 6e-3
    assert jnp.isfinite(value)
    np.testing.assert_allclose(along, expected, rtol=3e-2, atol=2e-2)
    np.testing.assert_allclose(along, forwards, rtol=1e-3, atol=1e-3)


def test_the_gate_is_stable() -> None:
    """z', its log-determinant and gradients are finite at outputs s of -1e4 and 1e4; at s = 0 the gate is above 0.8."""

    def answer(s: float) -> Array:
        flow = autoregressive_step(lambda z: jnp.concatenate([z * 0.0 + 1e4, z * 0.0 + s], -1), "gate")
        z, log_det = flow.forward(jnp.ones((1, 3)))
        return z.sum() + log_det.sum()

    for s in (-1e4, 0.0, 1e4):
        assert all(jnp.isfinite(number) for number in jax.jit(jax.value_and_grad(answer))(s))
    flow = autoregressive_step(lambda z: jnp.zeros((1, 6)), "gate")
    gate = math.exp(float(flow.forward(jnp.ones((1, 3)))[1][0, 0]))
    assert 0.8 < gate < 0.85


def test_density_under_a_flow() -> None:
    """`propose` gives the same log q(z) for a z that is drawn and for the same z given; it is not the base's at z."""
    flow, variables, z, context = made("gate")
    q = Normal(0.3 * z, jnp.full_like(z, -0.5))

    def drawn(given: Array | None) -> Any:
        return propose(KEY, q, Pick(jnp.float32(1.0), given=given), flow.apply(variables, z, context))

    first = jax.jit(lambda: drawn(None))()
    again = jax.jit(drawn)(first.z)
    np.testing.assert_allclose(again.log_q, first.log_q, atol=1e-4)
    np.testing.assert_array_equal(again.z, first.z)
    assert not np.allclose(first.log_q, q.log_prob(first.z))


def test_chains_add_up() -> None:
    """A chain of no steps is the identity."""
    forward, inverse = chain([])
    z = jnp.ones((2, 3))
    for way in (forward, inverse):
        same, log_det = way(z)
        assert (same == z).all() and (log_det == 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InverseAutoregressive(0), r"steps=0\): every size has to be"),
        (lambda: InverseAutoregressive(form="affine"), "it has to be 'gate', 'mean_only' or 'published'"),
        (lambda: init(InverseAutoregressive(1, (6,)), jnp.zeros((1, 2, 2, 4)), None), "cannot be put in order"),
        (lambda: init(InverseAutoregressive(1, (4,)), *(jnp.zeros((1, 2, 2, 2)),) * 2), "context has 2 channels"),
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    """Bad settings are refused at construction, shapes that do not fit at the first call."""
    with pytest.raises(ValueError, match=message):
        make()
