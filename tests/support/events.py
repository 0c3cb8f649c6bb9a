"""Reads TensorBoard's event files."""

from pathlib import Path
from typing import Any


def events(folder: Path) -> list[Any]:
    """Events of a folder of event files, read without TensorFlow: records of length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events*"), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found
