"""Random changes of training batches, made inside the jitted step: mirrored images, binary pixels drawn anew."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key, Num

from hvae_jax.records import checked


@dataclasses.dataclass(frozen=True)
@checked
class Augment:
    """A random change of a batch.

    Attributes:
      flip: whether each image is mirrored from left to right with probability 1/2; x is then `[B, H, W, C]`.
      binarise: number of grey values of the stored pixels, which are drawn anew at each step as
        x ~ Bernoulli(x / (binarise - 1)), the dynamic binarisation of Salakhutdinov & Murray (2008); 0 leaves values
        as they are.

    Raises ValueError for one grey value, or fewer than 0.

    Example:
        >>> x = jnp.full((1, 8, 8, 1), 16)
        >>> int(hv.data.Augment(binarise=17)(x, jax.random.key(0)).sum())  # p = 16/16
        64
    """

    flip: bool = False
    binarise: int = 0

    def __post_init__(self) -> None:
        if self.binarise < 0 or self.binarise == 1:
            raise ValueError(f"Augment(binarise={self.binarise}): the number of grey values, 2 or more, or 0 for none.")

    def __call__(self, x: Num[Array, "batch ..."], key: Key[Array, ""]) -> Num[Array, "batch ..."]:
        """The changed batch: uint8 of 0 and 1 if it is binarised, otherwise of x's dtype."""
        flip_key, binarise_key = jax.random.split(key)
        if self.flip:
            # [B, 1, 1, ...]: one decision an image
            chosen = jax.random.bernoulli(flip_key, shape=(x.shape[0],) + (1,) * (x.ndim - 1))
            x = jnp.where(chosen, x[:, :, ::-1], x)
        if self.binarise:
            probability = x.astype(jnp.float32) / (self.binarise - 1)
            x = jax.random.bernoulli(binarise_key, probability).astype(jnp.uint8)
        return x

    def __str__(self) -> str:
        said = (["binarised anew at each step"] if self.binarise else []) + (
            ["mirrored at random"] if self.flip else []
        )
        return ", ".join(said)
