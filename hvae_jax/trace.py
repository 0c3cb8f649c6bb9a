"""The one record: `Level` and `Trace`, what every model answers with, in nats.

elbo = log_px - sum of rates        log_w = log_px + sum of (log_p - log_q)
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jax.typing import ArrayLike

from hvae_jax.distributions import sum_event
from hvae_jax.likelihoods import Likelihood, LikelihoodRecord


@struct.dataclass
class Level:
    """One latent, or a run of `n` equal ones that were scanned (`stacked`; every array then has a leading axis n).

    Attributes:
      z: `[B, ...]`, the sample.
      q: the distribution z was inferred from, any `Latent` record of `[B, ...]` arrays; under a flow, its base. Where
        there was no posterior it is the prior.
      p: the prior p(z | above), likewise; of another kind than q where the model has it so.
      kl: `[B, ...]`, elementwise nats: in closed form where there is one and the prior does not depend on this level's
        own sample, else log q - log p at the sample. `[B]` where q or p is a joint density. 0 where z came from the
        prior.
      log_q: `[B]`, log density of z under what it was drawn from, with a flow's log-determinant, at temperature 1.
      log_p: `[B]`, log density of z under the prior.
      name: as in the paper: "z1" is next to x.
      side: height of the latent's map, 1 for a vector.
      stacked: whether the arrays have a leading axis of levels.
    """

    z: Array
    q: Any
    p: Any
    kl: Array
    log_q: Array
    log_p: Array
    name: str = struct.field(pytree_node=False, default="z")
    side: int = struct.field(pytree_node=False, default=1)
    stacked: bool = struct.field(pytree_node=False, default=False)

    @property
    def rate(self) -> Array:
        """Nats of KL per example, `[B]` (`[n, B]` for a run)."""
        _refuse_extra_axes(self)
        return jax.vmap(sum_event)(self.kl) if self.stacked else sum_event(self.kl)

    @property
    def ratio(self) -> Array:
        """log q - log p at the sample, per example, `[B]` (`[n, B]` for a run)."""
        _refuse_extra_axes(self)
        return self.log_q - self.log_p


@struct.dataclass
class Trace:
    """One joint sample of all latents and what it says of x.

    Attributes:
      log_px: `[B]`, log p(x | z), or None where there was no x.
      levels: in generative order, top first. A scanned run is one stacked `Level`.
      x_dist: p(x | z), a record with `log_prob(x)`, `sample(key)`, `mean` and `mode`.
    """

    log_px: Array | None
    levels: tuple[Level, ...]
    x_dist: LikelihoodRecord

    @property
    def rates(self) -> Array:
        """KL of each latent, `[L, B]`, nats, top first.

        Raises ValueError on a Trace that was vmapped: its axes cannot be told apart outside.
        """
        return jnp.concatenate([jnp.atleast_2d(level.rate) for level in self.levels])

    @property
    def ratios(self) -> Array:
        """log q - log p of each latent at its sample, `[L, B]`, nats, top first. Raises as `rates` does."""
        return jnp.concatenate([jnp.atleast_2d(level.ratio) for level in self.levels])

    @property
    def latents(self) -> tuple[Array, ...]:
        """One array a latent, top first: exactly what `latents=` takes."""
        return tuple(level.z for level in self.unstack())

    @property
    def names(self) -> tuple[str, ...]:
        """One name a latent, top first."""
        return tuple(
            name
            for level in self.levels
            for name in ([f"{level.name}.{i}" for i in range(level.z.shape[0])] if level.stacked else [level.name])
        )

    @property
    def sides(self) -> tuple[int, ...]:
        """The height of each latent's maps, top first; 1 for a vector."""
        return tuple(level.side for level in self.unstack())

    @property
    def rates_by_side(self) -> dict[int, Array]:
        """KL of all latents of each resolution, {side: `[B]`}, nats, top first. Raises as `rates` does."""
        sides, rates = np.array(self.sides), self.rates
        return {int(side): rates[sides == side].sum(0) for side in dict.fromkeys(self.sides)}

    def unstack(self) -> tuple[Level, ...]:
        """One `Level` a latent; those of a run "z" are named "z.0", "z.1", ... from the top."""
        single = []
        for level in self.levels:
            if not level.stacked:
                single.append(level)
                continue
            for i in range(level.z.shape[0]):
                one = jax.tree.map(lambda leaf, i=i: leaf[i], level)
                single.append(one.replace(stacked=False, name=f"{level.name}.{i}"))
        return tuple(single)


@runtime_checkable
class Model(Protocol):
    """What objectives, diagnostics and training ask of a model: Linen's `init` and `apply`, and what it is.

    `apply` is typed Any where Linen says a union with (answer, updates): which of the two comes back depends on
    `mutable=`, and what the answer is, a Trace or arrays, on `method=`. `models.HVAE` lists the calls, and has all of
    the following with these defaults.
    """

    @property
    def classes(self) -> int:
        """Number of class labels the model is conditioned on; 0 for none."""
        ...

    @property
    def image(self) -> tuple[int, ...] | None:
        """Shape of one x, `(H, W, C)`, where a setting of the model says it; None where its variables do."""
        ...

    @property
    def likelihood(self) -> Likelihood | None:
        """The family of p(x | z); None for a model that has a likelihood of its own."""
        ...

    @property
    def num_levels(self) -> int:
        """L, number of latents."""
        ...

    @property
    def levels_per_stage(self) -> tuple[int, ...]:
        """Number of levels that each step of `keep_top` counts, top first; `(1,) * L` as a rule."""
        ...

    @property
    def stacked(self) -> tuple[str, ...]:
        """Prefixes of the paths ("down4/") of parameters with a leading axis of blocks, those of scanned runs."""
        ...

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Fresh variables."""
        ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """The forward pass, or the method that is named."""
        ...


def level_names(model: Model, variables: Any, x: ArrayLike, y: ArrayLike | None = None) -> tuple[str, ...]:
    """Names of the model's levels, top first, without computing anything."""
    trace = jax.eval_shape(lambda v, x, y: model.apply(v, x, jax.random.key(0), y=y), variables, x, y)
    return trace.names


def level_sides(model: Model, variables: Any, x: ArrayLike, y: ArrayLike | None = None) -> tuple[int, ...]:
    """The height of each level's maps, top first, 1 for vectors, without computing anything."""
    sides: list[int] = []
    key = jax.random.key(0)
    jax.eval_shape(lambda v, x, y: sides.extend(model.apply(v, x, key, y=y).sides), variables, x, y)
    return tuple(sides)


def _refuse_extra_axes(level: Level) -> None:
    if level.log_q.ndim != 1 + level.stacked:
        raise ValueError(
            f"Level {level.name!r} has log_q of shape {level.log_q.shape}, but one trace has "
            f"{'[n, B]' if level.stacked else '[B]'}: this looks like a vmapped Trace. Use its properties inside "
            "the vmap, as in vmap(lambda key: elbo(model.apply(variables, x, key)))."
        )
