"""Whole numbers that lie in order, such as grey values: a logistic distribution cut into bins.

The values k = 0..V-1 are the bins of a partition of the line around u_k = 2 k/(V - 1) - 1, each 2/(V - 1) wide but the
first and the last, which are open: with a and b the bin's edges, less the mean and in units of the scale s,

    P(k) = sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(-(b - a)))          b - a = 2/((V - 1) s)

and the logarithm of the product has no difference in it that could cancel, whatever the scale.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax import Array
from jaxtyping import Float, Int, Key, Num

from hvae_jax.distributions import sum_event
from hvae_jax.likelihoods.base import Likelihood, check_whole
from hvae_jax.records import check_choices

Scale = Literal["element", "global"]


def centre(x: Num[Array, "..."], values: int) -> Num[Array, "..."]:
    """u = 2 x/(V - 1) - 1: the whole numbers 0..V-1 as reals from -1 to 1."""
    return 2.0 * x / (values - 1) - 1.0


def nearest(u: Float[Array, "..."], values: int) -> Int[Array, "..."]:
    """The whole number whose bin holds u, int32: what lies beyond the ends is in the first and the last."""
    return jnp.round(jnp.clip((u + 1.0) * (0.5 * (values - 1)), 0, values - 1)).astype(jnp.int32)


def is_value(x: Num[Array, "..."], values: int) -> Array:
    """Whether each x is one of 0..V-1; compared as integers of 32 bits, in which 256 is not 0."""
    index = x.astype(jnp.int32)
    return (index >= 0) & (index < values) & (x == index)


def log_mass(
    x: Num[Array, "..."], mean: Float[Array, "..."], log_scale: Float[Array, "..."], values: int
) -> Float[Array, "..."]:
    """log P(x) of a logistic cut into bins, elementwise nats, as the head of this file has it.

    Args:
      x: whole numbers 0..V-1, of any dtype, in a shape that broadcasts with the others.
      mean, log_scale: of the logistic, where the values go from -1 to 1.
    """
    inverse, twice = jnp.exp(-log_scale), 2.0 * x.astype(mean.dtype)
    # neighbours round the edge they share to the same number: nothing is lost or counted twice between them
    upper, lower = (twice + 2.0 - values) / (values - 1), (twice - values) / (values - 1)
    below_upper = jax.nn.log_sigmoid((upper - mean) * inverse)
    above_lower = jax.nn.log_sigmoid((mean - lower) * inverse)
    inside = below_upper + above_lower + _log_one_minus_exp(math.log(2.0 / (values - 1)) - log_scale)
    return jnp.where(x == 0, below_upper, jnp.where(x == values - 1, above_lower, inside))


def _log_one_minus_exp(log_width: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 - exp(-w)) from log w; -w/2 is the next term of its series after log w, enough where w < 1e-6."""
    width = jnp.exp(log_width)
    small = width < 1e-6
    return jnp.where(small, log_width - 0.5 * width, jnp.log(-jnp.expm1(-jnp.where(small, 1.0, width))))


def expectation(mean: Float[Array, "..."], log_scale: Float[Array, "..."], values: int) -> Float[Array, "..."]:
    """E[x] = sum over the V - 1 edges of P(x above the edge), in whole numbers 0..V-1."""

    @jax.checkpoint  # or the backward pass would remember V - 1 arrays
    def above(edge: Array, mean: Array, inverse: Array) -> Array:
        return jax.nn.sigmoid((mean - (2.0 * edge + 2.0 - values) / (values - 1)) * inverse)

    def add(edge: Array, total: Array) -> Array:
        return total + above(edge.astype(mean.dtype), mean, inverse)

    inverse = jnp.exp(-log_scale)
    return jax.lax.fori_loop(0, values - 1, add, jnp.zeros_like(mean))


@struct.dataclass
class DiscretisedLogisticRecord:
    """Independent discretised logistics over 0..V-1.

    Attributes:
      location, log_scale: `[B, *event]`, in units in which the values go from -1 to 1.
      values: V.
      added: to each probability before its logarithm is taken.
    """

    location: Array
    log_scale: Array
    values: int = struct.field(pytree_node=False)
    added: float = struct.field(pytree_node=False, default=0.0)

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """sum_d log P(x_d), nats; -inf where a value is not one of 0..V-1."""
        log_p = log_mass(x, self.location, self.log_scale, self.values)
        if self.added:
            log_p = jnp.logaddexp(log_p, math.log(self.added))
        return sum_event(jnp.where(is_value(x, self.values), log_p, -jnp.inf))

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Int[Array, "batch ..."]:
        """Integers 0..V-1, int32. The temperature scales the logistic's noise; 0 gives the bin of its mean."""
        noise = jax.random.logistic(key, self.log_scale.shape, self.log_scale.dtype)
        noise *= jnp.asarray(temperature, noise.dtype)
        return nearest(self.location + jnp.exp(self.log_scale) * noise, self.values)

    @property
    def mean(self) -> Array:
        """E[x]."""
        return expectation(self.location, self.log_scale, self.values)

    @property
    def mode(self) -> Array:
        """The most probable value, int32: that of the bin in which the logistic has its mean, or an open end's."""
        here = nearest(self.location, self.values)
        candidates = jnp.stack([here, jnp.zeros_like(here), jnp.full_like(here, self.values - 1)])
        log_p = log_mass(candidates, self.location[None], self.log_scale[None], self.values)
        return jnp.take_along_axis(candidates, log_p.argmax(0)[None], axis=0)[0]


class _LogScale(nn.Module):
    """The logarithm of one scale, learned."""

    @nn.compact
    def __call__(self) -> Float[Array, ""]:
        return self.param("log_scale", nn.initializers.zeros, (), jnp.float32)


@dataclasses.dataclass(frozen=True)
class DiscretisedLogistic(Likelihood):
    """Whole numbers 0..values-1 that lie in order, one logistic an element.

    Attributes:
      values: V, how many values an element can take; 2^bits for an image of so many bits.
      scale: "element", from the network for each element, or "global", one number for all of them that the model
        learns, under "logistic" among its parameters.
      min_log_scale: the logarithm of the scale is cut off there from below. At -7 a bin in the middle of 256 has a
        probability of up to 0.97.
      added: to each probability before its logarithm is taken; then those of all values add up to more than 1. 0, the
        default, is exact; public codes have 1e-7.

    Source: Kingma et al. (2016), their code, for "global". Its bins, 1/256 of the range wide, are closed at both ends,
    so that what lies beyond is lost, and the mean is clipped to the range: neither is here.
    Raises ValueError for fewer than two values or another scale.
    """

    values: int = 256
    scale: Scale = "element"
    min_log_scale: float = -7.0
    added: float = 0.0

    def __post_init__(self) -> None:
        if self.values < 2:
            raise ValueError(f"DiscretisedLogistic(values={self.values}): at least 2 values are needed.")
        check_choices(self)

    @property
    def value_range(self) -> tuple[float, float]:
        """0 to V - 1."""
        return 0.0, self.values - 1.0

    @property
    def parameters(self) -> int:
        """The mean, and the logarithm of the scale if it is the element's own."""
        return 2 if self.scale == "element" else 1

    def __call__(self, h: Array) -> DiscretisedLogisticRecord:
        """`[B, *event, parameters]` to a record; with a global scale called within a model, whose parameter it is."""
        mean = h[..., 0]
        raw = h[..., 1] if self.scale == "element" else jnp.broadcast_to(_LogScale(name="logistic")(), mean.shape)
        return DiscretisedLogisticRecord(mean, jnp.maximum(raw, self.min_log_scale), self.values, self.added)

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a value that is not one of 0..values-1."""
        check_whole(x, self.values, "DiscretisedLogistic({})", name)

    def as_input(self, x: Array) -> Array:
        """2 x/(V - 1) - 1, from -1 to 1."""
        return centre(x, self.values)
