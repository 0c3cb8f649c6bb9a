"""Where a run's numbers go: what arrives, what happens where a sink fails, and what a resumed run drops and keeps."""

import errno
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.events import events

from hvae_jax.report.charts import grid_picture, save_picture
from hvae_jax.training import sinks
from hvae_jax.training.sinks import JsonLines, Reporter, Sink, TensorBoard, Tracker, read_metrics

PICTURE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


class Kept:
    """A sink that keeps what it is given, or raises."""

    def __init__(self, error: Exception | None = None, *, required: bool = False) -> None:
        self.required, self.error, self.calls = required, error, []

    def _take(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def write(self, row: dict[str, float | int]) -> None:
        self._take("write", row)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        self._take("image", name, picture.shape, step)

    def text(self, name: str, text: str, step: int) -> None:
        self._take("text", name, text, step)

    def close(self) -> None:
        self._take("close")


def reporter(*sinks: Sink, **options: Any) -> Reporter:
    return Reporter(list(sinks), 1000, 0, **options)


def test_what_a_person_waits_for_is_shown_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is gone once the line moves."""
    to = reporter()
    to.wait("compiling the training step ...")
    to.close()
    assert "compiling" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    to = reporter()
    to.wait("compiling the training step ...")
    assert "compiling the training step" in capsys.readouterr().err
    to.advance(1000, loss="2.0")
    to.close()
    assert "compiling" not in capsys.readouterr().err


def test_every_sink_gets_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = Kept(), Kept(required=True)
    to = reporter(one, other)
    to.write({"step": 1, "elbo": -2.0})
    to.image("samples", PICTURE, 1)
    to.warn("it is warm", 1234)
    to.close()
    assert one.calls == other.calls
    assert one.calls == [
        ("write", {"step": 1, "elbo": -2.0}),
        ("image", "samples", (4, 5, 3), 1),
        ("text", "warning", "it is warm", 1234),
        ("close",),
    ]
    assert "warning at step 1,234: it is warm" in capsys.readouterr().out
    to.close()
    assert len(one.calls) == 4


def test_a_sink_that_fails_is_said_once_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    broken, sound = Kept(ConnectionError("the network is down")), Kept()
    to = reporter(broken, sound)
    for step in (1, 2, 3):
        to.write({"step": step})
    to.close()
    assert [call[0] for call in broken.calls] == ["write", "close"]
    assert [call[0] for call in sound.calls] == ["write"] * 3 + ["close"]
    assert capsys.readouterr().out.count("Kept failed and is left out from here on (the network is down)") == 1


def test_a_required_sink_that_fails_ends_training() -> None:
    sink = Kept(OSError("full"), required=True)
    to = reporter(sink)
    with pytest.raises(OSError, match="full"):
        to.write({"step": 1})
    sink.error = None
    to.close()
    assert [call[0] for call in sink.calls] == ["write", "close"]


def test_a_silent_reporter(capsys: pytest.CaptureFixture[str]) -> None:
    sink = Kept()
    to = reporter(sink, silent=True, batch_size=8)
    to.write({"step": 1})
    to.advance(5, ELBO="-1")
    to.say("hello")
    to.warn("hello", 1)
    to.close()
    assert sink.calls == [] and capsys.readouterr() == ("", "")


def test_the_line_in_a_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a terminal: whole lines, LOG_SECONDS apart, and the last one at the end."""
    to = reporter(batch_size=64)
    for step in range(100, 1001, 100):
        to.advance(step, ELBO="-80.25")
    to.close()
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("0/1000 steps")
    for part in ("1000/1000 steps", "step/s", "images/s", "ELBO -80.25", "00:00 left"):
        assert part in last
    assert "\r" not in first + last
    monkeypatch.setattr(sinks, "LOG_SECONDS", 0.0)
    to = reporter()
    for step in (10, 20, 30):
        to.advance(step)
    to.close()
    assert len(capsys.readouterr().err.splitlines()) >= 4


def test_the_line_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    to = reporter()
    to.advance(500, ELBO="-80")
    to.close()
    shown = capsys.readouterr().err
    assert "\r" in shown and "ELBO -80" in shown and "step/s" in shown


def test_metrics_are_rows_without_nan(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path, 0)
    for step in (1, 2, 3):
        sink.write({"step": step, "elbo": float("nan") if step == 2 else -1.0})
    sink.image("samples", PICTURE, 3)
    sink.text("warning", "none", 3)
    sink.close()
    with path.open("a") as file:
        file.write('{"step": 4, "el')  # a crash in the middle of a line
    assert [row["elbo"] for row in read_metrics(path)] == [-1.0, None, -1.0]
    JsonLines(path, 2).close()
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


BAD_LINES = [
    b'{"step": 2, "elbo": -1.\xff0}',
    b"not a row",
    b"[1, 2]",
    b'"text"',
    b'{"elbo": -1.0}',
    b'{"step": null, "elbo": -1.0}',
    b'{"step": "2", "elbo": -1.0}',
    b'{"step": 2.5}',
    b'{"step": true}',
    b'{"step": 2, "elbo": "-1.0"}',
    b'{"step": 2, "elbo": {"mean": 1}}',
    b"\0" * 20,
    b"[" * 100_000,
]


@pytest.mark.parametrize("bad", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_costs_no_other(bad: bytes, tmp_path: Path) -> None:
    """It is kept aside as it is, and counted; every other row stays, those after it too."""
    path, aside = tmp_path / "metrics.jsonl", tmp_path / "metrics.rejected.jsonl"
    sound = [f'{{"step": {step}, "elbo": -1.0}}'.encode() for step in (1, 3, 4)]
    path.write_bytes(b"\n".join([sound[0], bad, *sound[1:], b'{"step": 5, "el']))
    with pytest.warns(UserWarning, match="1 line of .*metrics.jsonl left out"):
        assert [row["step"] for row in read_metrics(path)] == [1, 3, 4]
    assert not aside.exists(), "reading changes nothing"
    with pytest.warns(UserWarning, match=r"1 line of .* moved to metrics.rejected.jsonl; the other 3 rows stay"):
        JsonLines(path, 9).close()
    assert aside.read_bytes() == bad + b"\n"
    assert [row["step"] for row in read_metrics(path)] == [1, 3, 4]
    JsonLines(path, 9).close()
    assert aside.read_bytes() == bad + b"\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's full disk")
def test_a_full_disk_ends_training_with_a_way_out(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "metrics.jsonl", 0)
    to = reporter(sink)
    with Path("/dev/full").open("a") as sink._file:
        with pytest.raises(OSError, match=r"metrics.jsonl cannot be written \(No space .* step 7.* the same command"):
            to.write({"step": 7})
        to.close()


def test_tensorboard_has_numbers_pictures_and_texts(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path, 0)
    sink.write({"step": 3, "elbo": -2.5, "rate/z1": float("nan")})
    sink.image("samples", PICTURE, 3)
    sink.text("warning", "it is warm", 4)
    sink.close()
    version, scalars, image, text = events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert [value.tag for value in scalars.summary.value] == ["elbo", "rate/z1"]
    assert scalars.step == 3 and scalars.summary.value[0].simple_value == -2.5
    assert image.summary.value[0].image.width == 5
    assert image.summary.value[0].image.encoded_image_string.startswith(b"\x89PNG")
    assert text.step == 4 and text.summary.value[0].tensor.string_val[0] == b"it is warm"


def test_a_resumed_tensorboard_purges(tmp_path: Path) -> None:
    """Two sittings in one second leave two files, and the second says from which step on the first is void."""
    TensorBoard(tmp_path, 0).close()
    TensorBoard(tmp_path, 16).close()
    assert len(list(tmp_path.glob("events*"))) == 2
    starts = [event.step for event in events(tmp_path) if event.WhichOneof("what") == "session_log"]
    assert starts == [17]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's full disk")
def test_a_full_disk_costs_tensorboard_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "FLUSH_SECONDS", 0.0)
    sink, sound = TensorBoard(tmp_path, 0), Kept()
    to = reporter(sink, sound)
    with Path("/dev/full").open("wb", buffering=0) as sink._file._py_recordio_writer._writer:
        for step in range(100):  # more than SummaryWriter's queue, behind which training would wait for ever
            to.write({"step": step})
        to.close()
    assert len(sound.calls) == 101
    assert capsys.readouterr().out.count("TensorBoard failed and is left out from here on ([Errno 28]") == 1


class Service(types.ModuleType):
    """A stand-in for wandb or trackio: one server with the steps that it has, under each run's id or name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.server: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.started: list[dict[str, Any]] = []
        self.Image = lambda picture: ("image", picture.shape)
        self.alerts: list[str] = []

    def init(self, **options: Any) -> types.SimpleNamespace:
        self.started.append(options)
        rows = self.server.setdefault(options.get("id", options["name"]), [])
        following = rows[-1][0] + 1 if rows else 0
        return types.SimpleNamespace(
            step=following,
            _next_step=following,
            log=lambda data, step: rows.append((step, data)),
            alert=lambda title, text: self.alerts.append(f"{title}: {text}"),
            finish=lambda: None,
        )


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_resumes_its_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at step 48, on from the checkpoint at 32: the same run, its steps rising, nothing sent twice."""
    service = Service(name)
    monkeypatch.setitem(sys.modules, name, service)
    first = Tracker(name, "hvae", "digits", {"seed": 0}, tmp_path)
    for step in (16, 32, 48):
        first.write({"step": step, "elbo": -1.0})
    first.image("samples", PICTURE, 48)
    second = Tracker(name, "hvae", "digits", {"seed": 0}, tmp_path)
    for step in (48, 64):
        second.write({"step": step, "elbo": -1.0})
        second.image("samples", PICTURE, step)
        second.text("warning", "it is warm", step)
    second.close()
    ((run, rows),) = service.server.items()
    assert [step for step, _ in rows] == [16, 32, 48, 48, 64, 64]
    assert rows[0][1] == {"elbo": -1.0} and rows[3][1] == {"samples": ("image", (4, 5, 3))}
    assert service.alerts == ["warning: step 64: it is warm"]
    identity = json.loads((tmp_path / "tracker.json").read_text())["id"]
    assert run == (identity if name == "wandb" else f"digits-{identity}")
    assert all(each["resume"] == "allow" and each["config"] == {"seed": 0} for each in service.started)


def test_another_folder_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service("trackio")
    monkeypatch.setitem(sys.modules, "trackio", service)
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        Tracker("trackio", "hvae", "digits", {}, folder).write({"step": 1})
    assert len(service.server) == 2


def test_a_tracker_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'wandbb' is not known: it is 'wandb' or 'trackio'"):
        Tracker("wandbb", "hvae", "digits", {}, tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="wandb is not installed: pip install wandb"):
        Tracker("wandb", "hvae", "digits", {}, tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))  # a folder of that name
    with pytest.raises(ImportError, match="wandb is not installed: pip install wandb"):
        Tracker("wandb", "hvae", "digits", {}, tmp_path)
    service = Service("wandb")
    monkeypatch.setitem(sys.modules, "wandb", service)

    def refuse(**_: Any) -> None:
        raise OSError(errno.ENETUNREACH, "no network")

    service.init = refuse
    with pytest.raises(ConnectionError, match=r"wandb did not start: .*no network.* WANDB_MODE=offline"):
        Tracker("wandb", "hvae", "digits", {}, tmp_path)


# ---- what the pictures are made with


@pytest.mark.parametrize("event", [(64,), (8, 8), (8, 8, 1), (8, 8, 3)])
def test_a_grid_for_sinks(event: tuple[int, ...], tmp_path: Path) -> None:
    x = np.zeros((5, *event), np.float32)
    x[0], x[1] = 16.0, np.nan
    picture = grid_picture(x, 3, (0.0, 16.0))
    assert picture.shape == (2 * 9 + 1, 3 * 9 + 1, 3) and picture.dtype == np.uint8
    assert (picture[1:9, 1:9] == 255).all() and (picture[1:9, 10:18] == 0).all()
    assert (picture[0] == 255).all()
    save_picture(tmp_path / "grid.png", picture)
    from PIL import Image

    with Image.open(tmp_path / "grid.png") as read:
        np.testing.assert_array_equal(np.asarray(read), picture)
