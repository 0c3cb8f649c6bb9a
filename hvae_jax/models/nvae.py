"""NVAE: groups of latents at rising resolutions, inferred top-down, in deep residual networks with batch norm.

    p(x, z) = p(x | z) p(z_L) prod_l p(z_l | z_>l)          every z_l a feature map
    q(z | x) = q(z_L | x) prod_l q(z_l | z_>l, x)

The bottom-up path is a tower of residual cells; after the cells of each group its feature map is kept as a tap. The
top-down path carries a state h that begins as learned feature maps. At each group, after its cells,

    p_l = prior(elu(h)),    q_l = posterior(tap_l + meet(h)),    h <- join(h, z_l)

where the layers give means and log standard deviations before a soft clamp, 5 tanh(a/5). A residual posterior adds q_l
to p_l before the clamp, so that its KL is small where the layer gives little. A posterior flow adds autoregressive
steps that keep volume.

The groups of a resolution are equal: their parameters are stacked and they are scanned, on both paths.

Source: Vahdat & Kautz (2020), "NVAE: A Deep Hierarchical Variational Autoencoder"; what the paper leaves open follows
their published models.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from hvae_jax.descent import Drawn, Pick, draw, propose, stack
from hvae_jax.distributions import Normal, soft_clamp
from hvae_jax.flows import VolumePreserving
from hvae_jax.likelihoods import Likelihood, LogisticMixture
from hvae_jax.models.base import HVAE
from hvae_jax.models.pieces import check_image
from hvae_jax.networks.cells import CellStyle, DecoderCell, EncoderCell, LogNormConv
from hvae_jax.networks.computing import ComputeDtype, Kept, call, widen
from hvae_jax.networks.mlp import one_hot
from hvae_jax.networks.scan import scanned
from hvae_jax.records import check_sizes, checked
from hvae_jax.runtime.prng import split
from hvae_jax.trace import Level, Trace

_BOUND = 5.0  # of means and log standard deviations, by the soft clamp


@dataclasses.dataclass(frozen=True)
@checked
class GroupSettings:
    """What the groups of one resolution have in common.

    Attributes:
      width: channels of the feature maps.
      cells: cells before the latent.
      latents: channels of z.
      residual: whether the posterior's layer gives offsets from the prior.
      flows: pairs of steps of the posterior's flow.
      flow_context: whether the flow reads what the posterior reads.
      min_std: number added to every standard deviation.
      style: settings of the cells.
    """

    width: int
    cells: int
    latents: int
    residual: bool
    flows: int
    flow_context: bool
    min_std: float
    style: CellStyle

    def gaussian(self, raw: Array) -> Normal:
        """The Gaussian of a layer's output `[B, H, W, 2 latents]`: both halves clamped, then the least deviation added.

        Source: the published models; the paper does not mention the clamp.
        """
        mean, log_std = jnp.split(soft_clamp(widen(raw), _BOUND), 2, axis=-1)
        return Normal(mean, jnp.logaddexp(log_std, jnp.log(self.min_std)) if self.min_std else log_std)

    def inferred(self, raw: Array, found: Array) -> Normal:
        """The Gaussian of q(z | above, x), of the outputs of the prior's layer and of the posterior's.

        A residual posterior is their sum, taken before the clamp, so that its parameters keep the range of the prior's.
        """
        return self.gaussian(widen(raw) + widen(found) if self.residual else found)

    def posterior(self, key: Array, q: Normal, features: Array, pick: Pick) -> Normal | Drawn:
        """q(z | above, x): the Gaussian, or a sample of it that went through the flow."""
        if not self.flows:
            return q
        net = VolumePreserving(self.flows, self.style.epsilon, name="flow")
        return propose(key, q, pick, net(q.mean, widen(features) if self.flow_context else None))


class UpGroup(nn.Module):
    """The cells of a group of the bottom-up path; the output `[B, side, side, width]` is its tap as well."""

    settings: GroupSettings
    cells: int
    train: bool

    @nn.compact
    def __call__(self, h: Array) -> tuple[Array, Array]:
        for i in range(self.cells):
            h = EncoderCell(self.settings.width, style=self.settings.style, name=f"cell_{i}")(h, train=self.train)
        return h, h


class DownGroup(nn.Module):
    """A group of the top-down path: h `[B, side, side, width]` to the same shape, and its level.

    The tap has the shape of h; without x it is None, and z comes from the prior.
    Raises ValueError for a tap of another shape, which may otherwise be broadcast.
    """

    settings: GroupSettings
    train: bool

    @nn.compact
    def __call__(self, h: Array, tap: Array | None, key: Array, pick: Pick) -> tuple[Array, Level]:
        own = self.settings
        for i in range(own.cells):
            h = DecoderCell(own.width, style=own.style, name=f"cell_{i}")(h, train=self.train)
        raw = LogNormConv(2 * own.latents, 1, style=own.style, name="prior")(jax.nn.elu(h))
        posterior: Normal | Drawn | None = None
        if tap is not None:
            if tap.shape != h.shape:
                raise ValueError(
                    f"A tap of the bottom-up path has shape {tap.shape}, but the group that reads it is at {h.shape}: "
                    "both paths need the same batch, resolutions and widths."
                )
            features = tap + LogNormConv(own.width, 1, style=own.style, name="meet")(h)
            found = LogNormConv(2 * own.latents, style=own.style, name="posterior")(features)
            posterior = own.posterior(key, own.inferred(raw, found), features, pick)
        level = draw(key, own.gaussian(raw), posterior, pick, side=h.shape[1])
        both = jnp.concatenate([h, level.z.astype(h.dtype)], axis=-1)
        return LogNormConv(own.width, 1, style=own.style, name="join")(both), level


class NVAE(HVAE):
    """NVAE, for images of any size that the resolutions divide, with one channel or colours.

        p(x, z) = p(x | z) p(z_L) prod_l p(z_l | z_>l)          every z_l a feature map
        q(z | x) = q(z_L | x) prod_l q(z_l | z_>l, x)

    Source: Vahdat & Kautz (2020), "NVAE: A Deep Hierarchical Variational Autoencoder", and their published models.

    Levels are named after the height of their feature maps: "top", then "z4.0", "z4.1", ...; the runs are "z4", "z8".

    Attributes:
      image: `(H, W, C)` of one x.
      groups: number of groups at each resolution of latents, top (coarsest) first; each resolution doubles the one
        before.
      latents: channels of each z.
      width: channels next to x; twice as many at each halving.
      halvings: number of halvings between x and the finest latents.
      pre_cells, post_cells: cells of each halving, and of each doubling after the finest latents.
      up_cells, down_cells: cells of each group on the bottom-up and on the top-down path.
      residual: whether posteriors are offsets from their priors.
      flows: pairs of steps of the flow of each posterior; 0 for Gaussians.
      flow_context: whether flows read x, through the features that the posterior reads; the published flows do not.
      squeeze: whether cells have squeeze-and-excitation.
      likelihood: p(x | z).
      classes: number of class labels; 0 for a model without y. A learned vector for each class is added to the first
        state.
      pad: width of a frame of zeros around x, which is cropped again: 2 makes 28x28 into 32x32.
      min_std: number added to every standard deviation but that of the top prior.
      published: whether the top prior has the added deviation as well, 1.01, and norms of weights an added 1e-5, as in
        the published models.
      dtype: as in `TopDownVAE`.
      unroll: blocks unrolled per iteration of a scan, as in `VDVAE`.
      remat: whether the backward pass recomputes the activations of each group and cell.
      kept: what is stored of them otherwise: "all" values that the backward pass reads, or "products", the outputs of
        convolutions and the statistics of batches, from which it computes normalisations, activations, Gaussians and
        noise again. That takes less memory and traffic on accelerators.

    Raises ValueError if a size is below 1, there are no groups, or the resolutions do not divide the image.

    Example:
        >>> model = hv.models.NVAE(groups=(5, 10))
        >>> model.num_levels
        15
    """

    image: tuple[int, int, int] = (32, 32, 3)
    groups: tuple[int, ...] = (5, 10)
    latents: int = 20
    width: int = 32
    halvings: int = 1
    pre_cells: int = 2
    post_cells: int = 2
    up_cells: int = 2
    down_cells: int = 2
    residual: bool = True
    flows: int = 0
    flow_context: bool = False
    squeeze: bool = True
    likelihood: Likelihood = LogisticMixture()
    classes: int = 0
    pad: int = 0
    min_std: float = 0.01
    published: bool = False
    dtype: ComputeDtype = None
    unroll: int = 1
    remat: bool = False
    kept: Kept = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "groups", "latents", "width", "pre_cells", "post_cells", "up_cells", "down_cells", "unroll")
        check_sizes(self, "image")
        for name in ("halvings", "flows", "pad", "min_std"):
            if getattr(self, name) < 0:
                raise ValueError(f"NVAE({name}={getattr(self, name)}): 0 or more.")
        if self.flow_context and not self.flows:
            raise ValueError("NVAE(flow_context=True, flows=0): there is no flow that could read x. Set flows.")
        factor = 2 ** (self.halvings + len(self.groups) - 1)
        if any((side + 2 * self.pad) % factor for side in self.image[:2]):
            raise ValueError(
                f"NVAE(image={self.image}, pad={self.pad}): height and width, with the frame, have to be multiples of "
                f"{factor}, because x is halved {self.halvings} times and {len(self.groups)} resolutions of latents "
                f"{len(self.groups) - 1} times. Set pad, resize x, or take fewer resolutions."
            )
        self.likelihood.outputs(self.image[2])  # raises for a number of channels that does not fit

    @property
    def num_levels(self) -> int:
        """L, one level for each group."""
        return sum(self.groups)

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        """Height and width of the latents at each resolution, top first."""
        rows, columns = (side + 2 * self.pad for side in self.image[:2])
        powers = [self.halvings + i for i in reversed(range(len(self.groups)))]
        return tuple((rows >> power, columns >> power) for power in powers)

    @property
    def stacked(self) -> tuple[str, ...]:
        """The groups of each resolution are a scanned run."""
        return tuple(f"{path}{rows}/" for path in ("up", "down") for rows, _ in self.sides)

    @property
    def chained(self) -> bool:
        """Whether there is a top-down path; a single group decodes z itself."""
        return self.num_levels > 1

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        label = one_hot(y, self.classes, n)  # [n, classes], or None
        taps, top = (None, None) if x is None else self._ascend(x, train)
        keys, levels = split(key, self.num_levels), []

        # the first group has no state above it: its prior is standard, and its posterior reads the top of the tower
        own = self._settings(0)
        level = self._first(own, top, n, keys[0], picks[0])
        levels.append(level)
        h = self._start(own, level.z, n, label)
        at = 1
        for i, count in enumerate(self.groups):
            own, (rows, _) = self._settings(i), self.sides[i]
            if i:
                grow = DecoderCell(own.width, double=True, style=own.style, name=f"grow{rows}")
                h = call(grow, h, train=train, **self._storing)
            count -= i == 0  # the first group is done
            if not count:
                continue
            here, at = slice(at, at + count), at + count
            axes = (nn.broadcast if taps is None else 0, 0, 0)  # of the tap, the key and the pick of each group
            run = scanned(self, DownGroup, count, axes, unroll=self.unroll, **self._storing)
            tap = None if taps is None else taps[i]
            h, found = run(own, train, name=f"down{rows}")(h, tap, keys[here], stack(picks[here]))
            levels.append(found.replace(stacked=True, name=f"z{rows}"))

        x_dist = self.likelihood.from_map(self._finish(h, train))
        return Trace(None if x is None else x_dist.log_prob(x), tuple(levels), x_dist)

    def _ascend(self, x: Array, train: bool) -> tuple[list[Array | None], Array]:
        """Return the taps of each resolution in the order of the descent, `[groups, n, h, w, width]`, and the top."""
        check_image(self, x)
        frame = (self.pad, self.pad)
        h = jnp.pad(widen(self._as_input(x)), ((0, 0), frame, frame, (0, 0)))
        h = LogNormConv(self.width, style=self._style, name="stem")(h)
        for i in range(self.halvings):
            for j in range(self.pre_cells):
                halves = j == self.pre_cells - 1  # the last cell of a halving halves
                cell = EncoderCell(h.shape[-1] * (1 + halves), 1 + halves, self._style, name=f"pre_{i}_{j}")
                h = call(cell, h, train=train, **self._storing)
        taps: list[Array | None] = [None] * len(self.groups)
        for i in reversed(range(len(self.groups))):  # from the finest latents up
            own, (rows, _) = self._settings(i), self.sides[i]
            run = scanned(self, UpGroup, self.groups[i], (), unroll=self.unroll, **self._storing)
            h, made = run(own, self.up_cells, train, name=f"up{rows}")(h)
            # The last tap is read first. At the top the last one is h, which the first group reads.
            taps[i] = (made if i else made[:-1])[::-1]
            if i:
                shrink = EncoderCell(2 * own.width, 2, own.style, name=f"shrink{rows}")
                h = call(shrink, h, train=train, **self._storing)
        top = jax.nn.elu(LogNormConv(h.shape[-1], 1, style=self._style, name="top")(jax.nn.elu(h)))
        return taps, top

    def _as_input(self, x: Array) -> Array:
        """x from -1 to 1, for a likelihood with a range of values."""
        if self.likelihood.value_range is None:
            return self.likelihood.as_input(x)
        low, high = self.likelihood.value_range
        return (x - low) * (2.0 / (high - low)) - 1.0

    def _first(self, own: GroupSettings, top: Array | None, n: int, key: Array, pick: Pick) -> Level:
        """The first group's level: p(z_L) = N(0, I), q(z_L | x) from the top of the tower."""
        rows, columns = self.sides[0]
        prior = Normal.standard((n, rows, columns, self.latents))
        if self.published and self.min_std:
            prior = own.gaussian(jnp.zeros((n, rows, columns, 2 * self.latents)))
        posterior: Normal | Drawn | None = None
        if top is not None:
            q = own.gaussian(LogNormConv(2 * self.latents, style=self._style, name="top_posterior")(top))
            posterior = own.posterior(key, q, top, pick)
        return draw(key, prior, posterior, pick, name="top", side=rows)

    def _start(self, own: GroupSettings, z: Array, n: int, label: Array | None) -> Array:
        """The state after the first group, `[n, h, w, width]`: learned feature maps joined with z, or z alone."""
        h = z if self.dtype is None else z.astype(self.dtype)
        if self.chained:
            rows, columns = self.sides[0]
            first = self.param("start", nn.initializers.uniform(1.0), (rows, columns, own.width), jnp.float32)
            h = jnp.concatenate([jnp.broadcast_to(first[None].astype(h.dtype), (n, *first.shape)), h], axis=-1)
        h = LogNormConv(own.width, 1, style=own.style, name="join")(h)
        if label is not None:
            kernel = self.param("label", nn.initializers.zeros, (self.classes, own.width), jnp.float32)
            h = h + (label.astype(kernel.dtype) @ kernel)[:, None, None].astype(h.dtype)
        return h

    def _finish(self, h: Array, train: bool) -> Array:
        """The last cells and the readout: h at the finest latents to `[n, H, W, outputs]`, float32 at least."""
        for i in range(self.halvings):
            for j in range(self.post_cells):
                doubles = j == 0  # the first cell of a doubling doubles
                width = h.shape[-1] // 2 if doubles else h.shape[-1]
                cell = DecoderCell(width, 3, doubles, self._style, name=f"post_{i}_{j}")
                h = call(cell, h, train=train, **self._storing)
        outputs = self.likelihood.outputs(self.image[2])
        h = widen(LogNormConv(outputs, style=self._style, name="readout")(jax.nn.elu(h)))
        inner = tuple(slice(self.pad, self.pad + side) for side in self.image[:2])
        return h[:, inner[0], inner[1]]  # without the frame

    @property
    def _storing(self) -> dict[str, Any]:
        """What the backward pass finds stored, of groups and of cells."""
        return {"remat": self.remat, "kept": self.kept}

    @property
    def _style(self) -> CellStyle:
        return CellStyle(self.squeeze, 1e-5 if self.published else 0.0, self.dtype)

    def _settings(self, i: int) -> GroupSettings:
        """The settings of the groups at resolution i, 0 the coarsest."""
        width = self.width * 2 ** (self.halvings + len(self.groups) - 1 - i)
        given: dict[str, Any] = {name: getattr(self, name) for name in ("latents", "residual", "flows", "flow_context")}
        return GroupSettings(width, self.down_cells, min_std=self.min_std, style=self._style, **given)


def halving_groups(finest: int, resolutions: int, least: int = 1) -> tuple[int, ...]:
    """`groups` that halve from each resolution to the next coarser one, never below `least`: (5, 10, 20) of 20 and 3.

    Source: "ada_groups" of the published code.
    Raises ValueError for numbers below 1, or fewer groups than `least`.

    Example:
        >>> hv.models.halving_groups(20, 3)
        (5, 10, 20)
    """
    if min(finest, resolutions, least) < 1 or least > finest:
        raise ValueError(
            f"halving_groups({finest}, {resolutions}, {least}): every number has to be 1 or more, and there have to be "
            f"as many groups as the least number, {least}."
        )
    return tuple(max(least, finest >> i) for i in reversed(range(resolutions)))
