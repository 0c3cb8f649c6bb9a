"""Checkpoints through Orbax: the last state and the best variables, saved together or not at all."""

import dataclasses
import functools
import json
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from hvae_jax.runtime.errors import first_line
from hvae_jax.runtime.trees import leaves_by_path
from hvae_jax.training.mesh import agree, state_sharding

FORMAT = 2
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
      finished: whether training has ended.
      identity: hash of what the best was measured with, see `Provenance`.
    """

    best_elbo: float = float("-inf")
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0
    steps_per_second: float = 0.0
    finished: bool = False
    identity: str | None = None

    def validated(self, elbo: float, step: int, select: Literal["best", "last"]) -> "Progress":
        """The progress after a validation, which is the best so far or adds to `stale`; "last" takes every one."""
        if elbo > self.best_elbo or select == "last":
            return dataclasses.replace(self, best_elbo=elbo, best_step=step, stale=0)
        return dataclasses.replace(self, stale=self.stale + 1)

    def at(self, step: int, last_step: int, patience: int) -> "Progress":
        """The progress at a step: finished at the last one, or once patience is exceeded."""
        return dataclasses.replace(self, finished=step >= last_step or self.stale > patience)


class NotSavedError(OSError):
    """A checkpoint could not be written; those committed before are whole."""


class OtherOptimiserError(ValueError):
    """A checkpoint has this model's variables, but the state of another optimiser or objective, or other averages."""


class Checkpoints:
    """The checkpoints of one run folder: saved asynchronously, the latest ones kept.

    A checkpoint holds "state", the whole state at its step, and "best", the variables of the best validation up to
    that step. Both are committed as one, so that whatever is restored is consistent with itself.
    """

    def __init__(self, folder: Path, keep: int = 2, read_only: bool = False) -> None:
        """Opens `folder`, which is made if it does not exist.

        Args:
          keep: number of latest checkpoints kept.
          read_only: leave half-written and unreadable checkpoints alone, since the run may be training.
        Raises ValueError if `read_only` and a checkpoint is too damaged for Orbax to list it.
        """
        from orbax.checkpoint import v1 as ocp

        self.folder = folder.resolve()
        # The best is kept within each checkpoint: a policy that ranks them would drop the latest, where runs resume.
        training: Any = ocp.training  # untyped: in Orbax 0.12.8 LatestN does not fit the type Checkpointer asks for
        self._new = lambda: training.Checkpointer(
            self.folder,
            preservation_policy=training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=not read_only,
        )
        self._read_only = read_only
        self._checkpointer = self._open()

    def _open(self) -> Any:
        """Orbax's checkpointer; checkpoints that keep it from opening are moved aside."""
        from orbax.checkpoint import v1 as ocp

        try:
            return self._new()
        except Exception as error:
            # Orbax reads the metadata of all checkpoints and fails with the first damaged one, without naming it.
            damaged = {}
            for step in _step_folders(self.folder):
                try:
                    ocp.checkpointables_metadata(str(self.folder / str(step)))
                except Exception as found:
                    damaged[step] = _reason(found)
            if not damaged:
                raise
            agree(0)  # every process has looked before one of them renames
            said = ", ".join(f"{step} ({why})" for step, why in damaged.items())
            if self._read_only:
                raise ValueError(
                    f"Checkpoint {said} in {self.folder} is damaged. The run, started again, goes on without it."
                ) from error
            warnings.warn(f"Checkpoint {said} in {self.folder} is damaged and moved aside.", stacklevel=3)
            self._set_aside(list(damaged))
            return self._new()

    def save(self, step: int, state: Any, best: Any, progress: Progress, place: Mapping[str, Any] = EMPTY) -> None:
        """Starts a save and returns while it is written; a save in progress is waited for. A step already saved stays.

        Args:
          place: where in which data the run stands: `Plan.place` and the data's "hash".
        Raises NotSavedError if this save or the one before cannot be written; what was committed before stays.
        """
        # One save at a time, and one that failed is heard of here.
        self.wait()
        if step in self.steps():
            return
        # Checked first, since running out of room half-way costs the whole save.
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state, best)))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise self._not_saved(f"it takes {needed / 2**20:,.1f} MiB")
        # One text with a checksum of its own: Orbax notices a flipped bit in its metadata as little as in arrays.
        shapes = _shapes({"state": state, "best": best})
        record = json.dumps({"progress": dataclasses.asdict(progress), "place": dict(place), "shapes": shapes})
        with self._writing():
            self._checkpointer.save_checkpointables_async(
                step,
                {"state": state, "best": best},
                force=True,
                custom_metadata={
                    "format": FORMAT,
                    "record": record,
                    "record_checksum": zlib.crc32(record.encode()),
                    "checksum": checksum({"state": state, "best": best}),
                },
            )

    def wait(self) -> None:
        """Waits until every save is on disk. Raises NotSavedError if one cannot be written."""
        with self._writing():
            self._checkpointer.wait()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns whatever Orbax's many layers raise when a disk is full or gone into NotSavedError."""
        try:
            yield
        except Exception as error:
            # A peer that was lost is no fault of the disk.
            if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError):
                raise
            raise self._not_saved(_reason(error)) from error

    def _not_saved(self, reason: str) -> NotSavedError:
        kept, free = self.steps(), shutil.disk_usage(self.folder).free
        return NotSavedError(
            f"A checkpoint could not be written to {self.folder}: {reason}. {free / 2**20:,.1f} MiB are free there. "
            f"{f'The last one, of step {kept[-1]}, is whole' if kept else 'There is none yet'}. Make room or mend the "
            "disk, and start the same command again: it goes on from there."
        )

    def close(self) -> None:
        """Waits for saves in progress and closes."""
        self._checkpointer.close()

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, oldest first."""
        return [int(found.step) for found in self._checkpointer.checkpoints]

    def restore(
        self, state: Any, best: Any, mesh: Mesh, fsdp: bool = False, data_hash: str | None = None
    ) -> tuple[Any, Any, Progress] | None:
        """The newest checkpoint that can be read, laid out over `mesh`; None if there is no checkpoint.

        The mesh need not be the one it was saved from. If a checkpoint cannot be read, a warning says so and the one
        before is tried.

        Args:
          state, best: abstract trees (`jax.eval_shape`), the shapes that are wanted.
          fsdp: whether state and best are split over the devices, see `state_sharding`.
          data_hash: hash of the data at hand; None is not compared with the checkpoint's.
        Raises ValueError if a readable checkpoint is of another model, naming the first leaf that differs; if it was
        made on other data or in another version of the format; and if no checkpoint can be read at all.
        """
        wanted, failures = {"state": state, "best": best}, []
        for step in reversed(self.steps()):
            described, why = _attempt(functools.partial(self._describe, step))
            if described is None:
                failures.append(f"{step} ({why})")
                continue
            self._refuse_unfit(step, described, wanted, data_hash)
            target = jax.tree.map(_placed, wanted, state_sharding(wanted, mesh, fsdp))
            loaded, why = _attempt(functools.partial(self._load, step, target, described.checksum))
            if loaded is None:
                failures.append(f"{step} ({why})")
                continue
            if failures:
                warnings.warn(
                    f"Checkpoint {', '.join(failures)} in {self.folder} cannot be read: going on from {step}.",
                    stacklevel=2,
                )
                self._discard_after(step)
            return loaded["state"], loaded["best"], Progress(**described.record["progress"])
        if failures:
            raise ValueError(
                f"No checkpoint in {self.folder} can be read: {'; '.join(failures)}. Start over with --overwrite."
            )
        return None

    def _describe(self, step: int) -> "_Described":
        """A checkpoint's description of itself. Raises whatever Orbax's layers raise if it cannot be read."""
        metadata = self._checkpointer.checkpointables_metadata(step)
        saved = dict(metadata.custom_metadata or {})
        # Of another format nothing but its number is understood; the arrays are not looked at either.
        if saved["format"] != FORMAT:
            return _Described(saved["format"], {}, 0, metadata.metadata)
        return _Described(FORMAT, _record(saved), saved["checksum"], metadata.metadata)

    def _refuse_unfit(self, step: int, described: "_Described", wanted: Any, data_hash: str | None) -> None:
        """Raises ValueError if a checkpoint is of another format, other data or another model."""
        where = f"{self.folder}/{step}"
        if described.format != FORMAT:
            newer = described.format > FORMAT
            raise ValueError(
                f"{where} was written in format {described.format}, {'newer' if newer else 'older'} than the "
                f"format {FORMAT} that this hvae_jax reads. "
                f"{'Upgrade hvae_jax' if newer else 'Install the version that wrote it'}, or start over with "
                "--overwrite."
            )
        made_on = described.record["place"].get("hash")
        if data_hash is not None and made_on not in (None, data_hash):
            raise ValueError(
                f"{where} was made on other data: its hash was {made_on} and is {data_hash} now. --resume goes on with "
                "the new data, --overwrite starts over, --folder takes another folder."
            )
        if described.record["shapes"] != _shapes(wanted):
            _refuse_other(wanted, {name: described.arrays.get(name) for name in wanted}, where)

    def _load(self, step: int, target: Any, saved_checksum: int) -> Any:
        """The arrays of a checkpoint. Raises OSError for arrays that are not those that were saved."""
        loaded = self._checkpointer.load_checkpointables(step, target)
        if checksum(loaded) != saved_checksum:
            raise OSError("its arrays are not those that were saved: the checksum differs")
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
        return self._checkpointer.load_checkpointables(0, target)["best"]

    def _discard_after(self, step: int) -> None:
        """Moves unreadable newer checkpoints aside, so that their steps can be saved again."""
        if self._read_only:
            return
        # Orbax lists the folder when it opens, and would look for what is no longer there.
        self._checkpointer.close()
        self._set_aside([other for other in _step_folders(self.folder) if other > step])
        self._checkpointer = self._open()

    def _set_aside(self, steps: list[int]) -> None:
        """Gives checkpoints names that Orbax does not take for checkpoints; the first process of a run does it."""
        if jax.process_index() == 0:
            for step in steps:
                count = sum(1 for _ in self.folder.glob(f"unreadable_{step}*"))
                name = f"unreadable_{step}{f'_{count}' if count else ''}"
                (self.folder / str(step)).rename(self.folder / name)
        agree(0)


class _Described(NamedTuple):
    """A checkpoint's description of itself: format, record, checksum of its arrays, and Orbax's metadata of them."""

    format: int
    record: dict[str, Any]
    checksum: int
    arrays: Any


def _attempt(read: Callable[[], Any]) -> tuple[Any, str]:
    """The result of `read`, or None with the reason; None on every process if it fails on one of them."""
    try:
        found, why = read(), "another process could not read it"
    except Exception as error:
        found, why = None, _reason(error)
    return (None if any(agree(int(found is None))) else found), why


def _reason(error: Exception) -> str:
    """An error's type and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error)}"


def _step_folders(folder: Path) -> list[int]:
    """Steps of all checkpoints in a folder, readable or not, oldest first."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def _record(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The record saved beside the arrays: "progress", "place", "shapes". Raises OSError for a flipped bit."""
    if zlib.crc32(saved["record"].encode()) != saved["record_checksum"]:
        raise OSError("its record is not what was saved: the checksum differs")
    return json.loads(saved["record"])


def _shapes(tree: Any) -> int:
    """A hash of the names, shapes and dtypes of all leaves: tells models apart even if Orbax's metadata is damaged."""
    described = sorted((name, tuple(leaf.shape), str(leaf.dtype)) for name, leaf in leaves_by_path(tree).items())
    return zlib.crc32(repr(described).encode())


def _refuse_other(wanted: Any, found: Any, where: str) -> None:
    """Raises ValueError naming the first leaf that is missing, unexpected, or of another shape or dtype."""
    want, have = leaves_by_path(wanted), leaves_by_path(found)
    variables = ("best/", "state/params/", "state/statistics/")
    here, there = (
        {name: (leaf.shape, leaf.dtype) for name, leaf in tree.items() if name.startswith(variables)}
        for tree in (want, have)
    )
    # The hash differs and the variables do not: so it is the rest of the state that does.
    if here == there:
        raise OtherOptimiserError(
            f"{where} holds this model's variables, but the state of another optimiser or objective, or other "
            "averages: a run goes on with those that it began with. --overwrite starts over, --folder takes another "
            "folder."
        )
    for name, leaf in want.items():
        if name not in have:
            raise ValueError(f"{where} holds another model: it has no {name} (wanted with shape {leaf.shape}).")
        for what in ("shape", "dtype"):
            there, here = getattr(have[name], what), getattr(leaf, what)
            if there != here:
                raise ValueError(f"{where} holds another model: {name} has {what} {there} there and {here} here.")
    for name in have:
        if name not in want:
            raise ValueError(f"{where} holds another model: it has {name}, which this one does not.")
    raise ValueError(f"{where} holds another model.")


def _placed(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def checksum(tree: Any) -> int:
    """A hash of the bits of every leaf; Orbax does not notice a flipped bit in an array.

    sum_i (2 i + 1) w_i mod 2^32 over a leaf's 32-bit words w_i; leaves are combined likewise. Every weight is odd, so
    that one changed word always changes the sum; and a sum can be computed where the words lie, on any mesh.
    """
    total = 0
    for leaf in jax.tree.leaves(tree):
        whole = not isinstance(leaf, jax.Array) or leaf.is_fully_replicated or leaf.is_fully_addressable
        words = _sum_of_words(np.asarray(leaf)) if whole else int(_sum_on_devices(leaf))
        # Multiplied by an odd number first, so that leaves cannot change places.
        total = (total * 0x9E3779B1 + words) % 2**32
    return total


def _sum_of_words(array: np.ndarray) -> int:
    """The sum of one leaf on the host, a block of 2^20 words at a time."""
    raw = np.ascontiguousarray(array).reshape(-1)
    # Items of 8 bytes are two words each; smaller ones are a word each, so that no padding is needed.
    words = raw.view(np.dtype(f"u{min(raw.itemsize, 4)}")) if raw.dtype != bool else raw.view(np.uint8)
    total, block = 0, 2**20
    for start in range(0, len(words), block):
        part = words[start : start + block].astype(np.uint32, copy=False)
        weights = np.arange(2 * start + 1, 2 * (start + len(part)) + 1, 2, dtype=np.uint64).astype(np.uint32)
        total += int((part * weights).sum(dtype=np.uint32))
    return total % 2**32


@jax.jit
def _sum_on_devices(array: jax.Array) -> jax.Array:
    """The sum of one leaf, parts of which lie on devices of other processes."""
    # As `_sum_of_words` reads them; an item of 8 bytes becomes a last axis of two words.
    array = array.astype(jnp.uint8) if array.dtype == bool else array
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    words = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32).reshape(-1)
    return (words * (2 * jnp.arange(words.size, dtype=jnp.uint32) + 1)).sum(dtype=jnp.uint32)
