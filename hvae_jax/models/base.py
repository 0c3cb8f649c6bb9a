"""What every model answers to, written once over its one forward pass, `descend`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

from hvae_jax.descent import Pick, picks
from hvae_jax.records import check_choices
from hvae_jax.runtime.prng import fused
from hvae_jax.trace import Trace


class HVAE(nn.Module):
    """A hierarchical VAE: a frozen module whose fields are its settings.

    A model author writes two things: `num_levels`, and `descend`, the forward pass that serves inference and
    generation alike. Everything else follows:

        model.apply(variables, x, key, y=, latents=, noise=, temperature=, keep_top=, train=)    -> Trace
        model.apply(variables, key, n, y=, latents=, noise=, temperature=, method="decode")      -> Trace without x
        model.apply(variables, key, n, y=, latents=, noise=, temperature=, method="generate")    -> x, drawn
        model.apply(variables, x, key, y=, keep_top=, temperature=, method="reconstruct")        -> E[x | z]
        model.apply(variables, x, key, y=, method="encode")                                      -> latents, top first

    `latents` is a tuple, top first, None where a latent is not given: which ones are given is static. `noise` is a
    tuple of the same kind: the standard normal numbers that a level's sample is made of, in place of the key's.
    `temperature` (`[]` or `[L]`) and `keep_top` (levels from that index on come from the prior) are data and may be
    traced. Where a model's latents come in stages, `levels_per_stage`, it is these that `keep_top` counts.
    `train=True` goes with `mutable=["batch_stats"]`.
    """

    # What a model is conditioned on, made for and made of (`trace.Model`): fields of the models that have them.
    classes = 0
    image = None
    likelihood = None
    stacked = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        for name in ("clamp", "prior_clamp"):
            bounds = getattr(self, name, None)
            if bounds is not None and not bounds[0] < bounds[1]:
                raise ValueError(f"{type(self).__name__}({name}={bounds}): a lower bound and then a higher one.")
        if self.classes < 0 or self.classes == 1:
            raise ValueError(f"{type(self).__name__}(classes={self.classes}): 0 for no labels, or 2 and more.")

    @property
    def num_levels(self) -> int:
        """L, the number of latents."""
        raise TypeError(f"{type(self).__name__} has to say how many levels it has: define num_levels.")

    @property
    def levels_per_stage(self) -> tuple[int, ...]:
        """How many levels each step of `keep_top` has, top first: one, unless a model says otherwise."""
        return (1,) * self.num_levels

    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        """The forward pass: an ascent if there is an x, then the descent, then p(x | z)."""
        raise TypeError(f"{type(self).__name__} has no forward pass: define descend.")

    def __call__(
        self,
        x: ArrayLike,
        key: Array,
        *,
        y: ArrayLike | None = None,
        latents: Sequence[ArrayLike | None] | None = None,
        noise: Sequence[ArrayLike | None] | None = None,
        temperature: ArrayLike = 1.0,
        keep_top: ArrayLike | None = None,
        train: bool = False,
    ) -> Trace:
        """Infers the latents of x `[B, *event]` (those not given, above keep_top) and scores it."""
        x = jnp.asarray(x)
        choices = picks(
            self.num_levels, latents, temperature, levels_kept(self.levels_per_stage, keep_top), noise=noise
        )
        return self.descend(x, x.shape[0], fused(key), y=_array(y), picks=choices, train=train)

    def decode(
        self,
        key: Array,
        n: int,
        *,
        y: ArrayLike | None = None,
        latents: Sequence[ArrayLike | None] | None = None,
        noise: Sequence[ArrayLike | None] | None = None,
        temperature: ArrayLike = 1.0,
    ) -> Trace:
        """Draws n examples' latents from the prior (those not given); no x, so log_px is None."""
        choices = picks(self.num_levels, latents, temperature, noise=noise)
        return self.descend(None, n, fused(key), y=_array(y), picks=choices, train=False)

    def generate(
        self,
        key: Array,
        n: int,
        *,
        y: ArrayLike | None = None,
        latents: Sequence[ArrayLike | None] | None = None,
        noise: Sequence[ArrayLike | None] | None = None,
        temperature: ArrayLike = 1.0,
    ) -> Array:
        """n new x: latents as in `decode`, then a draw from p(x | z)."""
        key_latents, key_x = jax.random.split(fused(key))
        trace = self.decode(key_latents, n, y=y, latents=latents, noise=noise, temperature=temperature)
        return trace.x_dist.sample(key_x)

    def reconstruct(
        self,
        x: ArrayLike,
        key: Array,
        *,
        y: ArrayLike | None = None,
        keep_top: ArrayLike | None = None,
        temperature: ArrayLike = 1.0,
    ) -> Array:
        """E[x | z] with the top `keep_top` levels inferred from x and the rest drawn from their priors."""
        return self(x, key, y=y, keep_top=keep_top, temperature=temperature).x_dist.mean

    def encode(self, x: ArrayLike, key: Array, *, y: ArrayLike | None = None) -> tuple[Array, ...]:
        """A draw of all latents of x, top first: what `decode(latents=...)` takes."""
        return self(x, key, y=y).latents


def check_networks(model: HVAE, **counts: int) -> None:
    """Raises ValueError where a field of networks has neither none nor as many as there have to be."""
    for name, count in counts.items():
        found = len(getattr(model, name))
        if found not in (0, count):
            raise ValueError(
                f"{type(model).__name__}({name}=...) has {found} networks, but {model.num_levels} levels need {count}, "
                "top first; None keeps the model's own, () keeps all."
            )


def levels_kept(levels_per_stage: tuple[int, ...], keep_top: ArrayLike | None) -> ArrayLike | None:
    """How many levels the top `keep_top` stages have; what is traced may count beyond the last stage.

    Raises ValueError for a plain number outside 0 to the number of stages, where stages have several levels.
    """
    if keep_top is None or max(levels_per_stage) == 1:
        return keep_top
    stages = len(levels_per_stage)
    if isinstance(keep_top, int | np.integer) and not 0 <= keep_top <= stages:
        raise ValueError(
            f"keep_top is {keep_top}, but the model has {stages} stages (of {sum(levels_per_stage)} levels): 0 to "
            f"{stages}."
        )
    ends = jnp.cumsum(jnp.asarray((0, *levels_per_stage)))
    return ends[jnp.clip(jnp.asarray(keep_top), 0, stages)]


def _array(y: ArrayLike | None) -> Array | None:
    return None if y is None else jnp.asarray(y)
