"""The notebooks: good to read as they are committed, fit for Colab, and running from top to bottom."""

import ast
import functools
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from support.places import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDS = re.compile(r"^NEEDS, EXTRA = .*$", re.MULTILINE)
PLACES = re.compile(r"(?<![\w.])/(tmp|home|root|work|Users|content|usr|opt)/")
"""Paths of the machine that a notebook was executed on."""

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@functools.cache
def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[str]:
    """Sources of the code cells, without magics."""
    cells = [cell.source for cell in read(path).cells if cell.cell_type == "code"]
    return ["\n".join(line for line in source.splitlines() if not line.startswith("%")) for source in cells]


def test_there_are_eight() -> None:
    assert [path.stem[:3] for path in NOTEBOOKS] == [f"{number:02d}_" for number in range(1, 9)]


@pytest.mark.leg
@every_notebook
def test_reads_well_unexecuted(path: Path) -> None:
    """Every cell was executed in order, without errors or warnings; pictures are there, and paths of a machine not."""
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < 300_000
    assert set(notebook.metadata) == {"colab", "kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info == {"name": "python"}
    assert all(not cell.metadata for cell in notebook.cells)

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert not PLACES.search(path.read_text())


@pytest.mark.leg
@every_notebook
def test_names_exist(path: Path) -> None:
    """Every import of a notebook, and every name that it takes from hvae_jax, is there."""
    for source in code(path):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
            elif isinstance(node, ast.Attribute) and re.fullmatch(r"hv(\.\w+)+", ast.unparse(node)):
                functools.reduce(getattr, ast.unparse(node).split(".")[1:], importlib.import_module("hvae_jax"))


@every_notebook
def test_opens_with_one_question_and_one_way_to_install(path: Path) -> None:
    """A title, then the same cell everywhere, but for what the notebook needs."""
    first, second, *_ = read(path).cells
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert NEEDS.sub("", second.source) == NEEDS.sub("", read(NOTEBOOKS[0]).cells[1].source)
    assert not re.search(r"pip install +['\"]?hvae", "\n".join(code(path)))


def run_first_cell(monkeypatch: pytest.MonkeyPatch, folder: Path, repository: str) -> list[list[str]]:
    """Executes the first cell in a folder as if hvae_jax was not installed; returns the commands of pip."""
    pip, run = [], subprocess.run

    def recorded(command: Any, **settings: Any) -> Any:
        if command[0] != sys.executable:
            return run(command, **settings)
        pip.append(list(command))
        return SimpleNamespace(returncode=0)

    monkeypatch.chdir(folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", recorded)
    exec(code(NOTEBOOKS[0])[0].replace('REPOSITORY = ""', f"REPOSITORY = {repository!r}", 1), {})
    return pip


@pytest.mark.leg
@pytest.mark.parametrize("repository", ["", "no_such_repository"])
def test_stops_with_one_line_where_it_lies_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repository: str
) -> None:
    with pytest.raises(Exception, match=repository or "set REPOSITORY") as caught:
        run_first_cell(monkeypatch, tmp_path, repository)
    (line,) = caught.value._render_traceback_()  # what IPython shows
    assert line.startswith("Stopped: ")
    assert "\n" not in line


def test_installs_from_a_clone_or_the_checkout_around_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Never by a name that a package index would look up."""
    (checkout := tmp_path / "origin" / "hvae_jax").mkdir(parents=True)
    (checkout / "__init__.py").touch()
    (inside := tmp_path / "origin" / "notebooks").mkdir()
    ((command),) = run_first_cell(monkeypatch, inside, "")
    assert Path(command[-1]) == tmp_path / "origin"

    git = ["git", "-C", str(tmp_path / "origin"), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "One"]):
        subprocess.run([*git, *words], check=True)
    (alone := tmp_path / "alone").mkdir()
    ((command),) = run_first_cell(monkeypatch, alone, str(tmp_path / "origin"))
    assert Path(command[-1]) == alone / "hvae_jax_checkout"
    assert (alone / "hvae_jax_checkout" / "hvae_jax" / "__init__.py").exists()


@pytest.mark.slow
@every_notebook
def test_runs(path: Path) -> None:
    """Every cell of a notebook runs in a fresh kernel, its checks hold, and it shows as many pictures as committed."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    pictures = str(notebook).count("image/png")
    # Pictures inline, and XLA as it is: as for a reader.
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "XLA_FLAGS")}
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=path.parent, env=environment)
    assert str(notebook).count("image/png") == pictures
