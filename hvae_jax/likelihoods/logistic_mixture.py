"""Whole numbers that lie in order, a mixture of discretised logistics for each pixel: grey or of three colours.

    p(x) = sum_k w_k P(r; m_k) P(g; m_k + c_k r) P(b; m_k + c_k' r + c_k'' g)

The colours of a pixel share the component k, and each shifts the logistics of those after it; P is a logistic cut into
bins as in `discretised_logistic.py`, and r, g and b are taken from -1 to 1.

Source: Salimans et al. (2017), "PixelCNN++", section 2.1 and 2.2.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float, Int, Key, Num

from hvae_jax.distributions import ScaleHead, sum_event
from hvae_jax.likelihoods.base import Likelihood, check_whole
from hvae_jax.likelihoods.discretised_logistic import centre, expectation, is_value, log_mass, nearest
from hvae_jax.records import check_choices

Form = Literal["exact", "published", "vdvae_5_bits", "efficient_vdvae_5_bits"]


def published_log_mass(
    u: Float[Array, "..."],
    location: Float[Array, "..."],
    log_scale: Float[Array, "..."],
    half: float,
    *,
    last: float = 1.0,
    beta: float = 1.0,
) -> Float[Array, "..."]:
    """log of a bin's probability as public codes take it, elementwise nats.

    The difference of two sigmoids, and where that is 1e-5 or less the density in the middle times the width. A u
    below -0.999 has the first bin, one above 0.999 times `last` the last.

    Args:
      u: the data, from -1 to 1.
      half: half the width of a bin.
      last: the u of the last bin.
      beta: what log_scale is divided by in the density, but not in its argument: an oversight of Efficient-VDVAE's.
    Source: Salimans et al. (2017), their code; VDVAE's (Child, 2021) is the same.
    """
    inverse, offset = jnp.exp(-log_scale), u - location
    upper, middle, lower = (offset + half) * inverse, offset * inverse, (offset - half) * inverse
    mass = jax.nn.sigmoid(upper) - jax.nn.sigmoid(lower)
    density = middle - log_scale / beta - 2.0 * jax.nn.softplus(middle)
    inside = jnp.where(mass > 1e-5, jnp.log(jnp.maximum(mass, 1e-12)), density + math.log(2.0 * half))
    open_above = jnp.where(u > 0.999 * last, -jax.nn.softplus(lower), inside)
    return jnp.where(u < -0.999, upper - jax.nn.softplus(upper), open_above)


@struct.dataclass
class LogisticMixtureRecord:
    """A mixture of M discretised logistics for each pixel of C channels.

    Attributes:
      logits: `[B, *pixels, M]`, of the components, unnormalised.
      location, log_scale: `[B, *pixels, C, M]`, of the logistics, in units in which the values go from -1 to 1.
      coefficients: `[B, *pixels, 3, M]` for three channels: red on green, red on blue, green on blue. None for one,
        `[B, *pixels, 0, M]`.
      family: the setting it was made by.
    """

    logits: Array
    location: Array
    log_scale: Array
    coefficients: Array
    family: "LogisticMixture" = struct.field(pytree_node=False)

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """sum over the pixels of log p(x), nats; -inf where a value is not one of 0..V-1."""
        x = x.reshape(self.location.shape[:-1])
        u = self.family.grid(x).astype(self.location.dtype)
        log_p = jax.nn.log_softmax(self.logits)
        for c in range(self.family.channels):
            seen = [u[..., before, None] for before in range(c)]
            log_p += self._log_mass(c, x[..., c, None], seen)
        allowed = is_value(x, self.family.values).all(-1)
        return sum_event(jnp.where(allowed, jax.nn.logsumexp(log_p, axis=-1), -jnp.inf))

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Int[Array, "batch ..."]:
        """Integers 0..V-1, int32: a component for each pixel, then its channels one after the other.

        The temperature scales the Gumbel noise of the choice and the logistic's; 0 gives the likeliest component and
        the bins of its means. Draws are those of the exact form, whatever the form.
        """
        key_component, key_values = jax.random.split(key)
        temperature = jnp.asarray(temperature, self.logits.dtype)
        gumbel = jax.random.gumbel(key_component, self.logits.shape, self.logits.dtype)
        component = (self.logits + temperature * gumbel).argmax(-1)[..., None, None]

        def of_component(leaf: Array) -> Array:
            return jnp.take_along_axis(leaf, component, axis=-1)

        location, log_scale, coefficients = map(of_component, (self.location, self.log_scale, self.coefficients))
        one = LogisticMixtureRecord(self.logits, location, log_scale, coefficients, self.family)
        noise = temperature * jax.random.logistic(key_values, one.location.shape, one.location.dtype)
        values, seen = [], []
        for c in range(self.family.channels):
            u = one._locations(c, seen) + jnp.exp(one.log_scale[..., c, :]) * noise[..., c, :]
            values.append(self.family.nearest(u))
            seen.append(self.family.grid(values[-1]).astype(u.dtype))
        return self._as_x(jnp.concatenate(values, axis=-1))

    @property
    def mean(self) -> Array:
        """E[x]; for colours after the first, at the mean of those before within each component.

        That is exact where no logistic reaches beyond the ends of the range, to the rounding into bins.
        """
        weights = jax.nn.softmax(self.logits)
        means, seen = [], []
        for c in range(self.family.channels):
            one = expectation(self._locations(c, seen), self.log_scale[..., c, :], self.family.values)
            means.append((weights * one).sum(-1))
            seen.append(self.family.grid(one))
        return self._as_x(jnp.stack(means, axis=-1))

    @property
    def mode(self) -> Array:
        """The most probable value of each channel given those so chosen before it, int32: not the most probable x."""
        log_p = jax.nn.log_softmax(self.logits)
        values: list[Array] = []
        for c in range(self.family.channels):
            seen = [self.family.grid(v).astype(log_p.dtype)[..., None] for v in values]

            def better(value: Array, best: Any, c: int = c, seen: list = seen, log_p: Array = log_p) -> Any:
                score = jax.nn.logsumexp(log_p + self._log_mass(c, jnp.full_like(best[0], value)[..., None], seen), -1)
                return jnp.where(score > best[1], value, best[0]), jnp.maximum(score, best[1])

            start = (jnp.zeros(log_p.shape[:-1], jnp.int32), jnp.full(log_p.shape[:-1], -jnp.inf, log_p.dtype))
            chosen = jax.lax.fori_loop(0, self.family.values, better, start)[0]
            log_p += self._log_mass(c, chosen[..., None], seen)
            values.append(chosen)
        return self._as_x(jnp.stack(values, axis=-1))

    def _locations(self, channel: int, seen: list[Array]) -> Array:
        """The locations of a channel's logistics, `[B, *pixels, M]`, given u of the channels before it."""
        location = self.location[..., channel, :]
        for before, u in enumerate(seen):
            location += self.coefficients[..., channel * (channel - 1) // 2 + before, :] * u
        return location

    def _log_mass(self, channel: int, x: Array, seen: list[Array]) -> Array:
        """log P of a channel's value under each component, `[B, *pixels, M]`."""
        family, location, log_scale = self.family, self._locations(channel, seen), self.log_scale[..., channel, :]
        if family.form == "exact":
            return log_mass(x, location, log_scale, family.values)
        u = family.grid(x).astype(location.dtype)
        last = 120.5 / 127.5 if family.form == "efficient_vdvae_5_bits" else 1.0
        beta = family.head.beta if family.head.form == "log_std" else 1.0
        return published_log_mass(u, location, log_scale, 1.0 / (family.values - 1), last=last, beta=beta)

    def _as_x(self, x: Array) -> Array:
        """`[B, *pixels, C]` as `[B, *event]`."""
        return x.reshape(*self.logits.shape[:-2], -1)


@dataclasses.dataclass(frozen=True)
class LogisticMixture(Likelihood):
    """Whole numbers 0..values-1 that lie in order, a mixture of discretised logistics for each pixel.

    Attributes:
      mixtures: M, components.
      values: V, how many values an element can take; 2^bits for an image of so many bits.
      channels: 3 for colours, of which each shifts those after it, or 1 for elements that are independent. With 3, x
        is `[B, ..., 3]`, and the numbers for a pixel, `parameters`, are for its three colours together.
      min_log_scale: the logarithm of the scales is cut off there from below.
      form: "exact": the bins partition the line, and log-probabilities come from a product without cancellation. To
        score as public codes did, "published", in which bins of a probability below 1e-5 have that of the density in
        their middle instead, so that the sum over all values is 1 but for that; or "vdvae_5_bits", for 32 values, in
        which besides that the values lie 8/127.5 apart, from -1 to 0.945, in bins 2/31 wide: they overlap, the last
        one is not open, and the sum over all values is 1.03 or, near white, far from 1; or "efficient_vdvae_5_bits", in
        which the last one is open.
      head: how a layer's output becomes a logistic's scale: "log_std", e^(beta a), where it is a that is cut off, or
        "softplus_std", log(1 + e^(beta a))/beta.

    A pixel's numbers are M logits, and for each channel M means, M log-scales and, for colours, M coefficients before
    their tanh, in this order.
    Source: Salimans et al. (2017); the forms are VDVAE's (Child, 2021), and NVAE's at five bits is "published"; the
    "softplus_std" is Efficient-VDVAE's (Hazami et al., 2022), with beta = log 2.
    Raises ValueError for a size that is out of its range, channels other than 1 and 3, or another form or head.
    """

    mixtures: int = 10
    values: int = 256
    channels: int = 3
    min_log_scale: float = -7.0
    form: Form = "exact"
    head: ScaleHead = ScaleHead("log_std")

    def __post_init__(self) -> None:
        if self.mixtures < 1 or self.values < 2:
            raise ValueError(
                f"LogisticMixture(mixtures={self.mixtures}, values={self.values}): at least 1 component and 2 values "
                "are needed."
            )
        if self.channels not in (1, 3):
            raise ValueError(f"LogisticMixture(channels={self.channels}): 1, or 3 for colours.")
        check_choices(self)
        if self.form.endswith("5_bits") and self.values != 32:
            raise ValueError(f"LogisticMixture(values={self.values}, form={self.form!r}): 5 bits have 32 values.")
        if self.head.form not in ("log_std", "softplus_std"):
            raise ValueError(f"LogisticMixture(head={self.head}): its form has to be 'log_std' or 'softplus_std'.")

    @property
    def value_range(self) -> tuple[float, float]:
        """0 to V - 1."""
        return 0.0, self.values - 1.0

    @property
    def parameters(self) -> int:
        """3 M for a channel by itself; 10 M for three."""
        return 10 * self.mixtures if self.channels == 3 else 3 * self.mixtures

    def __call__(self, h: Array) -> LogisticMixtureRecord:
        """`[B, *pixels, parameters]` to a record."""
        m = self.mixtures
        by_channel = h[..., m:].reshape(*h.shape[:-1], self.channels, -1)
        log_scale = self._log_scale(by_channel[..., m : 2 * m])
        pairs = self.channels * (self.channels - 1) // 2
        coefficients = jnp.tanh(by_channel[..., 2 * m :]).reshape(*h.shape[:-1], pairs, m)
        return LogisticMixtureRecord(h[..., :m], by_channel[..., :m], log_scale, coefficients, self)

    def _log_scale(self, a: Array) -> Array:
        """The logarithm of a logistic's scale; with "log_std" it is a that is cut off."""
        if self.head.form == "softplus_std":
            return jnp.maximum(self.head.log_std(a), self.min_log_scale)
        return self.head.log_std(jnp.maximum(a, self.min_log_scale))

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a value that is not one of 0..values-1, or for channels other than the family's."""
        if self.channels > 1 and (x.ndim < 2 or x.shape[-1] != self.channels):
            raise ValueError(
                f"{name} has shape {x.shape}, but LogisticMixture(channels={self.channels}) takes the colours of a "
                f"pixel on a last axis of {self.channels}. Set channels=1, or give images in colour."
            )
        check_whole(x, self.values, "LogisticMixture(values={})", name)

    def as_input(self, x: Array) -> Array:
        """u: 2 x/(V - 1) - 1 from -1 to 1, or as far as the values of a form of 5 bits go."""
        return self.grid(x)

    def grid(self, x: Num[Array, "..."]) -> Num[Array, "..."]:
        """u: where the values lie, from -1 to 1."""
        return x * (8.0 / 127.5) - 1.0 if self.form.endswith("5_bits") else centre(x, self.values)

    def nearest(self, u: Float[Array, "..."]) -> Int[Array, "..."]:
        """The value that lies nearest to u, int32."""
        return nearest((u + 1.0) * (127.5 / 124.0) - 1.0 if self.form.endswith("5_bits") else u, self.values)
