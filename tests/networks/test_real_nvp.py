"""RealNVP: the way back, the determinant against the Jacobian, and the density of the prior made of it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import jitter

from hvae_jax.distributions import Normal
from hvae_jax.flows import FlowNormal
from hvae_jax.networks.real_nvp import RealNVPNetwork, squeeze, unsqueeze

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "scales"),
    [
        pytest.param((4, 4, 1), 2, marks=pytest.mark.slow),
        pytest.param((4, 8, 2), 3, marks=pytest.mark.slow),
        pytest.param((2, 4, 2), 1, marks=pytest.mark.slow),
        ((3,), 1),
        pytest.param((4,), 2, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_inverse_and_determinant(shape: tuple[int, ...], scales: int) -> None:
    """The inverse undoes the map, and log |de/dz| is that of the Jacobian."""
    network, z = RealNVPNetwork(scales, 2, 1), jnp.asarray(RNG.normal(size=(3, *shape)), jnp.float32)
    params = jitter(jax.jit(network.init)(KEY, z)["params"], scale=0.2)

    def forward(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return network.apply({"params": params}, z)

    @jax.jit
    def every(z: jax.Array) -> tuple[jax.Array, ...]:
        e, log_det = forward(z)
        back, there = network.apply({"params": params}, e, inverse=True)
        jacobian = jax.vmap(jax.jacfwd(lambda one: forward(one[None])[0][0].ravel()))(z)
        return e, log_det, back, there, jacobian.reshape(len(z), e[0].size, -1)

    e, log_det, back, there, jacobian = map(np.asarray, every(z))
    np.testing.assert_allclose(back, z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(there, -log_det, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian.astype(np.float64))[1], rtol=1e-4, atol=1e-4)
    assert np.abs(log_det).min() > 0.01 and np.abs(e - z).max() > 0.1


@pytest.mark.slow
def test_the_density_integrates_to_one() -> None:
    """In two dimensions, on a grid; samples are the base's, seen backwards."""
    network = RealNVPNetwork(1, 3, 2)
    line = np.linspace(-14.0, 14.0, 561)  # z is spread widely in one direction, narrowly in another
    nodes = jnp.asarray(list(itertools.product(line, line)), jnp.float32)
    start = jax.jit(network.init)(KEY, jax.random.normal(KEY, (50, 2)))["params"]
    params = jitter(start, scale=0.1)
    p = FlowNormal(Normal.standard((len(nodes), 2)), params, network)
    mass = float(np.exp(np.asarray(jax.jit(lambda p, z: p.log_prob(z))(p, nodes), np.float64)).sum())
    assert abs(mass * (line[1] - line[0]) ** 2 - 1.0) < 1e-4
    p = FlowNormal(Normal.standard((500, 2)), params, network)
    z = jax.jit(lambda p: p.sample(KEY))(p)
    e = network.apply({"params": params}, z)[0]
    np.testing.assert_allclose(e, p.base.sample(KEY), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(p.sample(KEY, 0.0), p.mode, rtol=1e-6)
    assert p.mean.shape == z.shape


def test_squeezing() -> None:
    """Channel 4 c + 2 (row offset) + column offset, and back."""
    z = jnp.asarray(RNG.normal(size=(2, 4, 6, 3)), jnp.float32)
    squeezed = squeeze(z)
    assert squeezed.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(squeezed[..., 4 * 2 + 2 * 1 + 0], z[:, 1::2, 0::2, 2])
    np.testing.assert_array_equal(unsqueeze(squeezed), z)


def test_maps_that_cannot_be_halved() -> None:
    """The error names the size."""
    with pytest.raises(ValueError, match=r"cannot halve maps of 3x4: lower `scales`"):
        jax.eval_shape(RealNVPNetwork(2, 1, 1).init, KEY, jnp.zeros((1, 3, 4, 1)))
