"""Gated residual blocks with an auxiliary input, runs of them with skips, and the layers to and from latents.

    y = conv2(drop(a(conv1(a(x)) + aux(a(s)))))          a the activation, s the auxiliary input, y twice as many maps
    block(x, s) = v sigmoid(w) + shortcut(x)             v and w the halves of y

Every convolution has weight norm; conv2 has the stride. The shortcut is x, its first maps where it has too many,
averaged where it has too many pixels; there is none where it has too few of either. What goes from block to block has
not been activated: each does that to its own inputs.

Source: Maaloe et al. (2019), and V. Lievin's code (vlievin/biva-pytorch) for what the paper leaves open.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.networks.computing import ComputeDtype, call
from hvae_jax.networks.weight_norm import WeightNormConv, WeightNormDense

Maps = Num[Array, "batch rows columns channels"]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A latent and the blocks between it and the one below, or x.

    Attributes:
      latents: size of the latent vector, or channels of its maps.
      blocks: (channels, size of the kernels, stride) of each block, in the order of the way up; the way down has them
        the other way round, and enlarges where this one halves.
      kernel: size of the convolutions to the latent's mean and log variance; None for a vector, by linear layers.

    Raises ValueError for no blocks, one that has not three numbers, or a size below 1.
    """

    latents: int
    blocks: tuple[tuple[int, int, int], ...]
    kernel: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(tuple(block) for block in self.blocks))
        sizes = [self.latents, *(size for block in self.blocks for size in block)]
        sizes += [] if self.kernel is None else [self.kernel]
        if not self.blocks or any(len(block) != 3 for block in self.blocks) or min(sizes) < 1:
            raise ValueError(
                f"{self}: one block or more, each of (channels, size of the kernels, stride), every number 1 or more."
            )

    @property
    def channels(self) -> int:
        """Of the maps that the latent is inferred from."""
        return self.blocks[-1][0]


@dataclasses.dataclass(frozen=True)
class GatedStyle:
    """What blocks and layers have in common.

    Attributes:
      activation: at the input of each layer.
      dropout: share of the elements that are set to zero before each conv2 in training; the others are scaled up.
      data_dependent: whether the batch that the model is initialised with decides how its layers begin, with outputs of
        the standard deviation `scale`.
      dtype: what products and activations are computed in; None for what the parameters are.
    """

    activation: Callable[[Array], Array] = jax.nn.elu
    dropout: float = 0.0
    data_dependent: bool = True
    scale: float = 0.01
    dtype: ComputeDtype = None

    def conv(self, features: int, size: int, stride: int = 1, *, transposed: bool = False, name: str) -> WeightNormConv:
        """A convolution in this style."""
        return WeightNormConv(
            features, size, stride, transposed, self.scale, self.data_dependent, self.dtype, name=name
        )

    def dense(self, features: int, name: str) -> WeightNormDense:
        """A linear layer in this style."""
        return WeightNormDense(features, self.scale, self.data_dependent, self.dtype, name=name)


def check_dropout(owner: str, *shares: float) -> None:
    """Raises ValueError for a share outside [0, 1). `owner` is named in the error."""
    if not all(0.0 <= share < 1.0 for share in shares):
        raise ValueError(f"{owner}: dropout of {', '.join(map(str, shares))}; a share is from 0 to below 1.")


def sides(image: tuple[int, ...], pad: int, stages: tuple[Stage, ...]) -> tuple[tuple[int, int], ...]:
    """Height and width of the maps that each stage's latent is inferred from, top first as the stages are."""
    rows, columns = (side + 2 * pad for side in image[:2])
    found: list[tuple[int, int]] = []
    for stage in reversed(stages):
        for _, _, stride in stage.blocks:
            rows, columns = rows // stride, columns // stride
        found.append((rows, columns))
    return tuple(reversed(found))


def check_stages(owner: str, image: tuple[int, ...], pad: int, stages: tuple[Stage, ...]) -> None:
    """Raises ValueError for no stages, or an image that the strides do not divide. `owner` is named in the error."""
    if len(image) != 3 or min(image) < 1 or pad < 0:
        raise ValueError(
            f"{owner}(image={image}, pad={pad}): height, width and channels of one x, and 0 zeros or more."
        )
    if not stages:
        raise ValueError(f"{owner}(stages=()): at least one stage is needed, such as {Stage(8, ((64, 3, 2),))}.")
    rows, columns = (side + 2 * pad for side in image[:2])
    for stage in reversed(stages):
        if not isinstance(stage, Stage):
            raise ValueError(f"{owner}(stages=...) has {stage!r}: a {Stage(8, ((64, 3, 2),))}, for one.")
        for _, _, stride in stage.blocks:
            if rows % stride or columns % stride:
                raise ValueError(
                    f"{owner}(image={image}, pad={pad}): a block of stride {stride} meets maps of {rows}x{columns}, "
                    f"which it does not divide, in {stage}. Pad or resize x, or change the strides."
                )
            rows, columns = rows // stride, columns // stride


def drop(h: Float[Array, "..."], key: Key[Array, ""], share: float) -> Float[Array, "..."]:
    """h with that share of its elements set to zero and the others divided by 1 - share."""
    kept = jax.random.bernoulli(key, 1.0 - share, h.shape)
    return h * (kept / (1.0 - share)).astype(h.dtype)


def shortcut(x: Maps, rows: int, channels: int) -> Num[Array, "batch rows2 columns2 channels2"] | None:
    """x as maps of that height and number, or None where it has fewer.

    Of more maps the first are taken. More pixels are averaged, 3x3 of them at a time with zeros around x that count.
    """
    if x.shape[-1] < channels or x.shape[1] < rows:
        return None
    x = x[..., :channels]
    stride = x.shape[1] // rows
    return x if stride == 1 else nn.avg_pool(x, (3, 3), (stride, stride), "SAME")


class GatedBlock(nn.Module):
    """block(x, s) as above: `[B, H, W, C]` to `[B, H/stride, W/stride, features]`, or times stride.

    Attributes:
      features: maps of the output.
      size: of the kernels.
      stride: of conv2.
      transposed: whether the stride enlarges the maps instead.
      residual: whether there is a shortcut; without it x is not activated either.
      style: the settings.
    """

    features: int
    size: int = 3
    stride: int = 1
    transposed: bool = False
    residual: bool = True
    style: GatedStyle = GatedStyle()

    @nn.compact
    def __call__(
        self, x: Maps, aux: Num[Array, "batch rows3 columns3 inputs"] | None, key: Key[Array, ""], *, train: bool
    ) -> Float[Array, "batch rows2 columns2 {self.features}"]:
        """`aux`: s, of x's height and width or of both times or divided by some whole number."""
        style, conv, act = self.style, self.style.conv, self.style.activation
        h = conv(self.features, self.size, name="conv1")(act(x) if self.residual else x)
        if aux is not None:
            h = h + self._aux(aux.shape[1], x.shape[1])(act(aux))
        h = act(h)
        if train and style.dropout:
            h = drop(h, key, style.dropout)
        transposed = self.transposed and self.stride > 1
        h = conv(2 * self.features, self.size, self.stride, transposed=transposed, name="conv2")(h)
        value, opening = jnp.split(h, 2, axis=-1)
        h = value * jax.nn.sigmoid(opening)
        around = shortcut(x, h.shape[1], self.features) if self.residual else None
        return h if around is None else h + around

    def _aux(self, theirs: int, ours: int) -> WeightNormConv:
        """The convolution of an auxiliary input of height `theirs` to x's height."""
        if theirs == ours:
            return self.style.conv(self.features, 1, name="aux")
        ratio, transposed = max(theirs, ours) // min(theirs, ours), theirs < ours
        return self.style.conv(self.features, self.size, ratio, transposed=transposed, name="aux")


class GatedRun(nn.Module):
    """Blocks one after the other, and the skips from one run to the next.

    Skips are a queue: each block takes the first of it as its auxiliary input, and its own output joins the end.

    Attributes:
      blocks: (channels, size, stride) of each, in the order in which they are gone through.
      transposed: whether strides enlarge the maps.
      residual: whether the first block has a shortcut, as the others have.
      style: the settings.
      remat: whether each block is recomputed in the backward pass instead of remembered.
    """

    blocks: tuple[tuple[int, int, int], ...]
    transposed: bool = False
    residual: bool = True
    style: GatedStyle = GatedStyle()
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Maps, skips: tuple[Array, ...] | None, key: Key[Array, ""], *, train: bool
    ) -> tuple[Array, tuple[Array, ...]]:
        """The last output and the queue. `skips` of None: no block takes any."""
        queue = list(skips or ())
        for i, block in enumerate(self.blocks):
            aux = None if skips is None else queue.pop(0)
            residual = self.residual or i > 0
            net = GatedBlock(*block, self.transposed, residual, self.style, name=f"block_{i}")
            x = call(net, x, aux, jax.random.fold_in(key, i), train=train, remat=self.remat)
            queue.append(x)
        return x, tuple(queue)


class ToMap(nn.Module):
    """A latent as maps: a linear layer from a vector, and what are maps already as they are.

    Attributes:
      shape: `(H, W, C)`.
      style: the settings.
    """

    shape: tuple[int, int, int]
    style: GatedStyle = GatedStyle()

    @nn.compact
    def __call__(self, z: Float[Array, "batch ..."]) -> Float[Array, "batch rows columns channels"]:
        if z.ndim == 4:
            return z
        rows, columns, channels = self.shape
        return self.style.dense(rows * columns * channels, "linear")(z).reshape(-1, *self.shape)


class Head(nn.Module):
    """From maps to the numbers of a latent, `[B, features]` or `[B, H, W, features]`, through the activation.

    Attributes:
      features: how many numbers for a vector, or for each pixel.
      kernel: size of the convolution; None for a vector.
      style: the settings.
    """

    features: int
    kernel: int | None = None
    style: GatedStyle = GatedStyle()

    @nn.compact
    def __call__(self, h: Float[Array, "batch rows columns channels"]) -> Float[Array, "batch *place {self.features}"]:
        h = self.style.activation(h)
        if self.kernel is not None:
            return self.style.conv(self.features, self.kernel, name="conv")(h)
        return self.style.dense(self.features, "linear")(h.reshape(h.shape[0], -1))


def mnist_stages() -> tuple[Stage, ...]:
    """The published six for 28x28 images: vectors of 8 to 48, three blocks of 64 maps each."""
    return (
        Stage(8, ((64, 3, 1), (64, 3, 1), (64, 3, 2))),
        *(Stage(size, ((64, 3, 1),) * 3) for size in (16, 24, 32, 40)),
        Stage(48, ((64, 5, 1), (64, 5, 1), (64, 5, 2))),
    )


def cifar10_stages() -> tuple[Stage, ...]:
    """The published fifteen for 32x32 images: maps of 10 to 38 channels at 4x4, 8x8 and 16x16, as large as the kernels.

    Three blocks of 96 maps each.
    """
    even, halving = ((96, 3, 1),) * 3, ((96, 3, 1), (96, 3, 1), (96, 3, 2))
    return (
        Stage(10, halving, 4),
        *(Stage(size, even, 8) for size in (12, 14, 16)),
        Stage(18, halving, 8),
        *(Stage(size, even, 16) for size in range(20, 38, 2)),
        Stage(38, ((96, 5, 1), (96, 5, 1), (96, 5, 2)), 16),
    )
