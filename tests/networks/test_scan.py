"""Runs of equal blocks."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from hvae_jax.networks.scan import scanned

KEY = jax.random.key(0)


class Block(nn.Module):
    """h + W h."""

    @nn.compact
    def __call__(self, h: Array, _: None) -> tuple[Array, None]:
        return h + nn.Dense(3, name="w")(h), None


class Ours(nn.Module):
    """Three blocks."""

    unroll: int = 1

    @nn.compact
    def __call__(self, h: Array) -> Array:
        return scanned(self, Block, 3, (nn.broadcast,), unroll=self.unroll)(name="run")(h, None)[0]


class Plain(nn.Module):
    """The same by Flax's scan with its defaults."""

    @nn.compact
    def __call__(self, h: Array) -> Array:
        run = nn.scan(Block, variable_axes={True: 0}, split_rngs={"params": True}, in_axes=(nn.broadcast,), length=3)
        return run(name="run")(h, None)[0]


def test_a_seed_gives_the_parameters_of_a_plain_scan() -> None:
    """Whatever is left out to trace faster, recorded runs begin with the parameters that they began with."""
    h = jnp.ones((2, 3))
    ours, unrolled, plain = (model.init(KEY, h) for model in (Ours(), Ours(unroll=3), Plain()))
    jax.tree.map(np.testing.assert_array_equal, ours, plain)
    jax.tree.map(np.testing.assert_array_equal, unrolled, plain)
    assert plain["params"]["run"]["w"]["kernel"].shape == (3, 3, 3)
    np.testing.assert_allclose(Ours().apply(plain, h), Plain().apply(plain, h), rtol=1e-6)
