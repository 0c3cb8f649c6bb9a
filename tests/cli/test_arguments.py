"""Arguments that commands share."""

from pathlib import Path

import pytest
from support.small_weights import Said, what_fails

from hvae_jax.cli.main import COMMANDS, main

said = pytest.fixture(what_fails)
ON_RUNS = ("evaluate", "sample", "reconstruct", "show", "diagnose", "export")


@pytest.mark.parametrize("command", ON_RUNS)
def test_every_command_on_a_run_takes_import(command: str, tmp_path: Path, said: Said) -> None:
    """The flag parses, and the folder is what is wrong."""
    assert command in COMMANDS
    assert "no run" in said(command, str(tmp_path), "--import", "mine", "other")


@pytest.mark.parametrize("command", ["evaluate", "sample", "reconstruct", "diagnose"])
def test_out_is_a_file_in_a_folder(command: str, tmp_path: Path, said: Said) -> None:
    """Said before anything is read or computed."""
    assert f"--out {tmp_path} is a folder: give the name" in said(command, "nowhere", "--out", str(tmp_path))
    out = tmp_path / "a" / "b.png"
    assert f"there is no folder {out.parent}" in said(command, "nowhere", "--out", str(out))


def test_a_file_in_the_place_of_a_run(tmp_path: Path, said: Said) -> None:
    (tmp_path / "x.npz").write_text("")
    for command in ON_RUNS:
        assert "holds no run" in said(command, str(tmp_path / "x.npz"))


def test_what_a_result_holds_is_shown_and_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported = '{"code": "\\u001b[2J", "file": "x", "kind": "y", "sha256": "z", "likelihood": "l", "data": "d"}'
    (tmp_path / "result.json").write_text(f'{{"parameters": 3, "imported": {imported}}}')
    main(["show", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "\\x1b[2J" in shown and "\x1b" not in shown
