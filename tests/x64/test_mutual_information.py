"""The bound of the mutual information on linear models, where it is exact, and the gradient of its term."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax.models import ClosedForm, LinearVAE
from hvae_jax.objectives import Batch, MutualInformation, NegativeELBO
from hvae_jax.objectives.protocol import without_own
from hvae_jax.training.state import own_parameters

pytestmark = pytest.mark.slow

KEY = jax.random.key(4)
N = 4000
NOISE = 0.5


def forward_of(model: LinearVAE) -> Any:
    def forward(variables: Any, x: Any, key: Any, **choices: Any) -> Any:
        return model.apply(variables, x, key, **choices), {}

    return forward


def one_level(kernel: np.ndarray) -> tuple[LinearVAE, dict[str, Any]]:
    """A model of one level with this map `[2, 3]`, in float64."""
    model = LinearVAE((2,), inference="exact", noise=NOISE)
    params = jax.jit(model.init)(KEY, jnp.zeros((1, 3)), KEY)["params"]
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    return model, {"params": {**params, "kernel_x": jnp.asarray(kernel), "bias_x": jnp.asarray([0.3, -1.0, 0.2])}}


def with_posterior(
    objective: MutualInformation, model: LinearVAE, variables: dict[str, Any], names: tuple[str, ...]
) -> dict[str, Any]:
    """The variables with r's, set to the model's posterior with the covariance's diagonal alone, at the levels named.

    A level's network is linear, reads x standardised and the level above, and returns mean and log standard deviation
    of the noise (z - m)/s.
    """
    x = np.random.default_rng(1).normal(1.0, 2.0, (5, 3))
    own = own_parameters(model, objective, variables, KEY, x, None)
    own = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), own)["mutual_information"]
    mean, std = (float(own["inputs"][name]) for name in ("mean", "std"))
    exact = ClosedForm(model, variables)
    for name in names:
        level = int(name[1:])
        from_z, from_x, shift, covariance = exact.level_posterior(level)
        scale = np.ones(len(shift))
        if level < model.num_levels:
            slope, bias, noise = exact.link(level)
            from_z, shift, scale = from_z - slope, shift - bias, np.sqrt(np.diagonal(noise))
        shift = (shift + from_x @ np.full(3, mean)) / scale
        kernel = np.concatenate([std * from_x, from_z], axis=1) / scale[:, None]  # [d, inputs]
        log_std = 0.5 * np.log(np.diagonal(covariance)) - np.log(scale)
        own["levels"][name]["last"] = {
            "kernel": jnp.asarray(np.concatenate([kernel.T, np.zeros_like(kernel.T)], axis=1)),
            "bias": jnp.asarray(np.concatenate([shift, log_std])),
        }
    return {"params": {**variables["params"], "objective": {"mutual_information": own}}}


def look(objective: MutualInformation, model: LinearVAE, variables: dict[str, Any], batch: Batch) -> tuple[Any, Any]:
    """log r - log p of each level, and the sample that it is of."""
    # Two programs: inside one, XLA may compute a float32 z twice, and round it in two ways.
    sample = jax.jit(lambda variables: objective.sample(forward_of(model), variables, batch, KEY))(variables)
    own = variables["params"]["objective"]["mutual_information"]
    return jax.device_get((jax.jit(objective.values)(own, sample), sample))


def closed_form(model: LinearVAE, variables: dict[str, Any]) -> ClosedForm:
    """The closed forms of the model's own parameters."""
    return ClosedForm(model, {"params": without_own(variables["params"])})


def log_density(mean: np.ndarray, x: np.ndarray) -> np.ndarray:
    """log N(x; mean, NOISE^2 I), `[B]`."""
    constant = x.shape[1] * (math.log(NOISE) + 0.5 * math.log(2 * math.pi))
    return -0.5 * (((x - mean) / NOISE) ** 2).sum(1) - constant


def exact_information(variables: dict[str, Any]) -> float:
    """I(x; z) = log det(I + A A^T / s_0^2) / 2, nats."""
    a = np.asarray(variables["params"]["kernel_x"], np.float64)
    return 0.5 * float(np.linalg.slogdet(np.eye(len(a)) + a @ a.T / NOISE**2)[1])


ORTHOGONAL = np.array([[1.5, 0.0, 1.5], [0.0, 0.7, 0.0]])
OBLIQUE = np.array([[1.5, 0.0, 1.5], [1.0, 0.7, 0.5]])


@functools.cache
def drawn(oblique: bool) -> tuple[np.ndarray, Any, Any]:
    """log r - log p of N samples with the best r, the sample, and the variables."""
    model, variables = one_level(OBLIQUE if oblique else ORTHOGONAL)
    objective = MutualInformation(1.0, depth=0)
    variables = with_posterior(objective, model, variables, ("z1",))
    values, sample = look(objective, model, variables, Batch(jnp.zeros((N, 3))))
    return values["z1"], sample, (model, variables)


def test_with_the_posterior_the_bound_is_exact() -> None:
    """log r - log p(z) is log p(x | z) - log p(x) at each sample; its mean is the information within its error."""
    values, sample, (model, variables) = drawn(False)
    assert values.dtype == np.float64
    log_px = log_density(sample.levels[0].z @ ORTHOGONAL + np.asarray(variables["params"]["bias_x"]), sample.x)
    np.testing.assert_allclose(values, log_px - closed_form(model, variables).log_px(sample.x), atol=1e-9)
    error = values.std() / math.sqrt(N)
    assert abs(values.mean() - exact_information(variables)) < 4 * error < 0.2


def test_a_diagonal_r_misses_the_correlation_of_the_posterior() -> None:
    """The gap is sum_i log C_ii / 2 - log det C / 2, the information that the elements of z | x have of each other."""
    values, _, (model, variables) = drawn(True)
    covariance = closed_form(model, variables).level_posterior(1)[3]
    gap = 0.5 * (np.log(np.diagonal(covariance)).sum() - np.linalg.slogdet(covariance)[1])
    assert gap > 0.1
    assert abs(values.mean() - (exact_information(variables) - gap)) < 4 * values.std() / math.sqrt(N)


def test_any_other_r_finds_less() -> None:
    """I_r falls where r is moved, further than the noise of the sample, whichever way."""
    values, sample, (_, variables) = drawn(False)
    objective, own = MutualInformation(1.0, depth=0), variables["params"]["objective"]["mutual_information"]
    look = jax.jit(lambda own, sample: objective.values(own, sample)["z1"])
    rng = np.random.default_rng(0)
    for _ in range(4):
        moved = jax.tree.map(lambda leaf: leaf + jnp.asarray(rng.normal(0.0, 0.2, leaf.shape)), own["levels"])
        other = look({**own, "levels": moved}, sample)
        lost = values - np.asarray(other)  # an estimate of KL(p(z | x) || r)
        assert lost.mean() > 4 * lost.std() / math.sqrt(N)


def test_levels_add_up_by_the_chain_rule() -> None:
    """Two levels, each with its exact r: the sum is log p(x | z1) - log p(x), since x depends on z1 alone."""
    model = LinearVAE((2, 2), inference="exact", noise=NOISE)
    params = jax.jit(model.init)(KEY, jnp.zeros((1, 3)), KEY)["params"]
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    # maps along the axes: all posteriors are diagonal
    params |= {"kernel_x": jnp.asarray(ORTHOGONAL), "kernel1": jnp.asarray([[1.2, 0.0], [0.0, -0.8]])}
    params |= {"log_std1": jnp.asarray([-0.3, 0.2]), "bias1": jnp.asarray([0.5, -0.1])}
    objective = MutualInformation(1.0, levels=("z1", "z2"), depth=0)
    variables = with_posterior(objective, model, {"params": params}, ("z2", "z1"))
    batch = Batch(jnp.zeros((64, 3)))
    values, sample = look(objective, model, variables, batch)
    assert set(values) == {"z2", "z1"}
    log_px = log_density(sample.levels[1].z @ ORTHOGONAL + np.asarray(params["bias_x"]), sample.x)
    exact = closed_form(model, variables).log_px(sample.x)
    np.testing.assert_allclose(values["z1"] + values["z2"], log_px - exact, atol=1e-9)


@functools.cache
def jittered() -> tuple[LinearVAE, dict[str, Any], Any]:
    """A model of two levels, x, and parameters with those of an r of one hidden layer, off their initialisation."""
    model = LinearVAE((2, 2))
    objective = MutualInformation(0.7, levels=("z2", "z1"), hidden=4, depth=1)
    x = np.random.default_rng(0).normal(size=(5, 3))
    params = jax.jit(model.init)(KEY, x, KEY)["params"]
    own = own_parameters(model, objective, {"params": params}, KEY, x, None)
    leaves, tree = jax.tree.flatten({**params, "objective": own})
    rng = np.random.default_rng(3)
    leaves = [jnp.asarray(np.asarray(leaf, np.float64) + rng.normal(0.0, 0.2, leaf.shape)) for leaf in leaves]
    return model, jax.tree.unflatten(tree, leaves), jnp.asarray(x)


def slopes(function: Any, params: Any, direction: Any, step: float = 1e-5) -> float:
    """The derivative of a function along a direction, by central differences."""
    up, down = (jax.tree.map(lambda p, d, s=sign: p + s * step * d, params, direction) for sign in (1.0, -1.0))
    return float(function(up) - function(down)) / (2.0 * step)


@pytest.mark.parametrize(("target", "printed"), [(0.0, False), (9.0, False), (9.0, True)])
def test_the_gradient_of_the_term(target: float, printed: bool) -> None:
    """Against finite differences: of the penalty in the model's parameters; in r's, of -I_r, or of the penalty too."""
    model, params, x = jittered()
    objective = MutualInformation(target, 3.0, ("z2", "z1"), hidden=4, depth=1, printed=printed)

    @jax.jit
    def term(params: Any) -> Any:
        def added(params: Any) -> Any:
            call = (forward_of(model), {"params": params}, Batch(x), KEY, jnp.int32(0), ())
            loss, metrics, *_ = objective(*call)
            return loss - NegativeELBO()(*call)[0], metrics["mutual_information"]

        return jax.value_and_grad(added, has_aux=True)(params)

    (value, information), gradient = term(params)
    np.testing.assert_allclose(value, 3.0 * abs(information - target), rtol=1e-12)
    rng = np.random.default_rng(5)
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    name, networks = "mutual_information", direction["objective"]["mutual_information"]["levels"]
    # the scale of r's input is no parameter
    own = {**zeros, "objective": {name: {**zeros["objective"][name], "levels": networks}}}
    models = {**direction, "objective": zeros["objective"]}

    def along(direction: Any) -> float:
        return float(sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True)))

    def penalty(params: Any) -> Any:
        return term(params)[0][0]

    assert abs(along(models)) > 1e-3 and abs(along(own)) > 1e-3
    assert along(models) == pytest.approx(slopes(penalty, params, models), rel=1e-6)
    factor = 1.0 if printed else -float(jnp.sign(information - target)) / 3.0
    assert along(own) == pytest.approx(factor * slopes(penalty, params, own), rel=1e-6)
