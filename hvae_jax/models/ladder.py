"""The Ladder VAE of the paper: latent vectors, any number of levels.

    p(x, z) = p(x | z1) p(z1 | z2) ... p(z_L)          every Gaussian diagonal, p(z_L) = N(0, I)
    q(z | x) = q(z_L | x) q(z_{L-1} | z_L, x) ... q(z1 | z2, x)

A deterministic path leads up, d_l = f_l(d_{l-1}), and gives for each latent the evidence of x alone, N(m_l, var_l). On
the top-down path the posterior is the normalised product of the evidence and the prior N(m_p, var_p),

    1/var_q = 1/var_l + 1/var_p,          m_q = var_q (m_l/var_l + m_p/var_p),

and at the top the evidence itself. No prior depends on its own level's sample, so every KL is analytic.

Source: Soenderby et al. (2016), whose equations 17 to 19 are the merge, and where the paper is silent their code
(casperkaae/LVAE): f_l is twice linear, batch norm, leaky ReLU; means and variances have batch norm too; a variance is
softplus(1 + a) + 1e-5. Departs from both in the rates: theirs are log-ratios at the sample, with the same mean. Their
warm-up is a beta schedule of the objective. For latents that are feature maps, and the merge by concatenation, see
`conv_ladder.py`.
"""

from typing import Literal

from flax import linen as nn
from jax import Array
from jaxtyping import Float, Num

from hvae_jax.descent import Pick, draw
from hvae_jax.distributions import Normal, precision_weighted, residual
from hvae_jax.likelihoods import Bernoulli, Likelihood
from hvae_jax.models.base import HVAE
from hvae_jax.models.pieces import gaussian
from hvae_jax.networks.activations import leaky_relu
from hvae_jax.networks.computing import ComputeDtype, call, widen
from hvae_jax.networks.mlp import BatchNorm, Readout, check_event, one_hot, uniform_fan_in
from hvae_jax.networks.scale_head import ScaleHead
from hvae_jax.records import check_sizes
from hvae_jax.runtime.prng import split
from hvae_jax.trace import Level, Trace

LadderMerge = Literal["precision", "residual"]


class _Linear(nn.Module):
    """A linear layer followed by batch norm, whose shift is its bias; without batch norm the layer has a bias."""

    features: int
    normalise: bool
    dtype: ComputeDtype

    @nn.compact
    def __call__(self, v: Num[Array, "batch inputs"], *, train: bool) -> Float[Array, "batch features"]:
        init = uniform_fan_in(v.shape[-1])
        v = nn.Dense(self.features, not self.normalise, self.dtype, kernel_init=init, bias_init=init, name="linear")(v)
        return BatchNorm(name="norm")(v, train=train) if self.normalise else v


class _Deterministic(nn.Module):
    """d = f(v): twice linear, batch norm, leaky ReLU."""

    features: int
    normalise: bool
    dtype: ComputeDtype

    @nn.compact
    def __call__(self, v: Num[Array, "batch inputs"], *, train: bool) -> Float[Array, "batch features"]:
        for name in ("first", "second"):
            v = leaky_relu(_Linear(self.features, self.normalise, self.dtype, name=name)(v, train=train))
        return v


class LadderVAE(HVAE):
    """The Ladder VAE. The defaults are the paper's five levels for MNIST.

        p(x, z) = p(x | z1) p(z1 | z2) ... p(z_L)
        q(z | x) = q(z_L | x) q(z_{L-1} | z_L, x) ... q(z1 | z2, x)
        1/var_q = 1/var_l + 1/var_p,    m_q = var_q (m_l/var_l + m_p/var_p)

    with the evidence N(m_l, var_l) of x alone and the prior N(m_p, var_p).

    Source: Soenderby et al. (2016), equations 17 to 19, and their code where the paper is silent.

    Attributes:
      latents: size of each latent vector, top first.
      hidden: width of the bottom-up and the top-down network of each level, top first.
      merge: how the evidence and the prior give the posterior. "precision": the product above. "residual": the prior
        with its mean moved by m_l and its variance multiplied by var_l.
      share: whether the evidence is merged with the generative prior; otherwise q has top-down networks of its own, of
        the same shape, as in the code by default.
      only_mu_up: whether f_{l+1} reads m_l instead of d_l, as in the code's published runs.
      normalise: whether there is batch norm.
      head: how a linear layer's output becomes a variance; "softplus_var" is the paper's, "log_var" is e^a.
      clamp: bounds of the log variances; None for none, as in the paper.
      likelihood: p(x | z1), a family from `hvae_jax.likelihoods`.
      dtype: precision of products and activations: "bfloat16" takes less memory and uses the fast units of a TPU or
        GPU; None is the precision of the parameters. Parameters, gradients, statistics, latents, KLs and likelihoods
        are float32 either way.
      remat: whether the backward pass recomputes each network's activations instead of storing them: less memory for
        about a third more arithmetic.

    Raises ValueError if latents and hidden differ in length, a size is below 1, or merge or dtype is not known.

    Example:
        >>> hv.models.LadderVAE().num_levels
        5
    """

    latents: tuple[int, ...] = (4, 8, 16, 32, 64)
    hidden: tuple[int, ...] = (32, 64, 128, 256, 512)
    merge: LadderMerge = "precision"
    share: bool = True
    only_mu_up: bool = False
    normalise: bool = True
    head: ScaleHead = ScaleHead("softplus_var")
    clamp: tuple[float, float] | None = (-7.0, 7.0)
    likelihood: Likelihood = Bernoulli()
    dtype: ComputeDtype = None
    remat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "latents", "hidden")
        if len(self.hidden) != len(self.latents):
            raise ValueError(
                f"LadderVAE(latents={self.latents}, hidden={self.hidden}): {len(self.latents)} levels but "
                f"{len(self.hidden)} widths. Give one a level, top first."
            )

    @property
    def num_levels(self) -> int:
        """L, the number of latents."""
        return len(self.latents)

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        one_hot(y, 0, n)  # raises ValueError for labels
        # level to size, in the order in which latents are drawn: L, ..., 1
        sizes = dict(zip(range(self.num_levels, 0, -1), self.latents, strict=True))
        readout = Readout(self.likelihood.parameters, self.dtype, self.likelihood.channels, name="readout")

        evidence: dict[int, Normal] = {}
        if x is not None:
            check_event(readout.event(), x)
            d = self.likelihood.as_input(x).reshape(n, -1)  # d_0, [n, pixels]
            for level in range(1, self.num_levels + 1):
                d = self._path(f"up{level}", level, d, train)  # [n, hidden]
                evidence[level] = self._normal(f"q{level}", sizes[level], d, train)
                # with only_mu_up the path continues from the mean, [n, latents], as in the code
                d = evidence[level].mean if self.only_mu_up else d

        levels: list[Level] = []
        for level, level_key, pick in zip(sizes, split(key, len(sizes)), picks, strict=True):
            above = levels[-1].z if levels else None
            prior = self._prior("", level, sizes[level], above, n, train)
            posterior = evidence.get(level)  # None without x
            # at the top the evidence alone is the posterior
            if posterior is not None and above is not None:
                # the posterior may have a top-down path of its own, which the prior's networks then do not see
                merged = prior if self.share else self._prior("q_", level, sizes[level], above, n, train)
                merge = precision_weighted if self.merge == "precision" else residual
                posterior = merge(merged, posterior)
            levels.append(draw(level_key, prior, posterior, pick, name=f"z{level}"))

        # p(x | z1) reads z1 alone: the levels above reach x through it
        h = self._path("down1", 1, levels[-1].z, train)
        x_dist = self.likelihood(widen(readout(h, None if x is None else x.shape[1:])))
        return Trace(None if x is None else x_dist.log_prob(x), tuple(levels), x_dist)

    def _prior(self, whose: str, level: int, size: int, above: Array | None, n: int, train: bool) -> Normal:
        """p(z_level | z above), N(0, I) at the top; from networks of q's own if `whose` is "q_"."""
        if above is None:
            return Normal.standard((n, size))
        h = self._path(f"{whose}down{level + 1}", level + 1, above, train)
        return self._normal(f"{whose}p{level}", size, h, train)

    def _path(self, name: str, level: int, v: Array, train: bool) -> Array:
        """The output `[B, hidden]` of a deterministic network of the level's width."""
        net = _Deterministic(self.hidden[-level], self.normalise, self.dtype, name=name)
        return call(net, v, train=train, remat=self.remat)

    def _normal(self, name: str, size: int, h: Array, train: bool) -> Normal:
        """The Gaussian whose mean and variance a linear layer gives."""
        # one layer for both: batch norm acts on each unit separately, so that two layers would compute the same
        layer = _Linear(2 * size, self.normalise, self.dtype, name=name)
        return gaussian(layer(h, train=train), self.head, self.clamp)


def casperkaae_mnist() -> LadderVAE:
    """The three levels of the command in the code's README; the paper's numbers come from five.

    Example:
        >>> hv.models.casperkaae_mnist().num_levels
        3
    """
    return LadderVAE(latents=(16, 32, 64), hidden=(128, 256, 512), share=False, only_mu_up=True, clamp=None)
