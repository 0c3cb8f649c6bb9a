"""Checkpoints through Orbax: the last state and the best variables, saved together or not at all."""

import dataclasses
import json
import warnings
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from hvae_jax.training.mesh import replicated

FORMAT = 1


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
    """

    best_elbo: float = float("-inf")
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0
    steps_per_second: float = 0.0
    finished: bool = False


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
        """
        from orbax.checkpoint import v1 as ocp

        self.folder = folder.resolve()
        training: Any = ocp.training  # untyped: in Orbax 0.12.8 LatestN does not fit the type Checkpointer asks for
        self._open = lambda: training.Checkpointer(
            self.folder,
            preservation_policy=training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=not read_only,
        )
        self._read_only = read_only
        self._checkpointer = self._open()

    def save(self, step: int, state: Any, best: Any, progress: Progress) -> None:
        """Starts a save and returns while it is written; waits for the one before. A step that is there stays."""
        self._checkpointer.wait()
        if step in self.steps():
            return
        self._checkpointer.save_checkpointables_async(
            step,
            {"state": state, "best": best},
            force=True,
            custom_metadata={
                "format": FORMAT,
                "progress": json.dumps(dataclasses.asdict(progress)),
                "checksum": _checksum({"state": state, "best": best}),
            },
        )

    def wait(self) -> None:
        """Until what was started is on disk. Raises what went wrong on the way."""
        self._checkpointer.wait()

    def close(self) -> None:
        """Waits, and lets go."""
        self._checkpointer.close()

    def steps(self) -> list[int]:
        """Steps that were committed, oldest first."""
        return [int(found.step) for found in self._checkpointer.checkpoints]

    def restore(self, state: Any, best: Any, mesh: Mesh) -> tuple[Any, Any, Progress] | None:
        """The newest checkpoint that can be read, replicated over `mesh`; None where there is none.

        A checkpoint that cannot be read is said so and the one before is tried.

        Args:
          state, best: abstract trees (`jax.eval_shape`): the shapes that are wanted.
        Raises ValueError, naming the first leaf, where a readable checkpoint is of another model; and where no
        checkpoint can be read at all.
        """
        steps = self.steps()
        failures = []
        for step in reversed(steps):
            try:
                metadata = self._checkpointer.checkpointables_metadata(step)
                found, saved = metadata.metadata, dict(metadata.custom_metadata or {})
                written, record = saved["format"], saved["progress"]
            except Exception as error:  # Orbax raises what its many layers raise: any of it means unreadable
                failures.append(f"{step} ({_first_line(error)})")
                continue
            if written != FORMAT:
                raise ValueError(
                    f"{self.folder}/{step} was written in format {written}, but this hvae_jax reads format "
                    f"{FORMAT}. Install the version that wrote it, or start over with --overwrite."
                )
            wanted = {"state": state, "best": best}
            _check_tree(wanted, {name: found.get(name) for name in wanted}, f"{self.folder}/{step}")
            target = jax.tree.map(partial(_placed, sharding=replicated(mesh)), wanted)
            try:
                loaded = self._checkpointer.load_checkpointables(step, target)
                if _checksum(loaded) != saved["checksum"]:
                    raise OSError("its arrays are not those that were saved: the checksum differs")
            except Exception as error:
                failures.append(f"{step} ({_first_line(error)})")
                continue
            if failures:
                warnings.warn(
                    f"Checkpoint {', '.join(failures)} in {self.folder} cannot be read: going on from {step}.",
                    stacklevel=2,
                )
                self._discard_after(step)
            return loaded["state"], loaded["best"], Progress(**json.loads(record))
        if failures:
            raise ValueError(
                f"No checkpoint in {self.folder} can be read: {'; '.join(failures)}. Start over with --overwrite."
            )
        return None

    def _discard_after(self, step: int) -> None:
        """Moves unreadable newer checkpoints aside, so that their steps can be saved anew."""
        if self._read_only:
            return
        self._checkpointer.close()
        for other in list(self.folder.iterdir()):
            if other.name.isdigit() and int(other.name) > step:
                count = sum(1 for _ in self.folder.glob(f"unreadable_{other.name}*"))
                other.rename(self.folder / f"unreadable_{other.name}{f'_{count}' if count else ''}")
        self._checkpointer = self._open()


def _check_tree(wanted: Any, found: Any, where: str) -> None:
    """Raises ValueError at the first leaf that is missing, too many, or of another shape."""
    want, have = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (wanted, found)
    )
    for name, leaf in want.items():
        if name not in have:
            raise ValueError(f"{where} holds another model: it has no {name} (wanted with shape {leaf.shape}).")
        if tuple(have[name].shape) != tuple(leaf.shape):
            raise ValueError(
                f"{where} holds another model: {name} has shape {tuple(have[name].shape)} there and {leaf.shape} here."
            )
    for name in have:
        if name not in want:
            raise ValueError(f"{where} holds another model: it has {name}, which this one does not.")


def _placed(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _checksum(tree: Any) -> int:
    """CRC-32 over the bytes of every leaf: Orbax does not notice a flipped bit in an array."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        total = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), total)
    return total


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
