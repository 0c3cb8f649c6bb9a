"""Whole numbers, one softmax for each element."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.distributions import sum_event
from hvae_jax.likelihoods import published
from hvae_jax.likelihoods.base import Likelihood, check_least, check_whole
from hvae_jax.records import checked
from hvae_jax.runtime.prng import fused


@jax.custom_jvp
def _pick(logits: Array, index: Array) -> Array:
    """logits[..., index], with the index clipped to the valid range.

    The forward pass is a gather. The derivative is written as a comparison, because the transpose of a gather is a
    scatter, which is slow on CPUs and TPUs.
    """
    return jnp.take_along_axis(logits, index[..., None], axis=-1, mode="clip")[..., 0]


@_pick.defjvp
def _pick_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    (logits, index), (change, _) = primals, tangents
    values = jax.lax.broadcasted_iota(index.dtype, logits.shape, logits.ndim - 1)
    return _pick(logits, index), jnp.where(index[..., None] == values, change, 0.0).sum(-1)


@struct.dataclass
class CategoricalRecord:
    """Independent categorical variables over 0..K-1.

    Attributes:
      logits: unnormalised log probabilities, `[B, *event, K]`.
      min_probability: as in `Categorical`; the default is exact.
    """

    logits: Array
    min_probability: float = struct.field(pytree_node=False, default=0.0)

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """sum_d log softmax(logits_d)[x_d], nats; -inf where a value is not one of 0..K-1."""
        index = x.astype(jnp.int32)  # before any comparison: in uint8, 256 would be 0
        log_p = _pick(self.logits, index) - jax.nn.logsumexp(self.logits, axis=-1)
        if self.min_probability:
            log_p = published.clip_log(log_p, self.min_probability)
        allowed = (index >= 0) & (index < self.logits.shape[-1]) & (x == index)
        return sum_event(jnp.where(allowed, log_p, -jnp.inf))

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Num[Array, "batch ..."]:
        """Draws integers 0..K-1, int32, by inversion: one uniform number for each element instead of K.

        The logits are divided by the temperature; 0 gives the mode.
        """
        if not (isinstance(temperature, float) and temperature == 1.0):
            temperature = jnp.asarray(temperature, self.logits.dtype)
            # A traced temperature may be 0: the division is then by 1, and its sample is not used.
            warm = jnp.where(temperature > 0.0, temperature, 1.0)
            return jnp.where(temperature > 0.0, CategoricalRecord(self.logits / warm).sample(key), self.mode)
        k = self.logits.shape[-1]
        weights = jnp.exp(self.logits - self.logits.max(-1, keepdims=True))
        # Cumulative sums as a product with a triangle of ones, which every backend does fast: on a CPU `jnp.cumsum`
        # takes two to three times as long, Gumbel noise five to ten times.
        cumulative = jnp.matmul(weights, jnp.triu(jnp.ones((k, k), weights.dtype)), precision="highest")
        uniform = jax.random.uniform(fused(key), (*weights.shape[:-1], 1), weights.dtype)
        return (cumulative[..., :-1] <= uniform * cumulative[..., -1:]).sum(-1, dtype=jnp.int32)

    @property
    def mean(self) -> Array:
        """sum_k k p_k."""
        values = jnp.arange(self.logits.shape[-1], dtype=self.logits.dtype)
        return jax.nn.softmax(self.logits, axis=-1) @ values

    @property
    def mode(self) -> Array:
        """The most probable class, int32."""
        return self.logits.argmax(-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
@checked
class Categorical(Likelihood):
    """Whole numbers 0..num_values-1, one softmax for each element.

    Attributes:
      num_values: K, number of values that an element can take.
      min_probability: lower bound of probabilities, which log_prob clips to [min, 1 - min]; 0 is exact, the article's
        code has 1e-7 (`published.py`).

    Raises ValueError for fewer than two values, and for a min_probability outside [0, 1/2).

    Example:
        >>> record = hv.Categorical(17)(jnp.zeros((1, 2, 17)))
        >>> print(record.log_prob(jnp.array([[0, 16]])).round(3))  # -2 log 17
        [-5.666]
    """

    num_values: int = 256
    min_probability: float = 0.0

    def __post_init__(self) -> None:
        if self.num_values < 2:
            raise ValueError(f"Categorical(num_values={self.num_values}): at least 2 values are needed.")
        check_least(self)

    @property
    def value_range(self) -> tuple[float, float]:
        """0 to K - 1."""
        return 0.0, self.num_values - 1.0

    @property
    def parameters(self) -> int:
        """K logits."""
        return self.num_values

    def __call__(self, h: Array) -> CategoricalRecord:
        """`[B, *event, K]` to a record."""
        return CategoricalRecord(h, self.min_probability)

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a value that is not one of 0..num_values-1."""
        check_whole(x, self.num_values, "Categorical({})", name)

    def as_input(self, x: Array) -> Array:
        """2 x/(K - 1) - 1, from -1 to 1."""
        return 2.0 * x / (self.num_values - 1) - 1.0
