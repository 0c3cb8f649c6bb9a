"""Checkpoints through Orbax: the last state and the best variables, saved together or not at all."""

import contextlib
import dataclasses
import errno
import functools
import gc
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import jax
from jax.sharding import Mesh, NamedSharding

from hvae_jax.training.causes import cause, remedy, room
from hvae_jax.training.checksum import checksum
from hvae_jax.training.description import Description
from hvae_jax.training.mesh import agree, state_sharding
from hvae_jax.training.quiet import quiet

EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run, saved as JSON beside its arrays.

    Attributes:
      best_elbo: best validation ELBO, nats; -inf before the first validation.
      best_step: step of the best validation.
      stale: validations since the best one.
      seconds: training time so far, over all sittings of the run.
      steps_per_second: of the last sitting's dispatches that did not compile; 0 before there were any.
      finished: whether training, or its stage, has ended.
      identity: hash of what the best was measured with, see `Provenance`.
      stage: index of the stage in `Training.stages`; 0 without stages.
      stage_start: step at which it began.
    """

    best_elbo: float = float("-inf")
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0
    steps_per_second: float = 0.0
    finished: bool = False
    identity: str | None = None
    stage: int = 0
    stage_start: int = 0

    def validated(self, elbo: float, step: int, select: Literal["best", "last"]) -> "Progress":
        """The progress after a validation, which is the best so far or adds to `stale`; "last" takes every one.

        Args:
          elbo: nats; -inf for one that is not sound, which is never taken.
        """
        if elbo > self.best_elbo or (select == "last" and elbo > float("-inf")):
            return dataclasses.replace(self, best_elbo=elbo, best_step=step, stale=0)
        return dataclasses.replace(self, stale=self.stale + 1)

    def at(self, step: int, last_step: int, patience: int) -> "Progress":
        """The progress at a step: finished at the last one, or once patience is exceeded."""
        return dataclasses.replace(self, finished=step >= last_step or self.stale > patience)


class NotSavedError(OSError):
    """A checkpoint could not be written; those committed before are whole."""


class Checkpoints:
    """The checkpoints of one run folder: saved asynchronously, the latest ones kept.

    A checkpoint holds "state", the whole state at its step, and "best", the variables of the best validation up to
    that step. Both are committed as one, so that whatever is restored is consistent with itself.
    """

    def __init__(
        self, folder: Path, keep: int = 2, read_only: bool = False, guard: Callable[[], None] = lambda: None
    ) -> None:
        """Opens `folder`, which is made if it does not exist.

        Args:
          keep: number of latest checkpoints kept.
          read_only: leave half-written and unreadable checkpoints alone, since the run may be training.
          guard: called before each save; raises if the folder has become another process's.
        """
        self.folder = folder.resolve()
        self._keep, self._read_only, self._guard = keep, read_only, guard
        if not read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._disk = self.folder.stat().st_dev
        self._opened: Any = None  # Orbax's checkpointer, which saves
        self._saving: Any = None  # its save in progress

    def _checkpointer(self) -> Any:
        """Orbax's checkpointer, which sweeps half-written checkpoints away when it is opened.

        It reads the metadata of all checkpoints then, and fails with the first damaged one: `restore` opens it once
        those are out of its way, and reads without it. It makes folders before a save returns: a thread that cannot
        make one would end without a word, and the save would wait for it for twenty minutes.
        """
        if self._opened is None:
            from orbax.checkpoint import v1 as ocp

            # The best is kept within each checkpoint: a policy that ranks them would drop the latest, where runs
            # resume.
            training: Any = ocp.training  # untyped: in Orbax 0.12.8 LatestN does not fit the type Checkpointer asks for
            with quiet():  # the newest Orbax has another way to set options, which the oldest that we take has not
                self._opened = training.Checkpointer(
                    self.folder,
                    preservation_policy=training.preservation_policies.LatestN(self._keep),
                    cleanup_tmp_directories=True,
                    context=ocp.Context(
                        async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False)
                    ),
                )
        return self._opened

    def save(self, step: int, state: Any, best: Any, progress: Progress, place: Mapping[str, Any] = EMPTY) -> None:
        """Starts a save and returns while it is written; a save in progress is waited for. A step already saved stays.

        Args:
          place: where in which data the run stands: `Plan.place` and the data's "hash".
        Raises NotSavedError if this save or the one before cannot be written; what was committed before stays.
        """
        # One save at a time, and one that failed is heard of here.
        self.wait()
        self._guard()
        if step in self.steps():
            return
        # Looked at first: Orbax would make a folder that is gone anew, on the disk below it.
        if self._gone():
            gone = FileNotFoundError(
                errno.ENOENT, "the folder is gone: removed, renamed, or on a disk that was unmounted"
            )
            raise self._not_saved(cause(gone), gone)
        # As is the room, since running out of it half-way costs the whole save.
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state, best)))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise self._not_saved(f"it takes {needed / 2**20:,.1f} MiB")
        arrays = {"state": state, "best": best}
        description = Description.of(arrays, dataclasses.asdict(progress), place)
        with self._writing():
            self._saving = self._checkpointer().save_checkpointables_async(
                step, arrays, force=True, custom_metadata=description.packed()
            )

    def wait(self) -> None:
        """Waits until every save is on disk. Raises NotSavedError if one cannot be written."""
        with self._writing():
            try:
                if self._opened is not None:
                    self._opened.wait()
            finally:
                self._end_save()

    def _end_save(self) -> None:
        """Ends the event loop that Orbax opens for each save: it keeps a thread and three files until it is asked."""
        saving, self._saving = self._saving, None
        if saving is not None:
            with contextlib.suppress(Exception):  # raised by the wait for the save already
                saving.result()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns whatever Orbax's many layers raise when a disk is full or gone into NotSavedError."""
        try:
            yield
        except Exception as error:
            # A peer that was lost is no fault of the disk.
            if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError):
                raise
            raise self._not_saved(cause(error), error) from error

    def _gone(self) -> bool:
        """Whether the folder is not there, or another disk is in its place."""
        try:
            return self.folder.stat().st_dev != self._disk
        except OSError:
            return True

    def _not_saved(self, reason: str, error: Exception | None = None) -> NotSavedError:
        kept = [] if self._gone() else self.steps()
        last = f" The last one, of step {kept[-1]}, is whole." if kept else ""
        return NotSavedError(
            f"A checkpoint could not be written to {self.folder}: {reason}.{room(self.folder)}{last} "
            f"{remedy(error, self.folder)}, and start the same command again: it goes on from there."
        )

    def close(self) -> None:
        """Waits for saves in progress and closes."""
        opened, self._opened = self._opened, None
        if opened is not None:
            try:
                opened.close()
            finally:
                self._end_save()

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, oldest first."""
        # Orbax's own list once there is one, since processes may see a network disk at different times.
        if self._opened is not None:
            return [int(found.step) for found in self._opened.checkpoints]
        return sorted(int(path.name) for path in self.folder.glob("*") if path.name.isdigit())

    def restore(
        self, state: Any, best: Any, mesh: Mesh, fsdp: bool = False, data_hash: str | None = None
    ) -> tuple[Any, Any, Progress] | None:
        """The newest checkpoint that can be read, laid out over `mesh`; None if there is no checkpoint.

        The mesh need not be the one it was saved from. If a checkpoint cannot be read, a warning says so and the one
        before is tried.

        Args:
          state, best: abstract trees (`jax.eval_shape`), the shapes that are wanted. The state's may be a function of
            the checkpoint's `Progress`, since the state of the optimiser differs between stages.
          fsdp: whether state and best are split over the devices, see `state_sharding`.
          data_hash: hash of the data at hand; None is not compared with the checkpoint's.
        Raises ValueError if a readable checkpoint is of another model, naming the first leaf that differs; if it was
        made on other data or in another version of the format; and if no checkpoint can be read at all.
        """
        failures: list[str] = []
        for step in reversed(self.steps()):
            described, why = _attempt(functools.partial(self._describe, step))
            if described is None:
                failures.append(f"{step} ({why})")
                continue
            description, found = described
            description.check_format(f"{self.folder}/{step}")
            progress = Progress(**description.progress)
            wanted = {"state": state(progress) if callable(state) else state, "best": best}
            target = jax.tree.map(_placed, wanted, state_sharding(wanted, mesh, fsdp))
            found = {name: found.get(name) for name in wanted}
            description.check_fits(wanted, found, f"{self.folder}/{step}", data_hash)
            loaded, why = _attempt(functools.partial(self._load, step, target, description.checksum))
            if loaded is None:
                failures.append(f"{step} ({why})")
                continue
            if failures:
                warnings.warn(
                    f"Checkpoint {', '.join(failures)} in {self.folder} cannot be read: going on from {step}.",
                    stacklevel=2,
                )
            if not self._read_only:
                self._tidy(step)
            return loaded["state"], loaded["best"], progress
        if failures:
            raise ValueError(
                f"No checkpoint in {self.folder} can be read: {'; '.join(failures)}. Start over with --overwrite."
            )
        if not self._read_only:
            self._checkpointer()
        return None

    def _describe(self, step: int) -> tuple[Description, Mapping[str, Any]]:
        """The description and Orbax's metadata of a checkpoint. Raises what Orbax does for a damaged one."""
        from orbax.checkpoint import v1 as ocp

        metadata: Any = ocp.checkpointables_metadata(str(self.folder / str(step)))
        return Description.unpacked(metadata.custom_metadata or {}), metadata.metadata

    def _load(self, step: int, target: Any, saved_checksum: int | None = None) -> Any:
        """The arrays of a checkpoint. Raises ValueError for arrays that are not those that were saved."""
        from orbax.checkpoint import v1 as ocp

        loaded = ocp.load_checkpointables(str(self.folder / str(step)), target)
        if saved_checksum is not None and checksum(loaded) != saved_checksum:
            raise ValueError("its arrays are not those that were saved: the checksum differs")
        return loaded

    def untrained(self, best: Any, mesh: Mesh, fsdp: bool = False) -> Any | None:
        """The variables of a checkpoint of step 0, such as an import leaves; None if something was trained.

        Args:
          best: abstract tree of the variables.
          fsdp: as `restore` takes it.
        """
        # A run saves no step 0 of its own: its first save is after its first dispatch.
        if self.steps() != [0]:
            return None
        target = {"best": jax.tree.map(_placed, best, state_sharding(best, mesh, fsdp))}
        return self._load(0, target)["best"]

    def _tidy(self, step: int) -> None:
        """Leaves the whole checkpoints up to `step` that are to be kept, and opens Orbax's checkpointer over them.

        Unreadable ones are moved aside, so that their steps can be saved again. A process that was killed while it
        deleted one that is kept no longer may have left half of it: its deletion is completed.
        """
        steps = self.steps()
        before = [other for other in steps if other < step]
        superfluous = before[: len(before) + 1 - self._keep]
        kept = before[len(superfluous) :]
        unreadable = [other for other in kept if _attempt(functools.partial(self._describe, other))[0] is None]
        unreadable += [other for other in steps if other > step]
        agree(0)  # every process has looked before one of them changes anything
        if jax.process_index() == 0:
            for other in unreadable:
                self._set_aside(other, "unreadable")
            # Orbax deletes what is half written as well, in a thread that may still be at it when the folder is used
            half_written = self.folder.glob("*.orbax-checkpoint-tmp")
            for path in [*(self.folder / str(other) for other in superfluous), *half_written]:
                shutil.rmtree(path, ignore_errors=True)
        agree(0)
        self._checkpointer()

    def retract(self, step: int) -> list[int]:
        """Closes, and moves the checkpoints after `step` aside, since what they hold has turned out to be no good.

        Returns: the steps of those that were moved, to folders named diverged_STEP.
        """
        self.close()
        after = [other for other in self.steps() if other > step]
        agree(0)
        if jax.process_index() == 0:
            for other in after:
                self._set_aside(other, "diverged")
        agree(0)
        return after

    def _set_aside(self, step: int, why: str) -> None:
        """Gives a checkpoint a name that Orbax does not take for one."""
        count = sum(1 for _ in self.folder.glob(f"{why}_{step}*"))
        name = f"{why}_{step}{f'_{count}' if count else ''}"
        (self.folder / str(step)).rename(self.folder / name)


def _attempt(read: Callable[[], Any]) -> tuple[Any, str]:
    """The result of `read`, or None with the reason; None on every process if it fails on one of them."""
    with quiet():
        try:
            found, why = read(), "another process could not read it"
        except Exception as error:
            found, why = None, cause(error)
        if found is None:
            gc.collect()  # tasks that nobody awaited complain when they are collected: now, while nobody listens
    return (None if any(agree(int(found is None))) else found), why


def _placed(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
