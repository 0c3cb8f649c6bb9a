"""What is done with a gradient before the optimiser has it: clipped, or left out for its size."""

import dataclasses

import jax.numpy as jnp
from jax import Array

MEMORY = 0.99
"""Decay of the usual norm: it looks back some hundred steps, over which a sound run's norm changes by little."""

WARM = 20
"""Steps before the adaptive threshold has a say: one norm is no usual one."""


@dataclasses.dataclass(frozen=True)
class Gradients:
    """Limits on the norm of a gradient over all parameters.

    The gradient is of the loss, in nats per example. Where a code states its limits for a loss in nats per dimension,
    as VDVAE (Child, 2021) and Efficient-VDVAE do, they are to be multiplied by the number of dimensions of x.

    Attributes:
      clip: a longer gradient is scaled to this norm; None leaves it.
      skip_above: a step whose norm, before it is clipped, is this or more changes nothing; None has no such limit.
      skip_factor: likewise from so many times the usual norm on, which is the geometric mean of the latest hundred
        finite ones or so, each counted up to the threshold; None has no such limit. Of two thresholds the lower counts.
      skip_streak: after so many steps in a row that were skipped, a finite one is taken whatever its norm is, scaled
        down to the threshold (and to `clip`): one that is set too low slows training, and cannot end it in silence.
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

    def threshold(self, usual: Array) -> Array:
        """The norm from which on a step is skipped, float32 `[]`, infinite where none is.

        Args:
          usual: what `remember` returned, `[3]`.
        """
        limit = jnp.float32(jnp.inf if self.skip_above is None else self.skip_above)
        if self.skip_factor is None:
            return limit
        weight, total, seen = usual
        adaptive = self.skip_factor * jnp.exp(total / jnp.maximum(weight, 1e-6))
        return jnp.where(seen >= WARM, jnp.minimum(limit, adaptive), limit)

    def remember(self, usual: Array, norm: Array) -> Array:
        """The usual norm with one more, finite, norm: (sum of weights, weighted sum of logarithms, how many)."""
        logarithm = jnp.log(jnp.clip(norm, 1e-20, self.threshold(usual)))
        return jnp.stack([MEMORY * usual[0] + 1 - MEMORY, MEMORY * usual[1] + (1 - MEMORY) * logarithm, usual[2] + 1])

    def scale(self, norm: Array, threshold: Array) -> Array:
        """What the gradient of a step that is taken is multiplied by, `[]`, 1 at most."""
        limit = threshold if self.clip is None else jnp.minimum(threshold, self.clip)
        return jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-20))


NOTHING_USUAL = (0.0, 0.0, 0.0)
"""What is remembered before the first step."""
