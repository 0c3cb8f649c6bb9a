"""The linear hierarchical VAE, whose log p(x), posteriors, KLs and collapse thresholds have closed forms.

    p(x, z) = p(x | z1) p(z1 | z2) ... p(z_L)
    z_L ~ N(0, I),    z_l ~ N(z_{l+1} A_l + b_l, diag s_l^2),    x ~ N(z_1 A_0 + b_0, s_0^2 I)      (row vectors)

p(x) is a Gaussian; with one level it is probabilistic PCA. The exact posterior of a level,

    q(z_l | z_{l+1}, x) = N(m + (h_l - m P_l) C, C),    C = (P_l + diag s_l^-2)^-1,    m = z_{l+1} A_l + b_l,

has the precision P_l and the information h_l of what x says of z_l, which go up as in a Kalman smoother:

    P_1 = A_0 A_0^T / s_0^2                    h_1 = (x - b_0) A_0^T / s_0^2
    P_{l+1} = A_l (I + P_l S_l)^-1 P_l A_l^T   h_{l+1} = (h_l - b_l P_l) (I + S_l P_l)^-1 A_l^T,      S_l = diag s_l^2.

`linear_exact.py` computes everything else from the joint covariance of all variables, which is another way, so that
each checks the other.

Source: Tipping & Bishop (1999) for probabilistic PCA; Lucas et al. (2019), "Don't blame the ELBO!", for the linear VAE.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.descent import Pick, draw
from hvae_jax.distributions import Latent, MultivariateNormal, Normal, finite_exp, residual
from hvae_jax.likelihoods import GaussianRecord
from hvae_jax.models.base import HVAE
from hvae_jax.networks.mlp import check_event
from hvae_jax.networks.smoothed import Smoother, Smoothing
from hvae_jax.records import check_sizes
from hvae_jax.runtime.prng import split
from hvae_jax.trace import Level, Trace


class Link(NamedTuple):
    """p(z_l | z_{l+1}), or p(x | z_1): mean z A + b, standard deviations e^log_std.

    Attributes:
      a: A, `[size above, size]`.
      b: `[size]`.
      log_std: `[size]`.
    """

    a: Array
    b: Array
    log_std: Array


class Evidence(NamedTuple):
    """What x says of a level, as a Gaussian factor exp(z h^T - z P z^T / 2) of p(x | z_l).

    Attributes:
      precision: P, `[d, d]`, of any rank.
      information: h, `[B, d]`.
    """

    precision: Array
    information: Array


class LinearVAE(HVAE):
    """A hierarchy of linear maps and Gaussians, for real data: the oracle for bounds, rates and collapse.

        z_L ~ N(0, I),    z_l ~ N(z_{l+1} A_l + b_l, diag s_l^2),    x ~ N(z_1 A_0 + b_0, s_0^2 I)      (row vectors)

    Source: Tipping & Bishop (1999) for probabilistic PCA; Lucas et al. (2019) for the linear VAE.

    Attributes:
      latents: size of each latent vector, top first.
      inference: q(z_l | z_{l+1}, x). "linear": linear in x and z_{l+1}, with learned maps and a learned diagonal
        variance, an offset from the prior as in `TopDownVAE`. "exact": the posterior itself, so that every log weight
        is log p(x). "shifted": the posterior with its mean moved and its scales multiplied by learned numbers, for
        bounds whose gap is known.
      noise: s_0, standard deviation of x given z1; None learns one number. The threshold of the first level is its
        square, so that a fixed one decides which latents live; a learned one settles at the variance that the latents
        leave over.
      scales: standard deviations s_{L-1}, ..., s_1 of the levels below the top, top first; () learns them. While they
        are learned and so are the maps, level 1 can explain all that the levels above can: the ELBO then has optima
        with and without them.
      isometric: whether A_0, ..., A_{L-2} have orthonormal rows, so that levels below the top add the variances s_l^2
        and no more, and what exceeds these is the top's. A_{L-1}, from the top, is free. Sizes may not fall towards x.
      smoothing: smoothing of the means z_{l+1} A_l + b_l, with rho = 1 for none (`networks.smoothed`). With m and s of
        z_{l+1}'s prior the mean is (m + rho (z_{l+1} - m) + sqrt(1 - rho^2) s e) A_l + b_l, e ~ N(0, I/draws).

    Densities are those of real numbers: of integers, such as grey values, they are no probabilities, and their
    nats do not compare with those of other likelihoods.

    Raises ValueError if a size is below 1, the noise or a scale is not positive and finite, the number of scales is not
    that of the levels below the top, or there are isometries that one level does not have or that sizes do not allow;
    and for smoothing beside another inference than "linear".

    Example:
        >>> model, x = hv.models.LinearVAE((2,), inference="exact"), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> log_w = hv.log_weight(model.apply(variables, x, jax.random.key(2)))
        >>> bool(np.allclose(log_w, hv.models.ClosedForm(model, variables).log_px(x), atol=1e-3))  # log p(x)
        True
    """

    latents: tuple[int, ...] = (2, 2)
    inference: Literal["linear", "exact", "shifted"] = "linear"
    noise: float | None = None
    scales: tuple[float, ...] = ()
    isometric: bool = False
    smoothing: Smoothing = Smoothing()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "latents")
        if self.noise is not None and not 0.0 < self.noise < math.inf:
            raise ValueError(f"LinearVAE(noise={self.noise}): it has to be positive and finite, or None to learn it.")
        below = len(self.latents) - 1
        if len(self.scales) not in (0, below):
            raise ValueError(
                f"LinearVAE(scales={self.scales}): {len(self.latents)} levels need {below}, one for each level below "
                "the top, top first; () learns them."
            )
        if not all(0.0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"LinearVAE(scales={self.scales}): all have to be positive and finite.")
        if self.smoothing.rho != 1.0 and self.inference != "linear":
            raise ValueError(
                f"LinearVAE(inference={self.inference!r}, smoothing={self.smoothing}): the posterior has another form "
                "where the maps are smoothed; take linear posteriors."
            )
        if self.isometric and not below:
            raise ValueError("LinearVAE(isometric=True): with one level there is no map below the top one's.")
        if self.isometric and list(self.latents[1:]) != sorted(self.latents[1:]):
            raise ValueError(
                f"LinearVAE(latents={self.latents}, isometric=True): a map with orthonormal rows cannot lead to fewer "
                "numbers: below the top, let the sizes rise towards x."
            )

    @property
    def num_levels(self) -> int:
        """L, the number of latents."""
        return len(self.latents)

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        event = self._event(x)
        links = self._links(math.prod(event))
        flat = None if x is None else x.reshape(n, -1).astype(jnp.promote_types(x.dtype, jnp.float32))
        evidence = {} if flat is None or self.inference == "linear" else self._ascend(links, flat)

        smoother, key, decoder_key = self.smoothing.begin(self, key)
        if smoother is not None and self.inference != "linear":
            raise ValueError(f"LinearVAE(inference={self.inference!r}): only linear posteriors go with smoothing.")
        levels: list[Level] = []
        # from the top down; level 1 is next to x
        names = range(self.num_levels, 0, -1)
        for level, level_key, pick in zip(names, split(key, self.num_levels), picks, strict=True):
            size = self.latents[-level]
            if not levels:
                prior = Normal.standard((n, size))
            else:
                link, own_key = links[level], None
                if smoother is not None:
                    own_key, level_key = split(level_key)
                mean = _mean(link, levels[-1], smoother, own_key)
                prior = Normal(mean, jnp.broadcast_to(link.log_std[None], mean.shape))
            posterior: Latent | None = None
            if flat is not None:
                above = levels[-1].z if levels else None
                if self.inference == "linear":
                    posterior = residual(prior, self._offset(level, above, flat))
                else:
                    posterior = self._posterior(level, prior, evidence[level])
            levels.append(draw(level_key, prior, posterior, pick, name=f"z{level}"))

        link = links[0]
        mean = _mean(link, levels[-1], smoother, decoder_key if smoother is not None and smoother.decoder else None)
        normal = Normal(mean, jnp.broadcast_to(link.log_std[None], mean.shape))
        x_dist = GaussianRecord(jax.tree.map(lambda leaf: leaf.reshape(n, *event), normal))
        return Trace(None if x is None else x_dist.log_prob(x), tuple(levels), x_dist)

    def _event(self, x: Array | None) -> tuple[int, ...]:
        """Shape of one x, which the parameter `bias_x` records."""
        if self.has_variable("params", "bias_x"):
            event = tuple(self.get_variable("params", "bias_x").shape)
            if x is not None:
                check_event(event, x)
            return event
        if x is None:
            raise ValueError("The shape of the data is not known yet: initialise the model with an x first.")
        width = math.prod(x.shape[1:])
        if self.isometric and width < self.latents[-1]:
            raise ValueError(
                f"LinearVAE(latents={self.latents}, isometric=True): x has {width} numbers, fewer than z1."
            )
        self.param("bias_x", nn.initializers.zeros, x.shape[1:], jnp.float32)
        return x.shape[1:]

    def _links(self, width: int) -> dict[int, Link]:
        """p(z_l | z_{l+1}) by level l, p(x | z_1) as level 0, from the parameters.

        Args:
          width: number of elements of x.
        """
        # rows of norm 0.9, orthogonal where they can be: every level is heard in x at the start
        orthogonal, found = nn.initializers.orthogonal(0.9), {}
        scales = dict(zip(range(self.num_levels - 1, 0, -1), self.scales, strict=False))
        for level in range(self.num_levels):
            name = str(level) if level else "_x"
            above = self.latents[-1 - level]
            size = self.latents[-level] if level else width
            a = self.param(f"kernel{name}", orthogonal, (above, size), jnp.float32)
            if self.isometric and level < self.num_levels - 1:
                a = orthonormal_rows(a)
            if level:
                b = self.param(f"bias{level}", nn.initializers.zeros, (size,), jnp.float32)
                fixed, shape = scales.get(level), (size,)
            else:
                b, fixed, shape = self.get_variable("params", "bias_x").reshape(-1), self.noise, ()
            if fixed is None:
                log_std = self.param(f"log_std{name}", nn.initializers.zeros, shape, jnp.float32)
            else:
                log_std = jnp.asarray(math.log(fixed), a.dtype)
            found[level] = Link(a, b, jnp.broadcast_to(log_std, (size,)))
        return found

    def _ascend(self, links: dict[int, Link], x: Array) -> dict[int, Evidence]:
        """What x `[B, D]` says of each level, by level: the recursion at the top of this file."""
        a, b, log_std = links[0]
        scaled = a * finite_exp(-2.0 * log_std)[None]  # [d_1, D]
        found = {1: Evidence(scaled @ a.T, (x - b[None]) @ scaled.T)}
        for level in range(1, self.num_levels):
            (a, b, log_std), (precision, information) = links[level], found[level]
            gain = _damped(precision, log_std)  # (I + P S)^-1
            above = a @ gain @ precision @ a.T
            told = (information - (b @ precision)[None]) @ gain.T @ a.T
            # symmetric but for rounding, which a Cholesky factorisation would amplify
            found[level + 1] = Evidence(0.5 * (above + above.T), told)
        return found

    def _posterior(self, level: int, prior: Normal, evidence: Evidence) -> MultivariateNormal:
        """q(z_l | z_{l+1}, x): the exact posterior, or shifted from it by learned numbers."""
        log_std = prior.log_std[0]  # the same for each example
        covariance = finite_exp(2.0 * log_std)[:, None] * _damped(evidence.precision, log_std)  # S (I + P S)^-1
        covariance = 0.5 * (covariance + covariance.T)
        mean = prior.mean + (evidence.information - prior.mean @ evidence.precision) @ covariance
        factor = jnp.linalg.cholesky(covariance)  # [d, d]
        if self.inference == "shifted":
            shape = (self.latents[-level],)
            mean = mean + self.param(f"off_mean{level}", nn.initializers.constant(0.3), shape, jnp.float32)[None]
            log_scale = self.param(f"off_log_std{level}", nn.initializers.constant(0.1), shape, jnp.float32)
            factor = jnp.exp(log_scale)[:, None] * factor
        return MultivariateNormal(mean, jnp.broadcast_to(factor[None], (len(mean), *factor.shape)))

    def _offset(self, level: int, above: Array | None, x: Array) -> Normal:
        """The learned offset of q(z_l | z_{l+1}, x) from its prior: linear in x `[B, D]` and in z_{l+1}."""
        size = self.latents[-level]
        # so small that q starts near the prior: x may have values of hundreds
        tiny = nn.initializers.variance_scaling(1e-4, "fan_in", "normal")
        mean = x @ self.param(f"q{level}_from_x", tiny, (x.shape[1], size), jnp.float32)
        if above is not None:
            mean = mean + above @ self.param(f"q{level}_from_z", tiny, (above.shape[1], size), jnp.float32)
        bias = self.param(f"q{level}_bias", nn.initializers.zeros, (size,), jnp.float32)
        log_std = self.param(f"q{level}_log_std", nn.initializers.zeros, (size,), jnp.float32)
        return Normal(mean + bias[None], jnp.broadcast_to(log_std[None], mean.shape))


def _mean(link: Link, above: Level, smoother: Smoother | None, key: Array | None) -> Array:
    """z A + b, smoothed if there is a key for the noise, `[B, size]`."""

    def f(z: Array) -> Array:
        return z @ link.a + link.b[None]

    if smoother is None or key is None:
        return f(above.z)
    assert isinstance(above.p, Normal)
    return smoother(f, above.z, above.p.mean, above.p.std, key)


def orthonormal_rows(a: Array) -> Array:
    """The orthonormal rows that Gram-Schmidt makes of the rows of a, `[m, n]`, m at most n."""
    q, r = jnp.linalg.qr(a.T)
    # with a positive diagonal of R the factorisation is unique, whatever the backend
    return (q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0).astype(a.dtype)[None]).T


def _damped(precision: Array, log_std: Array) -> Array:
    """(I + P S)^-1, `[d, d]`, S = diag e^(2 log_std): defined for a P of any rank."""
    eye = jnp.eye(len(log_std), dtype=precision.dtype)
    return jnp.linalg.solve(eye + precision * finite_exp(2.0 * log_std)[None], eye)
