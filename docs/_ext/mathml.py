"""Formulas as MathML, which browsers draw themselves: no script, no font and no network."""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

_LOG = logging.getLogger(__name__)
_AFTER_FUNCTION = re.compile("(<mi>(?:ln|log|exp)</mi>)(<m(?!o))")  # "ln p" and not "lnp"


def _mathml(self: Any, node: nodes.Element, display: str) -> str:
    latex = node.astext().strip()
    if display == "block" and "\\\\" in latex and "\\begin" not in latex:
        latex = rf"\begin{{aligned}}{latex}\end{{aligned}}"
    try:
        return _AFTER_FUNCTION.sub(r'\1<mspace width="0.17em"/>\2', convert(latex, display=display))
    except Exception as error:  # whatever the parser stumbles over is a mistake in the page
        _LOG.warning("The formula %r is not understood: %s", latex, error, location=node)
        return f"<code>{self.encode(latex)}</code>"


def inline(self: Any, node: nodes.math) -> None:
    """Writes a formula within a line."""
    self.body.append(_mathml(self, node, "inline"))
    raise nodes.SkipNode


def block(self: Any, node: nodes.math_block) -> None:
    """Writes a formula on a line of its own, which scrolls where it is wider than the page."""
    self.body.append(f'<div class="math-block">{_mathml(self, node, "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the renderer."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
