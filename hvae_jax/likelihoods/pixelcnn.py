"""An autoregressive likelihood: a gated PixelCNN, with another likelihood for each element given those before it."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.distributions import sum_event
from hvae_jax.likelihoods.base import Likelihood, LikelihoodRecord
from hvae_jax.likelihoods.bernoulli import Bernoulli
from hvae_jax.likelihoods.discretised_logistic import DiscretisedLogistic
from hvae_jax.likelihoods.seen import check_in_order, elementwise
from hvae_jax.networks.pixelcnn import PixelCNNWeights, one_pass, pixel_by_pixel
from hvae_jax.records import check_sizes, checked
from hvae_jax.runtime.prng import fold_ins


def _image(event: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape of one x as (rows, columns, channels): a vector is a row, a matrix has one channel.

    Raises ValueError for other numbers of axes.
    """
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
      context: network output for each element, `[B, *event, context]`, the only dependence on z.
      weights: parameters of the PixelCNN.
      family: the `PixelCNN` that made the record.
    """

    context: Array
    weights: dict[str, Array]
    family: "PixelCNN" = struct.field(pytree_node=False)

    def conditionals(self, x: Num[Array, "batch ..."]) -> LikelihoodRecord:
        """p(x_i | x_before_i, z) for all i at once, given x `[B, *event]`."""
        event = self.context.shape[1:-1]
        seen = self.family.as_input(x).astype(self.context.dtype).reshape(-1, *_image(event))  # [B, H, W, C]
        parameters = one_pass(self.weights, seen, self._context)  # [B, H, W, C, parameters]
        return self.family.base(parameters.reshape(x.shape[0], *event, -1))

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """log p(x | z), nats, in one pass."""
        return self.conditionals(x).log_prob(x)

    def log_prob_seen(self, x: Num[Array, "batch ..."], seen: Array) -> Float[Array, " batch"]:
        """log p(x_seen | z), nats, if all that is missing comes last in the order: conditionals that sum to 1."""
        return sum_event(jnp.where(seen, elementwise(self.conditionals(x), x), 0.0))

    def fill(self, x: Num[Array, "batch ..."], seen: Array, key: Key[Array, ""]) -> Num[Array, "batch ..."]:
        """x with a draw of what is missing, element after element, each given those before it."""
        if self.family.receptive_field == 0:
            return jnp.where(seen, x, self._independent.sample(key).astype(x.dtype))
        flat, known = (a.reshape(x.shape[0], -1) for a in (x, seen))  # [B, D], in the order of the elements
        keys = self._keys(key)

        def value_of(one: LikelihoodRecord, i: Array) -> Array:
            drawn = one.sample(keys[i]).astype(x.dtype)  # [B, 1]
            at = [jax.lax.dynamic_slice_in_dim(a, i, 1, axis=1) for a in (known, flat)]
            return jnp.where(at[0], at[1], drawn)

        return self._one_by_one(value_of)

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Num[Array, "batch ..."]:
        """Draws x by ancestral sampling: element after element, each given those drawn before it.

        The temperature is that of the distribution of each element; 0 gives `mode`.
        """
        if self.family.receptive_field == 0:
            return self._independent.sample(key, temperature)
        keys = self._keys(key)
        return self._one_by_one(lambda one, i: one.sample(keys[i], temperature))

    @property
    def mode(self) -> Array:
        """The most probable value of each element given those chosen before it: greedy, not the most probable x."""
        if self.family.receptive_field == 0:
            return self._independent.mode
        return self._one_by_one(lambda one, _: one.mode)

    @property
    def mean(self) -> Array:
        """E[x_i | x_before_i, z] along the elements of `mode`.

        E[x | z] itself is a sum over all images, which an average of samples approximates.
        """
        if self.family.receptive_field == 0:
            return self._independent.mean
        return self.conditionals(self.mode).mean

    @property
    def _context(self) -> Array:
        """`[B, H, W, C * context]`."""
        rows, columns, _ = _image(self.context.shape[1:-1])
        return self.context.reshape(self.context.shape[0], rows, columns, -1)

    @property
    def _independent(self) -> LikelihoodRecord:
        """The conditionals with a receptive field of 0, which do not depend on x."""
        return self.conditionals(jnp.zeros(self.context.shape[:-1], self.context.dtype))

    def _keys(self, key: Key[Array, ""]) -> Array:
        """A key for each element, `[D]`, all of them made before the loop over the elements."""
        return fold_ins(key, math.prod(self.context.shape[1:-1]))

    def _one_by_one(self, value_of: Any) -> Array:
        """Chooses element after element, `[B, *event]`, by `value_of(record of one element, index) -> [B, 1]`."""
        event = self.context.shape[1:-1]

        def choose(parameters: Array, index: Array) -> tuple[Array, Array]:
            # Parameters of one element, [B, parameters], as those of an event of one element.
            value = value_of(self.family.base(parameters[:, None]), index)[:, 0]
            return value, self.family.as_input(value)

        return pixel_by_pixel(self.weights, self._context, _image(event)[-1], choose).reshape(-1, *event)


@dataclasses.dataclass(frozen=True)
@checked
class PixelCNN(Likelihood):
    """Each element of x depends on z and on the elements before it, by a gated PixelCNN.

    A decoder this strong can model x without z: the rate falls as the receptive field grows, which is why the field is
    a setting. The weights are parameters of the model, under "pixelcnn".

    Attributes:
      base: the likelihood of one element given those before it.
      receptive_field: reach R: pixel (i, j) sees the R rows above it, columns j - R to j + R, and R pixels to its left;
        with 0 no other pixel, so that pixels and colours are independent given z; with None all pixels before it.
        Unless it is 0, the second channel of a pixel sees the first, and so on.
      layers: number of gated layers; each has a reach of about R / layers and a cost that grows with its square.
      width: number of channels of each layer.
      context: number of network outputs for each element, the only dependence on z.

    Source: Alemi et al. (2018) for the use; `networks/pixelcnn.py` for the network.
    Raises ValueError for a negative receptive field, another size below 1, a base in which channels share parameters or
    elements depend on each other, or one with a parameter of its own (a global scale).

    Example:
        >>> family = hv.PixelCNN(hv.Categorical(17), receptive_field=2, context=4)
        >>> family.parameters  # for each element, what it reads of z
        4
    """

    base: Likelihood = Bernoulli()
    receptive_field: int | None = None
    layers: int = 5
    width: int = 32
    context: int = 4

    def __post_init__(self) -> None:
        if self.receptive_field is not None and self.receptive_field < 0:
            raise ValueError(
                f"PixelCNN(receptive_field={self.receptive_field}): it has to be 0 or more, or None for all pixels."
            )
        check_sizes(self, "layers", "width", "context")
        if isinstance(self.base, PixelCNN):
            raise ValueError("PixelCNN(base=PixelCNN(...)): the base is the likelihood of one element alone.")
        if self.base.channels != 1:
            raise ValueError(
                f"PixelCNN(base={self.base}): the base is the likelihood of one element alone; set its channels to 1. "
                "The order of colours is the PixelCNN's own."
            )
        if isinstance(self.base, DiscretisedLogistic) and self.base.scale == "global":
            raise ValueError(
                f"PixelCNN(base={self.base}): a global scale is a parameter of the model, which the likelihood of one "
                "element cannot have; take scale='element'."
            )

    @property
    def discrete(self) -> bool:
        """As the base."""
        return self.base.discrete

    @property
    def value_range(self) -> tuple[float, float] | None:
        """As the base."""
        return self.base.value_range

    @property
    def parameters(self) -> int:
        """Number of context values."""
        return self.context

    def __call__(self, h: Array) -> PixelCNNRecord:
        """`[B, *event, context]` to a record. The weights are parameters of the model this is called in."""
        rows, columns, channels = _image(h.shape[1:-1])
        # No pixel is further away than this: a larger reach would only read padding.
        furthest = max(rows, columns) - 1
        reach = furthest if self.receptive_field is None else min(self.receptive_field, furthest)
        net = PixelCNNWeights(
            reach, self.layers, self.width, self.base.parameters, self.receptive_field != 0, name="pixelcnn"
        )
        return PixelCNNRecord(h, net(channels, channels * self.context), self)

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError if the base gives some value in `x` probability 0."""
        self.base.check(x, name)

    def check_seen(self, seen: np.ndarray, name: str = "seen") -> None:
        """Raises ValueError if an element is seen behind one that is missing, unless the receptive field is 0."""
        if self.receptive_field != 0:
            remedy = "Mask the last rows, as --mask half does, or take a likelihood of independent elements."
            check_in_order(seen.reshape(len(seen), -1), "PixelCNN", "the elements of x", remedy, name)

    def as_input(self, x: Array) -> Array:
        """x as the input of a network, by the base."""
        return self.base.as_input(x)
