"""How Sphinx builds the manual: `sphinx-build -W -b html docs docs/_build`. Nothing is fetched from the network."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))  # for manual_tables

project = "torch-optimization-toolkit"
version = release = version_of(project)
author = f"the authors of {project}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "manual_tables"]
exclude_patterns = ["_build"]
# Public docstrings are read in a terminal more often than here: single backticks are code in them.
default_role = "code"
smartquotes = False  # the quotes around values are those of TOML
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
add_module_names = False
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
pygments_style = "friendly"
html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["manual.css"]
html_show_copyright = html_copy_source = html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.connect("autodoc-process-signature", _shown_signature)


def _shown_signature(_: Sphinx, what: str, *about: Any) -> tuple[str, str] | None:
    """Classes without the arguments of their constructors: results are read, and the texts name the fields."""
    signature = about[3]
    return ("", "") if what in ("class", "exception") and signature else None
