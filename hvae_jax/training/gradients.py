"""Limits on a gradient before the optimiser takes it: it is clipped, or its step is skipped."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from hvae_jax.records import checked

MEMORY = 0.99
"""Decay of the usual norm: about a hundred steps, over which the norm of a healthy run changes little."""

WARM = 20
"""Norms that have to be seen before the adaptive threshold applies."""

NOTHING_USUAL = (0.0, 0.0, 0.0)
"""The usual norm before the first step."""


class Verdict(NamedTuple):
    """Whether a step is taken.

    Attributes:
      taken: bool `[]`.
      threshold: float32 `[]`, norm from which a step is skipped; infinite where there is no limit.
      usual: float32 `[3]`, the usual norm, this step's included.
      metrics: `large` (0 or 1: skipped for its norm) and `skip_threshold` where a finite step may be skipped; else {}.
    """

    taken: Array
    threshold: Array
    usual: Array
    metrics: dict[str, Array]


@dataclasses.dataclass(frozen=True)
@checked
class Gradients:
    """Limits on the norm of a gradient over all parameters.

    The gradient is that of the loss in nats per example. Codes such as VDVAE (Child, 2021) and Efficient-VDVAE state
    their limits for a loss in nats per dimension: multiply them by the number of dimensions of x.

    Attributes:
      clip: largest norm; a longer gradient is scaled down to it. None does not clip.
      skip_above: norm, before clipping, from which a step is skipped and changes nothing; None sets no such limit.
      skip_factor: skip when the norm exceeds this multiple of the usual norm, the geometric mean of the latest hundred
        or so finite ones, each counted up to the threshold; None sets no such limit. The lower of two limits counts.
      skip_streak: number of skipped steps in a row after which a finite one is taken whatever its norm, scaled down to
        the threshold (and to `clip`), so that a limit that is too low slows training but cannot silently end it.

    Raises ValueError for a limit that is not positive, a `skip_factor` of 1 or less, and a streak below 1.

    Example:
        >>> from hvae_jax import training
        >>> limits = training.Gradients(clip=1.0)
        >>> print(limits.scale(jnp.array(4.0), jnp.array(jnp.inf)))  # a gradient of norm 4 is divided by 4
        0.25
    """

    clip: float | None = None
    skip_above: float | None = None
    skip_factor: float | None = None
    skip_streak: int = 10

    def __post_init__(self) -> None:
        for name, least in (("clip", 0.0), ("skip_above", 0.0), ("skip_factor", 1.0)):
            value = getattr(self, name)
            if value is not None and not value > least:
                raise ValueError(f"gradients.{name} is {value}, but it has to be more than {least:g}, or None.")
        if self.skip_streak < 1:
            raise ValueError(f"gradients.skip_streak is {self.skip_streak}, but it has to be 1 or more.")

    @property
    def skips(self) -> bool:
        """Whether a finite step may be skipped."""
        return self.skip_above is not None or self.skip_factor is not None

    @property
    def scales(self) -> bool:
        """Whether the gradient of a step that is taken may be scaled down."""
        return self.skips or self.clip is not None

    def judge(self, norm: Array, finite: Array, usual: Array, streak: Array) -> Verdict:
        """Decides whether a step is taken.

        Args:
          norm: `[]`, norm of the gradient before clipping.
          finite: bool `[]`, whether loss and norm are finite; a step that is not is never taken.
          usual: `[3]`, what `remember` returned last.
          streak: `[]`, skipped steps in a row before this one.
        """
        if not self.skips:
            return Verdict(finite, jnp.float32(jnp.inf), usual, {})
        threshold = self.threshold(usual)
        # The threshold is that of the norms before this one, which would else raise it for itself.
        large = finite & (norm >= threshold) & (streak < self.skip_streak)
        usual = jnp.where(finite, self.remember(usual, norm), usual)
        metrics = {"large": large.astype(jnp.int32), "skip_threshold": threshold}
        return Verdict(finite & ~large, threshold, usual, metrics)

    def threshold(self, usual: Array) -> Array:
        """The norm from which a step is skipped, float32 `[]`; infinite where there is no limit.

        Args:
          usual: `[3]`, what `remember` returned last.
        """
        limit = jnp.float32(jnp.inf if self.skip_above is None else self.skip_above)
        if self.skip_factor is None:
            return limit
        # The mean of the first norms, unbiased by what is remembered before them: total / weight, as in Adam.
        weight, total, seen = usual
        adaptive = self.skip_factor * jnp.exp(total / jnp.maximum(weight, 1e-6))
        return jnp.where(seen >= WARM, jnp.minimum(limit, adaptive), limit)

    def remember(self, usual: Array, norm: Array) -> Array:
        """The usual norm with one more finite norm, `[3]`: sum of weights, weighted sum of logarithms, count."""
        # Counted up to the threshold: one enormous norm would otherwise raise the limit for a hundred steps.
        logarithm = jnp.log(jnp.clip(norm, 1e-20, self.threshold(usual)))
        return jnp.stack([MEMORY * usual[0] + 1 - MEMORY, MEMORY * usual[1] + (1 - MEMORY) * logarithm, usual[2] + 1])

    def scale(self, norm: Array, threshold: Array) -> Array:
        """The factor of the gradient of a step that is taken, `[]`, at most 1."""
        limit = threshold if self.clip is None else jnp.minimum(threshold, self.clip)
        return jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-20))
