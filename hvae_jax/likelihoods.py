"""Likelihoods p(x | z): a frozen family that a model holds as a setting, and the record it makes of network output.

A family knows how many numbers it wants for each element of x (`parameters`), turns `[B, *event, parameters]` into a
record, and checks data (`check`). A record answers `log_prob(x) -> [B]` in nats, `sample(key)`, `mean` and `mode`.
"""

import abc
import dataclasses
import math
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float, Key, Num

from hvae_jax.distributions import Normal, soft_clamp, sum_event


@runtime_checkable
class LikelihoodRecord(Protocol):
    """What everything downstream of a model may ask of p(x | z)."""

    def log_prob(self, x: Array) -> Array:
        """log p(x | z), summed over the event: `[B]`, nats."""
        ...

    def sample(self, key: Array) -> Array:
        """One x ~ p(x | z) for each example, `[B, *event]`."""
        ...

    @property
    def mean(self) -> Array:
        """E[x | z], `[B, *event]`, float."""
        ...

    @property
    def mode(self) -> Array:
        """The most probable value of each element, `[B, *event]`."""
        ...


class Likelihood(abc.ABC):
    """A family of likelihoods: a frozen, hashable setting of a model.

    A base class and not a Protocol because a command line asks of a setting's default which family it is.
    """

    @property
    @abc.abstractmethod
    def parameters(self) -> int:
        """Numbers from the network for each element of x."""

    @abc.abstractmethod
    def __call__(self, h: Array) -> LikelihoodRecord:
        """Network output `[B, *event, parameters]` to the record of p(x | z)."""

    @abc.abstractmethod
    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError if the family gives some value in `x` no probability at all."""


def _clip_log(log_prob: Array, min_probability: float) -> Array:
    """Clips log probabilities as if the probabilities had been clipped to [eps, 1 - eps]; eps = 0 leaves them."""
    if min_probability == 0.0:
        return log_prob
    return jnp.clip(log_prob, math.log(min_probability), math.log1p(-min_probability))


def _describe(x: np.ndarray, bad: np.ndarray) -> str:
    """The first offending value and where it is."""
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{x[where].item()!r} at index {where} ({int(bad.sum())} such value{'s' if bad.sum() > 1 else ''})"


# ---- Bernoulli


@struct.dataclass
class BernoulliRecord:
    """Independent Bernoulli variables. `logits`: `[B, *event]`, log p/(1 - p)."""

    logits: Array
    min_probability: float = struct.field(pytree_node=False, default=0.0)

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """sum x log p + (1 - x) log(1 - p) with log p = -softplus(-logit); defined for x in [0, 1], nats.

        For 0 < x < 1 this is the cross-entropy that the field calls a Bernoulli bound, not a normalised density.
        """
        log_p = _clip_log(-jax.nn.softplus(-self.logits), self.min_probability)
        log_not_p = _clip_log(-jax.nn.softplus(self.logits), self.min_probability)
        if self.min_probability == 0.0:
            return sum_event(x * self.logits + log_not_p)
        return sum_event(x * log_p + (1 - x) * log_not_p)

    def sample(self, key: Key[Array, ""]) -> Num[Array, "batch ..."]:
        """Zeros and ones, uint8."""
        uniform = jax.random.uniform(key, self.logits.shape, self.logits.dtype)
        return (uniform < self.mean).astype(jnp.uint8)

    @property
    def mean(self) -> Array:
        """p(x = 1)."""
        return jax.nn.sigmoid(self.logits)

    @property
    def mode(self) -> Array:
        """1 where p > 1/2, uint8."""
        return (self.logits > 0).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Binary data, or values in [0, 1] taken as probabilities.

    Attributes:
      min_probability: clips probabilities to [min, 1 - min] inside log_prob. 0, the default, is exact; the article's
        code has 1e-7.
    """

    min_probability: float = 0.0

    @property
    def parameters(self) -> int:
        """One logit."""
        return 1

    def __call__(self, h: Array) -> BernoulliRecord:
        """`[B, *event, 1]` to a record."""
        return BernoulliRecord(h[..., 0], self.min_probability)

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a value outside [0, 1]."""
        bad = ~((x >= 0) & (x <= 1))
        if bad.any():
            raise ValueError(
                f"{name} holds {_describe(x, bad)}, but Bernoulli() allows values in [0, 1] only. "
                f"Scale or binarise the data, or use Categorical(number of values) or Gaussian()."
            )


# ---- Categorical


@jax.custom_jvp
def _pick(logits: Array, index: Array) -> Array:
    """logits[..., index], the index clipped to what there is.

    A gather going forward; its derivative is written with a comparison, because a gather's own transpose is a scatter,
    which is slow on a CPU and a TPU.
    """
    return jnp.take_along_axis(logits, index[..., None], axis=-1, mode="clip")[..., 0]


@_pick.defjvp
def _pick_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    (logits, index), (change, _) = primals, tangents
    values = jax.lax.broadcasted_iota(index.dtype, logits.shape, logits.ndim - 1)
    return _pick(logits, index), jnp.where(index[..., None] == values, change, 0.0).sum(-1)


@struct.dataclass
class CategoricalRecord:
    """Independent categorical variables over 0..K-1. `logits`: `[B, *event, K]`, unnormalised."""

    logits: Array
    min_probability: float = struct.field(pytree_node=False, default=0.0)

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """sum_d log softmax(logits_d)[x_d], nats; -inf where a value is not one of 0..K-1."""
        index = x.astype(jnp.int32)  # first of all: uint8 would compare with 256 as with 0
        log_p = _pick(self.logits, index) - jax.nn.logsumexp(self.logits, axis=-1)
        allowed = (index >= 0) & (index < self.logits.shape[-1]) & (x == index)
        return sum_event(jnp.where(allowed, _clip_log(log_p, self.min_probability), -jnp.inf))

    def sample(self, key: Key[Array, ""]) -> Num[Array, "batch ..."]:
        """Integers 0..K-1, int32, by inversion: one uniform number an element instead of one for each of K classes.

        The cumulative sums are a product with a triangle of ones, which every backend does fast (on a CPU
        `jnp.cumsum` takes twice as long at 64 images and three times at 1,024, Gumbel noise five and ten times).
        """
        k = self.logits.shape[-1]
        weights = jnp.exp(self.logits - self.logits.max(-1, keepdims=True))
        cumulative = jnp.matmul(weights, jnp.triu(jnp.ones((k, k), weights.dtype)), precision="highest")
        uniform = jax.random.uniform(key, (*weights.shape[:-1], 1), weights.dtype)
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
class Categorical(Likelihood):
    """Integer data 0..num_values-1, one softmax an element.

    Attributes:
      num_values: K, how many values an element can take.
      min_probability: clips probabilities to [min, 1 - min] inside log_prob. 0, the default, is exact; the article's
        code has 1e-7.
    """

    num_values: int = 256
    min_probability: float = 0.0

    def __post_init__(self) -> None:
        if self.num_values < 2:
            raise ValueError(f"Categorical(num_values={self.num_values}): at least 2 values are needed.")

    @property
    def parameters(self) -> int:
        """K logits."""
        return self.num_values

    def __call__(self, h: Array) -> CategoricalRecord:
        """`[B, *event, K]` to a record."""
        return CategoricalRecord(h, self.min_probability)

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a value that is not one of 0..num_values-1."""
        bad = ~((x >= 0) & (x < self.num_values) & (x == np.floor(x)))
        if bad.any():
            whole = bool(np.isfinite(x).all() and (x == np.floor(x)).all() and x.min() >= 0)
            hint = f"Use Categorical({int(x.max()) + 1})" if whole else "Quantise the data, or use Gaussian()"
            raise ValueError(
                f"{name} holds {_describe(x, bad)}, but Categorical({self.num_values}) allows the whole numbers "
                f"0..{self.num_values - 1} only. {hint}."
            )


# ---- Gaussian


@struct.dataclass
class GaussianRecord:
    """Independent Gaussians. `normal`: mean and log_std, `[B, *event]` each."""

    normal: Normal

    def log_prob(self, x: Num[Array, "batch ..."]) -> Float[Array, " batch"]:
        """Log density, nats."""
        return sum_event(self.normal.log_prob(x))

    def sample(self, key: Key[Array, ""]) -> Float[Array, "batch ..."]:
        """Real numbers."""
        return self.normal.sample(key)

    @property
    def mean(self) -> Array:
        """The mean."""
        return self.normal.mean

    @property
    def mode(self) -> Array:
        """The mean."""
        return self.normal.mean


@dataclasses.dataclass(frozen=True)
class Gaussian(Likelihood):
    """Real data: a mean and a scale for each element, log_std soft-clamped to (-bound, bound).

    The bound keeps the density of a constant element from growing without limit.
    """

    bound: float = 5.0

    @property
    def parameters(self) -> int:
        """Mean and log_std."""
        return 2

    def __call__(self, h: Array) -> GaussianRecord:
        """`[B, *event, 2]` to a record."""
        return GaussianRecord(Normal(h[..., 0], soft_clamp(h[..., 1], self.bound)))

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a value that is not finite."""
        bad = ~np.isfinite(x)
        if bad.any():
            raise ValueError(f"{name} holds {_describe(x, bad)}, but Gaussian() allows finite numbers only.")


def for_data(dataset: Any) -> Likelihood:
    """Suggests a likelihood for a `data.Dataset`: Bernoulli, Categorical(K) or Gaussian by its kind of value."""
    match dataset.kind.name:
        case "binary":
            return Bernoulli()
        case "integer":
            return Categorical(dataset.kind.num_values)
        case "real":
            return Gaussian()
    raise ValueError(f"Unknown kind of value {dataset.kind!r}: binary, integer and real are known.")
