"""Whole numbers that lie in order: a mixture of discretised logistics for each pixel, grey or of three colours.

    p(x) = sum_k w_k P(r; m_k) P(g; m_k + c_k r) P(b; m_k + c_k' r + c_k'' g)

The colours of a pixel share the component k, and each shifts the logistics of those after it. P is a logistic cut into
bins as in `bins.py`; in the shifts r, g and b are taken from -1 to 1.

Source: Salimans et al. (2017), "PixelCNN++", sections 2.1 and 2.2.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Bool, Float, Int, Key, Num

from hvae_jax.distributions import finite_exp, sum_event
from hvae_jax.likelihoods import published
from hvae_jax.likelihoods.base import Likelihood, check_whole
from hvae_jax.likelihoods.bins import Bins
from hvae_jax.likelihoods.seen import check_in_order
from hvae_jax.networks.computing import stored_in_order
from hvae_jax.networks.scale_head import ScaleHead
from hvae_jax.records import checked
from hvae_jax.runtime.prng import fused, split


@struct.dataclass
class LogisticMixtureRecord:
    """A mixture of M discretised logistics for each pixel of C channels.

    Attributes:
      logits: unnormalised log weights of the components, `[B, *pixels, M]`.
      location, log_scale: parameters of the logistics, `[B, *pixels, C, M]`, in units in which the values go from -1
        to 1.
      coefficients: shifts of the locations, for three channels red on green, red on blue and green on blue,
        `[B, *pixels, 3, M]`; empty for one channel, `[B, *pixels, 0, M]`.
      family: the `LogisticMixture` that made the record.
    """

    logits: Array
    location: Array
    log_scale: Array
    coefficients: Array
    family: "LogisticMixture" = struct.field(pytree_node=False)

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """sum over the pixels of log p(x), nats; -inf where a value is not one of 0..V-1."""
        x = self._flat(x)
        allowed = self.family.bins.contain(x).all(-1)
        return sum_event(jnp.where(allowed, jax.nn.logsumexp(self._of_components(x), axis=0), -jnp.inf))

    def log_prob_seen(self, x: Num[Array, "batch ..."], seen: Bool[Array, "batch ..."]) -> Float[Array, " batch"]:
        """log p(x_seen | z), nats, if within each pixel the seen channels come before the missing ones.

        The factors of the last channels sum to 1 given those before them, so that they are left out.
        """
        x, seen = self._flat(x), self._flat(seen)
        allowed = (self.family.bins.contain(x) | ~seen).all(-1)
        nats = jax.nn.logsumexp(self._of_components(x, seen), axis=0)
        # exactly 0, and not a rounded log of 1, for a pixel of which nothing is seen
        return sum_event(jnp.where(allowed, jnp.where(seen.any(-1), nats, 0.0), -jnp.inf))

    def fill(self, x: Num[Array, "batch ..."], seen: Bool[Array, "batch ..."], key: Key[Array, ""]) -> Array:
        """x with a draw of the missing channels given the seen ones: the component given those, then the others."""
        bins, shape = self.family.bins, x.shape
        log_p = jnp.moveaxis(self._of_components(self._flat(x), self._flat(seen)), 0, -1)  # [B, P, M]
        x, seen = (a.reshape(self.location.shape[:-1]) for a in (x, seen))  # [B, *pixels, C]
        key_component, key_values = split(key)
        gumbel = jax.random.gumbel(fused(key_component), self.logits.shape, self.logits.dtype)
        # ~ p(component | seen channels), [B, *pixels, 1, 1]
        component = (log_p.reshape(gumbel.shape) + gumbel).argmax(-1)[..., None, None]
        parts = (self.location, self.log_scale, self.coefficients)
        location, log_scale, coefficients = (jnp.take_along_axis(leaf, component, axis=-1) for leaf in parts)
        one = LogisticMixtureRecord(self.logits, location, log_scale, coefficients, self.family)
        noise = jax.random.logistic(fused(key_values), one.location.shape, one.location.dtype)
        values: list[Array] = []
        for c in range(self.family.channels):
            before = [bins.centre(value).astype(noise.dtype)[..., None] for value in values]
            u = one._locations(c, before) + finite_exp(one.log_scale[..., c, :]) * noise[..., c, :]
            values.append(jnp.where(seen[..., c], x[..., c], bins.nearest(u)[..., 0].astype(x.dtype)))
        return jnp.stack(values, axis=-1).reshape(shape)

    def _flat(self, x: Array) -> Array:
        """x as `[B, P, C]`, P the number of pixels."""
        return x.reshape(self.logits.shape[0], math.prod(self.logits.shape[1:-1]), self.family.channels)

    def _of_components(self, x: Array, seen: Array | None = None) -> Array:
        """log w_k + log p(seen channels | k) of each component, `[M, B, P]`, of x and seen `[B, P, C]`.

        The channels share the component, so that their log masses add up before the sum over components. Without a mask
        all are seen.
        """
        bins, log_p = self.family.bins, jax.nn.log_softmax(_parts_first(self.logits, 1), axis=0)
        leaves = (self.location, self.log_scale, self.coefficients)
        location, log_scale, coefficients = (_parts_first(leaf, 2) for leaf in leaves)  # [C or 3, M, B, P]
        u = bins.centre(x).astype(location.dtype)
        for c in range(self.family.channels):
            shifted = location[c]
            for before in range(c):
                shifted += coefficients[_pair(before, c)] * u[None, ..., before]
            mass = bins.log_mass(x[None, ..., c], shifted, log_scale[c])
            log_p += mass if seen is None else jnp.where(seen[None, ..., c], mass, 0.0)
        return log_p

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Int[Array, "batch ..."]:
        """Draws integers 0..V-1, int32: a component for each pixel, then its channels one after the other.

        The temperature scales the Gumbel noise of the choice and the logistic noise; 0 gives the likeliest component
        and the bins of its means.
        """
        bins = self.family.bins
        key_component, key_values = split(key)
        temperature = jnp.asarray(temperature, self.logits.dtype)
        gumbel = jax.random.gumbel(fused(key_component), self.logits.shape, self.logits.dtype)
        component = (self.logits + temperature * gumbel).argmax(-1)[..., None, None]  # [B, *pixels, 1, 1]

        def of_component(leaf: Array) -> Array:
            return jnp.take_along_axis(leaf, component, axis=-1)

        # Reduced to the chosen component, [B, *pixels, C or 3, 1], the record has the same `_locations`.
        location, log_scale, coefficients = map(of_component, (self.location, self.log_scale, self.coefficients))
        one = LogisticMixtureRecord(self.logits, location, log_scale, coefficients, self.family)
        noise = temperature * jax.random.logistic(fused(key_values), one.location.shape, one.location.dtype)
        values, seen = [], []
        for c in range(self.family.channels):
            u = one._locations(c, seen) + finite_exp(one.log_scale[..., c, :]) * noise[..., c, :]
            values.append(bins.nearest(u))
            seen.append(bins.centre(values[-1]).astype(u.dtype))
        return self._as_x(jnp.concatenate(values, axis=-1))

    @property
    def mean(self) -> Array:
        """E[x]; the second and third colour are shifted, within each component, by the mean of the colours before them.

        This is exact, up to the rounding into bins, if no logistic reaches beyond the ends of the range.
        """
        bins, weights = self.family.bins, jax.nn.softmax(self.logits)
        means, seen = [], []
        for c in range(self.family.channels):
            one = bins.expectation(self._locations(c, seen), self.log_scale[..., c, :])  # [B, *pixels, M]
            means.append((weights * one).sum(-1))
            seen.append(bins.centre(one))
        return self._as_x(jnp.stack(means, axis=-1))

    @property
    def mode(self) -> Array:
        """The most probable value of each channel given those chosen before it, int32: not the most probable x."""
        bins, log_p = self.family.bins, jax.nn.log_softmax(self.logits)
        values: list[Array] = []
        for c in range(self.family.channels):
            seen = [bins.centre(v).astype(log_p.dtype)[..., None] for v in values]
            logistics = self._locations(c, seen), self.log_scale[..., c, :]

            def better(value: Array, best: Any, logistics: tuple = logistics, log_p: Array = log_p) -> Any:
                log_mass = bins.log_mass(jnp.full_like(best[0], value)[..., None], *logistics)
                score = jax.nn.logsumexp(log_p + log_mass, axis=-1)
                return jnp.where(score > best[1], value, best[0]), jnp.maximum(score, best[1])

            # A loop over the values, because `[B, *pixels, M, V]` would not fit into memory.
            start = (jnp.zeros(log_p.shape[:-1], jnp.int32), jnp.full(log_p.shape[:-1], -jnp.inf, log_p.dtype))
            chosen = jax.lax.fori_loop(0, self.family.values, better, start)[0]
            log_p += bins.log_mass(chosen[..., None], *logistics)
            values.append(chosen)
        return self._as_x(jnp.stack(values, axis=-1))

    def _locations(self, channel: int, seen: list[Array]) -> Array:
        """Locations of the logistics of a channel, `[B, *pixels, M]`, given u of the channels before it."""
        location = self.location[..., channel, :]
        for before, u in enumerate(seen):
            location += self.coefficients[..., _pair(before, channel), :] * u
        return location

    def _as_x(self, x: Array) -> Array:
        """Reshapes `[B, *pixels, C]` to `[B, *event]`: independent channels are pixels of one channel each."""
        return x.reshape(*self.logits.shape[:-2], -1)


_TILE = 128
"""Numbers side by side that a TPU stores and computes together."""


def _pair(before: int, channel: int) -> int:
    """Row of the coefficients: red on green; red on blue, green on blue."""
    return channel * (channel - 1) // 2 + before


def _parts_first(leaf: Array, axes: int) -> Array:
    """The last axes of `[B, *pixels, *parts]` in front, `[*parts, B, P]`.

    What is computed at once are neighbouring pixels then, and not ten components.
    """
    parts, (batch, *pixels) = leaf.shape[-axes:], leaf.shape[:-axes]
    return jnp.moveaxis(leaf, range(-axes, 0), range(axes)).reshape(*parts, batch, math.prod(pixels))


def _parts_last(leaf: Array, pixels: Sequence[int]) -> Array:
    """The inverse of `_parts_first`: where both meet nothing is moved."""
    axes = leaf.ndim - 2
    leaf = leaf.reshape(*leaf.shape[:-1], *pixels)
    return jnp.moveaxis(leaf, range(axes), range(-axes, 0))


@dataclasses.dataclass(frozen=True)
@checked
class LogisticMixture(Likelihood):
    """Whole numbers 0..values-1 that lie in order, a mixture of discretised logistics for each pixel.

    Attributes:
      mixtures: M, number of components.
      values: V, number of values that an element can take; 2^b for an image of b bits.
      channels: number of channels that share a component: 3 for colours, each of which shifts those after it, or 1 for
        independent elements. With 3, x is `[B, ..., 3]`, and the `parameters` of a pixel are for its three colours
        together.
      min_log_scale: lower bound of the logarithm of the scales.
      form: "exact", the bins of `bins.py`; the others reproduce public codes (`published.PublishedBins`).
      head: map from an output a of the network to the scale of a logistic: "log_std", e^(beta a), where min_log_scale
        bounds a, or "softplus_std", log(1 + e^(beta a))/beta.

    The parameters of a pixel are M logits, then for each channel M means, M log-scales and, for colours, M coefficients
    before their tanh.
    Source: Salimans et al. (2017); "softplus_std" is Efficient-VDVAE's (Hazami et al., 2022), with beta = log 2.
    Raises ValueError for fewer than one component or two values, channels other than 1 and 3, another form or head, or
    a form of 5 bits without 32 values.

    Example:
        >>> hv.LogisticMixture(mixtures=10).parameters  # of a pixel of three colours: M + 3 * 3 M
        100
    """

    mixtures: int = 10
    values: int = 256
    channels: int = 3
    min_log_scale: float = -7.0
    form: published.MixtureForm = "exact"
    head: ScaleHead = ScaleHead("log_std")

    def __post_init__(self) -> None:
        if self.mixtures < 1 or self.values < 2:
            raise ValueError(
                f"LogisticMixture(mixtures={self.mixtures}, values={self.values}): at least 1 component and 2 values "
                "are needed."
            )
        if self.channels not in (1, 3):
            raise ValueError(f"LogisticMixture(channels={self.channels}): 1, or 3 for colours.")
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
        """3 M for one channel, 10 M for three."""
        return 10 * self.mixtures if self.channels == 3 else 3 * self.mixtures

    def __call__(self, h: Array) -> LogisticMixtureRecord:
        """`[B, *pixels, parameters]` to a record."""
        m, pixels, first = self.mixtures, h.shape[1:-1], _parts_first(h, 1)  # [parameters, B, P]
        if math.prod(pixels) >= _TILE:
            first = stored_in_order(first)
        by_channel = first[m:].reshape(self.channels, -1, *first.shape[1:])  # [C, 2 M or 3 M, B, P]
        log_scale = self._log_scale(by_channel[:, m : 2 * m])
        # three channels have three pairs, one channel has none: [C, M or 0, ...] to [3 or 0, M, ...]
        pairs = self.channels * (self.channels - 1) // 2
        coefficients = jnp.tanh(by_channel[:, 2 * m :]).reshape(pairs, m, *first.shape[1:])
        leaves = by_channel[:, :m], log_scale, coefficients
        location, log_scale, coefficients = (_parts_last(leaf, pixels) for leaf in leaves)
        if self.form == "srvae":
            location, log_scale = published.in_unit_interval(location, log_scale, coefficients)
        return LogisticMixtureRecord(_parts_last(first[:m], pixels), location, log_scale, coefficients, self)

    def _log_scale(self, a: Array) -> Array:
        """Logarithm of the scale of a logistic; with "log_std", min_log_scale bounds a itself."""
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

    def check_seen(self, seen: np.ndarray, name: str = "seen") -> None:
        """Raises ValueError if, within a pixel of three colours, one is seen behind one that is missing."""
        if self.channels > 1:
            remedy = "Mask whole pixels, or the last colours of a pixel."
            check_in_order(seen, f"LogisticMixture(channels={self.channels})", "the colours of a pixel", remedy, name)

    def as_input(self, x: Array) -> Array:
        """u, from -1 to 1, or to 0.945 in the forms of 5 bits."""
        return self.bins.centre(x)

    @property
    def bins(self) -> Bins | published.PublishedBins:
        """Bins of the form."""
        if self.form == "exact":
            return Bins(self.values)
        return published.PublishedBins(self.values, self.form, self.head.beta if self.head.form == "log_std" else 1.0)
