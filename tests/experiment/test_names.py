"""Names of runs: one component of a path, wherever they come from."""

from collections.abc import Callable
from pathlib import Path

import pytest

import hvae_jax as hv
from hvae_jax.cli.script import main
from hvae_jax.experiment import Experiment, settings
from hvae_jax.experiment.names import LONGEST, check_run_name

ODD = {
    "": "is empty",
    " ": "is empty",
    ".": "ends in a space or a dot",
    "..": "ends in a space or a dot",
    "a.": "ends in a space or a dot",
    " a": "begins with a space",
    "a/b": "holds '/'",
    "../../escaped": "holds '/'",
    "/tmp/absolute": "holds '/'",
    "a\\b": r"holds ",
    "C:x": "holds ':'",
    "*": "holds ",
    "\x1b[31mred": r"character '\\x1b'",
    "CON\n": r"character '\\n'",
    "a\0": r"character '\\x00'",
    "txt\u202egnp": r"character '\\u202e'",
    "\udc80": r"character '\\udc80'",
    "CON": "device on Windows",
    "nul.txt": "device on Windows",
    "Lpt1": "device on Windows",
    "é" * (LONGEST // 2 + 1): "bytes of at most 200",
}


@pytest.mark.parametrize("name", ODD)
def test_names_that_are_refused(name: str) -> None:
    """Settings, records and recipes all build an `Experiment`; the error is in ASCII."""
    with pytest.raises(ValueError, match=ODD[name]) as raised:
        Experiment(name, hv.models.TopDownVAE())
    assert str(raised.value).isascii() and len(str(raised.value)) < 250


def test_names_that_are_taken() -> None:
    for name in (
        "a",
        "vdvae_cifar10_C1",
        "beta 0.5, seed 3",
        "größe",
        "数字",
        ".hidden",
        "console",
        "com",
        "a.b-c",
        "é" * 100,
    ):
        check_run_name(name)


def test_a_name_that_is_no_text() -> None:
    with pytest.raises(ValueError, match="is 3, which is no text"):
        check_run_name(3)


@pytest.mark.parametrize("where", ["flag", "recipe", "file"])
def test_nothing_is_written_under_such_a_name(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a flag, from the text of settings.json, and from what a recipe computes."""
    monkeypatch.chdir(tmp_path)
    experiment = Experiment("a", hv.models.TopDownVAE())
    name = "../../escaped"

    def command() -> None:
        main(experiment, ["--name", name])

    def file() -> None:
        data = settings.to_json(experiment)
        data["fields"]["name"] = name
        settings.from_json(data)

    ways: dict[str, Callable[[], object]] = {"flag": command, "recipe": lambda: Experiment(name, experiment.model)}
    with pytest.raises((SystemExit, ValueError)) as raised:
        (ways | {"file": file})[where]()
    said = capsys.readouterr().err + str(raised.value)
    assert "holds '/'" in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())
