"""Binary data, or values in [0, 1] taken as probabilities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.distributions import sum_event
from hvae_jax.likelihoods import published
from hvae_jax.likelihoods.base import Likelihood, check_least, describe, softplus
from hvae_jax.records import checked
from hvae_jax.runtime.prng import fused


@struct.dataclass
class BernoulliRecord:
    """Independent Bernoulli variables.

    Attributes:
      logits: log(p/(1 - p)), `[B, *event]`.
      min_probability, form: as in `Bernoulli`; the defaults are exact.
    """

    logits: Array
    min_probability: float = struct.field(pytree_node=False, default=0.0)
    form: published.BernoulliForm = struct.field(pytree_node=False, default="exact")

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """sum (x log p + (1 - x) log(1 - p)) = sum (x logit - log(1 + e^logit)), nats; defined for x in [0, 1].

        For 0 < x < 1 this is the cross-entropy, often used as a bound, not a normalised density.
        """
        # The event is flattened: XLA's CPU backend fuses this with the matrix product that computes the logits, which
        # takes twenty times as long if the event has several axes.
        n = self.logits.shape[0]
        x, logits = jnp.broadcast_to(x, self.logits.shape).reshape(n, -1), self.logits.reshape(n, -1)  # [B, D]
        if self.form == "of_p":
            return sum_event(published.bernoulli_of_p(x, logits))
        if self.min_probability:
            return sum_event(published.bernoulli_clipped(x, logits, self.min_probability))
        log_not_p = -softplus(logits)
        return sum_event(x * logits + log_not_p)  # x (log p - log(1 - p)) + log(1 - p)

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Num[Array, "batch ..."]:
        """Draws zeros and ones, uint8, with the logits divided by the temperature; 0 gives the mode."""
        uniform = jax.random.uniform(fused(key), self.logits.shape, self.logits.dtype)
        if isinstance(temperature, float) and temperature == 1.0:
            return (uniform < self.mean).astype(jnp.uint8)
        # u < sigmoid(logits / temperature), rewritten without the division: a temperature of 0 is allowed.
        # 0 is one of the uniform numbers, and 0 times its infinite logarithm would be NaN.
        noise = jnp.log(jnp.maximum(uniform, jnp.finfo(uniform.dtype).tiny)) - jnp.log1p(-uniform)
        return (jnp.asarray(temperature, noise.dtype) * noise < self.logits).astype(jnp.uint8)

    @property
    def mean(self) -> Array:
        """p(x = 1)."""
        return jax.nn.sigmoid(self.logits)

    @property
    def mode(self) -> Array:
        """1 where p > 1/2, uint8."""
        return (self.logits > 0).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
@checked
class Bernoulli(Likelihood):
    """Binary data, or values in [0, 1] taken as probabilities.

    Attributes:
      min_probability: lower bound of probabilities, which log_prob clips to [min, 1 - min]; 0 is exact.
      form: "exact" computes log_prob from the logits, "of_p" from the rounded probability, as PyTorch's binary
        cross-entropy does.

    Both settings reproduce the scores of public codes, see `published.py`.
    Raises ValueError for another form, a min_probability outside [0, 1/2), or "of_p" with one.

    Example:
        >>> record = hv.Bernoulli()(jnp.zeros((1, 3, 1)))  # one logit for each of three pixels
        >>> print(record.log_prob(jnp.ones((1, 3))).round(3))  # 3 log(1/2)
        [-2.079]
    """

    min_probability: float = 0.0
    form: published.BernoulliForm = "exact"

    def __post_init__(self) -> None:
        check_least(self)
        if self.form == "of_p" and self.min_probability:
            raise ValueError(f"Bernoulli(min_probability={self.min_probability}): with form='of_p' it has to be 0.")

    @property
    def value_range(self) -> tuple[float, float]:
        """0 to 1."""
        return 0.0, 1.0

    @property
    def parameters(self) -> int:
        """One logit."""
        return 1

    def __call__(self, h: Array) -> BernoulliRecord:
        """`[B, *event, 1]` to a record."""
        return BernoulliRecord(h[..., 0], self.min_probability, self.form)

    def marginals(self, x: Array) -> Array:
        """Logits of the means over the examples, clipped to [0.001, 0.999] as in the code of Burda et al. (2015)."""
        p = jnp.clip(jnp.asarray(x, float).mean(0), 0.001, 0.999)
        return (jnp.log(p) - jnp.log1p(-p))[..., None]

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a value outside [0, 1]."""
        bad = ~((x >= 0) & (x <= 1))
        if bad.any():
            raise ValueError(
                f"{name} holds {describe(x, bad)}, but Bernoulli() allows values in [0, 1] only. "
                f"Scale or binarise the data, or use Categorical(number of values) or Gaussian()."
            )
