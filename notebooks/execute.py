"""Executes notebooks in place, as they are committed: with outputs, and with nothing that tells of the machine.

    make notebooks                             # all of them
    make notebooks ARGS="02 07"                # those that begin with these
    python notebooks/execute.py 02 --keep-going  # past cells that fail

Each runs in a fresh kernel, on the CPU. Standard error, where progress goes, is printed here and left out there.
Pictures are reduced to 128 colours, which makes them a third as large.
"""

import argparse
import base64
import io
import os
import resource
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
METADATA = {
    "colab": {"provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def reduced(png: str) -> str:
    """A picture in base64 with 128 colours; the picture itself if that is smaller."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return min(base64.b64encode(buffer.getvalue()).decode(), png.replace("\n", ""), key=len)


def cleaned(outputs: list[Any]) -> list[Any]:
    """The outputs of a cell without standard error and progress bars, and with reduced pictures."""
    kept = []
    for output in outputs:
        data = output.get("data", {})
        if output.get("name") == "stderr":
            print(output.text, file=sys.stderr)
        elif not any("widget" in kind for kind in data):
            if "image/png" in data:
                output.data = {"image/png": reduced(data["image/png"]), "text/plain": "<picture>"}
            kept.append(output)
    return kept


def execute(path: Path, keep_going: bool) -> float:
    """Executes a notebook and writes it; returns processor seconds of its kernel."""
    notebook = nbformat.read(path, as_version=4)
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"} | {"JAX_PLATFORMS": "cpu"}
    settings = {"timeout": 3600, "record_timing": False, "allow_errors": keep_going, "coalesce_streams": True}
    client = NotebookClient(notebook, kernel_name="python3", **settings)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    client.execute(cwd=str(path.parent), env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    notebook.metadata = METADATA
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02d}", {}
        if cell.cell_type == "code":
            cell.outputs = cleaned(cell.outputs)
    nbformat.write(notebook, path)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Executes the notebooks that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", help="beginnings of their names; all without any")
    parser.add_argument("--keep-going", action="store_true", help="run the cells after one that failed")
    given = parser.parse_args()
    found = sorted(path for path in HERE.glob("*.ipynb") if path.name.startswith(tuple(given.numbers) or ""))
    if not found:
        sys.exit(f"No notebook begins with {' or '.join(given.numbers)}.")
    for path in found:
        seconds = execute(path, given.keep_going)
        print(f"{path.name}: {seconds:.0f} s of processor time, {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
