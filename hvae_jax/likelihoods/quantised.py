"""The leading bits of whole numbers: x 0..V n - 1, of which only floor(x/n), 0..V-1, is modelled."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.likelihoods.base import Likelihood, LikelihoodRecord, check_whole
from hvae_jax.likelihoods.discretised_logistic import centre
from hvae_jax.likelihoods.logistic_mixture import LogisticMixture, LogisticMixtureRecord


@struct.dataclass
class QuantisedRecord:
    """p(floor(x/n) | z); what it answers in terms of x is n floor(x/n), the lowest of the values that are one here.

    Attributes:
      of: the record of floor(x/n).
      step: n.
    """

    of: LogisticMixtureRecord
    step: int = struct.field(pytree_node=False)

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """log p(floor(x/n)), nats."""
        return self.of.log_prob(jnp.floor_divide(x, self.step))

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Num[Array, "batch ..."]:
        """n times a draw, int32."""
        return self.step * self.of.sample(key, temperature)

    @property
    def mean(self) -> Array:
        """n E[floor(x/n)]."""
        return self.step * self.of.mean

    @property
    def mode(self) -> Array:
        """n times the mode, int32."""
        return self.step * self.of.mode


@dataclasses.dataclass(frozen=True)
class Quantised(Likelihood):
    """Whole numbers of which only the leading bits are modelled, while the way up sees all.

    log p(floor(x/n) | z) - KL is still a bound: of log p(floor(x/n)), with a posterior that knows more than it has to.
    So VDVAE's 5 bits of FFHQ-256 were scored: `Quantised(LogisticMixture(values=32, form="vdvae_5_bits"), 8)`.

    Attributes:
      of: the mixture for floor(x/n).
      step: n, 8 for the leading 5 bits of 8.

    Source: Child (2021), its code's `data.py`.
    Raises ValueError for a step below 1.
    """

    of: LogisticMixture = LogisticMixture(values=32)
    step: int = 8

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ValueError(f"Quantised(step={self.step}): 1 or more.")

    @property
    def channels(self) -> int:
        """Those of the mixture."""
        return self.of.channels

    @property
    def value_range(self) -> tuple[float, float]:
        """0 to V n - 1."""
        return 0.0, self.of.values * self.step - 1.0

    @property
    def parameters(self) -> int:
        """Those of the mixture."""
        return self.of.parameters

    def __call__(self, h: Array) -> LikelihoodRecord:
        """`[B, *pixels, parameters]` to a record."""
        return QuantisedRecord(self.of(h), self.step)

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a value that is not one of 0..V n - 1, or other channels than the mixture's."""
        check_whole(x, self.of.values * self.step, "Quantised with {} values", name)
        self.of.check(x // self.step, name)

    def as_input(self, x: Array) -> Array:
        """All of x, from -1 to 1."""
        return centre(x, self.of.values * self.step)
