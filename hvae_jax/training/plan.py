"""Which examples each step sees: a function of the settings and the step alone, on one machine or on many."""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Plan:
    """Epochs, batches and dispatches of a run.

    Every epoch takes each example once, in an order of its own. Its last batch has what is left; nothing is padded.

    Attributes:
      examples: N, in the train split.
      batch_size: of a full batch, over all devices of all processes.
      per_dispatch: steps sent to the device at once, at most. Dispatches start over with each epoch.
      last_step: where training ends at the latest.
      seed: whole numbers that, with the epoch's number, decide its order.
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
        """How many steps the dispatch that starts at `step` takes: a function of the step alone.

        So a resumed run repeats the dispatches of an uninterrupted one, and with them its rounding.
        """
        within = step % self.epoch_steps
        boundary = min((within // self.per_dispatch + 1) * self.per_dispatch, self.epoch_steps)
        return min(boundary - within, self.last_step - step)

    def dispatch(self, step: int) -> int:
        """Number of the dispatch that takes `step`, counted from the beginning of the run."""
        epoch, within = divmod(step, self.epoch_steps)
        return epoch * self.epoch_dispatches + within // self.per_dispatch

    def start(self, dispatch: int) -> int:
        """The first step of a dispatch: `dispatch(start(i)) == i`."""
        epoch, within = divmod(dispatch, self.epoch_dispatches)
        return epoch * self.epoch_steps + within * self.per_dispatch

    def place(self, step: int) -> dict[str, int]:
        """Where in the data the run stands once it has taken `step` steps: what a checkpoint keeps."""
        epoch, within = divmod(step, self.epoch_steps)
        return {"epoch": epoch, "batch": within, "batch_size": self.batch_size, "examples": self.examples}

    def rows(self, step: int, length: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The rows of `length` steps from `step` on, within one epoch.

        Returns: those of the full batches, int32 `[full, batch_size]`, and of the partial one, `[rest]`; None where
          there are none.
        """
        epoch, within = divmod(step, self.epoch_steps)
        order = _order(self.examples, self.seed, epoch)
        full = min(length, self.examples // self.batch_size - within)
        start, stop = within * self.batch_size, (within + full) * self.batch_size
        whole = order[start:stop].reshape(full, self.batch_size) if full > 0 else None
        return whole, order[stop:] if full < length else None


@functools.lru_cache(maxsize=4)
def _order(examples: int, seed: tuple[int, ...], epoch: int) -> np.ndarray:
    """A permutation of all rows. NumPy promises that RandomState's numbers never change."""
    return np.random.RandomState([*seed, epoch]).permutation(examples).astype(np.int32)
