"""Distributions of latents: the records, their KL, the clamps, and the merges that make posteriors out of priors.

    record             z                    log_prob                kl in closed form       gradient through the sample
    Normal             [B, ...]             elementwise             with Normal             yes
    MultivariateNormal [B, d]               [B], joint density      with Normal as p        yes
    Known              [B, ...]             [B], 0                  not needed: -log p(z)   yes (z is given)
    OneHotCategorical  [B, ..., K]          [B, ...]                with its own kind       biased: straight-through
    BernoulliLatent    [B, ...]             elementwise             with its own kind       biased: straight-through
    NormalMixture      [B, ...]             [B], joint density      no                      none through the choice of k

All densities are in nats. They are elementwise where the elements are independent, and one number per example where
they are not; `sum_event` turns either into nats per example, `[B]`. Scales are kept as log standard deviations; names
with `log_var` stand for a log variance, `log_var = 2 log_std`.
"""

import math
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Key, Num

from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.runtime.prng import fused, split

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


def sum_event(values: Num[Array, "batch ..."]) -> Num[Array, " batch"]:
    """Sum over every axis but the first: elementwise nats to nats per example.

    Example:
        >>> print(hv.distributions.sum_event(jnp.ones((2, 3, 4))))
        [12. 12.]
    """
    return values.reshape(values.shape[0], -1).sum(axis=1)


def finite_exp(a: ArrayLike) -> Array:
    """e^a, bounded to the normal numbers of its dtype: neither 0 nor infinite. Its derivative is 0 beyond the bounds.

    0 times a scale or a precision is then 0, where an infinite one would give NaN.

    Example:
        >>> print(jnp.isfinite(hv.distributions.finite_exp(jnp.array([-1000.0, 1000.0]))))
        [ True  True]
    """
    a = jnp.asarray(a)  # a user's records may hold NumPy's arrays
    limits = jnp.finfo(a.dtype)
    # bounds rounded inwards: the logarithm of the largest number may round up, and its exponential is infinite
    low, high = (math.log(float(limit)) * (1.0 - float(limits.eps)) for limit in (limits.tiny, limits.max))
    return jnp.exp(bounded(a, low, high))


def bounded(a: ArrayLike, low: float, high: float) -> Array:
    """min(max(a, low), high); beyond the bounds the derivative is 0 even times infinity, where `jnp.clip` has NaN.

    Example:
        >>> print(hv.distributions.bounded(jnp.array([-3.0, 0.5, 3.0]), -1.0, 1.0))
        [-1.   0.5  1. ]
    """
    a = jnp.asarray(a)
    return jax.lax.clamp(jnp.asarray(low, a.dtype), a, jnp.asarray(high, a.dtype))


def _square(a: ArrayLike) -> Array:
    """a^2; where it overflows it is infinite, and its derivative is 0."""
    a = jnp.asarray(a)
    limits = jnp.finfo(a.dtype)
    most = math.sqrt(float(limits.max)) * (1.0 - float(limits.eps))
    return jnp.where(jnp.abs(a) > most, jnp.inf, bounded(a, -most, most) ** 2)


@runtime_checkable
class Latent(Protocol):
    """The distribution of a level, q or p: any record (a pytree of `[B, ...]` arrays) with these methods.

    A record whose samples carry the whole gradient of its parameters has `reparameterised = True`, which DReG and
    sticking-the-landing need. A record whose samples are a function of standard normal noise also has `from_noise` and
    `to_noise` (`FromNoise`). Records of p(x | z) are Latents too: they are the priors of observed levels.
    """

    def sample(self, key: Array, temperature: Array | float = 1.0) -> Array:
        """Draws z, `[B, ...]`. Temperature 1 is the distribution itself, 0 its mode."""
        ...

    def log_prob(self, z: Array) -> Array:
        """log density or log probability of z in nats: elementwise, or `[B]` where elements are not independent."""
        ...

    if TYPE_CHECKING:  # isinstance would compute properties, and an expectation may be a loop

        @property
        def mean(self) -> Array:
            """E[z], `[B, ...]`."""
            ...

        @property
        def mode(self) -> Array:
            """The sample at temperature 0, `[B, ...]`."""
            ...


@runtime_checkable
class FromNoise(Latent, Protocol):
    """A Latent whose samples are a function of standard normal noise of z's shape."""

    def from_noise(self, noise: Array, temperature: Array | float = 1.0) -> Array:
        """Turns noise into z."""
        ...

    def to_noise(self, z: Array) -> Array:
        """Turns z back into its noise at temperature 1."""
        ...

    if TYPE_CHECKING:

        @property
        def std(self) -> Array:
            """Standard deviation of each element."""
            ...


@struct.dataclass
class Normal:
    """A diagonal Gaussian N(mean, exp(log_std)^2), as a record.

    Attributes:
      mean: mean of each element, `[...]`.
      log_std: natural logarithm of the standard deviation, in the shape of `mean`.

    Example:
        >>> normal = hv.Normal(mean=jnp.zeros(2), log_std=jnp.log(jnp.array([1.0, 2.0])))
        >>> print(normal.log_prob(jnp.zeros(2)).round(3))  # -log(2 pi)/2 - log std
        [-0.919 -1.612]
    """

    mean: Array
    log_std: Array

    reparameterised = True

    @classmethod
    def from_log_var(cls, mean: Array, log_var: Array) -> "Normal":
        """N(mean, exp(log_var)), from a log variance."""
        return cls(mean, 0.5 * log_var)

    @classmethod
    def standard(cls, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> "Normal":
        """N(0, I) of the given shape. Its zeros are exact, so float32 loses no precision beside a float64 z."""
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    @property
    def std(self) -> Array:
        """Standard deviation, exp(log_std)."""
        return finite_exp(self.log_std)

    @property
    def log_var(self) -> Array:
        """Log variance, 2 log_std."""
        return 2.0 * self.log_std

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Array:
        """Draws z = mean + temperature * std * eps with eps ~ N(0, I), differentiable in mean and log_std.

        Args:
          key: consumed.
          temperature: factor of the standard deviation, broadcast against `mean`; 0 gives the mode exactly.
        Source: the reparameterisation of Kingma & Welling (2014), equation 10.
        """
        return self.from_noise(jax.random.normal(fused(key), self.mean.shape, self.mean.dtype), temperature)

    def from_noise(self, noise: Array, temperature: Array | float = 1.0) -> Array:
        """mean + temperature * std * noise, as `sample` computes it from its eps."""
        scale = jnp.asarray(temperature, self.mean.dtype)
        return self.mean + scale * self.std * noise

    def to_noise(self, z: Array) -> Array:
        """(z - mean) / std, the inverse of `from_noise` at temperature 1."""
        return (z - self.mean) * finite_exp(-self.log_std)

    @property
    def mode(self) -> Array:
        """The mean."""
        return self.mean

    def log_prob(self, z: Array) -> Array:
        """log N(z; mean, std^2) = -log(2 pi)/2 - log_std - ((z - mean)/std)^2/2, elementwise nats."""
        standardised = (z - self.mean) * finite_exp(-self.log_std)
        # The constant comes last, where the sum has the dtype of z: log_std of the top prior is float32 even beside a
        # float64 z.
        return -0.5 * _square(standardised) - self.log_std - _HALF_LOG_2PI


@struct.dataclass
class MultivariateNormal:
    """A Gaussian with correlated elements, N(mean, T T^T): z = mean + T eps, eps ~ N(0, I).

    Attributes:
      mean: `[B, d]`.
      scale_tril: T, the lower Cholesky factor of the covariance, with a positive diagonal, `[B, d, d]`.

    Example:
        >>> scale_tril = jnp.array([[[1.0, 0.0], [3.0, 4.0]]])  # T T^T has 1 and 3^2 + 4^2 on its diagonal
        >>> print(hv.distributions.MultivariateNormal(jnp.zeros((1, 2)), scale_tril).std)
        [[1. 5.]]
    """

    mean: Array
    scale_tril: Array

    reparameterised = True

    @property
    def std(self) -> Array:
        """Standard deviation of each element by itself, the root of the covariance's diagonal, `[B, d]`."""
        return jnp.sqrt(jnp.square(self.scale_tril).sum(-1))

    @property
    def log_det(self) -> Array:
        """log |T|, half the log-determinant of the covariance, `[B]`."""
        return jnp.log(jnp.diagonal(self.scale_tril, axis1=-2, axis2=-1)).sum(-1)

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Array:
        """Draws z = mean + temperature * T eps, differentiable in mean and T; temperature 0 gives the mean."""
        return self.from_noise(jax.random.normal(fused(key), self.mean.shape, self.mean.dtype), temperature)

    def from_noise(self, noise: Array, temperature: Array | float = 1.0) -> Array:
        """mean + temperature * T noise, as `sample` computes it from its eps."""
        scale = jnp.asarray(temperature, self.mean.dtype)
        # a sum of products, not a matrix product: accelerators would round its factors to fewer digits
        return self.mean + scale * (self.scale_tril * noise[:, None, :]).sum(-1)

    def to_noise(self, z: Array) -> Array:
        """T^-1 (z - mean), the inverse of `from_noise` at temperature 1."""
        offset = (z - self.mean)[..., None]
        return jax.scipy.linalg.solve_triangular(self.scale_tril, offset, lower=True)[..., 0]

    @property
    def mode(self) -> Array:
        """The mean."""
        return self.mean

    def log_prob(self, z: Array) -> Array:
        """log N(z; mean, T T^T) = -d log(2 pi)/2 - log |T| - |T^-1 (z - mean)|^2/2, `[B]` nats."""
        squares = _square(self.to_noise(z)).sum(-1)
        return -0.5 * squares - self.log_det - z.shape[-1] * _HALF_LOG_2PI


@struct.dataclass
class Known:
    """The posterior of a level that is a function of x, such as a smaller copy of the image: all mass on one value.

    log q = 0, so the level's rate is -log p(z | above). The ELBO is then a bound of log p(x) only if z takes countably
    many values: a density p(z | above) could grow without limit.

    Attributes:
      z: the known value, `[B, ...]`. Any latent given in its place counts as known too: log q is 0 at every value.

    Example:
        >>> print(hv.distributions.Known(jnp.ones((1, 3))).log_prob(jnp.ones((1, 3))))
        [0.]
    """

    z: Array

    reparameterised = True

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Array:
        """Returns z; the key is not used."""
        return self.z

    def log_prob(self, z: Array) -> Array:
        """0, `[B]`."""
        return jnp.zeros(z.shape[:1], jnp.float32)

    @property
    def mean(self) -> Array:
        """z."""
        return self.z

    @property
    def mode(self) -> Array:
        """z."""
        return self.z


def _check_estimator(owner: str, form: Any, relaxation: float) -> None:
    """Checks the form of a discrete latent's gradient and its relaxation; raises ValueError with the owner's name."""
    if form not in ("straight_through", "gumbel"):
        raise ValueError(f"{owner}(form={form!r}): it has to be 'straight_through' or 'gumbel'.")
    if not 0.0 < relaxation < math.inf:
        raise ValueError(f"{owner}(relaxation={relaxation}): it has to be positive and finite.")


@struct.dataclass
class OneHotCategorical:
    """Independent categorical variables of K classes; z is one-hot on its last axis.

    Samples are exact in both forms, and so are densities and bounds. The forms differ in the gradient that a sample
    passes to the logits, which is biased in both:

    "straight_through"   z + p - stop_gradient(p), p the probabilities        (Bengio et al., 2013)
    "gumbel"             z + s - stop_gradient(s), s = softmax((logits + Gumbel noise)/relaxation)
                                                                              (Jang et al., 2017, straight-through)

    Attributes:
      logits: `[B, ..., K]`, unnormalised.
      form: gradient estimator, one of the above.
      relaxation: temperature of the softmax in "gumbel"; smaller is less biased and noisier.

    Raises ValueError for another form, or a relaxation that is not positive and finite.

    Example:
        >>> classes = hv.distributions.OneHotCategorical(jnp.log(jnp.array([[1.0, 3.0]])))
        >>> print(classes.mean.round(3), classes.mode)
        [[0.25 0.75]] [[0. 1.]]
    """

    logits: Array
    form: Literal["straight_through", "gumbel"] = struct.field(pytree_node=False, default="straight_through")
    relaxation: float = struct.field(pytree_node=False, default=1.0)

    reparameterised = False

    def __post_init__(self) -> None:
        _check_estimator(type(self).__name__, self.form, self.relaxation)

    @property
    def log_probabilities(self) -> Array:
        """log softmax(logits), `[B, ..., K]`."""
        return jax.nn.log_softmax(self.logits)

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Array:
        """Draws a one-hot z from softmax(logits / temperature) by the Gumbel-max trick; 0 gives the likeliest class."""
        gumbel = jax.random.gumbel(fused(key), self.logits.shape, self.logits.dtype)
        # The temperature scales the noise instead of dividing the logits: the same argmax, and 0 is allowed.
        perturbed = self.logits + jnp.asarray(temperature, self.logits.dtype) * gumbel
        z = jax.nn.one_hot(perturbed.argmax(-1), self.logits.shape[-1], dtype=self.logits.dtype)
        soft = self.mean if self.form == "straight_through" else jax.nn.softmax(perturbed / self.relaxation)
        # The bracket is 0 and only carries the gradient. It comes first, so that z stays exactly 0 or 1.
        return jax.lax.stop_gradient(z) + (soft - jax.lax.stop_gradient(soft))

    def log_prob(self, z: Array) -> Array:
        """sum_k z_k log p_k, `[B, ...]`."""
        return (z * self.log_probabilities).sum(-1)

    @property
    def mean(self) -> Array:
        """The probabilities, `[B, ..., K]`."""
        return jax.nn.softmax(self.logits)

    @property
    def mode(self) -> Array:
        """The likeliest class, one-hot."""
        return jax.nn.one_hot(self.logits.argmax(-1), self.logits.shape[-1], dtype=self.logits.dtype)


@struct.dataclass
class BernoulliLatent:
    """Independent binary latents, 0 or 1.

    Samples are exact in both forms, as those of `OneHotCategorical`, whose forms these are for two classes. They differ
    in the gradient that a sample passes to the logits, which is biased in both:

    "straight_through"   z + p - stop_gradient(p), p the probability of a 1   (Bengio et al., 2013)
    "gumbel"             z + s - stop_gradient(s), s = sigmoid((logits + logistic noise)/relaxation)
                                                          (Maddison et al., 2017; Jang et al., 2017, straight-through)

    Logistic noise is the difference of two Gumbel variables.

    Attributes:
      logits: log(p/(1 - p)), p the probability of a 1, `[B, ...]`.
      form: gradient estimator, one of the above.
      relaxation: temperature of the sigmoid in "gumbel"; smaller is less biased and noisier.

    Raises ValueError for another form, or a relaxation that is not positive and finite.

    Example:
        >>> bits = hv.distributions.BernoulliLatent(jnp.array([0.0, 2.0]))
        >>> print(bits.mean.round(3))  # sigmoid(logits)
        [0.5   0.881]
    """

    logits: Array
    form: Literal["straight_through", "gumbel"] = struct.field(pytree_node=False, default="straight_through")
    relaxation: float = struct.field(pytree_node=False, default=1.0)

    reparameterised = False

    def __post_init__(self) -> None:
        _check_estimator(type(self).__name__, self.form, self.relaxation)

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Array:
        """Draws z, 1 with probability sigmoid(logits / temperature); temperature 0 gives the likelier value."""
        noise = jax.random.logistic(fused(key), self.logits.shape, self.logits.dtype)
        perturbed = self.logits + jnp.asarray(temperature, self.logits.dtype) * noise
        z = (perturbed > 0).astype(self.logits.dtype)
        soft = self.mean if self.form == "straight_through" else jax.nn.sigmoid(perturbed / self.relaxation)
        return z + (soft - jax.lax.stop_gradient(soft))

    def log_prob(self, z: Array) -> Array:
        """z log p + (1 - z) log(1 - p), elementwise."""
        return -z * jax.nn.softplus(-self.logits) - (1.0 - z) * jax.nn.softplus(self.logits)

    @property
    def mean(self) -> Array:
        """p, `[B, ...]`."""
        return jax.nn.sigmoid(self.logits)

    @property
    def mode(self) -> Array:
        """1 where p > 1/2."""
        return (self.logits > 0).astype(self.logits.dtype)


@struct.dataclass
class NormalMixture:
    """A mixture of K diagonal Gaussians over the whole of z: log p(z) = logsumexp_k (log w_k + log N(z; m_k, s_k^2)).

    Attributes:
      logits: log weights of the components, unnormalised, `[B, K]`.
      components: the Gaussians, mean and log_std `[B, K, ...]`.

    Example:
        >>> components = hv.Normal(jnp.array([[[-2.0], [2.0]]]), jnp.zeros((1, 2, 1)))
        >>> mixture = hv.distributions.NormalMixture(jnp.log(jnp.array([[1.0, 3.0]])), components)
        >>> print(mixture.mean.round(3))  # (-2 + 3 * 2)/4
        [[1.]]
    """

    logits: Array
    components: Normal

    reparameterised = False

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Array:
        """Draws a component, then z from it; no gradient reaches the weights.

        The temperature scales the Gumbel noise of the choice and the standard deviation; 0 gives `mode`.
        """
        component_key, key = split(key)
        temperature = jnp.asarray(temperature, self.logits.dtype)
        gumbel = jax.random.gumbel(fused(component_key), self.logits.shape, self.logits.dtype)
        chosen = (self.logits + temperature * gumbel).argmax(-1)
        # At 0 the argmax is the component of largest weight, whose mean need not have the highest density.
        # a condition, not a select: the densest component costs K times as much as everything else here
        chosen = jax.lax.cond(temperature == 0.0, lambda: self._densest, lambda: chosen)
        return Normal(self._of(chosen, self.components.mean), self._of(chosen, self.components.log_std)).sample(
            key, temperature
        )

    def log_prob(self, z: Array) -> Array:
        """log p(z), `[B]`."""
        each = self.components.log_prob(z[:, None])  # [B, K, ...]
        by_component = each.reshape(*self.logits.shape, -1).sum(-1)  # [B, K]
        # If all components are -inf, so far is z from them, logsumexp has the gradient 0/0.
        by_component = bounded(by_component, float(jnp.finfo(each.dtype).min), math.inf)
        return jax.nn.logsumexp(jax.nn.log_softmax(self.logits) + by_component, axis=-1)

    @property
    def mean(self) -> Array:
        """sum_k w_k m_k."""
        weights = jax.nn.softmax(self.logits)
        return (beside(weights, self.components.mean) * self.components.mean).sum(1)

    @property
    def mode(self) -> Array:
        """The component mean with the highest density: close to the true mode if the components lie apart."""
        return self._of(self._densest, self.components.mean)

    @property
    def _densest(self) -> Array:
        """Index of the component whose mean has the highest density, `[B]`."""
        # A map, one mean at a time: all pairs at once, `[B, K, K, ...]`, would not fit into memory.
        return jax.lax.map(self.log_prob, jnp.moveaxis(self.components.mean, 1, 0)).argmax(0)

    def _of(self, chosen: Array, leaf: Array) -> Array:
        """Takes each example's chosen component from leaf: `[B, K, ...]` to `[B, ...]`."""
        return jnp.take_along_axis(leaf, beside(chosen[:, None], leaf), axis=1)[:, 0]


@struct.dataclass
class Either:
    """A level's q by a traced choice between two records of different kinds: `inferred` if true, else `prior`.

    Attributes:
      choice: whether z is inferred, bool `[]`.
      inferred, prior: Latents over z of the same shape.

    Example:
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))
        >>> print(hv.distributions.Either(jnp.array(True), q, p).mean)
        [[1. 1.]]
    """

    choice: Array
    inferred: Any
    prior: Any

    reparameterised = False

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Array:
        """Draws from the chosen record."""
        return jnp.where(self.choice, self.inferred.sample(key, temperature), self.prior.sample(key, temperature))

    def log_prob(self, z: Array) -> Array:
        """log density of the chosen record, `[B]`."""
        return jnp.where(self.choice, sum_event(self.inferred.log_prob(z)), sum_event(self.prior.log_prob(z)))

    @property
    def mean(self) -> Array:
        """Mean of the chosen record."""
        return jnp.where(self.choice, self.inferred.mean, self.prior.mean)

    @property
    def mode(self) -> Array:
        """Mode of the chosen record."""
        return jnp.where(self.choice, self.inferred.mode, self.prior.mode)


def beside(values: Array, leaf: Array) -> Array:
    """Append axes of size 1 to values, `[B]` or `[B, K]`, until they have as many axes as leaf, to be broadcast.

    Example:
        >>> hv.distributions.beside(jnp.ones(3), jnp.ones((3, 8, 8))).shape
        (3, 1, 1)
    """
    return values.reshape(*values.shape, *(1,) * (leaf.ndim - values.ndim))


@overload
def kl(q: Normal, p: Normal) -> Array: ...
@overload
def kl(q: Latent, p: Latent) -> Array | None: ...
def kl(q: Latent, p: Latent) -> Array | None:
    """KL(q || p) in closed form, nats, elementwise; None for a pair of records that has no closed form.

    Where it is None, log q - log p at a sample of q has the same expectation, and `draw` takes that.

    Normal with Normal: (e^{2d} - 1)/2 - d + ((m_q - m_p)/s_p)^2/2 with d = log s_q - log s_p. `expm1` keeps it
    accurate, and not negative beyond rounding, where q is close to p.
    MultivariateNormal with Normal: sum_i [((C_ii + (m_q - m_p)_i^2)/s_p_i^2 - 1)/2 + log s_p_i] - log |T|, C = T T^T;
    one number per example, `[B]`.
    OneHotCategorical: sum_k q_k (log q_k - log p_k). BernoulliLatent: the same with two classes.
    Source: Kingma & Welling (2014), appendix B, for two general Gaussians.

    Example:
        >>> q, p = hv.Normal(jnp.ones(1), jnp.zeros(1)), hv.Normal.standard((1,))
        >>> print(hv.kl(q, p))  # (m_q - m_p)^2/2 at equal scales
        [0.5]
    """
    if not has_closed_kl(q, p):
        return None
    if isinstance(q, Normal) and isinstance(p, Normal):
        d = q.log_std - p.log_std
        offset = (q.mean - p.mean) * finite_exp(-p.log_std)
        return 0.5 * jnp.expm1(2.0 * d) - d + 0.5 * _square(offset)
    if isinstance(q, MultivariateNormal) and isinstance(p, Normal):
        scale = finite_exp(-p.log_std)
        squares = _square(q.std * scale) + _square((q.mean - p.mean) * scale)
        return (0.5 * (squares - 1.0) + p.log_std).sum(-1) - q.log_det
    if isinstance(q, OneHotCategorical) and isinstance(p, OneHotCategorical):
        return (q.mean * (q.log_probabilities - p.log_probabilities)).sum(-1)
    if isinstance(q, BernoulliLatent) and isinstance(p, BernoulliLatent):
        ones = q.mean * (jax.nn.softplus(-p.logits) - jax.nn.softplus(-q.logits))
        return ones + (1.0 - q.mean) * (jax.nn.softplus(p.logits) - jax.nn.softplus(q.logits))
    return None


def has_closed_kl(q: Any, p: Any) -> bool:
    """Whether `kl(q, p)` has a closed form: not for a subclass, whose density may be another.

    Example:
        >>> hv.distributions.has_closed_kl(hv.Normal.standard((1,)), hv.Normal.standard((1,)))
        True
    """
    if type(q) is MultivariateNormal:
        return type(p) is Normal
    return type(q) is type(p) and type(q) in (Normal, OneHotCategorical, BernoulliLatent)


def residual(prior: Normal, delta: Normal) -> Normal:
    """Residual merge: N(m_p + dm, (s_p ds)^2), the posterior as an offset from its prior.

    Args:
      prior: p(z | above).
      delta: output of the bottom-up path: `mean` is dm, `log_std` is log ds.
    Source: Vahdat & Kautz (2020), section 3.2; the article's top-down VAE, steps 4 and 6.

    Example:
        >>> prior, delta = hv.Normal(jnp.array([5.0]), jnp.zeros(1)), hv.Normal(jnp.ones(1), jnp.log(jnp.array([0.5])))
        >>> q = hv.residual(prior, delta)
        >>> print(q.mean, q.std.round(3))
        [6.] [0.5]
    """
    return Normal(prior.mean + delta.mean, prior.log_std + delta.log_std)


def kl_residual(prior: Latent, delta: Latent) -> Array:
    """KL(residual(prior, delta) || prior) = (dm^2/s_p^2 + ds^2 - log ds^2 - 1)/2, elementwise nats.

    Equal to `kl(residual(prior, delta), prior)`, without the cancellation of m_p in float32.
    Source: Vahdat & Kautz (2020), equation 2, as printed in the article.
    Raises ValueError unless both are Gaussians.

    Example:
        >>> prior, delta = hv.Normal(jnp.array([5.0]), jnp.zeros(1)), hv.Normal(jnp.ones(1), jnp.zeros(1))
        >>> print(hv.kl_residual(prior, delta), hv.kl(hv.residual(prior, delta), prior))
        [0.5] [0.5]
    """
    if not (isinstance(prior, Normal) and isinstance(delta, Normal)):
        raise ValueError(
            f"kl_residual(prior={type(prior).__name__}, delta={type(delta).__name__}): it has a closed form for two "
            "Normals only. Take log q - log p at the sample, as `draw` does."
        )
    scaled = delta.mean * finite_exp(-prior.log_std)
    return 0.5 * (_square(scaled) + jnp.expm1(2.0 * delta.log_std)) - delta.log_std


def precision_weighted(prior: Normal, evidence: Normal) -> Normal:
    """Precision-weighted merge: the normalised product prior * evidence of two Gaussians in z.

    With precisions 1/s^2: s_q^-2 = s_p^-2 + s_e^-2 and m_q = s_q^2 (m_p/s_p^2 + m_e/s_e^2), computed in log space,
    log s_q^2 = -logaddexp(-log s_p^2, -log s_e^2), so that no scale overflows. The weight of the evidence is the
    logistic sigmoid of the difference of log precisions.
    Source: Soenderby et al. (2016), equations 17 to 19.

    Example:
        >>> prior, evidence = hv.Normal(jnp.zeros(1), jnp.zeros(1)), hv.Normal(jnp.array([2.0]), jnp.zeros(1))
        >>> merged = hv.precision_weighted(prior, evidence)
        >>> print(merged.mean.round(3), (merged.std**2).round(3))  # equal precisions: half way, with half the variance
        [1.] [0.5]
    """
    log_var = -jnp.logaddexp(-prior.log_var, -evidence.log_var)
    weight = jax.nn.sigmoid(prior.log_var - evidence.log_var)
    return Normal(prior.mean + weight * (evidence.mean - prior.mean), 0.5 * log_var)


def hard_clamp(values: Float[Array, "..."], low: float, high: float) -> Float[Array, "..."]:
    """min(max(values, low), high): exact inside, no gradient outside (the article's hardtanh).

    Example:
        >>> print(hv.distributions.hard_clamp(jnp.array([-9.0, 0.0, 3.0]), -7.0, 2.0))
        [-7.  0.  2.]
    """
    return jnp.clip(values, low, high)


def soft_clamp(values: Float[Array, "..."], bound: float) -> Float[Array, "..."]:
    """bound * tanh(values / bound): inside (-bound, bound), slope 1 at 0 and never 0.

    Source: NVAE's soft clamp with bound 5 (Vahdat & Kautz, 2020, appendix).

    Example:
        >>> print(hv.distributions.soft_clamp(jnp.array([0.1, 100.0]), 5.0).round(2))
        [0.1 5. ]
    """
    # tanh is 1 there already; an infinite derivative from outside stays 0 instead of becoming NaN
    return bound * jnp.tanh(bounded(values / bound, -20.0, 20.0))
