"""The skeleton that BIVA, its code's Ladder VAE and its code's VAE have in common.

Blocks lead from x up to the top stage and from there down to x again; between the two paths each model infers its
latents in its own way. Top-down blocks read the blocks of the stage above as auxiliary inputs (skips).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array

from hvae_jax.descent import Drawn, Pick, draw
from hvae_jax.distributions import Normal
from hvae_jax.likelihoods import Likelihood
from hvae_jax.models.biva.stages import Stage, check_stages, sides
from hvae_jax.models.pieces import check_image, gaussian, learned_top_prior
from hvae_jax.networks.computing import ComputeDtype, call, widen
from hvae_jax.networks.gated import GatedBlock, GatedRun, GatedStyle, Head, ToMap
from hvae_jax.networks.scale_head import ScaleHead
from hvae_jax.runtime.prng import numbered
from hvae_jax.trace import Level, Trace

Skips = tuple[Array, ...] | None


@runtime_checkable
class GatedModel(Protocol):
    """Fields of a model that the skeleton reads; `BIVA` documents them."""

    image: tuple[int, int, int]
    stages: tuple[Stage, ...]
    pad: int
    skip: bool
    learn_top_prior: bool
    head: ScaleHead
    clamp: tuple[float, float] | None
    activation: Callable[[Array], Array]
    q_dropout: float
    p_dropout: float
    data_dependent_init: bool
    likelihood: Likelihood
    dtype: ComputeDtype
    remat: bool

    def param(self, name: str, init_fn: Callable[..., Any], *init_args: Any) -> Any:
        """A parameter of the model, as Linen has it."""
        ...


def check_gated(model: GatedModel) -> None:
    """Check the fields of `GatedModel`.

    Raises ValueError if the stages do not fit the image, a dropout probability is outside [0, 1), or the likelihood
    does not take the image's channels.
    """
    owner = type(model).__name__
    check_stages(owner, model.image, model.pad, model.stages)
    for name, probability in (("q_dropout", model.q_dropout), ("p_dropout", model.p_dropout)):
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"{owner}({name}={probability}): a dropout probability is from 0 to below 1.")
    model.likelihood.outputs(model.image[-1])


@dataclasses.dataclass
class Skeleton:
    """The networks of one forward pass, each a submodule of the model under the name given.

    Stages are counted from the bottom, 1 next to x to S at the top; `[B, h, w, C]` are the feature maps of a stage.

    Attributes:
      model: the model, inside its `descend`.
      key: PRNG key for dropout; each run and each single block takes the next key derived from it.
      train: whether dropout is applied.
    """

    model: GatedModel
    key: Array
    train: bool

    def __post_init__(self) -> None:
        # one counter for all networks, so that the order of the calls decides which key each gets
        self._keys = numbered(self.key)

    def framed(self, x: Array) -> Array:
        """x as the networks see it, with a frame of zeros: `[B, H, W, C]` to `[B, H + 2 pad, W + 2 pad, C]`."""
        check_image(self.model, x)
        frame = (self.model.pad, self.model.pad)
        return jnp.pad(widen(self.model.likelihood.as_input(x)), ((0, 0), frame, frame, (0, 0)))

    def up(self, name: str, stage: int, h: Array, beside: Array | None) -> Array:
        """The output of a stage's bottom-up blocks; each reads `beside` as its auxiliary input."""
        blocks = self._stage(stage).blocks
        # the very first block reads x, which is not activated and has no shortcut around it
        run = GatedRun(blocks, False, stage > 1, self._style(self.model.q_dropout), self.model.remat, name=name)
        skips = None if beside is None else (beside,) * len(blocks)
        return run(h, skips, next(self._keys), train=self.train)[0]

    def down(self, stage: int, z: Array, skips: Skips) -> tuple[Array, Skips]:
        """The output of a stage's top-down blocks, which are its bottom-up blocks in reverse, from its latents.

        Returns the feature maps and the skips that the stage below reads.
        """
        model, blocks = self.model, self._stage(stage).blocks[::-1]
        # no shortcut around the first block, so that nothing but blocks leads from the latents down
        run = GatedRun(blocks, True, False, self._style(model.p_dropout), model.remat, name=f"down{stage}")
        h = self.to_maps(f"down{stage}_z", stage, z)
        h, queue = run(h, skips, next(self._keys), train=self.train)
        return h, queue if model.skip else None

    def block(self, name: str, stage: int, h: Array, beside: Array | None, *, kernel: int, dropout: float) -> Array:
        """A single block that merges two paths: h and, as its auxiliary input, `beside`."""
        net = GatedBlock(self._stage(stage).channels, kernel, style=self._style(dropout), name=name)
        return call(net, h, beside, next(self._keys), train=self.train, remat=self.model.remat)

    def to_maps(self, name: str, stage: int, z: Array) -> Array:
        """A stage's latents as feature maps, by a linear layer from vectors `[B, d]`; maps stay as they are."""
        # stages are listed top first and counted from the bottom, hence the minus
        rows, columns = sides(self.model.image, self.model.pad, self.model.stages)[-stage]
        return ToMap((rows, columns, self._stage(stage).channels), self._style(0.0), name=name)(z)

    def normal(self, name: str, stage: int, h: Array) -> Normal:
        """The Gaussian of one of the stage's latents, from feature maps."""
        settings = self._stage(stage)
        head = Head(2 * settings.latents, settings.kernel, self._style(0.0), name=name)
        return gaussian(head(h), self.model.head, self.model.clamp)

    def top_prior(self, n: int) -> Normal:
        """p(z_S), N(0, I) or learned: `[n, d]`, or `[n, h, w, d]` where latents are maps."""
        model, top = self.model, self.model.stages[0]
        place = () if top.kernel is None else sides(model.image, model.pad, model.stages)[0]
        if not model.learn_top_prior:
            return Normal.standard((n, *place, top.latents))
        # not clamped: `clamp` bounds the log variances that layers give
        return learned_top_prior(model.param, (*place, top.latents), n)

    def level(self, key: Array, prior: Normal, posterior: Normal | Drawn | None, pick: Pick, name: str) -> Level:
        """One latent, by `descent.draw`."""
        side = prior.mean.shape[1] if prior.mean.ndim == 4 else 1  # of [n, h, w, d], or of [n, d]
        return draw(key, prior, posterior, pick, name=name, side=side)

    def trace(self, x: Array | None, levels: Sequence[Level], h: Array) -> Trace:
        """The Trace of a forward pass; the feature maps h below stage 1 give p(x | z)."""
        model, pad = self.model, self.model.pad
        h = h[:, pad : h.shape[1] - pad, pad : h.shape[2] - pad]  # [B, H, W, C] without the frame
        readout = self._style(0.0).conv(model.likelihood.outputs(model.image[-1]), 1, name="readout")
        x_dist = model.likelihood.from_map(widen(readout(model.activation(h))))
        return Trace(None if x is None else x_dist.log_prob(x), tuple(levels), x_dist)

    def _stage(self, stage: int) -> Stage:
        """The settings of a stage; the model lists them top first."""
        return self.model.stages[-stage]

    def _style(self, dropout: float) -> GatedStyle:
        """Settings that the blocks and layers have in common."""
        model = self.model
        return GatedStyle(model.activation, dropout, model.data_dependent_init, dtype=model.dtype)
