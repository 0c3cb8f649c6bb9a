"""`impute` on the kinds of models there are: classes, clusters, flows, scanned runs, networks that draw, PixelCNN."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import cases
from support.contract import plausible_variables
from support.toys import Flow

import hvae_jax as hv
from hvae_jax.filling import half

KEY = jax.random.key(0)
KINDS = ("vae_classes", "pixelcnn", "resnet_vae_flow", "vdvae", "cagem", "prior_that_draws", "smoothed", "flow")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model(kind: str) -> None:
    """A pass that is given the latents of another with the same key has its weight, which the ratio relies on.

    That holds for networks that draw random numbers too: their noise belongs to the latents. And fillings are possible
    values, with what is seen as it was.
    """
    case = cases.case(kind)
    model, x, y = case.model, case.x, case.y
    if isinstance(model, Flow):
        variables: Any = jax.jit(model.init)(KEY, x, KEY)
    else:
        variables = plausible_variables(model, x, y)
    seen = half(x.shape[1:])

    @jax.jit
    def weights(variables: Any) -> tuple[Any, Any]:
        drawn = model.apply(variables, x, KEY, y=y)
        again = model.apply(variables, x, KEY, y=y, latents=drawn.latents)
        return hv.log_weight(drawn), hv.log_weight(again)

    drawn, again = weights(variables)
    np.testing.assert_allclose(drawn, again, rtol=1e-4, atol=1e-4)
    found = hv.impute(model, variables, x, seen, KEY, 8, y=y)
    assert np.isfinite(found.mean).all() and ((found.acceptance >= 0) & (found.acceptance <= 1)).all()
    for filling in np.asarray(found.fillings):
        np.testing.assert_array_equal(filling[:, seen], np.asarray(x)[:, seen])
        if model.likelihood is not None:
            model.likelihood.check(filling)
    assert jnp.asarray(found.deviation)[:, ~seen].max() > 0
