"""Sinks of a run's numbers and pictures: metrics.jsonl, TensorBoard, Weights & Biases, trackio; the progress line."""

import contextlib
import importlib
import json
import secrets
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from hvae_jax.runtime.files import write_whole
from hvae_jax.runtime.texts import printable
from hvae_jax.training.causes import remedy

FLUSH_SECONDS = 20.0
"""Seconds between flushes of TensorBoard's file."""

LOG_SECONDS = 30.0
"""Seconds between progress lines that cannot be redrawn, because they go into a file."""


class Sink(Protocol):
    """Anything that takes rows of numbers, pictures and lines of text.

    Attributes:
      required: whether training ends if the sink fails; a sink that is not required is dropped.
    """

    required: bool

    def write(self, row: dict[str, float | int]) -> None:
        """Takes one row, of step `row["step"]`."""
        ...

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Takes a picture `[H, W, 3]` uint8."""
        ...

    def text(self, name: str, text: str, step: int) -> None:
        """Takes a line of text, such as a warning."""
        ...

    def close(self) -> None:
        """Releases files and connections."""
        ...


class JsonLines:
    """metrics.jsonl: one JSON object a row, with nan and infinities as null.

    It is the run's record, from which curves and warnings are made again, and lies beside the checkpoints: if it cannot
    be written, neither can they, so it is required.

    Lines that are no rows go to metrics.rejected.jsonl beside it, as they are, and a warning counts them.

    Args:
      path: the file.
      resume_step: step the run starts at; later rows are dropped, since the run will repeat them.
    """

    required = True

    def __init__(self, path: Path, resume_step: int) -> None:
        rows, rejected = _rows_of(path) if path.exists() else ([], [])
        if rejected:
            aside = path.with_name(f"{path.stem}.rejected{path.suffix}")
            with aside.open("ab") as file:
                file.writelines(line + b"\n" for line in rejected)
            warnings.warn(
                f"{_counted(rejected)} of {path} {'is no row' if len(rejected) == 1 else 'are no rows'} of metrics and "
                f"moved to {aside.name}; the other {len(rows):,} rows stay.",
                stacklevel=2,
            )
        kept = [row for row in rows if row["step"] <= resume_step]
        write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._path, self._file = path, path.open("a", encoding="utf-8")

    def write(self, row: dict[str, float | int]) -> None:
        """Writes one line and flushes it. Raises OSError if the disk is full or gone."""
        finite = {name: value if np.isfinite(value) else None for name, value in row.items()}
        try:
            self._file.write(json.dumps(finite) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(
                f"{self._path} cannot be written ({error.strerror}), so training stops at step {row['step']}. "
                f"{remedy(error, self._path.parent)}, and start the same command again: it goes on from the last "
                "checkpoint."
            ) from error

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Ignores it."""

    def text(self, name: str, text: str, step: int) -> None:
        """Ignores it."""

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):  # closing flushes; `write` has already raised for a full disk
            self._file.close()


class TensorBoard:
    """TensorBoard's event files, written in this thread.

    The thread of tensorboardX's own SummaryWriter dies on a full disk, and its queue then blocks training for ever.

    Args:
      folder: where the event files go.
      resume_step: step the run starts at; TensorBoard purges what an interrupted run wrote after it.
    """

    required = False

    def __init__(self, folder: Path, resume_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        self._event: Any = importlib.import_module("tensorboardX.proto.event_pb2")  # generated, unknown to checkers
        self._summary: Any = importlib.import_module("tensorboardX.proto.summary_pb2").Summary
        folder.mkdir(parents=True, exist_ok=True)
        self._flushed = -FLUSH_SECONDS
        # The name ends in a time of whole seconds: two sittings within one would share it without the random word.
        self._file = EventsWriter(str(folder / "events"), f".{secrets.token_hex(4)}")
        # A version and a start of a session at a step make TensorBoard purge what other files have from there on.
        if resume_step:
            self._write(resume_step + 1, file_version="brain.Event:2")
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            self._write(resume_step + 1, session_log=start)

    def write(self, row: dict[str, float | int]) -> None:
        """Writes a scalar for each number."""
        value = self._summary.Value
        scalars = [value(tag=name, simple_value=float(number)) for name, number in row.items() if name != "step"]
        self._write(int(row["step"]), summary=self._summary(value=scalars))

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Writes a picture `[H, W, 3]` uint8."""
        from tensorboardX import summary

        self._write(step, summary=summary.image(name, picture, dataformats="HWC"))

    def text(self, name: str, text: str, step: int) -> None:
        """Writes a line to the tab for texts."""
        from tensorboardX import summary

        self._write(step, summary=summary.text(name, text))

    def close(self) -> None:
        """Closes the event file."""
        self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        self._file.write_event(self._event.Event(step=step, wall_time=time.time(), **content))
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()


class Tracker:
    """A run at Weights & Biases or trackio, which share one API; used only when asked for by name.

    A resumed run goes on in the same one, whose id tracker.json in the run folder keeps. Both services want rising
    steps, so rows that they already have are not sent again (wandb offline does not know which those are). Account,
    server and offline mode are the service's own environment variables (WANDB_MODE=offline, WANDB_ENTITY, TRACKIO_DIR,
    TRACKIO_SPACE_ID, ...).

    Args:
      service: "wandb" or "trackio".
      project: name by which the service groups runs.
      name: name of the run, as shown.
      config: settings as JSON.
      folder: the run folder.
    Raises ValueError for another service, ImportError if it is not installed, and ConnectionError if it does not start
    (no account, no network).
    """

    required = False

    def __init__(self, service: str, project: str, name: str, config: dict[str, Any], folder: Path) -> None:
        if service not in ("wandb", "trackio"):
            raise ValueError(f"The tracker {service!r} is not known: it is 'wandb' or 'trackio'.")
        try:
            self._service: Any = importlib.import_module(service)
            self._service.init  # noqa: B018  a folder "wandb", such as wandb itself leaves, passes for an empty module
        except (ImportError, AttributeError) as error:
            raise ImportError(f"{service} is not installed: pip install {service}") from error
        # An id of our own rather than the service's, so that it is known before anything is sent.
        path = folder / "tracker.json"
        if path.exists():
            identity = json.loads(path.read_text(encoding="utf-8"))["id"]
        else:
            identity = secrets.token_hex(4)
            write_whole(path, json.dumps({"id": identity}))
        options: dict[str, Any] = {"name": name, "id": identity, "dir": str(folder)}
        if service == "trackio":  # it resumes by name
            options = {"name": f"{name}-{identity}"}
        try:
            self._run = self._service.init(project=project, config=config, resume="allow", **options)
            self._next = int(self._run.step if service == "wandb" else self._run._next_step)
        except Exception as error:
            offline = " With WANDB_MODE=offline the run stays in its folder, and `wandb sync` sends it later."
            way_out = offline if service == "wandb" else ""
            raise ConnectionError(f"{service} did not start: {str(error).rstrip('. ')}.{way_out}") from error

    def write(self, row: dict[str, float | int]) -> None:
        """Sends one row."""
        step = int(row["step"])
        if step >= self._next:
            self._run.log({name: value for name, value in row.items() if name != "step"}, step=step)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Sends a picture `[H, W, 3]` uint8."""
        if step >= self._next:
            self._run.log({name: self._service.Image(picture)}, step=step)

    def text(self, name: str, text: str, step: int) -> None:
        """Sends an alert, which the service can forward."""
        if step >= self._next:
            self._run.alert(title=name, text=f"step {step}: {text}")

    def close(self) -> None:
        """Sends what is left."""
        self._run.finish()


class Reporter:
    """The progress line, and all sinks behind one `write`.

    The line shows steps per second, images per second and the time left. In a terminal or a notebook it is redrawn; in
    a file or a pipe it is printed every LOG_SECONDS.

    Args:
      sinks: take rows, pictures and texts. One that fails is dropped with a warning, unless it is required.
      total_steps: steps of the whole run.
      start_step: step that this sitting starts at.
      batch_size: examples per step; None leaves out images per second.
      silent: write nothing, for all processes of a run but the first.
    """

    def __init__(
        self,
        sinks: list[Sink],
        total_steps: int,
        start_step: int,
        *,
        batch_size: int | None = None,
        silent: bool = False,
    ) -> None:
        from tqdm.asyncio import tqdm_asyncio
        from tqdm.auto import tqdm

        redrawn = tqdm is not tqdm_asyncio or sys.stderr.isatty()  # tqdm.auto is another class in a notebook
        look: dict[str, Any] = {"dynamic_ncols": True, "mininterval": 0.5}
        # tqdm's own line is moved by carriage returns, which make one endless line of a log.
        if not redrawn:
            line = "{n_fmt}/{total_fmt} steps, {elapsed} gone, {remaining} left, {rate_fmt}{postfix}"
            look = {"file": _Lines(sys.stderr), "mininterval": LOG_SECONDS, "miniters": 1, "bar_format": line}
        self._sinks = [] if silent else list(sinks)
        self._silent, self._batch_size, self._redrawn = silent, batch_size, redrawn
        self._bar = tqdm(total=total_steps, initial=start_step, unit="step", disable=silent, **look)

    def advance(self, step: int, **shown: Any) -> None:
        """Moves the progress line to `step`; `shown` is what it shows beside the rates."""
        if self._silent:
            return
        parts = [f"{name} {value}" for name, value in shown.items()]
        if self._batch_size is not None:
            # tqdm knows no rate before its second update.
            state = self._bar.format_dict
            rate = state["rate"] or (step - state["initial"]) / max(state["elapsed"], 1e-9)
            parts.insert(0, f"{rate * self._batch_size:,.0f} images/s")
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(step - self._bar.n)

    def wait(self, what: str) -> None:
        """Shows what the progress line waits for, until it next moves; in a file or a pipe, nothing."""
        if self._redrawn:
            self._bar.set_postfix_str(what, refresh=True)

    def write(self, row: dict[str, float | int]) -> None:
        """Writes one row of numbers to every sink. Raises OSError if metrics.jsonl cannot be written."""
        self._each("write", row)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Hands a picture `[H, W, 3]` uint8 to every sink."""
        self._each("image", name, picture, step)

    def warn(self, sentence: str, step: int) -> None:
        """Prints a warning above the progress line, and hands it to every sink."""
        self.say(f"warning at step {step:,}: {sentence}")
        self._each("text", "warning", sentence, step)

    def say(self, line: str) -> None:
        """Prints a line of text above the progress line."""
        if not self._silent:
            self._bar.write(printable(line))

    def close(self) -> None:
        """Ends the progress line and closes the sinks; a second call does nothing."""
        self._bar.close()
        self._each("close")
        self._sinks = []

    def _each(self, method: str, *arguments: Any) -> None:
        # A copy, since a sink that fails is removed on the way.
        for sink in list(self._sinks):
            try:
                getattr(sink, method)(*arguments)
            except Exception as error:
                if sink.required:
                    raise
                self._sinks.remove(sink)
                self.say(f"warning: {type(sink).__name__} failed and is left out from here on ({error}).")
                with contextlib.suppress(Exception):
                    sink.close()


class _Lines:
    """A file in which every state of the line that tqdm redraws is a line of its own."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Writes the text without what moves the cursor."""
        if line := text.strip():
            self._file.write(line + "\n")

    def flush(self) -> None:
        """Flushes the file."""
        self._file.flush()


def read_metrics(path: Path) -> list[dict[str, float | int]]:
    """The rows of a metrics.jsonl; a warning counts lines that are no rows.

    A last line that a crash cut short is left out without a word, since the run repeats it.
    """
    rows, rejected = _rows_of(path)
    if rejected:
        warnings.warn(
            f"{_counted(rejected)} of {path} left out, since no row of metrics can be read there.", stacklevel=2
        )
    return rows


def _rows_of(path: Path) -> tuple[list[dict[str, float | int]], list[bytes]]:
    """The rows of a file, and the lines that are none."""
    rows, rejected = [], []
    *lines, last = path.read_bytes().split(b"\n")
    for line in lines:
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif line.strip():
            rejected.append(line)
    # Each row ends in a line feed: without one it was not written to its end.
    return rows + [row for row in (_row(last),) if row is not None], rejected


def _row(line: bytes) -> dict[str, float | int] | None:
    """The row on a line: an object of numbers and nulls with a step; None if it is anything else."""
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    return row if all(value is None or type(value) in (int, float) for value in row.values()) else None


def _counted(lines: list[bytes]) -> str:
    return "1 line" if len(lines) == 1 else f"{len(lines):,} lines"
