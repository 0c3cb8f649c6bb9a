"""What a top prior is, and what it is given of the model it belongs to."""

import abc
import dataclasses
from collections.abc import Callable

from flax import linen as nn
from jax import Array

from hvae_jax.distributions import Latent, Normal


@dataclasses.dataclass(frozen=True)
class Ground:
    """What a top prior is made on.

    Attributes:
      module: the model, bound: parameters of the prior are `module.param(...)`.
      n: number of examples.
      shape: of one z_L.
      encode: q(z_L | u) of examples u `[K, *event]`, in evaluation mode; the inference network itself.
      x: the examples at hand, `[B, *event]`, or None: what parameters may begin from.
      value_range: smallest and largest value of x that the likelihood knows, or None.
    """

    module: nn.Module
    n: int
    shape: tuple[int, ...]
    encode: Callable[[Array], Normal]
    x: Array | None
    value_range: tuple[float, float] | None


class TopPrior(abc.ABC):
    """A family of priors p(z_L): a frozen, hashable setting of a model.

    A base class and not a Protocol because a command line asks of a setting's default which family it is.
    """

    @abc.abstractmethod
    def __call__(self, ground: Ground) -> Latent:
        """p(z_L) for `ground.n` examples, called within the model's forward pass, with an x or without."""
