"""The notebooks run from top to bottom."""

from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path) -> None:
    """Every cell of a notebook runs, in a fresh kernel, and at least three pictures are shown."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "notebooks are committed without outputs"
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=path.parent)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "image/png" in str(output)]
    assert len(shown) >= 3
