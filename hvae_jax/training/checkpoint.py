"""Checkpoints through Orbax: the last state and the best variables, saved together or not at all."""

import dataclasses
import json
import shutil
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from hvae_jax.training.mesh import agree, state_sharding

FORMAT = 2
EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the loop knows beside the arrays; saved with them as JSON.

    Attributes:
      best_elbo: of validation, nats; -inf before the first.
      best_step: the step it was reached at.
      stale: validations since then, what patience counts.
      seconds: spent training up to here, over all runs of the folder.
      steps_per_second: of the last sitting's dispatches that did not compile; 0 before there were any.
      finished: whether training came to its end.
      identity: what the best was measured with, see `train`.
    """

    best_elbo: float = float("-inf")
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0
    steps_per_second: float = 0.0
    finished: bool = False
    identity: str | None = None


class NotSavedError(OSError):
    """A checkpoint could not be written; those that were committed before are whole."""


class OtherOptimiserError(ValueError):
    """A checkpoint has the variables of this model, but the state of another optimiser or objective, or averages."""


class Checkpoints:
    """The checkpoints of one run folder: asynchronous saves, the latest two kept.

    A checkpoint holds "state", the whole state at its step, and "best", the variables of the best validation up to
    that step: they are committed as one, so whatever is restored is consistent with itself.
    """

    def __init__(self, folder: Path, keep: int = 2, read_only: bool = False) -> None:
        """Opens `folder`, made if it is not there.

        Args:
          keep: how many checkpoints stay.
          read_only: touch nothing, since the run may be training: neither half-written saves nor unreadable ones.
        Raises ValueError where a checkpoint is too damaged for Orbax to list it, and may not be moved aside.
        """
        from orbax.checkpoint import v1 as ocp

        self.folder = folder.resolve()
        training: Any = ocp.training  # untyped: in Orbax 0.12.8 LatestN does not fit the type Checkpointer asks for
        self._new = lambda: training.Checkpointer(
            self.folder,
            preservation_policy=training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=not read_only,
        )
        self._read_only = read_only
        self._checkpointer = self._open()

    def _open(self) -> Any:
        """Orbax's checkpointer, which reads all checkpoints' metadata and fails with the first that cannot be."""
        from orbax.checkpoint import v1 as ocp

        try:
            return self._new()
        except Exception as error:
            damaged = {}
            for step in _step_folders(self.folder):
                try:
                    ocp.checkpointables_metadata(str(self.folder / str(step)))
                except Exception as found:
                    damaged[step] = _first_line(found)
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
        """Starts a save and returns while it is written; waits for the one before. A step that is there stays.

        Args:
          place: where in which data the run stands, as `Plan.place` has it, with the data's "hash".
        Raises NotSavedError where this save or the one before cannot be written; what was committed before stays.
        """
        self.wait()
        if step in self.steps():
            return
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state, best)))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise self._not_saved(f"it takes {needed / 2**20:,.1f} MiB")
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
        """Until what was started is on disk. Raises NotSavedError where it cannot be written."""
        with self._writing():
            self._checkpointer.wait()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Says what Orbax's many layers raise where a disk is full or gone as one kind of error."""
        try:
            yield
        except Exception as error:
            if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError):
                raise
            raise self._not_saved(_first_line(error)) from error

    def _not_saved(self, reason: str) -> NotSavedError:
        kept, free = self.steps(), shutil.disk_usage(self.folder).free
        return NotSavedError(
            f"A checkpoint could not be written to {self.folder}: {reason}. {free / 2**20:,.1f} MiB are free there. "
            f"{f'The last one, of step {kept[-1]}, is whole' if kept else 'There is none yet'}. Make room or mend the "
            "disk, and start the same command again: it goes on from there."
        )

    def close(self) -> None:
        """Waits, and lets go."""
        self._checkpointer.close()

    def steps(self) -> list[int]:
        """Steps that were committed, oldest first."""
        return [int(found.step) for found in self._checkpointer.checkpoints]

    def restore(
        self, state: Any, best: Any, mesh: Mesh, fsdp: bool = False, data_hash: str | None = None
    ) -> tuple[Any, Any, Progress] | None:
        """The newest checkpoint that can be read, laid out over `mesh`; None where there is none.

        The mesh need not be the one it was saved from. A checkpoint that cannot be read is said so and the one before
        is tried.

        Args:
          state, best: abstract trees (`jax.eval_shape`): the shapes that are wanted.
          fsdp: whether they are split over the devices, see `state_sharding`.
          data_hash: of the data that is at hand; None does not compare it with the checkpoint's.
        Raises ValueError, naming the first leaf, where a readable checkpoint is of another model; where it was made
        on other data or by a newer version of the format; and where no checkpoint can be read at all.
        """
        steps = self.steps()
        failures = []
        for step in reversed(steps):
            found, saved, record, why = {}, {}, None, "another process could not read it"
            try:
                metadata = self._checkpointer.checkpointables_metadata(step)
                found, saved = metadata.metadata, dict(metadata.custom_metadata or {})
                record = _record(saved) if saved["format"] == FORMAT else {}
            except Exception as error:  # Orbax raises what its many layers raise: any of it means unreadable
                why = _first_line(error)
            if any(agree(int(record is None))):
                failures.append(f"{step} ({why})")
                continue
            written = saved["format"]
            if written != FORMAT:
                newer = written > FORMAT
                raise ValueError(
                    f"{self.folder}/{step} was written in format {written}, {'newer' if newer else 'older'} than the "
                    f"format {FORMAT} that this hvae_jax reads. "
                    f"{'Upgrade hvae_jax' if newer else 'Install the version that wrote it'}, or start over with "
                    "--overwrite."
                )
            assert record is not None
            made_on = record["place"].get("hash")
            if data_hash is not None and made_on not in (None, data_hash):
                raise ValueError(
                    f"{self.folder}/{step} was made on other data: its hash was {made_on} and is {data_hash} "
                    "now. --resume goes on with the new data, --overwrite starts over, --folder takes another folder."
                )
            wanted = {"state": state, "best": best}
            if record["shapes"] != _shapes(wanted):
                _refuse_other(wanted, {name: found.get(name) for name in wanted}, f"{self.folder}/{step}")
            target = jax.tree.map(_placed, wanted, state_sharding(wanted, mesh, fsdp))
            loaded: Any = None
            why = "another process could not read it"
            try:
                loaded = self._checkpointer.load_checkpointables(step, target)
                if checksum(loaded) != saved["checksum"]:
                    raise OSError("its arrays are not those that were saved: the checksum differs")
            except Exception as error:
                loaded, why = None, _first_line(error)
            if any(agree(int(loaded is None))):
                failures.append(f"{step} ({why})")
                continue
            if failures:
                warnings.warn(
                    f"Checkpoint {', '.join(failures)} in {self.folder} cannot be read: going on from {step}.",
                    stacklevel=2,
                )
                self._discard_after(step)
            return loaded["state"], loaded["best"], Progress(**record["progress"])
        if failures:
            raise ValueError(
                f"No checkpoint in {self.folder} can be read: {'; '.join(failures)}. Start over with --overwrite."
            )
        return None

    def untrained(self, best: Any, mesh: Mesh, fsdp: bool = False) -> Any | None:
        """The variables of a checkpoint of step 0, such as an import leaves; None where something was trained.

        Args:
          best: the abstract tree of variables; fsdp: as `restore` takes them.
        """
        if self.steps() != [0]:
            return None
        target = {"best": jax.tree.map(_placed, best, state_sharding(best, mesh, fsdp))}
        return self._checkpointer.load_checkpointables(0, target)["best"]

    def _discard_after(self, step: int) -> None:
        """Moves unreadable newer checkpoints aside, so that their steps can be saved anew."""
        if self._read_only:
            return
        self._checkpointer.close()
        self._set_aside([other for other in _step_folders(self.folder) if other > step])
        self._checkpointer = self._open()

    def _set_aside(self, steps: list[int]) -> None:
        """Renames checkpoints to what Orbax takes for none; one process of a run does."""
        if jax.process_index() == 0:
            for step in steps:
                count = sum(1 for _ in self.folder.glob(f"unreadable_{step}*"))
                name = f"unreadable_{step}{f'_{count}' if count else ''}"
                (self.folder / str(step)).rename(self.folder / name)
        agree(0)


def _step_folders(folder: Path) -> list[int]:
    """Steps of the checkpoints that lie there, readable or not, oldest first."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def _record(saved: Mapping[str, Any]) -> dict[str, Any]:
    """What was saved beside the arrays: "progress", "place", "shapes". Raises OSError for a flipped bit."""
    if zlib.crc32(saved["record"].encode()) != saved["record_checksum"]:
        raise OSError("its record is not what was saved: the checksum differs")
    return json.loads(saved["record"])


def _leaves(tree: Any) -> dict[str, Any]:
    """Leaves by name."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _shapes(tree: Any) -> int:
    """A hash of the names, shapes and dtypes of all leaves: which model it is, however damaged Orbax's own record."""
    described = sorted((name, tuple(leaf.shape), str(leaf.dtype)) for name, leaf in _leaves(tree).items())
    return zlib.crc32(repr(described).encode())


def _refuse_other(wanted: Any, found: Any, where: str) -> None:
    """Raises ValueError at the first leaf that is missing, too many, of another shape or dtype."""
    want, have = _leaves(wanted), _leaves(found)
    variables = ("best/", "state/params/", "state/statistics/")
    here, there = (
        {name: (leaf.shape, leaf.dtype) for name, leaf in tree.items() if name.startswith(variables)}
        for tree in (want, have)
    )
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
    """A hash of the bits of every leaf, since Orbax does not notice a flipped bit in an array.

    sum_i (2 i + 1) w_i mod 2^32 over a leaf's 32-bit words w_i; leaves are combined likewise. Every weight is odd, so
    one changed word always changes the sum; and a sum can be computed where the words lie, on any mesh.
    """
    total = 0
    for leaf in jax.tree.leaves(tree):
        whole = not isinstance(leaf, jax.Array) or leaf.is_fully_replicated or leaf.is_fully_addressable
        words = _sum_of_words(np.asarray(leaf)) if whole else int(_sum_on_devices(leaf))
        total = (total * 0x9E3779B1 + words) % 2**32
    return total


def _sum_of_words(array: np.ndarray) -> int:
    """On the host, a block at a time."""
    raw = np.ascontiguousarray(array).reshape(-1)
    words = raw.view(np.dtype(f"u{min(raw.itemsize, 4)}")) if raw.dtype != bool else raw.view(np.uint8)
    total, block = 0, 2**20
    for start in range(0, len(words), block):
        part = words[start : start + block].astype(np.uint32, copy=False)
        weights = np.arange(2 * start + 1, 2 * (start + len(part)) + 1, 2, dtype=np.uint64).astype(np.uint32)
        total += int((part * weights).sum(dtype=np.uint32))
    return total % 2**32


@jax.jit
def _sum_on_devices(array: jax.Array) -> jax.Array:
    """Where parts of it lie on devices of other processes."""
    array = array.astype(jnp.uint8) if array.dtype == bool else array
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    words = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32).reshape(-1)
    return (words * (2 * jnp.arange(words.size, dtype=jnp.uint32) + 1)).sum(dtype=jnp.uint32)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
