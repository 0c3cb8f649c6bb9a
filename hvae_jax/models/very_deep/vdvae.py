"""The very deep VAE: many levels at every resolution, residual bottlenecks, and no normalisation.

    p(x, z) = p(x | h) prod_l p(z_l | z_>l)            every Gaussian diagonal, and learned but for the beginning
    q(z | x) = prod_l q(z_l | z_>l, x)                 each reads the way up at its resolution

Every prior begins as N(0, I): the last kernel of its network starts at zero. The last kernels of other bottlenecks,
and those that z is projected by, start 1/sqrt(depth) smaller than PyTorch's, so that the sum over blocks keeps its
scale. `models/deep.py` has the graph.

Source: Child (2021), "Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images", and its code.
It departs from that in one thing: log standard deviations are clamped, wide of what training needs (`clamp`).
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.descent import Pick
from hvae_jax.distributions import ScaleHead
from hvae_jax.likelihoods import Bernoulli, Likelihood
from hvae_jax.models.base import HVAE
from hvae_jax.models.very_deep.block_strings import down_stages, up_stages
from hvae_jax.models.very_deep.graph import Parts, ascend, descend
from hvae_jax.models.very_deep.stages import Down, Up, check_downs, check_square, check_ups, level_sides, names
from hvae_jax.networks.bottleneck import BottleneckConv, BottleneckStyle
from hvae_jax.networks.computing import ComputeDtype, Precision, widen
from hvae_jax.networks.mlp import check_event, one_hot
from hvae_jax.records import as_tuples, check_sizes
from hvae_jax.trace import Trace


class VDVAE(HVAE):
    """The very deep VAE, for square images.

    Levels are named by the side of their maps and counted from the top: "z1.0", "z4.0", "z4.1", ...; with the
    settings that `up_stages` and `down_stages` read from the published block strings.

    Attributes:
      image: `(S, S, C)` of one x.
      ups: stages of the way up, from x.
      downs: stages of the way down, from the top.
      likelihood: p(x | h), from the last maps of the image's side.
      classes: number of classes, or 0. Labels are added to the first maps of each side, so that priors and posteriors
        read them.
      standardise: mean and standard deviation of the data's values: the way up sees (x - mean)/deviation. None for what
        the likelihood makes of x, -1 to 1 for whole numbers.
      no_bias_above: the largest side whose maps begin with a learned one; the others begin with zeros.
      clamp: bounds of every log standard deviation, or None for none, as published.
      dtype: what the products and activations are computed in: "bfloat16", less memory and the fast units of a TPU or
        GPU; None for what the parameters are. Parameters, gradients, latents, KLs and likelihoods are float32 either
        way.
      precision: of the products on accelerators: "default", what is fastest there, or "highest", float32.
      unroll: how many equal blocks are written out in a row: 1 compiles in a time that does not grow with depth; as
        many as there are is several times as fast on a CPU.
      remat: whether the backward pass recomputes what is inside a block instead of remembering it.

    Raises ValueError for an image that is not square, stages that do not follow from each other, mix in a side that is
    not built yet or do not reach the image, a size below 1, or a dtype or precision that is not known.
    """

    image: tuple[int, int, int] = (28, 28, 1)
    ups: tuple[Up, ...] = up_stages("28x1,28d2,14x2,14d2,7x2,7d7,1x2", 32)
    downs: tuple[Down, ...] = down_stages("1x2,7m1,7x3,14m7,14x3,28m14", 32, latents=8)
    likelihood: Likelihood = Bernoulli()
    classes: int = 0
    standardise: tuple[float, float] | None = None
    no_bias_above: int = 64
    clamp: tuple[float, float] | None = (-10.0, 10.0)
    dtype: ComputeDtype = None
    precision: Precision = "default"
    unroll: int = 1
    remat: bool = False

    def __post_init__(self) -> None:
        for name in ("image", "ups", "downs"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"VDVAE({name}={getattr(self, name)!r}) is text: up_stages and down_stages parse it.")
        as_tuples(self, "image", "ups", "downs")
        super().__post_init__()
        check_sizes(self, "unroll")
        check_square("VDVAE", self.image)
        if self.standardise is not None and not self.standardise[1] > 0:
            raise ValueError(f"VDVAE(standardise={self.standardise}): a mean, and a standard deviation above 0.")
        if self.no_bias_above < 0:
            raise ValueError(f"VDVAE(no_bias_above={self.no_bias_above}): 0 or more.")
        check_ups("VDVAE", self.image[0], self.ups, learned=False)
        check_downs("VDVAE", self.image[0], self.ups, self.downs, learned=False)
        self.likelihood.outputs(self.image[2])

    @property
    def num_levels(self) -> int:
        """L: one for each block of the way down."""
        return sum(stage.blocks for stage in self.downs)

    @property
    def stacked(self) -> tuple[str, ...]:
        """Every stage of either way is a run."""
        return tuple(f"{name}/" for name in (*names("up", self.ups), *names("down", self.downs)))

    @property
    def level_sides(self) -> tuple[int, ...]:
        """The side of each level's maps, top first."""
        return level_sides(self.downs)

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        label, parts = one_hot(y, self.classes, n), self._parts()
        side, width = self.image[0], next(s.width for s in reversed(self.downs) if s.side == self.image[0])
        gain = self.param("gain", nn.initializers.ones, (width,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)

        found = None
        if x is not None:
            check_event(self.image, x)
            stem = BottleneckConv(self.ups[0].width, 3, style=parts.style, name="stem")
            found = ascend(self, parts, self.ups, stem(widen(self._seen(x))), self._last_width())
        levels, states = descend(self, parts, self.downs, found, n, key, picks, label, gain)

        h = widen(states[side]) * gain[None, None, None] + bias[None, None, None]
        readout = BottleneckConv(self.likelihood.outputs(self.image[2]), style=parts.style, name="readout")
        x_dist = self.likelihood.from_map(widen(readout(h)))
        return Trace(None if x is None else x_dist.log_prob(x), levels, x_dist)

    def _seen(self, x: Array) -> Array:
        """x as the way up sees it."""
        if self.standardise is None:
            return self.likelihood.as_input(x)
        mean, deviation = self.standardise
        return (x - mean) / deviation

    def _last_width(self) -> int:
        """Channels of the maps that the way up ends with, where these are pooled."""
        last = self.ups[-1]
        return next((s.width for s in self.downs if s.side == last.side // last.pool), last.width)

    def _parts(self) -> Parts:
        return Parts(
            style=BottleneckStyle(dtype=self.dtype, precision=self.precision),
            learned=False,
            head=ScaleHead("log_std"),
            residual=False,
            clamp=self.clamp,
            up_scale=sum(stage.blocks for stage in self.ups) ** -0.5,
            down_scale=self.num_levels**-0.5,
            bias_up_to=self.no_bias_above,
            unroll=self.unroll,
            remat=self.remat,
        )
