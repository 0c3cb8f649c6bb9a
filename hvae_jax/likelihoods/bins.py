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
from hvae_jax.likelihoods.base import softplus
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
        """E[x] = sum over the V - 1 edges of P(x above the edge), between 0 and V - 1.

        In float64 it is that sum. In float32, and in shorter formats, whose sum has to be taken in it, a few terms are
        the same to rounding:

        - For scales up to the width of a bin, the edges within `_NEAR` bins of the mean: further below P is 1, above 0.
        - For larger scales the Euler-Maclaurin formula, with s in bins, a and b as above, now of the edges -1 and 1:

              E[x] = G(b) - G(a),    G(y) = s log(1 + e^y) + sum_k c_k s^(1 - 2k) sigmoid^(2k - 1)(y)

          where 1 + sum_k c_k t^(2k) = (t/2)/sinh(t/2). It has no other error than the terms left out, of which the
          largest is 5e-8, and a wave of a bin's width around the sum, below 4 s exp(-2 pi^2 s), which is 4e-8.
        """
        wide = jnp.promote_types(mean.dtype, jnp.float32)
        at, inverse = mean.astype(wide), finite_exp(-log_scale.astype(wide))
        if wide == jnp.float64 or self.values - 1 <= 2 * _NEAR + 1:
            return self._over_edges(at, inverse, 0.0, self.values - 1).astype(mean.dtype)
        narrow = inverse * (2.0 / (self.values - 1)) > 1.0
        return jnp.where(narrow, self._near(at, inverse), self._smooth(at, inverse)).astype(mean.dtype)

    def _over_edges(self, mean: Array, inverse: Array, first: Array | float, count: int) -> Array:
        """Sum of P(x above the edge) over `count` edges from the edge number `first` on."""

        # Without a checkpoint the backward pass would keep an array for each edge.
        @jax.checkpoint
        def above(edge: Array, mean: Array, inverse: Array) -> Array:
            return jax.nn.sigmoid((mean - (2.0 * edge + 2.0 - self.values) / (self.values - 1)) * inverse)

        def add(i: Array, total: Array) -> Array:
            return total + above(first + i.astype(mean.dtype), mean, inverse)

        return jax.lax.fori_loop(0, count, add, jnp.zeros_like(mean))

    def _near(self, mean: Array, inverse: Array) -> Array:
        """E[x] from the edges around the mean; those below them count 1 each, those above 0."""
        count = 2 * _NEAR + 1
        nearest = jnp.round((mean + 1.0) * (0.5 * (self.values - 1)) - 0.5)
        first = jnp.clip(nearest - _NEAR, 0.0, self.values - 1.0 - count)
        return first + self._over_edges(mean, inverse, first, count)

    def _smooth(self, mean: Array, inverse: Array) -> Array:
        """E[x] by the Euler-Maclaurin formula, for scales of a bin's width or more."""
        edges, width = self.values - 1.0, 2.0 / (self.values - 1)
        # Finite where it is not chosen, and scaled so that a scale beyond 1e8 leaves only sigmoid(b).
        per_bin = bounded(inverse * width, 1e-8 / edges, 1.0)  # 1/s
        inverse = bounded(inverse, 0.0, 1.0 / width)
        # A mean above 0 is reflected, so that both logarithms are small and their difference has all digits.
        above = mean > 0
        below = jnp.where(above, -mean, mean)
        a, b, span = (below - 1.0) * inverse, (below + 1.0) * inverse, per_bin * edges  # span = b - a
        # log((1 + e^b)/(1 + e^a)); for b close to a a difference would have no digits
        close = jnp.log1p(jnp.expm1(jnp.minimum(span, 1.0)) * jax.nn.sigmoid(a))
        logarithms = jnp.where(span < 1.0, close, softplus(b) - softplus(a))
        found = logarithms / per_bin + per_bin * (_corrections(b, per_bin) - _corrections(a, per_bin))
        return jnp.where(above, edges - found, found)


_NEAR = 14
"""Bins from the mean beyond which P(x above an edge) is 0 or 1: for a scale of a bin, e^-14.5 of 14 bins or more."""


def _corrections(y: Array, per_bin: Array) -> Array:
    """s sum_k c_k s^(1 - 2k) sigmoid^(2k - 1)(y) for k = 1 to 5; the derivatives are polynomials in sigmoid'(y)."""
    p, square = jax.nn.sigmoid(y) * jax.nn.sigmoid(-y), per_bin**2
    total = jnp.zeros_like(p)
    for coefficient, powers in reversed(_DERIVATIVES):
        total = total * square + coefficient * jnp.polyval(jnp.asarray(powers[::-1], p.dtype), p)
    return p * total


_DERIVATIVES = (
    (-1 / 24, (1.0,)),
    (7 / 5760, (1.0, -6.0)),
    (-31 / 967680, (1.0, -30.0, 120.0)),
    (127 / 154828800, (1.0, -126.0, 1680.0, -5040.0)),
    (-73 / 3503554560, (1.0, -510.0, 17640.0, -151200.0, 362880.0)),
)
"""c_k, and sigmoid^(2k - 1)/p as a polynomial in p = sigmoid', the constant first."""


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
