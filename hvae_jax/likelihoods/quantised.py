"""The leading bits of whole numbers: x is one of 0..V n - 1, but only floor(x/n), one of 0..V-1, is modelled."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.likelihoods.base import Likelihood, LikelihoodRecord, check_whole
from hvae_jax.likelihoods.bins import Bins
from hvae_jax.likelihoods.logistic_mixture import LogisticMixture, LogisticMixtureRecord
from hvae_jax.records import checked


@struct.dataclass
class QuantisedRecord:
    """p(floor(x/n) | z). Draws, mean and mode are in units of x: n floor(x/n), the lowest x with these leading bits.

    Attributes:
      of: record of p(floor(x/n) | z).
      step: divisor n.
    """

    of: LogisticMixtureRecord
    step: int = struct.field(pytree_node=False)

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """log p(floor(x/n)), nats."""
        return self.of.log_prob(jnp.floor_divide(x, self.step))

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Num[Array, "batch ..."]:
        """n times a draw of floor(x/n), int32."""
        return self.step * self.of.sample(key, temperature)

    def log_prob_seen(self, x: Array, seen: Array) -> Array:
        """log p(floor(x_seen / n)), `[B]`, nats."""
        return self.of.log_prob_seen(jnp.floor_divide(x, self.step), seen)

    def fill(self, x: Array, seen: Array, key: Array) -> Array:
        """x with n times a draw of floor(x/n) where it is not seen, given the leading bits of what is."""
        drawn = self.step * self.of.fill(jnp.floor_divide(x, self.step), seen, key)
        return jnp.where(seen, x, drawn.astype(x.dtype))

    @property
    def mean(self) -> Array:
        """n E[floor(x/n)]."""
        return self.step * self.of.mean

    @property
    def mode(self) -> Array:
        """n times the mode of floor(x/n), int32."""
        return self.step * self.of.mode


@dataclasses.dataclass(frozen=True)
@checked
class Quantised(Likelihood):
    """Whole numbers of which only the leading bits are modelled, while the bottom-up network sees all bits.

    log p(floor(x/n) | z) - KL is a bound on log p(floor(x/n)), with a posterior that sees more than floor(x/n).
    VDVAE's 5 bits of FFHQ-256 were scored this way: `Quantised(LogisticMixture(values=32, form="vdvae_5_bits"), 8)`.

    Attributes:
      of: likelihood of floor(x/n).
      step: divisor n; 8 keeps the leading 5 bits of 8.

    Source: Child (2021), its code's `data.py`.
    Raises ValueError for a step below 1.

    Example:
        >>> family = hv.likelihoods.Quantised(hv.LogisticMixture(values=32), step=8)
        >>> family.value_range, family.of.value_range
        ((0.0, 255.0), (0.0, 31.0))
    """

    of: LogisticMixture = LogisticMixture(values=32)
    step: int = 8

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ValueError(f"Quantised(step={self.step}): it has to be 1 or more.")

    @property
    def channels(self) -> int:
        """Channels of the mixture."""
        return self.of.channels

    @property
    def value_range(self) -> tuple[float, float]:
        """0 to V n - 1."""
        return 0.0, self.of.values * self.step - 1.0

    @property
    def parameters(self) -> int:
        """Parameters of the mixture."""
        return self.of.parameters

    def __call__(self, h: Array) -> LikelihoodRecord:
        """`[B, *pixels, parameters]` to a record."""
        return QuantisedRecord(self.of(h), self.step)

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a value that is not one of 0..V n - 1, or for channels other than the mixture's."""
        check_whole(x, self.of.values * self.step, "Quantised with {} values", name)
        self.of.check(x // self.step, name)

    def check_seen(self, seen: np.ndarray, name: str = "seen") -> None:
        """As the mixture says."""
        self.of.check_seen(seen, name)

    def as_input(self, x: Array) -> Array:
        """All bits of x, from -1 to 1."""
        return Bins(self.of.values * self.step).centre(x)
