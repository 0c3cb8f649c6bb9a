"""Where a run's numbers go while it runs: a progress line, metrics.jsonl, TensorBoard."""

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Sink(Protocol):
    """Anything that takes a row of numbers."""

    def write(self, row: dict[str, float | int]) -> None:
        """One row; `row["step"]` is where it belongs."""
        ...

    def close(self) -> None:
        """Lets go."""
        ...


class JsonLines:
    """metrics.jsonl: one JSON object a row. A resumed run drops the rows that it is about to repeat."""

    def __init__(self, path: Path, resume_step: int) -> None:
        rows = read_metrics(path) if path.exists() else []
        kept = [row for row in rows if row["step"] <= resume_step]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(path)
        self._file = path.open("a")

    def write(self, row: dict[str, float | int]) -> None:
        """One line."""
        finite = {name: value if np.isfinite(value) else None for name, value in row.items()}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoard:
    """Event files; what an interrupted run wrote past the resumed step is purged."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)

    def write(self, row: dict[str, float | int]) -> None:
        """One scalar a number."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(row["step"]))

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """A picture `[H, W, 3]` uint8."""
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


class Reporter:
    """The progress line, and every sink behind one `write`."""

    def __init__(self, sinks: list[Sink], total_steps: int, start_step: int) -> None:
        from tqdm.auto import tqdm

        self._sinks = sinks
        self._bar = tqdm(total=total_steps, initial=start_step, unit="step", dynamic_ncols=True, mininterval=0.5)

    def advance(self, step: int, **shown: Any) -> None:
        """Moves the progress line to `step`, with what is worth seeing beside it."""
        self._bar.set_postfix_str(", ".join(f"{name} {value}" for name, value in shown.items()), refresh=False)
        self._bar.update(step - self._bar.n)

    def write(self, row: dict[str, float | int]) -> None:
        """One row of numbers to every sink."""
        for sink in self._sinks:
            sink.write(row)

    def say(self, line: str) -> None:
        """A line of text above the progress line."""
        self._bar.write(line)

    def close(self) -> None:
        """Ends the line and closes the sinks."""
        self._bar.close()
        for sink in self._sinks:
            sink.close()


def read_metrics(path: Path) -> list[dict[str, float | int]]:
    """The rows of a metrics.jsonl; a last line that a crash cut short is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
