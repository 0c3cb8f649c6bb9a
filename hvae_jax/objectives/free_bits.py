"""Free bits: rates are not minimised below a number of nats. The definitions of public codes are settings."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jax import Array

from hvae_jax.objectives.per_level import PerLevel, check_numbers, named, spread
from hvae_jax.objectives.schedules import Constant, Schedule
from hvae_jax.records import checked
from hvae_jax.trace import Level, Trace

Group = Literal["level", "channel", "element"]


@dataclasses.dataclass(frozen=True)
@checked
class FreeBits:
    """F_l = sum over the groups g of a level of max(lambda, mean_B r_g) or of mean_B max(lambda, r_g), nats.

    r_g is the KL of one example, summed over the group. A group at lambda or below has no gradient. 0 nats turns free
    bits off: F_l is the mean rate, even where that is negative (a log-ratio).

    Attributes:
      nats: lambda of each group, one number or one per level, top first; nats; 0 is off.
      group: elements that share a lambda: a "level" (an example's whole latent), a "channel" (an index of the last
        axis, summed over space; a vector has none) or an "element".
      average: quantity compared with lambda: "batch", the mean over the batch, or "sample", each example.
      schedule: factor of `nats` over time; constant by default.

    Free bits of public codes, each as its code has them:

        IAF's ResNet VAE (Kingma et al., 2016)           FreeBits(0.25, "channel", "batch"); 0.1 in its best run
        BIVA (Maaloe et al., 2019)                       FreeBits(2.0, "level", "sample"), each stochastic variable
        Ladder VAE of addtt (boilr)                      FreeBits(0.5, "level", "sample"); 1.0 above six layers
        hvae-oodd (Havtorn et al., 2021)                 FreeBits(2.0 / n, "element", "sample", schedule=Linear(start,
                                                         end, initial=1.0, final=0.0)), start and end at epochs 200
                                                         and 400, n the length of a latent's first axis after the
                                                         batch; `nats` is one number per level if these differ
    NVAE and the VDVAEs have none.
    Raises ValueError for negative nats or another group or average; at a model's first trace for "channel" with a
    vector latent, for "channel" or "element" with a joint density, and if the number of values in `nats` differs from
    the number of levels.

    Example:
        >>> x, x_dist = jnp.ones((1, 4)), hv.Bernoulli()(jnp.zeros((1, 4, 1)))  # log p(x | z) = -4 log 2 = -2.773
        >>> q, p = hv.Normal(jnp.ones((1, 2)), jnp.zeros((1, 2))), hv.Normal.standard((1, 2))  # a KL of 2/2
        >>> level = hv.descent.draw(jax.random.key(0), p, q, hv.descent.Pick(jnp.ones(())))
        >>> trace = hv.Trace(x_dist.log_prob(x), (level,), x_dist)
        >>> rates, metrics = hv.FreeBits(2.0)(trace, jnp.array(0))
        >>> print(rates, metrics["free_bits_pinned"])  # max(2, 1): the level lies below its free bits
        [2.] 1.0
    """

    nats: PerLevel = 0.0
    group: Group = "level"
    average: Literal["batch", "sample"] = "batch"
    schedule: Schedule = Constant()

    def __post_init__(self) -> None:
        check_numbers(self, "nats", low=0.0)

    @property
    def off(self) -> bool:
        """Whether lambda is 0 at every level and step."""
        return not any(self.nats) if isinstance(self.nats, tuple) else not self.nats

    def __call__(self, trace: Trace, step: Array) -> tuple[Array, dict[str, Array]]:
        """Computes (F, metrics); F is `[L]`, batch means in nats.

        Metrics: `free_bits`, lambda at this step (or `free_bits/LEVEL`), and `free_bits_pinned`, the fraction of groups
        (with "sample", of groups and examples) that lie at lambda or below and are not trained. Free bits that are off
        have no metrics.
        """
        if self.off:
            return trace.rates.mean(1), {}
        names, dtype = trace.names, trace.levels[0].kl.dtype
        lambdas = jnp.asarray(self.nats, float) * self.schedule(step)
        left = spread(lambdas, len(names), "free_bits.nats (with its schedule)", dtype)
        floored, pinned = [], []
        for level in trace.levels:
            rates = grouped(level, self.group)  # [n, B, groups]
            # A scanned run uses up n of the lambdas, another level one.
            floor, left = left[: len(rates), None, None], left[len(rates) :]
            rates = rates.mean(1, keepdims=True) if self.average == "batch" else rates  # [n, 1 or B, groups]
            # A lambda of 0, of one level or at one step, gives the plain rate there as well.
            free = (floor > 0.0) & (rates <= floor)
            floored.append(jnp.where(free, floor, rates).mean(1).sum(1))
            pinned.append(free.reshape(-1))
        share = jnp.concatenate(pinned).mean(dtype=dtype)
        return jnp.concatenate(floored), {**named("free_bits", lambdas, names), "free_bits_pinned": share}


def grouped(level: Level, group: Group) -> Array:
    """KL of each group, `[n, B, groups]`, nats; n = 1 unless the level is a scanned run.

    Raises ValueError for "channel" if the latent is a vector, and for "channel" and "element" if the level's KL is that
    of a joint density, one number per example.
    """
    if group == "level":
        return jnp.atleast_2d(level.rate)[..., None]
    kl = level.kl if level.stacked else level.kl[None]
    if kl.ndim == 2:
        raise ValueError(
            f"FreeBits(group={group!r}): the KL of level {level.name!r} is one number an example, since its q "
            f"({type(level.q).__name__}) or p ({type(level.p).__name__}) is no product over the elements. Take "
            "group='level'."
        )
    if group == "element":
        return kl.reshape(*kl.shape[:2], -1)
    if kl.ndim < 4:
        raise ValueError(
            f"FreeBits(group='channel'): the latent {level.name!r}, {list(kl.shape[1:])} with its batch, is a vector "
            "and has no axis of space to sum over. Take group='element' (each unit by itself) or group='level'."
        )
    n, batch, *_, channels = kl.shape
    return kl.reshape(n * batch, -1, channels).sum(1).reshape(n, batch, channels)
