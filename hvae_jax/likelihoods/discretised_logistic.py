"""Whole numbers that lie in order, such as grey values: one logistic distribution cut into bins for each element."""

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

from hvae_jax.distributions import finite_exp, sum_event
from hvae_jax.likelihoods import published
from hvae_jax.likelihoods.base import Likelihood, check_whole
from hvae_jax.likelihoods.bins import Bins
from hvae_jax.records import checked
from hvae_jax.runtime.prng import fused

Scale = Literal["element", "global"]


@struct.dataclass
class DiscretisedLogisticRecord:
    """Independent discretised logistics over 0..V-1.

    Attributes:
      location, log_scale: parameters of the logistics, `[B, *event]`, in units in which the values go from -1 to 1.
      values: V, number of values that an element can take.
      added: as in `DiscretisedLogistic`; the default is exact.
    """

    location: Array
    log_scale: Array
    values: int = struct.field(pytree_node=False)
    added: float = struct.field(pytree_node=False, default=0.0)

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """sum_d log P(x_d), nats; -inf where a value is not one of 0..V-1."""
        bins = Bins(self.values)
        log_p = bins.log_mass(x, self.location, self.log_scale)
        if self.added:
            log_p = published.add_to_probability(log_p, self.added)
        return sum_event(jnp.where(bins.contain(x), log_p, -jnp.inf))

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Int[Array, "batch ..."]:
        """Draws integers 0..V-1, int32; the temperature scales the logistic noise, 0 gives the bin of the mean."""
        noise = jax.random.logistic(fused(key), self.log_scale.shape, self.log_scale.dtype)
        noise *= jnp.asarray(temperature, noise.dtype)
        return Bins(self.values).nearest(self.location + finite_exp(self.log_scale) * noise)

    @property
    def mean(self) -> Array:
        """E[x]."""
        return Bins(self.values).expectation(self.location, self.log_scale)

    @property
    def mode(self) -> Array:
        """The most probable value, int32: the bin of the logistic's mean, or an open bin at one of the ends."""
        # The open bins at the ends may have more mass than the bin of the mean; no other bin can.
        bins = Bins(self.values)
        here = bins.nearest(self.location)
        candidates = jnp.stack([here, jnp.zeros_like(here), jnp.full_like(here, self.values - 1)])  # [3, B, *event]
        log_p = bins.log_mass(candidates, self.location[None], self.log_scale[None])
        return jnp.take_along_axis(candidates, log_p.argmax(0)[None], axis=0)[0]


class _LogScale(nn.Module):
    """The logarithm of one scale, a parameter."""

    @nn.compact
    def __call__(self) -> Float[Array, ""]:
        return self.param("log_scale", nn.initializers.zeros, (), jnp.float32)


@dataclasses.dataclass(frozen=True)
@checked
class DiscretisedLogistic(Likelihood):
    """Whole numbers 0..values-1 that lie in order, one logistic for each element.

    Attributes:
      values: V, number of values that an element can take; 2^b for an image of b bits.
      scale: "element", an output of the network for each element, or "global", one parameter of the model, named
        "logistic", for all elements.
      min_log_scale: lower bound of the logarithm of the scale. At -7 an inner one of 256 bins has a probability of up
        to 0.97.
      added: number that log_prob adds to each probability, so that they sum to more than 1; 0 is exact, addtt's code
        has 1e-7 (`published.py`).

    Source: Kingma et al. (2016), their code, for "global". Two details of that code are left out: its bins, 1/256 of
    the range wide, are closed at both ends, so that the mass beyond the ends is lost; and it clips the mean to the
    range.
    Raises ValueError for fewer than two values, another scale, and a min_log_scale or an `added` that is not finite, or
    the latter below 0.

    Example:
        >>> record = hv.DiscretisedLogistic(values=4)(jnp.zeros((4, 1, 2)))
        >>> print(jnp.exp(record.log_prob(jnp.arange(4)[:, None])).sum().round(3))  # of all four values
        1.0
    """

    values: int = 256
    scale: Scale = "element"
    min_log_scale: float = -7.0
    added: float = 0.0

    def __post_init__(self) -> None:
        if self.values < 2:
            raise ValueError(f"DiscretisedLogistic(values={self.values}): at least 2 values are needed.")
        if not math.isfinite(self.min_log_scale) or not 0.0 <= self.added < math.inf:
            raise ValueError(
                f"DiscretisedLogistic(min_log_scale={self.min_log_scale}, added={self.added}): both have to be finite, "
                "the latter 0 or more."
            )

    @property
    def value_range(self) -> tuple[float, float]:
        """0 to V - 1."""
        return 0.0, self.values - 1.0

    @property
    def parameters(self) -> int:
        """The mean, and with scale="element" the logarithm of the scale."""
        return 2 if self.scale == "element" else 1

    def __call__(self, h: Array) -> DiscretisedLogisticRecord:
        """`[B, *event, parameters]` to a record. A global scale is a parameter of the model this is called in."""
        mean = h[..., 0]
        raw = h[..., 1] if self.scale == "element" else jnp.broadcast_to(_LogScale(name="logistic")(), mean.shape)
        return DiscretisedLogisticRecord(mean, jnp.maximum(raw, self.min_log_scale), self.values, self.added)

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a value that is not one of 0..values-1."""
        check_whole(x, self.values, "DiscretisedLogistic({})", name)

    def as_input(self, x: Array) -> Array:
        """2 x/(V - 1) - 1, from -1 to 1."""
        return Bins(self.values).centre(x)
