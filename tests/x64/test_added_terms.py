"""Gradients of the terms that objectives add, each alone, against finite differences of their values."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import jitter

from hvae_jax.likelihoods import Gaussian
from hvae_jax.models import TopDownVAE
from hvae_jax.objectives import Affine, Batch, Brightness, Consistency, Constant, Decorrelated, NegativeELBO, Objective

pytestmark = pytest.mark.slow

KEY = jax.random.key(2)
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3, 3, 1)))
WEIGHT = 0.7
AUGMENT = (Affine(edges="nearest"), Brightness(low=-9.0, high=9.0))


def forward_of(model: TopDownVAE) -> Any:
    """The forward pass in evaluation mode."""

    def forward(variables: Any, x: Any, key: Any, **choices: Any) -> Any:
        return model.apply(variables, x, key, **choices), {}

    return forward


@pytest.mark.parametrize(
    ("make", "bare", "metric", "levels"),
    [
        (lambda w: Consistency(augment=AUGMENT, weight=w), None, "consistency", ()),
        (lambda w: Decorrelated(weight=w), NegativeELBO(), "covariance", ()),
        # the gradient through a sample of bits is biased: z2 is inferred from x alone, and no sample is in the term
        (lambda w: Decorrelated(weight=w, levels=("z2",), entropy=0.3), None, "covariance", ("bernoulli", "normal")),
    ],
    ids=["consistency", "decorrelated", "decorrelated_bits"],
)
def test_gradient_of_the_term(make: Any, bare: Objective | None, metric: str, levels: Any) -> None:
    """(gradient with the term) - (gradient without) is w times the slope of its value, in random directions."""
    model = TopDownVAE((2, 3), hidden=4, likelihood=Gaussian(), levels=levels)
    made = jax.jit(model.init)(jax.random.key(0), X, KEY)
    made = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), {**made, "params": jitter(made["params"], scale=0.3)})
    forward = forward_of(model)

    def value(params: Any, objective: Objective) -> Any:
        variables = {**made, "params": params}
        loss, metrics, *_ = objective(forward, variables, Batch(X), KEY, jnp.int32(0), objective.init(variables))
        return loss, metrics.get(metric, 0.0)

    weighted, without = make(Constant(WEIGHT)), bare or make(Constant(0.0))

    @jax.jit
    def gap(params: Any) -> Any:
        slopes = [jax.grad(lambda p, o=o: value(p, o)[0])(params) for o in (weighted, without)]
        return jax.tree.map(jnp.subtract, *slopes)

    term = jax.jit(lambda params: value(params, weighted)[1])
    slope, step = gap(made["params"]), 1e-5
    rng = np.random.default_rng(1)
    for _ in range(3):
        along = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), made["params"])
        ahead, behind = (term(jax.tree.map(lambda p, d, s=s: p + s * step * d, made["params"], along)) for s in (1, -1))
        expected = WEIGHT * (ahead - behind) / (2 * step)
        got = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), slope, along)))
        assert got.dtype == jnp.float64 and abs(float(expected)) > 1e-3
        np.testing.assert_allclose(got, expected, rtol=1e-6)
