"""Brings the notebooks into the source folder of the site, with links that are right from there."""

import json
from pathlib import Path


def collect(source: Path, target: Path) -> None:
    """Copies the notebooks of a folder, unless nothing changed; a copy whose original is gone is deleted."""
    target.mkdir(exist_ok=True)
    for old in target.glob("*.ipynb"):
        if not (source / old.name).exists():
            old.unlink()
    for path in sorted(source.glob("*.ipynb")):
        text = json.dumps(_for_the_site(json.loads(path.read_text())))
        copy = target / path.name
        if not copy.exists() or copy.read_text() != text:
            copy.write_text(text)


def _for_the_site(notebook: dict) -> dict:
    """The notebook with links relative to docs/notebooks, where ../docs is the parent folder; cells may hold %pip."""
    notebook["metadata"].setdefault("language_info", {})["pygments_lexer"] = "ipython3"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            source = "".join(cell["source"])
            cell["source"] = source.replace("](../docs/", "](../")
    return notebook
