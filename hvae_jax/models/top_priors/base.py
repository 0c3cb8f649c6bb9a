"""The protocol of priors p(z_L) at the top, and what a model gives them to work with."""

import abc
import dataclasses
from collections.abc import Callable

from flax import linen as nn
from jax import Array

from hvae_jax.distributions import Latent, Normal


@dataclasses.dataclass(frozen=True)
class Ground:
    """What a model gives its top prior.

    Attributes:
      module: the model, bound; the prior's parameters are its own, by `module.param(...)`.
      n: number of examples.
      shape: shape of one z_L.
      encode: the model's own inference network in evaluation mode, from inputs u `[K, *event]` to q(z_L | u).
      x: the examples at hand, `[B, *event]`, which parameters may start from; None if there are none.
      value_range: smallest and largest value of x under the likelihood; None if it is not bounded.
    """

    module: nn.Module
    n: int
    shape: tuple[int, ...]
    encode: Callable[[Array], Normal]
    x: Array | None
    value_range: tuple[float, float] | None


class TopPrior(abc.ABC):
    """A family of priors p(z_L): a frozen, hashable setting of a model.

    A base class and not a Protocol, because the command line checks the default of a setting against its annotation.
    """

    @abc.abstractmethod
    def __call__(self, ground: Ground) -> Latent:
        """Return p(z_L) for `ground.n` examples; called within the model's forward pass, with x or without."""
