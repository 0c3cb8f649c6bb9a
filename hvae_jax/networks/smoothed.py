"""Smoothing of networks that read a latent, by the Ornstein-Uhlenbeck semigroup.

For a function f of z ~ N(m, diag s^2), with u = (z - m)/s,

    (U_rho f)(z) = E f(m + s (rho u + sqrt(1 - rho^2) eps)),    eps ~ N(0, I).

U_rho multiplies the Hermite coefficient of order k of f by rho^k, so that Var(U_rho f) <= rho^2 Var f, and the highest
frequencies fade first. U_1 f is f; U_0 f is E f, a constant. The mean over eps is taken over `draws` of them:

    f_S(z) = 1/S sum_i f(m + s (rho u + sqrt(1 - rho^2) eps_i)).

A model that computes its priors by f_S has the noise eps as one more latent, whose posterior is its prior and whose
ratio is therefore 1. E over eps of the ELBO is then below E log p(x | eps), which is below log p(x) = log E p(x | eps),
and the mean of the weights w is p(x), for any number of draws. f_S is unbiased for U_rho f; what it adds to that is
noise, of a variance that falls as 1/S.

Source: Pervez & Gavves (2021), "Spectral Smoothing Unveils Phase Transitions in Hierarchical Variational Autoencoders".
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from hvae_jax.networks.computing import Drawing
from hvae_jax.networks.mlp import join
from hvae_jax.records import check_fields, check_sizes, checked
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.runtime.prng import fused, split

# Collection of variables, never saved, whose `rho` takes the place of the model's setting in a pass: it may be traced.
COLLECTION = "smoothing"


def smooth(
    f: Callable[[Array], Array],
    z: Float[Array, "batch units"],
    mean: Float[Array, "batch units"],
    std: Float[Array, "batch units"],
    rho: ArrayLike,
    noise: Float[Array, "batch draws units"],
) -> Array:
    """f_S(z), `[B, ...]`: the mean of f over the points m + s (rho u + sqrt(1 - rho^2) eps), one for each eps.

    Args:
      f: function of points `[B * S, d]`, the S points of an example next to each other; it is called once.
      mean, std: m and s of z's prior.
      rho: from 0 to 1; may be traced.
      noise: eps. With the nodes of a quadrature in place of draws the mean is U_rho f itself, if their weights are
        equal.
    """
    rho = jax.lax.stop_gradient(jnp.asarray(rho, z.dtype))
    # m + rho (z - m), and not m + s rho u: nothing is divided by s, and at rho = 0 no bit of z is left
    middle = mean + rho * (z - mean)
    points = middle[:, None] + jnp.sqrt(1.0 - rho**2) * std[:, None] * noise  # [B, S, d]
    # where rho is traced, 1 still means z itself
    points = jnp.where(rho == 1.0, z[:, None], points)
    # an example's draws stay together, so that a batch that is split over devices stays where it is
    values = f(points.reshape(-1, z.shape[-1]))
    return values.reshape(*points.shape[:2], *values.shape[1:]).mean(1)


def spread(values: Array | None, draws: int) -> Array | None:
    """`[B, ...]` to `[B * S, ...]`, S copies of each next to each other, as `smooth` has its points."""
    return None if values is None else jnp.repeat(values, draws, axis=0)


class Above(NamedTuple):
    """What a `Smoothed` network reads.

    Attributes:
      z: latent, `[B, d]`.
      mean, std: m and s of the prior that z comes from, `[B, d]`.
      beside: what the network reads beside z and is not smoothed, such as a label, `[B, F]`; None for nothing.
    """

    z: Array
    mean: Array
    std: Array
    beside: Array | None = None


class Smoothed(Drawing):
    """f_S of a network: the mean of its outputs at `draws` points around z, in place of its output at z.

        f_S(z) = 1/S sum_i f(m + s (rho u + sqrt(1 - rho^2) eps_i)),    u = (z - m)/s,    eps_i ~ N(0, I)

    Source: Pervez & Gavves (2021).

    It has no parameters of its own. As a replacement of a prior's network, such as
    `TopDownVAE(prior=(Smoothed(MLP((64,), 32), rho=0.8),))`, it gets m and s from the model; called with an array, it
    takes z ~ N(0, I). In training mode batch norm sees all points of a batch. A model splits a key off for it whatever
    its rho, so that samples differ from those of a model without it; the setting `Smoothing` splits none for rho = 1.

    Attributes:
      network: f, called as `network(v, train=train)`; v is `[B * S, d]`, or `[B * S, d + F]` with something beside z.
      rho: from 0, a constant, to 1, the network itself.
      draws: S, number of eps for each z, 1 or more.

    Raises ValueError for a rho outside [0, 1] or fewer than one draw.

    Example:
        >>> network = hv.models.Smoothed(hv.networks.MLP((8,), 2), rho=0.8, draws=4)
        >>> model = hv.models.TopDownVAE((1, 1), prior=(network,))
        >>> model.prior[0].draws
        4
    """

    network: nn.Module
    rho: float = 1.0
    draws: int = 1

    def __post_init__(self) -> None:
        check_fields(self)
        check_smoothing(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, above: Array | Above, key: Array, *, train: bool = False) -> Array:
        if not isinstance(above, Above):
            above = Above(above, jnp.zeros_like(above), jnp.ones_like(above))
        z, mean, std, beside = above
        if self.rho == 1.0:
            return self.network(join(z, beside), train=train)

        def f(points: Array) -> Array:
            return self.network(join(points, spread(beside, self.draws)), train=train)

        return Smoother(self.rho, self.draws)(f, z, mean, std, key)


@dataclasses.dataclass(frozen=True)
@checked
class Smoothing:
    """A model's setting: the networks that compute the priors of its lower levels are f_S in place of f.

        f_S(z) = 1/S sum_i f(m + s (rho u + sqrt(1 - rho^2) eps_i)),    u = (z - m)/s,    eps_i ~ N(0, I)

    m and s are those of z's prior. Source: Pervez & Gavves (2021).

    Where a posterior is an offset from its prior, as in `TopDownVAE`, it moves with the same f_S, with the same eps.
    Every forward pass draws its own eps, in evaluation and generation as in training: f_S is the model.

    `TopDownVAE`, `BottomUpVAE` and, with linear posteriors, `LinearVAE` have the setting: in them a level reaches those
    below through its z alone. What it cannot serve:

    - Levels whose prior is not Gaussian, N(m, diag s^2). The operator for bits, classes, and learned mixtures and flows
      at the top is another one.
    - Models whose descent carries a state h past the latents (`ConvLadderVAE`, `ResNetVAE`, `BIVA`, `VDVAE`,
      `EfficientVDVAE`, `NVAE`). What a latent adds to h reaches all later priors and x by one path: the networks of the
      priors cannot be smoothed without the decoder, the levels above pass around the smoothed z in h, and an average
      over draws would take S copies of the rest of the descent.
    - Models with one latent (`VAE`, `GreedyVAE`): no prior reads a latent.

    `LadderVAE` and `CaGeM` could have it, and do not.

    Attributes:
      rho: from 0, where no prior depends on the level above, to 1, the plain model, bit for bit.
      draws: S, number of eps for each z.
      decoder: whether the network from z1 to the parameters of p(x | z1) is smoothed too.

    Raises ValueError for a rho outside [0, 1] or fewer than one draw.

    Example:
        >>> model = hv.models.LinearVAE((2, 1), smoothing=hv.models.Smoothing(rho=0.5, draws=4))
        >>> model.smoothing.rho
        0.5
    """

    rho: float = 1.0
    draws: int = 1
    decoder: bool = False

    def __post_init__(self) -> None:
        check_smoothing(self)

    def begin(self, module: nn.Module, key: Array) -> "tuple[Smoother | None, Array, Array]":
        """The operator of this pass, the key of the descent, and the key of the decoder's noise.

        rho is that of the collection "smoothing" if the variables have one, else the setting. If it is 1 and known to
        be when the program is traced, there is no operator: nothing is drawn, and f_S is f bit for bit.

        Args:
          module: the model, bound.
          key: key of the descent, which is split for a smoothed decoder alone.
        """
        rho = module.get_variable(COLLECTION, "rho") if module.has_variable(COLLECTION, "rho") else self.rho
        if isinstance(rho, int | float) and rho == 1.0:
            return None, key, key
        smoother = Smoother(rho, self.draws, self.decoder)
        return (smoother, *split(key)) if self.decoder else (smoother, key, key)


class Smoother(NamedTuple):
    """`Smoothing` in one pass, called as `smoother(f, z, mean, std, key)`.

    Attributes:
      rho: may be traced.
      draws, decoder: as in `Smoothing`.
    """

    rho: ArrayLike
    draws: int
    decoder: bool = False

    def __call__(self, f: Callable[[Array], Array], z: Array, mean: Array, std: Array, key: Array) -> Array:
        """f_S(z), with eps from the key, fresh for each example and draw."""
        noise = jax.random.normal(fused(key), (z.shape[0], self.draws, z.shape[-1]), z.dtype)
        return smooth(f, z, mean, std, self.rho, noise)


def check_smoothing(record: Smoothing | Smoothed) -> None:
    """Raise ValueError for a rho outside [0, 1] or fewer than one draw."""
    if not 0.0 <= record.rho <= 1.0:
        raise ValueError(
            f"{type(record).__name__}(rho={record.rho}): it has to be from 0 (no dependence on z) to 1 (no smoothing)."
        )
    check_sizes(record, "draws")
