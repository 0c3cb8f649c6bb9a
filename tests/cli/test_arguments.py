"""Arguments that commands share."""

from pathlib import Path

import pytest
from support.small_weights import Said, what_fails

from hvae_jax.cli.main import COMMANDS, main

said = pytest.fixture(what_fails)
ON_RUNS = ("evaluate", "sample", "reconstruct", "encode", "score", "show", "diagnose", "export")


@pytest.mark.parametrize("command", ON_RUNS)
def test_every_command_on_a_run_takes_import(command: str, tmp_path: Path) -> None:
    """The folder is what is wrong; a file in its place is no run either."""
    (tmp_path / "x.npz").write_text("")
    for run in (tmp_path, tmp_path / "x.npz"):
        with pytest.raises(FileNotFoundError, match=r"holds no run|the folder of a run is needed"):
            COMMANDS[command](run=run, import_=("mine", "other"))()


def test_the_flag(tmp_path: Path, said: Said) -> None:
    assert "no run" in said("show", str(tmp_path), "--import", "mine", "other")


@pytest.mark.parametrize("command", ["evaluate", "sample", "reconstruct", "encode", "score", "diagnose"])
def test_out_is_a_file_in_a_folder(command: str, tmp_path: Path) -> None:
    """Said before anything is read or computed."""
    with pytest.raises(ValueError, match=r"--out .* is a folder: give the name"):
        COMMANDS[command](run=tmp_path, out=tmp_path)()
    with pytest.raises(ValueError, match=r"--out .*: there is no folder"):
        COMMANDS[command](run=tmp_path, out=tmp_path / "a" / "b.png")()


def test_what_a_result_holds_is_shown_and_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported = '{"code": "\\u001b[2J", "file": "x", "kind": "y", "sha256": "z", "likelihood": "l", "data": "d"}'
    (tmp_path / "result.json").write_text(f'{{"parameters": 3, "imported": {imported}}}')
    main(["show", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "\\x1b[2J" in shown and "\x1b" not in shown
