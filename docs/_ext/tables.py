"""Numbers that stay on one line in tables: "94.84 ± 1.47", "3.6 to 4.0", "40.7 %"."""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

_WITHIN = re.compile(r"(?<=\d) (±|to) (?=[\d.])|(?<=\d) (?=%)")


def _keep_together(app: Sphinx, doctree: nodes.document) -> None:
    """Puts no-break spaces into numbers of table cells."""
    for entry in doctree.findall(nodes.entry):
        for text in list(entry.findall(nodes.Text)):
            kept = _WITHIN.sub(lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), text.astext())
            if kept != text.astext():
                text.parent.replace(text, nodes.Text(kept))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the change."""
    app.connect("doctree-read", _keep_together)
    return {"parallel_read_safe": True}
