"""The examples of each step: a function of settings and step alone, on one machine or on many."""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Plan:
    """Epochs, batches and dispatches of a run.

    Every epoch takes each example once, in an order of its own. Its last batch has what is left; nothing is padded.

    Attributes:
      examples: N, size of the train split.
      batch_size: examples in a full batch, over all devices of all processes.
      per_dispatch: largest number of steps sent to the device at once. Dispatches start over with each epoch.
      last_step: step at which training ends at the latest.
      seed: whole numbers that, with the number of the epoch, determine its order.

    Example:
        >>> from hvae_jax import training
        >>> plan = training.Plan(examples=1000, batch_size=64, per_dispatch=100, last_step=320)
        >>> plan.epoch_steps, plan.ends_epoch(16)  # 15 full batches and one of 40
        (16, True)
    """

    examples: int
    batch_size: int
    per_dispatch: int
    last_step: int
    seed: tuple[int, ...] = (0,)

    @property
    def epoch_steps(self) -> int:
        """Steps in an epoch, the partial one included."""
        return -(-self.examples // self.batch_size)

    @property
    def epoch_dispatches(self) -> int:
        """Dispatches in an epoch."""
        return -(-self.epoch_steps // self.per_dispatch)

    def length(self, step: int) -> int:
        """Number of steps of the dispatch that starts at `step`.

        It depends on the step alone, so that a resumed run repeats the dispatches of an uninterrupted one, and with
        them its rounding.
        """
        # Up to the next multiple of `per_dispatch` within the epoch, the epoch's end or the run's.
        within = step % self.epoch_steps
        boundary = min((within // self.per_dispatch + 1) * self.per_dispatch, self.epoch_steps)
        return min(boundary - within, self.last_step - step)

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch is over once `step` steps are taken."""
        return step % self.epoch_steps == 0

    def dispatch(self, step: int) -> int:
        """Index of the dispatch that takes `step`, counted from the beginning of the run."""
        epoch, within = divmod(step, self.epoch_steps)
        return epoch * self.epoch_dispatches + within // self.per_dispatch

    def start(self, dispatch: int) -> int:
        """The first step of a dispatch: `dispatch(start(i)) == i`."""
        epoch, within = divmod(dispatch, self.epoch_dispatches)
        return epoch * self.epoch_steps + within * self.per_dispatch

    def place(self, step: int) -> dict[str, int]:
        """The position in the data after `step` steps, which a checkpoint keeps."""
        epoch, within = divmod(step, self.epoch_steps)
        return {"epoch": epoch, "batch": within, "batch_size": self.batch_size, "examples": self.examples}

    def rows(self, step: int, length: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The rows of `length` steps from `step` on, within one epoch.

        Returns: rows of the full batches, int32 `[full, batch_size]`, and of the partial one, `[rest]`; None where
          there is none.
        """
        epoch, within = divmod(step, self.epoch_steps)
        order = _order(self.examples, self.seed, epoch)
        # Full batches among the steps; negative or 0 for a dispatch of the partial one alone.
        full = min(length, self.examples // self.batch_size - within)
        start, stop = within * self.batch_size, (within + full) * self.batch_size
        whole = order[start:stop].reshape(full, self.batch_size) if full > 0 else None
        return whole, order[stop:] if full < length else None


@functools.lru_cache(maxsize=4)
def _order(examples: int, seed: tuple[int, ...], epoch: int) -> np.ndarray:
    """A permutation of all rows. NumPy promises that RandomState's numbers never change."""
    return np.random.RandomState([*seed, epoch]).permutation(examples).astype(np.int32)
