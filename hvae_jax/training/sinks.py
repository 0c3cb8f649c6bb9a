"""Where a run's numbers go while it runs: a progress line, metrics.jsonl, TensorBoard, Weights & Biases or trackio."""

import contextlib
import importlib
import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

FLUSH_SECONDS = 20.0
"""From one write of TensorBoard's file to the disk to the next."""

LOG_SECONDS = 30.0
"""From one progress line to the next where it cannot be redrawn, because it goes into a file."""


class Sink(Protocol):
    """Anything that takes rows of numbers, pictures and lines of text.

    Attributes:
      required: whether training ends where the sink fails; any other is dropped, and training goes on.
    """

    required: bool

    def write(self, row: dict[str, float | int]) -> None:
        """One row; `row["step"]` is where it belongs."""
        ...

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """A picture `[H, W, 3]` uint8."""
        ...

    def text(self, name: str, text: str, step: int) -> None:
        """A line of text, such as a warning."""
        ...

    def close(self) -> None:
        """Lets go."""
        ...


class JsonLines:
    """metrics.jsonl: one JSON object a row, nan and infinities as null. A resumed run drops the rows it will repeat.

    It is the run's record, from which its curves and warnings are made again, and lies beside the checkpoints: where
    it cannot be written they cannot either. So it is required.
    """

    required = True

    def __init__(self, path: Path, resume_step: int) -> None:
        rows = read_metrics(path) if path.exists() else []
        kept = [row for row in rows if row["step"] <= resume_step]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(path)
        self._path, self._file = path, path.open("a")

    def write(self, row: dict[str, float | int]) -> None:
        """One line, handed to the system at once. Raises OSError where the disk is full or gone."""
        finite = {name: value if np.isfinite(value) else None for name, value in row.items()}
        try:
            self._file.write(json.dumps(finite) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(
                f"{self._path} cannot be written ({error.strerror}), so training stops at step {row['step']}. Once "
                "there is room, the same command goes on from the last checkpoint."
            ) from error

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Not here."""

    def text(self, name: str, text: str, step: int) -> None:
        """Not here."""

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):  # what could not be written has been said
            self._file.close()


class TensorBoard:
    """Event files; what an interrupted run wrote past the resumed step is purged.

    Written in this thread. The thread of tensorboardX's own SummaryWriter dies on a full disk, and the queue before
    it then blocks training for ever.
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
        if resume_step:
            self._write(resume_step + 1, file_version="brain.Event:2")
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            self._write(resume_step + 1, session_log=start)

    def write(self, row: dict[str, float | int]) -> None:
        """One scalar a number."""
        value = self._summary.Value
        scalars = [value(tag=name, simple_value=float(number)) for name, number in row.items() if name != "step"]
        self._write(int(row["step"]), summary=self._summary(value=scalars))

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """A picture `[H, W, 3]` uint8."""
        from tensorboardX import summary

        self._write(step, summary=summary.image(name, picture, dataformats="HWC"))

    def text(self, name: str, text: str, step: int) -> None:
        """A line under the tab for texts."""
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
    """A run at Weights & Biases or trackio, which share one API; wanted by name, and never otherwise.

    A resumed run goes on in the same one: its id is kept in tracker.json in the run folder. Both want steps that
    rise, so rows they have are not sent again (wandb offline does not know what it has). Account, server and offline
    mode are the service's own settings, by its environment (WANDB_MODE=offline, WANDB_ENTITY, TRACKIO_DIR,
    TRACKIO_SPACE_ID, ...).

    Args:
      service: "wandb" or "trackio".
      project: what the service groups runs by.
      name: the run's, as shown.
      config: settings as JSON.
      folder: the run folder.
    Raises ValueError for another service, ImportError where it is not installed and ConnectionError where it does
    not start (no account, no network).
    """

    required = False

    def __init__(self, service: str, project: str, name: str, config: dict[str, Any], folder: Path) -> None:
        if service not in ("wandb", "trackio"):
            raise ValueError(f"The tracker {service!r} is not known: it is 'wandb' or 'trackio'.")
        try:
            self._service: Any = importlib.import_module(service)
            self._service.init  # noqa: B018  a folder "wandb", such as wandb itself leaves, passes for an empty module
        except (ImportError, AttributeError) as error:
            raise ImportError(f"{service} is not installed: pip install 'hvae-jax[{service}]'") from error
        path = folder / "tracker.json"
        if path.exists():
            identity = json.loads(path.read_text())["id"]
        else:
            identity = secrets.token_hex(4)
            path.write_text(json.dumps({"id": identity}))
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
        """One entry."""
        step = int(row["step"])
        if step >= self._next:
            self._run.log({name: value for name, value in row.items() if name != "step"}, step=step)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """A picture `[H, W, 3]` uint8."""
        if step >= self._next:
            self._run.log({name: self._service.Image(picture)}, step=step)

    def text(self, name: str, text: str, step: int) -> None:
        """An alert, which the service can send on."""
        if step >= self._next:
            self._run.alert(title=name, text=f"step {step}: {text}")

    def close(self) -> None:
        """Sends what is left."""
        self._run.finish()


class Reporter:
    """The progress line, and every sink behind one `write`.

    The line has steps per second, images per second and the time left. Where it goes into a file or a pipe rather
    than a terminal or a notebook it is printed anew every LOG_SECONDS instead of redrawn.

    Args:
      sinks: where rows, pictures and texts go. One that fails is said once and dropped, unless it is required.
      total_steps: of the whole run.
      start_step: of this sitting.
      batch_size: examples a step; None leaves out images per second.
      silent: says and writes nothing: for the processes of a run other than the first.
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
        if not redrawn:
            line = "{n_fmt}/{total_fmt} steps, {elapsed} gone, {remaining} left, {rate_fmt}{postfix}"
            look = {"file": _Lines(sys.stderr), "mininterval": LOG_SECONDS, "miniters": 1, "bar_format": line}
        self._sinks = [] if silent else list(sinks)
        self._silent, self._batch_size = silent, batch_size
        self._bar = tqdm(total=total_steps, initial=start_step, unit="step", disable=silent, **look)

    def advance(self, step: int, **shown: Any) -> None:
        """Moves the progress line to `step`, with what is worth seeing beside it."""
        if self._silent:
            return
        parts = [f"{name} {value}" for name, value in shown.items()]
        if self._batch_size is not None:
            state = self._bar.format_dict
            rate = state["rate"] or (step - state["initial"]) / max(state["elapsed"], 1e-9)
            parts.insert(0, f"{rate * self._batch_size:,.0f} images/s")
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(step - self._bar.n)

    def write(self, row: dict[str, float | int]) -> None:
        """One row of numbers to every sink. Raises OSError where metrics.jsonl cannot be written."""
        self._each("write", row)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """A picture `[H, W, 3]` uint8 to every sink that takes pictures."""
        self._each("image", name, picture, step)

    def warn(self, sentence: str, step: int) -> None:
        """A warning above the progress line, and to every sink that takes texts."""
        self.say(f"warning at step {step:,}: {sentence}")
        self._each("text", "warning", sentence, step)

    def say(self, line: str) -> None:
        """A line of text above the progress line."""
        if not self._silent:
            self._bar.write(line)

    def close(self) -> None:
        """Ends the line and closes the sinks; a second time nothing."""
        self._bar.close()
        self._each("close")
        self._sinks = []

    def _each(self, method: str, *arguments: Any) -> None:
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
    """A file on which the line that tqdm redraws becomes a line each time."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Drops what moves the cursor."""
        if line := text.strip():
            self._file.write(line + "\n")

    def flush(self) -> None:
        """Passes it on."""
        self._file.flush()


def read_metrics(path: Path) -> list[dict[str, float | int]]:
    """The rows of a metrics.jsonl; a last line that a crash cut short is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
