"""`HVAE`: the methods that all models share, written once over the forward pass, `descend`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from hvae_jax.descent import Pick, check_keep_top, picks
from hvae_jax.likelihoods import Likelihood, Missing
from hvae_jax.models.arguments import (
    as_count,
    as_x,
    check_arguments,
    check_variables,
    variables_explained,
)
from hvae_jax.networks.smoothed import Smoothing
from hvae_jax.records import check_fields
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.runtime.prng import check_key, fold_in, split
from hvae_jax.trace import Trace


class Reconstruction(NamedTuple):
    """E[x | z] over draws of the latents of x: what the posterior is sure of, and what not.

    Attributes:
      mean: mean over the draws, an estimate of E_q[E[x | z]], `[B, *event]`.
      deviation: standard deviation of E[x | z] over the draws, `[B, *event]`; the noise of p(x | z) is no part of it.
    """

    mean: Array
    deviation: Array


class HVAE(nn.Module):
    """A hierarchical VAE: a frozen module whose fields are its settings.

    A model author writes two things: `num_levels`, and `descend`, the forward pass that serves inference and
    generation alike. Everything else follows:

        model.apply(variables, x, key, y=, latents=, noise=, temperature=, keep_top=, train=)    -> Trace
        model.apply(variables, key, n, y=, latents=, noise=, temperature=, method="decode")      -> Trace without x
        model.apply(variables, key, n, y=, latents=, noise=, temperature=, method="generate")    -> x, sampled
        model.apply(variables, x, key, y=, keep_top=, temperature=, method="reconstruct")        -> E[x | z]
        model.apply(variables, x, key, ..., draws=16, method="reconstruct")                      -> Reconstruction
        model.apply(variables, x, key, y=, method="encode")                                      -> latents, top first

    The three calls with x also take posterior_temperature=, temperature of the posteriors, `[]` or `[L]`: 0 infers
    without noise, each level at the mode of its posterior (the mean of a Gaussian) given the modes above, the same for
    every key unless networks draw numbers of their own. Densities stay those at temperature 1, so that the bound of
    such a trace is none.

    latents: a tuple, top first, with None for each latent that is not given; which ones are given is static.
    noise: a tuple of the same kind, with the standard normal noise that a level's sample is made of.
    temperature: temperature of the priors, `[]` or `[L]`, top first; may be traced.
    keep_top: number of top levels that are inferred from x, while those below are sampled from their priors; None
      infers all. In a model whose levels come in stages (`levels_per_stage`) it is a number of stages. May be traced.
    train: training mode; pass `mutable=["batch_stats"]` as well.

    Raises ValueError at construction if a field annotated with a Literal has another value, the bounds of a clamp are
    not in order, or the number of classes is negative or 1.
    Calls raise ValueError or TypeError for arguments of a wrong kind or shape, and for variables without a collection
    that the model needs.

    Example:
        >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
        >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
        >>> trace = model.apply(variables, x, jax.random.key(2))
        >>> trace.names, [z.shape for z in trace.latents], hv.elbo(trace).shape
        (('z2', 'z1'), [(3, 2), (3, 1)], (3,))
    """

    def __post_init__(self) -> None:
        check_fields(self)
        super().__post_init__()
        for field in dataclasses.fields(self):  # fields of the subclass
            bounds = getattr(self, field.name)
            if field.name in ("clamp", "prior_clamp") and bounds is not None and not bounds[0] < bounds[1]:
                raise ValueError(
                    f"{type(self).__name__}({field.name}={bounds}): it has to be a lower bound and then a higher one."
                )
        # a single class would carry no information
        if self.classes < 0 or self.classes == 1:
            raise ValueError(f"{type(self).__name__}(classes={self.classes}): 0 for no labels, or 2 or more.")

    # Defaults of the properties that `trace.Model` asks for; models for which they differ override most by fields.

    @property
    def num_levels(self) -> int:
        """L, the number of latents."""
        raise TypeError(f"{type(self).__name__} has to say how many levels it has: define num_levels.")

    @property
    def levels_per_stage(self) -> tuple[int, ...]:
        """Number of levels in each stage, the unit of `keep_top`, top first; one level per stage by default."""
        return (1,) * self.num_levels

    @property
    def classes(self) -> int:
        """Number of class labels the model is conditioned on; 0 for a model without y."""
        return 0

    @property
    def clusters(self) -> int:
        """Number of classes of the latent "y", some of which labels may reveal in training; 0 for a model without."""
        return 0

    @property
    def image(self) -> tuple[int, ...] | None:
        """Shape of one x, `(H, W, C)`; None if no setting has it and the variables record it."""
        return None

    @property
    def likelihood(self) -> Likelihood | None:
        """The family of p(x | z); None for a model that has a likelihood of its own."""
        return None

    @property
    def observed(self) -> Mapping[str, Likelihood]:
        """The family of each level that is a function of x, by the level's name; none by default."""
        return {}

    @property
    def smoothing(self) -> Smoothing | None:
        """Smoothing of the priors' networks; None for a model that does not have the setting."""
        return None

    @property
    def stacked(self) -> tuple[str, ...]:
        """Path prefixes ("down4/") of parameters stacked along a leading axis of blocks: those of scanned runs."""
        return ()

    @property
    def rolled(self) -> "HVAE":
        """The model with unroll=1, if it has that setting."""
        return self.clone(unroll=1) if any(field.name == "unroll" for field in dataclasses.fields(self)) else self

    @nn.nowrap
    def truncated(self, modules: int) -> "HVAE":
        """The model of its first modules alone, for stages of training; raises ValueError by default, having none."""
        raise ValueError(
            f"{type(self).__name__} is not made of modules that can be left out: leave out `modules` of the stages."
        )

    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        """The forward pass: an ascent if x is given, then the descent, then p(x | z).

        Args:
          x: `[n, *event]`, or None to sample all latents from their priors.
          n: number of examples.
          key: random key for latents, dropout and whatever else the model draws.
          y: class labels `[n]`, or None.
          picks: how each latent is chosen, top first (`descent.draw` takes them).
          train: training mode.
        """
        raise TypeError(f"{type(self).__name__} has no forward pass: define descend.")

    @nn.nowrap
    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Linen's `apply`, after a check that the variables are collections."""
        check_variables(self, variables)
        return super().apply(variables, *args, **kwargs)

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
        posterior_temperature: ArrayLike | None = None,
        train: bool = False,
    ) -> Trace:
        """Infer the latents of x `[B, *event]`, except those given or below the top `keep_top`, and score x.

        Raises ValueError for an x that the likelihood gives probability 0, where its values are known, outside `jit`;
        for the choices that `descent.picks` refuses; and for densities or latents without the batch.
        """
        x = as_x(x)
        check_arguments(type(self).__name__, key, latents, noise, temperature, posterior_temperature)
        _check_values(self.likelihood, x)
        kept = levels_kept(self.levels_per_stage, keep_top)
        choices = picks(self.num_levels, latents, temperature, kept, noise, posterior_temperature)
        family = self.likelihood
        read = family.filled(x) if isinstance(family, Missing) else x
        with variables_explained(self):
            trace = self.descend(read, x.shape[0], key, y=_array(y), picks=choices, train=train)
        if isinstance(family, Missing):
            # descend scored what it read, fillings included
            trace = dataclasses.replace(trace, log_px=trace.x_dist.log_prob(x))
        return _with_batch(trace, x.shape[0])

    def decode(
        self,
        key: Array,
        n: int,
        *,
        y: ArrayLike | None = None,
        latents: Sequence[ArrayLike | None] | None = None,
        noise: Sequence[ArrayLike | None] | None = None,
        temperature: ArrayLike = 1.0,
        train: bool = False,
    ) -> Trace:
        """Sample the latents that are not given from their priors, for n examples; log_px of the Trace is None.

        In training mode the networks see the statistics of these samples, as `models.recalibrate` needs it.

        Example:
            >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
            >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
            >>> trace = model.apply(variables, jax.random.key(2), 5, temperature=0.0, method="decode")
            >>> [z.shape for z in trace.latents], bool((trace.latents[0] == 0).all())  # the mode of N(0, I)
            ([(5, 2), (5, 1)], True)
        """
        n = as_count(n)
        check_arguments(type(self).__name__, key, latents, noise, temperature)
        choices = picks(self.num_levels, latents, temperature, noise=noise)
        with variables_explained(self):
            trace = self.descend(None, n, key, y=_array(y), picks=choices, train=train)
        return _with_batch(trace, n)

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
        """Generate n new x: latents as in `decode`, then a sample of p(x | z).

        Example:
            >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
            >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
            >>> model.apply(variables, jax.random.key(2), 5, method="generate").shape
            (5, 4)
        """
        n = as_count(n)
        check_key(type(self).__name__, key)
        # a key of its own for x, so that latents and x are independent draws
        key_latents, key_x = split(key)
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
        posterior_temperature: ArrayLike | None = None,
        draws: int | None = None,
    ) -> Any:
        """Return E[x | z] with the top `keep_top` levels inferred from x and the rest sampled from their priors.

        At posterior_temperature 0 the inferred levels have no noise; with temperature 0 too, nothing has.

        Args:
          draws: number of draws of the latents, whose keys are folded from `key`; None takes one, of `key` itself. The
            result is then a `Reconstruction`, of mean and deviation over the draws, in the memory of one.
        Raises ValueError for draws below 2, which have no deviation.

        Example:
            >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
            >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
            >>> mean = model.apply(variables, x, jax.random.key(2), keep_top=1, method="reconstruct")
            >>> mean.shape  # E[x | z], z2 inferred from x and z1 drawn from its prior
            (3, 4)
        """
        choices = {"keep_top": keep_top, "temperature": temperature, "posterior_temperature": posterior_temperature}
        if draws is None:
            return self(x, key, y=y, **choices).x_dist.mean
        if not isinstance(draws, int | np.integer) or isinstance(draws, bool) or draws < 2:
            raise ValueError(f"reconstruct(draws={draws}): it has to be a whole number of 2 or more, or None for one.")

        def draw(model: HVAE, carry: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
            mean, squares = carry
            one = model(x, fold_in(key, number), y=y, **choices).x_dist.mean
            change = one - mean
            mean = mean + change / (number + 1).astype(one.dtype)
            return (mean, squares + change * (one - mean)), None

        like = jax.eval_shape(lambda v: self.clone(parent=None).apply(v, x, key, y=y).x_dist.mean, self.variables)
        none = jnp.zeros(like.shape, like.dtype)
        loop = nn.scan(draw, variable_broadcast=True, split_rngs={}, length=int(draws))
        (mean, squares), _ = loop(self, (none, none), jnp.arange(draws))
        return Reconstruction(mean, jnp.sqrt(squares / (draws - 1)))

    def encode(
        self, x: ArrayLike, key: Array, *, y: ArrayLike | None = None, posterior_temperature: ArrayLike | None = None
    ) -> tuple[Array, ...]:
        """Return a sample of all latents of x, top first, as `decode(latents=...)` takes them.

        At posterior_temperature 0 it is the mode of each posterior, given those above, and the same for every key.

        Example:
            >>> model, x = hv.models.LinearVAE((2, 1)), jnp.ones((3, 4))
            >>> variables = model.init(jax.random.key(0), x, jax.random.key(1))
            >>> [z.shape for z in model.apply(variables, x, jax.random.key(2), method="encode")]
            [(3, 2), (3, 1)]
        """
        return self(x, key, y=y, posterior_temperature=posterior_temperature).latents


def levels_kept(levels_per_stage: tuple[int, ...], keep_top: ArrayLike | None) -> ArrayLike | None:
    """Return the number of levels in the top `keep_top` stages; a traced `keep_top` is clipped to all stages.

    Raises ValueError as `descent.check_keep_top` does, with the number of stages, if stages have several levels.
    """
    if keep_top is None or max(levels_per_stage) == 1:
        return keep_top
    stages = len(levels_per_stage)
    check_keep_top(keep_top, stages, f"stages (of {sum(levels_per_stage)} levels)")
    # by index and not by a Python branch, because keep_top may be traced
    ends = jnp.cumsum(jnp.asarray((0, *levels_per_stage)))  # ends[k]: levels in the top k stages
    return ends[jnp.clip(jnp.asarray(keep_top), 0, stages)]


def _check_values(likelihood: Likelihood | None, x: Array) -> None:
    """Check that the likelihood allows the values of x, unless x is traced: under `jit` nothing is known or added."""
    if likelihood is not None and not isinstance(x, jax.core.Tracer) and x.is_fully_addressable:
        likelihood.check(np.asarray(x))


def _with_batch(trace: Trace, n: int) -> Trace:
    """Return the trace of a forward pass after a check that it has n examples.

    Another shape would be broadcast without an error if batch and event happen to have the same size.

    Raises ValueError if log_px is not `[n]`, or z, log_q or log_p of a level do not have n examples.
    """
    if trace.log_px is not None and trace.log_px.shape != (n,):
        raise ValueError(
            f"log p(x | z) has shape {trace.log_px.shape} for {n} examples: log_prob of {type(trace.x_dist).__name__} "
            f"has to be one number an example, {(n,)}, summed over the event."
        )
    for level in trace.levels:
        lead = int(level.stacked)  # number of axes before that of the examples
        shapes = level.z.shape[lead : lead + 1], level.log_q.shape[lead:], level.log_p.shape[lead:]
        if any(shape != (n,) for shape in shapes):
            raise ValueError(
                f"Level {level.name!r} has z, log_q and log_p of shapes {level.z.shape}, {level.log_q.shape} and "
                f"{level.log_p.shape} for {n} examples: z has to begin with them, the others are one number an example."
            )
    return trace


def _array(y: ArrayLike | None) -> Array | None:
    return None if y is None else jnp.asarray(y)
