"""A decoder in which each pixel sees those before it: a gated PixelCNN over the likelihood of one pixel."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.likelihoods.base import Likelihood, LikelihoodRecord
from hvae_jax.likelihoods.bernoulli import Bernoulli
from hvae_jax.networks.pixelcnn import PixelCNNWeights, evaluate, walk


def _image(event: tuple[int, ...]) -> tuple[int, int, int]:
    """One x as (rows, columns, channels): a vector is a row, a matrix has one channel."""
    match event:
        case (columns,):
            return (1, columns, 1)
        case (rows, columns):
            return (rows, columns, 1)
        case (rows, columns, channels):
            return (rows, columns, channels)
    raise ValueError(f"PixelCNN takes vectors, matrices and images [H, W, C], but one x has shape {event}.")


@struct.dataclass
class PixelCNNRecord:
    """p(x | z) = prod_i p(x_i | x_before_i, z), in the order of rows, columns, channels.

    Attributes:
      context: what the model's networks say of each element, `[B, *event, context]`.
      weights: of the PixelCNN.
      family: the setting it was made by.
    """

    context: Array
    weights: dict[str, Array]
    family: "PixelCNN" = struct.field(pytree_node=False)

    def conditionals(self, x: Num[Array, "batch ..."]) -> LikelihoodRecord:
        """p(x_i | x_before_i, z) for all i at once, each at the elements before it in x `[B, *event]`."""
        event = self.context.shape[1:-1]
        seen = self.family.as_input(x).astype(self.context.dtype).reshape(-1, *_image(event))
        return self.family.base(evaluate(self.weights, seen, self._context).reshape(x.shape[0], *event, -1))

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """log p(x | z), nats, in one pass."""
        return self.conditionals(x).log_prob(x)

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Num[Array, "batch ..."]:
        """Pixel after pixel, each given those that were drawn; what has been computed of them is kept.

        The temperature is that of each pixel's distribution; 0 gives `mode`.
        """
        if self.family.receptive_field == 0:
            return self._alone.sample(key, temperature)
        return self._walk(lambda one, i: one.sample(jax.random.fold_in(key, i), temperature))

    @property
    def mode(self) -> Array:
        """The most probable value of each element given those that were so chosen: greedy, not the most probable x."""
        if self.family.receptive_field == 0:
            return self._alone.mode
        return self._walk(lambda one, _: one.mode)

    @property
    def mean(self) -> Array:
        """E[x_i | x_before_i, z] along the elements of `mode`.

        E[x | z] itself is a sum over all images; an average of samples comes as near to it as is wanted.
        """
        if self.family.receptive_field == 0:
            return self._alone.mean
        return self.conditionals(self.mode).mean

    @property
    def _context(self) -> Array:
        """`[B, H, W, C * context]`."""
        rows, columns, _ = _image(self.context.shape[1:-1])
        return self.context.reshape(self.context.shape[0], rows, columns, -1)

    @property
    def _alone(self) -> LikelihoodRecord:
        """The conditionals where they depend on no x."""
        return self.conditionals(jnp.zeros(self.context.shape[:-1], self.context.dtype))

    def _walk(self, choose: Any) -> Array:
        """Element after element, `choose(record of one element, index) -> [B, 1]`."""
        event = self.context.shape[1:-1]

        def pick(parameters: Array, index: Array) -> tuple[Array, Array]:
            value = choose(self.family.base(parameters[:, None]), index)[:, 0]
            return value, self.family.as_input(value)

        return walk(self.weights, self._context, _image(event)[-1], pick).reshape(-1, *event)


@dataclasses.dataclass(frozen=True)
class PixelCNN(Likelihood):
    """Each element of x depends on z and on the elements before it, by a gated PixelCNN.

    A decoder as strong as this one need not be told anything by z: the rate falls as the receptive field grows, and
    that is what the field is a setting for. The parameters are the model's, under "pixelcnn".

    Attributes:
      base: the likelihood of one element given those before it.
      receptive_field: R: pixel (i, j) sees the R rows above it, from column j - R to j + R, and R columns to its left.
        0: no other, so that pixels and colours are independent given z. None: all before it. Above 0, and for None, a
        pixel's second channel sees its first, and so on.
      layers: gated layers; each reaches about R / layers far, and costs the square of that.
      width: channels of each layer.
      context: numbers that the model's networks give for each element: what z has to say.

    Source: Alemi et al. (2018) for its use; `networks/pixelcnn.py` for the network's.
    Raises ValueError for a negative receptive field, another size below 1, or a base that is not of one element alone.
    """

    base: Likelihood = Bernoulli()
    receptive_field: int | None = None
    layers: int = 5
    width: int = 32
    context: int = 4

    def __post_init__(self) -> None:
        if self.receptive_field is not None and self.receptive_field < 0:
            raise ValueError(f"PixelCNN(receptive_field={self.receptive_field}): 0 for none, or more; None for all.")
        if min(self.layers, self.width, self.context) < 1:
            raise ValueError(
                f"PixelCNN(layers={self.layers}, width={self.width}, context={self.context}): each has to be 1 or more."
            )
        if isinstance(self.base, PixelCNN):
            raise ValueError("PixelCNN(base=PixelCNN(...)): the base is the likelihood of one element alone.")
        if self.base.channels != 1:
            raise ValueError(
                f"PixelCNN(base={self.base}): the base is the likelihood of one element alone; set its channels to 1, "
                "and the PixelCNN's own order of colours takes their place."
            )

    @property
    def parameters(self) -> int:
        """The context."""
        return self.context

    def __call__(self, h: Array) -> PixelCNNRecord:
        """`[B, *event, context]` to a record; called within a model, whose parameters the weights are."""
        rows, columns, channels = _image(h.shape[1:-1])
        furthest = max(rows, columns) - 1
        reach = furthest if self.receptive_field is None else min(self.receptive_field, furthest)
        net = PixelCNNWeights(
            reach, self.layers, self.width, self.base.parameters, self.receptive_field != 0, name="pixelcnn"
        )
        return PixelCNNRecord(h, net(channels, channels * self.context), self)

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """As the base does."""
        self.base.check(x, name)

    def as_input(self, x: Array) -> Array:
        """x as the layers see it: as the base's."""
        return self.base.as_input(x)
