"""Files written whole, in UTF-8, by one function."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hvae_jax.runtime.files import replacing, write_whole

pytestmark = pytest.mark.leg

PACKAGE = Path(__file__).parents[2] / "hvae_jax"
_OF_THE_SYSTEM = ("/proc/", "root / ", "boot.", "status.", "table.")  # numbers and names of the kernel's


def test_an_error_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_whole(path, "before")
    with pytest.raises(UnicodeEncodeError), replacing(path) as partial:
        partial.write_text("\ud800", encoding="utf-8")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_no_folder_behind(tmp_path: Path) -> None:
    """Neither the new one nor half of it, as of a packed model."""

    def half() -> None:
        with replacing(tmp_path / "model") as partial:
            (partial / "deep").mkdir(parents=True)
            (partial / "deep" / "weights").write_bytes(b"1")
            raise OSError("The disk is full.")

    with pytest.raises(OSError, match="full"):
        half()
    assert not list(tmp_path.iterdir())


def test_texts_are_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    """In a process without UTF-8; it loads this one file of the package alone."""
    program = """
import importlib.util, locale, pathlib, sys
spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
assert locale.getpreferredencoding(False).upper() not in ("UTF-8", "UTF8")
files.write_whole(pathlib.Path(sys.argv[2]), "\\u00b1 \\u4e2d")
"""
    file = PACKAGE / "runtime" / "files.py"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", program, str(file), str(tmp_path / "text")]
    subprocess.run(command, check=True, env=environment)
    assert (tmp_path / "text").read_bytes() == "± 中".encode()


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_texts_are_written_whole_and_in_utf_8(file: Path) -> None:
    """`write_text` is called by `write_whole` alone, and a text file that is opened to be written has an encoding.

    So has one that is read, but for those of the system.
    """
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        writes = name == "open" and any(
            isinstance(mode, str) and set(mode) <= set("rwax+t") and set(mode) & set("wax+") for mode in modes
        )
        encoded = any(keyword.arg == "encoding" for keyword in node.keywords)
        ours = not any(name in ast.unparse(node) for name in _OF_THE_SYSTEM)
        assert encoded or not ours or name not in ("read_text", "TemporaryFile"), f"{file}:{node.lineno}: encoding?"
        assert name != "write_text" or file.name == "files.py", f"{file}:{node.lineno}: use files.write_whole"
        assert encoded or not writes, f"{file}:{node.lineno}: give encoding='utf-8'"
