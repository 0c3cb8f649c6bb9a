"""Data with missing values, which are NaN in x: what is seen is scored, and networks read a constant for the rest."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.likelihoods.base import Likelihood, LikelihoodRecord
from hvae_jax.likelihoods.seen import fill, log_prob_seen, possible_value
from hvae_jax.records import checked


@struct.dataclass
class MissingRecord:
    """p(x_seen | z): the record of the whole x, whose log_prob leaves out what is NaN.

    Attributes:
      of: record of p(x | z).
      possible: a value that every element can take.
    """

    of: LikelihoodRecord
    possible: float = struct.field(pytree_node=False)

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """log p(x_seen | z), nats, of the elements that are not NaN; 0 if all are."""
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return self.of.log_prob(x)
        seen = ~jnp.isnan(x)
        return log_prob_seen(self.of, jnp.where(seen, x, jnp.asarray(self.possible, x.dtype)), seen)

    def log_prob_seen(self, x: Array, seen: Array) -> Array:
        """log p(x_seen | z), `[B]`, of a mask beside x."""
        return log_prob_seen(self.of, x, seen)

    def fill(self, x: Array, seen: Array, key: Array) -> Array:
        """x with a draw from p(x_missing | x_seen, z) where it is not seen."""
        return fill(self.of, x, seen, key)

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Num[Array, "batch ..."]:
        """A whole x."""
        return self.of.sample(key, temperature)

    @property
    def mean(self) -> Array:
        """E[x | z] of the whole x."""
        return self.of.mean

    @property
    def mode(self) -> Array:
        """The mode of the whole x."""
        return self.of.mode


@dataclasses.dataclass(frozen=True)
@checked
class Missing(Likelihood):
    """Data in which some elements of x are missing: NaN in a floating x.

    log p(x | z) is that of the seen elements, so that with the same KLs as ever the ELBO and the importance-weighted
    bound are bounds of log p(x_seen). Networks read `fill` in place of NaN. The bound holds whatever they read, and
    whichever elements are missing; the model is one of the whole x only if they are missing at random.

    An `Experiment` whose `Data` has missing values puts this around the likelihood of its model by itself.

    Attributes:
      of: likelihood of the whole x, whose p(x_seen | z) has a closed form (`check_seen`).
      fill: value in place of NaN, in units of x; None takes `seen.possible_value`, the middle of the range or 0.

    Source: Nazábal et al. (2020), equation 4, for the ELBO; Mattei & Frellsen (2019), MIWAE, equation 4, for the
    importance-weighted bound.
    Raises ValueError for a `Missing` in a `Missing`, and a fill that is not finite.

    Example:
        >>> record = hv.Missing(hv.Gaussian())(jnp.zeros((1, 2, 2)))
        >>> print(record.log_prob(jnp.array([[0.0, jnp.nan]])).round(3))  # -log(2 pi)/2, of the seen element
        [-0.919]
    """

    of: Likelihood
    fill: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.of, Missing):
            raise ValueError("Missing(of=Missing(...)): one of them is enough.")
        if self.fill is not None and not math.isfinite(self.fill):
            raise ValueError(f"Missing(fill={self.fill}): it has to be finite.")

    @property
    def takes_missing(self) -> bool:
        """True."""
        return True

    @property
    def channels(self) -> int:
        """Channels of `of`."""
        return self.of.channels

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Range of `of`."""
        return self.of.value_range

    @property
    def discrete(self) -> bool:
        """As `of`."""
        return self.of.discrete

    @property
    def parameters(self) -> int:
        """Parameters of `of`."""
        return self.of.parameters

    def __call__(self, h: Array) -> MissingRecord:
        """`[B, *event, parameters]` to a record."""
        return MissingRecord(self.of(h), possible_value(self.of))

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a seen value of probability 0, and for missing ones where `of` has no closed form."""
        if x.dtype.kind != "f":
            self.of.check(x, name)
            return
        seen = ~np.isnan(x)
        self.of.check(np.where(seen, x, x.dtype.type(possible_value(self.of))), name)
        if not seen.all():
            self.of.check_seen(seen, name)

    def check_seen(self, seen: np.ndarray, name: str = "seen") -> None:
        """As `of` says."""
        self.of.check_seen(seen, name)

    def marginals(self, x: Array) -> Array | None:
        """Marginals of `of`, of examples that are filled."""
        return self.of.marginals(self.filled(x))

    def as_input(self, x: Array) -> Array:
        """x as the input of a network, filled."""
        return self.of.as_input(self.filled(x))

    def filled(self, x: Array) -> Array:
        """x with `fill` in place of NaN: what a model reads."""
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        value = possible_value(self.of) if self.fill is None else self.fill
        return jnp.where(jnp.isnan(x), jnp.asarray(value, x.dtype), x)
