"""Deterministic, discrete functions y = d(x) of an image: the observed levels of a self-supervised VAE.

    AveragePool(factor)      means over squares of pixels, rounded        (H, W, C) to (H/factor, W/factor, C)
    BilinearHalf()           Pillow's bilinear resize to half, 8 bits     (H, W, C) to (H/2, W/2, C)
    LeadingBits(bits, of)    floor(x / 2^(of - bits))                     (H, W, C)
    Grey()                   luma of three colours, rounded               (H, W, 3) to (H, W, 1)
    Sobel(levels, of)        strength of edges, cut into a few values     (H, W, C) to (H, W, 1)

All arithmetic is in whole numbers, which is exact and runs inside `jit`. y has to take countably many values: p(x) =
sum over y of p(x, y) is at least p(x, y = d(x)), but a density of a continuous y has no such bound.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from hvae_jax.likelihoods import Bernoulli, Categorical, DiscretisedLogistic, Likelihood, LogisticMixture
from hvae_jax.records import check_sizes, checked

Event = tuple[int, int, int]  # (H, W, C) of an image

_FEW = 16
"""Largest number of values for which y is categorical where x is made of logistics."""


class Reduction(abc.ABC):
    """A function d of images of whole numbers 0..V-1: a frozen, hashable setting of a model.

    A base class and not a Protocol, because the command line checks the default of a setting against its annotation.
    """

    @abc.abstractmethod
    def __call__(self, x: Array) -> Array:
        """Return d(x), whole numbers of an integer dtype: `[B, H, W, C]` to `[B, *shape((H, W, C))]`."""

    @abc.abstractmethod
    def shape(self, event: Event) -> Event:
        """Return the shape of d(x), for one x of shape `event`. Raises ValueError for a shape that d does not take."""

    def values(self, values: int) -> int:
        """Return the number of values of an element of d(x), if those of x have `values`; the same by default."""
        return values


@dataclasses.dataclass(frozen=True)
@checked
class AveragePool(Reduction):
    """Means over squares of factor x factor pixels, rounded to the nearest whole number, halves up.

    Attributes:
      factor: side of the squares; it has to divide height and width.

    Raises ValueError for a factor below 1.

    Example:
        >>> y = hv.models.AveragePool(2)(jnp.arange(4).reshape(1, 2, 2, 1))
        >>> y.shape, int(y.squeeze())  # 1.5, rounded up
        ((1, 1, 1, 1), 2)
    """

    factor: int = 2

    def __post_init__(self) -> None:
        check_sizes(self, "factor")

    def __call__(self, x: Array) -> Array:
        """floor(sum / n + 1/2) with n = factor^2."""
        b, rows, columns, channels = x.shape
        n, f = self.factor**2, self.factor
        squares = _whole(x).reshape(b, rows // f, f, columns // f, f, channels)
        return (2 * squares.sum((2, 4)) + n) // (2 * n)

    def shape(self, event: Event) -> Event:
        """(H/factor, W/factor, C)."""
        rows, columns, channels = event
        if rows % self.factor or columns % self.factor:
            fitting = [f for f in range(2, min(rows, columns) + 1) if rows % f == columns % f == 0]
            raise ValueError(
                f"AveragePool(factor={self.factor}): it does not divide {rows}x{columns}. "
                f"{f'These do: {fitting}.' if fitting else 'Pad or crop the images.'}"
            )
        return rows // self.factor, columns // self.factor, channels


@dataclasses.dataclass(frozen=True)
@checked
class BilinearHalf(Reduction):
    """Half the height and width by Pillow's bilinear resize of 8-bit images: the y of srVAE's code.

    Weights (1, 3, 3, 1)/8 along columns, then along rows, each rounded to the nearest whole number, halves up. Beyond
    the edges there is nothing: the first and the last of these have (3, 3, 1)/7 and (1, 3, 3)/7.

    Example:
        >>> hv.models.BilinearHalf().shape((28, 28, 1))
        (14, 14, 1)
    """

    def __call__(self, x: Array) -> Array:
        """Columns first, as Pillow."""
        return self._half(self._half(_whole(x), 2), 1)

    def shape(self, event: Event) -> Event:
        """(H/2, W/2, C)."""
        rows, columns, channels = event
        if rows % 2 or columns % 2:
            raise ValueError(f"BilinearHalf() needs an even height and width, but the images are {rows}x{columns}.")
        return rows // 2, columns // 2, channels

    def _half(self, x: Array, axis: int) -> Array:
        """One axis at half its length."""
        x = jnp.moveaxis(x, axis, -1)
        near = x[..., 0::2] + x[..., 1::2]
        nothing = jnp.zeros_like(x[..., :1])
        before = jnp.concatenate([nothing, x[..., 1:-1:2]], axis=-1)
        after = jnp.concatenate([x[..., 2::2], nothing], axis=-1)
        count = near.shape[-1]
        # weights in eighths; of a neighbour that is missing there is one eighth less to divide by
        at = jnp.arange(count).reshape((1,) * (x.ndim - 1) + (count,))
        divisor = 8 - (at == 0).astype(jnp.int32) - (at == count - 1).astype(jnp.int32)
        half = (2 * (3 * near + before + after) + divisor) // (2 * divisor)
        return jnp.moveaxis(half, -1, axis)


@dataclasses.dataclass(frozen=True)
@checked
class LeadingBits(Reduction):
    """The leading bits of each value.

    Attributes:
      bits: number of bits kept.
      of: number of bits of a value of x; 8 for 0..255, 5 for the digits' 0..16.

    Raises ValueError unless 1 <= bits < of.

    Example:
        >>> hv.models.LeadingBits(bits=3, of=8)(jnp.array([[[[255]]]])).item()
        7
    """

    bits: int = 3
    of: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.bits < self.of <= 16:
            raise ValueError(f"LeadingBits(bits={self.bits}, of={self.of}): 1 or more bits, of more, of at most 16.")

    def __call__(self, x: Array) -> Array:
        """floor(x / 2^(of - bits))."""
        return _whole(x) // 2 ** (self.of - self.bits)

    def shape(self, event: Event) -> Event:
        """The same."""
        return event

    def values(self, values: int) -> int:
        """2^bits, or fewer if x does not use all of its bits."""
        if values > 2**self.of:
            raise ValueError(f"LeadingBits(of={self.of}): x has {values} values, which are more bits. Raise `of`.")
        return (values - 1) // 2 ** (self.of - self.bits) + 1


@dataclasses.dataclass(frozen=True)
@checked
class Grey(Reduction):
    """Luma of three colours, 0.299 R + 0.587 G + 0.114 B, rounded to the nearest whole number, halves up.

    Source: ITU-R BT.601.

    Example:
        >>> hv.models.Grey()(jnp.array([255, 0, 0]).reshape(1, 1, 1, 3)).item()  # 0.299 * 255 = 76.2
        76
    """

    def __call__(self, x: Array) -> Array:
        """The weighted sum, in thousandths."""
        x = _whole(x)
        luma = 299 * x[..., :1] + 587 * x[..., 1:2] + 114 * x[..., 2:]
        return (luma + 500) // 1000

    def shape(self, event: Event) -> Event:
        """(H, W, 1)."""
        if event[2] != 3:
            raise ValueError(f"Grey() takes images of three colours, but these have {event[2]} channels.")
        return event[0], event[1], 1


@dataclasses.dataclass(frozen=True)
@checked
class Sobel(Reduction):
    """A sketch: the strength |g_x| + |g_y| of edges in Sobel's filters, cut into a few values.

    The last value is that of a full step edge, 4 (V - 1), and of what is stronger. Channels are averaged (rounded down)
    before, and pixels at the border are repeated.

    Attributes:
      levels: number of values; 2 draws edges black and white.
      of: number of values V of an element of x.

    Raises ValueError for fewer than 2 values, more than 256 of the sketch, or more than 65,536 of x.

    Example:
        >>> sketch = hv.models.Sobel(levels=4, of=256)
        >>> sketch.shape((32, 32, 3)), sketch.values(256)
        ((32, 32, 1), 4)
    """

    levels: int = 4
    of: int = 256

    def __post_init__(self) -> None:
        if not (2 <= self.levels <= 256 and 2 <= self.of <= 65_536):
            raise ValueError(
                f"Sobel(levels={self.levels}, of={self.of}): from 2 to 256 values of the sketch, of from 2 to 65,536."
            )

    def __call__(self, x: Array) -> Array:
        """min(levels - 1, floor(levels strength / (4 (V - 1))))."""
        grey = _whole(x).sum(-1) // x.shape[-1]
        wide = jnp.pad(grey, ((0, 0), (1, 1), (1, 1)), mode="edge")
        rows = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]  # smoothed along columns, [B, H, W + 2]
        columns = wide[..., :-2] + 2 * wide[..., 1:-1] + wide[..., 2:]  # [B, H + 2, W]
        strength = jnp.abs(rows[..., 2:] - rows[..., :-2]) + jnp.abs(columns[:, 2:] - columns[:, :-2])
        full = 4 * (self.of - 1)
        # an edge beyond a full step would overflow for many values, and is the last value in any case
        sketch = jnp.minimum(strength, full) * self.levels // full
        return jnp.minimum(sketch, self.levels - 1)[..., None]

    def shape(self, event: Event) -> Event:
        """(H, W, 1)."""
        return event[0], event[1], 1

    def values(self, values: int) -> int:
        """The number of values of the sketch."""
        if values != self.of:
            raise ValueError(f"Sobel(of={self.of}): x has {values} values. Set of={values}.")
        return self.levels


def _whole(x: Array) -> Array:
    """x in int32: sums of uint8 would wrap around."""
    return x.astype(jnp.int32) if jnp.issubdtype(x.dtype, jnp.integer) else jnp.round(x).astype(jnp.int32)


def check_discrete(d: Reduction, event: Event) -> None:
    """Check, from shapes and dtypes alone, that d takes one x of shape `event` to whole numbers.

    Raises ValueError for a d whose values are not of an integer dtype, or that returns another shape than it says.
    """
    shape = d.shape(event)
    y = jax.eval_shape(d, jax.ShapeDtypeStruct((2, *event), jnp.int32))
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(
            f"{d} returns {y.dtype}, but y = d(x) has to be discrete: a density of a continuous y grows without limit, "
            "and the bound fails. Round it to whole numbers of an integer dtype, as AveragePool does."
        )
    if y.shape != (2, *shape):
        raise ValueError(f"{d} returns {y.shape[1:]} for {event}, but its shape() says {shape}.")


def number_of_values(likelihood: Likelihood) -> int:
    """Number of values of an element of x. Raises ValueError for a likelihood of numbers that are not whole."""
    bounds = likelihood.value_range
    if bounds is None or not likelihood.discrete:
        raise ValueError(
            f"{likelihood} is not of whole numbers in a range, which d(x) needs. Use Bernoulli, Categorical, "
            "DiscretisedLogistic or LogisticMixture."
        )
    return int(bounds[1]) + 1


def likelihood_of_y(likelihood: Likelihood, values: int, channels: int) -> Likelihood:
    """Return the family of p(y | .) for an x of this family: the same, with the values and channels of y.

    Two values are Bernoulli; up to 16 that were logistics are categorical.
    Raises ValueError for other families.
    """
    if values == 2:
        return Bernoulli()
    if isinstance(likelihood, Bernoulli | Categorical):
        return Categorical(values)
    if isinstance(likelihood, DiscretisedLogistic | LogisticMixture) and values <= _FEW:
        return Categorical(values)
    if isinstance(likelihood, DiscretisedLogistic):
        return dataclasses.replace(likelihood, values=values)
    if isinstance(likelihood, LogisticMixture):
        colours = 3 if likelihood.channels == 3 and channels == 3 else 1
        return dataclasses.replace(likelihood, values=values, channels=colours)
    raise ValueError(f"The family of p(y | .) does not follow from {likelihood}: give it by y_likelihoods.")
