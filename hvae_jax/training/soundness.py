"""Whether what a run has trained is sound: finite, and within reason of what it was before training."""

from collections.abc import Iterable, Mapping
from math import inf, isfinite
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.training.state import TrainState

REASON = 100.0
"""Multiple of the scale, see `Soundness`, below which an ELBO is worse than no training at all. A healthy run, however
wild its start, stays within a few scales; a step that is far too large leaves thousands, or overflows."""


class Soundness:
    """The evidence that a run's parameters are sound.

    A step's loss says of the parameters before it that they are sound; of those after it nothing is known until they
    are evaluated. An ELBO is sound if it is finite and lies above -REASON times the scale: the largest of |ELBO| and
    |log p(x | z)| at the first step, of the untrained model, and 1 nat.

    Args:
      step: step at which this sitting begins; its state was restored, and is evaluated by the first step.
      rows: rows written earlier, in order of steps.

    Attributes:
      step: latest step whose parameters were seen to be sound.
      doubted: whether those of the latest evaluation were not.
    """

    def __init__(self, step: int, rows: Iterable[Mapping[str, float | int | None]]) -> None:
        self.step, self.doubted = step - 1, False
        self._scale = next((scale for row in rows if (scale := _scale(row.get("elbo"), row.get("log_px")))), 0.0)

    @property
    def least(self) -> float:
        """Least ELBO that is sound, nats."""
        return -REASON * self._scale if self._scale else -inf

    def trained(self, first: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Takes the evidence of one dispatch.

        Args:
          first: number of its first step.
          metrics: of each of its steps, `[steps, ...]`.
        """
        elbo, log_px = metrics["elbo"], metrics["log_px"]
        if not self._scale:
            pairs = zip(elbo.tolist(), log_px.tolist(), strict=True)
            self._scale = next((scale for pair in pairs if (scale := _scale(*pair))), 0.0)
        sound = np.isfinite(metrics["loss"]) & np.isfinite(elbo) & (elbo >= self.least)
        if sound.any():
            self.step = first + int(np.flatnonzero(sound)[-1])
        self.doubted = not bool(sound[-1])

    def validated(self, step: int, elbo: float, state: TrainState) -> bool:
        """Whether a validation at a step is sound, and the parameters with it."""
        sound = isfinite(elbo) and elbo >= self.least and finite(state)
        self.doubted = not sound
        if sound:
            self.step = step
        return sound

    def trouble(self, state: TrainState, finished: bool, max_streak: int) -> str | None:
        """Why training has diverged, as a clause; None if it has not.

        Args:
          finished: whether the run has come to its end, where it was validated.
          max_streak: number of skipped steps in a row that are too many.
        """
        streak = int(state.streak)
        if not finite(state):
            return "the parameters are no longer finite"
        if finished and self.doubted:
            least = f" of {self.least:,.5g} nats or more" if self._scale else ""
            return f"the last validation gave no ELBO within reason, a finite one{least}"
        if streak >= max_streak:
            return f"{streak} steps in a row had a loss or gradients that were not finite"
        return None


def finite(state: TrainState) -> bool:
    """Whether every parameter, average and statistic is finite."""
    return bool(_finite((state.params, state.variables)))


@jax.jit
def _finite(tree: Any) -> Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def _scale(elbo: float | int | None, log_px: float | int | None) -> float:
    """The scale of an evaluation, at least 1 nat; 0 where it is not finite."""
    if elbo is None or log_px is None or not (isfinite(elbo) and isfinite(log_px)):
        return 0.0
    return max(abs(float(elbo)), abs(float(log_px)), 1.0)
