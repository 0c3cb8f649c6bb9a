"""Efficient-VDVAE: the graph of `VDVAE` with learned pooling and enlarging, taps of their own, and smooth scales.

    std = log(1 + e^(beta a))/beta, beta = log 2        of a layer's output a: 1 at a = 0, and no faster than linear

Widths may taper with the resolution. What differs otherwise: swish, kernels as Glorot has them, a tap for each block
of the way up or one for several, a 1x1 convolution from features to each Gaussian, and a shift of h beside z that
begins like any other output.

Source: Hazami et al. (2022), "Efficient-VDVAE: Less is more", and its code. It departs from that so:
- beta is log 2, of which the code has seven digits.
- All kernels begin as Glorot has them; the PyTorch tree leaves the first of each bottleneck as PyTorch does.
- The KL of "log_std" has beta in all its terms; the JAX tree leaves it out of one.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.descent import Pick
from hvae_jax.distributions import ScaleHead
from hvae_jax.likelihoods import Bernoulli, Likelihood
from hvae_jax.models.base import HVAE
from hvae_jax.models.very_deep.graph import Parts, ascend, descend
from hvae_jax.models.very_deep.stages import (
    Down,
    Up,
    check_downs,
    check_square,
    check_taps,
    check_ups,
    level_sides,
    names,
)
from hvae_jax.networks.bottleneck import BottleneckConv, BottleneckStyle
from hvae_jax.networks.computing import ComputeDtype, Precision, widen
from hvae_jax.networks.mlp import check_event, one_hot
from hvae_jax.records import as_tuples, check_sizes
from hvae_jax.trace import Trace


class EfficientVDVAE(HVAE):
    """Efficient-VDVAE, for square images.

    Levels are named as in `VDVAE`. A stage of the way up whose `skip` is above 0 has a tap for each of its blocks; a
    stage of the way down reads one, or with `shared=False` one for each of its blocks, the latest first.

    Attributes:
      image, likelihood, classes, dtype, precision, unroll, remat: as in `VDVAE`.
      ups: stages of the way up, from x; what is pooled has the width of the next stage.
      downs: stages of the way down, from the top. Each goes on at its side, or enlarges the state of the stage before:
        `mixes_in` is that side, and of the first stage the side of the learned maps that all begins with.
      pad: zeros around x on each side, cropped again from the last maps.
      head: how a layer's output becomes a standard deviation: "softplus_std", as above, or "log_std", std = e^(beta a).
      residual_posterior: whether the posterior's Gaussian is an offset from the prior's.
      stem_size, readout_size: of the first and the last kernel.
      edge: size of the first and last kernel of each bottleneck; None for the stage's own.

    Raises ValueError as `VDVAE` does, and for taps that nothing reads or that are not there.
    """

    image: tuple[int, int, int] = (28, 28, 1)
    ups: tuple[Up, ...] = (
        Up(32, 1, 16, 2, skip=16),
        Up(16, 2, 32, 2, skip=32),
        Up(8, 2, 32, 8, skip=32),
        Up(1, 1, 32, skip=32),
    )
    downs: tuple[Down, ...] = (
        Down(1, 2, 32, latents=8),
        Down(8, 2, 32, 1, 8, shared=False),
        Down(16, 2, 32, 8, 8, shared=False),
        Down(32, 1, 16, 16, 8),
    )
    likelihood: Likelihood = Bernoulli()
    classes: int = 0
    pad: int = 2
    head: ScaleHead = ScaleHead("softplus_std", math.log(2.0))
    residual_posterior: bool = False
    stem_size: int = 1
    readout_size: int = 1
    edge: int | None = 1
    dtype: ComputeDtype = None
    precision: Precision = "default"
    unroll: int = 1
    remat: bool = False

    def __post_init__(self) -> None:
        for name in ("image", "ups", "downs"):
            if isinstance(getattr(self, name), str):
                raise ValueError(
                    f"EfficientVDVAE({name}={getattr(self, name)!r}) is text: up_stages and down_stages parse it."
                )
        as_tuples(self, "image", "ups", "downs")
        super().__post_init__()
        check_sizes(self, "unroll", "stem_size", "readout_size", *(() if self.edge is None else ("edge",)))
        check_square("EfficientVDVAE", self.image)
        if self.pad < 0:
            raise ValueError(f"EfficientVDVAE(pad={self.pad}): 0 or more.")
        side = self.image[0] + 2 * self.pad
        check_ups("EfficientVDVAE", side, self.ups, learned=True)
        check_downs("EfficientVDVAE", side, self.ups, self.downs, learned=True)
        check_taps("EfficientVDVAE", self.ups, self.downs)
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
        found = None
        if x is not None:
            check_event(self.image, x)
            frame = (self.pad, self.pad)
            seen = jnp.pad(widen(self.likelihood.as_input(x)), ((0, 0), frame, frame, (0, 0)))
            stem = BottleneckConv(self.ups[0].width, self.stem_size, style=parts.style, name="stem")
            found = ascend(self, parts, self.ups, stem(seen))
        levels, states = descend(self, parts, self.downs, found, n, key, picks, label)

        rows, _, channels = self.image
        outputs = self.likelihood.outputs(channels)
        h = BottleneckConv(outputs, self.readout_size, style=parts.style, name="readout")(states[rows + 2 * self.pad])
        h = widen(h)[:, self.pad : self.pad + rows, self.pad : self.pad + rows]
        x_dist = self.likelihood.from_map(h)
        return Trace(None if x is None else x_dist.log_prob(x), levels, x_dist)

    def _parts(self) -> Parts:
        scale = self.num_levels**-0.5
        return Parts(
            style=BottleneckStyle(jax.nn.swish, "glorot", self.edge, self.dtype, self.precision),
            learned=True,
            head=self.head,
            residual=self.residual_posterior,
            clamp=None,
            up_scale=scale,
            down_scale=scale,
            bias_up_to=None,
            unroll=self.unroll,
            remat=self.remat,
        )
