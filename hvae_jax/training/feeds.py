"""Batches, behind one iterator: from data that lies on the devices, or from data that streams to them.

Both give the same batches at the same step, since both ask the same `Plan` for rows. They differ by rounding alone,
because their dispatches may differ in length. Grain reads (threads, worker processes, the order of their results); the
position in the data is the step, so that it is restored exactly, on any number of processes.
"""

import copy
import dataclasses
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from hvae_jax.objectives import Batch
from hvae_jax.records import checked
from hvae_jax.training.dispatch import Portion
from hvae_jax.training.mesh import local_rows, replicated, rows_sharding
from hvae_jax.training.plan import Plan

PORTION_BYTES = 2**24
"""Largest size of a streamed portion of more than one batch: small enough to be sent quickly."""


@dataclasses.dataclass(frozen=True)
@checked
class Feeding:
    """Settings of the feed, which brings the data to the devices.

    Attributes:
      kind: "resident" keeps the whole train split on every device, "streamed" reads batches as they are needed, "auto"
        streams a split that takes more than `share` of a device's memory. The batches are the same.
      share: largest fraction of one device's memory (on a CPU: of the machine's) that a resident split may take.
      threads: number of reading and decoding threads in each worker process, or in the training process if there is
        none.
      workers: number of reading and decoding processes, for data that is decoded in Python, where threads wait for each
        other; 0 reads in the training process.
      ahead: number of portions, of up to 16 MiB or one batch, read in advance; at least one a thread.

    Raises ValueError for a share outside (0, 1], or a number that is too small.

    Example:
        >>> from hvae_jax import training
        >>> training.Feeding(share=0.25).streams(nbytes=2**30, memory=2**31)  # half of the memory
        True
    """

    kind: Literal["auto", "resident", "streamed"] = "auto"
    share: float = 0.25
    threads: int = 8
    workers: int = 0
    ahead: int = 8

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"feed.share is {self.share}, but it has to be above 0 and at most 1.")
        for name, least in (("threads", 1), ("workers", 0), ("ahead", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"feed.{name} is {getattr(self, name)}, but it has to be {least} or more.")

    def streams(self, nbytes: int, memory: int) -> bool:
        """Whether `nbytes` of data stream on devices with `memory` bytes each."""
        return self.kind == "streamed" or (self.kind == "auto" and nbytes > self.share * memory)


@runtime_checkable
class Examples(Protocol):
    """A split: examples `x`, an array or `data.Rows`, and labels `y` or None."""

    @property
    def x(self) -> Any:
        """Examples, `[N, *event]`."""
        ...

    @property
    def y(self) -> np.ndarray | None:
        """Labels, `[N]`, or None."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of x as an array."""
        ...

    def take(self, rows: Any) -> "Examples":
        """The examples at a slice or an array of row numbers, in memory."""
        ...


@runtime_checkable
class Feed(Protocol):
    """An iterator of batches, in portions of as many steps as a dispatch takes.

    Attributes:
      plan: which examples each step sees.
      data: the train split on the devices, as `make_dispatch` takes it; None where portions hold the batches.
    """

    plan: Plan
    data: Batch | None

    def portions(self, step: int) -> Generator[Portion, None, None]:
        """The portions from `step` on to the last one, each `plan.length(step)` steps long."""
        ...


def until(feed: Feed, last_step: int) -> Feed:
    """The same feed up to an earlier step, at which its last portion ends; its data stays where it is."""
    other = copy.copy(feed)
    other.plan = dataclasses.replace(feed.plan, last_step=last_step)
    return other


class Resident:
    """A feed whose train split lies on every device: portions hold row numbers, and steps gather their batches."""

    def __init__(self, x: Any, y: np.ndarray | None, plan: Plan, mesh: Mesh) -> None:
        """Sends the data to the devices; x is an array or `Rows`."""
        self.plan = plan
        self.data: Batch | None = to_devices(x, y, mesh)

    def portions(self, step: int) -> Generator[Portion, None, None]:
        """Row numbers of the full batches, `[steps, batch_size]`, and of the partial one."""
        while step < self.plan.last_step:
            length = self.plan.length(step)
            yield self.plan.rows(step, length)
            step += length


class Streamed:
    """A feed that Grain reads while the devices compute; every process reads its own rows alone."""

    def __init__(self, x: Any, y: np.ndarray | None, plan: Plan, mesh: Mesh, settings: Feeding) -> None:
        """Keeps `x`, an array or `Rows`, where it is; dispatches are shortened to portions of `PORTION_BYTES`."""
        batch_bytes = plan.batch_size * int(np.prod(x.shape[1:])) * x.dtype.itemsize
        # At least one batch, however large it is.
        most = max(1, PORTION_BYTES // batch_bytes)
        self.plan = dataclasses.replace(plan, per_dispatch=min(plan.per_dispatch, most))
        self.data: Batch | None = None
        self._x, self._y, self._mesh, self._settings = x, y, mesh, settings

    def portions(self, step: int) -> Generator[Portion, None, None]:
        """Batches `[steps, batch_size, ...]`, and the partial one, on the devices."""
        # A finished run starts no reader.
        if step >= self.plan.last_step:
            return
        source = Portions(
            self._x,
            self._y,
            self.plan,
            step,
            local_rows(self.plan.batch_size, self._mesh),
            local_rows(self.plan.examples % self.plan.batch_size, self._mesh),
        )
        for full, tail in read(source, self._settings):
            yield self._place(full, self.plan.batch_size, 1), self._place(tail, self._rest, 0)

    @property
    def _rest(self) -> int:
        return self.plan.examples % self.plan.batch_size

    def _place(self, arrays: tuple[Any, ...] | None, rows: int, axis: int) -> Batch | None:
        """This process's rows of a batch as part of the global one; `axis` is the axis of the rows."""
        if not arrays:
            return None
        sharding = rows_sharding(rows, self._mesh, axis)

        def globally(local: np.ndarray) -> jax.Array:
            shape = (*local.shape[:axis], rows, *local.shape[axis + 1 :])
            return jax.make_array_from_process_local_data(sharding, local, shape)

        return Batch(*(globally(local) for local in arrays))


@dataclasses.dataclass(frozen=True, eq=False)
class Portions:
    """The portions of a run as a Grain source: element i is the i-th dispatch from `first_step` on.

    Attributes:
      x, y: the train split.
      plan: which examples each step sees.
      first_step: step that reading starts at.
      full_rows, rest_rows: this process's rows of a full and of the partial batch.
    """

    x: Any
    y: np.ndarray | None
    plan: Plan
    first_step: int
    full_rows: slice
    rest_rows: slice

    def __len__(self) -> int:
        return self.plan.dispatch(self.plan.last_step - 1) - self.plan.dispatch(self.first_step) + 1

    def __getitem__(self, i: Any) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """((x, y) of full batches `[steps, rows, ...]`, (x, y) of the partial one); () where there is none."""
        # A run may resume in the middle of a dispatch: its first portion is then the rest of one.
        step = max(self.first_step, self.plan.start(self.plan.dispatch(self.first_step) + int(i)))
        full, rest = self.plan.rows(step, self.plan.length(step))
        return (
            () if full is None else self._read(full[:, self.full_rows]),
            () if rest is None else self._read(rest[self.rest_rows]),
        )

    def _read(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        # One read for all steps of a portion: [steps * rows, ...] to [steps, rows, ...].
        x = np.asarray(self.x[rows.reshape(-1)])
        x = x.reshape(*rows.shape, *x.shape[1:])
        return (x,) if self.y is None else (x, self.y[rows])


def read(source: Any, settings: Feeding) -> Iterator[Any]:
    """Yields the elements of a Grain source in order, read ahead by threads and, if wanted, worker processes.

    Raises ImportError if Grain is not installed, ValueError if a worker process ended, or could not be started because
    the script has no file.
    """
    # Imported here, since it is not needed to train on resident data.
    try:
        import grain
    except ImportError as error:
        raise ImportError(
            "Grain reads streamed data, but is not installed (it has no wheel for Windows): pip install grain, or keep "
            "the data on the device with --feed.kind resident."
        ) from error
    buffered = max(settings.threads, settings.ahead)  # a thread fills one element
    options = grain.ReadOptions(num_threads=settings.threads, prefetch_buffer_size=buffered)
    dataset = grain.MapDataset.source(source).to_iter_dataset(options)
    if settings.workers:
        _check_script(settings.workers)
        _grain_flags()
        # Every worker has a buffer of its own.
        each = max(1, settings.ahead // settings.workers)
        options = grain.MultiprocessingOptions(num_workers=settings.workers, per_worker_buffer_size=each)
        dataset = dataset.mp_prefetch(options)
    iterator = iter(dataset)
    try:
        yield from iterator
    # Grain says no more of a worker that could not be started than that it was terminated.
    except RuntimeError as error:
        if settings.workers and "terminated" in str(error):
            raise ValueError(
                f"A worker process that reads data ended ({error}). Where it did so at once, the script lacks "
                "`if __name__ == '__main__':` around what it runs, since workers import it; else memory may be short."
            ) from error
        raise
    finally:
        iterator.close()


def to_devices(x: Any, y: np.ndarray | None, mesh: Mesh) -> Batch:
    """A whole split on every device of the mesh."""
    everywhere = replicated(mesh)

    # Every process has the whole array, and gives it whole.
    def place(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(everywhere, array, array.shape)

    return Batch(place(np.asarray(x[:])), None if y is None else place(np.asarray(y)))


def _check_script(workers: int) -> None:
    """Raises ValueError if worker processes could not import the script, because it was read from standard input."""
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)  # none in a notebook and with -c, where workers import no script
    if main.__spec__ is None and path is not None and not Path(path).exists():
        raise ValueError(
            f"feed.workers is {workers}, but worker processes import the script that starts them, and {path} is no "
            "file. Save the script as a file, or read in threads with --feed.workers 0."
        )


def _grain_flags() -> None:
    """Marks absl's flags as parsed: Grain's worker processes read them, and without absl.app nobody parses them."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
