"""Parts of a very deep VAE: what the graph shared by all families (`graph.py`) leaves open.

A part that makes layers is a small frozen record of settings, called inside a module's compact method: its layers
become layers of that module, so that the paths of parameters are those of the model and not of the parts. Parts are
made anew in each forward pass and may know how it is called, such as whether batch statistics are updated.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from flax import linen as nn
from jax import Array

from hvae_jax.distributions import Normal
from hvae_jax.models.very_deep.stages import Down, Up
from hvae_jax.networks.computing import Kept


@runtime_checkable
class Cell(Protocol):
    """The residual branch of a cell: h `[B, side, side, width]` to the same shape."""

    def __call__(self, stage: Any, h: Array, name: str) -> Array:
        """What is added to h. `stage` is an `Up` or a `Down`, `name` that of the layers."""
        ...


@runtime_checkable
class Prior(Protocol):
    """p(z_l | z_>l) from the top-down state."""

    def __call__(self, stage: Down, h: Array) -> tuple[Normal, Array]:
        """The prior `[B, side, side, latents]`, and the shift `[B, side, side, width]`, added to h beside z."""
        ...


@runtime_checkable
class Posterior(Protocol):
    """q(z_l | z_>l, x) from the top-down state and a tap of the bottom-up path."""

    def __call__(self, stage: Down, h: Array, tap: Array, prior: Normal) -> Normal:
        """The posterior `[B, side, side, latents]`. The tap is `[B, side, side, channels]`."""
        ...


@runtime_checkable
class First(Protocol):
    """What prior and posterior read of the top-down state, made for both at once."""

    def __call__(self, block: nn.Module, stage: Down, h: Array) -> tuple[Array, Array]:
        """h `[B, side, side, width]` to what the prior and what the posterior is called with in its place."""
        ...


@runtime_checkable
class Projection(Protocol):
    """The projection of a latent into the state."""

    def __call__(self, stage: Down, z: Array) -> Array:
        """z `[B, side, side, latents]` to `[B, side, side, width]`."""
        ...


@runtime_checkable
class Pool(Protocol):
    """Downsampling between two stages of the bottom-up path."""

    def __call__(self, h: Array, width: int, factor: int, name: str) -> Array:
        """h `[B, side, side, C]` to `[B, side / factor, side / factor, width]`."""
        ...


@runtime_checkable
class Unpool(Protocol):
    """Upsampling of a coarser state of the top-down path."""

    def __call__(self, above: Array, width: int, factor: int, name: str) -> Array:
        """The state `[B, side, side, C]` to `[B, factor * side, factor * side, width]`."""
        ...


@runtime_checkable
class Start(Protocol):
    """The state that the top-down path begins with at a side."""

    def __call__(self, module: nn.Module, side: int, width: int, n: int, label: Array | None) -> Array:
        """`[n, side, side, width]`; its parameters are made in `module`. The label is one-hot, `[n, classes]`."""
        ...


class Ascent(NamedTuple):
    """Feature maps of the bottom-up path.

    Attributes:
      by_side: for each side the last feature maps that it has, before they are pooled.
      taps: taps in the order in which the blocks made them.
    """

    by_side: Mapping[int, Array]
    taps: Sequence[Array]


class Reading(NamedTuple):
    """What a stage of the top-down path reads of x.

    Attributes:
      tap: `[B, side, side, C]`, or `[blocks, B, side, side, C]` where each block has its own; None without x.
      axis: the tap's axis of blocks, 0, or `nn.broadcast` where all blocks read the same.
    """

    tap: Array | None
    axis: Any


@runtime_checkable
class Taps(Protocol):
    """Which feature maps of the bottom-up path the posteriors read."""

    def tap(self, stage: Up, h: Array) -> Array | None:
        """The tap of a bottom-up block whose output is h; None for no tap."""
        ...

    def read(self, found: Ascent, downs: Sequence[Down]) -> list[Reading]:
        """One reading per stage of the top-down path."""
        ...


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts in which one family of very deep VAEs differs from another.

    Attributes:
      up_block, down_block: modules of one block, made as `block(stage, parts, name=...)` and scanned over the blocks of
        a stage; `blocks.UpBlock` and `blocks.DownBlock` have their signatures.
      up_cell, down_cell: residual branches of the bottom-up and of the top-down blocks.
      taps: which feature maps of the bottom-up path the posteriors read.
      pool, unpool: change of resolution on the bottom-up and on the top-down path.
      start: state that a side begins with.
      prior, posterior: Gaussians of a level.
      projection: from z to what is added to the state.
      unroll, remat, kept: as in `networks.scan.scanned`.
      first: what prior and posterior read of the state; None is the state itself.
      sums: whether a block sums the KL of its latent itself. A loss that needs nothing but sums then has no KL of each
        element leave the blocks.
    """

    # types, because a scan makes the block itself
    up_block: type[nn.Module]
    down_block: type[nn.Module]
    up_cell: Cell
    down_cell: Cell
    taps: Taps
    pool: Pool
    unpool: Unpool
    start: Start
    prior: Prior
    posterior: Posterior
    projection: Projection
    unroll: int
    remat: bool
    kept: Kept = "all"
    first: First | None = None
    sums: bool = False

    @property
    def scanning(self) -> dict[str, Any]:
        """How the blocks of a stage are scanned: keywords of `networks.scan.scanned`."""
        return {"unroll": self.unroll, "remat": self.remat, "kept": self.kept}
