"""Scores of public codes where they differ from the exact likelihood.

    setting                                        source
    Bernoulli(form="of_p")                         PyTorch's cross-entropy of a probability: addtt/ladder-vae-pytorch
    Bernoulli(1e-7), Categorical(K, 1e-7)          the article's code
    DiscretisedLogistic(added=1e-7)                addtt/ladder-vae-pytorch
    LogisticMixture(form="published")              PixelCNN++'s code, VDVAE's, addtt's, vlievin/biva-pytorch
    LogisticMixture(form="nvae")                   NVAE's code
    LogisticMixture(form="srvae")                  srVAE's code
    LogisticMixture(form="vdvae_5_bits")           VDVAE's code for 32 values
    LogisticMixture(form="efficient_vdvae_5_bits") Efficient-VDVAE's code for 32 values

Each is a setting of a likelihood, so that published weights reproduce their published scores; new models need none of
them. Draws, means and modes are computed as in the exact form, except that the values of the forms of 5 bits lie
elsewhere on the line.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Num

from hvae_jax.distributions import finite_exp
from hvae_jax.likelihoods.base import softplus
from hvae_jax.likelihoods.bins import Bins, in_scales

BernoulliForm = Literal["exact", "of_p"]
MixtureForm = Literal["exact", "published", "nvae", "srvae", "vdvae_5_bits", "efficient_vdvae_5_bits"]


def bernoulli_of_p(x: Num[Array, "..."], logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """x log p + (1 - x) log(1 - p) of the rounded p = sigmoid(logit), each logarithm at least -100: elementwise nats.

    The derivative is that of the exact form, x - p: that of the rounded p is 0/0 once p is 1, in float32 from a logit
    of 17.
    Source: `torch.nn.functional.binary_cross_entropy`.
    """
    return x * _log_p_rounded(logits) + (1 - x) * _log_not_p_rounded(logits)


@jax.custom_jvp
def _log_p_rounded(logits: Array) -> Array:
    """log p, at least -100."""
    return jnp.maximum(jnp.log(jax.nn.sigmoid(logits)), -100.0)


@jax.custom_jvp
def _log_not_p_rounded(logits: Array) -> Array:
    """log(1 - p), at least -100."""
    return jnp.maximum(jnp.log1p(-jax.nn.sigmoid(logits)), -100.0)


_log_p_rounded.defjvps(lambda change, _, logits: change * jax.nn.sigmoid(-logits))
_log_not_p_rounded.defjvps(lambda change, _, logits: -change * jax.nn.sigmoid(logits))


def bernoulli_clipped(x: Num[Array, "..."], logits: Float[Array, "..."], least: float) -> Float[Array, "..."]:
    """x log p + (1 - x) log(1 - p) with p clipped to [least, 1 - least]: elementwise nats."""
    return x * clip_log(-softplus(-logits), least) + (1 - x) * clip_log(-softplus(logits), least)


def clip_log(log_p: Float[Array, "..."], least: float) -> Float[Array, "..."]:
    """log of the probability clipped to [least, 1 - least]."""
    return jnp.clip(log_p, math.log(least), math.log1p(-least))


def add_to_probability(log_p: Float[Array, "..."], added: float) -> Float[Array, "..."]:
    """log(P + added). The probabilities of V values then sum to 1 + V added."""
    return jnp.logaddexp(log_p, math.log(added))


def in_unit_interval(
    location: Float[Array, "..."], log_scale: Float[Array, "..."], coefficients: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Location and log scale in units in which values go from -1 to 1, of a mixture in which they go from 0 to 1.

    The colours before shift the mean by c v there, v = (u + 1)/2: in our units that is c u + c, so that the location
    takes up the c of each colour before it.

    Args:
      location, log_scale: `[B, *pixels, C, M]`.
      coefficients: red on green, red on blue and green on blue, `[B, *pixels, 3, M]`; for one channel
        `[B, *pixels, 0, M]`.
    Source: ioangatop/srVAE.
    """
    location = 2.0 * location - 1.0
    if coefficients.shape[-2]:
        nothing = jnp.zeros_like(coefficients[..., :1, :])
        shifts = [nothing, coefficients[..., :1, :], coefficients[..., 1:, :].sum(-2, keepdims=True)]
        location = location + jnp.concatenate(shifts, axis=-2)
    return location, log_scale + math.log(2.0)


@dataclasses.dataclass(frozen=True)
class PublishedBins:
    """The bins of a logistic in public codes, with the interface of `Bins`; everything is elementwise.

    P is the difference of two sigmoids or, if that is 1e-5 or less, the density at the middle of the bin times its
    width; except for that, P sums to 1 over all values. The first bin (u below -0.999) and the last (u above 0.999) are
    open. "srvae" has these bins, from other parameters (`in_unit_interval`). In "nvae" the last bin begins at u = 0.99:
    of 256 values, 254 is scored as open too, and P sums to 1 + P(255); with 32 values it is "published". In the forms
    of 5 bits the values lie 8/127.5 apart, from -1 to 0.945, in bins 2/31 wide: the bins overlap, and P sums to 1.03.
    Near white the sum of "vdvae_5_bits" is far from 1, because no value reaches the last, open bin; in
    "efficient_vdvae_5_bits" the bin of the last value is open.

    Attributes:
      values: V, number of values that an element can take.
      form: "published", "srvae", "nvae", or one of the forms of 5 bits.
      beta: divisor of log_scale in the density but not in the density's argument, an oversight of Efficient-VDVAE's
        code; 1 for the other codes.

    Source: Salimans et al. (2017), their code, for "published"; the codes of VDVAE (Child, 2021), NVAE (Vahdat & Kautz,
    2020), srVAE (Gatopoulos & Tomczak, 2021) and Efficient-VDVAE (Hazami et al., 2022).
    """

    values: int
    form: MixtureForm
    beta: float = 1.0

    def centre(self, x: Num[Array, "..."]) -> Num[Array, "..."]:
        """u: the whole numbers 0..V-1 as reals from -1 to 1, or from -1 to 0.945 with 5 bits."""
        return x * (8.0 / 127.5) - 1.0 if self._five_bits else Bins(self.values).centre(x)

    def nearest(self, u: Float[Array, "..."]) -> Int[Array, "..."]:
        """The whole number whose value lies nearest to u, int32."""
        return Bins(self.values).nearest((u + 1.0) * (127.5 / 124.0) - 1.0 if self._five_bits else u)

    def contain(self, x: Num[Array, "..."]) -> Bool[Array, "..."]:
        """Whether each x is one of 0..V-1."""
        return Bins(self.values).contain(x)

    def log_mass(
        self, x: Num[Array, "..."], mean: Float[Array, "..."], log_scale: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """log P(x), nats; arguments as in `Bins.log_mass`."""
        half = 1.0 / (self.values - 1)  # half the width of a bin
        # The last of 32 values lies at 31 * 8/127.5 - 1 = 120.5/127.5.
        white = 120.5 / 127.5 if self.form == "efficient_vdvae_5_bits" else 1.0
        u = self.centre(x)
        # The ends are found before the cast: in bfloat16 0.999 is 1.
        first, last = u < -0.999, u > (0.99 if self.form == "nvae" else 0.999 * white)
        inverse, offset = finite_exp(-log_scale), u.astype(mean.dtype) - mean
        upper, middle, lower = (in_scales(distance, inverse) for distance in (offset + half, offset, offset - half))
        mass = jax.nn.sigmoid(upper) - jax.nn.sigmoid(lower)
        density = middle - log_scale / self.beta - 2.0 * jax.nn.softplus(middle)
        inside = jnp.where(mass > 1e-5, jnp.log(jnp.maximum(mass, 1e-12)), density + math.log(2.0 * half))
        open_above = jnp.where(last, -jax.nn.softplus(lower), inside)
        return jnp.where(first, upper - jax.nn.softplus(upper), open_above)

    def expectation(self, mean: Float[Array, "..."], log_scale: Float[Array, "..."]) -> Float[Array, "..."]:
        """E[x] under the exact bins."""
        return Bins(self.values).expectation(mean, log_scale)

    @property
    def _five_bits(self) -> bool:
        return self.form.endswith("5_bits")
