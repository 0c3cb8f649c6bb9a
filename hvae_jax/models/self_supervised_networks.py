"""The networks of a self-supervised VAE: dense ones for small images, or the paper's densely connected convolutions.

A family of networks is a setting of the model: a frozen record that makes the five networks

    q(u | y_K)    p(y_K | u)    q(z_k | y_{k-1}, y_k)    p(z_k | y_k, above)    p(y_{k-1} | y_k, z_k)        y_0 = x

as Flax modules, called as `net(*inputs, train=train)`. Those of latents return means and then log variances on the last
axis, the others the parameters of a likelihood, `[B, H, W, outputs]`.
"""

import abc
import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.networks.activations import sigmoid_gelu
from hvae_jax.networks.computing import ComputeDtype, widen
from hvae_jax.networks.densely_connected import DenselyDecoder, DenselyEncoder, DenselyNetwork
from hvae_jax.networks.mlp import MLP
from hvae_jax.networks.resample import double_bilinear, enlarge
from hvae_jax.records import check_sizes, checked

Event = tuple[int, int, int]  # (H, W, C) of an image


class SelfSupervisedNetworks(abc.ABC):
    """A family of networks: a frozen, hashable setting of the model.

    A base class and not a Protocol, because the command line checks the default of a setting against its annotation.
    """

    @abc.abstractmethod
    def check(self, events: tuple[Event, ...]) -> None:
        """Raise ValueError for shapes of x, y_1, ..., y_K that the networks cannot take."""

    @abc.abstractmethod
    def latent(self, event: Event, size: int) -> tuple[int, ...]:
        """Shape of the latent that belongs to a y of shape `event`: u to y_K, z_k to y_k."""

    @abc.abstractmethod
    def q_u(self, size: int, *, name: str) -> nn.Module:
        """The network of q(u | y_K), of y_K."""

    @abc.abstractmethod
    def p_y(self, outputs: int, event: Event, *, name: str) -> nn.Module:
        """The network of p(y_K | u), of u; `event` is the shape of y_K."""

    @abc.abstractmethod
    def q_z(self, size: int, events: tuple[Event, Event], *, name: str) -> nn.Module:
        """The network of q(z_k | y_{k-1}, y_k), of both, or of y_{k-1} and None; `events` are their shapes."""

    @abc.abstractmethod
    def p_z(self, size: int, *, name: str) -> nn.Module:
        """The network of p(z_k | y_k, above), of y_k and the latent above, u or z_{k+1}."""

    @abc.abstractmethod
    def p_x(self, outputs: int, events: tuple[Event, Event], *, name: str) -> nn.Module:
        """The network of p(y_{k-1} | y_k, z_k), of y_k and z_k; `events` are the shapes of y_{k-1} and y_k."""


class FlatNetwork(nn.Module):
    """An MLP of its inputs, flattened and joined; inputs of None are left out.

    Attributes:
      hidden, activation, normalise, dtype: as in `MLP`.
      shape: shape of one output.
    """

    hidden: tuple[int, ...]
    shape: tuple[int, ...]
    activation: Callable[[Array], Array] = sigmoid_gelu
    normalise: bool = True
    dtype: ComputeDtype = None

    @nn.compact
    def __call__(self, *inputs: Array | None, train: bool = False) -> Array:
        flat = jnp.concatenate([widen(v).reshape(len(v), -1) for v in inputs if v is not None], axis=-1)
        features = math.prod(self.shape)
        net = MLP(self.hidden, features, self.activation, normalise=self.normalise, dtype=self.dtype, name="mlp")
        return net(flat, train=train).reshape(len(flat), *self.shape)


@dataclasses.dataclass(frozen=True)
@checked
class DenseNetworks(SelfSupervisedNetworks):
    """MLPs; latents are vectors. The layers are those of the article's `TopDownVAE`.

    Attributes:
      hidden: width of every network.
      depth: number of hidden layers of the networks of latents; those of images have one more.
      activation: nonlinearity after every hidden layer.
      normalise: whether a batch norm follows every activation.
      dtype: precision of products and activations; None is that of the parameters.

    Raises ValueError for a size below 1.

    Example:
        >>> hv.models.SelfSupervisedVAE(networks=hv.models.DenseNetworks(hidden=32)).networks.depth
        1
    """

    hidden: int = 256
    depth: int = 1
    activation: Callable[[Array], Array] = sigmoid_gelu
    normalise: bool = True
    dtype: ComputeDtype = None

    def __post_init__(self) -> None:
        check_sizes(self, "hidden", "depth")

    def check(self, events: tuple[Event, ...]) -> None:
        """Accept all shapes."""

    def latent(self, event: Event, size: int) -> tuple[int, ...]:
        """A vector."""
        return (size,)

    def q_u(self, size: int, *, name: str) -> nn.Module:
        """An MLP."""
        return self._net((2 * size,), 0, name)

    def p_y(self, outputs: int, event: Event, *, name: str) -> nn.Module:
        """An MLP with a layer more."""
        return self._net((*event[:2], outputs), 1, name)

    def q_z(self, size: int, events: tuple[Event, Event], *, name: str) -> nn.Module:
        """An MLP."""
        return self._net((2 * size,), 0, name)

    def p_z(self, size: int, *, name: str) -> nn.Module:
        """An MLP."""
        return self._net((2 * size,), 0, name)

    def p_x(self, outputs: int, events: tuple[Event, Event], *, name: str) -> nn.Module:
        """An MLP with a layer more."""
        return self._net((*events[0][:2], outputs), 1, name)

    def _net(self, shape: tuple[int, ...], more: int, name: str) -> nn.Module:
        widths = (self.hidden,) * (self.depth + more)
        return FlatNetwork(widths, shape, self.activation, self.normalise, self.dtype, name=name)


class PosteriorOfZ(nn.Module):
    """An encoder of y_{k-1} with y_k, enlarged, as further channels.

    Attributes:
      encoder: settings of the `DenselyEncoder`.
      doublings: number of times y_k is doubled to the size of y_{k-1}.
    """

    encoder: DenselyEncoder
    doublings: int

    @nn.compact
    def __call__(self, below: Array, y: Array | None, *, train: bool = False) -> Array:
        seen = below if y is None else jnp.concatenate([below, _bilinear(y, self.doublings)], axis=-1)
        return self.encoder(seen, train=train)


class PriorOfZ(nn.Module):
    """An encoder of y_k and a network of the latent above; a network of both.

    Attributes:
      of_y, of_above, joint: settings of the three.
    """

    of_y: DenselyEncoder
    of_above: DenselyNetwork
    joint: DenselyNetwork

    @nn.compact
    def __call__(self, y: Array, above: Array, *, train: bool = False) -> Array:
        seen = jax.nn.elu(self.of_y(y, train=train))  # [B, h, w, size]
        # the latent above is smaller where a d below it lowers the resolution
        above = enlarge(above, seen.shape[1] // above.shape[1])
        latent = self.of_above(above, train=train)  # [B, h, w, size]
        both = jnp.concatenate([seen, latent], axis=-1)
        return self.joint(both, train=train)


class LikelihoodOfX(nn.Module):
    """A decoder of z_k; a network of its output and y_k, enlarged.

    Attributes:
      of_z, joint: settings of the two.
      doublings: number of times y_k is doubled to the size of y_{k-1}.
    """

    of_z: DenselyDecoder
    joint: DenselyNetwork
    doublings: int

    @nn.compact
    def __call__(self, y: Array, z: Array, *, train: bool = False) -> Array:
        maps = self.of_z(z, train=train)
        both = jnp.concatenate([_bilinear(y, self.doublings), maps], axis=-1)
        return self.joint(both, train=train)


@dataclasses.dataclass(frozen=True)
@checked
class DenselyConnectedNetworks(SelfSupervisedNetworks):
    """The paper's densely connected convolutions; latents are maps of half the height and width of their y.

    A network is (g, s): each layer has s blocks, and each block adds g maps at the resolution of the network's input.
    The defaults are the published numbers.

    Attributes:
      q_u_size: encoder of y_K.
      p_y_size: decoder of u.
      q_z_size: encoder of y_{k-1}.
      p_z_y, p_z_above, p_z_joint: in p(z_k | y_k, above), the encoder of y_k, and the networks of the latent above and
        of both.
      p_x_z, p_x_joint: in p(y_{k-1} | y_k, z_k), the decoder of z_k and the network of its output and y_k.
      blocks: number of layers in a network that keeps the resolution.
      dtype: precision of products and activations; None is that of the parameters.

    Source: ioangatop/srVAE, `densenet16x32.py`.
    Raises ValueError for a size below 1.

    Example:
        >>> hv.models.DenselyConnectedNetworks.small(growth=4, steps=1).p_x_z
        (4, 1)
    """

    q_u_size: tuple[int, int] = (64, 3)
    p_y_size: tuple[int, int] = (128, 4)
    q_z_size: tuple[int, int] = (16, 4)
    p_z_y: tuple[int, int] = (32, 5)
    p_z_above: tuple[int, int] = (64, 3)
    p_z_joint: tuple[int, int] = (64, 3)
    p_x_z: tuple[int, int] = (64, 8)
    p_x_joint: tuple[int, int] = (64, 5)
    blocks: int = 3
    dtype: ComputeDtype = None

    def __post_init__(self) -> None:
        check_sizes(self, *(field.name for field in dataclasses.fields(self) if field.name != "dtype"))

    @classmethod
    def small(cls, growth: int, steps: int, blocks: int = 3) -> "DenselyConnectedNetworks":
        """The same growth and number of steps in all networks."""
        sizes = [field.name for field in dataclasses.fields(cls) if field.name not in ("blocks", "dtype")]
        same: dict[str, Any] = dict.fromkeys(sizes, (growth, steps))
        return cls(**same, blocks=blocks)

    def check(self, events: tuple[Event, ...]) -> None:
        """Raise ValueError unless a power of 2 lies between neighbours, and the smallest y can be halved."""
        for above, below in itertools.pairwise(events):
            rows, columns = (a // b for a, b in zip(above[:2], below[:2], strict=True))
            if rows != columns or rows & (rows - 1) or (rows * below[0], rows * below[1]) != above[:2]:
                raise ValueError(
                    f"A y of {below[0]}x{below[1]} from {above[0]}x{above[1]}: the convolutions double the resolution, "
                    "so that y has to be smaller by a power of 2, 1 included. Use such factors, or DenseNetworks()."
                )
        for rows, columns, _ in events[1:]:
            if rows % 2 or columns % 2:
                raise ValueError(
                    f"A y of {rows}x{columns}: the latents of the convolutions have half its height and width, which "
                    "have to be even. Use a smaller factor, pad x, or use DenseNetworks()."
                )

    def latent(self, event: Event, size: int) -> tuple[int, ...]:
        """Maps of half the height and width."""
        return (event[0] // 2, event[1] // 2, size)

    def q_u(self, size: int, *, name: str) -> nn.Module:
        """An encoder that halves the resolution."""
        return DenselyEncoder(2 * size, *self.q_u_size, 1, self.dtype, name=name)

    def p_y(self, outputs: int, event: Event, *, name: str) -> nn.Module:
        """A decoder that doubles the resolution."""
        return DenselyDecoder(outputs, *self.p_y_size, 1, self.dtype, name=name)

    def q_z(self, size: int, events: tuple[Event, Event], *, name: str) -> nn.Module:
        """An encoder from the resolution of y_{k-1} to half that of y_k."""
        doublings = _doublings(events)
        encoder = DenselyEncoder(2 * size, *self.q_z_size, doublings + 1, self.dtype, parent=None)
        return PosteriorOfZ(encoder, doublings, name=name)

    def p_z(self, size: int, *, name: str) -> nn.Module:
        """An encoder of y_k, beside a network of the latent above."""
        return PriorOfZ(
            DenselyEncoder(size, *self.p_z_y, 1, self.dtype, parent=None),
            DenselyNetwork(size, *self.p_z_above, self.blocks, self.dtype, parent=None),
            DenselyNetwork(2 * size, *self.p_z_joint, self.blocks, self.dtype, parent=None),
            name=name,
        )

    def p_x(self, outputs: int, events: tuple[Event, Event], *, name: str) -> nn.Module:
        """A decoder of z_k up to the resolution of y_{k-1}, and a network beside y_k."""
        doublings = _doublings(events)
        return LikelihoodOfX(
            DenselyDecoder(outputs, *self.p_x_z, doublings + 1, self.dtype, parent=None),
            DenselyNetwork(outputs, *self.p_x_joint, self.blocks, self.dtype, parent=None),
            doublings,
            name=name,
        )


def _doublings(events: tuple[Event, Event]) -> int:
    """Number of doublings between y_k and y_{k-1}, whose shapes are (y_{k-1}, y_k)."""
    return (events[0][0] // events[1][0]).bit_length() - 1


def _bilinear(y: Array, doublings: int) -> Array:
    """y at a resolution 2^doublings times as high."""
    for _ in range(doublings):
        y = double_bilinear(y)
    return y
