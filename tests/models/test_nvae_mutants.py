"""Deliberate mistakes in NVAE's maths, each beside the property that it breaks and the right model keeps."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import contract
from support.cases import SMALL_NVAE, Case, case, every, integers, jitter
from support.contract import plausible_variables

from hvae_jax import flows
from hvae_jax.descent import Flow, picks
from hvae_jax.distributions import Normal
from hvae_jax.flows import VolumePreserving
from hvae_jax.models import NVAE
from hvae_jax.models.nvae import DownGroup, GroupSettings
from hvae_jax.networks.cells import CellStyle
from hvae_jax.trace import Trace

KEY = jax.random.key(0)
SCALE = 1.3


def reals(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# ---- a flow whose steps scale


def scaled_steps(patch: pytest.MonkeyPatch, *, counted: bool) -> None:
    """Scales z by 1.3 after each of NVAE's steps, which keep volume by themselves, and counts it or drops it."""

    def step(network: Callable[[jax.Array], jax.Array], form: Any) -> Flow:
        plain, log_scale = autoregressive_step(network, form), math.log(SCALE) if counted else 0.0

        def forward(z0: jax.Array) -> tuple[jax.Array, jax.Array]:
            z, log_det = plain.forward(z0)
            return SCALE * z, log_det + log_scale

        def inverse(z: jax.Array) -> tuple[jax.Array, jax.Array]:
            z0, log_det = plain.inverse(z / SCALE)
            return z0, log_det + log_scale

        return Flow(forward, inverse)

    autoregressive_step = flows.autoregressive_step
    patch.setattr(flows, "autoregressive_step", step)


def log_determinant_is_the_jacobians() -> float:
    """log |dz/dz0| of NVAE's flow is the log-determinant of its Jacobian, which is returned."""
    flow, z0 = VolumePreserving(1), reals(1, 2, 2, 2)
    params = jitter(jax.jit(flow.init)(KEY, z0, None)["params"], scale=0.3)

    def forward(flat: jax.Array) -> tuple[jax.Array, jax.Array]:
        z, log_det = flow.apply({"params": params}, z0, None).forward(flat.reshape(z0.shape))
        return z.ravel(), log_det.sum()

    jacobian, log_det = jax.jit(jax.jacfwd(forward, has_aux=True))(z0.ravel())
    exact = np.linalg.slogdet(np.asarray(jacobian, np.float64))[1]
    np.testing.assert_allclose(log_det, exact, atol=1e-4)
    return exact


@pytest.mark.slow
def test_log_determinant() -> None:
    """0: the published steps keep volume."""
    assert log_determinant_is_the_jacobians() == pytest.approx(0.0, abs=1e-4)


def test_log_determinant_of_scaled_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the scales."""
    scaled_steps(monkeypatch, counted=True)
    assert log_determinant_is_the_jacobians() == pytest.approx(2 * 8 * math.log(SCALE), abs=1e-4)


def test_a_dropped_log_determinant_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled_steps(monkeypatch, counted=False)
    with pytest.raises(AssertionError):
        log_determinant_is_the_jacobians()


def one_group() -> Case:
    """A model of a single group with a flow, as small as it can be."""
    model = NVAE(**SMALL_NVAE | {"groups": (1,)}, flows=1)
    return Case("nvae_one_group_flow", model, integers(2, 2, 2, 1), every_x=every(2, 2, 2, 1))


@pytest.mark.slow
@pytest.mark.parametrize("counted", [True, False])
def test_weights_of_a_model_show_a_dropped_log_determinant(monkeypatch: pytest.MonkeyPatch, counted: bool) -> None:
    """E_q[p(z)/q(z)] is 1 for scaled steps whose log-determinant counts, and is not once it is dropped."""
    scaled_steps(monkeypatch, counted=counted)
    if counted:
        contract.every_row(one_group())
    else:
        with pytest.raises(AssertionError):
            contract.every_row(one_group())


# ---- a clamp before the sum


def clamped_before_the_sum(self: GroupSettings, raw: jax.Array, found: jax.Array) -> Normal:
    """The mutant of `GroupSettings.inferred`: both layers' outputs are clamped, then added."""
    prior, offset = self.gaussian(raw), self.gaussian(found)
    return Normal(prior.mean + offset.mean, prior.log_std + offset.log_std)


OWN = GroupSettings(4, 1, 3, residual=True, flows=0, flow_context=False, min_std=0.01, style=CellStyle())


def posterior_is_the_clamped_sum() -> None:
    """mean = 5 tanh((a + b)/5), std = exp(5 tanh((c + d)/5)) + 0.01, in NumPy."""
    raw, found = (4.0 * reals(2, 2, 2, 6, seed=seed) for seed in (0, 1))
    q = OWN.inferred(raw, found)
    mean, log_std = np.split(5.0 * np.tanh((np.asarray(raw, np.float64) + np.asarray(found)) / 5.0), 2, axis=-1)
    np.testing.assert_allclose(q.mean, mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(q.std, np.exp(log_std) + 0.01, rtol=1e-5)


def posterior_keeps_the_range() -> None:
    """However large the layers' outputs, means lie within 5 and deviations within exp(-5) and exp(5), plus 0.01."""
    for signs in ((1.0, 1.0), (-1.0, -1.0), (1.0, -1.0)):
        q = OWN.inferred(*(jnp.full((1, 1, 1, 6), 100.0 * sign) for sign in signs))
        assert (np.abs(q.mean) <= 5.0 + 1e-5).all()
        assert (np.asarray(q.std) < math.exp(5.0) + 0.02).all() and (np.asarray(q.std) > math.exp(-5.0)).all()


def only_the_sum_counts() -> None:
    """Of a whole model: moving a constant from the posterior's bias to the prior's moves p and leaves q as it was."""
    one = case("nvae")
    model = one.model.clone(groups=(2,))
    variables = plausible_variables(model, one.x, None)
    amount = np.array([2.0, 0.5], np.float32)  # of the mean and of the log deviation

    def moved(sign: float, layer: str) -> Any:
        return {"bias": variables["params"]["down2"][layer]["bias"] + sign * amount}

    down = variables["params"]["down2"]
    layers = {layer: down[layer] | moved(sign, layer) for sign, layer in ((1.0, "prior"), (-1.0, "posterior"))}
    other = variables | {"params": variables["params"] | {"down2": down | layers}}

    @jax.jit
    def traces(*both: Any) -> list[Trace]:
        return [model.apply(variables, one.x, KEY) for variables in both]

    before, after = (trace.unstack()[1] for trace in traces(variables, other))
    assert np.abs(np.asarray(after.p.mean - before.p.mean)).min() > 0.5
    np.testing.assert_allclose(after.q.mean, before.q.mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after.q.log_std, before.q.log_std, rtol=1e-5, atol=1e-5)


CLAMPS = [posterior_is_the_clamped_sum, posterior_keeps_the_range]
CLAMPS += [pytest.param(only_the_sum_counts, marks=pytest.mark.slow)]


@pytest.mark.parametrize("promise", CLAMPS)
def test_residual_posterior(promise: Callable[[], None]) -> None:
    """The sum is taken before the clamp."""
    promise()


@pytest.mark.parametrize("promise", CLAMPS)
def test_a_clamp_before_the_sum_is_caught(monkeypatch: pytest.MonkeyPatch, promise: Callable[[], None]) -> None:
    monkeypatch.setattr(GroupSettings, "inferred", clamped_before_the_sum)
    with pytest.raises(AssertionError):
        promise()


# ---- taps


@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (1, 2, 2, 4), (2, 2, 2, 8)], ids=["resolution", "batch", "width"])
def test_taps_that_do_not_match(shape: tuple[int, ...]) -> None:
    """The error has both shapes; a tap of a single example would otherwise be broadcast over the batch."""
    group, h = DownGroup(OWN, train=False), jnp.zeros((2, 2, 2, 4))
    match = r"tap of the bottom-up path has shape \(.*\), but the group that reads it is at \(2, 2, 2, 4\)"
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(lambda: group.init(KEY, h, jnp.zeros(shape), KEY, picks(1)[0]))
