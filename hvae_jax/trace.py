"""`Trace` and its `Level`s: the record that every model returns, in nats.

elbo = log_px - sum of rates        log_w = log_px + sum of (log_p - log_q)
"""

import functools
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from hvae_jax.distributions import sum_event
from hvae_jax.likelihoods import Likelihood, LikelihoodRecord


@struct.dataclass
class Level:
    """One latent, or a scanned run of `n` latents of one shape (`stacked`: every array then has a leading axis n).

    Attributes:
      z: the sample, `[B, ...]`.
      q: distribution that z was drawn from, any `Latent` record of `[B, ...]` arrays: the posterior, under a flow its
        base, or the prior if nothing was inferred.
      p: prior p(z | above), a `Latent` record, possibly of another kind than q.
      kl: KL(q || p) of each element, `[B, ...]`, nats: in closed form if there is one and the prior does not depend on
        this level's own sample, else log q - log p at the sample. `[B]` if q or p is a joint density; 0 if z came from
        the prior.
      log_q: log density of z under q at temperature 1, with a flow's log-determinant, `[B]`, nats.
      log_p: log density of z under the prior at temperature 1, `[B]`, nats.
      name: name as in the paper: "z1" is next to x.
      side: height of the latent's feature map; 1 for a vector.
      stacked: whether the arrays have a leading axis of levels.
      inferred: whether z comes from its posterior, bool `[B]`; None where it always does, and an array where the choice
        is traced or z comes from the prior.
      flow: whether z passed a flow after it was drawn from q, so that q is not its density; log_q is.
      summed: KL per example, `[B]`, nats, where it was summed with the level; None where `rate` sums `kl`. A level that
        is given another `kl` needs another sum, or None.

    Example:
        >>> q, p = hv.Normal(jnp.ones((3, 2)), jnp.zeros((3, 2))), hv.Normal.standard((3, 2))
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())), name="z1")
        >>> level.name, level.z.shape, level.kl.shape, level.rate.shape
        ('z1', (3, 2), (3, 2), (3,))
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
    inferred: Array | None = None
    flow: bool = struct.field(pytree_node=False, default=False)
    summed: Array | None = None

    @property
    def rate(self) -> Array:
        """KL per example, nats, `[B]` (`[n, B]` for a run)."""
        _refuse_extra_axes(self)
        if self.summed is not None:
            return self.summed
        # `sum_event` takes the first axis for the batch: in a run, [n, B, ...], that is the second.
        return jax.vmap(sum_event)(self.kl) if self.stacked else sum_event(self.kl)

    @property
    def ratio(self) -> Array:
        """log q - log p at the sample, per example, nats, `[B]` (`[n, B]` for a run); 0 if z came from the prior."""
        _refuse_extra_axes(self)
        difference = self.log_q - self.log_p
        # There both are the same number, but a compiled program may compute it twice and round it in two ways.
        return difference if self.inferred is None else jnp.where(self.inferred, difference, 0.0)


@struct.dataclass
class Trace:
    """One joint sample of all latents, with p(x | z) given them.

    Attributes:
      log_px: log p(x | z), `[B]`, nats; None if there was no x.
      levels: levels in generative order, top first; a scanned run is one stacked `Level`.
      x_dist: p(x | z), a record with `log_prob(x)`, `sample(key)`, `mean` and `mode`.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> trace = model.apply(variables, x, jax.random.key(2))
        >>> trace.names, trace.rates.shape, trace.log_px.shape
        (('z2', 'z1'), (2, 3), (3,))
    """

    log_px: Array | None
    levels: tuple[Level, ...]
    x_dist: LikelihoodRecord

    @property
    def rates(self) -> Array:
        """KL of each latent, `[L, B]`, nats, top first.

        Raises ValueError on a vmapped Trace, whose extra axis cannot be told from that of a run.
        """
        return jnp.concatenate([jnp.atleast_2d(level.rate) for level in self.levels])

    @property
    def ratios(self) -> Array:
        """log q - log p of each latent at its sample, `[L, B]`, nats, top first. Raises ValueError as `rates` does."""
        return jnp.concatenate([jnp.atleast_2d(level.ratio) for level in self.levels])

    @property
    def latents(self) -> tuple[Array, ...]:
        """Samples of the latents, one array each, top first: what the argument `latents=` takes."""
        return tuple(level.z for level in self.unstack())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the latents, top first."""
        return tuple(
            name
            for level in self.levels
            for name in ([f"{level.name}.{i}" for i in range(level.z.shape[0])] if level.stacked else [level.name])
        )

    @property
    def sides(self) -> tuple[int, ...]:
        """Height of each latent's feature map, top first; 1 for a vector."""
        return tuple(
            side for level in self.levels for side in [level.side] * (level.z.shape[0] if level.stacked else 1)
        )

    @property
    def rates_by_side(self) -> dict[int, Array]:
        """KL summed over the latents of each resolution, {side: `[B]`}, nats, top first.

        Raises ValueError as `rates` does.
        """
        sides, rates = np.array(self.sides), self.rates
        return {int(side): rates[sides == side].sum(0) for side in dict.fromkeys(self.sides)}

    def unstack(self) -> tuple[Level, ...]:
        """Splits runs into one `Level` per latent; those of a run "z" are named "z.0", "z.1", ... from the top."""
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
    """What objectives, diagnostics and training need of a model: Linen's `init` and `apply`, and a few properties.

    `apply` returns Any, where Linen annotates a union with (output, updates): `mutable=` decides whether updates are
    returned, `method=` whether the output is a Trace or arrays. `models.HVAE` lists the calls. A model that inherits
    from this class or from `models.HVAE` has the defaults below.
    """

    @property
    def classes(self) -> int:
        """Number of class labels the model is conditioned on; 0 for none."""
        return 0

    @property
    def clusters(self) -> int:
        """Number of classes of the latent "y", some of which labels may reveal in training; 0 for a model without."""
        return 0

    @property
    def image(self) -> tuple[int, ...] | None:
        """Shape of one x, `(H, W, C)`, if a setting of the model fixes it; None if its variables do."""
        return None

    @property
    def likelihood(self) -> Likelihood | None:
        """The family of p(x | z); None for a model with a built-in likelihood."""
        return None

    @property
    def num_levels(self) -> int:
        """Number of latents L."""
        ...

    @property
    def levels_per_stage(self) -> tuple[int, ...]:
        """Number of levels in each stage, the unit of `keep_top`, top first; one level per stage by default."""
        return (1,) * self.num_levels

    @property
    def observed(self) -> Mapping[str, Likelihood]:
        """The family of each level that is a function of x, such as a smaller picture, by its name; none by default."""
        return {}

    @property
    def stacked(self) -> tuple[str, ...]:
        """Path prefixes, such as "down4/", of parameters with a leading axis of blocks, those of scanned runs."""
        return ()

    @property
    def rolled(self) -> "Model":
        """The same function with no block of a scanned run written out: compiled sooner, with less memory.

        It runs somewhat slower, which pays where a program runs for less time than it takes to compile.
        """
        return self

    def truncated(self, modules: int) -> "Model":
        """The model of its first modules alone, which takes the whole model's variables: for stages of training.

        Raises ValueError for a number of modules that it does not have, and by default.
        """
        raise ValueError(
            f"{type(self).__name__} is not made of modules that can be left out: leave out `modules` of the stages."
        )

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Initialises the variables."""
        ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs the forward pass, or the method named by `method=`."""
        ...


def level_names(model: Model, data: Any) -> tuple[str, ...]:
    """Names of the model's levels, top first, from shapes alone: nothing is computed.

    Args:
      data: record with `x` and `y` (or None), arrays or anything with a shape and a dtype, such as a data split.

    Example:
        >>> hv.trace.level_names(hv.models.LinearVAE((2, 1)), hv.Batch(jnp.ones((3, 4))))
        ('z2', 'z1')
    """
    return _levels(model, data)[0]


def level_sides(model: Model, data: Any) -> tuple[int, ...]:
    """Height of each level's feature map, top first, 1 for vectors, from shapes alone; `data` as in `level_names`.

    Example:
        >>> hv.trace.level_sides(hv.models.LinearVAE((2, 1)), hv.Batch(jnp.ones((3, 4))))
        (1, 1)
    """
    return _levels(model, data)[1]


def _levels(model: Model, data: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and sides of the model's levels, by a trace of one example of `data` with shapes in place of arrays."""
    x, y = (None if a is None else jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype) for a in (data.x, data.y))
    try:
        hash(model)
    except TypeError:  # a model with an array among its fields
        return _traced_levels.__wrapped__(model, x, y)
    return _traced_levels(model, x, y)


@functools.lru_cache(maxsize=64)  # a run asks four times, and a trace of a deep model takes seconds
def _traced_levels(model: Model, x: Any, y: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    def trace_of(x: Array, y: Array | None) -> Trace:
        key = jax.random.key(0)
        return model.apply(model.init(key, x, key, y=y), x, key, y=y)

    trace = jax.eval_shape(trace_of, x, y)
    return trace.names, trace.sides


def _refuse_extra_axes(level: Level) -> None:
    if level.log_q.ndim != 1 + level.stacked:
        raise ValueError(
            f"Level {level.name!r} has log_q of shape {level.log_q.shape}, but one trace has "
            f"{'[n, B]' if level.stacked else '[B]'}: this looks like a vmapped Trace. Use its properties inside "
            "the vmap, as in vmap(lambda key: elbo(model.apply(variables, x, key)))."
        )
