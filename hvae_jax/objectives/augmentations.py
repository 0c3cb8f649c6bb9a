"""Random changes of images that leave what they show: what `Consistency` compares an image with.

    Affine(rotation=15.0, shift=0.05, scale=(0.9, 1.1))    rotated, moved and scaled about the centre
    Flip(horizontal=True, vertical=False)                  mirrored, each way with probability 1/2
    Brightness(change=0.2, low=0.0, high=255.0)            multiplied by a factor, and cut to the range

Each is drawn for every image by itself, inside `jit`. x is `[B, H, W, C]` and keeps its shape and its dtype. Whole
numbers, those of an integer dtype, stay whole: an interpolated value is rounded to the nearest one, halves up. Binary
pixels therefore stay binary, cut at 1/2. They are not drawn with the interpolated value as probability: x~ is to be a
function of x and of the change alone, or the posteriors would be asked to ignore noise in single pixels too.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.objectives.per_level import check_numbers
from hvae_jax.records import checked

Edges = Literal["zero", "nearest"]

_TRIED = 64  # examples that a check changes
_TRIES = 4  # changes of each of them


class Augmentation(abc.ABC):
    """A random change t(x~ | x) of a batch of examples: a frozen, hashable setting of an objective.

    A base class and not a Protocol, because the command line checks the default of a setting against its annotation.
    """

    @abc.abstractmethod
    def __call__(self, x: Array, key: Array) -> Array:
        """Draws x~ for each x, in the same shape and dtype: `[B, *event]` to `[B, *event]`."""


@dataclasses.dataclass(frozen=True)
@checked
class Affine(Augmentation):
    """Rotation, shift and scaling about the centre, drawn uniformly and applied as one map, by one interpolation.

    A pixel p of x~ has the value of x at c + R^-1 (p - c - shift)/scale, c the centre, interpolated bilinearly from the
    four pixels around it.

    Attributes:
      rotation: largest angle in either direction; degrees.
      shift: largest shift along each axis, as a fraction of height and of width.
      scale: smallest and largest scale; above 1 enlarges.
      edges: what lies outside of x: "zero", or the value of the "nearest" pixel.

    The defaults are the "simple" set of the public code; its "large" one is Affine(30.0, 0.1, (0.75, 1.25)).
    Source: Sinha & Dieng (2021), and their code.
    Raises ValueError for an angle outside 0 to 180, a shift outside 0 to 1, scales that are not above 0 and in order,
    and for an x that is no batch of images.

    Example:
        >>> turn = hv.objectives.Affine(rotation=0.0, shift=0.0, scale=(1.0, 1.0))
        >>> print(turn(jnp.arange(4.0).reshape(1, 2, 2, 1), jax.random.key(0)).reshape(4).round(3))  # the identity
        [0. 1. 2. 3.]
    """

    rotation: float = 15.0
    shift: float = 0.05
    scale: tuple[float, float] = (0.9, 1.1)
    edges: Edges = "zero"

    def __post_init__(self) -> None:
        low, high = self.scale
        if not (0 <= self.rotation <= 180 and 0 <= self.shift <= 1):
            raise ValueError(
                f"Affine(rotation={self.rotation}, shift={self.shift}): degrees from 0 to 180, and a fraction of the "
                "side from 0 to 1."
            )
        if not 0 < low <= high < math.inf:
            raise ValueError(f"Affine(scale={self.scale}): a lower factor above 0, and then one that is not smaller.")

    def __call__(self, x: Num[Array, "batch *event"], key: Key[Array, ""]) -> Num[Array, "batch *event"]:
        """The moved images."""
        _check_images(self, x)
        count, (height, width) = x.shape[0], x.shape[1:3]
        angle_key, shift_key, scale_key = jax.random.split(key, 3)
        largest = math.radians(self.rotation)
        angle = jax.random.uniform(angle_key, (count,), minval=-largest, maxval=largest)
        shift = self.shift * jax.random.uniform(shift_key, (count, 2), minval=-1.0)
        scale = jax.random.uniform(scale_key, (count,), minval=self.scale[0], maxval=self.scale[1])
        return moved(x, angle, shift * jnp.array([[height, width]], shift.dtype), scale, self.edges)


@dataclasses.dataclass(frozen=True)
@checked
class Flip(Augmentation):
    """Mirror images, each way with probability 1/2.

    Attributes:
      horizontal: whether left and right are exchanged.
      vertical: whether top and bottom are exchanged.

    Raises ValueError for neither, and for an x that is no batch of images.

    Example:
        >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
        >>> flipped = hv.objectives.Flip()(x, jax.random.key(0))
        >>> bool((flipped == x).all() | (flipped == x[:, :, ::-1]).all())
        True
    """

    horizontal: bool = True
    vertical: bool = False

    def __post_init__(self) -> None:
        if not (self.horizontal or self.vertical):
            raise ValueError("Flip(horizontal=False, vertical=False) changes nothing: set one of them.")

    def __call__(self, x: Num[Array, "batch *event"], key: Key[Array, ""]) -> Num[Array, "batch *event"]:
        """The mirrored images, among others that are not."""
        _check_images(self, x)
        chosen = jax.random.bernoulli(key, shape=(2, x.shape[0], 1, 1, 1))
        x = jnp.where(chosen[0], x[:, :, ::-1], x) if self.horizontal else x
        return jnp.where(chosen[1], x[:, ::-1], x) if self.vertical else x


@dataclasses.dataclass(frozen=True)
@checked
class Brightness(Augmentation):
    """x~ = low + b (x - low), b uniform between 1 - change and 1 + change, one for each image; cut to [low, high].

    Attributes:
      change: largest change of the factor b, 0 to 1.
      low, high: range of the values of x: 0 and 16 for the digits. What is brighter than `high` becomes `high`.

    Raises ValueError for a change outside 0 to 1, or a range that is not in order and finite.

    Example:
        >>> brighter = hv.objectives.Brightness(change=0.2, high=16.0)(jnp.full((1, 2, 2, 1), 10.0), jax.random.key(0))
        >>> bool(jnp.all((8.0 <= brighter) & (brighter <= 12.0)))
        True
    """

    change: float = 0.2
    low: float = 0.0
    high: float = 255.0

    def __post_init__(self) -> None:
        check_numbers(self, "low", "high")
        if not 0 <= self.change <= 1:
            raise ValueError(f"Brightness(change={self.change}): the largest change of a factor, 0 to 1.")
        if not self.low < self.high:
            raise ValueError(f"Brightness(low={self.low}, high={self.high}): the smallest value, then the largest.")

    def __call__(self, x: Num[Array, "batch *event"], key: Key[Array, ""]) -> Num[Array, "batch *event"]:
        """The brighter and darker examples."""
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        factor = jax.random.uniform(key, shape, minval=1.0 - self.change, maxval=1.0 + self.change)
        brighter = self.low + factor * (_real(x) - self.low)
        return _as(jnp.clip(brighter, self.low, self.high), x)


def moved(
    x: Num[Array, "batch height width channels"],
    angle: Float[Array, " batch"],
    shift: Float[Array, "batch 2"],
    scale: Float[Array, " batch"],
    edges: Edges = "zero",
) -> Num[Array, "batch height width channels"]:
    """Images rotated, moved and scaled about their centres, by bilinear interpolation; whole numbers stay whole.

    Args:
      angle: radians, counter-clockwise.
      shift: pixels, down and to the right.
      scale: factors; above 1 enlarges.
      edges: what lies outside: "zero", or the value of the "nearest" pixel.
    """
    count, height, width, channels = x.shape
    values = _real(x).reshape(count, height * width, channels)
    # offsets from the centre, [1, H * W]: rows run down, so that a positive angle turns (down, right) to (right, up)
    down, right = (
        grid.reshape(1, -1) - 0.5 * (side - 1)
        for grid, side in zip(np.mgrid[:height, :width].astype(np.float32), (height, width), strict=True)
    )
    down, right = down - shift[:, :1], right - shift[:, 1:]  # [B, H * W]
    cosine, sine = jnp.cos(angle)[:, None] / scale[:, None], jnp.sin(angle)[:, None] / scale[:, None]
    row = cosine * down + sine * right + 0.5 * (height - 1)
    column = cosine * right - sine * down + 0.5 * (width - 1)
    above, left = jnp.floor(row), jnp.floor(column)
    total = jnp.zeros_like(values)
    for r, row_weight in ((above, above + 1.0 - row), (above + 1.0, row - above)):
        for c, column_weight in ((left, left + 1.0 - column), (left + 1.0, column - left)):
            near_r, near_c = jnp.clip(r, 0, height - 1), jnp.clip(c, 0, width - 1)
            weight = row_weight * column_weight
            if edges == "zero":
                weight = jnp.where((near_r == r) & (near_c == c), weight, 0.0)
            index = (near_r * width + near_c).astype(jnp.int32)
            found = jnp.take_along_axis(values, index[..., None], axis=1)  # [B, H * W, C]
            total = total + weight[..., None].astype(values.dtype) * found
    return _as(total.reshape(x.shape), x)


def augmented(augment: Sequence[Augmentation], x: Array, key: Array) -> Array:
    """x~: the changes one after the other, each with a key of its own; x itself for none.

    Raises ValueError, naming the change, if one changes the shape or the dtype.
    """
    for number, change in enumerate(augment):
        after = change(x, jax.random.fold_in(key, number))
        if after.shape != x.shape or after.dtype != x.dtype:
            raise ValueError(
                f"{change} turns x of shape {x.shape} and dtype {x.dtype} into {after.shape} and {after.dtype}: an "
                "augmentation keeps both."
            )
        x = after
    return x


def check_augmentations(
    augment: Sequence[Augmentation], x: np.ndarray, check: Callable[[np.ndarray], None] | None
) -> None:
    """Changes some of these examples a few times, and checks what comes out.

    Args:
      x: examples, `[N, *event]`; the first ones are changed.
      check: raises ValueError for values that are not allowed, as `Likelihood.check`; None allows all.
    Raises ValueError, naming the change, for one that changes shape or dtype, or leaves the range of values.
    """
    some = jnp.asarray(x[:_TRIED])
    for number, change in enumerate(augment):
        draw = jax.jit(lambda key, change=change: augmented((change,), some, key))
        for key in jax.random.split(jax.random.key(number), _TRIES):
            after = np.asarray(draw(key))
            try:
                if check is not None:
                    check(after)
            except ValueError as error:
                hint = "" if jnp.issubdtype(some.dtype, jnp.integer) else " Whole numbers need an integer dtype."
                raise ValueError(f"{change} leaves the values that the model allows: {error}{hint}") from error


def _check_images(owner: Augmentation, x: Array) -> None:
    """Raises ValueError for an x that is no batch of images."""
    if x.ndim != 4:
        raise ValueError(
            f"{type(owner).__name__} changes images, [B, H, W, C], but x has shape {x.shape}: give images, or another "
            "augmentation."
        )


def _real(x: Array) -> Array:
    """x in a floating dtype, its own if it has one."""
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)


def _as(values: Array, x: Array) -> Array:
    """Values in the dtype of x: rounded, halves up, where that is of whole numbers."""
    return values.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.floor(values + 0.5).astype(x.dtype)
