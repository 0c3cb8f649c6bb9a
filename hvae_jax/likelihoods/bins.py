"""A logistic distribution cut into bins: probabilities of whole numbers that lie in order, such as grey values.

The values k = 0..V-1 are the bins of a partition of the line around u_k = 2 k/(V - 1) - 1, each 2/(V - 1) wide except
the first and the last, which are open. With a and b the edges of a bin, minus the mean and in units of the scale s,

    P(k) = sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(-(b - a)))          b - a = 2/((V - 1) s)

The logarithm of the product on the right contains no difference that could cancel, whatever the scale.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Num

from hvae_jax.distributions import bounded, finite_exp
from hvae_jax.records import checked


@dataclasses.dataclass(frozen=True)
@checked
class Bins:
    """The partition of the line into V bins; everything is elementwise.

    Attributes:
      values: V.
    """

    values: int

    def centre(self, x: Num[Array, "..."]) -> Num[Array, "..."]:
        """u = 2 x/(V - 1) - 1: the whole numbers 0..V-1 as reals from -1 to 1."""
        return 2.0 * x / (self.values - 1) - 1.0

    def nearest(self, u: Float[Array, "..."]) -> Int[Array, "..."]:
        """The whole number whose bin contains u, int32; beyond the ends that is the first or the last one."""
        return jnp.round(jnp.clip((u + 1.0) * (0.5 * (self.values - 1)), 0, self.values - 1)).astype(jnp.int32)

    def contain(self, x: Num[Array, "..."]) -> Bool[Array, "..."]:
        """Whether each x is one of 0..V-1."""
        index = x.astype(jnp.int32)  # before any comparison: in uint8, 256 would be 0
        return (index >= 0) & (index < self.values) & (x == index)

    def log_mass(
        self, x: Num[Array, "..."], mean: Float[Array, "..."], log_scale: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """log P(x), nats.

        Args:
          x: whole numbers 0..V-1, of any dtype, in a shape that broadcasts with the others.
          mean, log_scale: parameters of the logistic, in units in which the values go from -1 to 1.
        """
        inverse, twice = finite_exp(-log_scale), 2.0 * x.astype(mean.dtype)
        # Neighbouring bins round their shared edge to the same number, so no mass is lost or counted twice.
        upper = (twice + 2.0 - self.values) / (self.values - 1)
        lower = (twice - self.values) / (self.values - 1)
        below_upper = jax.nn.log_sigmoid(in_scales(upper - mean, inverse))
        above_lower = jax.nn.log_sigmoid(in_scales(mean - lower, inverse))
        inside = below_upper + above_lower + _log_one_minus_exp(math.log(2.0 / (self.values - 1)) - log_scale)
        return jnp.where(x == 0, below_upper, jnp.where(x == self.values - 1, above_lower, inside))

    def expectation(self, mean: Float[Array, "..."], log_scale: Float[Array, "..."]) -> Float[Array, "..."]:
        """E[x] = sum over the V - 1 edges of P(x above the edge), between 0 and V - 1."""

        # Without a checkpoint the backward pass would keep V - 1 arrays.
        @jax.checkpoint
        def above(edge: Array, mean: Array, inverse: Array) -> Array:
            return jax.nn.sigmoid((mean - (2.0 * edge + 2.0 - self.values) / (self.values - 1)) * inverse)

        def add(edge: Array, total: Array) -> Array:
            return total + above(edge.astype(mean.dtype), mean, inverse)

        inverse = finite_exp(-log_scale)
        return jax.lax.fori_loop(0, self.values - 1, add, jnp.zeros_like(mean))


def in_scales(distance: Float[Array, "..."], inverse: Float[Array, "..."]) -> Float[Array, "..."]:
    """distance/scale, bounded so far below the largest number that sums and differences of a few are finite."""
    most = float(jnp.finfo(distance.dtype).max) / 16.0
    return bounded(distance * inverse, -most, most)


def _log_one_minus_exp(log_width: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 - exp(-w)) from log w. The series log w - w/2 is exact to rounding where w < 1e-6."""
    width = finite_exp(log_width)
    small = width < 1e-6
    # Neither branch may be infinite where it is not chosen: its gradient would be NaN.
    return jnp.where(small, log_width - 0.5 * width, jnp.log(-jnp.expm1(-jnp.where(small, 1.0, width))))
