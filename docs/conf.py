"""Settings of the site: Sphinx, the theme furo, Markdown and notebooks by myst-nb. `make docs` builds it.

Nothing is fetched: formulas are MathML, the search is Sphinx's own, and no page asks another host for a file.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hvae_jax
import notebooks

project = "hvae_jax"
author = "The hvae_jax authors"
copyright = author
version = release = hvae_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "mathml",
    "prose",
    "rooms",
    "signatures",
    "tables",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
default_role = "py:obj"
highlight_language = "default"

myst_enable_extensions = ["dollarmath", "attrs_block"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
nb_execution_mode = "off"  # the outputs are committed; tests/test_notebooks.py runs them
nb_number_source_lines = False
notebooks.collect(HERE.parent / "notebooks", HERE / "notebooks")

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]

html_theme = "furo"
html_title = "hvae_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_sphinx = False
html_copy_source = False
html_baseurl = ""
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
