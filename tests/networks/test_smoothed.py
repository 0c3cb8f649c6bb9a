"""The operator U_rho on Hermite polynomials and waves, and the network that applies it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from hvae_jax.networks import MLP, Smoothed, Smoothing
from hvae_jax.networks.computing import call
from hvae_jax.networks.smoothed import Above, smooth, spread

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
MEAN, STD = (jnp.asarray(a, jnp.float32) for a in (RNG.normal(size=(5, 2)), np.exp(RNG.normal(size=(5, 2)))))
U = jnp.asarray(RNG.normal(size=(5, 2)), jnp.float32)
HERMITE = (lambda u: jnp.ones_like(u), lambda u: u, lambda u: u**2 - 1.0, lambda u: u**3 - 3.0 * u)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_hermite_polynomials(order: int, rho: float) -> None:
    """U_rho He_k = rho^k He_k, in u = (z - m)/s: exact, since -1 and 1 integrate cubics over N(0, 1)."""
    noise = jnp.broadcast_to(jnp.array([-1.0, 1.0])[None, :, None], (5, 2, 2))

    def f(points: jax.Array) -> jax.Array:
        assert points.shape == (10, 2)
        return HERMITE[order]((points - jnp.repeat(MEAN, 2, 0)) / jnp.repeat(STD, 2, 0))

    got = smooth(f, MEAN + STD * U, MEAN, STD, rho, noise)
    np.testing.assert_allclose(got, rho**order * HERMITE[order](U), rtol=1e-4, atol=1e-5)


def test_waves_fade_with_their_frequency() -> None:
    """U_rho cos(w u) = exp(-w^2 (1 - rho^2)/2) cos(w rho u), within 4.5 standard errors of the draws."""
    rho, w = 0.8, jnp.array([[1.0, 3.0]])
    noise = jax.random.normal(KEY, (5, 20_000, 2))
    zero, one = jnp.zeros_like(U), jnp.ones_like(U)
    mean, square = (smooth(lambda z, p=p: jnp.cos(w * z) ** p, U, zero, one, rho, noise) for p in (1, 2))
    error = jnp.sqrt((square - mean**2) / noise.shape[1])
    wanted = jnp.exp(-(w**2) * (1 - rho**2) / 2) * jnp.cos(w * rho * U)
    assert float(error.max()) < 0.01
    assert (jnp.abs(mean - wanted) < 4.5 * error + 1e-6).all()


def test_the_ends_are_exact() -> None:
    """At rho = 1 the points are z itself and at rho = 0 z does not reach them, to the bit, if rho is traced as well."""
    z, noise = MEAN + STD * U, jax.random.normal(KEY, (5, 1, 2))
    at = jax.jit(lambda z, rho: smooth(lambda points: points, z, MEAN, STD, rho, noise))
    np.testing.assert_array_equal(at(z, 1.0), z)
    np.testing.assert_array_equal(at(z, 0.0), at(z + 100.0, 0.0))
    assert (at(z, 0.5) != at(z + 1.0, 0.5)).all()
    gradient = jax.grad(lambda z: smooth(jnp.sin, z, MEAN, STD, 0.0, noise).sum())(z)
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("remat", [False, True])
def test_the_network(remat: bool) -> None:
    """The mean over points that differ by draw and example; what is beside z stays; plain at rho = 1; no parameters."""
    inner, beside = MLP((4,), 3, normalise=False), jnp.asarray(RNG.normal(size=(5, 1)), jnp.float32)
    above = Above(MEAN + STD * U, MEAN, STD, beside)

    class Outer(nn.Module):
        rho: float

        @nn.compact
        def __call__(self, above: Above, key: jax.Array) -> Any:
            return call(Smoothed(inner, self.rho, 3, name="net"), above, train=False, remat=remat, key=key)

    variables = Outer(0.5).init(KEY, above, KEY)

    def plain(v: jax.Array) -> Any:
        return inner.apply({"params": variables["params"]["net"]["network"]}, v)

    assert jax.tree.structure(variables["params"]) == jax.tree.structure(
        {"net": {"network": inner.init(KEY, jnp.zeros((1, 3)))["params"]}}
    )
    np.testing.assert_array_equal(Outer(1.0).apply(variables, above, KEY), plain(jnp.concatenate([above.z, beside], 1)))
    got = Outer(0.5).apply(variables, above, KEY)
    noise = jax.random.normal(KEY, (5, 3, 2))
    points = MEAN[:, None] + STD[:, None] * (0.5 * U[:, None] + np.sqrt(0.75) * noise)
    wanted = plain(jnp.concatenate([points.reshape(15, 2), jnp.repeat(beside, 3, 0)], 1)).reshape(5, 3, 3).mean(1)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_an_array_is_standard_normal() -> None:
    """Called with z alone, m = 0 and s = 1; at rho = 0 z does not matter."""
    net = Smoothed(MLP((4,), 3, normalise=False), 0.0, 2)
    variables = net.init(KEY, U, KEY)
    np.testing.assert_array_equal(net.apply(variables, U, KEY), net.apply(variables, 2.0 * U, KEY))
    assert (net.apply(variables, U, KEY) != net.apply(variables, U, jax.random.key(1))).all()
    assert spread(None, 3) is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Smoothing(-0.1), r"Smoothing\(rho=-0.1\).*from 0.*to 1"),
        (lambda: Smoothing(1.5), r"rho=1.5"),
        (lambda: Smoothing(0.5, 0), r"Smoothing\(draws=0\).*1 or more"),
        (lambda: Smoothing(float("nan")), "a number"),
        (lambda: Smoothed(MLP((2,)), 2.0), r"Smoothed\(rho=2.0\)"),
        (lambda: Smoothed(MLP((2,)), 0.5, -1), r"Smoothed\(draws=-1\)"),
    ],
)
def test_wrong_settings(make: Callable[[], Any], said: str) -> None:
    """Each is refused in one line that names the setting."""
    with pytest.raises(ValueError, match=said) as error:
        make()
    assert "\n" not in str(error.value)
