"""What a checkpoint says of itself beside its arrays, under a checksum; and whether it fits the run at hand."""

import dataclasses
import json
import zlib
from collections.abc import Mapping
from typing import Any

from hvae_jax.objectives.protocol import OWN
from hvae_jax.runtime.trees import leaves_by_path
from hvae_jax.training.checksum import checksum

FORMAT = 3


class OtherOptimiserError(ValueError):
    """A checkpoint has this model's variables, but the state of another optimiser or objective, or other averages."""


@dataclasses.dataclass(frozen=True)
class Description:
    """A checkpoint's description of itself.

    Attributes:
      format: number of the layout; of another one nothing else is understood.
      checksum: of its arrays.
      shapes: hash of the names, shapes and dtypes of its arrays.
      progress: fields of `Progress`.
      place: where in which data the run stood, with the data's "hash".
    """

    format: int
    checksum: int = 0
    shapes: int = 0
    progress: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    place: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, arrays: Any, progress: Mapping[str, Any], place: Mapping[str, Any]) -> "Description":
        """The description of arrays that are about to be saved."""
        return cls(FORMAT, checksum(arrays), shapes_hash(arrays), dict(progress), dict(place))

    def packed(self) -> dict[str, Any]:
        """The description as one text with a checksum of its own, for the metadata of Orbax."""
        # One text, because Orbax notices a flipped bit in its metadata as little as in arrays.
        record = json.dumps(dataclasses.asdict(self))
        return {"record": record, "record_checksum": zlib.crc32(record.encode())}

    @classmethod
    def unpacked(cls, packed: Mapping[str, Any]) -> "Description":
        """The description that `packed` holds. Raises ValueError if it is not what was saved."""
        record = packed.get("record")
        if not isinstance(record, str) or zlib.crc32(record.encode()) != packed.get("record_checksum"):
            raise ValueError("its record is not what was saved: the checksum differs")
        fields = json.loads(record)
        # Format 2 had its number outside the record, where a flipped bit made it another format.
        written = fields.get("format", 2)
        return cls(**fields) if written == FORMAT else cls(written)

    def check_format(self, where: str) -> None:
        """Raises ValueError if the checkpoint at this path is of another format."""
        if self.format != FORMAT:
            newer = self.format > FORMAT
            raise ValueError(
                f"{where} was written in format {self.format}, {'newer' if newer else 'older'} than the "
                f"format {FORMAT} that this hvae_jax reads. "
                f"{'Upgrade hvae_jax' if newer else 'Install the version that wrote it'}, or give another folder with "
                "--folder."
            )

    def check_fits(self, wanted: Any, found: Any, where: str, data_hash: str | None) -> None:
        """Raises ValueError if a checkpoint is of another format, other data or another model.

        Args:
          wanted: abstract arrays of the run at hand.
          found: Orbax's metadata of the saved arrays.
          where: path of the checkpoint.
          data_hash: hash of the data at hand; None is not compared.
        """
        self.check_format(where)
        made_on = self.place.get("hash")
        if data_hash is not None and made_on not in (None, data_hash):
            raise ValueError(
                f"{where} was made on other data: its hash was {made_on} and is {data_hash} now. --resume goes on with "
                "the new data, --folder takes another folder, --overwrite starts over."
            )
        if self.shapes != shapes_hash(wanted):
            _refuse_other(wanted, found, where)


def shapes_hash(tree: Any) -> int:
    """A hash of the names, shapes and dtypes of all leaves: tells models apart even if Orbax's metadata is damaged."""
    described = sorted((name, tuple(leaf.shape), str(leaf.dtype)) for name, leaf in leaves_by_path(tree).items())
    return zlib.crc32(repr(described).encode())


def _refuse_other(wanted: Any, found: Any, where: str) -> None:
    """Raises ValueError naming the first leaf that is missing, unexpected, or of another shape or dtype."""
    want, have = leaves_by_path(wanted), leaves_by_path(found)
    variables, own = ("best/", "state/params/", "state/statistics/"), f"state/params/{OWN}/"
    here, there = (
        {
            name: (leaf.shape, leaf.dtype)
            for name, leaf in tree.items()
            if name.startswith(variables) and not name.startswith(own)
        }
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
